//! Large objects in S3: parts, side by side, taken up again where an earlier upload of the same blob ended.
//!
//! Uploads that break are left: the next export of the blob goes on with them, and a bucket's rule for incomplete
//! uploads (`AbortIncompleteMultipartUpload`) removes what nobody goes on with.

use super::{
    ObjectStore,
    exchange::{Body, Head, RequestError},
    parts,
    s3::{MAX_COPY, S3, xml},
};
use bytes::Bytes;
use cooper_content::BlobSource;
use cooper_oci::Descriptor;
use futures::{StreamExt, TryStreamExt, stream};
use http::Method;
use serde::Deserialize;
use std::{collections::HashMap, fmt::Write};

/// A part that the service has: its size and its tag.
type Kept = HashMap<u32, (u64, String)>;

impl S3 {
    pub(super) async fn upload_parts(
        &self,
        key: &str,
        desc: &Descriptor,
        source: &dyn BlobSource,
    ) -> Result<(), RequestError> {
        let (upload, kept) = match self.resume(key).await {
            Some(found) => found,
            None => (self.begin(key).await?, Kept::new()),
        };
        let send = |(number, range): (u32, std::ops::Range<u64>)| {
            let (upload, kept) = (&upload, &kept);
            async move {
                let size = range.end - range.start;
                if let Some((_, tag)) = kept.get(&number).filter(|(there, _)| *there == size) {
                    return Ok((number, tag.clone()));
                }
                let number_text = number.to_string();
                let url = self.url(key, &[("partNumber", &number_text), ("uploadId", upload)]);
                let answer =
                    self.requests.call(Head::new(Method::PUT, url.clone()), Body::Part(source, desc, range)).await?;
                let tag = answer.header("etag").ok_or_else(|| RequestError::answer(&url, "a part without an ETag"))?;
                Ok((number, tag.to_owned()))
            }
        };
        let sent = stream::iter(parts(desc.size, self.part))
            .map(send)
            .buffered(self.parallelism)
            .try_collect::<Vec<_>>()
            .await;
        let done = match sent {
            Ok(tags) => self.complete(key, &upload, &tags).await,
            Err(error) => Err(error),
        };
        match done {
            // Somebody else has finished the same upload, or the answer to our own end of it was lost.
            Err(error) if error.code() == "NoSuchUpload" || error.status() == Some(404) => {
                let there = self.head(key).await?.is_some_and(|known| known.size == desc.size);
                if there { Ok(()) } else { Err(error) }
            }
            other => other,
        }
    }

    /// An upload of this key that was begun and not ended. Services that cannot list them have none.
    async fn resume(&self, key: &str) -> Option<(String, Kept)> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Uploads {
            #[serde(default)]
            upload: Vec<Upload>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Upload {
            key: String,
            #[serde(rename = "UploadId")]
            id: String,
            #[serde(default)]
            initiated: String,
        }
        let url = self.url("", &[("uploads", ""), ("prefix", key)]);
        let answer = self.requests.call(Head::new(Method::GET, url.clone()), Body::Empty).await.ok()?;
        let uploads: Uploads = xml(&url, &answer.body).ok()?;
        let mine = uploads.upload.into_iter().filter(|u| u.key == key);
        let upload = mine.max_by(|a, b| a.initiated.cmp(&b.initiated))?.id;
        let kept = self.kept(key, &upload).await.ok()?;
        tracing::debug!(key, parts = kept.len(), "an upload is taken up again");
        Some((upload, kept))
    }

    async fn kept(&self, key: &str, upload: &str) -> Result<Kept, RequestError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Page {
            #[serde(default)]
            part: Vec<Part>,
            #[serde(default)]
            is_truncated: bool,
            next_part_number_marker: Option<u32>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Part {
            #[serde(rename = "PartNumber")]
            number: u32,
            size: u64,
            #[serde(rename = "ETag")]
            tag: String,
        }
        let (mut kept, mut marker) = (Kept::new(), 0);
        loop {
            let marker_text = marker.to_string();
            let url = self.url(key, &[("uploadId", upload), ("part-number-marker", &marker_text)]);
            let answer = self.requests.call(Head::new(Method::GET, url.clone()), Body::Empty).await?;
            let page: Page = xml(&url, &answer.body)?;
            kept.extend(page.part.into_iter().map(|p| (p.number, (p.size, p.tag))));
            match page.next_part_number_marker.filter(|next| page.is_truncated && *next > marker) {
                Some(next) => marker = next,
                None => return Ok(kept),
            }
        }
    }

    async fn begin(&self, key: &str) -> Result<String, RequestError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Begun {
            upload_id: String,
        }
        let url = self.url(key, &[("uploads", "")]);
        let answer = self.requests.call(Head::new(Method::POST, url.clone()), Body::Empty).await?;
        xml::<Begun>(&url, &answer.body).map(|begun| begun.upload_id)
    }

    async fn complete(&self, key: &str, upload: &str, tags: &[(u32, String)]) -> Result<(), RequestError> {
        let mut list = String::from("<CompleteMultipartUpload>");
        for (number, tag) in tags {
            let tag = quick_xml::escape::escape(tag.as_str());
            // Writing into a string cannot fail.
            let _ = write!(list, "<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>");
        }
        list.push_str("</CompleteMultipartUpload>");
        let url = self.url(key, &[("uploadId", upload)]);
        let head = Head::new(Method::POST, url.clone()).with("content-type", "application/xml");
        let answer = self.requests.call(head, Body::Bytes(Bytes::from(list))).await?;
        // The answer begins before the work is done: an error can come with a status of success.
        let text = String::from_utf8_lossy(&answer.body);
        if text.contains("<Error>") {
            return Err(RequestError::answer(&url, format!("the parts were not put together: {text}")));
        }
        Ok(())
    }

    /// Copies an object over itself with new metadata, which makes it young.
    pub(super) async fn copy_in_place(&self, key: &str, size: u64) -> Result<(), RequestError> {
        let source = self.copy_source(key);
        if size < MAX_COPY {
            let head = Head::new(Method::PUT, self.url(key, &[]))
                .with("x-amz-copy-source", &source)
                .with("x-amz-metadata-directive", "REPLACE")
                .with("x-amz-meta-updated-at", &jiff::Timestamp::now().to_string());
            return self.requests.call(head, Body::Empty).await.map(|_| ());
        }
        let upload = self.begin(key).await?;
        let mut tags = Vec::new();
        for (number, start) in (1_u32..).zip((0..size).step_by(1 << 30)) {
            tags.push((number, self.copy_part(key, &upload, number, start..(start + (1 << 30)).min(size)).await?));
        }
        self.complete(key, &upload, &tags).await
    }

    async fn copy_part(
        &self,
        key: &str,
        upload: &str,
        number: u32,
        range: std::ops::Range<u64>,
    ) -> Result<String, RequestError> {
        #[derive(Deserialize)]
        struct Copied {
            #[serde(rename = "ETag")]
            tag: String,
        }
        let number = number.to_string();
        let url = self.url(key, &[("partNumber", &number), ("uploadId", upload)]);
        let head = Head::new(Method::PUT, url.clone())
            .with("x-amz-copy-source", &self.copy_source(key))
            .with("x-amz-copy-source-range", &format!("bytes={}-{}", range.start, range.end - 1));
        let answer = self.requests.call(head, Body::Empty).await?;
        xml::<Copied>(&url, &answer.body).map(|copied| copied.tag)
    }
}
