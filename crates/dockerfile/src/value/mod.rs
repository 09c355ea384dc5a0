//! Small grammars inside instructions: durations, sizes, ports, permission modes, signals, lists.

mod duration;

pub use duration::{DurationError, GoDuration};
