//! The command line, and which command it means.

use std::env;
use std::ffi::OsString;
use std::io;
use std::io::Write;
use std::path::PathBuf;

use clap::Parser;
use clap::Subcommand;
use clap::ValueEnum;

use crate::cli::check;
use crate::cli::config;
use crate::cli::demo;
use crate::cli::exit::Exit;
use crate::cli::health;
use crate::cli::run;
use crate::config::load::Sources;

const EXIT_CODES: &str = "Exit codes: 0 success, 1 a check or the run failed, 64 usage, 78 configuration.";

/// A sidecar between Backstage and managed PostgreSQL: reads Backstage's own configuration, accepts its plain
/// connections on localhost, and forwards them pooled, over verified TLS.
#[derive(Debug, Parser)]
#[command(name = "stagedoor", version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub struct Arguments {
    /// A configuration file; may be repeated, later files win, as with Backstage's own --config.
    /// Without it: app-config.yaml, then app-config.local.yaml where there is one.
    #[arg(long = "config", value_name = "FILE", global = true)]
    configs: Vec<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the sidecar. SIGTERM drains, a second one ends it now; SIGHUP loads the configuration again.
    Run,
    /// Try each upstream step by step and say what would fail, why, and what to change.
    Check(CheckArguments),
    /// Print the effective configuration, each value with its origin, and what Backstage's own should say.
    Config,
    /// Ask the running sidecar whether it is ready: for exec probes and HEALTHCHECK.
    Health(HealthArguments),
    /// Show it all on this machine: a throw-away PostgreSQL that accepts TLS only, the sidecar before it.
    Demo(DemoArguments),
}

#[derive(Debug, clap::Args)]
pub(super) struct CheckArguments {
    /// How to print the report.
    #[arg(long, value_enum, default_value = "text")]
    pub(super) output: Output,

    /// How many Backstage replicas share the PostgreSQL server, each with a sidecar of its own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) replicas: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    Text,
    Json,
}

#[derive(Debug, clap::Args)]
pub(super) struct HealthArguments {
    /// The admin port; without it the configuration says which.
    #[arg(long)]
    pub(super) port: Option<u16>,

    /// What to ask.
    #[arg(long, value_enum, default_value = "readyz")]
    pub(super) endpoint: Endpoint,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Endpoint {
    Readyz,
    Livez,
    Startupz,
}

#[derive(Debug, clap::Args)]
pub(super) struct DemoArguments {
    /// End when everything has been shown, instead of staying until Ctrl-C.
    #[arg(long)]
    pub(super) once: bool,
}

/// Parses `arguments` (the first is the program's name) and runs the command.
pub fn dispatch(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let parsed = match Arguments::try_parse_from(arguments) {
        Ok(parsed) => parsed,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Success };
        }
    };
    let Ok(cwd) = env::current_dir() else {
        complain("the current directory cannot be read");
        return Exit::Failure;
    };
    let sources = Sources { configs: parsed.configs, cwd };
    match parsed.command {
        Command::Run => run::run(&sources),
        Command::Check(arguments) => check::run(&sources, &arguments),
        Command::Config => config::run(&sources),
        Command::Health(arguments) => health::run(&sources, &arguments),
        Command::Demo(arguments) => demo::run(&arguments),
    }
}

/// Writes to stdout. A reader that has gone (`| head`) is no reason to fail.
pub(super) fn say(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush());
}

/// Writes a line to stderr.
pub(super) fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "stagedoor: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn config_may_be_repeated_before_and_after_the_command() {
        let parsed = parse("stagedoor run --config a.yaml --config b.yaml").unwrap();
        assert_eq!(parsed.configs, [PathBuf::from("a.yaml"), PathBuf::from("b.yaml")]);
        assert_eq!(parse("stagedoor --config a.yaml check").unwrap().configs.len(), 1);
    }

    #[test]
    fn usage_is_64_and_help_is_0() {
        let exit = |line: &str| dispatch(line.split(' ').map(OsString::from));
        for wrong in ["stagedoor", "stagedoor walk", "stagedoor run --fast", "stagedoor check --replicas 0"] {
            assert_eq!(exit(wrong), Exit::Usage, "{wrong}");
        }
        for help in
            ["stagedoor --help", "stagedoor check --help", "stagedoor demo --help", "stagedoor --version"]
        {
            assert_eq!(exit(help), Exit::Success, "{help}");
        }
    }

    #[test]
    fn the_demo_can_end_by_itself() {
        let parsed = parse("stagedoor demo --once").unwrap();
        assert!(matches!(parsed.command, Command::Demo(DemoArguments { once: true })));
    }
}
