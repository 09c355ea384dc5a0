//! What lowering asks the world.

use super::{Files, ResolveError};
use cooper_llb::Output;
use cooper_oci::{Digest, ImageConfig, ImageRef, Platform};
use std::future::Future;

/// Answers questions about images, contexts and times. Lowering does no I/O of its own, and asks for independent
/// things at once.
pub trait MetaResolver: Sync {
    /// Whether the build has a named context for a stage or an image. `name` is as the Dockerfile has it: compare
    /// [`context_key`]s. A context for that platform alone counts before one for all.
    fn has_context(&self, name: &str, platform: &Platform) -> bool {
        let _ = (name, platform);
        false
    }

    /// Opens a context that [`MetaResolver::has_context`] said is there.
    fn context(&self, request: ContextRequest) -> impl Future<Output = Result<NamedContext, ResolveError>> + Send;

    /// Finds an image's digest and config.
    fn image(&self, request: ImageRequest) -> impl Future<Output = Result<ImageMeta, ResolveError>> + Send;

    /// Finds the time of the last change of a source: of the commit, of the file, or of the newest archive entry.
    fn timestamp(&self, request: TimestampRequest) -> impl Future<Output = Result<Option<i64>, ResolveError>> + Send {
        let _ = request;
        async { Ok(None) }
    }
}

/// Which context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextRequest {
    /// As the Dockerfile has it; an image reference in full.
    pub name: String,
    /// What it is for.
    pub platform: Platform,
    /// `image-resolve-mode` of the build.
    pub resolve_mode: String,
}

/// An opened context.
#[derive(Debug, Clone)]
pub struct NamedContext {
    /// Its files.
    pub files: Files,
    /// Its config, if it is an image.
    pub image: Option<ImageConfig>,
}

/// Which image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRequest {
    /// In full, with a tag or a digest.
    pub reference: ImageRef,
    /// Which of its platforms.
    pub platform: Platform,
    /// `image-resolve-mode` of the build.
    pub resolve_mode: String,
    /// What progress shows.
    pub log_name: String,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageMeta {
    /// The reference; another than asked for when a policy says so.
    pub reference: ImageRef,
    /// The digest of its manifest or index.
    pub digest: Option<Digest>,
    /// Its config as stored.
    pub config: Vec<u8>,
}

/// Whose time.
#[derive(Debug, Clone)]
pub struct TimestampRequest {
    /// The source.
    pub source: TimestampSource,
    /// What progress shows.
    pub log_name: String,
}

/// Something with a time.
#[derive(Debug, Clone)]
pub enum TimestampSource {
    /// The build context.
    MainContext,
    /// This output of a source op ([`Output::source`] is there).
    Source(Output),
}

/// The form of a context's name in options: short, without `:latest`. `None` for what is no name.
pub fn context_key(name: &str) -> Option<String> {
    let reference: ImageRef = name.parse().ok()?;
    let short = reference.familiar();
    Some(short.strip_suffix(":latest").unwrap_or(&short).to_owned())
}
