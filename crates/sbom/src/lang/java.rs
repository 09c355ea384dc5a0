//! Java: the coordinates that Maven writes into archives.

use crate::{
    Package, PackageUrl,
    files::{ReadAt, exactly},
    scan::Scanner,
};
use std::io::{self, Read as _};

/// Largest list of entries, in bytes.
const DIRECTORY: u64 = 64 << 20;
/// Largest `pom.properties`, in bytes.
const PROPERTIES: u64 = 1 << 20;
/// The end of an archive is at most so far from the end of the file.
const TAIL: u64 = 65_535 + 22;

/// Every `pom.properties` of an archive. Archives within archives are not opened.
pub fn archive(scanner: &mut Scanner, path: &str) {
    let Some(file) = scanner.open(path) else { return };
    match properties(file.as_ref()) {
        Ok(all) => {
            for text in all {
                let field = |key: &str| text.lines().find_map(|l| l.trim().strip_prefix(key)?.strip_prefix('='));
                if let (Some(group), Some(artifact), Some(version)) =
                    (field("groupId"), field("artifactId"), field("version"))
                {
                    let url = PackageUrl::new("maven", group.trim(), artifact.trim(), version.trim());
                    scanner.add(Package::new(url), [path.to_owned()]);
                }
            }
        }
        Err(error) => scanner.note(path, error),
    }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "damaged archive")
}

fn properties(file: &dyn ReadAt) -> io::Result<Vec<String>> {
    let size = file.size()?;
    let tail = exactly(file, size.saturating_sub(TAIL), size.min(TAIL) as usize)?;
    let end = tail.windows(4).rposition(|w| w == b"PK\x05\x06").ok_or_else(damaged)?;
    let length = u64::from(number(&tail, end + 12, 4)?);
    let start = u64::from(number(&tail, end + 16, 4)?);
    if length > DIRECTORY {
        return Err(damaged());
    }
    let directory = exactly(file, start, length as usize)?;
    let mut out = Vec::new();
    let mut at = 0;
    while directory.get(at..at + 4) == Some(b"PK\x01\x02") {
        let name = number(&directory, at + 28, 2)? as usize;
        let more = number(&directory, at + 30, 2)? as usize + number(&directory, at + 32, 2)? as usize;
        let found = directory.get(at + 46..at + 46 + name).ok_or_else(damaged)?;
        if found.starts_with(b"META-INF/maven/") && found.ends_with(b"/pom.properties") {
            out.push(String::from_utf8_lossy(&entry(file, &directory[at..])?).into_owned());
        }
        at += 46 + name + more;
    }
    Ok(out)
}

/// The content of an entry of the directory.
fn entry(file: &dyn ReadAt, record: &[u8]) -> io::Result<Vec<u8>> {
    let method = number(record, 10, 2)?;
    let packed = u64::from(number(record, 20, 4)?);
    let start = u64::from(number(record, 42, 4)?);
    if packed > PROPERTIES {
        return Err(damaged());
    }
    let head = exactly(file, start, 30)?;
    let skip = u64::from(number(&head, 26, 2)? + number(&head, 28, 2)?);
    let content = exactly(file, start + 30 + skip, packed as usize)?;
    match method {
        0 => Ok(content),
        8 => {
            let mut out = Vec::new();
            flate2::read::DeflateDecoder::new(content.as_slice()).take(PROPERTIES).read_to_end(&mut out)?;
            Ok(out)
        }
        _ => Err(damaged()),
    }
}

/// A number of two or four bytes.
fn number(bytes: &[u8], at: usize, length: usize) -> io::Result<u32> {
    let found = bytes.get(at..at + length).ok_or_else(damaged)?;
    Ok(found.iter().rev().fold(0, |n, b| (n << 8) | u32::from(*b)))
}

#[cfg(test)]
mod tests {
    use crate::scan::tests::check_bytes;

    /// An archive of one entry, stored.
    fn archive(name: &str, content: &str) -> Vec<u8> {
        let mut out = b"PK\x03\x04".to_vec();
        out.extend([0; 22]);
        out.extend((name.len() as u16).to_le_bytes());
        out.extend([0; 2]);
        out.extend(name.bytes().chain(content.bytes()));
        let start = out.len() as u32;
        out.extend(b"PK\x01\x02");
        out.extend([0; 16]);
        out.extend((content.len() as u32).to_le_bytes());
        out.extend((content.len() as u32).to_le_bytes());
        out.extend((name.len() as u16).to_le_bytes());
        out.extend([0; 16]);
        out.extend(name.bytes());
        let length = out.len() as u32 - start;
        out.extend(b"PK\x05\x06");
        out.extend([0; 8]);
        out.extend(length.to_le_bytes());
        out.extend(start.to_le_bytes());
        out.extend([0; 2]);
        out
    }

    #[test]
    fn coordinates() {
        let text = "#Generated\ngroupId=org.slf4j\nartifactId=slf4j-api\nversion=2.0.12\n";
        let jar = archive("META-INF/maven/org.slf4j/slf4j-api/pom.properties", text);
        let found = check_bytes([("app/slf4j.jar", jar.as_slice()), ("app/bad.jar", &jar[..40])]);
        insta::assert_snapshot!(found, @"
        pkg:maven/org.slf4j/slf4j-api@2.0.12 /app/slf4j.jar
        ! /app/bad.jar: damaged archive
        ");
    }
}
