//! COPY in both directions, in both protocols, to a good end and to bad ones.

use crate::support::compare::Worlds;
use crate::support::frames;
use crate::support::postgres::Cluster;
use crate::support::raw::Client;
use crate::support::stagedoor::Stagedoor;

const TABLE: &str = "create table things (n int primary key, t text)";

fn copy_in(client: &mut Client, frames_to_send: &[Vec<u8>]) {
    client.send(&frames::query("copy things from stdin"));
    client.until(b'G');
    client.send(&frames_to_send.concat());
    client.ready();
}

#[test]
fn copy_answers_as_without_stagedoor() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let worlds = Worlds::new(cluster, &stagedoor, "copy", TABLE);
    worlds.same(|client| {
        copy_in(client, &[frames::copy_data(b"1\ta\n2\t"), frames::copy_data(b"b\n"), frames::copy_done()]);
        copy_in(client, &[frames::copy_data(b"3\tc\n"), frames::copy_fail("a change of mind")]);
        copy_in(client, &[frames::copy_data(b"not a number\td\n"), frames::copy_done()]);
        copy_in(client, &[frames::copy_data(b"1\tagain\n"), frames::copy_done()]);
        client.query("copy things to stdout");
        client.query("copy (select 1/0) to stdout");
        client.query("begin; copy things to stdout; commit");
        client.query("copy things from '/nowhere'");
        client.query("select count(*) from things");
    });
    worlds.end();
    stagedoor.finish();
}

#[test]
fn flush_and_sync_within_copy_are_ignored() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let worlds = Worlds::new(cluster, &stagedoor, "copy_sync", TABLE);
    worlds.same(|client| {
        for line in [b"4\td\n", b"x\td\n"] {
            copy_in(client, &[frames::flush(), frames::sync(), frames::copy_data(line), frames::copy_done()]);
            client.query("select * from things");
        }
    });
    // The server is free again.
    let mut other = stagedoor.connect(&worlds.through.database);
    assert_eq!(other.value("select 1"), "1");
    other.leave();
    worlds.end();
    stagedoor.finish();
}

#[test]
fn copy_in_the_extended_protocol_answers_as_without_stagedoor() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let worlds = Worlds::new(cluster, &stagedoor, "copy_extended", TABLE);
    worlds.same(|client| {
        for end in [frames::copy_done(), frames::copy_fail("no")] {
            let begin = [
                frames::parse("", "copy things from stdin", &[]),
                frames::bind("", "", &[]),
                frames::execute("", 0),
            ];
            client.send(&[begin.concat(), frames::flush()].concat());
            client.until(b'G');
            client.send(&[frames::copy_data(b"7\tg\n"), end, frames::sync()].concat());
            client.ready();
        }
        client.extended("copy things to stdout", &[]);
        client.query("select count(*) from things");
    });
    worlds.end();
    stagedoor.finish();
}

#[test]
fn a_hundred_megabytes_go_in_and_out_whole() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let database = cluster.database("copy_much");
    let mut client = stagedoor.connect(&database);
    client.rows("create unlogged table much (n int, t text)");
    client.send(&frames::query("copy much from stdin"));
    client.until(b'G');
    let line = format!("1\t{}\n", "x".repeat(998));
    let megabyte = frames::copy_data(line.repeat(1000).as_bytes());
    for _ in 0..100 {
        client.send(&megabyte);
    }
    client.send(&frames::copy_done());
    assert_eq!(client.ready().error(), None);
    assert_eq!(client.value("select count(*), sum(length(t)) from much"), "100000|99800000");
    let size: usize = client
        .query("copy much to stdout")
        .0
        .iter()
        .filter(|message| message.tag == b'd')
        .map(|m| m.body.len())
        .sum();
    assert_eq!(size, line.len() * 100_000);
    client.leave();
    stagedoor.finish();
}
