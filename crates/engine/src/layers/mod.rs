//! Layers and the trees that they make: kept, unpacked, packed for export, cut and joined, digested by content.

pub mod content_index;
pub mod pack;
pub mod seekable;
pub mod splice;
pub mod store;
pub mod tree;
pub mod unpack;

#[cfg(test)]
mod snapshotter_tests;
#[cfg(test)]
mod splice_tests;
