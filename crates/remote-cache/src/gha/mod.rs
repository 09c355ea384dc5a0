//! GitHub's cache for workflow runs.
//!
//! Entries never change there. A document is therefore a row of entries, `<key>#1`, `<key>#2`, …, the newest of which
//! counts; who reserves the next number writes it, which makes writes atomic. Where documents are signed, they have keys of
//! their own, and their signatures lie beside the layers, under the key that the document would have as one of them.

mod api;
mod signing;
mod token;

pub use signing::{Signatures, Trust};

use crate::{
    Backend, Cache, Entry, Error, MAX_CONFIG, Published, Result, Sent, Stored, Version,
    attributes::Attributes,
    object::{
        blocks::SignedUrl,
        download::{Layers, Open},
        exchange::{Body, Exchange, Head, RequestError},
    },
    parse_described,
};
use api::{Api, Bearer, Found, Listing};
use async_trait::async_trait;
use bytes::Bytes;
use cooper_content::{BlobSource, ByteStream, SourceError};
use cooper_oci::{Descriptor, Digest};
use cooper_registry::Backoff;
use futures::{StreamExt, stream};
use http::Method;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use token::Claims;
use tokio::{
    sync::OnceCell,
    time::{Instant, sleep},
};

/// Keys of layers begin with it.
const BLOBS: &str = "buildkit-blob-1-";
/// What keys of signatures, and of documents that may have one, end with.
const SIGNED: &str = "-sig";
/// Longest time for one request with its repetitions, when the attributes do not say it.
const TIMEOUT: Duration = Duration::from_secs(600);

/// A cache at GitHub.
#[derive(Debug)]
struct Gha(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    api: Api,
    scope: String,
    claims: Claims,
    listing: Option<Listing>,
    /// Layers that are there, when they can be listed.
    listed: OnceCell<Option<HashSet<String>>>,
    /// Where layers can be downloaded, for a while.
    places: Mutex<HashMap<Digest, url::Url>>,
    signatures: Arc<Signatures>,
    /// How long a program may take to sign.
    patience: Duration,
    /// What people should know of what was done.
    notes: Mutex<Vec<String>>,
    /// How long somebody else's reservation is waited for before it is taken for abandoned.
    courtesy: Duration,
}

/// Opens the cache that `attrs` describe.
///
/// # Errors
///
/// Attributes that are missing or make no sense, a token that has expired. Nothing is asked of the service yet.
pub(crate) fn open(
    attrs: &BTreeMap<String, String>,
    env: &dyn Fn(&str) -> Option<String>,
    backoff: Option<Backoff>,
    signatures: &Arc<Signatures>,
) -> Result<Arc<dyn Backend>> {
    let attrs = Attributes::new("gha", attrs, env);
    let token = attrs.get("token").ok_or_else(|| attrs.fault("token is missing: set it or $ACTIONS_RUNTIME_TOKEN"))?;
    let (base, v2) = service(&attrs)?;
    let now = jiff::Timestamp::now().as_duration().as_secs_f64();
    let claims = token::claims(token, now).map_err(|e| attrs.fault(e))?;
    let backoff = backoff.unwrap_or(Backoff { attempts: 20, ..Backoff::default() });
    let courtesy = backoff.first * 60;
    let patience = attrs.duration("timeout", TIMEOUT)?;
    let exchange = Exchange::new(backoff, patience);
    let exchange = exchange.map_err(|e| attrs.fault(e.to_string()))?;
    let listing = attrs.get("repository").zip(attrs.get("ghtoken")).map(|(repository, token)| {
        let api = attrs.or_env("api_url", &["GITHUB_API_URL"]).unwrap_or_else(|| "https://api.github.com".to_owned());
        let base = format!("{}/repos/{repository}", api.trim_end_matches('/'));
        Listing { token: Bearer(token.to_owned()), base }
    });
    Ok(Arc::new(Gha(Arc::new(Inner {
        api: Api { exchange, token: Bearer(token.to_owned()), base, v2 },
        scope: attrs.or("scope", "buildkit").to_owned(),
        claims,
        listing,
        listed: OnceCell::new(),
        places: Mutex::default(),
        signatures: Arc::clone(signatures),
        patience,
        notes: Mutex::default(),
        courtesy,
    }))))
}

/// The service's URL without a slash at the end, and whether it speaks version 2.
fn service(attrs: &Attributes<'_>) -> Result<(String, bool)> {
    let version = attrs.get("version");
    if version.is_some_and(|v| !matches!(v, "1" | "2")) {
        return Err(attrs.fault("version must be 1 or 2"));
    }
    let (url, v2) = match (attrs.get("url_v2").filter(|_| version != Some("1")), attrs.get("url")) {
        (Some(url), _) => (url, true),
        (None, Some(url)) => {
            let results = url.contains("results-receiver.actions.githubusercontent.com");
            (url, version.map_or(results, |v| v == "2"))
        }
        (None, None) => return Err(attrs.fault("url is missing: set it, $ACTIONS_CACHE_URL or $ACTIONS_RESULTS_URL")),
    };
    match url::Url::parse(url) {
        Ok(parsed) if matches!(parsed.scheme(), "http" | "https") => Ok((url.trim_end_matches('/').to_owned(), v2)),
        _ => Err(attrs.fault(format!("url={url:?} is no http or https URL"))),
    }
}

fn blob_key(digest: &Digest) -> String {
    format!("{BLOBS}{digest}")
}

fn signature_key(document: &Digest) -> String {
    format!("{BLOBS}{document}{SIGNED}")
}

impl Inner {
    /// What keys of the document in a scope begin with.
    fn index_key(&self, scope: &str) -> String {
        let hash = Digest::of(scope.as_bytes());
        let signed = if self.signatures.are_used() { SIGNED } else { "" };
        format!("index-{}-1-{}{signed}#", self.scope, &hash.hex()[..8])
    }

    fn name(&self) -> String {
        format!("gha cache {}", self.scope)
    }

    fn failed(&self, doing: &str) -> impl FnOnce(RequestError) -> Error {
        Error::failed(&self.name(), doing)
    }

    /// The newest document of a scope, which must be signed if it is to be `verified`.
    async fn document(self: &Arc<Self>, scope: &str, verified: bool) -> Result<Option<Stored>> {
        let doing = "cannot look for the cache document";
        let Some(found) = self.api.find(&self.index_key(scope)).await.map_err(self.failed(doing))? else {
            return Ok(None);
        };
        let document = self.read(&found, MAX_CONFIG).await.map_err(self.failed("cannot read the cache document"))?;
        if verified {
            self.verify(&document).await?;
        }
        let version = Some(Version(found.key));
        let blobs: Arc<dyn BlobSource> = Arc::new(Layers(Arc::clone(self)));
        match parse_described(&document) {
            Ok(cache) => Ok(Some(Stored { cache, blobs, version })),
            Err(source) => Err(Error::Format { cache: self.name(), source }),
        }
    }

    async fn read(&self, found: &Found, limit: u64) -> Result<Bytes, RequestError> {
        let head = Head::new(Method::GET, found.url.clone());
        Ok(self.api.exchange.call(&SignedUrl, &head, Body::Empty, limit).await?.body)
    }

    /// Looks for the signature of a document, and whose it is.
    async fn verify(&self, document: &Bytes) -> Result<()> {
        let digest = Digest::of(document);
        let key = signature_key(&digest);
        let doing = "cannot look for a signature";
        let found = self.api.find(&key).await.map_err(self.failed(doing))?.filter(|found| found.key == key);
        let Some(found) = found else {
            let doing = format!("the signature of {digest} does not count");
            return Err(Error::failed(&self.name(), &doing)("missing signature for github actions cache"));
        };
        let bundle = self.read(&found, signing::MAX_BUNDLE).await.map_err(self.failed("cannot read a signature"))?;
        let verified = self.signatures.verify(&self.name(), document.clone(), bundle).await?;
        let signer = signing::signer(&verified);
        tracing::info!(cache = self.name(), document = %digest, signer, "the signature of the cache is good");
        self.note(format!("verifying signature of cache index {digest}: signed by {signer}"));
        Ok(())
    }

    /// Signs a document, and keeps the signature where readers look for it.
    async fn sign(&self, document: &Bytes) -> Result<()> {
        let Some(bundle) = self.signatures.sign(&self.name(), document, self.patience).await? else {
            if self.signatures.required {
                tracing::warn!(cache = self.name(), "nobody who wants signatures will read it: nothing signs here");
            }
            return Ok(());
        };
        let digest = Digest::of(document);
        let desc = Descriptor::new("application/json", Digest::of(&bundle), bundle.len() as u64);
        let written = self.write(&signature_key(&digest), &desc, &Memory(bundle)).await;
        let written = written.map_err(self.failed("cannot write the signature of the cache document"))?;
        // Otherwise somebody has signed the same document.
        tracing::debug!(cache = self.name(), document = %digest, written, "signed");
        self.note(format!("signing cache index {digest}"));
        Ok(())
    }

    fn note(&self, text: String) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    /// Keys of layers that are there, asked once; `None` when nobody can tell them all.
    async fn listed(&self) -> Option<&HashSet<String>> {
        let list = || async {
            let listing = self.listing.as_ref()?;
            let mut keys = HashSet::new();
            for scope in &self.claims.read {
                match listing.keys(&self.api.exchange, BLOBS, scope).await {
                    Ok(more) => keys.extend(more),
                    Err(error) => {
                        tracing::warn!(%error, "the cache's entries cannot be listed, each is asked for");
                        return None;
                    }
                }
            }
            Some(keys)
        };
        self.listed.get_or_init(list).await.as_ref()
    }

    async fn has(&self, key: &str) -> Result<bool, RequestError> {
        if let Some(listed) = self.listed().await {
            return Ok(listed.contains(key));
        }
        Ok(self.api.find(key).await?.is_some_and(|found| found.key == key))
    }

    /// Writes an entry; false when somebody else has reserved it.
    async fn write(&self, key: &str, desc: &Descriptor, source: &dyn BlobSource) -> Result<bool, RequestError> {
        let Some(reserved) = self.api.reserve(key).await? else { return Ok(false) };
        match self.api.send(&reserved, desc, source).await {
            Ok(()) => Ok(true),
            // The answer to the last request may have been lost, and its repetition refused.
            Err(error) if error.status().is_some_and(|s| (400..429).contains(&s)) => {
                let there = self.api.find(key).await?.is_some_and(|found| found.key == key);
                if there { Ok(true) } else { Err(error) }
            }
            Err(error) => Err(error),
        }
    }

    async fn place_of(&self, digest: &Digest) -> Result<url::Url, RequestError> {
        if let Some(url) = self.places.lock().unwrap_or_else(PoisonError::into_inner).get(digest) {
            return Ok(url.clone());
        }
        let key = blob_key(digest);
        match self.api.find(&key).await? {
            Some(Found { key: found, url }) if found == key => {
                self.places.lock().unwrap_or_else(PoisonError::into_inner).insert(digest.clone(), url.clone());
                Ok(url)
            }
            _ => Err(RequestError::Status {
                method: Method::GET,
                place: key,
                status: http::StatusCode::NOT_FOUND,
                code: String::new(),
                message: "no such entry".to_owned(),
            }),
        }
    }
}

#[async_trait]
impl Open for Inner {
    async fn open(&self, digest: &Digest, offset: u64) -> Result<reqwest::Response, RequestError> {
        for attempt in 0.. {
            let mut head = Head::new(Method::GET, self.place_of(digest).await?);
            if offset > 0 {
                head = head.with("range", &format!("bytes={offset}-"));
            }
            match self.api.exchange.open(&SignedUrl, &head).await {
                // URLs end after a while.
                Err(error) if matches!(error.status(), Some(401 | 403)) && attempt == 0 => {
                    self.places.lock().unwrap_or_else(PoisonError::into_inner).remove(digest);
                }
                other => return other,
            }
        }
        unreachable!("the second attempt returns")
    }

    fn exchange(&self) -> &Exchange {
        &self.api.exchange
    }

    fn place(&self) -> String {
        self.name()
    }
}

#[async_trait]
impl Backend for Gha {
    fn name(&self) -> String {
        self.0.name()
    }

    async fn load(&self) -> Result<Vec<Stored>> {
        let (mut found, mut first_error) = (Vec::new(), None);
        let required = self.0.signatures.required;
        let documents = self.0.claims.read.iter().map(|scope| self.0.document(scope, required));
        for (document, scope) in futures::future::join_all(documents).await.into_iter().zip(&self.0.claims.read) {
            match document {
                Ok(stored) => found.extend(stored),
                Err(error) => {
                    let reason = chain(&error);
                    if required {
                        tracing::warn!(scope, reason, "the cache of one scope is passed over");
                        self.0.note(format!("passing over scope {scope}: {reason}"));
                    } else {
                        tracing::debug!(scope, reason, "the cache of one scope is passed over");
                    }
                    first_error.get_or_insert(error);
                }
            }
        }
        match first_error {
            Some(error) if found.is_empty() => Err(error),
            _ => Ok(found),
        }
    }

    async fn current(&self) -> Result<Option<Stored>> {
        let scope = self.0.claims.write.as_deref().unwrap_or_default();
        // Whoever signs must not sign what others have slipped in.
        let signed = self.0.signatures.are_used();
        let replaced = match self.0.document(scope, signed).await {
            Err(Error::Format { source, .. }) => format!("what is there is no cache: {source}"),
            Err(error) if signed => chain(&error),
            other => return other,
        };
        let doing = "cannot look for the cache document";
        let found = self.0.api.find(&self.0.index_key(scope)).await.map_err(self.0.failed(doing))?;
        tracing::warn!(cache = self.0.name(), reason = replaced, "the cache is replaced, not added to");
        let blobs: Arc<dyn BlobSource> = Arc::new(Layers(Arc::clone(&self.0)));
        Ok(found.map(|f| Stored { cache: Cache::default(), blobs, version: Some(Version(f.key)) }))
    }

    fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut self.0.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn ensure_blob(&self, desc: &Descriptor, source: &dyn BlobSource) -> Result<Sent> {
        let inner = &self.0;
        let key = blob_key(&desc.digest);
        if inner.has(&key).await.map_err(inner.failed("cannot look for a layer"))? {
            return Ok(Sent::Present);
        }
        let doing = format!("cannot write layer {}", desc.digest);
        if inner.write(&key, desc, source).await.map_err(inner.failed(&doing))? {
            return Ok(Sent::Uploaded);
        }
        // Somebody else sends the same layer at this moment, or began to and died: then it is missing until the
        // service forgets the reservation, and a miss for whoever imports.
        let until = Instant::now() + inner.courtesy;
        while Instant::now() < until {
            let found = inner.api.find(&key).await.map_err(inner.failed("cannot look for a layer"))?;
            if found.is_some_and(|found| found.key == key) {
                return Ok(Sent::Present);
            }
            sleep(inner.courtesy / 8).await;
        }
        tracing::warn!(cache = inner.name(), layer = %desc.digest, "a layer is reserved by somebody who does not send it");
        Ok(Sent::Present)
    }

    async fn publish(&self, cache: &Cache, over: Option<&Version>) -> Result<Published> {
        let inner = &self.0;
        let Some(scope) = &inner.claims.write else {
            return Err(Error::attribute("gha", "the token may not write to any scope"));
        };
        let prefix = inner.index_key(scope);
        let bytes = Bytes::from(cache.marshal(true));
        // The signature comes first: a document that is there is a signed one.
        inner.sign(&bytes).await?;
        let desc = Descriptor::new("application/json", Digest::of(&bytes), bytes.len() as u64);
        let number = |version: &Version| version.0.strip_prefix(&prefix)?.parse::<u64>().ok();
        let before = over.and_then(number).unwrap_or(0);
        let mut next = before + 1;
        let mut until = Instant::now() + inner.courtesy;
        loop {
            let key = format!("{prefix}{next}");
            let doing = "cannot write the cache document";
            if inner.write(&key, &desc, &Memory(bytes.clone())).await.map_err(inner.failed(doing))? {
                return Ok(Published { manifest: None, version: Some(Version(key)) });
            }
            let newest = inner.api.find(&prefix).await.map_err(inner.failed("cannot look for the cache document"))?;
            let newest = newest.and_then(|found| number(&Version(found.key))).unwrap_or(0);
            if newest > before {
                return Err(Error::Conflict { cache: inner.name() });
            }
            if Instant::now() < until {
                sleep(inner.courtesy / 8).await;
            } else {
                // Whoever reserved it is gone.
                next += 1;
                until = Instant::now();
            }
        }
    }

    fn is_atomic(&self) -> bool {
        true
    }

    async fn list(&self) -> Result<Vec<Entry>> {
        let what = "delete what has expired: GitHub itself removes entries that nobody used for 7 days";
        Err(Error::Unsupported { cache: self.name(), what })
    }
}

/// An error with its reasons.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// A document as a blob.
#[derive(Debug)]
struct Memory(Bytes);

#[async_trait]
impl BlobSource for Memory {
    async fn stream(&self, _: &Descriptor, offset: u64) -> Result<ByteStream, SourceError> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        Ok(stream::iter([Ok(self.0.slice(start..))]).boxed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_picked_by_attribute_or_host() {
        let check = |pairs: &[(&str, &str)]| {
            let attrs = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let none = |_: &str| None;
            match service(&Attributes::new("gha", &attrs, &none)) {
                Ok((url, v2)) => format!("{url} {}", if v2 { 2 } else { 1 }),
                Err(error) => error.to_string(),
            }
        };
        let (v1, v2) = (("url", "https://one/"), ("url_v2", "https://two/"));
        for (attrs, expected) in [
            (&[v1][..], "https://one 1"),
            (&[v1, v2], "https://two 2"),
            (&[v1, v2, ("version", "1")], "https://one 1"),
            (&[v1, ("version", "2")], "https://one 2"),
            (
                &[("url", "https://results-receiver.actions.githubusercontent.com/")],
                "https://results-receiver.actions.githubusercontent.com 2",
            ),
            (&[], "gha cache: url is missing: set it, $ACTIONS_CACHE_URL or $ACTIONS_RESULTS_URL"),
            (&[v1, ("version", "3")], "gha cache: version must be 1 or 2"),
        ] {
            assert_eq!(check(attrs), expected);
        }
    }
}
