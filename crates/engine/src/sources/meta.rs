//! What is known of a source without using it: digests, names, configs, attestations.

use crate::{
    build_error::{BuildError, FailureClass},
    domain::StepError,
    gateway::bridge::{Bridge, ResolveOptions, ResolvedImageConfig},
    progress::internal_step,
    sources::images::{Place, mode},
};
use cooper_llb::{pb, platform_from_pb};
use cooper_oci::{Algorithm, Descriptor, Digest, ImageIndex, ImageManifest, ImageRef, MediaType, Platform};
use cooper_registry::MAX_DOCUMENT;
use cooper_solver::{Event, Observer as _};
use cooper_source::{git::GitRequest, http::HttpRequest, image::ResolvedImage};
use cooper_wire::gateway::{
    self, AttestationChain, ChecksumRequest, ChecksumResponse, ResolveSourceGitResponse, ResolveSourceHttpResponse,
    ResolveSourceImageRequest, ResolveSourceImageResponse, ResolveSourceMetaRequest, ResolveSourceMetaResponse,
    checksum_request::ChecksumAlgo,
};
use futures::future::BoxFuture;
use std::collections::BTreeMap;

/// Annotations that bind an attestation to its image, and a statement to its kind.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";
const ATTESTATION: &str = "attestation-manifest";
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
/// Longest suffix that a checksum may be asked for, in bytes.
const MAX_SUFFIX: usize = 4096;

impl Bridge {
    /// What a source is right now; for the rest of the build it stays that.
    pub fn resolve_source_meta(
        &self,
        request: ResolveSourceMetaRequest,
    ) -> BoxFuture<'_, Result<ResolveSourceMetaResponse, BuildError>> {
        Box::pin(self.source_meta(request, true))
    }

    /// The same; a client's policy that asks itself is not asked in turn.
    pub(crate) async fn source_meta(
        &self,
        request: ResolveSourceMetaRequest,
        ask_client: bool,
    ) -> Result<ResolveSourceMetaResponse, BuildError> {
        let mut source = request.source.clone().unwrap_or_default();
        let by_policy = |e: BuildError| e.context("could not resolve image due to policy");
        if ask_client {
            let checked = self.check_source(&mut source, request.platform.clone(), &request.source_policies).await;
            checked.map_err(by_policy)?;
        } else {
            self.check_rules(&mut source, &request.source_policies).map_err(by_policy)?;
        }
        let name = match request.log_name.as_str() {
            "" => format!("resolve image config for {}", source.identifier),
            name => name.to_owned(),
        };
        let scheme = source.identifier.split_once("://").map(|(scheme, _)| scheme.to_owned());
        let mut response = ResolveSourceMetaResponse { source: Some(source.clone()), ..Default::default() };
        match scheme.as_deref().unwrap_or_default() {
            "docker-image" | "oci-layout" => {
                response.image = Some(self.image_meta(&source, &request, name).await?);
            }
            "git" => {
                let wanted = request.git.is_some_and(|g| g.return_object);
                response.git = Some(self.git_meta(&source, wanted, &name).await?);
            }
            "http" | "https" => {
                let checksum = request.http.and_then(|h| h.checksum_request);
                response.http = Some(self.http_meta(&source, checksum, &name).await?);
            }
            // Everything else has no metadata beyond its identifier.
            _ => {}
        }
        Ok(response)
    }

    async fn git_meta(
        &self,
        source: &pb::SourceOp,
        objects: bool,
        name: &str,
    ) -> Result<ResolveSourceGitResponse, BuildError> {
        let request = GitRequest::from_source(&source.identifier, &source.attrs).map_err(|e| invalid(source, &e))?;
        let jobs = [self.job().clone()];
        internal_step::run(self.status(), name, async |step| {
            let tell = |event: Event| self.status().event(step.vertex(), event);
            let commit = self.worker().resolve_git(&request, &jobs, &tell).await?;
            let mut answer = ResolveSourceGitResponse {
                checksum: commit.checksum.clone(),
                r#ref: commit.reference.clone(),
                commit_checksum: commit.commit.clone().unwrap_or_default(),
                ..Default::default()
            };
            if objects || request.signature.is_some() {
                let found = self.worker().git_objects(&request, &commit, &jobs, &tell).await?;
                if objects {
                    answer.commit_object = found.commit;
                    answer.tag_object = found.tag.unwrap_or_default();
                }
            }
            Ok::<_, StepError>(answer)
        })
        .await
    }

    async fn http_meta(
        &self,
        source: &pb::SourceOp,
        checksum: Option<ChecksumRequest>,
        name: &str,
    ) -> Result<ResolveSourceHttpResponse, BuildError> {
        let request = HttpRequest::from_source(&source.identifier, &source.attrs).map_err(|e| invalid(source, &e))?;
        let checksum = checksum.map(|c| Ok::<_, BuildError>((algorithm(&c)?, c.suffix))).transpose()?;
        let jobs = [self.job().clone()];
        let work = internal_step::run(self.status(), name, async |step| {
            let tell = |event: Event| self.status().event(step.vertex(), event);
            let worker = self.worker();
            let mut file = Box::pin(worker.resolve_http(&request, &jobs, &tell)).await?;
            file = worker.check_http_signature(&request, file, &jobs, &tell).await?;
            let mut answer = ResolveSourceHttpResponse::default();
            if let Some((algorithm, suffix)) = checksum {
                file = worker.fetch_http(&request, file, &jobs, &tell).await?;
                let (store, hashed, end) = (worker.layers.content.clone(), file.clone(), suffix.clone());
                let hash = tokio::task::spawn_blocking(move || hashed.checksum(&store, algorithm, &end)).await;
                let doing = "cannot hash a downloaded file";
                let digest = hash.map_err(StepError::while_doing(doing))?.map_err(StepError::while_doing(doing))?;
                answer.checksum_response = Some(ChecksumResponse { digest: digest.to_string(), suffix });
            }
            answer.checksum = file.digest.to_string();
            answer.filename = file.filename;
            answer.last_modified = file.last_modified.map(|seconds| prost_types::Timestamp { seconds, nanos: 0 });
            Ok::<_, StepError>(answer)
        });
        Box::pin(work).await
    }

    async fn image_meta(
        &self,
        source: &pb::SourceOp,
        request: &ResolveSourceMetaRequest,
        name: String,
    ) -> Result<ResolveSourceImageResponse, BuildError> {
        let (scheme, rest) = source.identifier.split_once("://").unwrap_or_default();
        let attr = |key: &str| source.attrs.get(key).cloned().unwrap_or_default();
        let wanted = request.image.clone().unwrap_or_default();
        let resolve_mode = match request.resolve_mode.as_str() {
            "" => attr("image.resolvemode"),
            mode => mode.to_owned(),
        };
        let options = ResolveOptions {
            platform: request.platform.as_ref().map(platform_from_pb),
            mode: resolve_mode,
            log_name: Some(name.clone()),
            layout: (scheme == "oci-layout").then(|| (attr("oci.session"), attr("oci.store"))),
            policies: Vec::new(),
        };
        let chained = scheme == "docker-image" && (wanted.attestation_chain || !wanted.resolve_attestations.is_empty());
        let mut answer = ResolveSourceImageResponse::default();
        if !wanted.no_config || !chained {
            let resolved: ResolvedImageConfig = self.image_config(rest, &options).await?;
            answer.digest = resolved.digest.to_string();
            answer.config = if wanted.no_config { Vec::new() } else { resolved.config };
        }
        if chained {
            let chain = internal_step::run(self.status(), &name, async |_| {
                self.attestation_chain(rest, &options, &wanted).await
            });
            let (root, chain) = chain.await?;
            answer.digest = root.to_string();
            answer.attestation_chain = chain;
        }
        Ok(answer)
    }

    /// What an image's index says of its attestations, and the statements asked for. No index: no chain.
    async fn attestation_chain(
        &self,
        reference: &str,
        options: &ResolveOptions,
        wanted: &ResolveSourceImageRequest,
    ) -> Result<(Digest, Option<AttestationChain>), StepError> {
        let parsed: ImageRef = reference.parse().map_err(StepError::while_doing(""))?;
        let parsed = parsed.with_default_tag();
        let platform = options.platform.clone().unwrap_or_else(Platform::host);
        let place = Place::Registry { reference: parsed.clone(), mode: mode(&options.mode) };
        let jobs = [self.job().clone()];
        let worker = self.worker();
        let image: ResolvedImage = worker.resolve_image(&place, &platform, None, &jobs).await?;
        let root = image.digest().clone();
        if image.root.kind() != MediaType::Index {
            return Ok((root, None));
        }
        let sources = cooper_source::image::ImageSource::new(worker.layers.content.clone(), worker.names.clone());
        let client = worker.registry_client(&jobs);
        let mut chain = AttestationChain {
            root: root.to_string(),
            image_manifest: image.manifest_descriptor.digest.to_string(),
            ..Default::default()
        };
        let what = || format!("failed to read the attestations of {reference}");
        let read = async |desc: &Descriptor| {
            if desc.size > MAX_DOCUMENT {
                return Err(StepError::refused(format!("{}: {} has {} bytes", what(), desc.digest, desc.size)));
            }
            sources.document(&client, &parsed, desc).await.map_err(StepError::while_doing(what()))
        };
        let bytes = read(&image.root).await?;
        let index: ImageIndex = serde_json::from_slice(&bytes).map_err(StepError::while_doing(what()))?;
        chain.blobs.insert(root.to_string(), blob(&image.root, bytes.to_vec()));
        let Some(manifest) = attestation_of(&index, &image.manifest_descriptor.digest) else {
            return Ok((root, Some(chain)));
        };
        let bytes = read(manifest).await?;
        let statements: ImageManifest = serde_json::from_slice(&bytes).map_err(StepError::while_doing(what()))?;
        chain.attestation_manifest = manifest.digest.to_string();
        chain.blobs.insert(manifest.digest.to_string(), blob(manifest, bytes.to_vec()));
        for statement in &statements.layers {
            let kind = statement.annotations.get(PREDICATE_TYPE);
            if kind.is_some_and(|kind| wanted.resolve_attestations.contains(kind)) {
                let bytes = read(statement).await?;
                chain.blobs.insert(statement.digest.to_string(), blob(statement, bytes.to_vec()));
            }
        }
        Ok((root, Some(chain)))
    }
}

fn attestation_of<'a>(index: &'a ImageIndex, image: &Digest) -> Option<&'a Descriptor> {
    index.manifests.iter().find(|m| {
        let note = |key: &str| m.annotations.get(key).map(String::as_str);
        note(REFERENCE_TYPE) == Some(ATTESTATION) && note(REFERENCE_DIGEST) == Some(image.as_str())
    })
}

fn blob(desc: &Descriptor, data: Vec<u8>) -> gateway::Blob {
    let annotations: BTreeMap<String, String> = desc.annotations.clone().into_iter().collect();
    let descriptor = gateway::Descriptor {
        media_type: desc.media_type.clone(),
        digest: desc.digest.to_string(),
        size: i64::try_from(desc.size).unwrap_or(i64::MAX),
        annotations,
    };
    gateway::Blob { descriptor: Some(descriptor), data }
}

fn algorithm(request: &ChecksumRequest) -> Result<Algorithm, BuildError> {
    let refuse = |reason: String| Err(BuildError::new(FailureClass::Unknown, reason));
    if request.suffix.len() > MAX_SUFFIX {
        return refuse(format!("http checksum request suffix exceeds max size {MAX_SUFFIX}"));
    }
    match ChecksumAlgo::try_from(request.algo) {
        Ok(ChecksumAlgo::Sha256) => Ok(Algorithm::Sha256),
        Ok(ChecksumAlgo::Sha384) => Ok(Algorithm::Sha384),
        Ok(ChecksumAlgo::Sha512) => Ok(Algorithm::Sha512),
        Err(_) => refuse(format!("unsupported checksum algorithm {}", request.algo)),
    }
}

fn invalid(source: &pb::SourceOp, error: &dyn std::error::Error) -> BuildError {
    BuildError::new(FailureClass::InvalidArgument, format!("source {:?}: {error}", source.identifier))
}
