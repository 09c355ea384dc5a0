//! Lint in the status stream.

use super::error::Origin;
use cooper_dockerfile::lint::Linter;
use cooper_engine::Bridge;
use cooper_solver::Warning;

/// How many of a linter's warnings were sent already.
#[derive(Default)]
pub struct Shown(usize);

impl Shown {
    /// Sends what the linter found since the last time, under the vertex that the file came from.
    pub fn send(&mut self, bridge: &Bridge, origin: &Origin<'_>, linter: &Linter) {
        let warnings = linter.warnings();
        for warning in &warnings[self.0..] {
            let shown = Warning {
                level: 1,
                short: warning.short(),
                detail: vec![warning.rule.description.to_owned()],
                url: warning.rule.url.to_owned(),
            };
            bridge.warn(origin.files.vertex.as_str(), shown, Some(origin.ranges(&warning.ranges)));
        }
        self.0 = warnings.len();
    }
}
