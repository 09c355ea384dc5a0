//! Azure Blob Storage.

use super::{
    Condition, Known, Object, ObjectStore, Requests,
    azure_identity::AzureIdentity,
    blocks::BlockBlob,
    bucket::{Bucket, Layout},
    exchange::{Body, Exchange, Head, RequestError},
    known, next_page, part_size,
    s3::xml,
    unless_absent, version,
};
use crate::{Backend, Result, Version, attributes::Attributes};
use async_trait::async_trait;
use bytes::Bytes;
use cooper_content::BlobSource;
use cooper_oci::Descriptor;
use cooper_registry::Backoff;
use http::Method;
use jiff::fmt::rfc2822::DateTimePrinter;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};
use url::Url;

/// What is left as it is in paths.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/').remove(b':');
/// Longest time for one request with its repetitions.
const PATIENCE: Duration = Duration::from_secs(30 * 60);
/// Layers older than this are made young when they are exported again, so that age tells use.
const TOUCH: Duration = Duration::from_secs(24 * 3600);

/// A container.
#[derive(Debug)]
pub(crate) struct Azure {
    requests: Requests<AzureIdentity>,
    /// The container's URL, with the signature in its query where it has one.
    container: Url,
    parallelism: usize,
    /// Largest layer that is sent by one request, in bytes.
    part: u64,
}

/// Opens the cache that `attrs` describe.
///
/// # Errors
///
/// Attributes that are missing or make no sense. Nothing is asked of the service yet.
pub(crate) fn open(
    attrs: &BTreeMap<String, String>,
    env: &dyn Fn(&str) -> Option<String>,
    backoff: Option<Backoff>,
) -> Result<Arc<dyn Backend>> {
    let attrs = Attributes::new("azblob", attrs, env);
    let variable = "BUILDKIT_AZURE_STORAGE_ACCOUNT_URL";
    let text = attrs.or_env("account_url", &[variable]);
    let text = text
        .ok_or_else(|| attrs.fault(format!("account_url is missing: give it, or set ${variable} for the builder")))?;
    let mut url = Url::parse(&text).map_err(|e| attrs.fault(format!("account_url is no URL: {e}")))?;
    let host = match (url.scheme(), url.host_str()) {
        ("http" | "https", Some(host)) => host.to_owned(),
        _ => return Err(attrs.fault("account_url is no http or https URL")),
    };
    let first_label = || host.split('.').next().unwrap_or_default().to_owned();
    let account = attrs.or_env("account_name", &["BUILDKIT_AZURE_STORAGE_ACCOUNT_NAME"]).unwrap_or_else(first_label);
    let container = attrs.or_env("container", &["BUILDKIT_AZURE_STORAGE_CONTAINER"]);
    let container = container.unwrap_or_else(|| "buildkit-cache".to_owned());
    let prefix = attrs.or_env("prefix", &["BUILDKIT_AZURE_STORAGE_PREFIX"]).unwrap_or_default();
    url.set_path(&format!("{}/{}", url.path().trim_end_matches('/'), utf8_percent_encode(&container, PATH)));
    let setup = |error: RequestError| attrs.fault(error.to_string());
    let identity = match attrs.get("secret_access_key") {
        Some(key) => AzureIdentity::key(&account, key).map_err(|e| attrs.fault(e))?,
        None if url.query_pairs().any(|(key, _)| key == "sig") => AzureIdentity::Url,
        None => AzureIdentity::ambient(env).map_err(setup)?,
    };
    let parallelism = attrs.count("upload_parallelism")?.unwrap_or(4);
    let place = joined(&[&container, &prefix, ""]);
    let layout = Layout {
        cache: format!("azblob cache {account}/{}", place.trim_end_matches('/')),
        manifests: joined(&[&prefix, attrs.or("manifests_prefix", "manifests"), ""]),
        blobs: joined(&[&prefix, attrs.or("blobs_prefix", "blobs"), ""]),
        names: attrs.names(),
        touch_refresh: attrs.duration("touch_refresh", TOUCH)?,
        parallelism,
        atomic: true,
    };
    let exchange = Exchange::new(backoff.unwrap_or_default(), PATIENCE).map_err(setup)?;
    Ok(Arc::new(Bucket::new(
        Azure { requests: Requests { exchange, identity }, container: url, parallelism, part: part_size(&attrs)? },
        layout,
    )))
}

/// Parts of a key put together by single slashes, without `.` and `..`. An empty last part leaves a slash at the end.
fn joined(parts: &[&str]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in parts.iter().flat_map(|p| p.split('/')).filter(|n| !matches!(*n, "" | ".")) {
        if name == ".." {
            names.pop();
        } else {
            names.push(name);
        }
    }
    let mut key = names.join("/");
    if parts.last() == Some(&"") && !key.is_empty() {
        key.push('/');
    }
    key
}

impl Azure {
    fn url(&self, key: &str, query: &[(&str, &str)]) -> Url {
        let mut url = self.container.clone();
        if !key.is_empty() {
            url.set_path(&format!("{}/{}", self.container.path(), utf8_percent_encode(key, PATH)));
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }
}

#[async_trait]
impl ObjectStore for Azure {
    fn exchange(&self) -> &Exchange {
        &self.requests.exchange
    }

    async fn prepare(&self) -> Result<(), RequestError> {
        let url = self.url("", &[("restype", "container")]);
        let Err(error) = self.requests.call(Head::new(Method::HEAD, url.clone()), Body::Empty).await else {
            return Ok(());
        };
        match error.status() {
            Some(404) => match self.requests.call(Head::new(Method::PUT, url), Body::Empty).await {
                Err(error) if error.code() != "ContainerAlreadyExists" => Err(error),
                _ => Ok(()),
            },
            // A signature for blobs alone may not look at the container.
            Some(403) if matches!(self.requests.identity, AzureIdentity::Url) => Ok(()),
            _ => Err(error),
        }
    }

    async fn head(&self, key: &str) -> Result<Option<Known>, RequestError> {
        let answer = self.requests.call(Head::new(Method::HEAD, self.url(key, &[])), Body::Empty).await;
        Ok(unless_absent(answer)?.map(|answer| known(&answer.headers)))
    }

    async fn read(&self, key: &str, limit: u64) -> Result<Option<(Bytes, Option<Version>)>, RequestError> {
        let head = Head::new(Method::GET, self.url(key, &[]));
        let answer = self.requests.read(head, limit).await;
        Ok(unless_absent(answer)?.map(|answer| (answer.body.clone(), version(&answer))))
    }

    async fn open(&self, key: &str, offset: u64) -> Result<reqwest::Response, RequestError> {
        let mut head = Head::new(Method::GET, self.url(key, &[]));
        if offset > 0 {
            head = head.with("x-ms-range", &format!("bytes={offset}-"));
        }
        self.requests.open(head).await
    }

    async fn write(&self, key: &str, bytes: Bytes, when: Condition<'_>) -> Result<Option<Version>, RequestError> {
        let head = Head::new(Method::PUT, self.url(key, &[]))
            .with("x-ms-blob-type", "BlockBlob")
            .with("content-type", "application/json");
        let head = match when {
            Condition::Absent => head.with("if-none-match", "*"),
            Condition::Version(version) => head.with("if-match", &version.0),
            Condition::None => head,
        };
        Ok(version(&self.requests.call(head, Body::Bytes(bytes)).await?))
    }

    async fn upload(&self, key: &str, desc: &Descriptor, source: &dyn BlobSource) -> Result<(), RequestError> {
        let url = self.url(key, &[]);
        let (exchange, sign, parallelism, part) =
            (&self.requests.exchange, &self.requests.identity, self.parallelism, self.part);
        let sent = BlockBlob { exchange, sign, url: &url, parallelism, part }.upload(desc, source).await;
        match sent {
            // Another writer of the same layer was faster with the blocks that both sent.
            Err(error) if error.code() == "InvalidBlockList" => {
                let there = self.head(key).await?.is_some_and(|known| known.size == desc.size);
                if there { Ok(()) } else { Err(error) }
            }
            other => other,
        }
    }

    async fn touch(&self, key: &str, _: u64) -> Result<(), RequestError> {
        let head = Head::new(Method::PUT, self.url(key, &[("comp", "metadata")]))
            .with("x-ms-meta-updated", &jiff::Timestamp::now().as_second().to_string());
        self.requests.call(head, Body::Empty).await.map(|_| ())
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Object>, RequestError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Page {
            blobs: Blobs,
            next_marker: Option<String>,
        }
        #[derive(Deserialize, Default)]
        #[serde(rename_all = "PascalCase")]
        struct Blobs {
            #[serde(default)]
            blob: Vec<Blob>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Blob {
            name: String,
            properties: Properties,
        }
        #[derive(Deserialize)]
        struct Properties {
            #[serde(rename = "Content-Length", default)]
            size: u64,
            #[serde(rename = "Last-Modified")]
            modified: Option<String>,
        }
        let (mut objects, mut marker) = (Vec::new(), String::new());
        loop {
            let mut query = vec![("restype", "container"), ("comp", "list"), ("prefix", prefix)];
            if !marker.is_empty() {
                query.push(("marker", &marker));
            }
            let url = self.url("", &query);
            let answer = match self.requests.call(Head::new(Method::GET, url.clone()), Body::Empty).await {
                Err(error) if error.code() == "ContainerNotFound" => return Ok(objects),
                other => other?,
            };
            let page: Page = xml(&url, &answer.body)?;
            objects.extend(
                page.blobs.blob.into_iter().map(|b| Object {
                    modified: b
                        .properties
                        .modified
                        .and_then(|t| jiff::fmt::rfc2822::parse(&t).ok())
                        .map(|t| t.timestamp().into()),
                    key: b.name,
                    size: b.properties.size,
                }),
            );
            match next_page(page.next_marker, &marker) {
                Some(next) => marker = next,
                None => return Ok(objects),
            }
        }
    }

    async fn delete(&self, key: &str, unmodified: Option<SystemTime>) -> Result<bool, RequestError> {
        let mut head = Head::new(Method::DELETE, self.url(key, &[]));
        let time = unmodified.and_then(|at| jiff::Timestamp::try_from(at).ok());
        let time = time.and_then(|at| DateTimePrinter::new().timestamp_to_rfc9110_string(&at).ok());
        if let Some(time) = time {
            head = head.with("if-unmodified-since", &time);
        }
        match unless_absent(self.requests.call(head, Body::Empty).await) {
            Err(error) if error.status() == Some(412) => Ok(false),
            outcome => outcome.map(|_| true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_joined_by_single_slashes() {
        for (parts, expected) in [
            (&["", "manifests", ""][..], "manifests/"),
            (&["a/", "/manifests/", ""], "a/manifests/"),
            (&["c", ""], "c/"),
            (&["a/../b/./c", "d"], "b/c/d"),
            (&["", ""], ""),
        ] {
            assert_eq!(joined(parts), expected, "{parts:?}");
        }
    }

    #[test]
    fn attributes_that_make_no_sense_are_told() {
        let check = |pairs: &[(&str, &str)]| {
            let attrs = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            open(&attrs, &|_| None, None).map_or_else(|e| e.to_string(), |b| b.name())
        };
        insta::assert_snapshot!(
            [
                check(&[]),
                check(&[("account_url", "acc.blob.core.windows.net")]),
                check(&[("account_url", "https://acc.blob.core.windows.net"), ("secret_access_key", "%")]),
                check(&[("account_url", "https://acc.blob.core.windows.net"), ("prefix", "p")]),
                check(&[("account_url", "http://localhost:1/devacc"), ("account_name", "devacc")]),
            ]
            .join("\n"),
            @r"
        azblob cache: account_url is missing: give it, or set $BUILDKIT_AZURE_STORAGE_ACCOUNT_URL for the builder
        azblob cache: account_url is no URL: relative URL without a base
        azblob cache: secret_access_key is no base64: Invalid symbol 37, offset 0.
        azblob cache acc/buildkit-cache/p
        azblob cache devacc/buildkit-cache
        "
        );
    }
}
