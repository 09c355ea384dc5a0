//! LLB, the graph that the engine runs: decoding and checking what clients send, building definitions, printing them.
//!
//! - [`Graph`] is a received definition, checked, in an order in which inputs come before their users.
//! - [`Output`] and the modules beside it build definitions; one value has one encoding.
//! - [`caps`] lists the capabilities that are announced to clients, as data.
//! - [`dump`] and [`json`] print definitions for tests, `dump-llb` and the conversion subrequest.
//!
//! This is one of the few crates that know protocol types. Nothing here does I/O or runs an op.

mod builder;
pub mod caps;
mod definition;
mod dump;
mod error;
pub mod git_url;
mod graph;
pub mod json;
mod name;
pub mod path;
mod validate;

pub use builder::{
    Action, Build, Chmod, Copy, Deferred, Exec, ExecOutputs, Git, GitBundle, Http, Image, Local, Meta, Mkdir, Mkfile,
    Mount, MountKind, OciLayout, Output, Owner, OwnerId, Rm, Secret, SourceMap, Ssh, Symlink, diff, file, image_blob,
    merge, passthrough,
};
pub use caps::CapSet;
pub use cooper_wire::pb;
pub use definition::{
    DEFAULT_PATH_UNIX, DEFAULT_PATH_WINDOWS, attrs, default_path, platform_from_pb, platform_to_pb,
    without_empty_entries,
};
pub use dump::dump;
pub use error::Error;
pub use git_url::{GitRef, GitUrl};
pub use graph::{Edge, Graph, OpDigest, Vertex};
