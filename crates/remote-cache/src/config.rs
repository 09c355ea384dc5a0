//! `application/vnd.buildkit.cacheconfig.v0`: the document, written in one way only, read from anybody.
//!
//! Own members beside BuildKit's, which BuildKit passes over: `attachments`, a record's `kind` (`content`, `source`), `output` and `name`, a
//! result's `expiresAt`. Traps of the format: a layer's `parent` is left out when it is 0, -1 is the bottom; `link` and `layer`
//! are always there.

use crate::{Cache, FormatError, Layer, Link, Record, RecordKind, StepResult};
use cooper_oci::{Descriptor, Digest, annotations};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// Media type of the document.
pub const CONFIG_MEDIA_TYPE: &str = cooper_oci::media_types::CACHE_CONFIG;
/// Largest document that is read, in bytes. BuildKit reads 1 MiB.
pub const MAX_CONFIG: u64 = 16 << 20;
/// Most layers on top of each other; kernels mount fewer.
const MAX_DEPTH: usize = 1024;
/// Most outputs of a step.
const MAX_OUTPUTS: usize = 4096;
/// Most layers of all results together: bounds what a small document can blow up to.
const MAX_EXPANDED: usize = 4 << 20;
/// Most attachments: chunks of cache mounts, for the most part.
const MAX_ATTACHMENTS: usize = 1 << 16;

#[derive(Serialize, Deserialize)]
struct ConfigDoc {
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    layers: Vec<LayerDoc>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    records: Vec<RecordDoc>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    attachments: Vec<Descriptor>,
}

#[derive(Serialize, Deserialize)]
struct LayerDoc {
    blob: Digest,
    #[serde(default, skip_serializing_if = "is_zero")]
    parent: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    annotations: Option<AnnotationsDoc>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnnotationsDoc {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    media_type: String,
    #[serde(default, rename = "diffID", skip_serializing_if = "String::is_empty")]
    diff_id: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    size: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct RecordDoc {
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    layers: Vec<ResultDoc>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    chains: Vec<ChainDoc>,
    digest: Digest,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    inputs: Vec<Option<Vec<LinkDoc>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(default, skip_serializing_if = "is_zero")]
    output: i64,
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    name: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResultDoc {
    #[serde(default)]
    layer: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ChainDoc {
    #[serde(default, deserialize_with = "null_as_default")]
    layers: Vec<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct LinkDoc {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    selector: String,
    #[serde(default)]
    link: i64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_zero(value: &i64) -> bool {
    *value == 0
}

fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl Cache {
    /// The document. `described`: with media types, sizes and diff ids of the layers in it, for places that keep no
    /// manifest beside. Call on a [`Cache::normalized`] cache, so that equal caches give equal bytes.
    pub fn marshal(&self, described: bool) -> Vec<u8> {
        let layers = self.layers.iter().map(|layer| LayerDoc {
            blob: layer.descriptor.digest.clone(),
            parent: layer.parent.map_or(-1, |p| p as i64),
            annotations: described.then(|| annotations_of(layer)),
        });
        let records = self.record_docs(|top| self.stack(top));
        let doc = ConfigDoc { layers: layers.collect(), records, attachments: self.attachments.clone() };
        to_json(&doc)
    }

    /// The records alone, for a cache that travels in the config of an image with exactly these layers, one upon the
    /// other in this order.
    pub fn marshal_inline(&self) -> Vec<u8> {
        to_json(&self.record_docs(|top| (0..=top).collect()))
    }

    fn record_docs(&self, stack: impl Fn(usize) -> Vec<usize>) -> Vec<RecordDoc> {
        let record = |record: &Record| {
            let (mut layers, mut chains) = (Vec::new(), Vec::new());
            for result in &record.results {
                let (created_at, expires_at) = (time(result.created), time(result.expires));
                match result.layers.last() {
                    Some(&top) if stack(top) == result.layers => {
                        layers.push(ResultDoc { layer: top as i64, created_at, expires_at });
                    }
                    _ => {
                        let layers = result.layers.iter().map(|&l| l as i64).collect();
                        chains.push(ChainDoc { layers, created_at, expires_at });
                    }
                }
            }
            let inputs = record.inputs.iter().map(|links| {
                let link = |l: &Link| LinkDoc { selector: l.selector.clone(), link: l.record as i64 };
                Some(links.iter().map(link).collect())
            });
            RecordDoc {
                layers,
                chains,
                digest: record.digest.clone(),
                inputs: inputs.collect(),
                kind: match record.kind {
                    RecordKind::Step => None,
                    RecordKind::Content => Some("content".to_owned()),
                    RecordKind::Source => Some("source".to_owned()),
                },
                output: record.output as i64,
                name: record.name.clone(),
            }
        };
        self.records.iter().map(record).collect()
    }
}

fn to_json(doc: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(doc).expect("plain data has a JSON form")
}

fn time(time: Option<Timestamp>) -> Option<String> {
    time.map(|t| t.to_string())
}

fn annotations_of(layer: &Layer) -> AnnotationsDoc {
    AnnotationsDoc {
        media_type: layer.descriptor.media_type.clone(),
        diff_id: layer.descriptor.annotations.get(annotations::UNCOMPRESSED).cloned().unwrap_or_default(),
        size: layer.descriptor.size as i64,
        created_at: time(layer.created),
    }
}

/// Reads a document whose layers are described by the manifest beside it. Total: any bytes give a sound cache or an
/// error.
pub fn parse(bytes: &[u8], layers: &[Descriptor]) -> Result<Cache, FormatError> {
    let described: HashMap<&Digest, &Descriptor> = layers.iter().map(|d| (&d.digest, d)).collect();
    read(bytes, |doc| {
        let known = described.get(&doc.blob).ok_or_else(|| FormatError::Undescribed(doc.blob.clone()))?;
        Ok((*known).clone())
    })
}

/// Reads a document that describes its layers itself.
pub fn parse_described(bytes: &[u8]) -> Result<Cache, FormatError> {
    read(bytes, |doc| {
        let said = doc.annotations.as_ref().ok_or_else(|| FormatError::Undescribed(doc.blob.clone()))?;
        let size = u64::try_from(said.size).map_err(|_| FormatError::Undescribed(doc.blob.clone()))?;
        let mut desc = Descriptor::new(said.media_type.clone(), doc.blob.clone(), size);
        let notes =
            [(annotations::UNCOMPRESSED, Some(&said.diff_id)), (annotations::CREATED_AT, said.created_at.as_ref())];
        for (key, value) in notes {
            if let Some(value) = value.filter(|v| !v.is_empty()) {
                desc.annotations.insert(key.to_owned(), value.clone());
            }
        }
        Ok(desc)
    })
}

/// Reads the records that travel in the config of an image with these layers; each lies on the one before it.
pub fn parse_inline(records: &[u8], layers: Vec<Descriptor>) -> Result<Cache, FormatError> {
    let layers = layers.into_iter().enumerate().map(|(i, descriptor)| {
        let created = created(&descriptor);
        Layer { descriptor, parent: i.checked_sub(1), created }
    });
    let docs: Option<Vec<RecordDoc>> = serde_json::from_slice(records)?;
    assemble(layers.collect(), docs.unwrap_or_default())
}

fn read(bytes: &[u8], describe: impl Fn(&LayerDoc) -> Result<Descriptor, FormatError>) -> Result<Cache, FormatError> {
    if bytes.len() as u64 > MAX_CONFIG {
        return Err(FormatError::TooLarge { size: bytes.len() as u64, limit: MAX_CONFIG });
    }
    let doc: ConfigDoc = serde_json::from_slice(bytes)?;
    let count = doc.layers.len();
    let mut layers = Vec::with_capacity(count);
    for (index, layer) in doc.layers.iter().enumerate() {
        let parent = match layer.parent {
            -1 => None,
            p => Some(within(p, count, "layer", index)?),
        };
        let descriptor = describe(layer)?;
        layers.push(Layer { created: created(&descriptor), descriptor, parent });
    }
    check_layers(&layers)?;
    let cache = assemble(layers, doc.records)?;
    if doc.attachments.len() > MAX_ATTACHMENTS {
        return Err(FormatError::TooManyAttachments { found: doc.attachments.len(), limit: MAX_ATTACHMENTS });
    }
    Ok(Cache { attachments: doc.attachments, ..cache })
}

fn created(descriptor: &Descriptor) -> Option<Timestamp> {
    descriptor.annotations.get(annotations::CREATED_AT)?.parse().ok()
}

fn within(target: i64, count: usize, what: &'static str, index: usize) -> Result<usize, FormatError> {
    usize::try_from(target).ok().filter(|&t| t < count).ok_or(FormatError::Dangling { what, index, target })
}

/// No layer lies on itself: following parents ends.
fn check_layers(layers: &[Layer]) -> Result<(), FormatError> {
    let mut sound = vec![false; layers.len()];
    let mut depth = vec![0; layers.len()];
    for start in 0..layers.len() {
        let mut path = Vec::new();
        let mut next = Some(start);
        while let Some(at) = next.filter(|&at| !sound[at]) {
            if path.len() > layers.len() {
                return Err(FormatError::Cycle { what: "layer", index: start });
            }
            path.push(at);
            next = layers[at].parent;
        }
        let below = next.map_or(0, |at| depth[at]);
        for (above, at) in path.into_iter().rev().enumerate() {
            sound[at] = true;
            depth[at] = below + above + 1;
        }
        if depth[start] > MAX_DEPTH {
            return Err(FormatError::TooDeep { layers: depth[start], limit: MAX_DEPTH });
        }
    }
    Ok(())
}

fn assemble(layers: Vec<Layer>, docs: Vec<RecordDoc>) -> Result<Cache, FormatError> {
    let mut cache = Cache { layers, records: Vec::with_capacity(docs.len()), attachments: Vec::new() };
    let (layer_count, record_count) = (cache.layers.len(), docs.len());
    let mut expanded = 0;
    let mut tops: BTreeMap<usize, Timestamp> = BTreeMap::new();
    for (index, doc) in docs.into_iter().enumerate() {
        let mut results = Vec::new();
        for result in doc.layers {
            let top = within(result.layer, layer_count, "record", index)?;
            let layers = cache.stack(top);
            expanded += layers.len();
            if expanded > MAX_EXPANDED {
                return Err(FormatError::TooDeep { layers: expanded, limit: MAX_EXPANDED });
            }
            let created = instant(result.created_at);
            if let Some(created) = created {
                tops.entry(top).and_modify(|first| *first = created.min(*first)).or_insert(created);
            }
            results.push(StepResult { created, expires: instant(result.expires_at), layers });
        }
        for chain in doc.chains {
            let layers = chain.layers.iter().map(|&l| within(l, layer_count, "record", index));
            let layers = layers.collect::<Result<Vec<_>, _>>()?;
            results.push(StepResult { created: instant(chain.created_at), expires: instant(chain.expires_at), layers });
        }
        let mut inputs = Vec::with_capacity(doc.inputs.len());
        for links in doc.inputs {
            let mut alternatives = Vec::new();
            for link in links.unwrap_or_default() {
                let record = within(link.link, record_count, "record", index)?;
                alternatives.push(Link { record, selector: link.selector });
            }
            inputs.push(alternatives);
        }
        let kind = match doc.kind.as_deref() {
            Some("content") => RecordKind::Content,
            Some("source") => RecordKind::Source,
            _ => RecordKind::Step,
        };
        let output = within(doc.output, MAX_OUTPUTS, "record", index)?;
        cache.records.push(Record { digest: doc.digest, kind, output, name: doc.name, inputs, results });
    }
    check_records(&cache)?;
    // A manifest notes one time for an archive, which can be the layer of several steps; a result has its own.
    for (top, created) in tops {
        cache.layers[top].created = Some(created);
    }
    Ok(cache)
}

fn instant(text: Option<String>) -> Option<Timestamp> {
    text?.parse().ok()
}

/// No record reads itself: in an order of inputs first, every input comes before.
fn check_records(cache: &Cache) -> Result<(), FormatError> {
    let mut place = vec![0; cache.records.len()];
    for (at, index) in cache.in_order().into_iter().enumerate() {
        place[index] = at;
    }
    for (index, record) in cache.records.iter().enumerate() {
        if record.inputs.iter().flatten().any(|link| place[link.record] >= place[index]) {
            return Err(FormatError::Cycle { what: "record", index });
        }
    }
    Ok(())
}
