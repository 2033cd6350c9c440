//! Clients that do anything in any order read the same with and without stagedoor. A seed tells the whole story:
//! `SEED=7 cargo test --test e2e random` repeats one, `SEEDS=500` looks further.

use std::fmt::Write;

use crate::support::compare::Worlds;
use crate::support::deadline::Stopwatch;
use crate::support::dice::Dice;
use crate::support::frames;
use crate::support::postgres::Cluster;
use crate::support::raw::Client;
use crate::support::raw::Target;
use crate::support::stagedoor::Stagedoor;

const CLIENTS: usize = 4;
const STEPS: usize = 120;

/// What a client may do. `{c}` is its number, `{n}` a small number.
const STATEMENTS: &[&str] = &[
    "select {n}",
    "select name from whose",
    "select current_setting('work_mem'), current_setting('TimeZone'), current_user, current_schemas(false)",
    "select current_setting('search_path'), current_setting('role'), current_setting('statement_timeout')",
    "show application_name",
    "show transaction_isolation",
    "select date '2026-01-02', interval '1 day 2 hours', 1::float8 / 3",
    "set work_mem to '{n}MB'",
    "set local work_mem to '1{n}MB'",
    "set search_path to s{n}",
    "set search_path to s{n}, public",
    "set local search_path to s{n}",
    "set timezone to 'Etc/GMT+{n}'",
    "set time zone interval '-0{n}:00' hour to minute",
    "set application_name to 'client {c} {n}'",
    "set role bs_owner",
    "set role none",
    "set local role bs_owner",
    "set datestyle to 'German'",
    "set intervalstyle to 'iso_8601'",
    "set extra_float_digits to 0",
    "set session characteristics as transaction isolation level serializable",
    "set session characteristics as transaction isolation level read committed",
    "set transaction isolation level repeatable read",
    "set work_mem to 'nonsense'",
    "set work_mem from current",
    "set work_mem to default",
    "set xmloption to document",
    "set names 'LATIN1'",
    "set names 'UTF8'",
    "reset work_mem",
    "reset timezone",
    "reset search_path",
    "reset role",
    "reset all",
    "discard all",
    "discard plans",
    "discard temp",
    "select set_config('statement_timeout', '{n}min', false)",
    "select set_config('work_mem', '{n}MB', true), current_setting('work_mem')",
    "select set_config('search_path', 's{n}', false)",
    "do $$ begin perform set_config('work_mem', '2{n}MB', false); end $$",
    "update pg_settings set setting = '{n}000' where name = 'work_mem'",
    "set my.setting to 'value {n}'",
    "select current_setting('my.setting', true)",
    "begin",
    "begin isolation level serializable",
    "start transaction read only",
    "commit",
    "commit and chain",
    "rollback",
    "savepoint a",
    "rollback to a",
    "release a",
    "select 1 / 0",
    "selekt",
    "insert into log_{c} values ({n}) returning n",
    "select count(*) from log_{c}",
    "create temp table mine (n int)",
    "create temp table gone (n int) on commit drop",
    "insert into mine values ({n})",
    "select * from mine",
    "drop table mine",
    "select {n} as n into temp mine",
    "create or replace function pg_temp.mine() returns int language sql as 'select {n}'",
    // Asked so that an empty schema of an earlier client's, which PostgreSQL cannot forget, makes no difference.
    "select to_regprocedure('pg_temp.mine()') is null",
    "prepare mine as select {n}, current_setting('work_mem')",
    "execute mine",
    "deallocate mine",
    "deallocate all",
    "declare slow cursor with hold for select n from generate_series(1, 9) n",
    "declare slow cursor for select n from generate_series(1, 9) n",
    "fetch {n} from slow",
    "close slow",
    "close all",
    "listen stage_{c}",
    "unlisten *",
    "select * from pg_listening_channels()",
    "select pg_advisory_lock({c})",
    "select pg_advisory_unlock({c})",
    "select pg_advisory_xact_lock(10{c})",
    "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
    "select nextval('numbers_{c}')",
    "select currval('numbers_{c}')",
    "select setval('numbers_{c}', {n}00)",
    "begin; set local work_mem to '3MB'; show work_mem; commit; show work_mem",
    "select 1; set work_mem to '{n}MB'; select 2",
    "set timezone to 'UTC'; selekt; set timezone to 'Asia/Tokyo'",
    "set timezone to 'Asia/Tokyo'; select 1 / 0",
    "begin; set timezone to 'Asia/Tokyo'; rollback; show timezone",
    "copy (select n from generate_series(1, {n}) n) to stdout",
    "copy nowhere to stdout",
    "do $$ begin raise notice 'hello {n}'; end $$",
    "/* nothing */",
];

/// One thing that a client does.
fn step(dice: &mut Dice, client: &mut Client, number: usize) {
    let sql = STATEMENTS[dice.below(STATEMENTS.len())]
        .replace("{c}", &number.to_string())
        .replace("{n}", &(1 + dice.below(3)).to_string());
    let name = ["", "one", "two"][dice.below(3)];
    let frames = match dice.below(10) {
        0..=4 => vec![frames::query(&sql)],
        5 if !sql.starts_with("copy") => whole(&sql),
        6 if !sql.starts_with("copy") => vec![frames::parse(name, &sql, &[]), frames::sync()],
        7 => vec![
            frames::bind("", name, &[]),
            frames::describe(b'P', ""),
            frames::execute("", 2),
            frames::sync(),
        ],
        8 => vec![frames::close(b'S', name), frames::describe(b'S', name), frames::sync()],
        _ => [whole("select $1 || current_setting('work_mem')"), whole("insert into log_0 values (0)")]
            .concat(),
    };
    client.transcript.push(format!("> {}", frames.concat().escape_ascii()));
    let syncs = frames.iter().filter(|frame| [b'Q', b'S'].contains(&frame[0])).count();
    client.send(&frames.concat());
    for _ in 0..syncs {
        client.ready();
    }
}

/// The unnamed statement from Parse to Sync.
fn whole(sql: &str) -> Vec<Vec<u8>> {
    let value = sql.contains("$1").then_some(Some("value "));
    vec![
        frames::parse("", sql, &[]),
        frames::bind("", "", value.as_slice()),
        frames::describe(b'P', ""),
        frames::execute("", 0),
        frames::sync(),
    ]
}

fn setup() -> String {
    let mut sql = String::from("create table whose (name text); insert into whose values ('public')");
    for number in 1..=3 {
        write!(sql, "; create schema s{number}; create table s{number}.whose as select 's{number}' as name")
            .expect("text");
    }
    for number in 0..CLIENTS {
        write!(sql, "; create table log_{number} (n int); create sequence numbers_{number}").expect("text");
    }
    sql
}

/// Each client's steps, dealt out one at a time, in the same order in both worlds.
fn story(seed: u64, clients: &mut [Client]) {
    let mut dice = Dice::new(seed);
    for _ in 0..STEPS {
        let number = dice.below(clients.len());
        step(&mut dice, &mut clients[number], number);
    }
}

/// Tells the stories of `seeds` with these settings of the sidecar and connections changed by `adjust`.
fn tell(label: &str, settings: &str, adjust: &dyn Fn(Target) -> Target) {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seeds = number("SEED").map_or_else(|| 0..number("SEEDS").unwrap_or(12), |seed| seed..seed + 1);
    let _watch = Stopwatch::start(format!("random stories {seeds:?}, {label}"));
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, settings);
    for seed in seeds {
        let worlds = Worlds::new(cluster, &stagedoor, &format!("seed_{seed}"), &setup());
        eprintln!("seed {seed}");
        worlds.same_with(adjust, CLIENTS, |clients| story(seed, clients));
        worlds.end();
    }
    stagedoor.finish();
}

// As many servers as clients, and one for the holder: whoever pins need never wait, whoever does not shares.

#[test]
fn whatever_clients_do_they_read_the_same_as_without_stagedoor() {
    tell("transaction mode", "pool: { maxServers: 5 }", &|target| target);
}

#[test]

fn so_they_do_with_settings_in_their_start_up_packets() {
    tell("with start-up packets", "pool: { maxServers: 5 }", &|target| {
        target
            .with("application_name", "backstage_plugin_catalog")
            .with("options", "-c work_mem=9MB -c search_path=s1,public")
            .with("TimeZone", "Europe/Berlin")
    });
}

#[test]
fn so_they_do_in_session_mode() {
    tell("session mode", "pool: { mode: session, maxServers: 6 }", &|target| target);
}
