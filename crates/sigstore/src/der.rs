//! As much of DER (X.690) as certificates and timestamps need: elements with one-byte tags and definite lengths.

/// Universal and context tags, with the bit for constructed elements where they are.
pub(crate) mod tag {
    pub const BOOLEAN: u8 = 0x01;
    pub const INTEGER: u8 = 0x02;
    pub const BIT_STRING: u8 = 0x03;
    pub const OCTET_STRING: u8 = 0x04;
    pub const OID: u8 = 0x06;
    pub const UTF8_STRING: u8 = 0x0c;
    pub const PRINTABLE_STRING: u8 = 0x13;
    pub const T61_STRING: u8 = 0x14;
    pub const IA5_STRING: u8 = 0x16;
    pub const UTC_TIME: u8 = 0x17;
    pub const GENERALIZED_TIME: u8 = 0x18;
    pub const SEQUENCE: u8 = 0x30;
    pub const SET: u8 = 0x31;

    /// A constructed context-specific tag.
    pub const fn context(number: u8) -> u8 {
        0xa0 | number
    }

    /// A primitive context-specific tag.
    pub const fn primitive(number: u8) -> u8 {
        0x80 | number
    }
}

/// An element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Element<'a> {
    pub tag: u8,
    pub content: &'a [u8],
    /// Tag, length and content.
    pub raw: &'a [u8],
}

impl<'a> Element<'a> {
    /// Its elements, for one that is constructed.
    pub fn inside(self) -> Reader<'a> {
        Reader(self.content)
    }

    /// The text of a string.
    pub fn text(self) -> Option<&'a str> {
        let strings = [tag::UTF8_STRING, tag::PRINTABLE_STRING, tag::IA5_STRING, tag::T61_STRING];
        strings.contains(&self.tag).then(|| std::str::from_utf8(self.content).ok())?
    }
}

/// Elements that are left to read. Every method takes from the front, or gives `None`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next element.
    pub fn next(&mut self) -> Option<Element<'a>> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            // Without a length, or longer than anything that is read here.
            _ => return None,
        };
        // Numbers of tags above 30 take more bytes; nothing here has one.
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (content, after) = rest.split_at_checked(length)?;
        let raw = &self.0[..self.0.len() - after.len()];
        self.0 = after;
        Some(Element { tag, content, raw })
    }

    /// The next element, which has this tag.
    pub fn expect(&mut self, tag: u8) -> Option<Element<'a>> {
        self.next().filter(|element| element.tag == tag)
    }

    /// The next element if it has this tag; otherwise it stays.
    pub fn optional(&mut self, tag: u8) -> Option<Element<'a>> {
        if self.0.first() == Some(&tag) { self.next() } else { None }
    }

    /// All that are left.
    pub fn rest(mut self) -> Option<Vec<Element<'a>>> {
        let mut elements = Vec::new();
        while !self.0.is_empty() {
            elements.push(self.next()?);
        }
        Some(elements)
    }
}

/// The only element of `bytes`.
pub(crate) fn single(bytes: &[u8], tag: u8) -> Option<Element<'_>> {
    let mut reader = Reader(bytes);
    reader.expect(tag).filter(|_| reader.0.is_empty())
}

/// An element of this content.
pub(crate) fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        length @ 0..=0x7f => out.push(length as u8),
        length => {
            let bytes = length.to_be_bytes();
            let bytes = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
            out.push(0x80 | bytes.len() as u8);
            out.extend_from_slice(bytes);
        }
    }
    out.extend_from_slice(content);
    out
}

/// Seconds since 1970 of a `UTCTime` or `GeneralizedTime` in UTC (RFC 5280, section 4.1.2.5). Fractions are cut off.
pub(crate) fn time(element: Element<'_>) -> Option<i64> {
    let text = std::str::from_utf8(element.content).ok()?.strip_suffix('Z')?;
    let text = text.split('.').next()?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = match (element.tag, text.len()) {
        (tag::UTC_TIME, 12) => {
            let (year, rest) = text.split_at(2);
            let year: i16 = year.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        (tag::GENERALIZED_TIME, 14) => (text[..4].parse().ok()?, &text[4..]),
        _ => return None,
    };
    let part = |i: usize| rest[i * 2..i * 2 + 2].parse::<i8>().ok();
    let moment = jiff::civil::DateTime::new(year, part(0)?, part(1)?, part(2)?, part(3)?, part(4)?, 0).ok()?;
    Some(moment.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_read_as_they_were_written() {
        for length in [0, 1, 0x7f, 0x80, 0xff, 0x100, 0x1_0000] {
            let content = vec![7; length];
            let raw = element(tag::OCTET_STRING, &content);
            let read = single(&raw, tag::OCTET_STRING).unwrap();
            assert_eq!((read.content, read.raw), (&content[..], &raw[..]), "{length}");
        }
        for broken in [
            &b""[..],
            b"\x04",
            b"\x04\x02a",
            b"\x04\x80a\0\0",
            b"\x04\x85\0\0\0\0\x01a",
            b"\x04\x84\xff\xff\xff\xffa",
            b"\x1f\x01a",
            b"\x04\x01ab",
        ] {
            assert_eq!(single(broken, tag::OCTET_STRING), None, "{broken:x?}");
        }
    }

    #[test]
    fn times_are_seconds() {
        for (tag, text, expected) in [
            (tag::UTC_TIME, "700101000001Z", Some(1)),
            (tag::UTC_TIME, "490101000000Z", Some(2_493_072_000)),
            (tag::GENERALIZED_TIME, "20200102030405Z", Some(1_577_934_245)),
            (tag::GENERALIZED_TIME, "20200102030405.5Z", Some(1_577_934_245)),
            (tag::GENERALIZED_TIME, "20200102030405+0100", None),
            (tag::GENERALIZED_TIME, "20201302030405Z", None),
            (tag::UTC_TIME, "20200102030405Z", None),
            (tag::UTC_TIME, "", None),
        ] {
            let raw = element(tag, text.as_bytes());
            assert_eq!(time(single(&raw, tag).unwrap()), expected, "{text}");
        }
    }
}
