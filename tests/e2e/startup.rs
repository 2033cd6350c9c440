//! Everything that can happen before the first query.

use std::time::Duration;

use crate::support::deadline::PATIENCE;
use crate::support::deadline::until;
use crate::support::frames;
use crate::support::postgres::Cluster;
use crate::support::postgres::PASSWORD;
use crate::support::postgres::USER;
use crate::support::raw::Client;
use crate::support::raw::Refused;
use crate::support::raw::Target;
use crate::support::stagedoor::Stagedoor;

fn refused(target: &Target) -> Refused {
    match Client::connect(target) {
        Ok(_) => panic!("a login that must be refused: {target:?}"),
        Err(refused) => refused,
    }
}

fn assert_serves(target: &Target) {
    let mut client = Client::connect(target).expect("a login");
    assert_eq!(client.value("select 1"), "1");
    client.leave();
}

#[test]
fn a_database_that_does_not_exist_gets_postgresqls_own_words() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "");
    let direct = refused(&cluster.direct("no_such_database"));
    assert_eq!(direct.sqlstate, "3D000");
    assert_eq!(refused(&stagedoor.target("no_such_database")), direct);
    stagedoor.finish();
}

#[test]
fn a_wrong_password_and_an_unknown_user_are_told_the_same() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "");
    let target = stagedoor.target("postgres");
    let direct = refused(&cluster.direct("postgres").password("wrong"));
    let wrong = refused(&target.clone().password("wrong"));
    let unknown = refused(&target.clone().user("nobody"));
    let unknown_and_wrong = refused(&target.clone().user("nobody").password("wrong"));
    assert_eq!((wrong.sqlstate.as_str(), &wrong.message), ("28P01", &direct.message));
    for nobody in [unknown, unknown_and_wrong] {
        assert_eq!(nobody.sqlstate, "28P01");
        assert_eq!(nobody.message.replace("nobody", USER), wrong.message);
    }
    assert_serves(&target);
    stagedoor.finish();
}

#[test]
fn requests_for_encryption_are_declined_and_the_login_goes_on() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "");
    let target = stagedoor.target("postgres");
    let mut client = target.open().expect("a connection");
    for code in [frames::GSSENC_REQUEST, frames::SSL_REQUEST] {
        client.send(&frames::request(code));
        assert_eq!(client.byte(), Some(b'N'));
    }
    client.send(&target.startup(frames::VERSION_3_0));
    client.log_in().expect("a login");
    assert_eq!(client.value("select 1"), "1");
    stagedoor.finish();
}

#[test]
fn newer_minor_versions_and_unknown_options_are_negotiated() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "");
    let plain = stagedoor.target("postgres");
    let with_option = plain.clone().with("_pq_.nonsense", "1");
    for (target, version, option) in [
        (&plain, frames::VERSION_3_0 + 99, false),
        (&with_option, frames::VERSION_3_0, true),
        (&with_option, frames::VERSION_3_0 + 99, true),
    ] {
        let mut client = target.open().expect("a connection");
        client.send(&target.startup(version));
        client.log_in().expect("a login");
        let negotiated = client.negotiated.clone().expect("NegotiateProtocolVersion");
        let text = String::from_utf8_lossy(&negotiated.body[4..]).into_owned();
        assert_eq!(text.contains("_pq_.nonsense"), option, "{text:?}");
        assert_eq!(client.value("select 1"), "1");
    }
    // 3.2 is either spoken or negotiated; both end in a session.
    let mut client = plain.open().expect("a connection");
    client.send(&plain.startup(frames::VERSION_3_0 + 2));
    client.log_in().expect("a login");
    assert_eq!(client.value("select 1"), "1");
    stagedoor.finish();
}

#[test]
fn a_major_version_that_nobody_speaks_is_refused_as_postgresql_refuses_it() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "");
    let [direct, through] = [cluster.direct("postgres"), stagedoor.target("postgres")].map(|target| {
        let mut client = target.open().expect("a connection");
        client.send(&target.startup(4 << 16));
        let error = client.last_words().error().expect("an error");
        // The newest version that is spoken stands at the end, and may be newer than the server's.
        (error.sqlstate, error.message.split(": server").next().unwrap_or_default().to_owned())
    });
    assert_eq!((through.0.as_str(), &through), ("0A000", &direct));
    let mut old = stagedoor.target("postgres").open().expect("a connection");
    old.send(&stagedoor.target("postgres").startup(2 << 16));
    let told = String::from_utf8_lossy(&old.rest()).into_owned();
    assert!(told.contains("unsupported frontend protocol 2.0"), "{told:?}");
    stagedoor.finish();
}

#[test]
fn replication_is_refused_with_a_reason() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "");
    let told = refused(&stagedoor.target("postgres").with("replication", "database"));
    assert!(told.message.contains("replication"), "{told:?}");
    assert_serves(&stagedoor.target("postgres").with("replication", "false"));
    stagedoor.finish();
}

#[test]
fn one_client_more_than_the_limit_is_told_53300() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "listen: { maxClients: 2 }");
    let target = stagedoor.target("postgres");
    let mut clients = [(); 2].map(|()| Client::connect(&target).expect("a login"));
    let told = refused(&target);
    assert_eq!(told.sqlstate, "53300");
    assert!(told.text.contains("stagedoor.listen.maxClients"), "{told:?}");
    clients.iter_mut().for_each(|client| assert_eq!(client.value("select 1"), "1"));
    drop(clients);
    until("room again", PATIENCE, || Client::connect(&target).ok());
    stagedoor.finish();
}

#[test]
fn a_login_that_does_not_go_on_is_ended() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "listen: { loginTimeout: 1s }");
    let target = stagedoor.target("postgres");
    let packet = target.startup(frames::VERSION_3_0);
    // Nothing at all, half a packet, and a whole one without the password.
    for said in [&[][..], &packet[..9], &packet[..]] {
        let mut client = target.open().expect("a connection");
        client.patience(Duration::from_secs(10));
        client.send(said);
        client.rest();
    }
    assert_serves(&target);
    stagedoor.finish();
}

#[test]
fn nonsense_ends_its_own_connection_and_no_other() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "listen: { loginTimeout: 2s }");
    let target = stagedoor.target("postgres");
    let mut witness = Client::connect(&target).expect("a login");
    let nonsense: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        &[0, 0, 0, 0],
        &[0, 0, 0, 3, 1, 2, 3],
        &[0xff; 64],
        &[0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0],
        &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3],
    ];
    for bytes in nonsense {
        let mut client = target.open().expect("a connection");
        client.try_send(bytes);
        client.rest();
    }
    assert_eq!(witness.value("select 1"), "1");
    assert_serves(&target);
    stagedoor.finish();
}

#[test]
fn a_frame_of_an_impossible_length_ends_its_own_connection_and_no_other() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 2 }");
    let target = stagedoor.target("postgres");
    let mut witness = Client::connect(&target).expect("a login");
    for frame in
        [&[b'Q', 0, 0, 0, 3, 0][..], &[b'Q', 0xff, 0xff, 0xff, 0xff, 0], &[0, 0, 0, 0, 9, 1, 2, 3, 4, 5]]
    {
        let mut client = Client::connect(&target).expect("a login");
        client.try_send(frame);
        client.rest();
        assert_eq!(witness.value("select 1"), "1");
    }
    stagedoor.finish();
}

#[test]
fn a_packet_without_a_user_is_refused_as_postgresql_refuses_it() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "");
    let [direct, through] = [cluster.direct("postgres"), stagedoor.target("postgres")].map(|target| {
        let mut client = target.open().expect("a connection");
        client.send(&frames::startup(frames::VERSION_3_0, &[("database", "postgres")]));
        let error = client.last_words().error().expect("an error");
        (error.sqlstate, error.message)
    });
    assert_eq!(through, direct);
    stagedoor.finish();
}

#[test]
fn without_a_database_it_is_the_users_name() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "");
    let mut client = stagedoor.target("").open().expect("a connection");
    client.send(&frames::startup(frames::VERSION_3_0, &[("user", USER)]));
    // `USER` has a database of its name, as Backstage's user often has.
    let logged_in = client.log_in();
    assert!(PASSWORD.len() > 8 && logged_in.is_ok(), "{logged_in:?}");
    assert_eq!(client.value("select current_database()"), USER);
    stagedoor.finish();
}

#[test]
fn every_server_connection_is_verified_tls() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "");
    let database = cluster.database("every_tls");
    let mut clients: Vec<Client> = (0..5).map(|_| stagedoor.connect(&database)).collect();
    clients.iter_mut().for_each(|client| {
        client.rows("begin");
    });
    assert_eq!(cluster.open(&database), (5, 0));
    assert_eq!(clients[0].value("select ssl from pg_stat_ssl where pid = pg_backend_pid()"), "t");
    drop(clients);
    stagedoor.finish();
}

#[test]
fn first_packets_that_are_malformed_or_out_of_turn_are_answered_as_by_postgresql() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "");
    let (ssl, gss) = (frames::request(frames::SSL_REQUEST), frames::request(frames::GSSENC_REQUEST));
    let startup = |parameters: &[(&str, &str)]| frames::startup(frames::VERSION_3_0, parameters);
    let unended = [&3_u32.to_be_bytes()[2..], b"\0\0user\0stage\0unended"].concat();
    let unended = frames::untagged(&unended);
    let mut too_long = startup(&[("user", USER), ("padding", &"x".repeat(10_000))]);
    too_long.truncate(10_001);
    // All packets but the last are answered with a byte.
    let cases = [
        vec![ssl.clone(), ssl.clone()],
        vec![gss.clone(), gss.clone()],
        vec![ssl.clone(), gss.clone(), ssl.clone()],
        vec![ssl.clone(), gss.clone(), startup(&[("database", "postgres")])],
        vec![gss.clone(), frames::untagged(&[0, 3, 0])],
        vec![unended],
        vec![too_long],
        vec![frames::untagged(&[0, 3])],
        vec![startup(&[("user", ""), ("database", "postgres")])],
    ];
    for packets in cases {
        let [direct, through] = [cluster.direct("postgres"), stagedoor.target("postgres")].map(|target| {
            let mut client = target.open().expect("a connection");
            for packet in &packets[..packets.len() - 1] {
                client.send(packet);
                assert_eq!(client.byte(), Some(b'N'));
            }
            client.try_send(&packets[packets.len() - 1]);
            client.finish();
            client.last_words();
            // The newest version that is spoken may be newer than the server's.
            let words = client.transcript.into_iter();
            words.map(|text| text.split(": server").next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
        });
        assert_eq!(through, direct, "left is through stagedoor: {packets:?}");
    }
    // Nothing is said before the answer.
    for request in [ssl, gss] {
        let [direct, through] = [cluster.direct("postgres"), stagedoor.target("postgres")].map(|target| {
            let mut client = target.open().expect("a connection");
            client.send(&[request.clone(), target.startup(frames::VERSION_3_0)].concat());
            assert_eq!(client.byte(), Some(b'N'));
            client.last_words();
            client.transcript
        });
        assert_eq!(through, direct, "left is through stagedoor");
    }
    // An option of the protocol that nobody knows is told in the same bytes.
    let [direct, through] = [cluster.direct("postgres"), stagedoor.target("postgres")].map(|target| {
        let mut client = target.open().expect("a connection");
        client.send(&target.with("_pq_.nonsense", "1").startup(frames::VERSION_3_0));
        client.log_in().expect("a login");
        client.negotiated
    });
    assert_eq!(through, direct);
    stagedoor.finish();
}
