//! The merged view of the layers below.

use std::path::PathBuf;

use cooper_mount::Mount;
use cooper_rooted::{Root, mount};

use crate::error::Result;

/// The tree that committed layer directories (the lowest first) make together; `None` when there are none.
///
/// Several are mounted as an overlay that is attached nowhere and ends with the returned root. A single one is the
/// directory itself: its whiteouts are seen as device nodes, so callers treat those as absent.
pub fn lower_view(lowers: &[PathBuf], userxattr: bool) -> Result<Option<Root>> {
    Ok(match lowers {
        [] => None,
        [only] => Some(Root::open(only)?),
        several => {
            let overlay = Mount::Overlay { lower: several.to_vec(), upper: None, userxattr };
            Some(Root::from_fd(mount::detached(&overlay)?))
        }
    })
}
