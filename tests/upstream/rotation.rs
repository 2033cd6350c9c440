//! Everything that can be replaced is replaced while fifty clients are busy: nobody notices. What is broken is not taken
//! over: nobody notices that either, but the operator is told.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::support::crowd::Crowd;
use crate::support::mount::Manner;
use crate::support::mount::Mount;
use crate::support::postgres::PASSWORD;
use crate::support::postgres::Postgres;
use crate::support::postgres::USER;
use crate::support::postgres::is_root;
use crate::support::raw::Raw;
use crate::support::signer::Card;
use crate::support::signer::Signer;
use crate::support::signer::seconds;
use crate::support::stagedoor::Stagedoor;
use crate::support::wait::until;

const CLIENTS: usize = 50;

const LIMIT: Duration = Duration::from_secs(30);

/// New server connections that must have come about before a rotation counts as survived.
const OPENED: f64 = 3.0;

/// More databases than servers, so that servers are closed and opened all the time.
const DATABASES: usize = 6;

const NOT_AFTER: &str = "stagedoor_tls_certificate_not_after_timestamp_seconds";

/// A PostgreSQL that wants a client certificate and a password, a sidecar whose every file may change, and a crowd.
struct Scene {
    postgres: Postgres,
    mount: Mount,
    sidecar: Stagedoor,
    crowd: Crowd,
    pki: Pki,
}

/// Who signed what.
struct Pki {
    servers: Signer,
    clients: Signer,
    first_server: Card,
    first_client: Card,
}

impl Pki {
    fn new() -> Self {
        let (servers, clients) = (Signer::new("servers", 2041), Signer::new("clients", 2041));
        let (first_server, first_client) = (servers.server(1, 2031), clients.client(USER, 1, 2031));
        Self { servers, clients, first_server, first_client }
    }
}

fn connection(port: u16, more: &str) -> String {
    format!(
        "host: localhost\nport: {port}\nuser: {USER}\npassword: {{ $file: password }}\n\
         ssl: {{ ca: {{ $file: ca.pem }}, cert: {{ $file: client.crt }}, key: {{ $file: client.key }}{more} }}\n"
    )
}

fn app_config(more: &str) -> String {
    format!(
        "backend: {{ database: {{ client: pg, connection: {{ $include: connection.yaml }} }} }}\n\
         stagedoor:\n  listen: {{ port: 0 }}\n  admin: {{ host: 127.0.0.1, port: 0 }}\n  log: {{ format: json }}\n  \
         reload: {{ interval: 100ms }}\n  tls: {{ crl: [crl.pem] }}\n  \
         pool: {{ maxServers: 5, maxLifetime: 1s, connectTimeout: 20s }}\n{more}"
    )
}

impl Scene {
    fn new(manner: Manner) -> Self {
        let pki = Pki::new();
        let postgres = Postgres::start(&[]);
        place(postgres.socket(), "clients.pem", &pki.clients.pem);
        place(postgres.socket(), "clients.crl", &pki.clients.revokes(&[]));
        let hba = "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-full\n";
        fs::write(postgres.data().join("pg_hba.conf"), hba).unwrap();
        for (setting, file) in [("ssl_ca_file", "clients.pem"), ("ssl_crl_file", "clients.crl")] {
            let path = postgres.socket().join(file);
            postgres.sql("postgres", &format!("ALTER SYSTEM SET {setting} = '{}'", path.display()));
        }
        show(&postgres, &pki.first_server);
        let mount = Mount::new(
            manner,
            &[
                ("app-config.yaml", &app_config("")),
                ("connection.yaml", &connection(postgres.port, "")),
                ("password", PASSWORD),
                ("ca.pem", &pki.servers.pem),
                ("crl.pem", &pki.servers.revokes(&[])),
                ("client.crt", &pki.first_client.certificate),
                ("client.key", &pki.first_client.key),
            ],
        );
        let sidecar = Stagedoor::with_files(&[mount.path("app-config.yaml")], &[]);
        let databases: Vec<_> = (0..DATABASES).map(|_| postgres.database("rotation")).collect();
        let crowd = Crowd::enter(CLIENTS, sidecar.port, &databases, (USER, PASSWORD));
        Self { postgres, mount, sidecar, crowd, pki }
    }

    /// A change that is taken over, and that nobody notices.
    fn good(&self, what: &str, changes: &[(&str, &str)]) {
        self.taken_over(what, changes);
        self.serves_on(what);
    }

    fn taken_over(&self, what: &str, changes: &[(&str, &str)]) {
        let before = self.count("the configuration was read again");
        self.mount.write(changes);
        until(&format!("taken over: {what}"), LIMIT, || {
            (self.count("the configuration was read again") > before).then_some(())
        });
        assert!(self.success(), "{what}");
        assert!(!self.sidecar.get("/readyz").contains("configuration:"), "{what}");
    }

    /// As [`Self::broken`], where one manner of change is enough.
    fn broken_too(&self, what: &str, changes: &[(&str, &str)], why: &str) {
        if self.mount.manner == Manner::Swap {
            self.broken(what, changes, why);
        }
    }

    /// A change that is not taken over: everything goes on as before, and the operator is told why, once. Then it is
    /// taken back.
    fn broken(&self, what: &str, changes: &[(&str, &str)], why: &str) {
        let good: Vec<_> = changes.iter().map(|(name, _)| (*name, self.mount.read(name))).collect();
        let good: Vec<_> = good.iter().map(|(name, text)| (*name, text.as_str())).collect();
        self.refused(what, changes, why);
        self.taken_over(&format!("{what}, taken back"), &good);
    }

    fn refused(&self, what: &str, changes: &[(&str, &str)], why: &str) {
        let before = self.count("the old one stays in force");
        self.mount.write(changes);
        until(&format!("refused: {what}"), LIMIT, || {
            let log = self.sidecar.log();
            let told = log.lines().filter(|line| line.contains("the old one stays in force"));
            told.skip(before).any(|line| line.contains(why)).then_some(())
        });
        assert!(!self.success(), "{what}");
        let ready = self.sidecar.get("/readyz");
        assert!(ready.starts_with("HTTP/1.1 200") && ready.contains("configuration: "), "{what}: {ready}");
        assert!(ready.contains(why), "{what}: {ready}");
        self.serves_on(what);
        let told = self.count("the old one stays in force") - before;
        // A file that is written in two halves, or two files one after the other, may be seen in between.
        assert!(told == 1 || (self.mount.is_torn() && told < 4), "{what}: it was told {told} times");
    }

    /// New servers are opened, transactions are committed, and nobody complains.
    fn serves_on(&self, what: &str) {
        let (opened, committed) = (self.opened(), self.crowd.transactions());
        until(&format!("new servers: {what}"), LIMIT, || {
            let complaints = self.crowd.complaints();
            assert!(complaints.is_empty(), "{what}: {complaints:?}");
            (self.opened() >= opened + OPENED && self.crowd.transactions() > committed + CLIENTS)
                .then_some(())
        });
    }

    fn count(&self, words: &str) -> usize {
        self.sidecar.log().lines().filter(|line| line.contains(words)).count()
    }

    fn success(&self) -> bool {
        self.sidecar.metric("stagedoor_config_reload_success", &[]) > 0.5
    }

    fn opened(&self) -> f64 {
        self.sidecar.metric("stagedoor_server_connections_opened_total", &[])
    }

    fn not_after(&self, role: &str, year: i32) {
        let label = format!("role=\"{role}\"");
        until(&format!("the {role} of {year}"), LIMIT, || {
            let shown = self.sidecar.metric(NOT_AFTER, &[&label]);
            (shown.to_string() == seconds(year).to_string()).then_some(())
        });
    }

    fn end(self) {
        let transactions = self.crowd.transactions();
        let complaints = self.crowd.leave();
        assert!(complaints.is_empty(), "{complaints:?}");
        eprintln!("{transactions} transactions");
        self.sidecar.terminate();
    }
}

/// PostgreSQL shows this certificate to whoever comes next.
fn show(postgres: &Postgres, card: &Card) {
    place(postgres.socket(), "server.crt", &card.certificate);
    place(postgres.socket(), "server.key", &card.key);
    postgres.ctl("reload");
}

/// A file that PostgreSQL may read, and nobody else.
fn place(root: &Path, name: &str, text: &str) {
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::fs::PermissionsExt as _;
    let new = root.join(format!("{name}.new"));
    fs::write(&new, text).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
    if is_root() {
        let owner = fs::metadata(root).unwrap();
        std::os::unix::fs::chown(&new, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    fs::rename(&new, root.join(name)).unwrap();
}

fn everything_is_rotated(manner: Manner) {
    let scene = Scene::new(manner);
    scene.serves_on("the start");
    app_configs(&scene);
    passwords(&scene);
    authorities(&scene);
    client_certificates(&scene);
    revocation_lists(&scene);
    scene.end();
}

fn app_configs(scene: &Scene) {
    let port = scene.postgres.port;
    scene.good("app-config", &[("app-config.yaml", &app_config("  auth: { allow: [md5] }\n"))]);
    let wrong = app_config("  shutdown: { gracePeriod: soon }\n");
    scene.broken("app-config", &[("app-config.yaml", &wrong)], "stagedoor.shutdown.gracePeriod");
    let fixed = app_config("  shutdown: { gracePeriod: 3s }\n");
    scene.broken_too("a setting that needs a restart", &[("app-config.yaml", &fixed)], "need a restart");
    scene.good("an included file", &[("connection.yaml", &connection(port, ", minVersion: TLSv1.3"))]);
    scene.broken("an included file", &[("connection.yaml", "host: [")], "connection.yaml");
}

fn passwords(scene: &Scene) {
    let alter = |password: &str| {
        scene.postgres.sql("postgres", &format!("ALTER ROLE {USER} PASSWORD '{password}'"));
    };
    scene.broken("a wrong password", &[("password", "wrong")], "password authentication failed");
    // PostgreSQL is told first: whoever needs a new server waits for the file.
    let refused = || scene.sidecar.metric("stagedoor_connect_failures_total", &["stage=\"auth\""]);
    let before = refused();
    let second = format!("{PASSWORD}-2");
    alter(&second);
    until("PostgreSQL refuses the old password", LIMIT, || (refused() > before).then_some(()));
    scene.good("a password, PostgreSQL first", &[("password", &second)]);
    assert!(refused() < before + 20.0, "wrong passwords are tried by one login at a time");
    // The file says it first: it is tried again until PostgreSQL has been told.
    let third = format!("{PASSWORD}-3");
    scene.refused("a password, the file first", &[("password", &third)], "password authentication failed");
    alter(&third);
    until("taken over when PostgreSQL was told", LIMIT, || scene.success().then_some(()));
    scene.serves_on("a password, the file first");
    // Backstage goes on with the password of its start, and is restarted some day.
    for password in [PASSWORD, &second, &third] {
        let client = Raw::login_as(scene.sidecar.port, "postgres", (USER, password), &[]);
        assert_eq!(client.unwrap().value("SELECT 1"), "1");
    }
}

fn authorities(scene: &Scene) {
    let Pki { servers: first, .. } = &scene.pki;
    let second = Signer::new("servers, the second", 2042);
    show(&scene.postgres, &first.server(2, 2032));
    scene.not_after("leaf", 2032);
    scene.serves_on("a server certificate of the same authority");
    let both = [first.pem.as_str(), &second.pem].concat();
    let lists = [first.revokes(&[]), second.revokes(&[])].concat();
    scene.good("both authorities", &[("crl.pem", &lists), ("ca.pem", &both)]);
    scene.not_after("ca", 2041);
    show(&scene.postgres, &second.server(3, 2033));
    scene.not_after("leaf", 2033);
    scene.serves_on("a server certificate of the other authority");
    scene.good("the other authority alone", &[("ca.pem", &second.pem)]);
    scene.not_after("ca", 2042);
    scene.broken("the authority of before", &[("ca.pem", &first.pem)], "ssl.ca");
    scene.broken_too("half an authority", &[("ca.pem", second.pem.split_at(300).0)], "ca.pem");
    scene.broken_too("no authority", &[("ca.pem", "")], "ssl.ca");
    // Back to the first one, for the lists.
    scene.good("both authorities again", &[("ca.pem", &both)]);
    show(&scene.postgres, &first.server(4, 2034));
    scene.not_after("leaf", 2034);
}

fn client_certificates(scene: &Scene) {
    let clients = &scene.pki.clients;
    let second = clients.client(USER, 2, 2032);
    scene.broken("a key that is another's", &[("client.key", &second.key)], "client.key");
    let both = [("client.crt", second.certificate.as_str()), ("client.key", &second.key)];
    scene.good("a client certificate", &both);
    scene.not_after("client", 2032);
    place(scene.postgres.socket(), "clients.crl", &clients.revokes(&[&scene.pki.first_client]));
    scene.postgres.ctl("reload");
    scene.serves_on("the old client certificate is revoked");
    let first = &scene.pki.first_client;
    let revoked = [("client.crt", first.certificate.as_str()), ("client.key", &first.key)];
    scene.broken_too("a revoked client certificate", &revoked, "ertificateRevoked");
    let nobody = clients.client("nobody", 3, 2033);
    let nobody = [("client.crt", nobody.certificate.as_str()), ("client.key", &nobody.key)];
    scene.broken_too("somebody else's client certificate", &nobody, "authentication failed");
}

fn revocation_lists(scene: &Scene) {
    let (servers, current) = (&scene.pki.servers, scene.pki.servers.server(4, 2034));
    let list = servers.revokes(&[&scene.pki.first_server]);
    scene.good("a list that revokes the first server", &[("crl.pem", &list)]);
    scene.broken(
        "a list that revokes the server",
        &[("crl.pem", &servers.revokes(&[&current]))],
        "is revoked",
    );
    scene.broken_too("half a list", &[("crl.pem", list.split_at(200).0)], "crl.pem");
}

#[test]
fn files_are_replaced_by_a_rename_and_nobody_notices() {
    everything_is_rotated(Manner::Rename);
}

#[test]
fn files_are_swapped_by_kubernetes_and_nobody_notices() {
    everything_is_rotated(Manner::Swap);
}

#[test]
fn files_are_written_in_place_and_nobody_notices() {
    everything_is_rotated(Manner::Truncate);
}
