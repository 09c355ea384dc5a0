//! Caches in object stores: what S3 and Azure have in common.
//!
//! A store keeps objects under keys. [`bucket`] makes a cache of one; [`exchange`] sends requests; each store knows
//! its own service's requests and nothing about caches.

pub(crate) mod azure;
mod azure_identity;
pub(crate) mod blocks;
mod bucket;
pub(crate) mod download;
pub(crate) mod exchange;
mod identity;
pub(crate) mod s3;
mod s3_upload;

use crate::{EntryKind, Version};
use async_trait::async_trait;
use bytes::Bytes;
use cooper_content::BlobSource;
use cooper_oci::Descriptor;
use exchange::{Answer, Body, Exchange, Head, RequestError, Sign};
use jiff::Timestamp;
use std::{
    fmt,
    time::{Duration, SystemTime},
};

/// A blob up to this size is sent by one request, a larger one in parts of at least this size, when the attribute
/// `part_size` says nothing else.
pub(crate) const PART: u64 = 16 << 20;
/// The smallest part that S3 takes.
const MIN_PART: u64 = 5 << 20;

/// `part_size`, in bytes.
fn part_size(attrs: &crate::attributes::Attributes<'_>) -> crate::Result<u64> {
    let size = attrs.count("part_size")?.map_or(PART, |size| size as u64);
    if size < MIN_PART {
        return Err(attrs.fault(format!("part_size must be at least {MIN_PART} bytes")));
    }
    Ok(size)
}

/// Documents of a service itself are smaller, in bytes.
const MAX_ANSWER: u64 = 16 << 20;

/// The requests of somebody whom a service knows.
#[derive(Debug)]
struct Requests<I> {
    exchange: Exchange,
    identity: I,
}

impl<I: Sign> Requests<I> {
    /// Sends a request whose answer is a document of the service itself.
    async fn call(&self, head: Head, body: Body<'_>) -> Result<Answer, RequestError> {
        self.exchange.call(&self.identity, &head, body, MAX_ANSWER).await
    }

    /// Asks for an object, of which at most `limit` bytes are taken.
    async fn read(&self, head: Head, limit: u64) -> Result<Answer, RequestError> {
        self.exchange.call(&self.identity, &head, Body::Empty, limit).await
    }

    /// Asks for an object, whose bytes are read from the response.
    async fn open(&self, head: Head) -> Result<reqwest::Response, RequestError> {
        self.exchange.open(&self.identity, &head).await
    }
}

/// What is known of an object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    /// Bytes.
    pub(crate) size: u64,
    /// Since it was last written, by the server's clock alone.
    pub(crate) age: Option<Duration>,
    /// When that was, in whole seconds.
    pub(crate) modified: Option<SystemTime>,
}

/// What must be there for a write to happen.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Condition<'a> {
    /// Nothing.
    Absent,
    /// This version.
    Version(&'a Version),
    /// Whatever.
    None,
}

/// An object in a list.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) key: String,
    pub(crate) size: u64,
    pub(crate) modified: Option<SystemTime>,
}

/// A service that keeps objects.
#[async_trait]
pub(crate) trait ObjectStore: Send + Sync + fmt::Debug {
    /// How requests are sent.
    fn exchange(&self) -> &Exchange;

    /// Prepares the place for writes, such as by making the container.
    async fn prepare(&self) -> Result<(), RequestError> {
        Ok(())
    }

    /// Whether an object is there.
    async fn head(&self, key: &str) -> Result<Option<Known>, RequestError>;

    /// A small object with its version.
    async fn read(&self, key: &str, limit: u64) -> Result<Option<(Bytes, Option<Version>)>, RequestError>;

    /// The bytes of an object from an offset on, as a response whose body is not read yet.
    async fn open(&self, key: &str, offset: u64) -> Result<reqwest::Response, RequestError>;

    /// Writes a small object. A condition that does not hold is a status 412 or 409.
    async fn write(&self, key: &str, bytes: Bytes, when: Condition<'_>) -> Result<Option<Version>, RequestError>;

    /// Writes a blob, going on with an earlier attempt of the same blob where the service has kept parts of it.
    async fn upload(&self, key: &str, desc: &Descriptor, source: &dyn BlobSource) -> Result<(), RequestError>;

    /// Makes an object young without sending it.
    async fn touch(&self, key: &str, size: u64) -> Result<(), RequestError>;

    /// All objects whose key has a prefix.
    async fn list(&self, prefix: &str) -> Result<Vec<Object>, RequestError>;

    /// Removes an object, which may be gone already; where the service can tell, only when it was not written after
    /// `unmodified`. Returns whether it is gone.
    async fn delete(&self, key: &str, unmodified: Option<SystemTime>) -> Result<bool, RequestError>;
}

/// `Last-Modified` against `Date` of the same answer.
fn known(headers: &http::HeaderMap) -> Known {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    let time = |name: &str| jiff::fmt::rfc2822::parse(text(name)?).ok().map(|z| z.timestamp());
    let size = text("content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
    let now = time("date").unwrap_or_else(Timestamp::now);
    let modified = time("last-modified");
    let age = modified.map(|then| now.duration_since(then).try_into().unwrap_or(Duration::ZERO));
    Known { size, age, modified: modified.map(SystemTime::from) }
}

/// What a service answered; none when it says that there is no such object.
fn unless_absent<T>(outcome: Result<T, RequestError>) -> Result<Option<T>, RequestError> {
    match outcome {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.status() == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The version of what was read or written.
fn version(answer: &Answer) -> Option<Version> {
    answer.header("etag").map(|tag| Version(tag.to_owned()))
}

/// Where a list goes on. A place that was just there is the end, whatever the service says.
fn next_page(said: Option<String>, current: &str) -> Option<String> {
    said.filter(|next| !next.is_empty() && next != current)
}

/// The parts that a blob is sent in: `(number from 1, bytes)`. At most 9,000, fewer than any service allows.
fn parts(size: u64, part: u64) -> Vec<(u32, std::ops::Range<u64>)> {
    let step = part.max(size.div_ceil(9_000).next_multiple_of(1 << 20));
    let starts = (0..size).step_by(usize::try_from(step).unwrap_or(usize::MAX));
    starts.zip(1..).map(|(start, number)| (number, start..(start + step).min(size))).collect()
}

/// What a key below the prefix of the blobs stands for.
fn blob_kind(name: &str) -> Option<EntryKind> {
    name.parse().ok().map(EntryKind::Blob)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_a_blob_and_stay_few() {
        for size in [PART + 1, 5 * PART, 627 << 20, 5 << 40] {
            let parts = parts(size, PART);
            assert!(parts.len() <= 9_000, "{size}: {}", parts.len());
            assert_eq!(parts.iter().map(|(_, r)| r.end - r.start).sum::<u64>(), size);
            assert!(parts.windows(2).all(|w| w[0].1.end == w[1].1.start && w[0].0 + 1 == w[1].0));
        }
    }

    #[test]
    fn ages_are_by_the_server_s_clock() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            pairs.iter().map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap())).collect::<http::HeaderMap>()
        };
        let both = headers(&[
            ("last-modified", "Wed, 21 Oct 2015 07:28:00 GMT"),
            ("date", "Wed, 21 Oct 2015 08:28:00 GMT"),
            ("content-length", "7"),
        ]);
        assert_eq!(known(&both).age, Some(Duration::from_secs(3600)));
        assert_eq!(known(&both).size, 7);
        let skewed =
            headers(&[("last-modified", "Wed, 21 Oct 2015 07:28:00 GMT"), ("date", "Wed, 21 Oct 2015 07:27:00 GMT")]);
        assert_eq!(known(&skewed).age, Some(Duration::ZERO));
    }
}
