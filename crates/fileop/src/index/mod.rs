//! Content digests of selections of a tree, for cache keys.
//!
//! A [`LayerIndex`] holds every entry of one layer directory; file contents are hashed when a digest
//! first needs them, or were hashed by whoever wrote the layer. A [`Tree`] is the merged view of a
//! stack of them and digests exactly what a copy action would read: modification times do not
//! count; permissions, owners, link targets, extended attributes, device numbers and contents do.
//! Which files are hard links of each other does not.

mod build;
mod digest;
mod format;
mod layer;
mod listing;
mod tree;

pub use build::{Attributes, EntryKind, IndexBuilder};
pub use digest::Selector;
pub use layer::LayerIndex;
pub use listing::Listed;
pub use tree::Tree;
