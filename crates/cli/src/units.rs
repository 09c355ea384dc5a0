//! Amounts as people read them.

use std::fmt;

/// Bytes in decimal units: `31B`, `1.23kB`, `4.50GB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(pub i64);

const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];

impl Bytes {
    #[allow(clippy::cast_precision_loss)] // a display of a few digits
    fn scaled(self) -> (f64, &'static str) {
        let (mut value, mut unit) = (self.0 as f64, 0);
        while value.abs() >= 1000.0 && unit + 1 < UNITS.len() {
            value /= 1000.0;
            unit += 1;
        }
        (value, UNITS[unit])
    }

    /// Without trailing zeros: `1.5GB`, `10GB`.
    pub fn short(self) -> String {
        let (value, unit) = self.scaled();
        format!("{value}{unit}")
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scaled() {
            (_, "B") => write!(f, "{}B", self.0),
            (value, unit) => write!(f, "{value:.2}{unit}"),
        }
    }
}
