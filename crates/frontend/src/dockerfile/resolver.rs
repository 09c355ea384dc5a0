//! Answers lowering's questions through the engine.

use super::{context::MainContext, named, options::Request, timestamp};
use cooper_dockerfile::lower::{
    ContextRequest, ImageMeta, ImageRequest, MetaResolver, NamedContext, ResolveError, TimestampRequest,
    TimestampSource,
};
use cooper_engine::{Bridge, bridge::ResolveOptions};
use cooper_oci::Platform;

/// The engine, as lowering sees it.
pub struct Resolver<'a> {
    pub bridge: &'a Bridge,
    pub request: &'a Request,
    pub main: &'a MainContext,
}

impl MetaResolver for Resolver<'_> {
    fn has_context(&self, name: &str, platform: &Platform) -> bool {
        named::exists(self.request, name, platform)
    }

    async fn context(&self, request: ContextRequest) -> Result<NamedContext, ResolveError> {
        Ok(Box::pin(named::open(self.bridge, self.request, &request)).await?)
    }

    async fn image(&self, request: ImageRequest) -> Result<ImageMeta, ResolveError> {
        let options = ResolveOptions {
            platform: Some(request.platform),
            mode: request.resolve_mode,
            log_name: Some(request.log_name),
            ..ResolveOptions::default()
        };
        let resolved = Box::pin(self.bridge.resolve_image_config(&request.reference.to_string(), &options)).await?;
        // A policy may have put another image in its place.
        let reference = resolved.reference.parse().unwrap_or(request.reference);
        Ok(ImageMeta { reference, digest: Some(resolved.digest), config: resolved.config })
    }

    async fn timestamp(&self, request: TimestampRequest) -> Result<Option<i64>, ResolveError> {
        let time = match request.source {
            TimestampSource::MainContext => timestamp::of_context(self.bridge, self.main, request.log_name).await?,
            TimestampSource::Source(source) => timestamp::of_source(self.bridge, &source, request.log_name).await?,
        };
        Ok(time)
    }
}
