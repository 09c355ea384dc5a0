//! The client's directories.

use crate::{
    Error, Result, Session,
    headers::{DIR_NAME, EXCLUDE_PATTERNS, FOLLOW_PATHS, INCLUDE_PATTERNS, put_list},
    transfer::{Listing, Packet, ReceiveOptions, Received, packets, receive, send},
};
use cooper_fsmatch::FilterSpec;
use futures::StreamExt;
use http::uri::PathAndQuery;
use std::{path::Path, sync::Arc};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Status, metadata::MetadataMap};
use tonic_prost::ProstCodec;

const DIFF_COPY: &str = "/moby.filesync.v1.FileSync/DiffCopy";

/// Which part of which directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SyncRequest {
    /// The name under which the client offers it.
    pub name: String,
    /// What to transfer of it.
    pub filter: FilterSpec,
}

impl SyncRequest {
    fn to_metadata(&self) -> MetadataMap {
        let mut map = MetadataMap::new();
        put_list(&mut map, DIR_NAME, std::slice::from_ref(&self.name));
        put_list(&mut map, INCLUDE_PATTERNS, &self.filter.include);
        put_list(&mut map, EXCLUDE_PATTERNS, &self.filter.exclude);
        put_list(&mut map, FOLLOW_PATHS, &self.filter.follow);
        map
    }
}

impl Session {
    /// Makes `dest` a copy of a directory of the client; see [`receive`] for what `previous` is. When the client
    /// refuses the directory, [`Error::code`] is `NotFound`.
    pub async fn sync_dir(
        &self,
        request: &SyncRequest,
        dest: &Path,
        previous: Option<Arc<Listing>>,
        options: ReceiveOptions,
    ) -> Result<Received> {
        self.require(DIFF_COPY)?;
        let transfer = async {
            match &self.local().files {
                Some(files) => {
                    let (source, send_options) = files.open(&request.name, request.filter.clone())?;
                    let (sink, to_receiver) = packets();
                    let (answers, to_sender) = packets();
                    let sender = tokio::spawn(send(source, send_options, to_sender.map(Ok), sink));
                    let _sender = AbortOnDropHandle::new(sender);
                    receive(to_receiver.map(Ok), answers, dest, previous, options).await
                }
                None => self.sync_wired(request, dest, previous, options).await,
            }
        };
        tokio::select! {
            biased;
            () = self.ended().cancelled() => Err(Error::Cancelled),
            outcome = transfer => outcome,
        }
    }

    async fn sync_wired(
        &self,
        request: &SyncRequest,
        dest: &Path,
        previous: Option<Arc<Listing>>,
        options: ReceiveOptions,
    ) -> Result<Received> {
        let (sink, outgoing) = packets();
        let request = Request::from_parts(request.to_metadata(), tonic::Extensions::default(), outgoing);
        let mut grpc = self.grpc();
        grpc.ready().await.map_err(not_ready)?;
        let codec = ProstCodec::<Packet, Packet>::default();
        let incoming = grpc.streaming(request, PathAndQuery::from_static(DIFF_COPY), codec).await?.into_inner();
        receive(incoming, sink, dest, previous, options).await
    }
}

pub(crate) fn not_ready(error: hyper::Error) -> Status {
    Status::unavailable(format!("the session's connection is gone: {error}"))
}
