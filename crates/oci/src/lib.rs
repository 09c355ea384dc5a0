//! Values of the OCI image world: digests, descriptors, platforms, references, image documents.
//!
//! No I/O lives here. Documents are own `serde` structs rather than a library's, because the bytes
//! that they serialise to are hashed: field order and omission rules are part of the contract, and
//! Docker's extensions of the config (health check, on-build, shell) must survive a round trip.

mod chain;
mod config;
mod descriptor;
mod digest;
mod json;
mod manifest;
mod platform;
mod reference;

pub use chain::{ChainId, DiffId, chain_ids};
pub use config::{ContainerConfig, Empty, Healthcheck, History, ImageConfig, RootFs};
pub use descriptor::{Descriptor, MediaType, annotations, media_types};
pub use digest::{Algorithm, Digest, DigestError, Digester};
pub use json::without_spaces;
pub use manifest::{ImageIndex, ImageManifest};
pub use platform::{Platform, PlatformError};
pub use reference::{ImageRef, ReferenceError};
