//! Bills of materials of results: who makes them, and how they become statements.
//!
//! Lives here: the choice between the scanner that is built in and one that is an image, and what both attest. Must
//! never live here: how packages are found (`cooper-sbom`), where statements go (`exporting`).

mod builtin;
mod image;
mod layers;

pub(crate) use layers::{Chain, supplement};

use crate::{
    build_error::BuildError,
    gateway::{
        attestation::{Attestation, keys},
        bridge::{Bridge, BuildResult, Ref},
    },
};
use builtin::Builtin;
use cooper_export::Platforms;
use futures::future::BoxFuture;
use image::ScannerImage;
use std::collections::BTreeMap;

/// The name of the generator that is built in.
const BUILTIN: &str = "builtin";
/// The statement about the result itself; others are called `sbom-NAME`.
const CORE: &str = "sbom";

/// Scans results.
pub struct SbomScanner {
    bridge: Bridge,
    kind: Kind,
}

enum Kind {
    Builtin(Builtin),
    Image(Box<ScannerImage>),
}

/// A result to scan.
#[derive(Debug, Default)]
pub struct SbomTarget {
    /// What people see: the platform, as a rule.
    pub name: String,
    /// Its files; none: no files.
    pub core: Option<Ref>,
    /// What else to scan, by name: stages, the context.
    pub extras: Vec<(String, Option<Ref>)>,
    /// Whether a known result of scanning must not be used.
    pub ignore_cache: bool,
    /// The time of documents that the scanner itself makes, in seconds since 1970; that of the newest layer otherwise.
    pub epoch: Option<i64>,
}

impl Bridge {
    /// The scanner that a frontend's options ask for.
    pub fn sbom_scanner<'a>(
        &'a self,
        opts: &'a BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<Option<SbomScanner>, BuildError>> {
        Box::pin(self.find_scanner(opts))
    }

    async fn find_scanner(&self, opts: &BTreeMap<String, String>) -> Result<Option<SbomScanner>, BuildError> {
        let wanted = cooper_attest::Wanted::parse(opts).map_err(|e| BuildError::refused(e.to_string()))?;
        let Some(params) = wanted.sbom else { return Ok(None) };
        let mut params = params.0;
        let generator = params.remove("generator").filter(|g| !g.is_empty());
        let kind = match generator.as_deref() {
            None | Some(BUILTIN) => Kind::Builtin(Builtin::new(&params)?),
            Some(generator) => {
                let mode = opts.get("image-resolve-mode").map_or("", String::as_str);
                Kind::Image(Box::new(ScannerImage::resolve(self, generator, mode, params).await?))
            }
        };
        Ok(Some(SbomScanner { bridge: self.clone(), kind }))
    }
}

impl SbomScanner {
    /// Statements about a target. Nothing has been scanned yet: a step of the build or the exporter does.
    pub fn attest(&self, target: SbomTarget) -> BoxFuture<'_, Result<Vec<Attestation>, BuildError>> {
        Box::pin(async {
            match &self.kind {
                Kind::Builtin(builtin) => Ok(builtin.attest(&self.bridge, target)),
                Kind::Image(image) => image.attest(&self.bridge, target).await.map(|one| vec![one]),
            }
        })
    }
}

/// Attests what is in a result when that is asked for and its frontend has not done so.
pub(crate) async fn attest(
    bridge: &Bridge,
    opts: &BTreeMap<String, String>,
    result: &mut BuildResult,
) -> Result<(), BuildError> {
    let known = result.attestations.values().flatten();
    if known.into_iter().any(|a| a.predicate_type == cooper_sbom::document::SPDX_PREDICATE) {
        return Ok(());
    }
    let Some(scanner) = bridge.sbom_scanner(opts).await? else { return Ok(()) };
    let metadata = |key: &str| result.metadata.get(key).map(Vec::as_slice);
    let platforms = Platforms::parse(metadata("refs.platforms"), metadata("containerimage.config"))?;
    for platform in platforms.0 {
        let Some(core) = result.find(&platform.id).cloned() else { continue };
        let epoch = result.metadata.get(&format!("source.date.epoch/{}", platform.id));
        let epoch = epoch.or_else(|| result.metadata.get("source.date.epoch"));
        let target = SbomTarget {
            name: platform.id.clone(),
            core: Some(core),
            ignore_cache: opts.get("no-cache").is_some_and(String::is_empty),
            epoch: epoch.and_then(|v| std::str::from_utf8(v).ok()?.parse().ok()),
            ..SbomTarget::default()
        };
        for attestation in scanner.attest(target).await? {
            result.attest(&platform.id, attestation);
        }
    }
    Ok(())
}

/// What every statement of a scanner says of itself.
fn metadata() -> BTreeMap<String, Vec<u8>> {
    BTreeMap::from([(keys::REASON.to_owned(), keys::SBOM.into()), (keys::SBOM_CORE.to_owned(), CORE.into())])
}
