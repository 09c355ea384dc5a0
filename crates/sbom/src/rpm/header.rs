//! Package headers: an index of tags over a block of data.

pub const NAME: u32 = 1000;
pub const VERSION: u32 = 1001;
pub const RELEASE: u32 = 1002;
pub const EPOCH: u32 = 1003;
pub const VENDOR: u32 = 1011;
pub const LICENSE: u32 = 1014;
pub const URL: u32 = 1020;
pub const ARCH: u32 = 1022;
pub const SOURCE: u32 = 1044;

/// Bytes of an entry of the index: tag, type, offset, count.
const ENTRY: usize = 16;
/// The type of 32-bit numbers.
const INT32: u32 = 4;
/// Types of text: one, several, one per language.
const TEXT: [u32; 3] = [6, 8, 9];

/// A header as it lies in the database.
pub struct Header<'a> {
    index: &'a [u8],
    data: &'a [u8],
}

impl<'a> Header<'a> {
    /// The parts of a header; none when its lengths do not fit.
    pub fn parse(blob: &'a [u8]) -> Option<Self> {
        let entries = word(blob, 0)? as usize;
        let length = word(blob, 4)? as usize;
        let index = blob.get(8..8usize.checked_add(entries.checked_mul(ENTRY)?)?)?;
        let data = blob.get(8 + index.len()..)?.get(..length)?;
        Some(Self { index, data })
    }

    fn find(&self, tag: u32) -> Option<(u32, usize)> {
        let found = self.index.chunks_exact(ENTRY).find(|e| word(e, 0) == Some(tag))?;
        Some((word(found, 4)?, word(found, 8)? as usize))
    }

    /// The (first) text of a tag; empty when it has none.
    pub fn text(&self, tag: u32) -> String {
        let Some((kind, at)) = self.find(tag) else { return String::new() };
        let rest = if TEXT.contains(&kind) { self.data.get(at..).unwrap_or_default() } else { &[] };
        let end = rest.iter().position(|b| *b == 0).unwrap_or(0);
        String::from_utf8_lossy(&rest[..end]).into_owned()
    }

    /// The number of a tag.
    pub fn number(&self, tag: u32) -> Option<u32> {
        let (kind, at) = self.find(tag)?;
        (kind == INT32).then(|| word(self.data, at)).flatten()
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}
