//! What the scheduler asks of an operation, and the graph that it walks.

use crate::OpContext;
use async_trait::async_trait;
use cooper_oci::Digest;
use std::{error::Error, fmt, sync::Arc};

/// The types of one use of the solver.
pub trait Domain: Sized + Send + Sync + 'static {
    /// What a vertex output is: a cheap, lazy handle.
    type Result: Clone + Send + Sync + 'static;
    /// What belongs to one build: sessions, permissions, …
    type Job: Send + Sync + 'static;
    /// How an operation fails.
    type Error: Error + Send + Sync + 'static;

    /// Whether an operation failed because one of its inputs, which had been taken from a store, turned out to be gone.
    /// The input is then looked up again, and made when the store has it no more.
    fn is_lost(error: &Self::Error) -> bool {
        let _ = error;
        false
    }
}

/// One operation. The scheduler calls `cache_map` once per build, `run` at most once per key at a time.
#[async_trait]
pub trait Op<D: Domain>: Send + Sync + 'static {
    /// Computes what identifies the operation. May do I/O (resolve a tag, receive a directory); must not run it.
    async fn cache_map(&self, cx: &OpContext<D>) -> Result<CacheMap, D::Error>;

    /// Digest of exactly the content that the op reads of `input`; called for dependencies with `content` set.
    async fn content_digest(&self, input: usize, result: &D::Result, cx: &OpContext<D>) -> Result<Digest, D::Error>;

    /// Does the work. `inputs` has one entry per graph input; returns one entry per output.
    async fn run(&self, inputs: Vec<D::Result>, cx: &OpContext<D>) -> Result<Vec<Option<D::Result>>, D::Error>;

    /// Whether `cache_map` does work that a person wants to see (sources do).
    fn resolves(&self) -> bool {
        false
    }

    /// Whether what `cache_map` found was here before: such a source is told as cached.
    fn found(&self) -> bool {
        false
    }

    /// What stands for `cache_map` of the vertex between builds: those with the same value ask once. An op that
    /// resolves, and does so otherwise for one build than for another, tells them apart here.
    fn resolving_key(&self, vertex: &Digest) -> Digest {
        vertex.clone()
    }

    /// Whether `run` counts against the parallelism limit (processes do).
    fn takes_slot(&self) -> bool {
        false
    }
}

/// What identifies an operation apart from its inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheMap {
    /// Digest over everything that changes the outcome.
    pub digest: Digest,
    /// One entry per input.
    pub dependencies: Vec<Dependency>,
    /// The result belongs to this build alone: `run` is always called and its result never stored.
    pub volatile: bool,
}

/// How an operation depends on one input.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dependency {
    /// The part of the input that is used, empty for all.
    pub selector: String,
    /// Whether [`Op::content_digest`] can stand for the input.
    pub content: bool,
}

/// An output of a vertex.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Edge {
    /// The vertex' digest.
    pub vertex: Digest,
    /// Which output.
    pub output: usize,
}

/// A node of the build graph.
pub struct Vertex<D: Domain> {
    /// Identity within builds; equal digests mean equal ops and inputs.
    pub digest: Digest,
    /// Display name.
    pub name: String,
    /// The operation.
    pub op: Arc<dyn Op<D>>,
    /// What it reads, in the op's order.
    pub inputs: Vec<Edge>,
    /// Whether earlier results must not be reused.
    pub ignore_cache: bool,
}

impl<D: Domain> Clone for Vertex<D> {
    fn clone(&self) -> Self {
        Self {
            digest: self.digest.clone(),
            name: self.name.clone(),
            op: self.op.clone(),
            inputs: self.inputs.clone(),
            ignore_cache: self.ignore_cache,
        }
    }
}

/// Why an edge has no result. Cloned to everyone who waits for it.
pub enum SolveError<D: Domain> {
    /// An operation failed.
    Op {
        /// The vertex that failed.
        vertex: Digest,
        /// Its display name.
        name: String,
        /// What happened.
        error: Arc<D::Error>,
    },
    /// The build was cancelled.
    Cancelled,
    /// An edge points to a vertex that was never loaded.
    UnknownVertex(Digest),
    /// The operation has no such output.
    NoOutput(Edge),
    /// A task of the scheduler ended abnormally: a defect.
    Internal(Arc<str>),
}

impl<D: Domain> SolveError<D> {
    /// Whether an input turned out to be gone.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Op { error, .. } if D::is_lost(error))
    }
}

impl<D: Domain> Clone for SolveError<D> {
    fn clone(&self) -> Self {
        match self {
            Self::Op { vertex, name, error } => {
                Self::Op { vertex: vertex.clone(), name: name.clone(), error: error.clone() }
            }
            Self::Cancelled => Self::Cancelled,
            Self::UnknownVertex(v) => Self::UnknownVertex(v.clone()),
            Self::NoOutput(e) => Self::NoOutput(e.clone()),
            Self::Internal(m) => Self::Internal(m.clone()),
        }
    }
}

impl<D: Domain> fmt::Debug for SolveError<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<D: Domain> fmt::Display for SolveError<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Op { error, .. } => error.fmt(f),
            Self::Cancelled => f.write_str("context canceled"),
            Self::UnknownVertex(v) => write!(f, "the build graph has no vertex {v}"),
            Self::NoOutput(e) => write!(f, "vertex {} has no output {}", e.vertex, e.output),
            Self::Internal(m) => write!(f, "internal error of the scheduler: {m}"),
        }
    }
}

impl<D: Domain> Error for SolveError<D> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Op { error, .. } => error.source(),
            _ => None,
        }
    }
}
