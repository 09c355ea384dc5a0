//! Caches at services that need nothing but attributes: no client's session, no registry configuration.

use crate::{Backend, Result, Signatures, attributes::process_env, gha, object};
use cooper_registry::Backoff;
use std::{collections::BTreeMap, sync::Arc};

/// Opens a cache of the kinds `s3`, `azblob` and `gha`; `None` for other kinds. What the attributes leave out comes from
/// the environment of this process. `backoff`: how requests are repeated, when not as usual. `signatures`: of caches that have them (`gha`).
///
/// # Errors
///
/// Attributes that are missing or make no sense. Nothing is asked of the service yet.
pub fn open_service(
    kind: &str,
    attrs: &BTreeMap<String, String>,
    backoff: Option<Backoff>,
    signatures: &Arc<Signatures>,
) -> Option<Result<Arc<dyn Backend>>> {
    match kind {
        "s3" => Some(object::s3::open(attrs, &process_env, backoff)),
        "azblob" => Some(object::azure::open(attrs, &process_env, backoff)),
        "gha" => Some(gha::open(attrs, &process_env, backoff, signatures)),
        _ => None,
    }
}
