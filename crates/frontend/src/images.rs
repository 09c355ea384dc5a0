//! Frontend images: which are run, and which the built-in frontend stands in for.

use crate::dockerfile::{Options, has_named_context, load, open_named_context};
use cooper_dockerfile::lower::{ContextRequest, Files};
use cooper_engine::{
    Bridge, BuildError, FailureClass, FrontendRequest, bridge::ResolveOptions, frontend_image::FrontendImage,
};
use cooper_llb::{Image, Meta};
use cooper_oci::{ImageConfig, ImageRef, Platform, ReferenceError};

/// Which frontend images are built with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Whether the built-in frontend answers for images of the same language.
    pub stand_in: bool,
    /// Repositories that frontend images may come from; none: any.
    pub allowed: Vec<String>,
}

impl Default for Policy {
    fn default() -> Self {
        Self { stand_in: true, allowed: Vec::new() }
    }
}

impl Policy {
    /// Whether the built-in frontend answers for an image.
    pub fn stands_in_for(&self, image: &str) -> bool {
        self.stand_in && is_builtin(image)
    }

    /// Refuses images from repositories that are not allowed.
    pub fn check(&self, image: &str) -> Result<(), BuildError> {
        if self.allowed.is_empty() {
            return Ok(());
        }
        let full = |text: &str| text.parse::<ImageRef>().ok().map(|image| image.untagged().repository());
        let wanted = full(image);
        if wanted.is_some() && self.allowed.iter().any(|allowed| full(allowed) == wanted) {
            return Ok(());
        }
        let message = format!("'{image}' is not an allowed gateway source");
        Err(BuildError::new(FailureClass::InvalidArgument, message))
    }
}

/// Repositories of the Dockerfile frontend: the released one, and those with what is to come.
const DOCKERFILE: [&str; 2] = ["docker/dockerfile", "docker/dockerfile-upstream"];

/// Whether the built-in frontend does what the image does.
fn is_builtin(image: &str) -> bool {
    let Ok(reference) = image.parse::<ImageRef>() else { return false };
    reference.digest().is_none() && DOCKERFILE.contains(&reference.untagged().familiar().as_str())
}

/// What frontend images run on.
pub fn platform(bridge: &Bridge) -> Platform {
    bridge.platform()
}

/// The image of a frontend: a named context, or an image of a registry.
pub async fn open(bridge: &Bridge, request: &FrontendRequest, source: &str) -> Result<FrontendImage, BuildError> {
    let platform = platform(bridge);
    let options = Options::parse(request.clone(), bridge)?;
    if has_named_context(&options, source, &platform) {
        let wanted = ContextRequest { name: source.to_owned(), platform, resolve_mode: String::new() };
        let context = open_named_context(bridge, &options, &wanted).await?;
        let output = match context.files {
            Files::Output(output) => output,
            Files::Local { name, local, meta } => local.output(&name, *meta),
        };
        return Ok(FrontendImage { root: load(bridge, &output).await?, config: context.image });
    }
    let invalid = |e: String| BuildError::new(FailureClass::InvalidArgument, format!("frontend image {source:?}: {e}"));
    let reference: ImageRef = source.parse().map_err(|e: ReferenceError| invalid(e.to_string()))?;
    let reference = reference.with_default_tag();
    let options = ResolveOptions {
        platform: Some(platform.clone()),
        log_name: Some(format!("resolve image config for docker-image://{reference}")),
        ..ResolveOptions::default()
    };
    let resolved = bridge.resolve_image_config(&reference.to_string(), &options).await?;
    let config: ImageConfig = serde_json::from_slice(&resolved.config).map_err(|e| invalid(e.to_string()))?;
    // What was resolved is what runs, whatever the tag is moved to meanwhile.
    let pinned: ImageRef = resolved.reference.parse().map_err(|e: ReferenceError| invalid(e.to_string()))?;
    let pinned = pinned.with_digest(resolved.digest);
    let image = Image { record_type: "frontend".to_owned(), ..Image::default() };
    let output = image.output(&pinned, Meta::default().on(&platform));
    Ok(FrontendImage { root: load(bridge, &output).await?, config: Some(config) })
}

/// Shows that no image is pulled, and what builds instead.
pub async fn announce(bridge: &Bridge, image: &str) -> Result<(), BuildError> {
    let shown = format!("[internal] use the built-in Dockerfile frontend for {image}");
    bridge.internal_step(&shown, async { Ok::<_, BuildError>(()) }).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builtin_images() {
        for (image, builtin) in [
            ("docker/dockerfile", true),
            ("docker/dockerfile:1.7-labs", true),
            ("docker.io/docker/dockerfile:1", true),
            ("docker/dockerfile-upstream:master", true),
            // Whoever pins an image wants that image.
            ("docker/dockerfile:1@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", false),
            ("docker/dockerfile-other", false),
            ("example.com/docker/dockerfile:1", false),
            ("mine/dockerfile", false),
            ("", false),
        ] {
            assert_eq!(is_builtin(image), builtin, "{image}");
        }
        let never = Policy { stand_in: false, ..Policy::default() };
        assert!(!never.stands_in_for("docker/dockerfile"));
    }

    #[test]
    fn repositories_may_be_limited() {
        let policy =
            Policy { allowed: vec!["docker/dockerfile".into(), "example.com/a/b".into()], ..Policy::default() };
        for (image, allowed) in [
            ("docker/dockerfile:1", true),
            ("docker.io/docker/dockerfile", true),
            ("example.com/a/b:2", true),
            ("example.com/a/c", false),
            ("dockerfile.v0", false),
            ("A", false),
        ] {
            assert_eq!(policy.check(image).is_ok(), allowed, "{image}");
        }
        let message = policy.check("a/b").unwrap_err().message;
        assert_eq!(message, "'a/b' is not an allowed gateway source");
        assert!(Policy::default().check("a/b").is_ok());
    }
}
