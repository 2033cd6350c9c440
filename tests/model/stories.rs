//! Stories that chance found, made short and kept: the generator will change, these will not. Below them are the
//! limits: whoever mends one is told by a test that does not panic any more.

use crate::compare::tell;
use crate::script::read;

fn check(text: &str) {
    if let Err(wrong) = tell(&read(text)) {
        panic!("{wrong}\n{text}");
    }
}

#[test]
fn settings_travel_and_are_nobody_elses() {
    check(
        "servers=1
        0: Q set work_mem to '2MB'
        1: Q select current_setting('work_mem')
        0: Q select current_setting('work_mem')
        0: Q begin
        0: Q set timezone to 'Etc/GMT+1'
        0: Q rollback
        1: Q show timezone",
    );
}

#[test]
fn a_client_without_an_application_name_finds_none() {
    check(
        "servers=1 client=0,application_name=two client=0
        0: Q select 1
        1: Q select current_setting('application_name')",
    );
}

#[test]
fn a_reset_goes_back_to_the_clients_own_beginning() {
    check(
        "servers=1 client=0,application_name=one client=0,application_name=two
        0: Q select 1
        1~ Q select 1
        1: Q reset all
        1: Q show application_name
        0: Q discard all",
    );
}

#[test]
fn a_custom_setting_of_a_transaction_is_known_when_its_statement_runs_later() {
    check(
        "servers=1
        0: P b set local app.x to 'v2' / S
        0: B - b / E - 0 / S
        1: Q select current_setting('app.x', true)
        0: P - set local app.y to 'v2' / S
        0: B - - / E - 0 / S
        1: Q select current_setting('app.y', true)",
    );
}

#[test]
fn the_end_of_a_copy_may_be_sent_before_it_begins() {
    check(
        "servers=1
        0: P - copy public.log_0 from stdin / B - - / E - 0 / d 1 / f / S
        0: P - copy public.log_0 from stdin / B - - / E - 0 / S / d 1 / c / S
        0: Q copy public.log_0 from stdin / S / d 1 / c
        0: Q copy public.log_0 from stdin / d x / c
        0: Q copy public.log_0 from stdin / c / Q select 1
        0: Q select count(*) from public.log_0",
    );
}

#[test]
fn a_copy_that_its_client_leaves_is_ended_by_the_server() {
    check("servers=1\n0: Q copy public.log_0 from stdin / d 1 / X\n1: Q select count(*) from public.log_0");
    check("servers=1\n0: P - copy public.log_0 from stdin / B - - / E - 0 / d 1 / !\n1: Q select 1");
}

#[test]
fn what_a_client_never_synced_is_not_done() {
    check("servers=1\n0: P - insert into public.log_0 values (1) / B - - / E - 0 / X\n1: Q select 1");
    check("servers=1\n0: P - insert into public.log_0 values (1) / B - - / E - 0 / H / !\n1: Q select 1");
    check("servers=1\n0, P - insert into public.log_0 values (1) / B - - / E - 0 / S / !\n1: Q select 1");
}

#[test]
fn names_are_gone_behind_a_discard_or_deallocate_of_the_same_batch() {
    check(
        "servers=1
        0: P a discard all / B - a / E - 0
        0: B - a / S
        0: P a select 1 / S
        0: P - deallocate a / B - - / E - 0 / B - a / S
        0: P a select 2 / S
        0~ Q deallocate all
        0: P a select 3 / B - a / E - 0 / S
        0~ Q deallocate all
        0: Q execute a",
    );
}

#[test]
fn nothing_is_waited_for_that_will_not_come() {
    check("servers=1\n0: P - deallocate a / B - - / P a select 1 / B - a / E - 0 / S");
    check("servers=1\n0: P a select 1 / S\n0: P - deallocate a / B p - / B - a / E - 0 / S");
    check("servers=1\n0: P a select 1 / S\n0~ Q select 1/0; deallocate a\n0: B - a / E - 0 / S");
}

#[test]
fn a_deallocate_that_failed_is_not_taken_for_the_next() {
    check(
        "servers=1
        2~ Q deallocate b
        2: P a deallocate a / B - a / E - 0
        2: B - a / S",
    );
}

#[test]
fn statements_that_speak_of_statements_may_have_names() {
    check(
        "servers=1
        0: P b select 1 / S
        0: P a execute b / B - a / E - 0 / S
        1: Q set work_mem to '2MB'
        0: B - a / E - 0 / S
        0: P c deallocate b / B - c / E - 0 / B - b / S
        0: P b select 2 / S
        0: P d prepare b as select 3 / B - d / E - 0 / S
        0: P e select 4 / S
        0: P f select 4 / S
        0: Q deallocate e; deallocate f",
    );
}

#[test]
fn in_a_transaction_that_has_failed_nothing_of_ours_stands_in_the_way() {
    check(
        "servers=1
        0: Q begin
        0: P a select name from whose / DP - / S
        0: Q deallocate a
        0: Q execute a
        0: Q rollback
        0: DS a / S
        0: Q execute a",
    );
}

#[test]
fn a_name_that_is_taken_is_so_for_its_client_alone() {
    check(
        "servers=1
        1: P b select 1
        1~ P b select 1 / S
        1~ Q prepare a as select 2
        1~ Q deallocate a; deallocate b
        1: B - b / S",
    );
    check(
        "servers=1\n0: P a prepare a as select 1\n0: P a select 2 / S\n1: P a select 3 / B - a / E - 0 / S",
    );
    check("servers=1\n3~ Q discard all\n3~ P b select 1\n3: P b select 2 / S\n1: P b select 1 / B - b / S");
}

#[test]
fn an_error_calls_a_statement_as_its_client_did() {
    check(
        "servers=1
        3: P a select 1
        3: B - a 1 / CS a / S
        3: P b select 1 / S
        3: P c select 1 / S
        3: B - b 1 / S
        3: B - c 1 / S",
    );
}

#[test]
fn a_query_ends_what_was_not_synced() {
    check(
        "servers=1
        0: P - insert into public.log_0 values (1) / B - - / E - 0
        0: Q select 1
        1: Q select count(*) from public.log_1
        0: P - insert into public.log_0 values (1) / B - - / E - 0 / B - missing
        0: Q select 1
        0: S
        0: Q select count(*) from public.log_0",
    );
}

#[test]
fn what_uses_a_sequence_behind_a_discard_keeps_its_client() {
    check(
        "servers=1
        1: P a discard sequences / B - a / E - 0
        1: Q select nextval('public.numbers_1')
        2: P b select nextval('public.numbers_2')
        1: Q select currval('public.numbers_1')
        1: Q discard sequences; select nextval('public.numbers_1')
        2: S
        1: Q select currval('public.numbers_1')",
    );
}

#[test]
fn an_unnamed_statement_follows_its_client_and_no_other() {
    check(
        "servers=1
        0: P - select 1 / S
        1: P - select 2 / S
        0: B - - / E - 0 / S
        1: B - - / E - 0 / S
        0: Q select 3
        0: B - - / S
        2: B - - / S",
    );
}

#[test]
fn closing_what_one_never_had_takes_nothing_from_another() {
    check(
        "servers=1
        0: P - select 1 / S
        1: CS - / S
        0: DS - / S
        0: P - select 1 / S
        1: F
        1: B - - / S
        0: B - - / E - 0 / S",
    );
}

#[test]
fn what_is_parsed_is_not_run() {
    check(
        "servers=1
        1: P b discard all / B - b / E - 0
        1: P a discard all / B - a / S
        0: P - deallocate b
        0: P b select 1
        0: B - - / E - 0 / S",
    );
}

#[test]
fn a_query_behind_a_batch_that_fails_is_skipped_with_all_that_we_put_before_it() {
    check(
        "servers=1
        0: P b select 1
        0~ Q prepare b as select 1
        0: B - a / F / Q prepare b as select 2 / P a selekt / S",
    );
}

#[test]
fn a_statement_is_read_under_the_settings_of_its_client() {
    check(
        "servers=1
        0: Q set search_path to s1
        0: P a select name from whose / S
        1: P a select name from whose / S
        1: B - a / E - 0 / S
        0: B - a / E - 0 / S
        0: Q begin
        0: Q set local search_path to s2
        0: B - a / E - 0 / S
        0: P b select name from whose / S
        0: Q commit
        0: B - b / E - 0 / S",
    );
}

#[test]
fn what_pins_is_gone_before_another_has_the_server() {
    for what in [
        "listen c1",
        "create temp table t1 (n int)",
        "select pg_advisory_lock(1)",
        "declare cur cursor with hold for select n from generate_series(1, 3) n",
        "prepare a as select 1",
        "select nextval('public.numbers_0')",
        "load 'auto_explain'",
        "select setseed(0)",
    ] {
        check(&format!(
            "servers=1\n0: Q {what}\n1, Q select random(), pg_advisory_unlock(1)\n1, Q notify c1\n1, Q fetch 1 from cur\n\
            1, Q execute a\n1, Q create temp table t1 (n int)\n0: Q select 1\n0: !\n1: Q select 1"
        ));
    }
}

#[test]
fn what_execute_runs_counts_as_if_it_had_been_said() {
    for what in
        ["load 'auto_explain'", "select nextval('public.numbers_0')", "set app.x to 'v1'", "set role bob"]
    {
        check(&format!("servers=1\n0: P a {what} / S\n0: Q execute a\n1: Q select 1\n0: Q select 1"));
    }
}

#[test]
fn of_a_long_statement_the_beginning_is_looked_at() {
    let long = "x".repeat(300);
    check(&format!(
        "servers=1 gathered=100
        0: Q set work_mem to '2MB' /* {long} */
        1: Q select current_setting('work_mem')
        0: P a select current_setting('work_mem') /* {long} */ / B - a / E - 0 / S
        1: P a select 1 / B - a / E - 0 / S"
    ));
}

#[test]
fn who_came_first_is_served_first() {
    check(
        "servers=1 client=0 client=0 client=1 client=0
        0: Q begin
        1, Q select 1
        2, Q select 2
        3, Q select 3
        0: Q commit",
    );
}

#[test]
fn in_session_mode_nobody_binds_what_another_has_parsed() {
    check(
        "servers=1 client=0 client=0,session
        0: P - select 1 / S
        1: B - - / S",
    );
    // Whatever is skipped, what it has parsed itself stays.
    check(
        "servers=1 client=0 client=0,session
        0: P - select 1 / S
        1: P - selekt / P - select 2 / S / P - select 3 / S
        1: B - - / E - 0 / S",
    );
    check(
        "servers=1 client=0 client=0,session
        0: P - select 1 / S
        1: E - 0 / P - select 2 / S / P - select 3 / S
        1: B - - / E - 0 / S",
    );
}

#[test]
fn what_lies_there_by_its_own_name_may_be_a_discard() {
    check(
        "servers=1
        0: P a select current_setting('work_mem')
        0: P - prepare b as select 2
        0: P b discard all / B - b / E - 0
        0: P a select n from generate_series(1, 3) n / S",
    );
}

/// PostgreSQL keeps what it has made of a literal when a statement was parsed, on whatever server it is run.
#[test]
fn a_literal_is_read_in_the_time_zone_in_which_it_was_parsed() {
    check(
        "servers=2
        0: Q set timezone to 'Etc/GMT+1'
        0: P a select extract(epoch from timestamptz '2026-01-01 00:00')::int / S
        0: Q set timezone to 'Etc/GMT+2'
        0: B - a / E - 0 / S
        1: Q begin
        0: B - a / E - 0 / P - select current_setting('timezone') / B - - / E - 0 / S
        0: Q begin; set local timezone to 'Etc/GMT+1'
        0: P b select extract(epoch from timestamptz '2026-01-01 00:00')::int / S
        0: Q commit
        0: B - b / E - 0 / S
        0: Q set search_path to s1
        0: B - b / E - 0 / S
        1: Q commit
        0: B - a / E - 0 / B - b / E - 0 / S",
    );
}

// ── limits ──

/// The server began under another name, and a transaction cannot go elsewhere.
#[test]
#[should_panic(expected = "can tell")]
fn a_first_reset_in_a_transaction_goes_back_to_the_servers_beginning() {
    check(
        "servers=1 client=0,application_name=one client=0,application_name=two
        0: Q select 1
        1: Q begin
        1: Q reset all",
    );
}

/// As above: nor can what is not synced, nor a client that is pinned.
#[test]
#[should_panic(expected = "can tell")]
fn a_first_reset_in_an_unsynced_batch_goes_back_to_the_servers_beginning() {
    check(
        "servers=1 client=0,application_name=one client=0,application_name=two
        0: Q select 1
        1: CS a
        1: Q reset all",
    );
}

/// PostgreSQL analyses the statement once more, by the time zone of now: but `search_path` does not report itself, and
/// nobody can be asked before the transaction is over.
#[test]
#[should_panic(expected = "can tell")]
fn a_literal_is_read_as_before_in_a_transaction_that_has_changed_the_search_path() {
    check(
        "servers=2
        0: P a select extract(epoch from timestamptz '2026-01-01 00:00')::int / S
        1: Q begin
        0: Q begin
        0: Q set search_path to s1
        0: Q set timezone to 'Etc/GMT+1'
        0: B - a / E - 0 / S",
    );
}

#[test]
fn a_name_of_its_own_that_was_sent_behind_a_discard_is_taken() {
    check(
        "servers=2
        1: P b discard all / B - b / E - 0
        1: P a select current_setting('app.x', true), current_setting('app.y', true) / S
        1: P a set local role amy / S",
    );
}

#[test]
fn what_was_made_to_take_a_name_and_is_not_closed_yet_is_not_taken_for_the_clients() {
    check(
        "servers=1 dice=5865 client=0 client=0 client=0 client=0
        3: E - 0
        3: P b reset work_mem
        3: P b reset timezone / B - b / S
        3: P a set local work_mem to '2MB' / P a set local timezone to 'Etc/GMT+2' / P b set local work_mem to '1MB' / S
        3: P b set timezone to default / S
        3: B - b",
    );
}

/// PostgreSQL looks at the parameters of a Bind before it looks at the transaction, also on a server that never had the
/// statement.
#[test]
fn in_a_failed_transaction_a_bind_is_complained_of_as_postgresql_does() {
    check(
        "servers=1
        0: P a select 1 / S
        1: Q copy public.log_1 from stdin / !
        0: Q begin; select 1/0
        0: B - a 1 / S
        0: B - a / S
        0: Q rollback
        0: B - a / E - 0 / S",
    );
}

/// There it tells the parameters of what returns no rows, and ends if it is told to.
#[test]
fn in_a_failed_transaction_what_returns_no_rows_is_described() {
    check(
        "servers=1
        0: P a set work_mem to '2MB' / S / P b rollback / S
        1: Q copy public.log_1 from stdin / !
        0: Q begin; select 1/0
        0: DS a / S / B - b / E - 0 / S / DS a / B - a / E - 0 / S",
    );
}
