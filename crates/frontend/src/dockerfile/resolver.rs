//! Answers lowering's questions through the engine.

use super::options::Request;
use cooper_dockerfile::lower::{ContextRequest, ImageMeta, ImageRequest, MetaResolver, NamedContext, ResolveError};
use cooper_engine::{Bridge, bridge::ResolveOptions};

/// The engine, as lowering sees it.
pub struct Resolver<'a> {
    pub bridge: &'a Bridge,
    pub request: &'a Request,
}

impl MetaResolver for Resolver<'_> {
    async fn context(&self, request: ContextRequest) -> Result<NamedContext, ResolveError> {
        let known: Vec<&str> = self.request.opts.keys().filter_map(|k| k.strip_prefix("context:")).collect();
        Err(format!("named context {:?} is not there; there are: {}", request.name, known.join(", ")).into())
    }

    async fn image(&self, request: ImageRequest) -> Result<ImageMeta, ResolveError> {
        let options = ResolveOptions {
            platform: Some(request.platform),
            mode: request.resolve_mode,
            log_name: Some(request.log_name),
            layout: None,
        };
        let resolved = self.bridge.resolve_image_config(&request.reference.to_string(), &options).await?;
        Ok(ImageMeta { reference: request.reference, digest: Some(resolved.digest), config: resolved.config })
    }
}
