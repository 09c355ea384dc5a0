//! Bills of materials: which packages are in a file tree, and the documents that say so.
//!
//! Lives here: readers of package databases (dpkg, apk, rpm), of lock files and of the metadata that language tools
//! install; package URLs; SPDX and CycloneDX documents. Must never live here: how a tree comes to be readable ([`Files`]
//! is all that is asked), builds, the statements that carry documents.
//!
//! What cannot be read is told in [`Scan::notes`] and never fails a scan: an image may hold anything. The same tree
//! gives the same documents, byte for byte.

mod apk;
mod distro;
pub mod document;
mod dpkg;
mod files;
mod lang;
mod licence;
mod package;
mod rpm;
mod scan;

pub use distro::Distro;
pub use files::{Entry, EntryKind, Files, ReadAt};
pub use package::{Package, PackageUrl};
pub use scan::{Evidence, Scan, scan};
