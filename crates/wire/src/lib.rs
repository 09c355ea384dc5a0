//! Protocol messages and gRPC stubs, compiled from the `.proto` files beside this crate, which are
//! written from the protocol's published field tables.
//!
//! Wire types stop at the crates that speak a protocol (`llb`, `session`, `daemon`, the client side);
//! nothing else may store or derive them.
//!
//! Maps are `BTreeMap`s everywhere, so that one value has one encoding. An op that arrives from a
//! client must still be keyed by the bytes received: prost drops fields that it does not know.

#[allow(clippy::all, clippy::pedantic, missing_docs)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/packages.rs"));
}

pub use generated::{containerd, errdefs, fsutil, google, moby, opentelemetry, pb, stack};

/// This project's own service beside the protocol's.
pub use generated::cooperage::v1 as cooperage;

pub use containerd::services::content::v1 as content;
pub use fsutil::types as fsync;
pub use google::rpc;
pub use moby::buildkit::v1::sourcepolicy::policysession;
pub use moby::{
    buildkit::{
        secrets::v1 as secrets,
        v1::{self as control, apicaps, frontend as gateway, sourcepolicy, types},
    },
    exporter::v1 as exporter,
    filesync::v1 as filesync,
    sshforward::v1 as ssh,
    upload::v1 as upload,
};
pub use opentelemetry::proto::{
    collector::trace::v1 as trace, common::v1 as otlp_common, resource::v1 as otlp_resource, trace::v1 as spans,
};

/// The encoded `FileDescriptorSet` of every package here, for gRPC reflection and protobuf JSON.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
