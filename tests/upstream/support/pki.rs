//! Certificates of every kind that a cloud or a company makes, by `openssl`, in a directory that goes away.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::Weak;

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use tempfile::TempDir;

/// A key's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Rsa2048,
    Rsa4096,
    P256,
    P384,
    Ed25519,
}

/// Options of `openssl req` by which a certificate is signed.
pub type Signing = &'static [&'static str];

pub const SHA1: Signing = &["-sha1"];
pub const SHA256: Signing = &["-sha256"];
pub const SHA384: Signing = &["-sha384"];
pub const SHA512: Signing = &["-sha512"];
pub const PSS256: Signing =
    &["-sha256", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"];
pub const PSS384: Signing =
    &["-sha384", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"];
pub const PSS512: Signing =
    &["-sha512", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"];
/// Ed25519 has a hash of its own.
pub const NONE: Signing = &[];

/// A certificate and its key, both in PEM.
#[derive(Clone, Debug)]
pub struct Issued {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Issued {
    pub fn pem(&self) -> String {
        fs::read_to_string(&self.certificate).unwrap()
    }

    /// A server's side of TLS that shows it.
    pub fn serve(&self) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(&self.certificate).unwrap().collect();
        let key = PrivateKeyDer::from_pem_file(&self.key).unwrap();
        Arc::new(config.with_no_client_auth().with_single_cert(chain.unwrap(), key).unwrap())
    }

    pub fn key_pem(&self) -> String {
        fs::read_to_string(&self.key).unwrap()
    }
}

/// A directory with certificates.
pub struct Pki {
    directory: TempDir,
}

impl Pki {
    /// The one that tests share; the last to let go of it removes it.
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Pki>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let directory = tempfile::Builder::new().prefix("stagedoor-pki").tempdir().unwrap();
            let config = "[req]\ndistinguished_name = dn\nprompt = no\n[dn]\nCN = nobody\n";
            fs::write(directory.path().join("openssl.cnf"), config).unwrap();
            let pki = Arc::new(Self { directory });
            *shared = Arc::downgrade(&pki);
            pki
        })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A key of this kind, the same one in each run: those of RSA take their time to make.
    pub fn key(&self, kind: Key) -> PathBuf {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("keys");
        let path = directory.join(format!("{kind:?}.key"));
        if !path.exists() {
            let options: &[&str] = match kind {
                Key::Rsa2048 => &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
                Key::Rsa4096 => &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:4096"],
                Key::P256 => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
                Key::P384 => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
                Key::Ed25519 => &["-algorithm", "ED25519"],
            };
            fs::create_dir_all(&directory).unwrap();
            // Whole or not at all, and never another one: somebody else may be making it too.
            let draft = tempfile::NamedTempFile::new_in(&directory).unwrap();
            openssl(&[&["genpkey", "-out", text(draft.path())], options].concat());
            let _ = draft.persist_noclobber(&path);
        }
        path
    }

    /// An authority `name` that signs itself.
    pub fn authority(&self, name: &str, kind: Key, signing: Signing) -> Issued {
        self.request(
            name,
            kind,
            signing,
            None,
            &["basicConstraints=critical,CA:TRUE", "keyUsage=keyCertSign,cRLSign"],
        )
    }

    /// An authority below `issuer`.
    pub fn intermediate(&self, name: &str, kind: Key, signing: Signing, issuer: &Issued) -> Issued {
        let extensions = ["basicConstraints=critical,CA:TRUE", "keyUsage=keyCertSign,cRLSign"];
        self.request(name, kind, signing, Some(issuer), &extensions)
    }

    /// A server's certificate for `names` (as openssl writes them: `DNS:localhost,IP:::1`).
    pub fn server(&self, name: &str, kind: Key, signing: Signing, issuer: &Issued, names: &str) -> Issued {
        let names = format!("subjectAltName={names}");
        let extensions = ["basicConstraints=critical,CA:FALSE", "extendedKeyUsage=serverAuth", &names];
        self.request(name, kind, signing, Some(issuer), &extensions)
    }

    /// A client's certificate.
    pub fn client(&self, name: &str, kind: Key, issuer: &Issued) -> Issued {
        let extensions = ["basicConstraints=critical,CA:FALSE", "extendedKeyUsage=clientAuth"];
        self.request(name, kind, SHA256, Some(issuer), &extensions)
    }

    /// A certificate of X.509 version 1 that signs itself, which old manuals of PostgreSQL make.
    pub fn version_1(&self, name: &str, kind: Key) -> Issued {
        let (key, request, certificate) =
            (self.key(kind), self.path(&format!("{name}.csr")), self.path(&format!("{name}.pem")));
        let config = self.path("openssl.cnf");
        let subject = format!("/CN={name}");
        openssl(&[
            "req",
            "-new",
            "-config",
            text(&config),
            "-key",
            text(&key),
            "-subj",
            &subject,
            "-out",
            text(&request),
        ]);
        openssl(&[
            "x509",
            "-req",
            "-in",
            text(&request),
            "-signkey",
            text(&key),
            "-days",
            "30",
            "-out",
            text(&certificate),
        ]);
        Issued { certificate, key }
    }

    fn request(
        &self,
        name: &str,
        kind: Key,
        signing: Signing,
        issuer: Option<&Issued>,
        extensions: &[&str],
    ) -> Issued {
        let (key, certificate) = (self.key(kind), self.path(&format!("{name}.pem")));
        let (config, subject) = (self.path("openssl.cnf"), format!("/CN={name}"));
        let mut arguments = vec!["req", "-x509", "-new", "-days", "30", "-config", text(&config)];
        arguments.extend(["-subj", &subject, "-key", text(&key), "-out", text(&certificate)]);
        arguments.extend(extensions.iter().flat_map(|extension| ["-addext", *extension]));
        if let Some(issuer) = issuer {
            arguments.extend(["-CA", text(&issuer.certificate), "-CAkey", text(&issuer.key)]);
        }
        arguments.extend(signing);
        openssl(&arguments);
        Issued { certificate, key }
    }

    /// The key in another form: `openssl` with these arguments, its output in a file `name`.
    pub fn convert(&self, key: &Path, name: &str, arguments: &[&str]) -> PathBuf {
        let path = self.path(name);
        openssl(&[arguments, &["-in", text(key), "-out", text(&path)]].concat());
        path
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn openssl(arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).output().expect("openssl is on this machine");
    assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
