//! Why steps were not cached: the first part of a step's key that differs from the nearest earlier record.
//!
//! While a build runs only facts are kept that are at hand anyway: the parts of ops ([`parts`]), and, by a thread behind
//! the build, which files a content digest stands for ([`files`]). A build with steps that ran is explained when it
//! has returned ([`behind`]), and the explanation added to its record. What must never live here: anything that decides
//! what is cached.

mod behind;
mod compare;
pub(crate) mod files;
mod memory;
pub(crate) mod parts;
mod pieces;
mod travel;

pub use behind::Explanations;
pub(crate) use compare::{Unexplained, arguments, canonical_record};
pub(crate) use travel::attachments;

use cooper_oci::Digest;
use serde::{Deserialize, Serialize};

/// Media type of an explanation.
pub const MEDIA_TYPE: &str = "application/vnd.cooperage.explanation.v1+json";
/// Annotation of a record's log that names the explanation of the build: other clients pass over it.
pub const ANNOTATION: &str = "cooperage.explanation";

/// Why steps of one build were not cached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The steps that ran or failed, in an order in which inputs come first.
    pub steps: Vec<StepExplained>,
    /// Remote caches that could not be imported.
    pub failed_imports: Vec<FailedImport>,
}

/// A cache that could not be imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedImport {
    /// The cache.
    pub cache: String,
    /// Why not.
    pub error: String,
}

/// Why one step was not cached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepExplained {
    /// Its vertex.
    pub vertex: Digest,
    /// What it is called.
    pub name: String,
    /// Whether it failed.
    pub failed: bool,
    /// Why it ran.
    pub reason: Reason,
    /// The record that it was compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compared_with: Option<Compared>,
}

/// An earlier record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// Its key.
    pub key: String,
    /// What its step was called.
    pub name: String,
    /// When it was made here, in milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<u64>,
    /// The remote cache that it is of, when it is not known here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<String>,
}

/// Why a step ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Reason {
    /// The client asked for it.
    NoCache,
    /// There is no earlier record that is anything like it.
    NeverSeen,
    /// The same was made before; its result was removed.
    Evicted {
        /// Milliseconds since the epoch.
        at: u64,
        /// Which rule of garbage collection, or `prune`.
        by: String,
    },
    /// Nothing is known of it here, and a cache that may know could not be read.
    ImportFailed {
        /// The cache.
        cache: String,
        /// Why not.
        error: String,
    },
    /// A remote cache has a record of the same, and a layer of its result could not be had.
    Lost {
        /// The cache.
        cache: String,
    },
    /// A remote cache has a record of the same without its result: it was exported with `mode=min`.
    NotExported {
        /// The cache.
        cache: String,
    },
    /// The same is on record, and no result is kept: it was not finished, or not written down before a crash.
    NotKept,
    /// The text of the instruction is another.
    Instruction {
        /// Before.
        from: String,
        /// Now.
        to: String,
    },
    /// It is for another platform.
    Platform {
        /// Before.
        from: String,
        /// Now.
        to: String,
    },
    /// A build argument or environment variable has another value.
    Variable {
        /// Which.
        name: String,
        /// Whether the client sets it as a build argument.
        argument: bool,
        /// Before; `None`: it was not set.
        from: Option<String>,
        /// Now.
        to: Option<String>,
    },
    /// The image, repository or URL that it is based on is another, or stands for something else by now.
    Source {
        /// `image`, `git`, …
        what: String,
        /// Its name now.
        name: String,
        /// What it stood for.
        from: String,
        /// What it stands for.
        to: String,
    },
    /// Another part of the step's definition, such as its user or a mount.
    Part {
        /// Which.
        name: String,
        /// Before; `None`: there was none.
        from: Option<String>,
        /// Now.
        to: Option<String>,
    },
    /// The definition differs in something of which no more is known.
    Definition,
    /// A file that it reads.
    File {
        /// Where the file is from.
        input: String,
        /// Its path there.
        path: String,
        /// What about it.
        change: FileChange,
        /// Before, as far as there is something to show.
        #[serde(skip_serializing_if = "Option::is_none")]
        from: Option<String>,
        /// Now.
        #[serde(skip_serializing_if = "Option::is_none")]
        to: Option<String>,
        /// Files beside it that differ, too.
        others: usize,
    },
    /// The files that it reads differ, and it is not known which.
    Content {
        /// Where they are from.
        input: String,
    },
    /// A step before it ran again.
    Follows {
        /// Which.
        step: String,
    },
    /// It lies on another step than before.
    Input {
        /// Before; empty when unknown.
        from: String,
        /// Now.
        to: String,
    },
}

/// What about a file is different.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileChange {
    /// It was not there.
    Added,
    /// It is not there any more.
    Removed,
    /// A file became a directory, or the like.
    Kind,
    /// Its bytes, or where a link points.
    Content,
    /// Its permissions.
    Mode,
    /// Its owner or group.
    Owner,
    /// Extended attributes, or the number of a device.
    Attributes,
}
