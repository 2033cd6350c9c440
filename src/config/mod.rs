//! Configuration: Backstage's own files in, inert values out. Only `load` sees files and the environment.
//!
//! `load` → (`yaml` → `include` → `substitute`, `environment`) → `merge` → `resolve` → `model`.
//! `resolve` reads `stagedoor` (our own keys) and `database` (Backstage's), makes a `login` of each connection
//! with its `tls_policy`, and lays out the `routes`.

pub mod change;
pub mod connection_string;
pub mod database;
pub mod duration;
pub mod environment;
pub mod fault;
pub mod include;
pub mod javascript;
pub mod load;
pub mod login;
pub mod merge;
pub mod model;
pub mod picture;
pub mod reader;
pub mod render;
pub mod resolve;
pub mod routes;
pub mod secret;
pub mod stagedoor;
pub mod substitute;
pub mod tls_policy;
pub mod url;
pub mod world;
pub mod yaml;

pub use load::Loaded;
pub use load::Sources;
pub use load::effective;
pub use load::load;
pub use render::render;
