//! `pool.mode: session`: a client has one server for its life, to itself, and nothing is asked or rewritten.

use std::collections::BTreeSet;

use crate::support::compare::Worlds;
use crate::support::deadline::PATIENCE;
use crate::support::deadline::until;
use crate::support::frames;
use crate::support::postgres::Cluster;
use crate::support::raw::Client;
use crate::support::stagedoor::Stagedoor;

const SETTINGS: &str = "pool: { mode: session, maxServers: 3 }";

fn probes(stagedoor: &Stagedoor) -> f64 {
    stagedoor.metric("stagedoor_probes_total", &[])
}

#[test]
fn in_session_mode_a_client_keeps_its_server_to_the_end() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { mode: session, maxServers: 3 }");
    let database = cluster.database("session");
    let mut clients = [(); 3].map(|()| stagedoor.connect(&database));
    let backends: Vec<String> = clients.iter_mut().map(Client::backend).collect();
    assert_eq!(backends.iter().collect::<BTreeSet<_>>().len(), 3);
    for _ in 0..5 {
        assert_eq!(clients.iter_mut().map(Client::backend).collect::<Vec<_>>(), backends);
    }
    clients.into_iter().for_each(Client::leave);
    stagedoor.finish();
}

#[test]
fn names_are_the_clients_own_on_the_server_and_nothing_is_asked() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, SETTINGS);
    let worlds = Worlds::new(cluster, &stagedoor, "session_names", "create sequence counted");
    let named = |client: &mut Client| {
        client.send(
            &[frames::parse("mine", "select 1", &[]), frames::parse("stagedoor:1", "select 2", &[])].concat(),
        );
        client.send(&[frames::bind("", "mine", &[]), frames::execute("", 0), frames::sync()].concat());
        client.ready();
        client.rows("prepare sql as select 3");
        client.rows("execute mine; execute \"stagedoor:1\"; execute sql; deallocate mine");
        client.rows("select name, statement from pg_prepared_statements order by 1");
        client.error("execute \"stagedoor:?1\"");
        client.send(
            &[frames::close(b'S', "stagedoor:1"), frames::describe(b'S', "stagedoor:1"), frames::sync()]
                .concat(),
        );
        client.ready();
    };
    worlds.same(named);
    worlds.same(|client| {
        for sql in [
            "set search_path to pg_catalog",
            "set my.own = 'x'",
            "select nextval('public.counted'), currval('public.counted')",
            "create temp table t (n int)",
            "listen here",
            "select pg_advisory_lock(1)",
            "declare c cursor with hold for select 1",
            "set application_name to 'changed'",
            "reset all",
            "show application_name",
            "select current_setting('my.own')",
            "select count(*) from t",
            "fetch c",
            "discard all",
            "begin; set local work_mem = '1MB'; rollback; show work_mem",
        ] {
            client.query(sql);
        }
    });
    assert!(probes(&stagedoor) < 0.5, "{} questions", probes(&stagedoor));
    assert!(stagedoor.metric("stagedoor_handovers_total", &[]) < 0.5, "its server began as it did");
    worlds.end();
    stagedoor.finish();
}

#[test]
fn who_comes_next_finds_nothing_of_who_was_there() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { mode: session, maxServers: 2 }");
    let database = cluster.database("session_end");
    // What is left, and whether the server can be made clean of it.
    let rows = [
        ("select 1", true),
        ("prepare p as select 1; set work_mem = '1MB'; listen c; create temp table t (n int)", true),
        ("begin; select 1", true),
        ("set my.own = 'x'", false),
        ("select setseed(0.5)", false),
    ];
    let mut backends = BTreeSet::new();
    for (sql, reused) in rows {
        let mut client = stagedoor.connect(&database);
        client.rows(sql);
        let backend = client.backend();
        client.send(
            &[frames::parse("n", "select 1", &[]), frames::parse("", "select 2", &[]), frames::sync()]
                .concat(),
        );
        client.ready();
        client.leave();
        until("its server is clean or gone", PATIENCE, || {
            let idle = stagedoor.metric("stagedoor_server_connections", &["state=\"active\""]);
            (idle < 0.5).then_some(())
        });
        let mut next = stagedoor.connect(&database);
        let unnamed = [frames::bind("", "", &[]), frames::sync()].concat();
        next.send(&unnamed);
        assert_eq!(next.ready().error().map(|error| error.sqlstate).as_deref(), Some("26000"), "{sql}");
        assert_eq!(next.rows("select name from pg_prepared_statements"), Vec::<String>::new(), "{sql}");
        assert_eq!(
            next.rows("select name from pg_settings where source = 'session'"),
            Vec::<String>::new(),
            "{sql}"
        );
        assert_eq!(next.rows("select current_setting('my.own', true)"), ["NULL"], "{sql}");
        assert_eq!(next.rows("select pg_listening_channels()"), Vec::<String>::new(), "{sql}");
        assert_eq!(next.backend() == backend, reused, "{sql}");
        backends.insert(backend);
        next.leave();
    }
    assert_eq!(backends.len(), 2, "servers are used again");
    stagedoor.finish();
}

#[test]
fn a_process_id_means_the_backend_in_any_mode() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, SETTINGS);
    let database = cluster.database("session_cancel");
    let mut sleeper = stagedoor.connect(&database);
    let mut other = stagedoor.connect(&database);
    let pid = sleeper.pid.to_string();
    let parse = frames::parse("", "select pg_cancel_backend($1::int)", &[]);
    for shape in ["simple", "extended"] {
        sleeper.send(&frames::query("select pg_sleep(60)"));
        until("it sleeps", PATIENCE, || {
            let asleep = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
            (cluster.admin_in(&database, &format!("{asleep} and datname = current_database()")) == ["1"])
                .then_some(())
        });
        let cancelled = if shape == "simple" {
            other.rows(&format!("select pg_cancel_backend({pid})"))
        } else {
            let run = [frames::bind("", "", &[Some(&pid)]), frames::execute("", 0), frames::sync()].concat();
            other.send(&[parse.clone(), run].concat());
            other.ready().rows_text()
        };
        assert_eq!(cancelled, ["t"]);
        assert_eq!(sleeper.ready().error().map(|error| error.sqlstate).as_deref(), Some("57014"), "{shape}");
    }
    sleeper.leave();
    other.leave();
    stagedoor.finish();
}
