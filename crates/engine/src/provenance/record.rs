//! Statements about how results came about: for exporters, and for the history.

use super::Captured;
use crate::{
    build_error::{BuildError, Detail},
    gateway::{
        attestation::{Attestation, Content, Kind, Predicate, keys},
        bridge::{Bridge, BuildResult},
    },
    layers::pack::Packing,
};
use async_trait::async_trait;
use bytes::Bytes;
use cooper_attest::{End, Error, Layers, Moment, Params, ProvenanceParams};
use cooper_export::Platforms;
use cooper_oci::{Descriptor, Digest};
use serde_json::json;
use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::SystemTime,
};

/// Adds a statement to every platform of a result.
pub fn attest(
    bridge: &Bridge,
    captured: &BTreeMap<String, Captured>,
    params: &Params,
    result: &mut BuildResult,
) -> Result<(), BuildError> {
    let params = ProvenanceParams::parse(params).map_err(failed)?;
    let entry = |key: &str| result.metadata.get(key).map(Vec::as_slice);
    let platforms = Platforms::parse(entry("refs.platforms"), entry("containerimage.config"))?;
    let finished = Arc::default();
    for platform in platforms.0 {
        // A single result counts for whatever platform it is for; an empty tree came about without us.
        let Some(captured) = captured.get(&platform.id).or_else(|| captured.get("")) else { continue };
        let late = late(bridge, captured, params.clone(), &finished)?;
        let inline_only = params.inline_only.to_string().into_bytes();
        let attestation = Attestation {
            kind: Kind::InToto,
            metadata: BTreeMap::from([
                (keys::REASON.to_owned(), keys::PROVENANCE.as_bytes().to_vec()),
                (keys::INLINE_ONLY.to_owned(), inline_only),
            ]),
            content: Content::Late(Arc::new(late)),
            path: params.filename.clone(),
            predicate_type: params.version.predicate_type().to_owned(),
            subjects: Vec::new(),
        };
        result.attest(&platform.id, attestation);
    }
    Ok(())
}

/// The predicate types and predicates that a build's record keeps, by the result's keys: everything that is known.
pub fn for_history(
    bridge: &Bridge,
    captured: &BTreeMap<String, Captured>,
    builder_id: &str,
) -> Result<Vec<(String, &'static str, Bytes)>, BuildError> {
    let params =
        ProvenanceParams { builder_id: builder_id.to_owned(), capture_usage: true, ..ProvenanceParams::default() };
    let finished = Arc::default();
    let each = captured.iter().map(|(key, captured)| {
        let late = late(bridge, captured, params.clone(), &finished)?;
        Ok((key.clone(), params.version.predicate_type(), late.now()))
    });
    each.collect()
}

/// A predicate that waits for its layers. All of a build end at the same time.
struct Late {
    predicate: cooper_attest::Predicate,
    bridge: Bridge,
    finished: Arc<OnceLock<End>>,
}

fn late(
    bridge: &Bridge,
    captured: &Captured,
    params: ProvenanceParams,
    finished: &Arc<OnceLock<End>>,
) -> Result<Late, BuildError> {
    let config = bridge.provenance_config();
    let moment = Moment {
        started: timestamp(bridge.job().started),
        invocation: bridge.job().invocation.clone(),
        dockerfile_version: config.dockerfile_version.clone(),
        compatibility_version: bridge.job().compatibility.number(),
        environment: config.environment.clone(),
    };
    let Captured { capture, request, definition } = captured;
    let predicate = cooper_attest::Predicate::new(params, capture, request, definition, moment).map_err(failed)?;
    Ok(Late { predicate, bridge: bridge.clone(), finished: finished.clone() })
}

#[async_trait]
impl Predicate for Late {
    async fn json(&self) -> Result<Bytes, BuildError> {
        Ok(self.now())
    }
}

impl Late {
    fn now(&self) -> Bytes {
        let finished = self.finished.get_or_init(|| {
            let at = timestamp(SystemTime::now());
            let wanted = self.predicate.params().capture_usage;
            let read = |file: &str| std::fs::read_to_string(format!("/proc/{file}")).ok();
            End { at, system: wanted.then(|| cooper_attest::system_sample(at, read)).flatten() }
        });
        self.predicate.json(finished, &self.layers()).into()
    }

    /// The layers of every step whose result is here and was packed, without packing any.
    fn layers(&self) -> Layers {
        let mut layers = Layers::new();
        let steps = self.predicate.steps().map(|steps| &steps.names);
        for (digest, step) in steps.into_iter().flatten() {
            let Ok(digest) = digest.parse::<Digest>() else { continue };
            for (output, tree) in self.bridge.kept_outputs(&digest).into_iter().enumerate() {
                let packed = tree.and_then(|tree| self.bridge.worker().packed(&tree, Packing::default()));
                if let Some(chain) = packed.filter(|chain| !chain.is_empty()) {
                    let chain: Vec<Descriptor> = chain.iter().map(|p| listed(&p.descriptor)).collect();
                    layers.insert(format!("{step}:{output}"), vec![chain]);
                }
            }
        }
        layers
    }
}

/// A descriptor without what only we understand.
fn listed(descriptor: &Descriptor) -> Descriptor {
    Descriptor::new(descriptor.media_type.clone(), descriptor.digest.clone(), descriptor.size)
}

fn timestamp(time: SystemTime) -> jiff::Timestamp {
    jiff::Timestamp::try_from(time).unwrap_or_default()
}

/// What cannot be attested fails the build; sources that cannot be named are told one by one.
fn failed(error: Error) -> BuildError {
    let mut failure = BuildError::refused(error.to_string());
    if let Error::Incomplete(list) = error {
        failure.details.push(Detail {
            type_url: "github.com/moby/buildkit/errdefs.ProvenanceMaterialsIncomplete+json".to_owned(),
            value: json!({"incomplete": list}).to_string().into_bytes(),
        });
    }
    failure
}
