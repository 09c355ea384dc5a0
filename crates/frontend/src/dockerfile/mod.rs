//! `dockerfile.v0`: fetch the file, lower it once per platform, hand back trees and image configs.

mod error;
mod files;
mod options;
mod resolver;

use async_trait::async_trait;
use cooper_dockerfile::{
    Source,
    lower::{self, Lowered},
    parser,
};
use cooper_engine::{Bridge, BuildError, BuildResult, Frontend, FrontendRequest, Ref, Refs};
use cooper_oci::Platform;
use options::Request;
use resolver::Resolver;
use serde::Serialize;
use std::{collections::BTreeMap, sync::Arc};

/// The built-in Dockerfile frontend.
pub struct Dockerfile;

#[async_trait]
impl Frontend for Dockerfile {
    fn name(&self) -> &'static str {
        "dockerfile.v0"
    }

    async fn solve(&self, bridge: &Bridge, request: FrontendRequest) -> Result<BuildResult, BuildError> {
        let request = Request::parse(request, bridge)?;
        let files = files::fetch(bridge, &request).await?;
        let source = Arc::new(Source::from_bytes(&request.filename, &files.dockerfile));
        let parsed = parser::parse(source.clone());
        let dockerfile = parsed.into_result().map_err(|e| error::parse(&e, &source))?;
        let resolver = Resolver { bridge, request: &request };
        let targets = request.targets();
        let multi = targets.len() > 1;
        let lowered = targets.iter().map(|platform| {
            let options = request.lower_options(platform.clone(), multi, &files);
            let (dockerfile, resolver) = (&dockerfile, &resolver);
            async move { lower::lower(dockerfile, &options, resolver).await }
        });
        let lowered = futures::future::try_join_all(lowered).await.map_err(|e| error::lowering(e, &source))?;
        for one in &lowered {
            error::warn(bridge, one, &source);
        }
        result(bridge, lowered, request.multi_platform)
    }
}

#[derive(Serialize)]
struct ExportedPlatforms {
    #[serde(rename = "Platforms")]
    platforms: Vec<ExportedPlatform>,
}

#[derive(Serialize)]
struct ExportedPlatform {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Platform")]
    platform: Platform,
}

/// One tree and one config per platform; keys end with the platform when there are several.
fn result(bridge: &Bridge, lowered: Vec<Lowered>, keyed: bool) -> Result<BuildResult, BuildError> {
    let keyed = keyed || lowered.len() > 1;
    let mut metadata = BTreeMap::new();
    let mut refs: Vec<(String, Option<Ref>)> = Vec::new();
    let mut platforms = Vec::new();
    for one in lowered {
        let id = one.platform.to_string();
        let suffix = if keyed { format!("/{id}") } else { String::new() };
        let definition = one.output.marshal()?;
        refs.push((id.clone(), bridge.load(definition)?));
        metadata.insert(format!("containerimage.config{suffix}"), json(&one.image)?);
        if let Some(base) = &one.base_image {
            metadata.insert(format!("containerimage.base.config{suffix}"), json(base)?);
        }
        if let Some(epoch) = one.epoch {
            metadata.insert(format!("source.date.epoch{suffix}"), epoch.to_string().into_bytes());
        }
        platforms.push(ExportedPlatform { id, platform: one.platform });
    }
    metadata.insert("refs.platforms".to_owned(), json(&ExportedPlatforms { platforms })?);
    let refs = if keyed {
        Refs::Map(refs.into_iter().collect())
    } else {
        Refs::Single(refs.into_iter().next().and_then(|(_, r)| r))
    };
    Ok(BuildResult { refs, metadata, ..BuildResult::default() })
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, BuildError> {
    serde_json::to_vec(value).map_err(|e| BuildError::refused(format!("cannot encode build metadata: {e}")))
}
