//! Which blobs to doubt after the machine went down.
//!
//! Blobs are renamed into place without a sync. A dying process loses nothing by that; a dying machine can lose
//! data that the kernel had not written back. So the store notes the boot it runs under, and after another boot
//! doubts the blobs written shortly before the last write: they are verified when first used.

use crate::{Error, Store};
use cooper_oci::Digest;
use std::{
    collections::HashSet,
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

/// Linux writes dirty pages back after 30 s by default (`vm.dirty_expire_centisecs`); ten minutes leave room for
/// slow disks and tuned systems.
const WRITE_BACK: Duration = Duration::from_secs(10 * 60);
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Whether the store was last open under another boot; notes the present one.
pub(crate) fn booted_since(root: &Path) -> Result<bool, Error> {
    let Ok(current) = fs::read(BOOT_ID) else { return Ok(true) };
    let note = root.join("boot");
    match fs::read(&note) {
        Ok(noted) if noted == current => Ok(false),
        noted => {
            fs::write(&note, &current).map_err(|e| Error::io("write", note, e))?;
            Ok(noted.is_ok())
        }
    }
}

/// The blobs that may have lost data: those within [`WRITE_BACK`] of the newest one.
pub(crate) fn doubtful(store: &Store) -> Result<HashSet<Digest>, Error> {
    let blobs = store.files()?;
    let newest = blobs.iter().map(|(_, meta)| modified(meta)).max().unwrap_or(SystemTime::UNIX_EPOCH);
    let since = newest.checked_sub(WRITE_BACK).unwrap_or(SystemTime::UNIX_EPOCH);
    Ok(blobs.into_iter().filter(|(_, meta)| modified(meta) >= since).map(|(digest, _)| digest).collect())
}

/// Modification time of a blob's file: when its last byte was written.
pub(crate) fn modified(meta: &fs::Metadata) -> SystemTime {
    meta.modified().unwrap_or(SystemTime::UNIX_EPOCH)
}
