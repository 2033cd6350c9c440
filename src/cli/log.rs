//! Where events go: stderr, one line each, as JSON or as text.
//! The fields that events share are named `plugin`, `database`, `client` and `upstream`.

use std::io;
use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::Layer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::model::Log;
use crate::config::model::LogFormat;
use crate::config::model::LogLevel;

/// Begins to log as `log` says. Returns whether it was this call that began it: a process logs in one way, and
/// the first call decides.
pub fn begin(log: &Log) -> bool {
    let layer = layer(format(log.format), io::stderr);
    registry().with(layer.with_filter(filter(log.level))).try_init().is_ok()
}

fn format(wanted: Option<LogFormat>) -> LogFormat {
    wanted.unwrap_or_else(|| if io::stderr().is_terminal() { LogFormat::Text } else { LogFormat::Json })
}

fn layer<S, W>(format: LogFormat, to: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let plain = fmt::layer().with_writer(to).with_ansi(false);
    match format {
        LogFormat::Json => {
            plain.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
        LogFormat::Text => plain.boxed(),
    }
}

/// Our own events from `level` up; those of libraries only when something is wrong, for they may show bytes.
fn filter(level: LogLevel) -> Targets {
    let own = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    Targets::new().with_default(own.min(LevelFilter::WARN)).with_target("stagedoor", own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::Arc;
    use std::sync::Mutex;
    use tracing::subscriber::with_default;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written when `events` happen.
    fn written(format: LogFormat, level: LogLevel, events: impl FnOnce()) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let layer = layer(format, move || writer.clone());
        with_default(registry().with(layer.with_filter(filter(level))), events);
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_is_one_line_an_event_with_the_fields_at_the_top() {
        let text = written(LogFormat::Json, LogLevel::Info, || {
            tracing::info!(
                plugin = "catalog",
                database = "backstage_plugin_catalog",
                client = 7,
                "client\nleft"
            );
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        let event: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(event["plugin"], "catalog");
        assert_eq!(event["client"], 7);
        assert_eq!(event["level"], "INFO");
        assert_eq!(event["message"], "client\nleft");
    }

    #[test]
    fn the_level_holds_and_libraries_only_warn() {
        let text = written(LogFormat::Text, LogLevel::Debug, || {
            tracing::debug!("ours");
            tracing::trace!("too fine");
            tracing::info!(target: "rustls::client", "theirs");
            tracing::warn!(target: "rustls::client", "their trouble");
        });
        assert!(text.contains("ours") && text.contains("their trouble"), "{text}");
        assert!(!text.contains("too fine") && !text.contains("theirs"), "{text}");
    }

    #[test]
    fn with_level_error_libraries_do_not_warn() {
        let text = written(LogFormat::Text, LogLevel::Error, || tracing::warn!(target: "hyper", "theirs"));
        assert_eq!(text, "");
    }

    #[test]
    fn beginning_twice_is_no_harm() {
        let log = Log { format: Some(LogFormat::Json), level: LogLevel::Error };
        let _ = begin(&log);
        assert!(!begin(&log));
    }
}
