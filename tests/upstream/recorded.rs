//! The packet-level check: everything that a sidecar sends to PostgreSQL in a whole run, from its first login to its
//! last goodbye, is an SSLRequest and then TLS records.

use std::fs;
use std::time::Duration;

use crate::support::front::Front;
use crate::support::front::Play;
use crate::support::front::is_tls;
use crate::support::postgres::PASSWORD;
use crate::support::postgres::USER;
use crate::support::postgres::shared;
use crate::support::raw::Raw;
use crate::support::raw::bind;
use crate::support::raw::execute;
use crate::support::raw::parse;
use crate::support::raw::query;
use crate::support::raw::sync;
use crate::support::raw::values;
use crate::support::stagedoor::Stagedoor;
use crate::support::stagedoor::app_config;
use crate::support::stagedoor::own;
use crate::support::wait::until;

const LIMIT: Duration = Duration::from_secs(20);

/// In every query of this test.
const MARK: &str = "mark-9e41";

#[test]
fn behind_the_preamble_a_whole_run_sends_nothing_but_tls() {
    let postgres = shared();
    let database = postgres.database("recorded");
    let front = Front::new(Play::Pass(postgres.port));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("app-config.yaml");
    let config = |more: &str| {
        app_config(&postgres, &own(more))
            .replace(&format!("port: {}", postgres.port), &format!("port: {}", front.port))
    };
    fs::write(&file, config("")).unwrap();
    let sidecar = Stagedoor::with_files(std::slice::from_ref(&file), &[]);
    let port = sidecar.port;

    // Queries of each kind, settings, a pin, rows by the megabyte, an error.
    let mut client = Raw::login(port, &database);
    assert_eq!(client.value(&format!("SELECT '{MARK}'")), MARK);
    client.send(
        &[parse("s", &format!("SELECT $1::text || '{MARK}'")), bind("", "s", &["x"]), execute("", 0), sync()]
            .concat(),
    );
    assert_eq!(values(&client.until_ready()), format!("x{MARK}"));
    client.ask(&format!("SET application_name = '{MARK}'"));
    client.ask("LISTEN recorded");
    assert_eq!(client.value(&format!("SELECT length(repeat('{MARK}', 200000))")), "1800000");
    assert_eq!(client.value(&format!("SELECT repeat('{MARK}', 200000)")).len(), 1_800_000);
    assert_eq!(client.value(&format!("SELECT 1/0 /* {MARK} */")), "ERROR 22012");

    // A cancel; a server that is terminated, and another that takes its place.
    let mut busy = Raw::login(port, &database);
    busy.send(&query(&format!("SELECT pg_sleep(60) /* {MARK} */")));
    let asleep = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND query LIKE '%pg_sleep%' AND state = 'active'"
    );
    until("it sleeps", LIMIT, || (postgres.sql("postgres", &asleep) == "1").then_some(()));
    Raw::cancel(port, busy.process_id, &busy.secret_key);
    assert_eq!(values(&busy.until_ready()), "ERROR 57014");
    let ours = format!("FROM pg_stat_activity WHERE datname = '{database}' AND usename = '{USER}'");
    postgres.sql("postgres", &format!("SELECT pg_terminate_backend(pid, 10000) {ours}"));
    until("another server", LIMIT, || {
        (Raw::login_with(port, &database, &[]).ok()?.value("SELECT 1") == "1").then_some(())
    });

    // A client that leaves in the middle; a change of the configuration, which is tried first; the end.
    let mut leaving = Raw::login(port, &database);
    leaving.ask("BEGIN");
    leaving.send(&query(&format!("SELECT pg_sleep(1) /* {MARK} */")));
    drop(leaving);
    fs::write(&file, config("  tls: { channelBinding: require }\n")).unwrap();
    sidecar.signal("HUP");
    until("the change is taken over", LIMIT, || {
        sidecar.log().contains("1 of 1 upstreams changed").then_some(())
    });
    assert_eq!(Raw::login(port, "postgres").value(&format!("SELECT '{MARK}'")), MARK);
    assert!(sidecar.metric("stagedoor_cancels_total", &[]) > 0.5);
    drop((client, busy));
    sidecar.terminate();

    let tapes = front.take();
    assert!(tapes.len() >= 7, "probe, three servers, a cancel, a trial, one more: {}", tapes.len());
    for tape in tapes {
        let (preamble, rest) = tape.wire.split_at(8);
        assert_eq!(preamble, [0, 0, 0, 8, 4, 210, 22, 47], "SSLRequest");
        assert!(rest.len() > 100 && is_tls(rest), "we said something else than TLS");
        assert_eq!(tape.sent.first(), Some(&b'S'));
        assert!(is_tls(&tape.sent[1..]), "the server said something else than TLS");
        for secret in [USER, PASSWORD, MARK, &database] {
            assert!(!tape.heard(secret.as_bytes()), "{secret} went out in the clear");
        }
    }
}
