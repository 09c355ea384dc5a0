//! Frontend images that the built-in frontend stands in for.

use cooper_engine::{Bridge, BuildError};
use cooper_oci::{ImageRef, Platform};

/// Repositories of the Dockerfile frontend: the released one, and those with what is to come.
const DOCKERFILE: [&str; 2] = ["docker/dockerfile", "docker/dockerfile-upstream"];

/// Whether the built-in frontend does what the image does.
pub fn is_builtin(image: &str) -> bool {
    let Ok(reference) = image.parse::<ImageRef>() else { return false };
    reference.digest().is_none() && DOCKERFILE.contains(&reference.untagged().familiar().as_str())
}

/// What frontend images run on.
pub fn platform(bridge: &Bridge) -> Platform {
    bridge.platforms().into_iter().next().unwrap_or_else(Platform::host)
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
    }
}
