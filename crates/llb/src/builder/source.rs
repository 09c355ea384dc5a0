//! Where files come from: images, the client, HTTP, layouts.

use super::{Body, Meta, Node, Output};
use crate::{Error, attrs};
use cooper_oci::{Digest, ImageRef};
use std::collections::BTreeMap;

/// Attributes and the capabilities that they need.
#[derive(Default)]
pub(super) struct Attributes {
    pub(super) attrs: BTreeMap<String, String>,
    pub(super) caps: Vec<&'static str>,
}

impl Attributes {
    pub(super) fn needing(cap: &'static str) -> Self {
        Self { attrs: BTreeMap::new(), caps: vec![cap] }
    }

    /// Sets `name` when there is a value; the value needs `cap`.
    pub(super) fn set(&mut self, name: &str, value: Option<impl Into<String>>, cap: Option<&'static str>) {
        if let Some(value) = value {
            self.attrs.insert(name.to_owned(), value.into());
            self.caps.extend(cap);
        }
    }

    pub(super) fn output(self, identifier: String, platform: bool, meta: Meta) -> Output {
        Node::output(Body::Source { identifier, attrs: self.attrs, platform }, meta, self.caps)
    }
}

fn non_empty(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// A list of strings as the attributes carry it.
fn json_list(list: &[String]) -> Option<String> {
    (!list.is_empty()).then(|| {
        let json = serde_json::Value::from(list.to_vec()).to_string();
        // As clients in Go write it: the text is part of the op's digest.
        json.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e")
    })
}

/// An image of a registry.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// `pull`, `local`, or empty for the default.
    pub resolve_mode: String,
    /// `internal`, `frontend`, or empty.
    pub record_type: String,
    /// Stop after so many layers.
    pub layer_limit: Option<u32>,
    /// What the manifest must be.
    pub checksum: Option<Digest>,
}

impl Image {
    /// The image's file system, for the platform in `meta`.
    pub fn output(self, reference: &ImageRef, meta: Meta) -> Output {
        let mut a = Attributes::needing("source.image");
        let mode = non_empty(&self.resolve_mode);
        // Only a mode that clients rely on for safety needs the capability.
        a.set(attrs::IMAGE_RESOLVE_MODE, mode, (mode == Some("pull")).then_some("source.image.resolvemode"));
        a.set(attrs::IMAGE_RECORD_TYPE, non_empty(&self.record_type), None);
        let limit = self.layer_limit.map(|limit| limit.to_string());
        a.set(attrs::IMAGE_LAYER_LIMIT, limit, Some("source.image.layerlimit"));
        let checksum = self.checksum.map(|digest| digest.to_string());
        a.set(attrs::IMAGE_CHECKSUM, checksum, Some("source.image.checksum"));
        a.output(format!("docker-image://{}", reference.clone().with_default_tag()), true, meta)
    }
}

/// A directory of the client.
#[derive(Debug, Clone, Default)]
pub struct Local {
    /// The session that has it; when absent, `unique` keeps builds apart.
    pub session: Option<String>,
    /// Random id of the build.
    pub unique: Option<String>,
    /// Only what matches.
    pub include_patterns: Vec<String>,
    /// Not what matches.
    pub exclude_patterns: Vec<String>,
    /// Only these paths, links followed.
    pub follow_paths: Vec<String>,
    /// Files of earlier transfers with the same hint are not sent again.
    pub shared_key_hint: String,
    /// `none` sends everything, `metadata` (the default) what looks changed.
    pub differ: Option<String>,
    /// Whether a server without that difference is refused.
    pub differ_required: bool,
    /// Only metadata is sent, except of files that match one of these.
    pub metadata_only: Option<Vec<String>>,
}

impl Local {
    /// The directory that the client calls `name`.
    pub fn output(self, name: &str, meta: Meta) -> Output {
        let mut a = Attributes::needing("source.local");
        if self.session.is_none() {
            a.set(attrs::LOCAL_UNIQUE, Some(self.unique.unwrap_or_default()), Some("source.local.unique"));
        }
        a.set(attrs::LOCAL_SESSION, self.session, Some("source.local.sessionid"));
        let include = json_list(&self.include_patterns);
        a.set(attrs::LOCAL_INCLUDE_PATTERNS, include, Some("source.local.includepatterns"));
        a.set(attrs::LOCAL_FOLLOW_PATHS, json_list(&self.follow_paths), Some("source.local.followpaths"));
        let exclude = json_list(&self.exclude_patterns);
        a.set(attrs::LOCAL_EXCLUDE_PATTERNS, exclude, Some("source.local.excludepatterns"));
        let hint = non_empty(&self.shared_key_hint);
        a.set(attrs::LOCAL_SHARED_KEY_HINT, hint, Some("source.local.sharedkeyhint"));
        a.set(attrs::LOCAL_DIFFER, self.differ, self.differ_required.then_some("source.local.differ"));
        if let Some(exceptions) = self.metadata_only {
            a.set(attrs::LOCAL_METADATA_TRANSFER, Some("true"), Some("source.local.metadatatransfer"));
            a.set(attrs::LOCAL_METADATA_TRANSFER_EXCLUDE, json_list(&exceptions), None);
        }
        a.output(format!("local://{name}"), false, meta)
    }
}

/// A file behind a URL.
#[derive(Debug, Clone, Default)]
pub struct Http {
    /// What the bytes must be.
    pub checksum: Option<Digest>,
    /// Name of the file; taken from the response when absent.
    pub filename: Option<String>,
    /// Permissions; 0600 when absent.
    pub perm: Option<u32>,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Secret with the `Authorization` header.
    pub auth_header_secret: Option<String>,
    /// Request headers, lower-case names; servers accept `accept` and `user-agent`.
    pub headers: BTreeMap<String, String>,
    /// Armoured public key and detached signature.
    pub signature: Option<(String, String)>,
}

impl Http {
    /// A directory with that one file.
    pub fn output(self, url: &str, meta: Meta) -> Output {
        let mut a = Attributes::needing("source.http");
        let checksum = self.checksum.map(|digest| digest.to_string());
        a.set(attrs::HTTP_CHECKSUM, checksum, Some("source.http.checksum"));
        a.set(attrs::HTTP_FILENAME, self.filename, None);
        a.set(attrs::HTTP_PERM, self.perm.map(|perm| format!("0{perm:o}")), Some("source.http.perm"));
        let id = |id: u32| (id != 0).then(|| id.to_string());
        a.set(attrs::HTTP_UID, id(self.uid), Some("soruce.http.uidgid"));
        a.set(attrs::HTTP_GID, id(self.gid), Some("soruce.http.uidgid"));
        a.set(attrs::HTTP_AUTH_HEADER_SECRET, self.auth_header_secret, Some("source.http.auth"));
        for (name, value) in self.headers {
            a.set(&format!("{}{name}", attrs::HTTP_HEADER_PREFIX), Some(value), Some("source.http.header"));
        }
        if let Some((key, signature)) = self.signature {
            a.set(attrs::HTTP_SIG_PUBKEY, Some(key), Some("source.http.signatureverify"));
            a.set(attrs::HTTP_SIG_SIGNATURE, Some(signature), None);
        }
        a.output(url.to_owned(), false, meta)
    }
}

/// An image in an OCI layout that a session serves.
#[derive(Debug, Clone, Default)]
pub struct OciLayout {
    /// The session.
    pub session: Option<String>,
    /// The session's name for the layout.
    pub store: Option<String>,
    /// Stop after so many layers.
    pub layer_limit: Option<u32>,
}

impl OciLayout {
    /// The image's file system, for the platform in `meta`.
    pub fn output(self, reference: &ImageRef, meta: Meta) -> Output {
        let mut a = Attributes::needing("source.ocilayout");
        a.set(attrs::OCI_SESSION, self.session, None);
        a.set(attrs::OCI_STORE, self.store, None);
        a.set(attrs::OCI_LAYER_LIMIT, self.layer_limit.map(|limit| limit.to_string()), None);
        a.output(format!("oci-layout://{reference}"), true, meta)
    }
}

/// One blob of a registry (or, with a store, of a layout) as a file.
pub fn image_blob(
    reference: &ImageRef,
    store: Option<OciLayout>,
    filename: Option<String>,
    perm: Option<u32>,
    meta: Meta,
) -> Result<Output, Error> {
    let fail = |reason: &str| Error::Build { kind: "source", reason: format!("blob {reference}: {reason}") };
    if reference.tag().is_some() {
        return Err(fail("a tag is not allowed"));
    }
    if reference.digest().is_none() {
        return Err(fail("a digest is required"));
    }
    let mut a = Attributes::needing("source.imageblob");
    a.set(attrs::HTTP_FILENAME, filename, None);
    a.set(attrs::HTTP_PERM, perm.map(|perm| format!("0{perm:o}")), None);
    let scheme = if store.is_some() { "oci-layout+blob" } else { "docker-image+blob" };
    if let Some(OciLayout { session, store, .. }) = store {
        a.set(attrs::OCI_SESSION, session, None);
        a.set(attrs::OCI_STORE, store, None);
    }
    Ok(a.output(format!("{scheme}://{reference}"), false, meta))
}
