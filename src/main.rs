//! The door: parses the command line and runs one command.

use std::env;
use std::process::ExitCode;

fn main() -> ExitCode {
    stagedoor::cli::dispatch(env::args_os()).into()
}
