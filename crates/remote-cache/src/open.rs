//! Kinds of caches that need nothing but their attributes.

use crate::{Backend, Result, Signatures, service::open_service};
use std::{collections::BTreeMap, sync::Arc};

/// What a cache is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// To be read.
    Import,
    /// To be written.
    Export,
}

/// Opens a cache of a kind that is reached over HTTP by itself. `None`: there is no such kind.
pub fn open_store(
    kind: &str,
    attrs: &BTreeMap<String, String>,
    _role: Role,
    signatures: &Arc<Signatures>,
) -> Option<Result<Arc<dyn Backend>>> {
    open_service(kind, attrs, None, signatures)
}
