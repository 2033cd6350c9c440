//! tokio-postgres, which prepares by name and sends what is asked at once as a pipeline: straight against PostgreSQL,
//! and through stagedoor in both modes.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use futures_util::SinkExt;
use futures_util::StreamExt;
use futures_util::future::join_all;
use tokio::time::timeout;
use tokio_postgres::AsyncMessage;
use tokio_postgres::Client;
use tokio_postgres::Config;
use tokio_postgres::Error;
use tokio_postgres::IsolationLevel;
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

use crate::drivers::SESSION;
use crate::drivers::TRANSACTION;
use crate::drivers::say;
use crate::support::deadline::PATIENCE;
use crate::support::postgres::Cluster;
use crate::support::postgres::PASSWORD;
use crate::support::postgres::USER;
use crate::support::stagedoor::Stagedoor;

const ASLEEP: &str =
    "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()";

/// Notifications as a connection hears them: their channel and what they say.
type Heard = Arc<Mutex<Vec<(String, String)>>>;

async fn connect(config: &Config) -> Client {
    connect_to_hear(config).await.0
}

async fn connect_to_hear(config: &Config) -> (Client, Heard) {
    let (client, mut connection) = config.connect(NoTls).await.expect("a login");
    let heard = Heard::default();
    let ear = heard.clone();
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(it) = message {
                ear.lock().unwrap().push((it.channel().to_owned(), it.payload().to_owned()));
            }
        }
    });
    (client, heard)
}

async fn number(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.expect(sql).get(0)
}

fn state<T>(result: Result<T, Error>) -> Option<SqlState> {
    result.err().and_then(|error| error.code().cloned())
}

async fn statements_are_prepared_once_and_closed_when_they_are_dropped(config: &Config) {
    let clients = join_all((0..8).map(|_| connect(config))).await;
    join_all(clients.iter().zip(0_i32..).map(async |(client, index)| {
        let kept = client.prepare(&format!("select $1::int * {index}, 'kept'")).await.expect("a statement");
        assert_eq!(kept.columns().iter().map(|it| it.type_().name()).collect::<Vec<_>>(), ["int4", "text"]);
        for turn in 0_i32..15 {
            let passing =
                client.prepare(&format!("select $1::int + {}", turn % 3)).await.expect("a statement");
            let sum: i32 = client.query_one(&passing, &[&index]).await.expect("a sum").get(0);
            let product: i32 = client.query_one(&kept, &[&turn]).await.expect("a product").get(0);
            assert_eq!((sum, product), (index + turn % 3, turn * index));
        }
    }))
    .await;
}

async fn what_is_asked_at_once_is_answered_in_order(config: &Config) {
    let client = connect(config).await;
    let statement = client.prepare("select 100 / $1::int").await.expect("a statement");
    let divide = async |n: i32| client.query_one(&statement, &[&n]).await.map(|row| row.get::<_, i32>(0));
    for (n, answer) in (0_i32..).zip(join_all((0..60).map(|n| divide(n % 10))).await) {
        match answer {
            Ok(found) => assert_eq!(found, 100 / (n % 10)),
            Err(error) => assert_eq!((error.code(), n % 10), (Some(&SqlState::DIVISION_BY_ZERO), 0)),
        }
    }
}

async fn a_portal_gives_its_rows_in_portions(config: &Config) {
    let mut client = connect(config).await;
    let transaction = client.transaction().await.expect("a transaction");
    let sql = "select n from generate_series(1, $1::int) n";
    let statement = transaction.prepare(sql).await.expect("a statement");
    let (one, other) = (transaction.bind(&statement, &[&100]).await, transaction.bind(sql, &[&7]).await);
    let (one, other) = (one.expect("a portal"), other.expect("a portal"));
    for (portal, first, count) in [(&one, 1_i32, 30), (&other, 1, 5), (&one, 31, 30), (&other, 6, 2)] {
        let rows = transaction.query_portal(portal, if count == 30 { 30 } else { 5 }).await.expect("rows");
        assert_eq!((rows.len(), rows[0].get(0)), (count, first));
    }
    transaction.commit().await.expect("a commit");
}

async fn copy_goes_in_and_out_and_may_be_given_up(config: &Config) {
    let client = connect(config).await;
    client.batch_execute("create table copied (n int primary key)").await.expect("a table");
    let lines = (0..5000).map(|n| format!("{n}\n")).collect::<String>();
    {
        let given_up = client.copy_in::<_, Bytes>("copy copied from stdin").await.expect("a copy");
        pin!(given_up).send("1\n".into()).await.expect("a line");
    }
    assert_eq!(number(&client, "select count(*) from copied").await, 0);
    let mut sink = pin!(client.copy_in::<_, Bytes>("copy copied from stdin").await.expect("a copy"));
    for chunk in lines.as_bytes().chunks(1000) {
        sink.send(Bytes::copy_from_slice(chunk)).await.expect("a chunk");
    }
    assert_eq!(sink.finish().await.expect("the end"), 5000);
    let mut sink = pin!(client.copy_in::<_, Bytes>("copy copied from stdin").await.expect("a copy"));
    sink.send("1\n".into()).await.expect("a line");
    assert_eq!(state(sink.finish().await), Some(SqlState::UNIQUE_VIOLATION));
    let mut out = Vec::new();
    let query = "copy (select n from copied order by n) to stdout";
    let mut stream = pin!(client.copy_out(query).await.expect("a copy"));
    while let Some(chunk) = stream.next().await {
        out.extend_from_slice(&chunk.expect("a chunk"));
    }
    assert_eq!(String::from_utf8(out).unwrap(), lines);
}

async fn a_notification_reaches_who_listens(config: &Config) {
    let (listener, heard) = connect_to_hear(config).await;
    let (stranger, overheard) = connect_to_hear(config).await;
    let speaker = connect(config).await;
    listener.batch_execute("listen stage").await.expect("listening");
    for turn in 0..5 {
        let word = format!("turn {turn}");
        speaker.execute("select pg_notify('stage', $1)", &[&word]).await.expect("a notification");
        assert_eq!(number(&stranger, "select 1::int8").await, 1);
    }
    let begun = Instant::now();
    while heard.lock().unwrap().len() < 5 && begun.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let expected: Vec<_> = (0..5).map(|turn| ("stage".to_owned(), format!("turn {turn}"))).collect();
    assert_eq!((heard.lock().unwrap().clone(), overheard.lock().unwrap().len()), (expected, 0));
}

async fn a_cancel_ends_the_query_and_nothing_else(config: &Config) {
    let (sleeper, other) = (connect(config).await, connect(config).await);
    for _ in 0..3 {
        let cancel = async {
            while number(&other, ASLEEP).await == 0 {}
            sleeper.cancel_token().cancel_query(NoTls).await.expect("a cancel request");
        };
        let (slept, ()) = tokio::join!(sleeper.execute("select pg_sleep(50)", &[]), cancel);
        assert_eq!(state(slept), Some(SqlState::QUERY_CANCELED));
        assert_eq!(number(&sleeper, "select 1::int8").await, 1);
    }
}

async fn a_transaction_that_is_dropped_is_rolled_back(config: &Config) {
    let mut client = connect(config).await;
    client.batch_execute("create table dropped (n int8)").await.expect("a table");
    {
        let mut transaction = client.transaction().await.expect("a transaction");
        transaction.execute("insert into dropped values (1)", &[]).await.expect("a row");
        let savepoint = transaction.savepoint("here").await.expect("a savepoint");
        assert_eq!(state(savepoint.execute("select nonsense", &[]).await), Some(SqlState::UNDEFINED_COLUMN));
        drop(savepoint);
        transaction.execute("insert into dropped values (2)", &[]).await.expect("a row");
    }
    assert_eq!(number(&client, "select count(*) from dropped").await, 0);
    let builder = client.build_transaction().isolation_level(IsolationLevel::Serializable).read_only(true);
    let transaction = builder.start().await.expect("a transaction");
    let written = transaction.execute("insert into dropped values (1)", &[]).await;
    assert_eq!(state(written), Some(SqlState::READ_ONLY_SQL_TRANSACTION));
    transaction.rollback().await.expect("a rollback");
    client.execute("insert into dropped values (3)", &[]).await.expect("a row");
}

/// A dozen clients at once, each with a session of its own.
async fn everybody_finds_what_is_theirs(config: &Config) {
    join_all((0_i64..12).map(async |member| {
        let mut config = config.clone();
        let mut client = connect(config.application_name(format!("member {member}"))).await;
        let setup = format!(
            "create schema t{member}; set search_path to t{member}; set work_mem to '{}MB'; \
             create table whose as select {member}::int8 as whose",
            member + 1
        );
        client.batch_execute(&setup).await.expect("a session");
        let look = client
            .prepare(
                "select current_setting('application_name'), current_setting('work_mem'), whose from whose",
            )
            .await
            .expect("a statement");
        for turn in 0..15 {
            let row = client.query_one(&look, &[]).await.expect("a row");
            assert_eq!(row.get::<_, &str>(0), format!("member {member}"));
            assert_eq!(row.get::<_, &str>(1), format!("{}MB", member + 1));
            assert_eq!(row.get::<_, i64>(2), member);
            match (turn + member) % 3 {
                0 => {
                    let transaction = client.transaction().await.expect("a transaction");
                    transaction.batch_execute("set local work_mem to '99MB'").await.expect("a setting");
                    let row = transaction.query_one(&look, &[]).await.expect("a row");
                    assert_eq!(row.get::<_, &str>(1), "99MB");
                }
                1 => {
                    let take = format!("create temp table mine as select {member}::int8 as n");
                    client.batch_execute(&take).await.expect("a temporary table");
                    assert_eq!(number(&client, "select n from mine").await, member);
                    client.batch_execute("drop table mine").await.expect("no table");
                }
                _ => {
                    number(&client, "select 1::int8 from pg_advisory_lock(12)").await;
                    assert_eq!(number(&client, "select pg_advisory_unlock(12)::int::int8").await, 1);
                }
            }
        }
    }))
    .await;
}

/// All of it in a database of its own.
fn try_out(name: &str, settings: Option<&str>) {
    let cluster = Cluster::shared();
    let database = cluster.database("tokio_postgres");
    let stagedoor = settings.map(|settings| Stagedoor::start(cluster, settings));
    let mut config = Config::new();
    config.user(USER).password(PASSWORD).dbname(&database);
    // Without stagedoor through the Unix socket, because this driver has no TLS of its own.
    match &stagedoor {
        Some(stagedoor) => config.host("127.0.0.1").port(stagedoor.port),
        None => config.host_path(cluster.socket_directory()).port(cluster.port),
    };
    let begun = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        macro_rules! each {
            ($($part:ident),* $(,)?) => {
                $(timeout(PATIENCE * 4, $part(&config)).await.expect(concat!(stringify!($part), ": in time"));)*
            };
        }
        each![
            statements_are_prepared_once_and_closed_when_they_are_dropped,
            what_is_asked_at_once_is_answered_in_order,
            a_portal_gives_its_rows_in_portions,
            copy_goes_in_and_out_and_may_be_given_up,
            a_notification_reaches_who_listens,
            a_cancel_ends_the_query_and_nothing_else,
            a_transaction_that_is_dropped_is_rolled_back,
            everybody_finds_what_is_theirs,
        ];
    });
    say(&format!("tokio_postgres, {name}: {:.1} s", begun.elapsed().as_secs_f64()));
    if let Some(stagedoor) = stagedoor {
        stagedoor.finish();
    }
}

#[test]
fn without_stagedoor() {
    try_out("without stagedoor", None);
}

#[test]
fn in_transaction_mode() {
    try_out(TRANSACTION.name, TRANSACTION.settings);
}

#[test]
fn in_session_mode() {
    try_out(SESSION.name, SESSION.settings);
}
