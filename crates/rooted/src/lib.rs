//! Confined file-system access: every operation names a path below a root directory, and nothing that
//! the tree contains (absolute links, `..`, links swapped while we look) makes an operation leave it.
//!
//! What lives here: path resolution below a directory descriptor ([`Root`]), operations on single names
//! ([`Dir`]) and single objects ([`Node`]), tree copies and removal, users of a root ([`passwd`]) and mounts that
//! are attached nowhere ([`mount`]). What must never: knowledge of layers, images or snapshots.
//!
//! Everything here blocks; asynchronous callers use `spawn_blocking`. Linux 5.6 or newer (`openat2`).

pub mod copy;
mod dir;
mod error;
mod metadata;
pub mod mount;
mod node;
pub mod passwd;
mod resolve;
mod root;
mod same;
mod spread;
mod sys;
mod tree;

pub use copy::{Copier, copy_file_data, is_hole, write_with_holes_at};
pub use dir::{Dir, DirEntry};
pub use error::{Error, Result};
pub use metadata::{Kind, Metadata, device_number, device_parts, fd_metadata};
pub use node::{Node, Xattrs, fd_xattrs};
pub use root::{DirAttributes, Root};
pub use same::same_content;
pub use spread::spread_children;
pub use tree::{CloneMode, Cursor, clone_entry, clone_tree};
