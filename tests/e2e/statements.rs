//! Statements with names of the client's: whatever server runs them, they are what the client prepared.

use crate::support::compare::Worlds;
use crate::support::frames;
use crate::support::postgres::Cluster;
use crate::support::raw::Client;
use crate::support::stagedoor::Stagedoor;

fn parse(client: &mut Client, name: &str, sql: &str) {
    client.send(&[frames::parse(name, sql, &[]), frames::sync()].concat());
    client.ready();
}

fn run(client: &mut Client, name: &str) {
    let frames =
        [frames::bind("", name, &[]), frames::describe(b'P', ""), frames::execute("", 0), frames::sync()];
    client.send(&frames.concat());
    client.ready();
}

#[test]
fn what_was_prepared_after_a_table_changed_never_meets_an_older_plan() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 3 }");
    let worlds =
        Worlds::new(cluster, &stagedoor, "older_plan", "create table t (a int); insert into t values (1)");
    worlds.same_with(&|target| target, 3, |clients| {
        let [old, new, definer] = clients else { panic!("three clients") };
        // One server has a plan of the old table. Its client holds it while others work on the second one.
        parse(old, "s", "select * from t");
        run(old, "s");
        old.query("begin");
        definer.query("begin; alter table t add column b text default 'x'");
        parse(definer, "s", "select * from t");
        run(definer, "s");
        definer.query("commit");
        parse(new, "s", "select * from t");
        old.query("commit");
        // Now the first one is idle last, so it is taken next.
        run(new, "s");
        run(definer, "s");
        definer.query("begin; alter table t drop column b; rollback");
        run(new, "s");
        run(definer, "s");
    });
    worlds.end();
    stagedoor.finish();
}
