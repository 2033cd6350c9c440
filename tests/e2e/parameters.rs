//! Settings belong to a client, however few servers there are: here one for all.

use crate::support::compare::Worlds;
use crate::support::frames;
use crate::support::postgres::Cluster;
use crate::support::postgres::ROLE;
use crate::support::postgres::USER;
use crate::support::raw::Client;
use crate::support::stagedoor::Stagedoor;

/// One server is held, one is left to share.
const ONE: &str = "pool: { maxServers: 2 }";
const SCHEMAS: &str = "create schema catalog; create schema search; create table catalog.whose as select 'catalog' as name; \
                       create table search.whose as select 'search' as name";

/// Every client in turn does its part of each round.
fn in_turn(clients: &mut [Client], rounds: &[&[&str]]) {
    for round in rounds {
        for (client, sql) in clients.iter_mut().zip(*round) {
            client.query(sql);
        }
    }
}

#[test]
fn search_path_role_time_zone_and_name_stay_with_their_client() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, ONE);
    let worlds = Worlds::new(cluster, &stagedoor, "settings", SCHEMAS);
    let role = format!("set role {ROLE}");
    worlds.same_with(&|target| target, 3, |clients| {
        in_turn(
            clients,
            &[
                &["set search_path to catalog", "set search_path to search, public", "select 1"],
                &["select * from whose", "select * from whose", "select * from whose"],
                &[&role, "set timezone to 'Asia/Tokyo'", "set application_name to 'third'"],
                &["select current_user, session_user", "show timezone", "show application_name"],
                &["show timezone", "select current_user", "show search_path"],
                &["reset role", "reset timezone", "reset application_name"],
                &["select current_user", "show timezone", "show application_name"],
                &["set work_mem to '7MB'", "set work_mem to '9MB'", "show work_mem"],
                &["show work_mem", "show work_mem", "show work_mem"],
                &["reset all", "discard all", "show work_mem"],
                &["show search_path", "show work_mem", "show search_path"],
            ],
        );
    });
    assert_eq!(worlds.servers(), 1);
    worlds.end();
    stagedoor.finish();
}

#[test]
fn what_is_rolled_back_was_never_set() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 4 }");
    let worlds = Worlds::new(cluster, &stagedoor, "rolled_back", "");
    worlds.same_with(&|target| target, 2, |clients| {
        in_turn(clients, &[&["begin; set work_mem to '7MB'; show work_mem; rollback", "show work_mem"]]);
        in_turn(clients, &[&["begin; set local work_mem to '8MB'; show work_mem; commit", "show work_mem"]]);
        in_turn(
            clients,
            &[&[
                "begin; set work_mem to '9MB'; savepoint s; set work_mem to '10MB'; rollback to s; commit",
                "show work_mem",
            ]],
        );
        in_turn(clients, &[&["show work_mem", "select set_config('work_mem', '11MB', false)"]]);
        in_turn(
            clients,
            &[&[
                "begin; set work_mem to '12MB'; savepoint s; set work_mem to '14MB'; rollback",
                "show work_mem",
            ]],
        );
        in_turn(clients, &[&["show work_mem", "select set_config('work_mem', '13MB', true); show work_mem"]]);
        in_turn(clients, &[&["set work_mem to 'nonsense'", "set nonsense to 1"]]);
        in_turn(clients, &[&["show work_mem", "show work_mem"]]);
        in_turn(clients, &[&["set my.setting to 'mine'", "set my.setting to 'yours'"]]);
        in_turn(clients, &[&["show my.setting", "show my.setting"]]);
        in_turn(
            clients,
            &[&[
                "set session characteristics as transaction read only",
                "show default_transaction_read_only",
            ]],
        );
        in_turn(clients, &[&["create table x (n int)", "create table y (n int)"]]);
        in_turn(clients, &[&["set session authorization postgres", "set role nobody"]]);
        in_turn(clients, &[&["select current_user", "select current_user"]]);
        in_turn(clients, &[&["set datestyle to 'German'", "select date '2026-01-02'"]]);
        in_turn(clients, &[&["select date '2026-01-02'", "set client_encoding to 'LATIN1'"]]);
        in_turn(clients, &[&["select 'é'", "show client_encoding"]]);
    });
    worlds.end();
    stagedoor.finish();
}

#[test]

fn the_parameters_of_the_start_up_packet_are_settings_and_reset_goes_back_to_them() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, ONE);
    let worlds = Worlds::new(cluster, &stagedoor, "packet", SCHEMAS);
    worlds.same_with(
        &|target| {
            target
                .with("application_name", "backstage_plugin_catalog")
                .with("TimeZone", "Europe/Berlin")
                .with("options", "-c work_mem=9MB -c search_path=catalog,public")
                .with("statement_timeout", "60s")
                .with("client_encoding", "UTF8")
        },
        1,
        |clients| {
            for sql in [
                "show work_mem",
                "select * from whose",
                "show timezone",
                "show statement_timeout",
                "select application_name from pg_stat_activity where pid = pg_backend_pid()",
                "set timezone to 'UTC'; set work_mem to '5MB'; set application_name to 'other'",
                "show timezone",
                "reset timezone",
                "show timezone",
                "discard all",
                "show work_mem",
                "show application_name",
                "set work_mem to default",
                "show work_mem",
            ] {
                clients[0].query(sql);
            }
        },
    );
    worlds.end();
    stagedoor.finish();
}

#[test]
fn a_wrong_parameter_in_the_start_up_packet_gets_postgresqls_own_words() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "");
    let told = [cluster.direct("postgres"), stagedoor.target("postgres")].map(|target| {
        [("TimeZone", "Nowhere/Land"), ("nonsense", "1"), ("options", "-c nonsense=1"), ("DateStyle", "x")]
            .map(|(name, value)| {
                let refused = Client::connect(&target.clone().with(name, value)).err();
                refused.map(|refused| (refused.sqlstate, refused.message))
            })
    });
    assert_eq!(told[1], told[0]);
    stagedoor.finish();
}

#[test]
fn clients_with_different_start_up_packets_share_a_server() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, ONE);
    let database = cluster.database("packets");
    let target = stagedoor.target(&database);
    let mut holder = stagedoor.connect(&database);
    holder.rows("begin");
    let mut clients = ["catalog", "scaffolder", "search"].map(|plugin| {
        let name = format!("backstage_plugin_{plugin}");
        let client = Client::connect(&target.clone().with("application_name", &name)).expect("a login");
        (name, client)
    });
    for _ in 0..5 {
        for (name, client) in &mut clients {
            let sql = "select application_name from pg_stat_activity where pid = pg_backend_pid()";
            assert_eq!(&client.value(sql), name);
            assert_eq!(&client.value("show application_name"), name);
        }
    }
    assert_eq!(cluster.open(&database).0, 2);
    assert!(stagedoor.metric("stagedoor_pins_total", &[]) < 1.0, "settings are shared, not pinned");
    drop((clients, holder));
    stagedoor.finish();
}

const HIDDEN: &str = "create function enter(tenant text) returns text language plpgsql as $$ begin \
     perform set_config('app.tenant', tenant, false), set_config('work_mem', length(tenant) || 'MB', false); \
     return tenant; end $$";

#[test]
fn a_function_that_hides_what_it_sets_is_asked_about_where_the_operator_has_named_it() {
    let cluster = Cluster::shared();
    let watch = "pool: { maxServers: 2, watch: { functions: [enter], settings: [app.tenant] } }";
    let stagedoor = Stagedoor::start(cluster, watch);
    let worlds = Worlds::new(cluster, &stagedoor, "hidden", HIDDEN);
    worlds.same_with(&|target| target, 3, |clients| {
        for (number, client) in clients.iter_mut().enumerate() {
            client.query(&format!("select Enter('{}')", "tenant".repeat(1 + number)));
        }
        for _ in 0..3 {
            for client in &mut *clients {
                client.query("select current_setting('app.tenant', true), current_setting('work_mem')");
            }
        }
        clients[0].query("begin; select enter('nobody'); rollback");
        clients[1].extended("select \"enter\"($1)", &[Some("by parameter")]);
        for client in &mut *clients {
            client.query("select current_setting('app.tenant', true), current_setting('work_mem')");
        }
    });
    assert_eq!(worlds.servers(), 1, "settings are shared, not pinned");
    worlds.end();
    stagedoor.finish();
}

#[test]
fn values_travel_in_whatever_encoding_their_client_has() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, ONE);
    let worlds = Worlds::new(cluster, &stagedoor, "encodings", "");
    // The second byte of this character is a backslash in Shift JIS, and 0x5C5C would be an escaped one.
    let rows: [(&str, &[u8]); 4] = [
        ("SJIS", b"\x83\x5c"),
        ("LATIN1", b"\xe9'\\"),
        ("UTF8", "ソ\\'é".as_bytes()),
        ("EUC_JP", b"\xa5\xbd\\"),
    ];
    worlds.same_with(&|target| target, rows.len(), |clients| {
        for (client, (encoding, value)) in clients.iter_mut().zip(rows) {
            client.query(&format!("set client_encoding to '{encoding}'"));
            let bound =
                [b"\0\0\0\0\0\x01", &u32::try_from(value.len()).unwrap().to_be_bytes()[..], value, b"\0\0"];
            let frames = [
                frames::parse("", "select set_config('my.word', $1, false)", &[]),
                frames::frame(b'B', &bound.concat()),
                frames::execute("", 0),
                frames::sync(),
            ];
            client.send(&frames.concat());
            client.ready();
        }
        for _ in 0..2 {
            for client in &mut *clients {
                client.query("select current_setting('my.word'), length(current_setting('my.word'))");
            }
        }
    });
    assert_eq!(worlds.servers(), 1, "settings are shared, not pinned");
    worlds.end();
    stagedoor.finish();
}

#[test]
fn what_sessions_begin_with_is_for_those_that_begin_later() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { maxServers: 8 }");
    let worlds = Worlds::new(cluster, &stagedoor, "defaults", "");
    worlds.same_with(&|target| target, 2, |clients| {
        let [before, owner] = clients else { panic!("two clients") };
        before.query("show work_mem");
        let database = owner.target().database.clone();
        let shown = "select current_setting('work_mem'), current_setting('TimeZone')";
        let alters = ["set work_mem to '7MB'", "set timezone to 'Asia/Tokyo'", "reset all"];
        for alter in alters {
            owner.query(&format!("alter database \"{database}\" {alter}"));
            let mut later = Client::connect(owner.target()).expect("a login");
            later.query(shown);
            before.query(shown);
            later.query(shown);
            later.query("set work_mem to '1MB'; reset work_mem");
            later.query(shown);
            before.transcript.append(&mut later.transcript);
            later.leave();
        }
        owner.query(&format!("begin; alter database \"{database}\" set work_mem to '8MB'; rollback"));
        let mut later = Client::connect(owner.target()).expect("a login");
        later.query(shown);
        before.transcript.append(&mut later.transcript);
        later.leave();
    });
    worlds.end();
    stagedoor.finish();
}

#[test]
fn who_a_superuser_chooses_to_be_stays_with_it() {
    let cluster = Cluster::start(30);
    cluster.admin(&format!("alter role {USER} superuser; create role plain; create role other superuser"));
    let stagedoor = Stagedoor::start(&cluster, ONE);
    let worlds = Worlds::new(
        &cluster,
        &stagedoor,
        "authorization",
        "create table t (a int); grant select on t to plain",
    );
    let who = "select session_user, current_user, current_setting('role'), current_setting('is_superuser')";
    worlds.same_with(&|target| target, 3, |clients| {
        for sql in [
            "set session authorization plain",
            "set role other",
            "set session authorization other; set role plain",
        ] {
            for client in &mut *clients {
                client.query(who);
            }
            clients[0].query(sql);
            clients[1].query("select count(*) from t; insert into t values (1)");
            clients[0].query("insert into t values (2)");
            clients[0].query(who);
            clients[2].query(&format!("begin; {sql}; rollback"));
            for client in &mut *clients {
                client.query(who);
            }
            clients[0].query("reset session authorization");
            clients[0].query(who);
            clients[0].query("reset role");
        }
        clients[1].query(
            "set session authorization plain; set work_mem to '3MB'; set session_replication_role to replica",
        );
        clients[1].query("reset all");
        clients[1].query("discard all");
        for client in &mut *clients {
            client.query(who);
        }
    });
    assert_eq!(worlds.servers(), 1, "settings are shared, not pinned");
    worlds.end();
    stagedoor.finish();
}
