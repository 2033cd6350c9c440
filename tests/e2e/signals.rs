//! `pg_cancel_backend` and `pg_terminate_backend` with the process id of BackendKeyData do what they do to a
//! connection of one's own, and to nobody else's.

use crate::support::compare::Worlds;
use crate::support::deadline::PATIENCE;
use crate::support::deadline::until;
use crate::support::frames;
use crate::support::postgres::Cluster;
use crate::support::postgres::ROLE;
use crate::support::raw::Client;
use crate::support::stagedoor::Stagedoor;

const SLEEP: &str = "select pg_sleep(30)";
const CANCEL: &str = "select pg_cancel_backend($1)";
/// `pg_cancel_backend` in `pg_proc`.
const CANCEL_OID: u32 = 2171;

fn asleep(cluster: &Cluster, client: &Client) {
    let sql = format!(
        "select 1 from pg_stat_activity where datname = '{}' and wait_event = 'PgSleep'",
        client.target().database
    );
    until("somebody sleeps", PATIENCE, || (cluster.admin(&sql).len() == 1).then_some(()));
}

/// Bind with one parameter, and Execute, with values in binary form.
fn run_binary(statement: &str, value: &[u8]) -> Vec<u8> {
    let length = u32::try_from(value.len()).expect("short").to_be_bytes();
    let values = [&[0, 1, 0, 1, 0, 1], length.as_slice(), value, &[0, 0]].concat();
    let body = [b"\0", statement.as_bytes(), b"\0", &values].concat();
    [frames::frame(b'B', &body), frames::execute("", 0), frames::sync()].concat()
}

fn function_call(oid: u32, pid: i32) -> Vec<u8> {
    let arguments = [&[0, 1, 0, 1, 0, 1, 0, 0, 0, 4], pid.to_be_bytes().as_slice(), &[0, 1]].concat();
    frames::frame(b'F', &[oid.to_be_bytes().as_slice(), &arguments].concat())
}

fn int4_array(pid: i32) -> Vec<u8> {
    [1_u32, 0, 23, 1, 1, 4].iter().flat_map(|part| part.to_be_bytes()).chain(pid.to_be_bytes()).collect()
}

fn parse(client: &mut Client, name: &str, sql: &str) {
    client.send(&[frames::parse(name, sql, &[]), frames::sync()].concat());
    client.ready();
}

fn run(client: &mut Client, name: &str, values: &[Option<&str>]) {
    client.send(&[frames::bind("", name, values), frames::execute("", 0), frames::sync()].concat());
    client.ready();
}

/// Every way to name a process id that is understood.
const FORMS: &[fn(&mut Client, i32)] = &[
    |killer, pid| drop(killer.query(&format!("select pg_cancel_backend({pid})"))),
    |killer, pid| drop(killer.query(&format!("select pg_catalog.pg_cancel_backend('{pid}'::int)"))),
    |killer, pid| drop(killer.query(&format!("select 1; select pg_cancel_backend({pid}); select 2"))),
    |killer, pid| drop(killer.query(&format!("begin; select pg_cancel_backend(({pid})); commit"))),
    |killer, pid| drop(killer.extended(CANCEL, &[Some(&pid.to_string())])),
    |killer, pid| drop(killer.extended("select pg_cancel_backend($1::int)", &[Some(&pid.to_string())])),
    |killer, pid| {
        let sql = "select pg_cancel_backend(pid) from unnest($1::int[]) pid";
        drop(killer.extended(sql, &[Some(&format!("{{0,{pid}}}"))]));
    },
    |killer, pid| drop(killer.extended(&format!("select pg_cancel_backend({pid})"), &[])),
    |killer, pid| {
        parse(killer, "", &format!("select pg_cancel_backend({pid})"));
        run(killer, "", &[]);
        // Once more: whom it means is asked anew.
        run(killer, "", &[]);
    },
    |killer, pid| {
        parse(killer, "signal", CANCEL);
        killer.query("select 1");
        run(killer, "signal", &[Some(&pid.to_string())]);
        killer.query("deallocate signal");
    },
    |killer, pid| {
        parse(killer, "", CANCEL);
        killer.send(&run_binary("", &pid.to_be_bytes()));
        killer.ready();
    },
    |killer, pid| {
        parse(killer, "", "select pg_cancel_backend($1::int8::int4)");
        killer.send(&run_binary("", &i64::from(pid).to_be_bytes()));
        killer.ready();
    },
    |killer, pid| {
        parse(killer, "", "select pg_cancel_backend(pid) from unnest($1::int[]) pid");
        killer.send(&run_binary("", &int4_array(pid)));
        killer.ready();
    },
    |killer, pid| {
        killer.send(&function_call(CANCEL_OID, pid));
        killer.ready();
    },
];

/// The warning names the process id that it was asked for, which differs between two connections.
fn without_pids(client: &mut Client, pid: i32) {
    client.transcript.iter_mut().for_each(|line| *line = line.replace(&pid.to_string(), "PID"));
}

#[test]
fn a_process_id_is_understood_however_it_is_said() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 3 }");
    let worlds = Worlds::new(cluster, &stagedoor, "signal_forms", "");
    for form in FORMS {
        worlds.same_with(&|target| target, 2, |clients| {
            let [sleeper, killer] = clients else { unreachable!() };
            sleeper.send(&frames::query(SLEEP));
            asleep(cluster, sleeper);
            form(killer, sleeper.pid);
            sleeper.ready();
            sleeper.query("select 1");
            without_pids(killer, sleeper.pid);
        });
    }
    worlds.end();
    stagedoor.finish();
}

#[test]
fn one_that_rests_is_not_cancelled_but_can_be_terminated() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 3 }");
    let worlds = Worlds::new(cluster, &stagedoor, "signal_rest", "");
    for resting in ["select 1", "begin", "listen stage", "set work_mem to '5MB'"] {
        worlds.same_with(&|target| target, 2, |clients| {
            let [victim, killer] = clients else { unreachable!() };
            let pid = victim.pid;
            victim.query(resting);
            for form in FORMS {
                form(killer, pid);
                victim.query("show work_mem");
            }
            killer.query(&format!("select pg_terminate_backend({pid})"));
            victim.last_words();
            let gone = format!("select pg_cancel_backend({pid})");
            until("it is gone", PATIENCE, || {
                killer.transcript.clear();
                (killer.query(&gone).rows_text() == ["f"]).then_some(())
            });
            without_pids(killer, pid);
        });
    }
    worlds.end();
    stagedoor.finish();
}

#[test]
fn one_that_runs_is_terminated_in_the_middle() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 3 }");
    let worlds = Worlds::new(cluster, &stagedoor, "terminate", "");
    for forms in [
        |pid| format!("select pg_terminate_backend({pid})"),
        |pid| format!("select pg_terminate_backend({pid}, 5000)"),
    ] {
        worlds.same_with(&|target| target, 2, |clients| {
            let [victim, killer] = clients else { unreachable!() };
            victim.send(&frames::query(SLEEP));
            asleep(cluster, victim);
            killer.query(&forms(victim.pid));
            victim.last_words();
            killer.query("select 1");
        });
    }
    worlds.end();
    stagedoor.finish();
}

#[test]
fn nobody_signals_whom_postgresql_would_not_let_them() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 3 }");
    let worlds = Worlds::new(cluster, &stagedoor, "signal_rights", "");
    worlds.same_with(&|target| target, 2, |clients| {
        let [victim, killer] = clients else { unreachable!() };
        let pid = victim.pid;
        killer.query(&format!("set role {ROLE}"));
        for sql in ["select 1", SLEEP] {
            victim.send(&frames::query(sql));
            if sql == SLEEP {
                asleep(cluster, victim);
            } else {
                victim.ready();
            }
            for function in ["pg_cancel_backend", "pg_terminate_backend"] {
                assert_eq!(killer.error(&format!("select {function}({pid})")), "42501");
            }
            let reply = killer.extended(CANCEL, &[Some(&pid.to_string())]);
            assert_eq!(reply.sqlstate(), "42501");
            killer.query("select 1");
        }
        killer.query("reset role");
        killer.query(&format!("select pg_cancel_backend({pid})"));
        assert_eq!(victim.ready().sqlstate(), "57014");
        victim.query("select 1");
        // What is not run signals nobody.
        killer.query(&format!("select case when false then pg_terminate_backend({pid}) end"));
        killer.query("begin");
        killer.query("select 1 / 0");
        killer.query(&format!("select pg_terminate_backend({pid})"));
        killer.query("rollback");
        victim.query("select 1");
    });
    worlds.end();
    stagedoor.finish();
}

#[test]
fn what_is_run_later_hits_no_stranger() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 3 }");
    let database = cluster.database("signal_later");
    let [mut victim, mut killer, mut holder] = [(); 3].map(|()| stagedoor.connect(&database));
    holder.rows("begin");
    let pid = victim.pid;
    let value = pid.to_string();
    type Later = fn(&mut Client, &str);
    let ways: [(Later, Later); 4] = [
        (
            |killer, pid| drop(killer.rows(&format!("prepare later as select pg_cancel_backend({pid})"))),
            |killer, _| drop(killer.query("execute later; deallocate later")),
        ),
        (
            |killer, pid| drop(killer.rows(&format!("create view later as select pg_cancel_backend({pid})"))),
            |killer, _| drop(killer.query("select * from later; drop view later")),
        ),
        (
            |killer, pid| {
                killer.rows("begin");
                let portal =
                    [frames::parse("", CANCEL, &[]), frames::bind("later", "", &[Some(pid)]), frames::sync()];
                killer.send(&portal.concat());
                killer.ready();
            },
            |killer, _| {
                killer.send(&[frames::execute("later", 0), frames::sync()].concat());
                killer.ready();
                killer.rows("rollback");
            },
        ),
        (
            |killer, pid| {
                killer.rows(&format!("begin; declare later cursor for select pg_cancel_backend({pid})"));
            },
            |killer, _| drop(killer.query("fetch all from later; rollback")),
        ),
    ];
    for (prepare, execute) in ways {
        victim.rows("begin");
        prepare(&mut killer, &value);
        victim.rows("commit");
        // It has left its server, which serves another now.
        let mut stranger = stagedoor.connect(&database);
        stranger.send(&frames::query(SLEEP));
        asleep(cluster, &stranger);
        execute(&mut killer, &value);
        asleep(cluster, &stranger);
        stagedoor.target(&database).cancel(stranger.pid, &stranger.key);
        assert_eq!(stranger.ready().sqlstate(), "57014");
        stranger.leave();
    }
    drop((victim, killer, holder));
    stagedoor.finish();
}

#[test]
fn one_that_waits_for_a_server_is_waited_for_a_moment_only() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let database = cluster.database("signal_wait");
    let [mut victim, mut killer, mut holder] = [(); 3].map(|()| stagedoor.connect(&database));
    killer.rows("begin");
    holder.rows("begin");
    victim.send(&frames::query("select 'served'"));
    let reply = killer.query(&format!("select pg_cancel_backend({})", victim.pid));
    assert_eq!(reply.rows_text(), ["f"], "PostgreSQL knows no such process");
    holder.rows("commit");
    assert_eq!(victim.ready().rows_text(), ["served"]);
    // That it did not wait to the end once changes nothing later.
    holder.rows("begin");
    victim.send(&frames::query("select 'never'"));
    until("it waits", PATIENCE, || {
        (stagedoor.metric("stagedoor_client_connections", &["state=\"waiting\""]) > 0.5).then_some(())
    });
    victim.target().cancel(victim.pid, &victim.key);
    assert_eq!(victim.ready().sqlstate(), "57014");
    holder.rows("commit");
    assert_eq!(killer.value(&format!("select pg_cancel_backend({})", victim.pid)), "t");
    drop((victim, killer, holder));
    stagedoor.finish();
}

#[test]
fn a_notification_names_the_process_id_that_its_sender_was_told() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let database = cluster.database("notify_pid");
    let [mut listener, mut speaker] = [(); 2].map(|()| stagedoor.connect(&database));
    listener.rows("listen stage");
    speaker.rows("notify stage, 'from another'");
    let heard = listener.until(b'A');
    assert_eq!(heard.0[0].body[..4], speaker.pid.to_be_bytes());
    let own = listener.query("notify stage, 'from oneself'");
    let own = own.0.iter().find(|message| message.tag == b'A').expect("its own, at once");
    assert_eq!(own.body[..4], listener.pid.to_be_bytes());
    // Also where it is heard late, and neither the sender nor its server is there any more.
    listener.rows("begin");
    let mut sender = stagedoor.connect(&database);
    let pid = sender.pid;
    sender.query("load 'plpgsql'"); // It is refused, and nobody gets this server again.
    sender.rows("notify stage, 'from the past'");
    sender.leave();
    let late = listener.query("commit");
    let late = late.0.iter().find(|message| message.tag == b'A').expect("what came meanwhile");
    assert_eq!(late.body[..4], pid.to_be_bytes());
    drop((listener, speaker));
    stagedoor.finish();
}
