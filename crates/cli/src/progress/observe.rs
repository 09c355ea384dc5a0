//! Others that listen to status messages besides the display: trace files, cache statistics.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cooper_wire::control::StatusResponse;
use serde_json::json;

use super::rawjson;

/// Called with every message, before it is drawn.
pub type Observer = Box<dyn FnMut(&StatusResponse) + Send>;

/// Appends every message to a file, as `rawjson` prints it. A full disk ends the trace, not the build.
pub fn trace_to(mut file: File) -> Observer {
    let mut broken = false;
    Box::new(move |status| broken = broken || file.write_all(&rawjson::line(status)).is_err())
}

/// How much of a build came from the cache.
#[derive(Clone, Default)]
pub struct CacheMetrics(Arc<Mutex<HashMap<String, Seen>>>);

#[derive(Default)]
struct Seen {
    name: String,
    base_image: bool,
    cached: bool,
    completed: bool,
}

/// Steps that are not the user's.
const INTERNAL: [&str; 4] = ["[internal]", "[auth]", "importing cache", "exporting "];

impl CacheMetrics {
    /// Feeds it.
    pub fn observer(&self) -> Observer {
        let steps = Arc::clone(&self.0);
        Box::new(move |status| {
            let mut steps = steps.lock().unwrap_or_else(PoisonError::into_inner);
            for vertex in &status.vertexes {
                let step = steps.entry(vertex.digest.clone()).or_default();
                step.name.clone_from(&vertex.name);
                step.base_image |= vertex.name.starts_with('[') && vertex.name.contains("] FROM");
                step.cached |= vertex.cached;
                step.completed |= vertex.completed.is_some();
            }
        })
    }

    /// One line per miss, then the counts as JSON.
    pub fn report(&self, elapsed: Duration) -> String {
        let steps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let user: Vec<_> = steps.values().filter(|step| !INTERNAL.iter().any(|p| step.name.starts_with(p))).collect();
        let missed = |step: &&&Seen| !step.cached && !step.base_image;
        let mut out = String::new();
        for step in user.iter().filter(missed) {
            let _ = writeln!(out, "cache miss: {}", step.name);
        }
        let count = |wanted: fn(&&&Seen) -> bool| user.iter().filter(wanted).count();
        let from = count(|step| step.base_image);
        let counts = json!({
            "total": steps.len(),
            "completed": steps.values().filter(|step| step.completed).count(),
            "user_total": user.len(),
            "user_cached": count(|step| step.cached),
            "user_completed": count(|step| step.completed),
            "user_cacheable": user.len() - from,
            "from": from,
            "miss": user.iter().filter(missed).count(),
            "client_duration_ms": u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        });
        let _ = writeln!(out, "{counts}");
        out
    }
}
