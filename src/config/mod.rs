//! Configuration: Backstage's own files in, inert values out. Only `load` sees files and the environment.

pub mod model;
pub mod secret;
