//! The daemon's log: one line per event on standard error, as text or JSON.

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{ConfigError, LogConfig};

/// Libraries whose debug output is one line per network frame: they are heard at `trace` only.
const CHATTY: [&str; 6] = ["h2", "hyper", "hyper_util", "tower", "rustls", "reqwest"];

/// Installs the process-wide subscriber. A second call has no effect.
pub fn init(config: &LogConfig) -> Result<(), ConfigError> {
    let level = level(&config.level)?;
    let quiet = if level == LevelFilter::TRACE { level } else { level.min(LevelFilter::INFO) };
    let targets = Targets::new().with_default(level).with_targets(CHATTY.map(|name| (name, quiet)));
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let registry = tracing_subscriber::registry().with(targets);
    // An embedding program that installed its own subscriber keeps it.
    let _ = match config.format.as_str() {
        "json" => registry.with(layer.json().flatten_event(true)).try_init(),
        "" | "text" => registry.with(layer.with_ansi(false)).try_init(),
        other => {
            return Err(ConfigError::Value {
                name: "log.format",
                message: format!("unsupported log type {other:?}, expected text or json"),
            });
        }
    };
    Ok(())
}

/// The names that Go's loggers know. `panic` and `fatal` are rarer than errors, so they map to errors.
fn level(name: &str) -> Result<LevelFilter, ConfigError> {
    Ok(match name.to_ascii_lowercase().as_str() {
        "panic" | "fatal" | "error" => LevelFilter::ERROR,
        "warn" | "warning" => LevelFilter::WARN,
        "" | "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        _ => {
            return Err(ConfigError::Value {
                name: "log.level",
                message: format!("unsupported log level {name:?}, expected error, warn, info, debug or trace"),
            });
        }
    })
}
