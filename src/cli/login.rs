//! One login for `check`: how far it came, and what the server says of itself.

use std::sync::Arc;
use std::time::Duration;

use crate::cli::observe::Attempt;
use crate::cli::observe::Configured;
use crate::cli::observe::Login;
use crate::cli::observe::QUESTION;
use crate::cli::observe::ServerSeen;
use crate::cli::observe::TlsSeen;
use crate::cli::observe::Trouble;
use crate::config::model::Config;
use crate::config::model::Upstream;
use crate::server::connect::ConnectError;
use crate::server::connect::Connected;
use crate::server::connect::Dialer;
use crate::server::connect::Stage;
use crate::server::connection::Server;
use crate::tls::connector::Connector;
use crate::tls::connector::TlsFacts;
use crate::wire::backend::data_row;

/// Logs in to `upstream` as its first route does, and asks.
pub async fn log_in(upstream: Arc<Upstream>, config: &Config) -> Login {
    let Some(route) = config.routes.iter().find(|route| route.upstream == upstream) else {
        return Login::default();
    };
    let dialer = match Dialer::new(upstream.clone()) {
        Ok(dialer) => Arc::new(dialer),
        Err(error) => return Login { tls: failed(&error.to_string()), ..Login::default() },
    };
    let configured = dialer.connector.as_ref().map(Configured::of);
    let connected = dialer.connect(route.database.to_try(), &route.user, route.password.as_ref()).await;
    let login = match connected {
        Ok(connected) => logged_in(connected, dialer).await,
        Err(error) => not_logged_in(&error),
    };
    Login { configured, ..login }
}

async fn logged_in(connected: Connected, dialer: Arc<Dialer>) -> Login {
    let tls = Attempt::Done(connected.tls.as_ref().map_or(TlsSeen::Plaintext, seen));
    let authentication = Attempt::Done(format!("{}, accepted in {:.0?}", connected.method, connected.took));
    let server = ask(connected, dialer).await;
    Login { tls, authentication, server, configured: None }
}

async fn ask(connected: Connected, dialer: Arc<Dialer>) -> Attempt<ServerSeen> {
    let mut server = match Server::new(connected, dialer, "", Duration::ZERO).await {
        Ok(server) => server,
        Err(error) => return failed(&error.to_string()),
    };
    let rows = server.exchange(QUESTION.as_bytes(), &mut Vec::new()).await;
    server.close().await;
    let text = |column: Option<&[u8]>| column.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    match rows {
        Ok(rows) => rows
            .first()
            .map(|row| data_row(row).map(text).collect::<Vec<_>>())
            .and_then(|row| ServerSeen::from_row(&row))
            .map_or_else(|| failed("the server's answer cannot be read"), Attempt::Done),
        Err(error) => failed(&error.to_string()),
    }
}

/// Places the error at its stage; what comes before it went well.
fn not_logged_in(error: &ConnectError) -> Login {
    let why = error.to_string();
    let tls = error.tls.as_deref().map_or(Attempt::NotTried, |tls| Attempt::Done(seen(tls)));
    match error.stage {
        Stage::Dns | Stage::Tcp => Login { tls: failed(&why), ..Login::default() },
        Stage::Tls => {
            let trouble = Trouble { reason: why, mend: String::new(), chain: error.chain.clone() };
            Login { tls: Attempt::Failed(trouble), ..Login::default() }
        }
        Stage::Auth => Login { tls, authentication: failed(&why), ..Login::default() },
        Stage::Startup => {
            let accepted = Attempt::Done("accepted".to_owned());
            Login { tls, authentication: accepted, server: failed(&why), ..Login::default() }
        }
    }
}

fn seen(tls: &TlsFacts) -> TlsSeen {
    TlsSeen::Handshake {
        verified: tls.verified,
        version: tls.version.clone(),
        cipher: tls.cipher.clone(),
        chain: tls.chain.clone(),
    }
}

impl Configured {
    fn of(connector: &Connector) -> Self {
        Self {
            authorities: connector.authorities.clone(),
            client_certificate: connector.client_certificate.clone(),
        }
    }
}

/// The reason says what to change already.
fn failed<T>(reason: &str) -> Attempt<T> {
    let (mend, chain) = (String::new(), Vec::new());
    Attempt::Failed(Trouble { reason: reason.to_owned(), mend, chain })
}
