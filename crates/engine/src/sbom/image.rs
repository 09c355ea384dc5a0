//! Scanners that are images: a step that sees the result read-only and leaves statements in a directory.

use super::{CORE, SbomTarget, metadata};
use crate::{
    build_error::BuildError,
    gateway::{
        attestation::{Attestation, Content, Kind},
        bridge::{Bridge, Ref, ResolveOptions},
    },
};
use cooper_llb::{Exec, Image, Meta, Mount, MountKind, Output};
use cooper_oci::{ImageConfig, ImageRef, Platform};
use std::collections::BTreeMap;

/// Where the result and everything else to scan are.
const SOURCES: &str = "/run/src/";
/// Where statements are left.
const DESTINATION: &str = "/run/out/";

/// A scanner whose image is known.
pub struct ScannerImage {
    name: String,
    reference: ImageRef,
    platform: Platform,
    config: ImageConfig,
    params: BTreeMap<String, String>,
}

impl ScannerImage {
    /// Finds out what the image runs. The image is for the builder's platform, whatever it scans.
    pub async fn resolve(
        bridge: &Bridge,
        generator: &str,
        mode: &str,
        params: BTreeMap<String, String>,
    ) -> Result<Self, BuildError> {
        let named = |text: &str| {
            let parsed: Result<ImageRef, _> = text.parse();
            parsed.map_err(|e| BuildError::refused(format!("invalid scanner image {text:?}: {e}")))
        };
        let platform = bridge.platform();
        let options = ResolveOptions {
            platform: Some(platform.clone()),
            mode: mode.to_owned(),
            log_name: Some(format!("resolve image config for {generator}")),
            ..ResolveOptions::default()
        };
        let asked = named(generator)?.with_default_tag();
        let resolved = bridge.resolve_image_config(&asked.to_string(), &options).await?;
        let config: ImageConfig = serde_json::from_slice(&resolved.config)
            .map_err(|e| BuildError::refused(format!("scanner {generator}: cannot read its image config: {e}")))?;
        if config.config.entrypoint.iter().chain(config.config.cmd.iter()).next().is_none() {
            return Err(BuildError::refused(format!("scanner {generator} does not have cmd")));
        }
        let reference = named(&resolved.reference)?.with_digest(resolved.digest);
        Ok(Self { name: resolved.reference, reference, platform, config, params })
    }

    pub async fn attest(&self, bridge: &Bridge, target: SbomTarget) -> Result<Attestation, BuildError> {
        let own = &self.config.config;
        let mut mounts = vec![
            Mount { target: "/tmp".to_owned(), kind: MountKind::Tmpfs { size: 0 }, ..Mount::default() },
            source(format!("{SOURCES}core/{CORE}"), target.core.as_ref())?,
        ];
        for (name, tree) in &target.extras {
            mounts.push(source(format!("{SOURCES}extras/{CORE}-{name}"), tree.as_ref())?);
        }
        let place = mounts.len();
        mounts.push(Mount { target: DESTINATION.to_owned(), ..Mount::default() });
        let exec = Exec {
            root: Image::default().output(&self.reference, Meta::default().on(&self.platform)),
            args: own.entrypoint.iter().chain(own.cmd.iter()).cloned().collect(),
            env: self.env(!target.extras.is_empty()),
            cwd: if own.working_dir.is_empty() { "/".to_owned() } else { own.working_dir.clone() },
            mounts,
            ..Exec::default()
        };
        let shown = Meta::named(format!("[{}] generating sbom using {}", target.name, self.name));
        let outputs = exec.outputs(shown.on(&self.platform).ignoring_cache(target.ignore_cache))?;
        let statements = outputs.mounts.get(place).cloned().flatten().unwrap_or_default();
        let statements = bridge.load(statements.marshal()?).await?;
        Ok(Attestation {
            kind: Kind::Bundle,
            metadata: metadata(),
            content: statements.map_or(Content::Missing, Content::File),
            path: String::new(),
            predicate_type: cooper_sbom::document::SPDX_PREDICATE.to_owned(),
            subjects: Vec::new(),
        })
    }

    /// The image's variables, the scanner's contract, and its parameters.
    fn env(&self, extras: bool) -> Vec<String> {
        let mut env: BTreeMap<String, String> = BTreeMap::from([
            ("BUILDKIT_SCAN_DESTINATION".to_owned(), DESTINATION.to_owned()),
            ("BUILDKIT_SCAN_SOURCE".to_owned(), format!("{SOURCES}core/{CORE}")),
        ]);
        if extras {
            env.insert("BUILDKIT_SCAN_SOURCE_EXTRAS".to_owned(), format!("{SOURCES}extras"));
        }
        env.extend(self.params.iter().map(|(key, value)| (format!("BUILDKIT_SCAN_{key}"), value.clone())));
        let of_image = self.config.config.env.iter().filter(|own| {
            let name = own.split('=').next().unwrap_or_default();
            !env.contains_key(name)
        });
        of_image.cloned().chain(env.iter().map(|(name, value)| format!("{name}={value}"))).collect()
    }
}

fn source(target: String, tree: Option<&Ref>) -> Result<Mount, BuildError> {
    let source = tree.map(|tree| Output::from_definition(tree.definition().clone())).transpose()?;
    Ok(Mount { target, source: source.unwrap_or_default(), readonly: true, ..Mount::default() })
}
