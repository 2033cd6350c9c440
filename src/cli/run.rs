//! `stagedoor run`: load, say what is risky, run until told to end.

use tracing::error;
use tracing::warn;

use crate::app;
use crate::cli::arguments::complain;
use crate::cli::exit::Exit;
use crate::cli::log;
use crate::config::load::Sources;
use crate::config::load::load;

pub(super) fn run(sources: &Sources) -> Exit {
    let loaded = match load(sources) {
        Ok(loaded) => loaded,
        Err(faults) => {
            complain(&faults.to_string());
            return Exit::Configuration;
        }
    };
    log::begin(&loaded.config.log);
    for warning in &loaded.config.warnings {
        warn!("{warning}");
    }
    // One thread: a second one costs more in wake-ups than a Backstage's load gains by it.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("the runtime cannot start: {error}"));
            return Exit::Failure;
        }
    };
    match runtime.block_on(app::run(loaded, sources.clone())) {
        Ok(()) => Exit::Success,
        Err(error) => {
            error!(%error, "stagedoor ends");
            Exit::Failure
        }
    }
}
