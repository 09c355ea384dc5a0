//! `VOLUME`: directories that live outside the image.

use super::{Error, StageRun};
use crate::instruction::Volume;
use crate::lower::{Cause, naming};
use cooper_oci::Empty;

pub(in crate::lower) fn lower(run: &mut StageRun<'_>, volume: &Volume) -> Result<(), Error> {
    let mut paths = Vec::with_capacity(volume.paths.len());
    for path in &volume.paths {
        paths.push(run.expand(&path.text)?);
    }
    if paths.iter().any(String::is_empty) {
        return Err(Error::new(Cause::EmptyVolume));
    }
    run.commit(format!("VOLUME {}", naming::list(&paths)), false, false);
    run.state.image.config.volumes.extend(paths.into_iter().map(|path| (path, Empty {})));
    Ok(())
}
