//! Exporter attributes: strings in, types out. What no exporter knows becomes metadata of the result.

use crate::{Error, Result};
use cooper_oci::{ChainId, DiffId, Digest, Platform};
use std::collections::{BTreeMap, BTreeSet};

/// Attributes of the `image`, `oci` and `docker` exporters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageAttrs {
    /// `name`: names separated by commas; `*` stands for the result's own.
    pub name: String,
    /// `push`
    pub push: bool,
    /// `push-by-digest`
    pub push_by_digest: bool,
    /// `registry.insecure`
    pub insecure: bool,
    /// `unpack`
    pub unpack: bool,
    /// `store`; true unless given.
    pub store: Option<bool>,
    /// `unsafe-internal-store-allow-incomplete`
    pub store_allow_incomplete: bool,
    /// `dangling-name-prefix`
    pub dangling_name_prefix: String,
    /// `danging-name-empty-only` (written like this in the protocol)
    pub dangling_name_empty_only: bool,
    /// `name-canonical`
    pub name_canonical: bool,
    /// `oci-mediatypes`, when given.
    pub oci_media_types: Option<bool>,
    /// `oci-artifact`, when given.
    pub oci_artifact: Option<bool>,
    /// `attestation-inline`, when given.
    pub attestation_inline: Option<bool>,
    /// `attestation-storage`
    pub attestation_storage: AttestationStorage,
    /// `prefer-nondist-layers`
    pub prefer_nondist_layers: bool,
    /// `compression` with its level and force.
    pub compression: CompressionChoice,
    /// `rewrite-timestamp`
    pub rewrite_timestamp: bool,
    /// `source-date-epoch`: seconds since 1970. `Some(None)` when given empty, which switches the result's own off.
    pub epoch: Option<Option<i64>>,
    /// `tar`: an archive, else a layout in the client's store. True unless given.
    pub tar: Option<bool>,
    /// `present-chains`, `present-blobs`
    pub present: Present,
    /// `annotation…` of all levels.
    pub annotations: Annotations,
    /// Everything else.
    pub metadata: BTreeMap<String, String>,
}

/// Where statements about an image go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AttestationStorage {
    /// `index`: a manifest beside the image's in an index over both.
    #[default]
    Index,
    /// `referrers`: manifests that refer to the image's, for consumers that stumble over indexes.
    Referrers,
}

/// What a place that takes docker's archives has already and does not need in them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Present {
    /// Chain ids of layers.
    pub chains: BTreeSet<String>,
    /// Digests of blobs.
    pub blobs: BTreeSet<String>,
}

impl Present {
    /// The layers that an archive can do without. `stack` has the blob and the diff id of every layer, the bottom first.
    pub fn dispensable(&self, stack: &[(Digest, DiffId)]) -> BTreeSet<Digest> {
        let mut below: Option<ChainId> = None;
        let mut spare: BTreeMap<&Digest, bool> = BTreeMap::new();
        for (blob, diff_id) in stack {
            let chain = ChainId::next(below.as_ref(), diff_id);
            let there = self.chains.contains(&chain.to_string()) || self.blobs.contains(blob.as_str());
            // The same archive may lie on other layers, too, and be missing there.
            spare.entry(blob).and_modify(|all| *all &= there).or_insert(there);
            below = Some(chain);
        }
        spare.into_iter().filter(|(_, spare)| *spare).map(|(blob, _)| blob.clone()).collect()
    }
}

/// How layers are compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompressionChoice {
    /// `uncompressed`, `gzip`, `estargz` or `zstd`.
    pub kind: CompressionKind,
    /// Whether `compression` was given at all.
    pub given: bool,
    /// `compression-level`
    pub level: Option<i32>,
    /// `force-compression`
    pub force: bool,
}

/// The `compression` values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompressionKind {
    /// Plain tar.
    Uncompressed,
    /// gzip, the default.
    Gzip,
    /// gzip in seekable pieces.
    Estargz,
    /// zstd.
    Zstd,
}

impl CompressionKind {
    /// The attribute's value.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uncompressed => "uncompressed",
            Self::Gzip => "gzip",
            Self::Estargz => "estargz",
            Self::Zstd => "zstd",
        }
    }
}

impl Default for CompressionChoice {
    fn default() -> Self {
        Self { kind: CompressionKind::Gzip, given: false, level: None, force: false }
    }
}

/// Which exporter an image's attributes are for. What another one knows is metadata like any unknown attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// `image`
    Store,
    /// `oci`, `docker`
    Client,
}

impl ImageAttrs {
    /// Reads the attributes.
    pub fn parse<'a>(target: Target, attrs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self> {
        let mut out = Self::default();
        for (key, value) in attrs {
            let known = match target {
                Target::Store => out.set_for_store(key, value)?,
                Target::Client => out.set_for_client(key, value)?,
            };
            if !known && !out.set(key, value)? && !out.annotations.set(key, value)? {
                out.metadata.insert(key.to_owned(), value.to_owned());
            }
        }
        out.validate()?;
        Ok(out)
    }

    /// Takes what only the `image` exporter knows; false for anything else.
    fn set_for_store(&mut self, key: &str, value: &str) -> Result<bool> {
        match key {
            "push" => self.push = flag(key, value)?,
            "push-by-digest" => self.push_by_digest = flag(key, value)?,
            "registry.insecure" => self.insecure = flag(key, value)?,
            "unpack" => self.unpack = flag(key, value)?,
            "store" => self.store = Some(flag(key, value)?),
            "unsafe-internal-store-allow-incomplete" => self.store_allow_incomplete = flag(key, value)?,
            "dangling-name-prefix" => value.clone_into(&mut self.dangling_name_prefix),
            "danging-name-empty-only" => self.dangling_name_empty_only = flag(key, value)?,
            "name-canonical" => self.name_canonical = flag(key, value)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Takes what only the `oci` and `docker` exporters know; false for anything else.
    fn set_for_client(&mut self, key: &str, value: &str) -> Result<bool> {
        match key {
            "tar" => self.tar = Some(flag(key, value)?),
            "present-chains" => self.present.chains = value.split(',').map(str::to_owned).collect(),
            "present-blobs" => self.present.blobs = value.split(',').map(str::to_owned).collect(),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Takes what all of them know; false for anything else.
    fn set(&mut self, key: &str, value: &str) -> Result<bool> {
        match key {
            "name" => value.clone_into(&mut self.name),
            "oci-mediatypes" => self.oci_media_types = Some(boolean(key, value)?),
            "oci-artifact" => self.oci_artifact = Some(boolean(key, value)?),
            "attestation-inline" => self.attestation_inline = Some(boolean(key, value)?),
            "attestation-storage" => {
                self.attestation_storage = match value {
                    "" | "index" => AttestationStorage::Index,
                    "referrers" => AttestationStorage::Referrers,
                    _ => {
                        let (key, value) = (key.to_owned(), value.to_owned());
                        return Err(Error::Attribute { key, value, expected: "index or referrers" });
                    }
                }
            }
            "prefer-nondist-layers" => self.prefer_nondist_layers = boolean(key, value)?,
            "compression" => {
                self.compression.kind = compression(key, value)?;
                self.compression.given = true;
            }
            "compression-level" => self.compression.level = Some(number(key, value)?),
            "force-compression" => self.compression.force = flag(key, value)?,
            "rewrite-timestamp" => self.rewrite_timestamp = boolean(key, value)?,
            "source-date-epoch" => self.epoch = Some(epoch(value)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Checks what excludes each other. Called again once the defaults are settled.
    pub fn validate(&self) -> Result<()> {
        if self.oci_media_types == Some(false) {
            if self.compression.kind == CompressionKind::Estargz {
                let given = format!("compression={}", self.compression.kind.name());
                return Err(Error::Conflict(given, "oci-mediatypes=false"));
            }
            if self.oci_artifact == Some(true) {
                return Err(Error::Conflict("oci-artifact=true".to_owned(), "oci-mediatypes=false"));
            }
        }
        if self.rewrite_timestamp && self.unpack {
            return Err(Error::Conflict("rewrite-timestamp".to_owned(), "unpack"));
        }
        Ok(())
    }

    /// Settles what was not given: OCI media types and artifact manifests.
    #[must_use]
    pub fn with_defaults(mut self, oci_media_types: bool, oci_artifact: bool) -> Self {
        let oci = *self.oci_media_types.get_or_insert(oci_media_types);
        self.oci_artifact.get_or_insert(oci && oci_artifact);
        self
    }

    /// Whether OCI media types are used; they are unless refused.
    pub fn oci(&self) -> bool {
        self.oci_media_types.unwrap_or(true)
    }

    /// Whether attestations are artifacts; they are, with OCI media types, unless refused.
    pub fn artifact(&self) -> bool {
        self.oci_artifact.unwrap_or(self.oci())
    }
}

/// Attributes of the `local` and `tar` exporters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FsAttrs {
    /// `source-date-epoch`, as in [`ImageAttrs::epoch`].
    pub epoch: Option<Option<i64>>,
    /// `attestation-prefix`
    pub attestation_prefix: String,
    /// `platform-split`, when given.
    pub platform_split: Option<bool>,
    /// `mode`
    pub mode: LocalMode,
    /// Everything else.
    pub metadata: BTreeMap<String, String>,
}

/// What happens to files that the destination has already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LocalMode {
    /// They stay.
    #[default]
    Copy,
    /// Those that the result does not have are deleted.
    Delete,
}

impl FsAttrs {
    /// Reads the attributes.
    pub fn parse<'a>(attrs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self> {
        let mut out = Self::default();
        for (key, value) in attrs {
            match key {
                "source-date-epoch" => out.epoch = Some(epoch(value)?),
                "attestation-prefix" => value.clone_into(&mut out.attestation_prefix),
                "platform-split" => out.platform_split = Some(boolean(key, value)?),
                "mode" => {
                    out.mode = match value {
                        "" | "copy" => LocalMode::Copy,
                        "delete" => LocalMode::Delete,
                        _ => {
                            let (key, value) = (key.to_owned(), value.to_owned());
                            return Err(Error::Attribute { key, value, expected: "copy or delete" });
                        }
                    }
                }
                _ => drop(out.metadata.insert(key.to_owned(), value.to_owned())),
            }
        }
        Ok(out)
    }

    /// Whether each platform gets a directory of its own.
    pub fn split(&self, several: bool) -> bool {
        self.platform_split.unwrap_or(several)
    }
}

/// Annotations at every level, by platform (`None`: for all of them).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Annotations {
    /// On the index.
    pub index: BTreeMap<String, String>,
    /// On the descriptor of the index.
    pub index_descriptor: BTreeMap<String, String>,
    /// On manifests and on their descriptors.
    pub images: BTreeMap<Option<Platform>, AnnotationSet>,
}

/// The annotations of one platform's image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnnotationSet {
    /// On the manifest.
    pub manifest: BTreeMap<String, String>,
    /// On its descriptor.
    pub descriptor: BTreeMap<String, String>,
}

impl Annotations {
    /// Takes in `annotation[-level][[platform]].key`; false for any other key.
    pub fn set(&mut self, key: &str, value: &str) -> Result<bool> {
        let Some((level, platform, name)) = split_annotation(key) else { return Ok(false) };
        let platform = match platform {
            "" => None,
            text => Some(text.parse::<Platform>()?),
        };
        let pair = (name.to_owned(), value.to_owned());
        match level {
            "index" => self.index.extend([pair]),
            "index-descriptor" => self.index_descriptor.extend([pair]),
            "" | "manifest" => self.images.entry(platform).or_default().manifest.extend([pair]),
            "manifest-descriptor" => self.images.entry(platform).or_default().descriptor.extend([pair]),
            other => return Err(Error::AnnotationType(other.to_owned())),
        }
        Ok(true)
    }

    /// Takes in those of `other`, which win.
    pub fn merge(&mut self, other: Self) {
        self.index.extend(other.index);
        self.index_descriptor.extend(other.index_descriptor);
        for (platform, set) in other.images {
            let mine = self.images.entry(platform).or_default();
            mine.manifest.extend(set.manifest);
            mine.descriptor.extend(set.descriptor);
        }
    }

    /// Those of one platform, on top of those for all.
    pub fn of(&self, platform: Option<&Platform>) -> AnnotationSet {
        let mut out = self.images.get(&None).cloned().unwrap_or_default();
        if let Some(own) = platform.and_then(|p| self.images.get(&Some(p.clone()))) {
            out.manifest.extend(own.manifest.clone());
            out.descriptor.extend(own.descriptor.clone());
        }
        out
    }
}

/// `annotation[-level][[platform]].key` in its three parts.
fn split_annotation(key: &str) -> Option<(&str, &str, &str)> {
    let rest = key.strip_prefix("annotation")?;
    let end = rest.find(['[', '.'])?;
    let (level, rest) = rest.split_at(end);
    let level = match level.strip_prefix('-') {
        Some(level) if !level.is_empty() && level.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') => level,
        None if level.is_empty() => "",
        _ => return None,
    };
    let (platform, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']').filter(|(platform, _)| !platform.is_empty())?,
        None => ("", rest),
    };
    let name = rest.strip_prefix('.')?;
    (!name.is_empty() && !name.contains(char::is_whitespace)).then_some((level, platform, name))
}

/// A boolean that may stand alone.
fn flag(key: &str, value: &str) -> Result<bool> {
    if value.is_empty() { Ok(true) } else { boolean(key, value) }
}

fn boolean(key: &str, value: &str) -> Result<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(Error::NotBool { key: key.to_owned(), value: value.to_owned() }),
    }
}

fn number(key: &str, value: &str) -> Result<i32> {
    let fail = |_| Error::Attribute { key: key.to_owned(), value: value.to_owned(), expected: "an integer" };
    value.parse().map_err(fail)
}

fn compression(key: &str, value: &str) -> Result<CompressionKind> {
    Ok(match value {
        "uncompressed" => CompressionKind::Uncompressed,
        "gzip" => CompressionKind::Gzip,
        "estargz" => CompressionKind::Estargz,
        "zstd" => CompressionKind::Zstd,
        _ => {
            let expected = "uncompressed, gzip, estargz or zstd";
            return Err(Error::Attribute { key: key.to_owned(), value: value.to_owned(), expected });
        }
    })
}

/// Seconds since 1970, `None` when empty.
pub(crate) fn epoch(value: &str) -> Result<Option<i64>> {
    match value {
        "" => Ok(None),
        _ => value.parse().map(Some).map_err(|_| Error::Epoch(value.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(attrs: &[(&str, &str)]) -> std::result::Result<ImageAttrs, String> {
        ImageAttrs::parse(Target::Store, attrs.iter().copied()).map_err(|e| e.to_string())
    }

    #[test]
    fn attributes_of_other_exporters_are_metadata() {
        let given = ["push", "store", "unpack", "dangling-name-prefix", "name-canonical", "tar", "present-chains"];
        let metadata = |target| {
            let attrs = ImageAttrs::parse(target, given.map(|key| (key, "x"))).map_err(|e| e.to_string());
            attrs.map(|attrs| attrs.metadata.into_keys().collect::<Vec<_>>().join(" "))
        };
        assert_eq!(metadata(Target::Store), Err("non-bool value \"x\" specified for push".to_owned()));
        let client = ImageAttrs::parse(Target::Client, [("unpack", "true"), ("rewrite-timestamp", "true")]).unwrap();
        assert_eq!(client.metadata["unpack"], "true");
        assert_eq!(metadata(Target::Client), Err("non-bool value \"x\" specified for tar".to_owned()));
        let client = ImageAttrs::parse(Target::Client, given[..5].iter().map(|key| (*key, "x"))).unwrap();
        assert_eq!(client, ImageAttrs { metadata: client.metadata.clone(), ..ImageAttrs::default() });
        assert_eq!(client.metadata.len(), 5);
    }

    #[test]
    fn known_keys_are_typed_and_others_are_kept() {
        let attrs = parse(&[
            ("name", "a,b"),
            ("push", ""),
            ("store", "false"),
            ("compression", "zstd"),
            ("compression-level", "-3"),
            ("force-compression", "true"),
            ("source-date-epoch", "12"),
            ("image.name", "own"),
            ("annotation.a", "1"),
        ])
        .unwrap();
        assert_eq!(attrs.name, "a,b");
        assert!(attrs.push && attrs.store == Some(false));
        let compression = CompressionChoice { kind: CompressionKind::Zstd, given: true, level: Some(-3), force: true };
        assert_eq!(attrs.compression, compression);
        assert_eq!(attrs.epoch, Some(Some(12)));
        assert_eq!(attrs.metadata.into_iter().collect::<Vec<_>>(), [("image.name".into(), "own".into())]);
    }

    #[test]
    fn bad_values_are_named() {
        for (attrs, want) in [
            (&[("push", "maybe")][..], "non-bool value \"maybe\" specified for push"),
            (&[("compression-level", "x")], "invalid compression-level \"x\": expected an integer"),
            (&[("compression", "lz4")], "invalid compression \"lz4\": expected uncompressed, gzip, estargz or zstd"),
            (&[("source-date-epoch", "now")], "invalid SOURCE_DATE_EPOCH \"now\": expected seconds since 1970"),
            (&[("annotation-layer.a", "1")], "unrecognized annotation type layer"),
            (
                &[("compression", "estargz"), ("oci-mediatypes", "false")],
                "exporter option \"compression=estargz\" conflicts with \"oci-mediatypes=false\"",
            ),
            (
                &[("oci-artifact", "true"), ("oci-mediatypes", "false")],
                "exporter option \"oci-artifact=true\" conflicts with \"oci-mediatypes=false\"",
            ),
        ] {
            assert_eq!(parse(attrs).unwrap_err(), want);
        }
    }

    #[test]
    fn what_is_there_is_known_by_what_it_lies_on() {
        let layer = |name: &str| (Digest::of(name), DiffId(Digest::of(format!("{name} unpacked"))));
        let stack = [layer("a"), layer("b"), layer("a")];
        let first = ChainId::next(None, &stack[0].1);
        let second = ChainId::next(Some(&first), &stack[1].1);
        let third = ChainId::next(Some(&second), &stack[2].1);
        let spare = |chains: &[&ChainId], blobs: &[&Digest]| {
            let present = Present {
                chains: chains.iter().map(ToString::to_string).collect(),
                blobs: blobs.iter().map(ToString::to_string).collect(),
            };
            present.dispensable(&stack).len()
        };
        assert_eq!(spare(&[], &[]), 0);
        assert_eq!(spare(&[&first], &[]), 0, "it lies elsewhere, too");
        assert_eq!(spare(&[&first, &second], &[]), 1);
        assert_eq!(spare(&[&first, &second, &third], &[]), 2);
        assert_eq!(spare(&[], &[&stack[0].0]), 1);
    }

    #[test]
    fn annotations_have_levels_and_platforms() {
        let attrs = parse(&[
            ("annotation.all", "1"),
            ("annotation-manifest[linux/arm64].one", "2"),
            ("annotation-manifest-descriptor.d", "3"),
            ("annotation-index.i", "4"),
            ("annotation-index-descriptor.i.d", "5"),
        ])
        .unwrap();
        let arm = "linux/arm64".parse().unwrap();
        let (arm, none) = (attrs.annotations.of(Some(&arm)), attrs.annotations.of(None));
        assert_eq!(arm.manifest.len(), 2);
        assert_eq!(none.manifest.into_iter().collect::<Vec<_>>(), [("all".into(), "1".into())]);
        assert_eq!(arm.descriptor["d"], "3");
        assert_eq!(attrs.annotations.index["i"], "4");
        assert_eq!(attrs.annotations.index_descriptor["i.d"], "5");
        for (key, want) in [
            ("annotation.a b", None),
            ("annotations.a", None),
            ("annotation", None),
            ("annotation-manifest[].x", None),
            ("annotation[linux/amd64].x.y", Some(("", "linux/amd64", "x.y"))),
        ] {
            assert_eq!(split_annotation(key), want, "{key}");
        }
    }
}
