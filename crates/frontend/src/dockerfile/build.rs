//! From a fetched Dockerfile to results: one tree and one image config per platform.

use super::{
    context::MainContext,
    error::Origin,
    files::Fetched,
    options::{Request, invalid},
    resolver::Resolver,
    warnings,
};
use cooper_dockerfile::{
    Dockerfile, Source,
    lint::{CHECK_ARG, Config, Linter},
    lower::{self, Lowered},
    parser::{self, Parsed},
};
use cooper_engine::{Bridge, BuildError, BuildResult, Ref, Refs, SbomTarget};
use cooper_llb::Output;
use cooper_oci::Platform;
use serde::Serialize;
use std::{collections::BTreeMap, sync::Arc};

/// Everything that is known about a build once its Dockerfile is there.
pub struct Prepared<'a> {
    pub bridge: &'a Bridge,
    pub request: &'a Request,
    pub main: &'a MainContext,
    pub files: &'a Fetched,
    /// Patterns of the ignore file.
    pub ignore: Vec<String>,
    pub source: &'a Arc<Source>,
}

impl Prepared<'_> {
    /// The file, as errors and warnings refer to it.
    pub fn origin(&self) -> Origin<'_> {
        Origin { source: self.source, files: self.files }
    }

    /// A linter under the file's options.
    pub fn linter(&self) -> Result<Linter, BuildError> {
        let argument = self.request.build_arg(CHECK_ARG);
        let config = Config::of_file(self.source.text(), argument).map_err(|e| match argument {
            Some(_) => invalid(format!("failed to parse build-arg:{CHECK_ARG}: {e}")),
            None => invalid(e.to_string()),
        })?;
        Ok(Linter::new(config))
    }

    /// The instructions of the file, right or wrong.
    pub fn parse(&self) -> Result<Parsed, BuildError> {
        if self.source.text().is_empty() {
            return Err(invalid("the Dockerfile cannot be empty".to_owned()));
        }
        Ok(parser::parse(Arc::clone(self.source)))
    }

    /// The meaning of the file for a platform.
    pub async fn lower(
        &self,
        dockerfile: &Dockerfile,
        platform: Option<Platform>,
        all_stages: bool,
    ) -> Result<Lowered, lower::Error> {
        let options = self.request.lower_options(platform, self);
        let options = lower::Options { all_stages, ..options };
        let resolver = Resolver { bridge: self.bridge, request: self.request, main: self.main };
        Box::pin(lower::lower(dockerfile, &options, &resolver)).await
    }

    /// Builds for every platform asked for.
    pub async fn build(&self) -> Result<BuildResult, BuildError> {
        let origin = self.origin();
        let mut linter = self.linter()?;
        let parsed = self.parse()?;
        linter.check_syntax(&parsed);
        let mut shown = warnings::Shown::default();
        // Advice about the text is given even when the text is wrong elsewhere.
        shown.send(self.bridge, &origin, &linter);
        let dockerfile = parsed.into_result().map_err(|e| origin.parse_error(&e))?;
        let targets = self.request.targets();
        let lowered = targets.into_iter().map(|platform| self.lower(&dockerfile, platform, false));
        let lowered = futures::future::try_join_all(lowered).await;
        // One platform speaks for all: most advice would be the same. It may say why a build fails.
        let findings = match &lowered {
            Ok(lowered) => lowered.first().map(|first| first.findings.as_slice()),
            Err(error) => Some(error.findings.as_slice()),
        };
        for finding in findings.unwrap_or_default() {
            linter.add(&dockerfile, finding);
        }
        shown.send(self.bridge, &origin, &linter);
        let lowered = lowered.map_err(|e| origin.lowering_error(&e))?;
        if let Some(error) = linter.error() {
            return Err(BuildError::refused(error.to_string()));
        }
        self.result(lowered).await
    }

    /// One tree and one config per platform; keys end with the platform when there are several.
    async fn result(&self, lowered: Vec<Lowered>) -> Result<BuildResult, BuildError> {
        let keyed = self.request.multi_platform;
        let mut metadata = BTreeMap::new();
        let mut refs: Vec<(String, Option<Ref>)> = Vec::new();
        let mut platforms = Vec::new();
        let mut attestations = BTreeMap::new();
        let scanner = self.bridge.sbom_scanner(&self.request.opts).await?;
        for one in lowered {
            let scanned = (one.scans, one.ignore_cache);
            let id = one.platform_id;
            let suffix = if keyed { format!("/{id}") } else { String::new() };
            let definition = one.output.marshal()?;
            refs.push((id.clone(), self.bridge.load(definition).await?));
            metadata.insert(format!("containerimage.config{suffix}"), json(&one.image)?);
            if let Some(base) = &one.base_image {
                metadata.insert(format!("containerimage.base.config{suffix}"), json(base)?);
            }
            if let Some(epoch) = one.epoch {
                metadata.insert(format!("source.date.epoch{suffix}"), epoch.to_string().into_bytes());
            }
            if let Some(scanner) = &scanner {
                let core = refs.last().and_then(|(_, r)| r.clone());
                let target = SbomTarget { name: id.clone(), core, epoch: one.epoch, ..SbomTarget::default() };
                attestations.insert(id.clone(), scanner.attest(self.with_scans(target, scanned).await?).await?);
            }
            platforms.push(ExportedPlatform { id, platform: one.platform });
        }
        metadata.insert("refs.platforms".to_owned(), json(&ExportedPlatforms { platforms })?);
        let refs = if keyed {
            Refs::Map(refs.into_iter().collect())
        } else {
            Refs::Single(refs.into_iter().next().and_then(|(_, r)| r))
        };
        Ok(BuildResult { refs, metadata, attestations })
    }

    /// Adds what else the file asks to be scanned.
    async fn with_scans(
        &self,
        target: SbomTarget,
        (scans, ignore_cache): (Vec<(String, Output)>, bool),
    ) -> Result<SbomTarget, BuildError> {
        let mut extras = Vec::with_capacity(scans.len());
        for (name, output) in scans {
            extras.push((name, self.bridge.load(output.marshal()?).await?));
        }
        Ok(SbomTarget { extras, ignore_cache, ..target })
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

fn json(value: &impl Serialize) -> Result<Vec<u8>, BuildError> {
    serde_json::to_vec(value).map_err(|e| BuildError::refused(format!("cannot encode build metadata: {e}")))
}
