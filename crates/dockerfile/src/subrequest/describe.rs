//! Which requests there are.

use super::table::{row, table};
use super::{Answer, names};
use serde::Serialize;

/// A request that can be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Request {
    /// Its name.
    pub name: &'static str,
    /// Version of its answer.
    pub version: &'static str,
    /// Always `rpc`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// What it tells.
    pub description: &'static str,
    /// Options that it heeds.
    pub opts: &'static [Named],
    /// Inputs that it takes: none.
    pub inputs: &'static [Named],
    /// Parts of the answer.
    pub metadata: &'static [Named],
    /// Trees of the answer: none.
    pub refs: &'static [Named],
}

/// Something with a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Named {
    /// The name.
    pub name: &'static str,
    /// What it is.
    pub description: &'static str,
}

const fn named(name: &'static str, description: &'static str) -> Named {
    Named { name, description }
}

const RESULTS: &[Named] = &[named("result.json", ""), named("result.txt", "")];

const DESCRIBE: Request = Request {
    name: names::DESCRIBE,
    version: "1.0.0",
    kind: "rpc",
    description: "List available subrequest types",
    opts: &[],
    inputs: &[],
    metadata: RESULTS,
    refs: &[],
};

/// The requests that clients are told of, in the order that they know.
pub static REQUESTS: [Request; 3] = [
    Request {
        name: names::OUTLINE,
        description: "List all parameters current build target supports",
        opts: &[named("target", "Target build stage")],
        ..DESCRIBE
    },
    Request { name: names::TARGETS, description: "List all targets current build supports", ..DESCRIBE },
    DESCRIBE,
];

/// The list of requests.
pub fn describe() -> Answer {
    let mut rows = vec![row(["NAME", "VERSION", "DESCRIPTION"])];
    for request in &REQUESTS {
        let name = request.name.strip_prefix("frontend.").unwrap_or(request.name);
        rows.push(row([name, request.version, request.description]));
    }
    Answer::new(&REQUESTS, table(&rows, 1), DESCRIBE.version)
}
