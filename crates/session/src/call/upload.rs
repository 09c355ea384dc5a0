//! Streams that a client holds ready under a URL.

use crate::{
    Result, Session,
    connection::{MAX_MESSAGE, origin},
    headers::{URL_HOST, URL_PATH, put},
};
use cooper_content::ByteStream;
use cooper_wire::upload::upload_client::UploadClient;
use futures::StreamExt;
use std::io;
use tonic::Request;

impl Session {
    /// The content that the client offers as `http://<host><path>`. Each upload can be pulled once.
    pub async fn pull_upload(&self, host: &str, path: &str) -> Result<ByteStream> {
        let mut client = UploadClient::with_origin(self.channel(), origin()).max_decoding_message_size(MAX_MESSAGE);
        let mut request = Request::new(futures::stream::empty());
        put(request.metadata_mut(), URL_PATH, path);
        put(request.metadata_mut(), URL_HOST, host);
        let stream = client.pull(request).await?.into_inner();
        Ok(Box::pin(stream.map(|m| m.map(|m| m.data).map_err(io::Error::other))))
    }
}
