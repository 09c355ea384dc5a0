//! Names to digests, and small documents: manifests, indexes, configs.

use crate::{
    Client, Error,
    challenge::Scopes,
    client::Endpoint,
    request::{Answer, Call},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use cooper_oci::{Descriptor, Digest, ImageRef, MediaType, media_types as t};
use http::{
    HeaderName, Method, StatusCode,
    header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE},
};
use serde::Deserialize;
use tokio::time::sleep;

/// Largest manifest, index or config that is read, in bytes. Registries take 4 MiB manifests; configs have no limit
/// of their own.
pub const MAX_DOCUMENT: u64 = 8 << 20;
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const ACCEPTED: [&str; 5] = [t::OCI_INDEX, t::DOCKER_INDEX, t::OCI_MANIFEST, t::DOCKER_MANIFEST, "*/*"];

/// What a reference names.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The manifest or index.
    pub descriptor: Descriptor,
    /// Its bytes, verified, when they came along.
    pub bytes: Option<Bytes>,
}

impl Client {
    /// Resolves `name` (its digest, else its tag, else `latest`) at its mirrors, then at its own host. One `HEAD` in
    /// the ordinary case, which registries do not count as a pull.
    pub async fn resolve(&self, name: &ImageRef) -> Result<Resolved, Error> {
        let reference = name.to_string();
        let mut places = self.places(name)?;
        while let Some(endpoint) = places.next() {
            match self.resolve_at(&endpoint, name, &reference).await {
                Ok(resolved) => return Ok(places.served(resolved)),
                Err(e) => places.failed(e),
            }
        }
        Err(places.error())
    }

    /// The bytes of a manifest, index, config or other small blob of `name`'s repository; digest and size verified.
    pub async fn document(&self, name: &ImageRef, desc: &Descriptor) -> Result<Bytes, Error> {
        let reference = format!("{}@{}", name.repository(), desc.digest);
        if desc.size > MAX_DOCUMENT {
            return Err(Error::TooLarge { reference, limit: MAX_DOCUMENT });
        }
        let inline = desc.data.as_ref().and_then(|data| STANDARD.decode(data).ok());
        if let Some(bytes) = inline.filter(|bytes| desc.digest.matches(bytes)) {
            return Ok(bytes.into());
        }
        let (kind, digest) = (desc.kind(), &desc.digest);
        let mut places = self.places(name)?;
        while let Some(endpoint) = places.next() {
            match self.get_document(&endpoint, name, kind, digest.as_str(), Some(digest), &reference).await {
                Ok((_, bytes)) => return Ok(places.served(bytes)),
                Err(e) => places.failed(e),
            }
        }
        Err(places.error())
    }

    async fn resolve_at(&self, endpoint: &Endpoint, name: &ImageRef, reference: &str) -> Result<Resolved, Error> {
        let selector = name.selector();
        let url = endpoint.url(&self.shared, name, "manifests", &selector)?;
        let call = accepting(Call::new(Method::HEAD, url, Scopes::pull(&endpoint.repository(name))));
        let answer = self.send(endpoint, call).await?;
        match answer.response.status() {
            StatusCode::OK => {
                if let Some(descriptor) = described(&answer, name) {
                    refuse_schema1(&descriptor, reference)?;
                    return Ok(Resolved { descriptor, bytes: None });
                }
            }
            StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED => {
                return Err(self.refused(endpoint, &Method::HEAD, answer, reference).await);
            }
            // Servers that cannot answer HEAD, and refusals that GET explains in its body.
            _ => {}
        }
        let (descriptor, bytes) =
            self.get_document(endpoint, name, MediaType::Manifest, &selector, name.digest(), reference).await?;
        refuse_schema1(&descriptor, reference)?;
        Ok(Resolved { descriptor, bytes: Some(bytes) })
    }

    async fn get_document(
        &self,
        endpoint: &Endpoint,
        name: &ImageRef,
        kind: MediaType,
        item: &str,
        expected: Option<&Digest>,
        reference: &str,
    ) -> Result<(Descriptor, Bytes), Error> {
        let manifest = matches!(kind, MediaType::Index | MediaType::Manifest | MediaType::Schema1);
        let mut failures = 0;
        let (content_type, bytes) = loop {
            let url = endpoint.url(&self.shared, name, if manifest { "manifests" } else { "blobs" }, item)?;
            let mut call = Call::new(Method::GET, url, Scopes::pull(&endpoint.repository(name)));
            if manifest {
                call = accepting(call);
            }
            let answer = self.send(endpoint, call).await?;
            if answer.response.status() != StatusCode::OK {
                return Err(self.refused(endpoint, &Method::GET, answer, reference).await);
            }
            let content_type = media_type(&answer);
            match self.read(answer, MAX_DOCUMENT).await {
                Ok(bytes) => break (content_type, bytes),
                Err(e) => {
                    failures += 1;
                    sleep(self.options().backoff.pause(failures, None).ok_or(e)?).await;
                }
            }
        };
        if bytes.len() as u64 > MAX_DOCUMENT {
            return Err(Error::TooLarge { reference: reference.to_owned(), limit: MAX_DOCUMENT });
        }
        let actual = Digest::of(&bytes);
        let digest = match expected {
            Some(expected) if !expected.matches(&bytes) => {
                return Err(Error::WrongDigest {
                    reference: reference.to_owned(),
                    host: endpoint.place.host.clone(),
                    expected: expected.clone(),
                    actual,
                });
            }
            Some(expected) => expected.clone(),
            None => actual,
        };
        let media_type = content_type.or_else(|| document_type(&bytes)).unwrap_or_default();
        Ok((Descriptor::new(media_type, digest, bytes.len() as u64), bytes))
    }
}

/// One line for all types: RFC 9110 (5.3) lets several stand for one, but some registries read the first alone.
fn accepting(call: Call) -> Call {
    call.header(ACCEPT, &ACCEPTED.join(", "))
}

/// The descriptor that a `HEAD` gives, when it gives all of it.
fn described(answer: &Answer, name: &ImageRef) -> Option<Descriptor> {
    let text = |name| answer.response.headers().get(name)?.to_str().ok();
    let size: u64 = text(CONTENT_LENGTH)?.parse().ok().filter(|size| *size > 0)?;
    let said: Option<Digest> = text(CONTENT_DIGEST).and_then(|t| t.parse().ok());
    let digest = name.digest().cloned().or(said)?;
    Some(Descriptor::new(media_type(answer)?, digest, size))
}

/// The content type when it says more than "some JSON".
fn media_type(answer: &Answer) -> Option<String> {
    let text = answer.response.headers().get(CONTENT_TYPE)?.to_str().ok()?;
    let bare = text.split(';').next().unwrap_or(text).trim();
    matches!(MediaType::of(bare), MediaType::Index | MediaType::Manifest | MediaType::Schema1).then(|| bare.to_owned())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u32>,
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
}

/// The media type that a manifest or index claims, or shows by its members.
pub fn document_type(bytes: &[u8]) -> Option<String> {
    let shape: Shape = serde_json::from_slice(bytes).ok()?;
    let by_members = match shape {
        Shape { schema_version: Some(1), .. } => t::DOCKER_MANIFEST_V1,
        Shape { manifests: Some(_), .. } => t::OCI_INDEX,
        Shape { layers: Some(_), .. } => t::OCI_MANIFEST,
        _ => return shape.media_type,
    };
    Some(shape.media_type.unwrap_or_else(|| by_members.to_owned()))
}

fn refuse_schema1(desc: &Descriptor, reference: &str) -> Result<(), Error> {
    match desc.kind() {
        MediaType::Schema1 => Err(Error::Schema1 { reference: reference.to_owned() }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_told_by_their_members() {
        for (json, expected) in [
            (r#"{"schemaVersion":2,"manifests":[]}"#, Some(t::OCI_INDEX)),
            (r#"{"schemaVersion":2,"layers":[],"config":{}}"#, Some(t::OCI_MANIFEST)),
            (r#"{"schemaVersion":2,"mediaType":"a/b","layers":[]}"#, Some("a/b")),
            (r#"{"schemaVersion":1,"fsLayers":[]}"#, Some(t::DOCKER_MANIFEST_V1)),
            ("[]", None),
            ("x", None),
        ] {
            assert_eq!(document_type(json.as_bytes()).as_deref(), expected, "{json}");
        }
    }
}
