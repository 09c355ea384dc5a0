//! Small grammars inside instructions: durations, sizes, booleans, comma-separated lists.

mod csv;
mod duration;
mod size;
mod text;

pub use csv::{CsvError, CsvField, csv_fields};
pub use duration::{DurationError, GoDuration};
pub use size::parse_size;
pub use text::{parse_bool, quoted};
