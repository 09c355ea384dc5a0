//! rpm's own database: slots that say where blobs are.

use super::Error;
use crate::files::{ReadAt, exactly};

const PAGE: usize = 4096;
/// Slots begin after this many bytes.
const FIRST: usize = 32;
const SLOT: usize = 16;
/// Places of blobs are counted in these.
const BLOCK: u64 = 16;

const fn damaged(what: &'static str) -> Error {
    Error::Damaged { kind: "ndb", what }
}

/// Every blob.
pub fn blobs(file: &dyn ReadAt) -> Result<Vec<Vec<u8>>, Error> {
    let head = exactly(file, 0, FIRST).map_err(|_| damaged("no header"))?;
    if &head[..4] != b"RpmP" {
        return Err(damaged("no header"));
    }
    let pages = word(&head, 12) as usize;
    let slots = exactly(file, 0, pages.saturating_mul(PAGE)).map_err(|_| damaged("the slots end early"))?;
    let mut out = Vec::new();
    for slot in slots.get(FIRST..).unwrap_or_default().chunks_exact(SLOT) {
        if &slot[..4] != b"Slot" || word(slot, 4) == 0 {
            continue;
        }
        let at = u64::from(word(slot, 8)) * BLOCK;
        let head = exactly(file, at, 16).map_err(|_| damaged("a blob is not there"))?;
        if &head[..4] != b"BlbS" || head[4..8] != slot[4..8] {
            return Err(damaged("a blob is another's"));
        }
        out.push(exactly(file, at + 16, word(&head, 12) as usize).map_err(|_| damaged("a blob ends early"))?);
    }
    Ok(out)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..at + 4).and_then(|w| w.try_into().ok());
    word.map_or(0, u32::from_le_bytes)
}
