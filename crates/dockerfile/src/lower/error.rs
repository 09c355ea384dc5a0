//! What can go wrong when instructions are given a meaning.

use super::Finding;
use crate::expand::ExpandError;
use crate::parser::TriggerError;
use crate::source::{Range, Source};
use crate::value::quoted;
use crate::{Diagnostic, lower::paths::PathError};
use cooper_llb::git_url::GitUrlError;
use cooper_oci::{DigestError, PlatformError, ReferenceError};

/// An error of whoever answers questions about images and contexts. Kept whole: it may carry details for clients.
pub type ResolveError = Box<dyn std::error::Error + Send + Sync>;

/// Why a Dockerfile cannot be lowered, and which lines are concerned.
#[derive(Debug)]
pub struct Error {
    /// What is wrong.
    pub cause: Box<Cause>,
    /// The instruction, or the instructions of a cycle. Empty when no line is to blame.
    pub ranges: Vec<Range>,
    /// Lint that was found before it went wrong, in the order of the file.
    pub findings: Vec<Finding>,
}

impl Error {
    pub(super) fn new(cause: impl Into<Cause>) -> Self {
        Self { cause: Box::new(cause.into()), ranges: Vec::new(), findings: Vec::new() }
    }

    /// Blames `ranges`, unless something closer is blamed already.
    pub(super) fn at(mut self, ranges: &[Range]) -> Self {
        if self.ranges.is_empty() {
            self.ranges = ranges.to_vec();
        }
        self
    }

    /// The message followed by the excerpt of the source that it is about.
    pub fn render(&self, source: &Source) -> String {
        format!("{}{self}\n", source.excerpt(&self.ranges))
    }
}

impl<T: Into<Cause>> From<T> for Error {
    fn from(cause: T) -> Self {
        Self::new(cause)
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.cause.fmt(f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.cause.as_ref())
    }
}

fn meant(suggestion: Option<&String>) -> String {
    suggestion.map(|s| format!(" (did you mean {s}?)")).unwrap_or_default()
}

/// What is wrong with a platform, in the words that tools match on.
fn platform_problem(value: &str) -> String {
    const COMPONENT: &str = "^[A-Za-z0-9_.-]+$";
    let parts: Vec<&str> = value.split('/').collect();
    let fits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    let problem = match parts.iter().skip(1).find(|part| !fits(part)) {
        Some(part) => format!(
            "{} is an invalid component of {}: platform specifier component must match {}",
            quoted(part),
            quoted(value),
            quoted(COMPONENT)
        ),
        None if parts.len() > 3 => format!("{}: cannot parse platform specifier", quoted(value)),
        None => format!("{}: unknown operating system or architecture", quoted(value)),
    };
    problem + ": invalid argument"
}

/// Everything that lowering refuses. The wording is part of the contract: build tools and their tests match on it.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the variants are")]
pub enum Cause {
    // Stages.
    #[error("dockerfile contains no stages to build")]
    NoStages,
    #[error("base name ({0}) should not be blank")]
    BlankBase(String),
    #[error("failed to process arguments for platform {expression}: {source}")]
    PlatformArguments { expression: String, source: ExpandError },
    #[error("empty platform value from expression {expression}{}", meant(.suggestion.as_ref()))]
    EmptyPlatform { expression: String, suggestion: Option<String> },
    #[error("failed to parse platform {expression}: {}{}", platform_problem(.value), meant(.suggestion.as_ref()))]
    Platform { expression: String, value: String, source: Box<PlatformError>, suggestion: Option<String> },
    #[error("target stage {} could not be found{}", quoted(.name), meant(.suggestion.as_ref()))]
    Target { name: String, suggestion: Option<String> },
    #[error("circular dependency detected on stage: {0}")]
    Cycle(String),
    #[error("failed to parse stage name {}: {source}", quoted(.name))]
    BaseReference { name: String, source: ReferenceError },
    #[error("{name}: {source}{}", meant(.suggestion.as_ref()))]
    Image { name: String, source: ResolveError, suggestion: Option<String> },
    #[error("failed to parse image config: {0}")]
    ImageConfig(#[source] serde_json::Error),
    #[error("{0}")]
    Context(#[source] ResolveError),
    #[error("{source}")]
    Trigger { trigger: String, source: Box<TriggerError> },

    // Words.
    #[error("{0}")]
    Expand(#[from] ExpandError),
    #[error(transparent)]
    Path(#[from] PathError),

    // COPY and ADD.
    #[error(
        "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a \
         workaround"
    )]
    FromVariable,
    #[error("invalid stage index {0}")]
    StageIndex(i64),
    #[error(
        "cannot copy from stage {}, it needs to be defined before current stage {}", quoted(.from), quoted(.stage)
    )]
    CopyFromLater { from: String, stage: String },
    #[error("invalid chmod parameter: '{0}'. it should be octal string and between 0 and 07777")]
    Chmod(String),
    #[error("invalid chmod parameter: '{0}'. it should be octal or symbolic, as in u=rwX,go=rX")]
    SymbolicChmod(String),
    #[error("checksum can't be specified for multiple sources")]
    ChecksumManySources,
    #[error("checksum requires HTTP(S) or Git sources")]
    ChecksumLocalSource,
    #[error("checksum mismatch {} != {}", quoted(.flag), quoted(.address))]
    ChecksumMismatch { flag: String, address: String },
    #[error("{0}")]
    Digest(#[from] DigestError),
    #[error("source can't be a git ref for COPY")]
    GitInCopy,
    #[error("source can't be a URL for COPY")]
    UrlInCopy,
    #[error("inconsistent keep-git-dir configuration")]
    KeepGitDir,
    #[error("{0}")]
    Git(#[from] GitUrlError),

    // RUN.
    #[error("{}", .0.short())]
    Mount(Box<Diagnostic>),
    #[error(
        "cannot mount from stage {} to {}, stage needs to be defined before current command",
        quoted(.from),
        quoted(.target)
    )]
    MountFromLater { from: String, target: String },
    #[error("invalid mount target {}", quoted(.0))]
    MountTarget(String),
    #[error("invalid secret mount. one of source, target required")]
    SecretUnnamed,
    #[error("parsing produced an invalid run command: {0:?}")]
    RunCommand(Vec<String>),

    // The rest.
    #[error("invalid port: {}: {reason}", quoted(.port))]
    Port { port: String, reason: String },
    #[error("{0}")]
    PortPart(String),
    #[error("invalid signal: {0}")]
    Signal(String),
    #[error("VOLUME specified can not be an empty string")]
    EmptyVolume,

    // SOURCE_DATE_EPOCH.
    #[error("invalid SOURCE_DATE_EPOCH: {0}")]
    Epoch(String),
    #[error("SOURCE_DATE_EPOCH stage must use FROM scratch")]
    EpochBase,
    #[error("SOURCE_DATE_EPOCH stage does not meet source-only requirements: unsupported {0} instruction")]
    EpochInstruction(String),
    #[error("SOURCE_DATE_EPOCH stage must contain exactly one remote ADD")]
    EpochOneAdd,
    #[error("SOURCE_DATE_EPOCH stage must contain exactly one remote ADD source")]
    EpochOneSource,
    #[error("SOURCE_DATE_EPOCH stage source must be a single HTTP(S) or Git ADD")]
    EpochSource,

    // The context.
    #[error("the ignore file cannot be used: {0}")]
    Ignore(#[from] cooper_fsmatch::PatternError),
    #[error(transparent)]
    Llb(#[from] cooper_llb::Error),
}
