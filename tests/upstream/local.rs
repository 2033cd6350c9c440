//! The local side: who gets in, who is told what, and who cannot keep others out.

use std::fs;
use std::io::Read as _;
use std::io::Write as _;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use crate::support::postgres::PASSWORD;
use crate::support::postgres::Postgres;
use crate::support::postgres::USER;
use crate::support::postgres::free_port;
use crate::support::postgres::shared;
use crate::support::raw::Frame;
use crate::support::raw::Raw;
use crate::support::raw::field;
use crate::support::raw::frame;
use crate::support::raw::startup;
use crate::support::stagedoor::Stagedoor;
use crate::support::stagedoor::app_config;
use crate::support::stagedoor::command;
use crate::support::stagedoor::own;
use crate::support::wait::until;

const LIMIT: Duration = Duration::from_secs(30);

/// More connections than may be here without having proven themselves.
const MANY: usize = 300;

/// `stagedoor:` with these settings of `listen`.
fn listening(listen: &str) -> String {
    own("").replace("listen: { port: 0 }", &format!("listen: {{ {listen} }}"))
}

/// A sidecar before the shared PostgreSQL with these settings of `listen`.
fn sidecar(postgres: &Postgres, listen: &str) -> Stagedoor {
    Stagedoor::with_config(&app_config(postgres, &listening(listen)))
}

/// What becomes of a start with these settings of `listen`.
fn start(postgres: &Postgres, listen: &str) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("app-config.yaml");
    fs::write(&file, app_config(postgres, &listening(listen))).unwrap();
    let mut starting = command();
    starting.arg("run").arg("--config").arg(&file).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = starting.spawn().unwrap();
    let deadline = Instant::now() + LIMIT;
    while child.try_wait().unwrap().is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill(); // One that was not refused.
    child.wait_with_output().unwrap()
}

fn refused_start(postgres: &Postgres, listen: &str, code: i32, words: &[&str]) {
    let output = start(postgres, listen);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{listen}: {said}");
    for word in words {
        assert!(said.contains(word), "{listen}: {word} in {said}");
    }
}

/// Everything that comes until the end, as frames, behind the answers of one byte.
fn until_the_end(mut stream: impl std::io::Read) -> (String, Vec<Frame>) {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let answers = bytes.iter().take_while(|byte| **byte == b'N').count();
    let mut frames = Vec::new();
    let mut rest = &bytes[answers..];
    while let [tag, a, b, c, d, more @ ..] = rest {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize - 4;
        frames.push((*tag, more[..length].to_vec()));
        rest = &more[length..];
    }
    (String::from_utf8_lossy(&bytes[..answers]).into_owned(), frames)
}

#[test]
fn bytes_behind_a_request_for_encryption_are_refused_in_postgresqls_words() {
    let postgres = shared();
    let sidecar = sidecar(&postgres, "port: 0");
    let login = startup(0x0003_0000, &[("user", USER), ("database", "postgres")]);
    for code in [80_877_103_u32, 80_877_104] {
        let request = [&8_u32.to_be_bytes(), &code.to_be_bytes()].map(|part| part.to_vec()).concat();
        // On a Unix socket PostgreSQL declines encryption, as we do.
        let socket = postgres.socket().join(format!(".s.PGSQL.{}", postgres.port));
        let told = |rest: &[u8]| {
            let bytes = [request.as_slice(), rest].concat();
            let mut direct = UnixStream::connect(&socket).unwrap();
            direct.write_all(&bytes).unwrap();
            let mut through = Raw::open(sidecar.port).stream;
            through.write_all(&bytes).unwrap();
            [until_the_end(direct), until_the_end(through)].map(|(answers, frames)| {
                let (tag, body) = frames.first().cloned().unwrap();
                let fields = [b'S', b'V', b'C', b'M', b'D'].map(|code| field(&body, code));
                (answers, tag, fields, frames.len())
            })
        };
        let [direct, through] = told(&login);
        assert_eq!(through, direct);
        assert_eq!((through.0.as_str(), through.2[2].as_str()), ("N", "08P01"));
        let [direct, through] = told(&request);
        assert_eq!(through, direct, "the request itself, twice at once");
    }
    assert_eq!(Raw::login(sidecar.port, "postgres").value("SELECT 1"), "1");
    sidecar.terminate();
}

/// What a login that fails is told, with what is ours to choose left out: the salt, and the count of iterations.
fn failing(port: u16, user: &str) -> (Vec<(u8, String)>, String, String) {
    use postgres_protocol::authentication::sasl::ChannelBinding;
    use postgres_protocol::authentication::sasl::ScramSha256;
    let mut raw = Raw::open(port);
    raw.send(&startup(0x0003_0000, &[("user", user), ("database", "postgres")]));
    let mut scram = ScramSha256::new(b"wrong", ChannelBinding::unsupported());
    let (mut told, mut salt, mut iterations) = (Vec::new(), String::new(), String::new());
    while let Some((tag, body)) = raw.receive() {
        let text = String::from_utf8_lossy(&body).replace(user, "<user>");
        match body.first_chunk::<4>().map(|code| u32::from_be_bytes(*code)) {
            Some(10) if tag == b'R' => {
                let first = scram.message().to_vec();
                let length = u32::try_from(first.len()).unwrap().to_be_bytes();
                raw.send(&frame(b'p', &[b"SCRAM-SHA-256\0", length.as_slice(), &first].concat()));
            }
            Some(11) if tag == b'R' => {
                let part = |at: usize| text.split(',').nth(at).unwrap_or_default().to_owned();
                (salt, iterations) = (part(1), part(2));
                scram.update(&body[4..]).unwrap();
                raw.send(&frame(b'p', scram.message()));
                told.push((tag, text.len().to_string()));
                continue;
            }
            _ => {}
        }
        told.push((tag, text));
    }
    (told, salt, iterations)
}

#[test]
fn nobody_learns_which_users_there_are() {
    let postgres = shared();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("app-config.yaml");
    let config = app_config(&postgres, &own(""));
    fs::write(&file, &config).unwrap();
    let sidecar = Stagedoor::with_files(std::slice::from_ref(&file), &[]);
    let tries = || ["nobody", USER, "nobody", USER, "somebody"].map(|user| failing(sidecar.port, user));
    let [nobody, known, nobody_again, known_again, somebody] = tries();
    assert!(known.0.last().unwrap().1.contains("28P01"), "{known:?}");
    for other in [&nobody, &somebody, &nobody_again, &known_again] {
        assert_eq!((&other.0, &other.2), (&known.0, &known.2), "the same words, lengths and iterations");
        assert_eq!(other.1.len(), known.1.len());
    }
    assert_eq!((&nobody_again.1, &known_again.1), (&nobody.1, &known.1), "a salt that stays");
    assert!(nobody.1 != somebody.1 && nobody.1 != known.1);
    // Nor does a reload show it: it would be odd if only the salts of those who exist changed.
    fs::write(&file, format!("# Another word.\n{config}")).unwrap();
    sidecar.signal("HUP");
    until("it is read", LIMIT, || sidecar.log().contains("was read again").then_some(()));
    let after = tries();
    assert_eq!((&after[0].1, &after[1].1), (&nobody.1, &known.1));
    sidecar.terminate();
}

#[test]
fn who_says_nothing_keeps_nobody_out() {
    let postgres = shared();
    let sidecar = sidecar(&postgres, "port: 0, loginTimeout: 1h");
    let silent: Vec<_> = (0..MANY).map(|_| Raw::open(sidecar.port)).collect();
    let mut client = Raw::login(sidecar.port, "postgres");
    assert_eq!(client.value("SELECT 1"), "1");
    // Those who came first have left, so that others could come in.
    let mut first = silent.into_iter().next().unwrap();
    assert_eq!(first.stream.read(&mut [0]).unwrap(), 0);
    drop(client);
    sidecar.terminate();
}

#[test]
fn who_has_proven_who_it_is_takes_no_place_of_those_who_have_not() {
    let postgres = shared();
    let sidecar = sidecar(&postgres, "port: 0, loginTimeout: 1h");
    let mut clients: Vec<_> = (0..MANY).map(|_| Raw::login(sidecar.port, "postgres")).collect();
    for client in [0, MANY / 2, MANY - 1] {
        assert_eq!(clients[client].value("SELECT 1"), "1");
    }
    drop(clients);
    sidecar.terminate();
}

#[test]
fn a_login_may_not_have_more_bytes_than_a_login_has() {
    let postgres = shared();
    let sidecar = sidecar(&postgres, "port: 0, loginTimeout: 1h");
    let mut long = Raw::open(sidecar.port);
    long.send(&startup(0x0003_0000, &[("user", USER), ("database", "postgres")]));
    long.receive().unwrap();
    // Announced as one message of a mebibyte, and never sent to its end.
    let head = [b"p".as_slice(), &(1_u32 << 20).to_be_bytes(), &[b'x'; 20_000]].concat();
    let _ = long.stream.write_all(&head);
    let (tag, body) = long.receive().unwrap();
    assert_eq!((tag, field(&body, b'C').as_str()), (b'E', "08P01"));
    sidecar.terminate();
}

#[test]
fn clients_that_look_for_localhost_find_it_by_either_address() {
    let Ok(six) = TcpListener::bind("[::1]:0") else { return }; // A machine without IPv6.
    let postgres = shared();
    let sidecar = sidecar(&postgres, "port: 0");
    let mut raw = Raw::open(sidecar.port);
    raw.stream = TcpStream::connect(("::1", sidecar.port)).unwrap();
    raw.send(&startup(0x0003_0000, &[("user", USER), ("database", "postgres")]));
    raw.finish_login(PASSWORD).unwrap();
    assert_eq!(raw.value("SELECT 1"), "1");
    drop(raw);
    sidecar.terminate();
    // Whoever sits on the other address would be told Backstage's password.
    let port = six.local_addr().unwrap().port();
    refused_start(
        &postgres,
        &format!("port: {port}"),
        1,
        &[&format!("[::1]:{port}"), "stagedoor.listen.port"],
    );
}

#[test]
fn what_others_reach_is_not_listened_on_unless_it_is_said() {
    let postgres = shared();
    for host in ["0.0.0.0", "'::'", "192.0.2.1"] {
        refused_start(
            &postgres,
            &format!("port: 0, host: {host}"),
            78,
            &["stagedoor.listen.host", "allowRemote"],
        );
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("app-config.yaml");
    let config = app_config(&postgres, &listening("port: 0, host: 0.0.0.0, allowRemote: true"));
    fs::write(&file, config).unwrap();
    let mut child = command().arg("run").arg("--config").arg(&file).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = [0; 4096];
    let count = child.stderr.as_mut().unwrap().read(&mut said).unwrap();
    let said = String::from_utf8_lossy(&said[..count]).into_owned();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(said.contains("0.0.0.0:"), "{said}");
}

#[test]
fn password_and_trust_do_what_they_say() {
    let postgres = shared();
    let cleartext = sidecar(&postgres, "port: 0, auth: password");
    let asks = |sidecar: &Stagedoor, user: &str| {
        let mut raw = Raw::open(sidecar.port);
        raw.send(&startup(0x0003_0000, &[("user", user), ("database", "postgres")]));
        let (_, body) = raw.receive().unwrap();
        body
    };
    assert_eq!(asks(&cleartext, USER), 3_u32.to_be_bytes(), "cleartext, for old clients");
    assert_eq!(asks(&cleartext, "nobody"), 3_u32.to_be_bytes());
    assert_eq!(Raw::login(cleartext.port, "postgres").value("SELECT 1"), "1");
    for (user, password) in [(USER, "wrong"), ("nobody", PASSWORD), (USER, "")] {
        let told = Raw::login_as(cleartext.port, "postgres", (user, password), &[]).err().unwrap();
        let message = format!("password authentication failed for user \"{user}\"");
        assert_eq!((field(&told, b'C'), field(&told, b'M')), ("28P01".to_owned(), message));
    }
    cleartext.terminate();
    let trusting = sidecar(&postgres, "port: 0, auth: trust");
    assert_eq!(asks(&trusting, USER), 0_u32.to_be_bytes(), "AuthenticationOk at once");
    assert!(trusting.log().contains("whoever reaches the port comes in"), "{}", trusting.log());
    let told = Raw::login_as(trusting.port, "postgres", ("nobody", PASSWORD), &[]).err().unwrap();
    assert_eq!(field(&told, b'C'), "28P01", "there is no route for it");
    trusting.terminate();
}

/// A query by psql through the Unix socket in `directory`.
fn by_socket(directory: &Path, port: u16) -> String {
    let output = Command::new("psql")
        .args(["-h", directory.to_str().unwrap(), "-p", &port.to_string(), "-U", USER, "-d", "postgres"])
        .args(["-XAtqc", "SELECT 1"])
        .env("PGPASSWORD", PASSWORD)
        .output()
        .unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim_end().to_owned()
}

#[test]
fn the_unix_socket_is_its_owners_and_replaces_only_what_a_dead_process_left() {
    let postgres = shared();
    let directory = tempfile::tempdir().unwrap();
    let port = free_port();
    let path = directory.path().join(format!(".s.PGSQL.{port}"));
    let listen = format!("port: {port}, socket: {}", directory.path().display());
    // Left behind.
    drop(UnixListener::bind(&path).unwrap());
    let sidecar = sidecar(&postgres, &listen);
    let found = fs::symlink_metadata(&path).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing else is left there");
    assert_eq!(by_socket(directory.path(), port), "1");
    assert!(!sidecar.log().contains("others may replace"), "{}", sidecar.log());
    sidecar.terminate();
    assert!(!path.exists(), "it goes with the process");
    // Another process listens there.
    let living = UnixListener::bind(&path).unwrap();
    refused_start(&postgres, &listen, 1, &["another process listens there", "stagedoor.listen.socket"]);
    drop(living);
    fs::remove_file(&path).unwrap();
    // Not a socket at all.
    fs::write(&path, "precious").unwrap();
    refused_start(&postgres, &listen, 1, &["not a socket"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_directory_in_which_others_may_replace_the_socket_is_remarked() {
    let postgres = shared();
    for (mode, remarked) in [(0o777, true), (0o1777, false), (0o700, false)] {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
        let port = free_port();
        let sidecar = sidecar(&postgres, &format!("port: {port}, socket: {}", directory.path().display()));
        assert_eq!(sidecar.log().contains("others may replace"), remarked, "{mode:o}: {}", sidecar.log());
        sidecar.terminate();
    }
}
