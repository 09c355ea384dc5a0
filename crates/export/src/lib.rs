//! Build results on their way out: images assembled from layers and configs, and the writers that put
//! them into archives, directories, stores and registries; file trees as archives or transfers.
//!
//! [`assemble`] is pure: layers, configs and attributes in, documents out, the same bytes for the same
//! input. The writers copy blobs from a [`BlobSource`](cooper_content::BlobSource) in pieces; nothing
//! the size of a layer is ever held in memory.
//!
//! Building, layer compression and cache formats do not belong here.

pub mod assemble;
mod attrs;
mod error;
mod json;
mod names;
mod platforms;
mod progress;
mod response;
mod tree;
pub mod write;

pub use attrs::{
    AnnotationSet, Annotations, AttestationStorage, CompressionChoice, CompressionKind, FsAttrs, ImageAttrs, LocalMode,
    Present, Target,
};
pub use error::{Error, Result};
pub use names::Names;
pub use platforms::{PlatformEntry, Platforms};
pub use progress::{NoProgress, Progress, step};
pub use response::{Response, keys};
pub use tree::{Tree, check_duplicates, file_digests, local_source, write_tar};
