//! S3 and services that speak like it.

use super::{
    Condition, Known, Object, ObjectStore, Requests,
    bucket::{Bucket, Layout},
    exchange::{Body, Exchange, Head, RequestError},
    identity::Identity,
    known, next_page, part_size, unless_absent, version,
};
use crate::{Backend, Result, Version, attributes::Attributes};
use async_trait::async_trait;
use bytes::Bytes;
use cooper_content::BlobSource;
use cooper_oci::Descriptor;
use cooper_registry::Backoff;
use http::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqsign_aws_v4::Credential;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};
use url::Url;

/// What is left as it is in paths. Digests keep their colon: signatures hold it escaped in any case, and not every
/// service takes both spellings for one key.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/').remove(b':');
/// What it leaves as it is in queries.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Largest object that is copied by one request.
pub(super) const MAX_COPY: u64 = 5 << 30;
/// Longest time for one request with its repetitions.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// A bucket.
#[derive(Debug)]
pub(crate) struct S3 {
    pub(super) requests: Requests<Identity>,
    /// Ends in `/`.
    base: Url,
    pub(super) bucket: String,
    /// Parts of one blob sent at a time.
    pub(super) parallelism: usize,
    /// Largest layer that is sent by one request, in bytes.
    pub(super) part: u64,
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
    let attrs = Attributes::new("s3", attrs, env);
    let needed = |value: Option<String>, key: &str, variable: &str| {
        value.ok_or_else(|| attrs.fault(format!("{key} is missing: give it, or set ${variable} for the builder")))
    };
    let bucket = needed(attrs.or_env("bucket", &["AWS_BUCKET"]), "bucket", "AWS_BUCKET")?;
    let region = needed(attrs.or_env("region", &["AWS_REGION", "AWS_DEFAULT_REGION"]), "region", "AWS_REGION")?;
    let endpoint = attrs.or_env("endpoint_url", &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]);
    let base = base(&attrs, &bucket, &region, endpoint.as_deref())?;
    let backoff = retries(&attrs, backoff.unwrap_or_default())?;
    let prefix = attrs.or("prefix", "");
    let parallelism = attrs.count("upload_parallelism")?.unwrap_or(4);
    let layout = Layout {
        cache: format!("s3 cache {bucket}/{prefix}").trim_end_matches('/').to_owned(),
        manifests: format!("{prefix}{}", attrs.or("manifests_prefix", "manifests/")),
        blobs: format!("{prefix}{}", attrs.or("blobs_prefix", "blobs/")),
        names: attrs.names(),
        touch_refresh: attrs.duration("touch_refresh", Duration::from_secs(24 * 3600))?,
        parallelism,
        // Services that speak like S3 may pass over conditions.
        atomic: endpoint.is_none(),
    };
    // Requests never ask for compressed answers, so there is nothing to leave out of signatures.
    attrs.boolean("disable_accept_encoding")?;
    let setup = |error: RequestError| attrs.fault(error.to_string());
    let exchange = Exchange::new(backoff, PATIENCE).map_err(setup)?;
    let identity = Identity::new(&region, given(&attrs)).map_err(setup)?;
    Ok(Arc::new(Bucket::new(
        S3 { requests: Requests { exchange, identity }, base, bucket, parallelism, part: part_size(&attrs)? },
        layout,
    )))
}

/// The URL that keys are appended to.
fn base(attrs: &Attributes<'_>, bucket: &str, region: &str, endpoint: Option<&str>) -> Result<Url> {
    let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    let default = format!("https://s3.{region}.{domain}");
    let text = endpoint.unwrap_or(&default);
    let mut url = Url::parse(text).map_err(|e| attrs.fault(format!("endpoint_url={text:?} is no URL: {e}")))?;
    let host = match (url.scheme(), url.host()) {
        ("http" | "https", Some(host)) => host.to_owned(),
        _ => return Err(attrs.fault(format!("endpoint_url={text:?} is no http or https URL"))),
    };
    // Names with dots have no certificate of their own, and addresses no subdomains.
    let path_style = match endpoint {
        Some(_) => attrs.boolean("use_path_style")?,
        None => bucket.contains('.'),
    };
    let mut path = url.path().trim_end_matches('/').to_owned();
    match host {
        url::Host::Domain(domain) if !path_style => {
            let moved = format!("{bucket}.{domain}");
            url.set_host(Some(&moved)).map_err(|e| attrs.fault(format!("bucket={bucket:?} is no host name: {e}")))?;
        }
        _ => path = format!("{path}/{}", utf8_percent_encode(bucket, PATH)),
    }
    url.set_path(&format!("{path}/"));
    url.set_query(None);
    Ok(url)
}

fn retries(attrs: &Attributes<'_>, mut backoff: Backoff) -> Result<Backoff> {
    match attrs.get("retry_mode") {
        None | Some("standard") => {}
        // Throttled requests hold back all others in any case; this one only waits longer.
        Some("adaptive") => backoff.first *= 2,
        Some(_) => return Err(attrs.fault("retry_mode must be \"standard\" or \"adaptive\"")),
    }
    if let Some(attempts) = attrs.count("retry_max_attempts")? {
        backoff.attempts = u32::try_from(attempts).unwrap_or(u32::MAX);
    }
    Ok(backoff)
}

fn given(attrs: &Attributes<'_>) -> Option<Credential> {
    Some(Credential {
        access_key_id: attrs.get("access_key_id")?.to_owned(),
        secret_access_key: attrs.get("secret_access_key")?.to_owned(),
        session_token: attrs.get("session_token").map(str::to_owned),
        expires_in: None,
    })
}

impl S3 {
    /// The URL of a key with a query.
    pub(super) fn url(&self, key: &str, query: &[(&str, &str)]) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{}", self.base.path(), utf8_percent_encode(key, PATH)));
        if !query.is_empty() {
            let pair = |(k, v): &(&str, &str)| format!("{k}={}", utf8_percent_encode(v, QUERY));
            url.set_query(Some(&query.iter().map(pair).collect::<Vec<_>>().join("&")));
        }
        url
    }

    /// The value of `x-amz-copy-source`.
    pub(super) fn copy_source(&self, key: &str) -> String {
        format!("{}/{}", utf8_percent_encode(&self.bucket, PATH), utf8_percent_encode(key, PATH))
    }
}

#[async_trait]
impl ObjectStore for S3 {
    fn exchange(&self) -> &Exchange {
        &self.requests.exchange
    }

    async fn head(&self, key: &str) -> Result<Option<Known>, RequestError> {
        let answer = self.requests.call(Head::new(Method::HEAD, self.url(key, &[])), Body::Empty).await;
        Ok(unless_absent(answer)?.map(|answer| known(&answer.headers)))
    }

    async fn read(&self, key: &str, limit: u64) -> Result<Option<(Bytes, Option<Version>)>, RequestError> {
        let head = Head::new(Method::GET, self.url(key, &[]));
        match self.requests.read(head, limit).await {
            Err(error) if error.code() == "NoSuchBucket" => Err(error),
            answer => Ok(unless_absent(answer)?.map(|answer| (answer.body.clone(), version(&answer)))),
        }
    }

    async fn open(&self, key: &str, offset: u64) -> Result<reqwest::Response, RequestError> {
        let mut head = Head::new(Method::GET, self.url(key, &[]));
        if offset > 0 {
            head = head.with("range", &format!("bytes={offset}-"));
        }
        self.requests.open(head).await
    }

    async fn write(&self, key: &str, bytes: Bytes, when: Condition<'_>) -> Result<Option<Version>, RequestError> {
        let head = Head::new(Method::PUT, self.url(key, &[])).with("content-type", "application/json");
        let head = match when {
            Condition::Absent => head.with("if-none-match", "*"),
            Condition::Version(version) => head.with("if-match", &version.0),
            Condition::None => head,
        };
        Ok(version(&self.requests.call(head, Body::Bytes(bytes)).await?))
    }

    async fn upload(&self, key: &str, desc: &Descriptor, source: &dyn BlobSource) -> Result<(), RequestError> {
        if desc.size > self.part {
            return self.upload_parts(key, desc, source).await;
        }
        let head = Head::new(Method::PUT, self.url(key, &[]));
        self.requests.call(head, Body::Part(source, desc, 0..desc.size)).await.map(|_| ())
    }

    async fn touch(&self, key: &str, size: u64) -> Result<(), RequestError> {
        self.copy_in_place(key, size).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Object>, RequestError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Page {
            #[serde(default)]
            contents: Vec<Content>,
            next_continuation_token: Option<String>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Content {
            key: String,
            #[serde(default)]
            size: u64,
            last_modified: Option<String>,
        }
        let (mut objects, mut token) = (Vec::new(), None::<String>);
        loop {
            let mut query = vec![("list-type", "2"), ("prefix", prefix)];
            query.extend(token.as_deref().map(|t| ("continuation-token", t)));
            let url = self.url("", &query);
            let answer = self.requests.call(Head::new(Method::GET, url.clone()), Body::Empty).await?;
            let page: Page = xml(&url, &answer.body)?;
            objects.extend(page.contents.into_iter().map(|c| Object {
                modified: c.last_modified.and_then(|t| t.parse::<jiff::Timestamp>().ok()).map(Into::into),
                key: c.key,
                size: c.size,
            }));
            match next_page(page.next_continuation_token, token.as_deref().unwrap_or_default()) {
                Some(next) => token = Some(next),
                None => return Ok(objects),
            }
        }
    }

    async fn delete(&self, key: &str, _: Option<SystemTime>) -> Result<bool, RequestError> {
        // Ordinary buckets compare no times here, and objects that are copied onto themselves keep their tags.
        let answer = self.requests.call(Head::new(Method::DELETE, self.url(key, &[])), Body::Empty).await;
        unless_absent(answer).map(|_| true)
    }
}

/// Reads a document of the service.
pub(super) fn xml<T: serde::de::DeserializeOwned>(url: &Url, body: &[u8]) -> Result<T, RequestError> {
    let text = String::from_utf8_lossy(body);
    quick_xml::de::from_str(text.trim_start_matches('\u{feff}'))
        .map_err(|e| RequestError::answer(url, format!("the answer is not the XML that it should be: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(attrs: &[(&str, &str)]) -> String {
        let attrs = attrs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let none = |_: &str| None;
        let attributes = Attributes::new("s3", &attrs, &none);
        let endpoint = attributes.get("endpoint_url");
        match base(&attributes, attributes.or("bucket", "b"), attributes.or("region", "r"), endpoint) {
            Ok(url) => url.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn buckets_have_places() {
        for (attrs, expected) in [
            (&[][..], "https://b.s3.r.amazonaws.com/"),
            (&[("region", "cn-north-1")], "https://b.s3.cn-north-1.amazonaws.com.cn/"),
            (&[("bucket", "a.b")], "https://s3.r.amazonaws.com/a.b/"),
            (&[("endpoint_url", "http://minio:9000")], "http://b.minio:9000/"),
            (&[("endpoint_url", "http://minio:9000/x/"), ("use_path_style", "true")], "http://minio:9000/x/b/"),
            (&[("endpoint_url", "http://127.0.0.1:9000")], "http://127.0.0.1:9000/b/"),
            (&[("endpoint_url", "ftp://a")], r#"s3 cache: endpoint_url="ftp://a" is no http or https URL"#),
        ] {
            assert_eq!(check(attrs), expected);
        }
    }

    #[test]
    fn attributes_that_make_no_sense_are_told() {
        let check = |attrs: &[(&str, &str)]| {
            let attrs = attrs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            open(&attrs, &|_| None, None).map_or_else(|e| e.to_string(), |b| b.name())
        };
        let base = [("bucket", "b"), ("region", "r"), ("prefix", "p/")];
        let with = |pair| check(&[base[0], base[1], base[2], pair]);
        assert_eq!(check(&base), "s3 cache b/p");
        insta::assert_snapshot!(
            [
                check(&[("bucket", "b")]),
                check(&[("region", "r")]),
                with(("upload_parallelism", "0")),
                with(("retry_mode", "never")),
                with(("retry_max_attempts", "x")),
                with(("touch_refresh", "1day")),
                with(("use_path_style", "true")),
            ]
            .join("\n"),
            @r#"
        s3 cache: region is missing: give it, or set $AWS_REGION for the builder
        s3 cache: bucket is missing: give it, or set $AWS_BUCKET for the builder
        s3 cache: upload_parallelism must be a positive integer, not "0"
        s3 cache: retry_mode must be "standard" or "adaptive"
        s3 cache: retry_max_attempts must be a positive integer, not "x"
        s3 cache: touch_refresh="1day" is no duration such as 48h, 1h30m or 10s
        s3 cache b/p
        "#
        );
    }
}
