//! Requests to GitHub's cache, by both versions of its interface.

use crate::object::{
    PART,
    blocks::{BlockBlob, SignedUrl},
    exchange::{Body, Exchange, Head, RequestError, Sign},
};
use async_trait::async_trait;
use bytes::Bytes;
use cooper_content::BlobSource;
use cooper_oci::Descriptor;
use http::{HeaderValue, Method, header};
use serde::Deserialize;
use serde_json::json;
use std::collections::HashSet;
use url::Url;

/// What entries of this kind are made for: the service returns an entry only to whoever gives the same value.
/// SHA-256 of `|go-actionscache-1.0`, so that BuildKit finds ours and we find its.
const ENTRY_VERSION: &str = "693bb7016429d80366022f036f84856888c9f13e00145f5f6f4dce303a38d6f2";
/// Bytes of one request of an upload by version 1.
const CHUNK: u64 = 32 << 20;
const MAX_ANSWER: u64 = 1 << 20;
/// Chunks of one entry sent at a time.
const PARALLEL: usize = 4;
/// Entries per page of a listing.
const PAGE: usize = 100;

/// Proves who asks.
pub(super) struct Bearer(pub(super) String);

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bearer")
    }
}

#[async_trait]
impl Sign for Bearer {
    async fn sign(&self, head: &mut Head) -> Result<(), RequestError> {
        let invalid = |_| RequestError::Credentials("the token is no header value".to_owned());
        let mut value = HeaderValue::from_str(&format!("Bearer {}", self.0)).map_err(invalid)?;
        value.set_sensitive(true);
        head.headers.insert(header::AUTHORIZATION, value);
        Ok(())
    }
}

/// The service.
#[derive(Debug)]
pub(super) struct Api {
    pub(super) exchange: Exchange,
    pub(super) token: Bearer,
    /// Without a slash at the end.
    pub(super) base: String,
    /// Whether version 2 is spoken.
    pub(super) v2: bool,
}

/// An entry that is there.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) key: String,
    pub(super) url: Url,
}

/// An entry that is to be.
#[derive(Debug)]
pub(super) enum Reserved {
    V1(u64),
    V2 { key: String, url: Url },
}

impl Api {
    fn url(&self, path: &str) -> Result<Url, RequestError> {
        let kind = if self.v2 { "twirp/github.actions.results.api.v1.CacheService" } else { "_apis/artifactcache" };
        let text = format!("{}/{kind}/{path}", self.base);
        Url::parse(&text).map_err(|e| RequestError::Answer { place: text, reason: e.to_string() })
    }

    async fn post<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        request: &serde_json::Value,
    ) -> Result<T, RequestError> {
        let url = self.url(path)?;
        let head = Head::new(Method::POST, url.clone())
            .with("content-type", "application/json")
            .with("accept", if self.v2 { "application/json" } else { "application/json;api-version=6.0-preview.1" });
        let body = Body::Bytes(Bytes::from(request.to_string()));
        let answer = self.exchange.call(&self.token, &head, body, MAX_ANSWER).await?;
        let bytes = if answer.body.is_empty() { &b"null"[..] } else { &answer.body };
        serde_json::from_slice(bytes).map_err(|e| RequestError::answer(&url, e))
    }

    /// The entry with this key; or, of those whose keys begin with it, the newest.
    pub(super) async fn find(&self, key: &str) -> Result<Option<Found>, RequestError> {
        let (url, found) = if self.v2 {
            #[derive(Deserialize)]
            struct Answer {
                #[serde(default)]
                ok: bool,
                #[serde(default, alias = "signedDownloadUrl")]
                signed_download_url: String,
                #[serde(default, alias = "matchedKey")]
                matched_key: String,
            }
            let request = json!({"key": key, "restore_keys": [key], "version": ENTRY_VERSION});
            let answer: Answer = self.post("GetCacheEntryDownloadURL", &request).await?;
            let found = answer.ok.then_some((answer.matched_key, answer.signed_download_url));
            (self.url("GetCacheEntryDownloadURL")?, found)
        } else {
            self.find_v1(key).await?
        };
        let Some((key, location)) = found.filter(|(key, _)| !key.is_empty()) else { return Ok(None) };
        let location = Url::parse(&location).map_err(|e| RequestError::answer(&url, e))?;
        Ok(Some(Found { key, url: location }))
    }

    async fn find_v1(&self, key: &str) -> Result<(Url, Option<(String, String)>), RequestError> {
        #[derive(Deserialize, Default)]
        #[serde(rename_all = "camelCase", default)]
        struct Answer {
            cache_key: String,
            archive_location: String,
        }
        let mut url = self.url("cache")?;
        url.query_pairs_mut().append_pair("keys", key).append_pair("version", ENTRY_VERSION);
        let head = Head::new(Method::GET, url.clone()).with("accept", "application/json;api-version=6.0-preview.1");
        let answer = self.exchange.call(&self.token, &head, Body::Empty, MAX_ANSWER).await?;
        if answer.body.is_empty() {
            return Ok((url, None));
        }
        let found: Answer = serde_json::from_slice(&answer.body).map_err(|e| RequestError::answer(&url, e))?;
        Ok((url, Some((found.cache_key, found.archive_location))))
    }

    /// Reserves a key; `None` when it is there or reserved already.
    pub(super) async fn reserve(&self, key: &str) -> Result<Option<Reserved>, RequestError> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default, alias = "cacheID")]
            #[serde(rename = "cacheId")]
            cache_id: u64,
            #[serde(default)]
            ok: bool,
            #[serde(default, alias = "signedUploadUrl")]
            signed_upload_url: String,
        }
        let request = json!({"key": key, "version": ENTRY_VERSION});
        let path = if self.v2 { "CreateCacheEntry" } else { "caches" };
        let answer = match self.post::<Answer>(path, &request).await {
            Ok(answer) => answer,
            Err(error) if is_already_there(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let url = self.url(path)?;
        match (self.v2, answer.ok, answer.cache_id) {
            (false, _, 1..) => Ok(Some(Reserved::V1(answer.cache_id))),
            (true, true, _) => {
                let upload = Url::parse(&answer.signed_upload_url).map_err(|e| RequestError::answer(&url, e))?;
                Ok(Some(Reserved::V2 { key: key.to_owned(), url: upload }))
            }
            _ => Err(RequestError::answer(&url, "the service reserved nothing")),
        }
    }

    /// Sends an entry's bytes and makes it visible.
    pub(super) async fn send(
        &self,
        reserved: &Reserved,
        desc: &Descriptor,
        source: &dyn BlobSource,
    ) -> Result<(), RequestError> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            ok: bool,
        }
        match reserved {
            Reserved::V1(id) => {
                self.send_v1(*id, desc, source).await?;
                self.post::<serde_json::Value>(&format!("caches/{id}"), &json!({"size": desc.size})).await?;
            }
            Reserved::V2 { key, url } => {
                let blob =
                    BlockBlob { exchange: &self.exchange, sign: &SignedUrl, url, parallelism: PARALLEL, part: PART };
                blob.upload(desc, source).await?;
                let path = "FinalizeCacheEntryUpload";
                // 64-bit numbers are texts in this notation; GitHub takes both, other services this one.
                let request = json!({"key": key, "size_bytes": desc.size.to_string(), "version": ENTRY_VERSION});
                if !self.post::<Answer>(path, &request).await?.ok {
                    return Err(RequestError::answer(&self.url(path)?, "the service did not take the entry"));
                }
            }
        }
        Ok(())
    }

    async fn send_v1(&self, id: u64, desc: &Descriptor, source: &dyn BlobSource) -> Result<(), RequestError> {
        use futures::{StreamExt, TryStreamExt, stream};
        let url = self.url(&format!("caches/{id}"))?;
        let chunks = (0..desc.size).step_by(CHUNK as usize).map(|start| start..(start + CHUNK).min(desc.size));
        let send = |range: std::ops::Range<u64>| {
            let head = Head::new(Method::PATCH, url.clone())
                .with("content-type", "application/octet-stream")
                .with("accept", "application/json;api-version=6.0-preview.1")
                .with("content-range", &format!("bytes {}-{}/*", range.start, range.end - 1));
            async move {
                let body = Body::Part(source, desc, range);
                self.exchange.call(&self.token, &head, body, MAX_ANSWER).await.map(|_| ())
            }
        };
        stream::iter(chunks.collect::<Vec<_>>()).map(send).buffer_unordered(PARALLEL).try_collect().await
    }
}

fn is_already_there(error: &RequestError) -> bool {
    let code = error.code();
    code.contains("AlreadyExists") || code == "already_exists" || error.status() == Some(409)
}

/// GitHub's public interface, which lists entries.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) token: Bearer,
    /// `<api>/repos/<owner>/<name>`.
    pub(super) base: String,
}

impl Listing {
    /// Keys that begin with `prefix` in a scope.
    pub(super) async fn keys(
        &self,
        exchange: &Exchange,
        prefix: &str,
        scope: &str,
    ) -> Result<HashSet<String>, RequestError> {
        #[derive(Deserialize)]
        struct Answer {
            total_count: usize,
            actions_caches: Vec<Listed>,
        }
        #[derive(Deserialize)]
        struct Listed {
            key: String,
        }
        let mut keys = HashSet::new();
        for page in 1.. {
            let text = format!("{}/actions/caches", self.base);
            let query = [("per_page", PAGE.to_string()), ("page", page.to_string())];
            let url = Url::parse_with_params(&text, query)
                .map_err(|e| RequestError::Answer { place: text, reason: e.to_string() })?;
            let mut url = url;
            url.query_pairs_mut().append_pair("key", prefix).append_pair("ref", scope);
            let head = Head::new(Method::GET, url.clone())
                .with("accept", "application/vnd.github+json")
                .with("x-github-api-version", "2022-11-28");
            let answer = exchange.call(&self.token, &head, Body::Empty, MAX_ANSWER).await?;
            let answer: Answer = serde_json::from_slice(&answer.body).map_err(|e| RequestError::answer(&url, e))?;
            let last = answer.actions_caches.is_empty() || answer.total_count <= page * PAGE;
            keys.extend(answer.actions_caches.into_iter().map(|c| c.key));
            if last {
                break;
            }
        }
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn entries_are_for_whoever_reads_buildkit_s() {
        let digest = cooper_oci::Digest::of(b"|go-actionscache-1.0");
        assert_eq!(digest.hex(), super::ENTRY_VERSION);
    }
}
