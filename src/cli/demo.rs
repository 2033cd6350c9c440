//! `stagedoor demo`: the whole of it on one machine, with everything shown and nothing left behind.

use std::env;
use std::fs;
use std::time::Duration;

use http_body_util::BodyExt;
use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::select;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::time::sleep;

use crate::cli::arguments::DemoArguments;
use crate::cli::arguments::complain;
use crate::cli::arguments::say;
use crate::cli::child::DemoError;
use crate::cli::child::command;
use crate::cli::child::end;
use crate::cli::child::output;
use crate::cli::child::spawn;
use crate::cli::exit::Exit;
use crate::cli::throwaway::Postgres;
use crate::cli::throwaway::Scratch;
use crate::cli::throwaway::USER;
use crate::cli::throwaway::free_port;

/// Databases as Backstage names them.
const DATABASES: [&str; 3] =
    ["backstage_plugin_catalog", "backstage_plugin_scaffolder", "backstage_plugin_search"];

/// Clients at a time in the part about pooling, for each database.
const CLIENTS: usize = 8;

/// The budget of the demo: fewer than clients, so that there is something to see.
const SERVERS_MAX: usize = 4;

/// What is shown of the metrics.
const SHOWN: [&str; 8] = [
    "stagedoor_upstream_up",
    "stagedoor_tls_verified",
    "stagedoor_tls_info",
    "stagedoor_server_budget",
    "stagedoor_server_connections{",
    "stagedoor_server_connections_opened_total",
    "stagedoor_client_connections_total",
    "stagedoor_acquire_seconds_count",
];

const STEP: Duration = Duration::from_millis(100);
const STEPS_MAX: usize = 300;

/// Everything that has to be ended.
#[derive(Default)]
struct Stage {
    sidecar: Option<Child>,
    postgres: Option<Postgres>,
    scratch: Option<Scratch>,
}

/// Where the sidecar listens.
#[derive(Clone, Copy)]
struct Ports {
    listen: u16,
    admin: u16,
}

pub(super) fn run(arguments: &DemoArguments) -> Exit {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("the runtime cannot start: {error}"));
            return Exit::Failure;
        }
    };
    runtime.block_on(async {
        let mut stage = Stage::default();
        let result = select! {
            result = story(&mut stage, arguments.once) => result,
            () = interrupted() => {
                say("\n");
                Ok(())
            }
        };
        if let Err(error) = &result {
            complain(&error.to_string());
            stage.show_logs();
        }
        let cleared = stage.clear().await;
        match (result, cleared) {
            (Ok(()), true) => Exit::Success,
            (Ok(()), false) | (Err(_), _) => Exit::Failure,
        }
    })
}

/// Waits for Ctrl-C or SIGTERM.
async fn interrupted() {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

async fn story(stage: &mut Stage, once: bool) -> Result<(), DemoError> {
    title("A throw-away PostgreSQL with a CA of its own, that lets nobody in without TLS");
    let scratch = stage.scratch.insert(Scratch::new()?);
    let postgres = stage.postgres.insert(Postgres::start(scratch).await?);
    let version = output("psql", postgres.psql_direct(scratch).arg("SHOW server_version")).await?;
    say(&format!("PostgreSQL {version} on localhost:{}\n", postgres.port));
    show_that_plaintext_is_refused(postgres).await?;

    title("The sidecar before it, with Backstage's own configuration");
    let ports = Ports { listen: free_port()?, admin: free_port()? };
    say(&configuration(postgres.port, ports));
    let file = scratch.write("app-config.yaml", &configuration(postgres.port, ports))?;
    let program =
        env::current_exe().map_err(|source| DemoError::Files { what: "our own path".to_owned(), source })?;
    let mut sidecar = command(&program);
    sidecar.arg("run").arg("--config").arg(file);
    let sidecar = stage.sidecar.insert(spawn(&mut sidecar, &scratch.path("stagedoor.log"))?);
    started(sidecar, ports.admin).await?;

    title("Queries in plaintext to the sidecar; the session behind it is TLS");
    for database in DATABASES {
        let sql = format!("CREATE DATABASE {database}");
        output("CREATE DATABASE through the sidecar", postgres.psql_plain(ports.listen, "postgres").arg(sql))
            .await?;
    }
    show_tls(postgres, ports).await?;

    title("Many clients, few servers");
    show_pool(postgres, scratch, ports).await?;

    title("Metrics");
    show_metrics(ports.admin).await?;
    if once {
        return Ok(());
    }
    say(&invitation(ports, scratch, postgres.password.expose()));
    std::future::pending().await
}

fn title(text: &str) {
    say(&format!("\n── {text}\n"));
}

/// The file that both Backstage and the sidecar would get.
fn configuration(server: u16, ports: Ports) -> String {
    let Ports { listen, admin } = ports;
    format!(
        "backend:
  database:
    client: pg
    connection:
      host: localhost
      port: {server}
      user: {USER}
      password: {{ $file: password }}
      ssl:
        ca: {{ $file: ca.crt }}
stagedoor:
  listen: {{ port: {listen} }}
  pool: {{ maxServers: {SERVERS_MAX} }}
  admin: {{ host: 127.0.0.1, port: {admin} }}
"
    )
}

async fn show_that_plaintext_is_refused(postgres: &Postgres) -> Result<(), DemoError> {
    match output("psql", postgres.psql_plain(postgres.port, "postgres").arg("SELECT 1")).await {
        Err(DemoError::Failed { output, .. }) => {
            say(&format!("without TLS: {}\n", output.lines().last().unwrap_or_default()));
            Ok(())
        }
        Err(error) => Err(error),
        Ok(_) => Err(failed("the throw-away PostgreSQL", "it let somebody in without TLS")),
    }
}

/// Waits until the sidecar is ready.
async fn started(sidecar: &mut Child, admin: u16) -> Result<(), DemoError> {
    for _ in 0..STEPS_MAX {
        if let Ok(Some(status)) = sidecar.try_wait() {
            return Err(failed("the sidecar", &format!("it ended at once: {status}")));
        }
        if let Ok((200, body)) = get(admin, "/readyz").await {
            say(&body);
            return Ok(());
        }
        sleep(STEP).await;
    }
    Err(DemoError::TimedOut { what: "the start of the sidecar".to_owned() })
}

async fn show_tls(postgres: &Postgres, ports: Ports) -> Result<(), DemoError> {
    let sql = "SELECT current_database(), ssl, version, cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    say(&format!("{sql}\n"));
    for database in DATABASES {
        let row = output("psql", postgres.psql_plain(ports.listen, database).arg(sql)).await?;
        say(&format!("  {row}\n"));
        if !row.starts_with(&format!("{database} | t | TLS")) {
            return Err(failed("the query", "this session is not TLS"));
        }
    }
    Ok(())
}

/// Runs more clients than there are servers in the budget and counts what PostgreSQL saw.
async fn show_pool(postgres: &Postgres, scratch: &Scratch, ports: Ports) -> Result<(), DemoError> {
    let mut clients = Vec::new();
    for number in 0..CLIENTS * DATABASES.len() {
        let database = DATABASES.get(number % DATABASES.len()).copied().unwrap_or_default();
        let mut psql = postgres.psql_plain(ports.listen, database);
        psql.arg("SELECT pg_sleep(0.2)").arg("-c").arg("SELECT 1");
        clients.push(tokio::spawn(async move { output("a client", &mut psql).await.map(|_| ()) }));
    }
    let count = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' \
                 AND pid <> pg_backend_pid()";
    let mut most = 0;
    while !clients.iter().all(tokio::task::JoinHandle::is_finished) {
        let now = output("psql", postgres.psql_direct(scratch).arg(count)).await?;
        most = most.max(now.parse().unwrap_or(0));
        sleep(STEP / 4).await;
    }
    let all = clients.len();
    for client in clients {
        client.await.map_err(|error| failed("a client", &error.to_string()))??;
    }
    say(&format!("{all} clients at once; at most {most} server connections; the budget is {SERVERS_MAX}\n"));
    if most > SERVERS_MAX {
        return Err(failed("the pool", "PostgreSQL saw more connections than the budget allows"));
    }
    Ok(())
}

async fn show_metrics(admin: u16) -> Result<(), DemoError> {
    let (_, body) = get(admin, "/metrics").await?;
    for line in body.lines().filter(|line| SHOWN.iter().any(|shown| line.starts_with(shown))) {
        say(&format!("{line}\n"));
    }
    if body.lines().any(|line| line.starts_with("stagedoor_tls_verified{") && line.ends_with(" 1")) {
        return Ok(());
    }
    Err(failed("the metrics", "stagedoor_tls_verified is not 1"))
}

fn invitation(ports: Ports, scratch: &Scratch, password: &str) -> String {
    let Ports { listen, admin } = ports;
    format!(
        "
It stays until Ctrl-C. Try:
  psql 'postgresql://{USER}:{password}@127.0.0.1:{listen}/{}?sslmode=disable'
  curl http://127.0.0.1:{admin}/metrics
  tail -f {}
",
        DATABASES[0],
        scratch.path("stagedoor.log").display()
    )
}

fn failed(what: &str, output: &str) -> DemoError {
    DemoError::Failed { what: what.to_owned(), output: output.to_owned() }
}

/// Status and body of a page on the admin port.
async fn get(admin: u16, path: &str) -> Result<(u16, String), DemoError> {
    let wrong = |reason: String| failed("the admin port", &reason);
    let stream = TcpStream::connect(("127.0.0.1", admin)).await.map_err(|error| wrong(error.to_string()))?;
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| wrong(error.to_string()))?;
    let request = Request::get(path).header("host", "localhost").body(Empty::<Bytes>::new());
    let request = request.map_err(|error| wrong(error.to_string()))?;
    let exchange = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await?.to_bytes();
        drop(sender);
        Ok::<_, hyper::Error>((status, String::from_utf8_lossy(&body).into_owned()))
    };
    let (answer, _) = tokio::join!(exchange, connection);
    answer.map_err(|error| wrong(error.to_string()))
}

impl Stage {
    /// What the children said, for the person who has to find out why it failed.
    fn show_logs(&self) {
        for name in ["stagedoor.log", "postgres.log"] {
            let Some(scratch) = &self.scratch else { return };
            let log = fs::read_to_string(scratch.path(name)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines.get(lines.len().saturating_sub(20)..).unwrap_or_default();
            complain(&format!("the end of {name}:\n{}", last.join("\n")));
        }
    }

    /// Ends everything, the sidecar first. Returns whether the sidecar ended with 0.
    async fn clear(mut self) -> bool {
        let mut good = true;
        if let Some(mut sidecar) = self.sidecar.take() {
            let code = end(&mut sidecar, "TERM").await;
            good = code == Some(0);
            if !good {
                complain(&format!("the sidecar ended with {code:?} instead of 0"));
            }
        }
        if let Some(postgres) = self.postgres.take() {
            postgres.stop().await;
        }
        drop(self.scratch.take());
        say("ended, and nothing is left behind\n");
        good
    }
}
