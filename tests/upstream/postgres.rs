//! A real PostgreSQL asks for each kind of proof, and is cancelled over the same TLS.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use rcgen::CertificateParams;
use rcgen::DnType;
use rcgen::ExtendedKeyUsagePurpose;
use rcgen::KeyPair;
use stagedoor::config::model::Address;
use stagedoor::config::model::AuthMethod;
use stagedoor::config::model::ChannelBinding;
use stagedoor::config::model::ClientCertificate;
use stagedoor::config::model::Pem;
use stagedoor::config::model::Roots;
use stagedoor::config::model::TlsMode;
use stagedoor::config::model::Upstream;
use stagedoor::config::secret::Secret;
use stagedoor::server::connect::Dialer;
use stagedoor::server::connect::Stage;
use stagedoor::server::connection::ExchangeError;
use stagedoor::server::connection::Server;

use crate::scripted;
use crate::scripted::Authority;
use crate::support::front::Front;
use crate::support::front::Play;
use crate::support::front::is_tls;
use crate::support::postgres::PASSWORD;
use crate::support::postgres::Postgres;
use crate::support::postgres::USER;

fn upstream(postgres: &Postgres) -> Upstream {
    let ca = fs::read_to_string(&postgres.ca).unwrap();
    let connect_timeout = Duration::from_secs(10);
    Upstream { connect_timeout, ..scripted::upstream(postgres.port, "localhost", &ca) }
}

/// Logs in as `user` and asks who it is and whether the session is TLS.
async fn who_am_i(upstream: Upstream, user: &str) -> Result<String, String> {
    let dialer = Arc::new(Dialer::new(Arc::new(upstream)).map_err(|error| error.to_string())?);
    let password = Secret::new(PASSWORD.to_owned());
    let connected =
        dialer.connect("postgres", user, Some(&password)).await.map_err(|error| error.to_string())?;
    let version = connected.tls.as_ref().map(|tls| (tls.version.clone(), tls.verified));
    let mut server = Server::new(connected, dialer, "postgres", Duration::from_secs(60)).await.unwrap();
    let sql = b"SELECT current_user || ' ' || ssl || ' ' || coalesce(client_dn, '-') FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let rows = server.exchange(sql, &mut Vec::new()).await.unwrap();
    server.close().await;
    Ok(format!("{} {version:?}", String::from_utf8_lossy(&rows[0][6..])))
}

/// A cluster in which each user proves itself in its own way.
fn cluster(clients: &Authority) -> Postgres {
    let ca = tempfile::NamedTempFile::new().unwrap();
    fs::write(ca.path(), &clients.pem).unwrap();
    let postgres = Postgres::start(&[("password_encryption", "scram-sha-256")]);
    let client_ca = postgres.data().join("clients.crt");
    fs::copy(ca.path(), &client_ca).unwrap();
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(&client_ca, readable).unwrap();
    for (user, encryption) in [
        ("hashed", "md5"),
        ("plain", "scram-sha-256"),
        ("carded", "scram-sha-256"),
        ("twofold", "scram-sha-256"),
    ] {
        postgres.sql(
            "postgres",
            &format!(
                "SET password_encryption = '{encryption}'; CREATE ROLE {user} LOGIN PASSWORD '{PASSWORD}'"
            ),
        );
    }
    let hba = "local all all trust\nhostssl all hashed 127.0.0.1/32 md5\nhostssl all plain 127.0.0.1/32 password\n\
               hostssl all carded 127.0.0.1/32 cert\nhostssl all twofold 127.0.0.1/32 scram-sha-256 clientcert=verify-full\n\
               hostssl all all 127.0.0.1/32 scram-sha-256\n";
    fs::write(postgres.data().join("pg_hba.conf"), hba).unwrap();
    postgres.sql("postgres", "ALTER SYSTEM SET ssl_ca_file = 'clients.crt'");
    postgres.ctl("restart");
    postgres
}

fn card(clients: &Authority, user: &str) -> ClientCertificate {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, user);
    params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    let chain = params.signed_by(&key, &clients.issuer()).unwrap().pem();
    ClientCertificate {
        chain: Pem { text: chain, origin: "ssl.cert".to_owned() },
        key: Secret::new(key.serialize_pem()),
        key_origin: "ssl.key".to_owned(),
    }
}

#[tokio::test]
async fn a_real_postgresql_gets_the_proof_that_it_asks_for_where_it_is_allowed() {
    let clients = Authority::new();
    let postgres = cluster(&clients);
    let with = |bend: &dyn Fn(&mut Upstream)| {
        let mut upstream = upstream(&postgres);
        bend(&mut upstream);
        upstream
    };
    let bound = with(&|upstream| upstream.tls.channel_binding = ChannelBinding::Require);
    assert_eq!(who_am_i(bound, USER).await.unwrap(), format!("{USER} true - Some((\"TLSv1.3\", true))"));
    let unbound = with(&|upstream| upstream.tls.channel_binding = ChannelBinding::Disable);
    assert!(who_am_i(unbound, USER).await.is_ok());
    for (user, method) in [("hashed", AuthMethod::Md5), ("plain", AuthMethod::Password)] {
        let refused = who_am_i(with(&|_| ()), user).await.expect_err(user);
        assert!(refused.contains("not allowed"), "{refused}");
        let allowed = with(&|upstream| upstream.auth.allow = [method].into());
        assert!(who_am_i(allowed, user).await.unwrap().starts_with(&format!("{user} true")));
    }
    for user in ["carded", "twofold"] {
        let without = who_am_i(with(&|_| ()), user).await.expect_err(user);
        assert!(without.contains("28000") || without.contains("28P01"), "{without}");
        let carrying = with(&|upstream| upstream.tls.client_certificate = Some(card(&clients, user)));
        assert!(who_am_i(carrying, user).await.unwrap().contains(&format!("CN={user}")));
    }
    let blind = with(&|upstream| {
        upstream.tls.mode = TlsMode::InsecureNoVerify;
        upstream.tls.roots =
            Roots::Only(vec![Pem { text: clients.pem.clone(), origin: "another".to_owned() }]);
    });
    assert!(who_am_i(blind, USER).await.unwrap().ends_with("Some((\"TLSv1.3\", false))"));
    let plaintext = with(&|upstream| upstream.tls.mode = TlsMode::InsecurePlaintext);
    let refused = who_am_i(plaintext, USER).await.expect_err("the server wants TLS");
    assert!(refused.contains("28000") && refused.contains("no encryption"), "{refused}");
}

#[tokio::test]
async fn what_postgresql_says_at_login_is_passed_on() {
    let postgres = Postgres::start(&[("ssl_min_protocol_version", "TLSv1.3")]);
    let dialer = Dialer::new(Arc::new(upstream(&postgres))).unwrap();
    let (right, wrong) = (Secret::new(PASSWORD.to_owned()), Secret::new("wrong".to_owned()));
    let rows = [
        (
            "postgres",
            &wrong,
            Stage::Auth,
            "28P01",
            format!("password authentication failed for user \"{USER}\""),
        ),
        ("nowhere", &right, Stage::Startup, "3D000", "database \"nowhere\" does not exist".to_owned()),
    ];
    for (database, password, stage, sqlstate, message) in rows {
        let error = dialer.connect(database, USER, Some(password)).await.expect_err(database);
        assert_eq!((error.stage, error.refusal().sqlstate()), (stage, sqlstate));
        assert_eq!(error.refusal().message(), message);
        assert!(!error.is_retryable());
    }
    postgres.ctl("stop");
    let error = dialer.connect("postgres", USER, Some(&right)).await.expect_err("nobody is there");
    assert!(error.is_retryable() && error.stage == Stage::Tcp, "{error}");
}

#[tokio::test]
async fn behind_the_preamble_nothing_but_tls_is_ever_sent_and_cancels_are_no_exception() {
    let postgres = Postgres::start(&[]);
    let front = Front::new(Play::Pass(postgres.port));
    let mut through = upstream(&postgres);
    through.address = Address::Tcp { host: "localhost".to_owned(), port: front.port };
    let dialer = Arc::new(Dialer::new(Arc::new(through)).unwrap());
    let password = Secret::new(PASSWORD.to_owned());
    let connected = dialer.connect("postgres", USER, Some(&password)).await.unwrap();
    let mut server =
        Server::new(connected, dialer.clone(), "postgres", Duration::from_secs(60)).await.unwrap();
    let target = server.target.clone();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    let mut nothing = Vec::new();
    let sleeping = server.exchange(b"SELECT pg_sleep(60)", &mut nothing);
    let cancelling = async {
        let busy =
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'";
        while postgres.sql("postgres", busy) == "0" {
            assert!(tokio::time::Instant::now() < deadline, "the statement does not run");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        target.signal().await.unwrap();
    };
    let (slept, ()) = tokio::join!(sleeping, cancelling);
    assert!(matches!(slept, Err(ExchangeError::Refused(refusal)) if refusal.sqlstate() == "57014"));
    server.close().await;
    let tapes = front.take();
    assert_eq!(tapes.len(), 2, "a login and a cancel");
    for tape in tapes {
        assert_eq!(&tape.wire[..8], &[0, 0, 0, 8, 4, 210, 22, 47], "SSLRequest");
        assert!(is_tls(&tape.wire[8..]) && tape.wire.len() > 200, "we said something else than TLS");
        assert_eq!(tape.sent[0], b'S');
        assert!(is_tls(&tape.sent[1..]), "the server said something else than TLS");
        assert!(!tape.heard(USER.as_bytes()));
    }
}
