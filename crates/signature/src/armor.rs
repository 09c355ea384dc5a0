//! OpenPGP's armour: base64 between `-----BEGIN …-----` and `-----END …-----` (RFC 4880, section 6.2).

use base64::{Engine as _, engine::general_purpose::STANDARD};

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

/// One block of armour.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// The words after `BEGIN`.
    pub kind: String,
    /// What it holds; `None` when that is no base64.
    pub body: Option<Vec<u8>>,
}

/// The blocks in a text, in their order. Text around them is passed over, checksums are (CRC-24 proves nothing).
pub(crate) fn blocks(text: &[u8]) -> Vec<Block> {
    let text = String::from_utf8_lossy(text);
    let mut lines = text.lines().map(str::trim);
    let mut found = Vec::new();
    'blocks: while let Some(line) = lines.next() {
        let Some(kind) = line.strip_prefix(BEGIN).and_then(|l| l.strip_suffix(DASHES)).filter(|k| !k.is_empty()) else {
            continue;
        };
        // Headers end with an empty line; anything else than `Name: value` before it makes this no block.
        for header in lines.by_ref() {
            if header.is_empty() {
                break;
            }
            if !header.contains(':') {
                continue 'blocks;
            }
        }
        let mut body = String::new();
        for line in lines.by_ref() {
            if line.starts_with(END) {
                break;
            }
            let is_checksum = line.len() == 5 && line.starts_with('=');
            if !is_checksum {
                body.push_str(line);
            }
        }
        found.push(Block { kind: kind.to_owned(), body: STANDARD.decode(body).ok() });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn armour_is_found_among_other_text() {
        let show = |text: &str| {
            let of = |b: Block| format!("{}={:?}", b.kind, b.body.map(|b| String::from_utf8(b).unwrap()));
            blocks(text.as_bytes()).into_iter().map(of).collect::<Vec<_>>().join(" ")
        };
        for (text, expected) in [
            ("", ""),
            ("-----BEGIN A-----\n\nYQ==\n=abcd\n-----END A-----\n", r#"A=Some("a")"#),
            ("x\r\n-----BEGIN A B-----\r\nVersion: 1\r\n\r\nYW\r\nI=\r\n-----END A B-----\r\ny", r#"A B=Some("ab")"#),
            (
                "-----BEGIN A-----\n\nYQ==\n-----END A-----\n-----BEGIN B-----\n\nYg==\n-----END B-----",
                r#"A=Some("a") B=Some("b")"#,
            ),
            ("-----BEGIN A-----\nno header\n\nYQ==\n-----END A-----\n", ""),
            ("-----BEGIN A-----\n\n!!!\n-----END A-----\n", "A=None"),
            ("-----BEGIN A-----\n\nYQ==", r#"A=Some("a")"#),
        ] {
            assert_eq!(show(text), expected, "{text:?}");
        }
    }
}
