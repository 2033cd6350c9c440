//! What operators see in Prometheus: every family, its labels and its HELP. The only room that names `prometheus`.
//!
//! Rooms take handles (`PoolMetrics`, `UpstreamMetrics`) once, and count on them without looking a label up.
//! Label sets are bounded (`labels`), so that nothing a client sends can make the registry grow for ever.

pub mod families;
pub mod labels;
pub mod pool;
pub mod process;
pub mod registry;
pub mod upstream;

pub use crate::metrics::pool::AcquireFailure;
pub use crate::metrics::pool::ClientState;
pub use crate::metrics::pool::Origin;
pub use crate::metrics::pool::PoolMetrics;
pub use crate::metrics::registry::Metrics;
pub use crate::metrics::upstream::CertificateRole;
pub use crate::metrics::upstream::Servers;
pub use crate::metrics::upstream::UpstreamMetrics;
