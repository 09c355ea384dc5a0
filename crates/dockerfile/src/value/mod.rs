//! Small grammars inside instructions: durations, sizes, ports, permission modes, signals, lists.

mod duration;
mod text;

pub use duration::{DurationError, GoDuration};
pub use text::{parse_bool, quoted};
