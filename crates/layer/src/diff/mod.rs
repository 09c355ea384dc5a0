//! What tells two directory trees apart, as a layer's stream.
//!
//! The bytes depend on the trees alone: entries sorted by name, numeric owners, whole seconds, holes written out.

mod emit;
mod overlay;
mod same;
mod trees;

pub use overlay::diff_overlay;
pub use trees::diff_trees;

/// What becomes of modification times. Seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mtimes {
    /// They are written as they are, in whole seconds.
    #[default]
    Keep,
    /// Later ones become this one (`SOURCE_DATE_EPOCH`).
    Clamp(i64),
    /// All become this one.
    Set(i64),
}

impl Mtimes {
    fn seconds(self, nanoseconds: i64) -> i64 {
        let seconds = nanoseconds.div_euclid(1_000_000_000);
        match self {
            Self::Keep => seconds,
            Self::Clamp(latest) => seconds.min(latest),
            Self::Set(all) => all,
        }
    }
}

/// How to write a difference.
#[derive(Debug, Clone, Copy, Default)]
pub struct DiffOptions {
    /// What becomes of modification times.
    pub mtimes: Mtimes,
    /// The overlay's own attributes are `user.overlay.*` (mounted inside a user namespace).
    pub userxattr: bool,
}

/// What a difference came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiffStats {
    /// Entries written, whiteouts included; 0 when the trees do not differ.
    pub entries: u64,
    /// Bytes of file contents.
    pub size: u64,
}

impl DiffStats {
    /// Whether there is no difference. The stream then is an archive without entries.
    pub const fn is_empty(&self) -> bool {
        self.entries == 0
    }
}
