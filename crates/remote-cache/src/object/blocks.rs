//! Block blobs: how Azure, and GitHub's cache on top of it, take bytes.
//!
//! Blocks that were sent and not put together stay for a week; the same blob's next upload goes on with them.

use super::{
    MAX_ANSWER,
    exchange::{Answer, Body, Exchange, Head, RequestError, Sign},
    parts,
    s3::xml,
};
use base64::Engine;
use bytes::Bytes;
use cooper_content::BlobSource;
use cooper_oci::Descriptor;
use futures::{StreamExt, TryStreamExt, stream};
use http::Method;
use serde::Deserialize;
use std::{collections::HashMap, fmt::Write};
use url::Url;

/// The version of Azure's interface that requests are made for.
pub(crate) const VERSION: &str = "2023-11-03";

/// One blob of the service.
pub(crate) struct BlockBlob<'a> {
    pub(crate) exchange: &'a Exchange,
    pub(crate) sign: &'a dyn Sign,
    /// Its URL, with what signs it in the query where that is so.
    pub(crate) url: &'a Url,
    /// Blocks sent at a time.
    pub(crate) parallelism: usize,
    /// Largest blob that is sent by one request, smallest block of others, in bytes.
    pub(crate) part: u64,
}

/// For URLs that are signed already.
#[derive(Debug)]
pub(crate) struct SignedUrl;

#[async_trait::async_trait]
impl Sign for SignedUrl {
    async fn sign(&self, _: &mut Head) -> Result<(), RequestError> {
        Ok(())
    }
}

impl BlockBlob<'_> {
    fn at(&self, query: &[(&str, &str)]) -> Url {
        let mut url = self.url.clone();
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    async fn call(&self, head: Head, body: Body<'_>) -> Result<Answer, RequestError> {
        let head = head.with("x-ms-version", VERSION);
        self.exchange.call(self.sign, &head, body, MAX_ANSWER).await
    }

    /// Sends the whole blob.
    pub(crate) async fn upload(&self, desc: &Descriptor, source: &dyn BlobSource) -> Result<(), RequestError> {
        if desc.size <= self.part {
            let head = Head::new(Method::PUT, self.at(&[])).with("x-ms-blob-type", "BlockBlob");
            return self.call(head, Body::Part(source, desc, 0..desc.size)).await.map(|_| ());
        }
        let kept = self.kept().await.unwrap_or_default();
        let send = |(number, range): (u32, std::ops::Range<u64>)| {
            let id = block_id(desc, number, range.end - range.start);
            let there = kept.get(&id) == Some(&(range.end - range.start));
            async move {
                if !there {
                    let url = self.at(&[("comp", "block"), ("blockid", &id)]);
                    self.call(Head::new(Method::PUT, url), Body::Part(source, desc, range)).await?;
                }
                Ok::<_, RequestError>(id)
            }
        };
        let ids = stream::iter(parts(desc.size, self.part))
            .map(send)
            .buffered(self.parallelism)
            .try_collect::<Vec<_>>()
            .await?;
        let mut list = String::from("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>");
        for id in ids {
            // Writing into a string cannot fail.
            let _ = write!(list, "<Latest>{id}</Latest>");
        }
        list.push_str("</BlockList>");
        let head = Head::new(Method::PUT, self.at(&[("comp", "blocklist")]));
        self.call(head, Body::Bytes(Bytes::from(list))).await.map(|_| ())
    }

    /// Blocks that were sent and not put together, with their sizes.
    async fn kept(&self) -> Result<HashMap<String, u64>, RequestError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Lists {
            uncommitted_blocks: Option<Blocks>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Blocks {
            #[serde(default)]
            block: Vec<Block>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Block {
            name: String,
            size: u64,
        }
        let url = self.at(&[("comp", "blocklist"), ("blocklisttype", "uncommitted")]);
        let answer = self.call(Head::new(Method::GET, url.clone()), Body::Empty).await?;
        let lists: Lists = xml(&url, &answer.body)?;
        Ok(lists.uncommitted_blocks.into_iter().flat_map(|b| b.block).map(|b| (b.name, b.size)).collect())
    }
}

/// Names a block after its blob and its size in bytes, so that blocks of another blob or cut are never taken for it. All names
/// in one blob have the same length, as the service demands.
fn block_id(desc: &Descriptor, number: u32, size: u64) -> String {
    let digest: String = desc.digest.hex().chars().take(16).collect();
    base64::engine::general_purpose::STANDARD.encode(format!("{digest}-{size:012x}-{number:05}"))
}
