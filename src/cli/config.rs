//! `stagedoor config`: the effective configuration, and what Backstage's own should say.

use crate::cli::arguments::complain;
use crate::cli::arguments::say;
use crate::cli::backstage;
use crate::cli::exit::Exit;
use crate::config::load::Sources;
use crate::config::load::load;
use crate::config::render::render;

pub(super) fn run(sources: &Sources) -> Exit {
    match load(sources) {
        Ok(loaded) => {
            say(&render(&loaded));
            say(&backstage::settings(&loaded.config));
            for warning in &loaded.config.warnings {
                complain(warning);
            }
            Exit::Success
        }
        Err(faults) => {
            complain(&faults.to_string());
            Exit::Configuration
        }
    }
}
