//! Answers about a Dockerfile instead of a build: which requests there are, what a target can be told, which targets
//! there are, what lint says.
//!
//! The members of the JSON and the layout of the text are those that build clients read. Running the requests, and the
//! conversion to LLB, are the work of the frontend.

mod describe;
mod lint;
mod outline;
mod table;
mod targets;

pub use describe::{Named, Request, describe};
pub use lint::{LintAnswer, LintBuildError, LintWarning, SourceInfo};
pub use outline::outline;
pub use targets::targets;

use crate::source::Range;
use serde::Serialize;

/// Names of the requests.
pub mod names {
    /// Which requests there are.
    pub const DESCRIBE: &str = "frontend.subrequests.describe";
    /// What a target can be told.
    pub const OUTLINE: &str = "frontend.outline";
    /// Which targets there are.
    pub const TARGETS: &str = "frontend.targets";
    /// What lint says.
    pub const LINT: &str = "frontend.lint";
    /// The graph that the file comes to.
    pub const CONVERT_LLB: &str = "frontend.convertllb";
}

/// An answer in its forms. Clients find the parts as `result.json`, `result.txt`, `result.statuscode`, `version`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// For programs.
    pub json: String,
    /// For people.
    pub text: String,
    /// Version of the request.
    pub version: &'static str,
    /// Exit status, of requests that have one.
    pub status: Option<u8>,
}

impl Answer {
    fn new(value: &impl Serialize, text: String, version: &'static str) -> Self {
        let json = serde_json::to_string_pretty(value).expect("strings, numbers and lists always serialise");
        Self { json, text, version, status: None }
    }

    /// The parts under the names that clients look for.
    pub fn metadata(&self) -> Vec<(&'static str, Vec<u8>)> {
        let mut parts = vec![
            ("result.json", self.json.clone().into_bytes()),
            ("result.txt", self.text.clone().into_bytes()),
            ("version", self.version.as_bytes().to_vec()),
        ];
        parts.extend(self.status.map(|status| ("result.statuscode", status.to_string().into_bytes())));
        parts
    }
}

/// Lines of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct Location {
    #[serde(rename = "sourceIndex", skip_serializing_if = "is_zero")]
    source_index: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ranges: Vec<JsonRange>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct JsonRange {
    start: JsonPosition,
    end: JsonPosition,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct JsonPosition {
    #[serde(skip_serializing_if = "is_zero")]
    line: u32,
    #[serde(skip_serializing_if = "is_zero")]
    character: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "what serde asks for")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Location {
    /// A location in the first source.
    pub fn new(ranges: &[Range]) -> Self {
        let position = |p: crate::Position| JsonPosition { line: p.line, character: p.character };
        let range = |r: &Range| JsonRange { start: position(r.start), end: position(r.end) };
        Self { source_index: 0, ranges: ranges.iter().map(range).collect() }
    }

    /// A location if there are lines.
    fn some(ranges: &[Range]) -> Option<Self> {
        (!ranges.is_empty()).then(|| Self::new(ranges))
    }
}

/// Bytes in JSON.
fn base64(bytes: &[u8]) -> String {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    BASE64_STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests;
