//! Numbers over all builds since the start, as monitoring asks for them.

use super::{BuildRecord, StepCounts};
use std::collections::BTreeMap;

/// Upper bounds of the classes of build durations, in seconds. From an all-cached build to a distribution.
pub const DURATION_BOUNDS: [f64; 12] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0];

/// The numbers.
#[derive(Debug, Clone, Default)]
pub struct BuildStatistics {
    /// Ended builds by RPC code; 0 is success.
    pub builds: BTreeMap<i32, u64>,
    /// Steps of ended builds.
    pub steps: StepCounts,
    /// How long builds took that succeeded, and those that did not.
    pub durations: [Durations; 2],
    /// Builds under way.
    pub running: usize,
}

/// A histogram.
#[derive(Debug, Clone, Default)]
pub struct Durations {
    /// Builds no slower than each of [`DURATION_BOUNDS`].
    pub within: [u64; DURATION_BOUNDS.len()],
    /// All builds.
    pub count: u64,
    /// Their durations together, in seconds.
    pub sum: f64,
}

impl BuildStatistics {
    pub(super) fn count(&mut self, record: &BuildRecord) {
        let code = record.error.as_ref().map_or(0, |e| e.code.max(1));
        *self.builds.entry(code).or_default() += 1;
        self.steps.total += record.steps.total;
        self.steps.cached += record.steps.cached;
        self.steps.completed += record.steps.completed;
        self.steps.warnings += record.steps.warnings;
        let elapsed = record.completed.and_then(|end| end.duration_since(record.created).ok()).unwrap_or_default();
        let durations = &mut self.durations[usize::from(code != 0)];
        durations.count += 1;
        durations.sum += elapsed.as_secs_f64();
        for (within, bound) in durations.within.iter_mut().zip(DURATION_BOUNDS) {
            *within += u64::from(elapsed.as_secs_f64() <= bound);
        }
    }
}
