//! The cases, as data. A case begins with `== name`; `-- file` begins a file, `env NAME=value` sets a variable
//! (JSON strings may be used for what a line cannot hold), `--config FILE` gives an argument, `expect JSON` says
//! what is expected of us alone.

use std::path::Path;

use serde_json::Value;
use serde_json::json;
use stagedoor::config::Sources;

#[derive(Default)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) expected: Option<Value>,
    files: Vec<(String, String)>,
    variables: Vec<(String, String)>,
    args: Vec<String>,
}

pub(crate) fn read(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in text.split_inclusive('\n') {
        if let Some(name) = line.strip_prefix("== ") {
            cases.push(Case { name: name.trim().to_owned(), ..Case::default() });
        } else if let Some(case) = cases.last_mut() {
            case.line(line);
        }
    }
    cases
}

impl Case {
    fn line(&mut self, line: &str) {
        if let Some(name) = line.strip_prefix("-- ") {
            self.files.push((name.trim().to_owned(), String::new()));
        } else if let Some((_, text)) = self.files.last_mut() {
            text.push_str(line);
        } else if let Some(arg) = line.strip_prefix("--config ") {
            self.args.push(arg.trim().to_owned());
        } else if let Some(value) = line.strip_prefix("expect ") {
            self.expected = Some(serde_json::from_str(value).expect("JSON"));
        } else if let Some((name, value)) = line.strip_prefix("env ").and_then(|rest| rest.split_once('=')) {
            let value = value.trim_end_matches('\n');
            let value = value.strip_prefix("json:").map_or_else(
                || value.to_owned(),
                |quoted| serde_json::from_str(quoted).expect("a JSON string"),
            );
            self.variables.push((name.to_owned(), value));
        }
    }

    /// A file's last line break belongs to the format; `\xNN` and `\t` at the places marked with `«…»` are bytes.
    pub(crate) fn write(&self, dir: &Path) {
        std::fs::create_dir_all(dir).expect("a directory");
        for (name, text) in &self.files {
            let path = dir.join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            std::fs::write(path, unquoted(text)).expect("a file");
        }
    }

    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        self.variables.clone()
    }

    pub(crate) fn sources(&self, dir: &Path) -> Sources {
        Sources { configs: self.args.iter().map(Into::into).collect(), cwd: dir.to_owned() }
    }

    pub(crate) fn asked(&self, dir: &Path) -> Value {
        let env: serde_json::Map<_, _> =
            self.variables.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        json!({ "dir": dir, "args": self.args, "env": env })
    }
}

/// `«bom»`, `«tab»`, `«cr»` and `«nbsp»` stand for what an editor would hide.
fn unquoted(text: &str) -> String {
    [("«bom»", "\u{feff}"), ("«tab»", "\t"), ("«cr»", "\r"), ("«nbsp»", "\u{a0}")]
        .into_iter()
        .fold(text.to_owned(), |text, (name, letter)| text.replace(name, letter))
}

pub(crate) const CASES: &[&str] = &[
    include_str!("cases/files.txt"),
    include_str!("cases/substitution.txt"),
    include_str!("cases/includes.txt"),
    include_str!("cases/environment.txt"),
    include_str!("cases/merge.txt"),
    include_str!("cases/yaml.txt"),
];

pub(crate) const DIFFERENT: &str = include_str!("cases/different.txt");

pub(crate) const STRINGS: &[&str] = &[
    "postgresql://u:p@h:5433/base",
    "postgres://u:p%40ss%2Fw@h/db",
    "postgres://h",
    "postgres://h/",
    "postgres://h:5432",
    "postgres://u@h/db",
    "postgres://u:@h/db",
    "postgres://:p@h/db",
    "postgres:///db",
    "postgres:///db?host=/var/run/postgresql",
    "postgres:///?host=h2&port=1&user=x&password=y",
    "postgres://%2Fvar%2Frun%2Fpostgresql/db",
    "postgres://%2Fvar%2Frun/db?host=other",
    "postgres://u:p@/db?host=/run",
    "postgres://u:p@:5432/db",
    "socket:/var/run/pg/?db=mydb&encoding=utf8",
    "socket://u:p@/var/run/pg?db=mydb",
    "socket:/tmp/a%20b/",
    "/var/run/pg mydb",
    "/var/run/pg",
    "postgres://[::1]:5432/db",
    "postgres://[2001:DB8:0:0:0:0:0:1]/db",
    "postgres://[::1/db",
    "postgres://u:p@h:99999/db",
    "postgres://u:p@h:54x/db",
    "postgres://u:p@h1:1,h2:2/db",
    "postgres://u:p@h1,h2/db",
    "postgres://u:p@H.Example.COM:05432/Db",
    "postgres://u:p a@h/d b",
    "postgres://u:p%@h/db",
    "postgres://u:p%zz@h/db",
    "postgres://u:p%2@h/db",
    "postgres://u:100%@h/db%20x",
    "postgres://u:%E4@h/db",
    "postgres://ü:ß@hö/dü",
    "postgres://u:p@h/a/b",
    "postgres://u:p@h/./a/../b",
    "postgres://u:p@h/a%2Fb%3Fc%20d",
    "postgres://u:p#q@h/db",
    "postgres://u:p?q@h/db",
    "postgres://u:p/q@h/db",
    "postgres://u:p:q@h/db",
    "postgres://u:p@q@h/db",
    "postgres://u:p@h/db#fragment",
    "POSTGRES://u:p@h/db",
    "cockroachdb://u:p@h:26257/db",
    "postgres://u:p@h/db?ssl=true",
    "postgres://u:p@h/db?ssl=1",
    "postgres://u:p@h/db?ssl=0",
    "postgres://u:p@h/db?ssl=false",
    "postgres://u:p@h/db?ssl=no-verify",
    "postgres://u:p@h/db?ssl",
    "postgres://u:p@h/db?sslmode=disable",
    "postgres://u:p@h/db?sslmode=allow",
    "postgres://u:p@h/db?sslmode=prefer",
    "postgres://u:p@h/db?sslmode=require",
    "postgres://u:p@h/db?sslmode=verify-ca",
    "postgres://u:p@h/db?sslmode=verify-full",
    "postgres://u:p@h/db?sslmode=no-verify",
    "postgres://u:p@h/db?sslmode=banana",
    "postgres://u:p@h/db?sslmode=",
    "postgres://u:p@h/db?ssl=0&sslmode=require",
    "postgres://u:p@h/db?sslmode=require&sslmode=disable",
    "postgres://u:p@h/db?sslrootcert=PEM",
    "postgres://u:p@h/db?sslcert=PEM&sslkey=PEM&sslrootcert=PEM&sslmode=verify-full",
    "postgres://u:p@h/db?sslmode=disable&sslrootcert=PEM",
    "postgres://u:p@h/db?sslrootcert=system",
    "postgres://u:p@h/db?uselibpqcompat=true&sslmode=disable",
    "postgres://u:p@h/db?uselibpqcompat=true&sslmode=prefer",
    "postgres://u:p@h/db?uselibpqcompat=true&sslmode=require",
    "postgres://u:p@h/db?uselibpqcompat=true&sslmode=require&sslrootcert=PEM",
    "postgres://u:p@h/db?uselibpqcompat=true&sslmode=verify-ca",
    "postgres://u:p@h/db?uselibpqcompat=true&sslmode=verify-ca&sslrootcert=PEM",
    "postgres://u:p@h/db?uselibpqcompat=true&sslmode=verify-full",
    "postgres://u:p@h/db?uselibpqcompat=true&sslmode=no-verify",
    "postgres://u:p@h/db?uselibpqcompat=true",
    "postgres://u:p@h/db?sslnegotiation=direct",
    "postgres://u:p@h/db?sslnegotiation=direct&sslmode=disable",
    "postgres://u:p@h/db?application_name=a+b%20c&options=-c%20x%3D1&statement_timeout=5000",
    "postgres://u:p@h/db?user=other&password=p%26q",
    "postgres://u:p@h/db?a=%FF&b&=c&&d=",
];
