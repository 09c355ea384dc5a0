//! One 512-byte header block: fields, numbers, checksum.

use super::BLOCK;

/// What an archive entry makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A second name for an earlier entry.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Dir,
    /// A named pipe.
    Fifo,
}

impl EntryKind {
    /// The type flag (POSIX `pax`, "ustar Interchange Format").
    pub(crate) const fn flag(self) -> u8 {
        match self {
            Self::File => b'0',
            Self::HardLink => b'1',
            Self::Symlink => b'2',
            Self::CharDevice => b'3',
            Self::BlockDevice => b'4',
            Self::Dir => b'5',
            Self::Fifo => b'6',
        }
    }
}

/// A field by offset and length.
#[derive(Clone, Copy)]
pub(crate) struct Field(pub usize, pub usize);

pub(crate) const NAME: Field = Field(0, 100);
pub(crate) const MODE: Field = Field(100, 8);
pub(crate) const UID: Field = Field(108, 8);
pub(crate) const GID: Field = Field(116, 8);
pub(crate) const SIZE: Field = Field(124, 12);
pub(crate) const MTIME: Field = Field(136, 12);
pub(crate) const CHECKSUM: Field = Field(148, 8);
pub(crate) const FLAG: usize = 156;
pub(crate) const LINK: Field = Field(157, 100);
pub(crate) const MAGIC: Field = Field(257, 8);
pub(crate) const MAJOR: Field = Field(329, 8);
pub(crate) const MINOR: Field = Field(337, 8);
pub(crate) const PREFIX: Field = Field(345, 155);
/// GNU sparse: four pairs of offset and length, a flag that more follow in blocks of their own, the file's real size.
pub(crate) const SPARSE: usize = 386;
pub(crate) const SPARSE_EXTENDED: usize = 482;
pub(crate) const REAL_SIZE: Field = Field(483, 12);

pub(crate) const USTAR: &[u8; 8] = b"ustar\x0000";
pub(crate) const GNU: &[u8; 8] = b"ustar  \0";

/// A header block whose checksum is right.
pub(crate) struct Block<'b>(&'b [u8; BLOCK]);

impl<'b> Block<'b> {
    /// Checks the sum, which old writers computed over signed bytes.
    pub(crate) fn checked(block: &'b [u8; BLOCK]) -> Result<Self, &'static str> {
        let stated = number(&block[CHECKSUM.0..][..CHECKSUM.1]).ok_or("the checksum is no number")?;
        let (mut unsigned, mut signed) = (0_i64, 0_i64);
        for (index, byte) in block.iter().enumerate() {
            let byte = if (CHECKSUM.0..CHECKSUM.0 + CHECKSUM.1).contains(&index) { b' ' } else { *byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte as i8);
        }
        if stated == unsigned || stated == signed { Ok(Self(block)) } else { Err("the header's checksum is wrong") }
    }

    pub(crate) fn flag(&self) -> u8 {
        self.0[FLAG]
    }

    pub(crate) fn bytes(&self, field: Field) -> &'b [u8] {
        &self.0[field.0..][..field.1]
    }

    /// A text field up to its NUL.
    pub(crate) fn text(&self, field: Field) -> &'b [u8] {
        until_nul(self.bytes(field))
    }

    /// A numeric field; an empty one is 0.
    pub(crate) fn number(&self, field: Field, what: &'static str) -> Result<i64, String> {
        number(self.bytes(field)).ok_or_else(|| format!("the {what} is no number"))
    }

    /// The name with ustar's prefix; other formats use the prefix's bytes for other things.
    pub(crate) fn name(&self) -> Vec<u8> {
        let name = self.text(NAME);
        let prefix = if self.bytes(MAGIC) == USTAR { self.text(PREFIX) } else { b"" };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(crate) fn has_devices(&self) -> bool {
        matches!(self.bytes(MAGIC), m if m == USTAR || m == GNU)
    }
}

pub(crate) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|b| *b == 0).next().unwrap_or_default()
}

/// Octal digits between blanks, or base-256 in two's complement when the first bit is set (GNU, star).
pub(crate) fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (index, byte) in field.iter().enumerate() {
            // The marker bit is no digit: it takes the sign's value.
            let byte = match (index, negative) {
                (0, true) => *byte | 0x80,
                (0, false) => *byte & 0x7f,
                _ => *byte,
            };
            value = (value << 8) | i128::from(byte);
            if i64::try_from(value).is_err() {
                return None;
            }
        }
        return i64::try_from(value).ok();
    }
    let text = field.trim_ascii_start();
    let end = text.iter().position(|b| matches!(b, 0 | b' ')).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    if !rest.iter().all(|b| matches!(b, 0 | b' ')) {
        return None;
    }
    digits.iter().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_in_all_their_spellings() {
        for (field, expected) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"  644 \0\0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"77777777", Some(0o77_777_777)),
            (b"\x80\0\0\0\0\0\0\x01", Some(1)),
            (b"\x80\0\0\0\x02\0\0\0\0", Some(0x2_0000_0000)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"00088\0\0\0", None),
            (b"12 34\0\0\0", None),
            (b"-1\0", None),
        ] {
            assert_eq!(number(field), expected, "{field:?}");
        }
    }
}
