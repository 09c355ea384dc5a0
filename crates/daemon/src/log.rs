//! The daemon's log: one line per event on standard error, as text or JSON.

use tracing_subscriber::filter::LevelFilter;

use crate::config::{ConfigError, LogConfig};

/// Installs the process-wide subscriber. A second call has no effect.
pub fn init(config: &LogConfig) -> Result<(), ConfigError> {
    let level = level(&config.level)?;
    let builder = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_target(false);
    // An embedding program that installed its own subscriber keeps it.
    let _ = match config.format.as_str() {
        "json" => builder.json().flatten_event(true).try_init(),
        "" | "text" => builder.with_ansi(false).try_init(),
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
