//! What an exporter answers to the client.

use crate::Names;
use crate::assemble::Assembled;
use base64::Engine as _;
use std::collections::BTreeMap;

/// Keys of exporter responses that clients read.
pub mod keys {
    /// Digest of the manifest or index.
    pub const DIGEST: &str = "containerimage.digest";
    /// Digest of the config, of single images.
    pub const CONFIG_DIGEST: &str = "containerimage.config.digest";
    /// The descriptor as JSON in base64.
    pub const DESCRIPTOR: &str = "containerimage.descriptor";
    /// The names, separated by commas.
    pub const IMAGE_NAME: &str = "image.name";
}

/// Entries of an exporter's response.
pub type Response = BTreeMap<String, String>;

impl Assembled {
    /// The response for the image under these names.
    pub fn response(&self, names: &Names) -> Response {
        let mut out = Response::new();
        out.insert(keys::DIGEST.to_owned(), self.root.digest.to_string());
        if let Some(config) = &self.config_digest {
            out.insert(keys::CONFIG_DIGEST.to_owned(), config.to_string());
        }
        let descriptor = crate::json::compact(&self.root);
        out.insert(keys::DESCRIPTOR.to_owned(), base64::engine::general_purpose::STANDARD.encode(descriptor));
        out.extend(names.response().map(|name| (keys::IMAGE_NAME.to_owned(), name)));
        out
    }
}
