//! What clients say, by what it leaves behind. In every text `{c}` is the client's number, `{o}` another's, `{n}` a
//! small number, `{s}` a prepared statement's name in SQL, `{enc}` an encoding, `{hi}` bytes beyond ASCII.

/// Leaves nothing but settings, wherever it stands.
pub const PLAIN: &[&str] = &[
    // What there is to see.
    "select {n}",
    "select name from whose",
    "select current_setting('work_mem'), current_setting('TimeZone'), current_user, session_user, current_schemas(false)",
    "select current_setting('search_path'), current_setting('role'), current_setting('statement_timeout')",
    "select name, setting, source, reset_val from pg_settings where source in ('session', 'client') \
     and name not in ('application_name', 'transaction_isolation', 'transaction_read_only', 'transaction_deferrable') \
     order by name collate \"C\"",
    "show application_name",
    "show transaction_isolation",
    "show search_path",
    "show session_authorization",
    "select date '2026-01-02', interval '1 day 2 hours', 1::float8 / 3, '\\x6162'::bytea",
    "select timestamptz '2026-01-02 03:04:05', '10.50'::money::text",
    "select current_setting('my.setting', true), current_setting('My.Other', true)",
    "select 'a\\nb', E'a\\nb', '\\'",
    "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
    "select pg_try_advisory_xact_lock(7)",
    "select * from pg_listening_channels()",
    "select name, is_holdable from pg_cursors order by 1",
    "select to_regclass('mine') is null, to_regclass('gone') is null",
    // Asked so that an empty schema of an earlier client's, which PostgreSQL cannot forget, makes no difference.
    "select to_regprocedure('pg_temp.mine()') is null",
    // Settings.
    "set work_mem to '{n}MB'",
    "set work_mem = '{n}000kB'",
    "set work_mem to 1{n}00",
    "set session work_mem to '5{n}MB'",
    "set local work_mem to '1{n}MB'",
    "set search_path to s{n}",
    "set search_path to s{n}, public",
    "set search_path to \"S {n}\", \"$user\", public",
    "set search_path to 's{n}', \"a\"\"b\"",
    "set search_path = ''",
    "set search_path to default",
    "set local search_path to s{n}",
    "set timezone to 'Etc/GMT+{n}'",
    "set time zone interval '-0{n}:00' hour to minute",
    "set time zone -{n}",
    "set time zone local",
    "set time zone default",
    "set local time zone 'Asia/Tokyo'",
    "set application_name to 'client {c} {n}'",
    "set application_name to ''",
    "set application_name to default",
    "set role bs_owner",
    "set role none",
    "set role nobody",
    "set local role bs_owner",
    "set session authorization bs_owner",
    "set session authorization backstage",
    "set session authorization default",
    "set local session authorization bs_owner",
    "set datestyle to 'German'",
    "set datestyle to 'ISO, DMY'",
    "set intervalstyle to 'iso_8601'",
    "set extra_float_digits to 0",
    "set bytea_output to 'escape'",
    "set standard_conforming_strings to off",
    "set standard_conforming_strings to on",
    // Not debug1: a backend tells of its own caches there.
    "set client_min_messages to warning",
    "set client_min_messages to error",
    "set default_transaction_read_only to on",
    "set default_transaction_read_only to off",
    "set default_transaction_isolation to 'repeatable read'",
    "set statement_timeout to '{n}min'",
    "set session characteristics as transaction isolation level serializable",
    "set session characteristics as transaction isolation level read committed, read write",
    "set constraints all deferred",
    "set work_mem to 'nonsense'",
    "set work_mem from current",
    "set work_mem to default",
    "set nothing_known to 1",
    "set xmloption to document",
    "set xml option content",
    "set seed to 0",
    "set names '{enc}'",
    "set client_encoding to {enc}",
    "set names default",
    "set my.setting to 'value {n}'",
    "set My.Other to 'it''s \"{n}\"'",
    "set my.setting to default",
    "set local my.setting to 'local {n}'",
    "reset my.setting",
    "reset work_mem",
    "reset timezone",
    "reset search_path",
    "reset application_name",
    "reset client_encoding",
    "reset role",
    "reset session authorization",
    "reset all",
    "select set_config('statement_timeout', '{n}min', false)",
    "select set_config('work_mem', '{n}MB', true), current_setting('work_mem')",
    "select set_config('search_path', 's{n}', false)",
    "select set_config('search_path', 's{n}', true), name from whose",
    "select set_config('my.setting', 'called {n}', false)",
    "select pg_catalog.set_config('TimeZone', 'Etc/GMT-{n}', false) from generate_series(1, 2)",
    "select set_config('work_mem', null, false)",
    "update pg_settings set setting = '{n}000' where name = 'work_mem'",
    "do $$ begin perform set_config('work_mem', '2{n}MB', false); end $$",
    "do $$ begin set search_path to s{n}; raise notice '%', current_schemas(false); end $$",
    "do $$ begin set work_mem to '3{n}MB'; raise exception 'no {n}' using errcode = 'P000{n}'; end $$",
    "do $$ begin begin set work_mem to '4{n}MB'; perform 1 / 0; exception when others then null; end; end $$",
    "do $$ begin raise notice 'hello {n}' using hint = 'wave'; end $$",
    "select public.with_setting({n}), current_setting('work_mem')",
    // Ends of things.
    "discard plans",
    "discard temp",
    "deallocate {s}",
    "deallocate prepare {s}",
    "deallocate all",
    "execute {s}",
    "execute {s}({n})",
    "explain (costs off) execute {s}",
    "explain (costs off, analyze, timing off, summary off) execute {s}({n})",
    "execute {s}({n}, nothing)",
    "close slow",
    "close all",
    "unlisten *",
    "unlisten stage_{c}",
    "select pg_advisory_unlock({c})",
    "select pg_advisory_unlock_all()",
    "fetch {n} from slow",
    "fetch backward 1 from slow",
    "move forward all in slow",
    "declare slow cursor for select n from generate_series(1, 9) n",
    "declare slow scroll cursor for select n from generate_series(1, 9) n",
    "savepoint a",
    "rollback to a",
    "release a",
    // Data.
    "insert into public.log_{c} values ({n}) returning n, current_setting('work_mem')",
    "insert into public.log_{o} values ({n})",
    "update public.log_{c} set n = n + 1 where n = {n} returning *",
    "delete from public.log_{c} where n > {n}",
    "select count(*) from public.log_{o}",
    "select n from public.log_{c} order by n limit 5",
    "insert into held values ({n}, {n}), ({c}, 0)",
    "with x as (insert into public.log_{c} values (10{n}) returning n) select * from x",
    "notify stage_{o}, 'news {n}'",
    "select pg_notify('stage_{o}', 'called {n}')",
    "select * from mine",
    "insert into mine values ({n})",
    "drop table if exists nothing_{n}",
    "create table if not exists made_{n} (n int)",
    "drop table if exists made_{n}",
    "alter table made_{n} add column if not exists m int",
    "insert into made_{n} values ({n})",
    "create table made_{n} as execute {s}",
    "select 1 / 0",
    "select 'x'::int",
    "selekt",
    "select nothing",
    "select * from nowhere",
    "copy (select n from generate_series(1, {n}) n) to stdout",
    "copy public.log_{c} to stdout (format csv, header)",
    "copy nowhere to stdout",
    "copy (select 1 / (3 - n) from generate_series(1, 9) n) to stdout",
    "select '{hi}'",
    "select 1 as \"{hi}\"",
    "/* nothing */",
    "",
    ";",
    "-- {n}\n",
];

/// As [`PLAIN`], but not to be put inside a transaction: it begins or ends one, or would not run there.
pub const ALONE: &[&str] = &[
    "begin; set local work_mem to '3MB'; show work_mem; commit; show work_mem",
    "begin; set work_mem to '6MB'; savepoint a; set work_mem to '7MB'; rollback to a; commit; show work_mem",
    "select 1; set work_mem to '{n}MB'; select 2",
    "set timezone to 'UTC'; selekt; set timezone to 'Asia/Tokyo'",
    "set timezone to 'Asia/Tokyo'; select 1 / 0",
    "begin; set timezone to 'Asia/Tokyo'; rollback; show timezone",
    "begin; set local role bs_owner; select current_user; commit; select current_user",
    "begin; create temp table mine (n int); insert into mine values ({n}); select * from mine; rollback",
    "begin; create temp table gone (n int) on commit drop; commit",
    "begin; listen stage_{c}; notify stage_{c}; rollback",
    "begin; declare slow cursor with hold for select 1; rollback",
    "begin; select pg_advisory_xact_lock(7{c}); commit",
    "begin; set search_path to s{n}; commit; select name from whose",
    "set session authorization bs_owner; set role none; select current_user, session_user",
    "prepare passing as select {n}; execute passing; deallocate passing",
    "reset all; show work_mem",
    "discard all",
    "discard all; select 1",
    "discard sequences",
    "begin; savepoint a; selekt; rollback",
    "commit",
    "rollback",
    "commit and chain",
    "vacuum nothing",
    "select 1; select 2; ; select 3",
];

/// Leaves nothing if its transaction is rolled back.
pub const UNDONE: &[&str] = &[
    "create temp table mine (n int)",
    "create temp table gone (n int) on commit drop",
    "create temp view seen as select {n} as n",
    "select {n} as n into temp mine",
    "create or replace function pg_temp.mine() returns int language sql as 'select {n}'",
    "declare slow cursor with hold for select n from generate_series(1, 9) n",
    "listen stage_{c}",
    "drop table public.log_{c}",
    "alter table public.log_{o} add column m int",
    "lock table public.log_{o} in access exclusive mode",
    "create schema s9 create table whose as select 's9' as name",
];

/// Keeps a server: opens a transaction, or leaves what only that server has, until DISCARD ALL.
pub const HOLDS: &[&str] = &[
    "begin",
    "begin",
    "start transaction read only",
    "begin; select 1 / 0",
    "set my.setting to 'first'; begin; set local my.setting to 'second'; select 1 / 0",
    "begin; set local work_mem to '9MB'",
    "commit and chain",
    "rollback and chain",
    "commit",
    "commit",
    "rollback",
    "prepare {s} as select {n}, current_setting('work_mem')",
    "prepare {s} (int) as select $1 + {n}",
    "prepare {s} as select nothing",
    "prepare {s} as insert into public.log_{c} values ({n}) returning n",
    "prepare {s}(text) as select name, $1 from whose",
    "select name, from_sql, parameter_types from pg_prepared_statements where from_sql \
     and name not like 'stagedoor%' order by 1",
    "select pg_advisory_lock({c})",
    "select pg_advisory_lock_shared({c})",
    "select pg_try_advisory_lock(7)",
    "select pg_try_advisory_lock_shared(7)",
    "select pg_advisory_lock(7)",
    "select nextval('numbers_{c}')",
    "select nextval('numbers_{o}')",
    "select currval('numbers_{c}')",
    "select lastval()",
    "select setval('numbers_{c}', {n}00)",
    "discard sequences",
    "lock table public.log_{o} in exclusive mode",
];

/// Keeps a server as long as the client lives.
pub const TAINTS: &[&str] = &[
    "select setseed(0.{n})",
    "select random() < 2",
    "select set_config('work_' || 'mem', '{n}MB', false)",
    "do $$ begin execute 'set work_mem to ''7MB'''; end $$",
    "do $$ begin execute 'set hidden.setting to {n}'; end $$",
    "select current_setting('hidden.setting', true)",
    "load 'plpgsql'",
    "call set_it({n})",
    "set names '{odd}'",
    "set client_encoding to '{odd}'",
    "set my.setting to '{hi}'",
    "set application_name to '{hi}{n}'",
    "select '{hi}\\'; set work_mem to '2MB' --'",
];

/// Encodings in which every byte below 0x80 is ASCII, and those in which it need not be.
pub const ENCODINGS: &[&str] =
    &["UTF8", "LATIN1", "SQL_ASCII", "WIN1252", "latin9", "EUC_JP", "KOI8R", "unicode"];
pub const ODD_ENCODINGS: &[&str] = &["SJIS", "BIG5", "GBK", "UHC", "GB18030", "JOHAB", "SHIFT_JIS_2004"];

/// Valid in some encodings and not in others; the last but one ends in a backslash in ASCII's eyes.
pub const BEYOND_ASCII: &[&[u8]] = &[b"\xe9", b"\xc3\xa9", b"\xa4", b"\x83\x5c", b"\xe2\x82\xac"];

/// Names of prepared statements. Of the last PostgreSQL reads 63 bytes, and says all of them.
pub const NAMES: &[&str] = &[
    "",
    "one",
    "two",
    "Mixed \"Case\"",
    "stagedoor:1",
    "long_long_long_long_long_long_long_long_long_long_long_long_long_long",
];

/// Texts with parameters. The table is there in every `search_path`: where a text can be prepared no more, a server that
/// has to prepare it finds that before it looks at a parameter's value.
pub const PARAMETERS: &[&str] = &[
    "select $1 || current_setting('work_mem')",
    "select $1::int + {n}, $2::text",
    "select $1, pg_typeof($1)",
    "insert into public.log_{c} values ($1) returning n",
    "select name from whose where name = $1",
    "select n from generate_series(1, $1) n",
    "select set_config('work_mem', $1, true)",
    "select timestamptz '2026-01-02 03:04:05', $1::text",
    "select coalesce($2, $1)",
];

/// Where a session is the first to make temporary tables in its place, PostgreSQL makes a schema for them, and all sessions
/// analyse their statements once more, with constants read by the settings of then (`PlanCacheSysCallback`). When that is
/// differs between worlds, so these schemas are there from the beginning.
pub const TEMPORARY_SCHEMAS: &str = "set allow_system_table_mods to on; \
    do $$ begin for n in 1 .. current_setting('max_connections')::int + 20 loop \
    execute format('create schema pg_temp_%s', n); execute format('create schema pg_toast_temp_%s', n); \
    end loop; end $$";

/// What a world holds before anybody comes.
pub fn setup(clients: usize) -> String {
    let mut sql = String::from(
        "create table whose (name text); insert into whose values ('public'); \
         create table held (a int, b int, unique (a, b) deferrable initially deferred)",
    );
    for number in 1..=3 {
        for schema in [format!("s{number}"), format!("\"S {number}\"")] {
            let name = schema.trim_matches('"');
            sql += &format!(
                "; create schema {schema}; create table {schema}.whose as select '{name}' as name; \
                 grant usage on schema {schema} to bs_owner; grant select on {schema}.whose to bs_owner"
            );
        }
    }
    for number in 0..clients {
        sql += &format!("; create table public.log_{number} (n int); create sequence numbers_{number}");
    }
    sql += "; create function with_setting(n int) returns text language sql set work_mem to '77MB' set search_path to s1 \
         as $$ select name || n || current_setting('work_mem') from whose $$; \
         create procedure set_it(n int) language plpgsql \
         as $$ begin perform set_config('work_mem', n || 'MB', false); end $$";
    sql
}
