//! Java: the coordinates that Maven writes into archives, what manifests say of others, and what Gradle locks.

use super::{add, text};
use crate::{
    Package, PackageUrl,
    files::{ReadAt, exactly},
    scan::Scanner,
};
use std::io::{self, Read as _};

/// Largest list of entries, in bytes.
const DIRECTORY: u64 = 64 << 20;
/// Largest `pom.properties` or manifest, in bytes.
const PROPERTIES: u64 = 1 << 20;
/// The end of an archive is at most so far from the end of the file.
const TAIL: u64 = 65_535 + 22;
/// Archives within archives within archives, such as a web application in an enterprise one.
const DEPTH: usize = 3;
/// Most archives within one.
const INNER: usize = 10_000;

/// `gradle.lockfile`: lines `group:artifact:version=configurations`.
pub fn lock(scanner: &mut Scanner, path: &str) {
    let Some(lock) = text(scanner, path) else { return };
    for line in lock.lines().filter(|line| !line.starts_with('#')) {
        let coordinates = line.split('=').next().unwrap_or_default();
        if let [group, artifact, version] = coordinates.split(':').collect::<Vec<_>>()[..] {
            add(scanner, path, "maven", &format!("{group}/{artifact}"), version);
        }
    }
}

/// The packages of an archive, and of the archives in it that lie there as they are, as programs carry their libraries.
pub fn archive(scanner: &mut Scanner, path: &str) {
    let Some(file) = scanner.open(path) else { return };
    let name = path.rsplit('/').next().unwrap_or(path);
    let mut left = INNER;
    match coordinates(file.as_ref(), name, DEPTH, &mut left) {
        Ok(all) => {
            for (group, artifact, version) in all {
                let url = PackageUrl::new("maven", &group, &artifact, &version);
                scanner.add(Package::new(url), [path.to_owned()]);
            }
        }
        Err(error) => scanner.note(path, error),
    }
}

/// Group, artifact, version.
type Coordinates = (String, String, String);

fn coordinates(file: &dyn ReadAt, name: &str, depth: usize, left: &mut usize) -> io::Result<Vec<Coordinates>> {
    let (mut found, mut manifest, mut inner) = (Vec::new(), None, Vec::new());
    for entry in entries(file)? {
        if entry.name.starts_with(b"META-INF/maven/") && entry.name.ends_with(b"/pom.properties") {
            let text = String::from_utf8_lossy(&entry.read(file)?).into_owned();
            let field = |key: &str| text.lines().find_map(|l| l.trim().strip_prefix(key)?.strip_prefix('='));
            if let (Some(group), Some(artifact), Some(version)) =
                (field("groupId"), field("artifactId"), field("version"))
            {
                found.push([group, artifact, version].map(|part| part.trim().to_owned()).into());
            }
        } else if entry.name == b"META-INF/MANIFEST.MF" {
            manifest = Some(String::from_utf8_lossy(&entry.read(file)?).into_owned());
        } else if depth > 0 && entry.method == STORED && is_archive(&entry.name) {
            inner.push(entry);
        }
    }
    if found.is_empty() {
        found.extend(manifest.and_then(|text| described(&text, name)));
    }
    for entry in inner {
        *left = left.checked_sub(1).ok_or_else(damaged)?;
        let start = entry.content(file)?;
        let name = String::from_utf8_lossy(entry.name.rsplit(|b| *b == b'/').next().unwrap_or_default()).into_owned();
        // One that is damaged takes nothing from the others.
        let part = Part { file, start, length: entry.packed };
        found.extend(coordinates(&part, &name, depth - 1, left).unwrap_or_default());
    }
    Ok(found)
}

fn is_archive(name: &[u8]) -> bool {
    [&b".jar"[..], b".war"].iter().any(|end| name.ends_with(end))
}

/// What a manifest says, when it says a version. The artifact is the file's name without that.
fn described(manifest: &str, name: &str) -> Option<Coordinates> {
    // Lines end after 72 bytes and go on behind a space.
    let whole = manifest.replace("\r\n", "\n").replace("\n ", "");
    let main = whole.split("\n\n").next().unwrap_or_default();
    let field = |key: &str| {
        let value = main.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'))?.trim();
        (!value.is_empty() && value.len() < 200).then_some(value)
    };
    let version = field("Implementation-Version").or_else(|| field("Bundle-Version"))?;
    let plain =
        |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.+".contains(&b));
    let symbolic = field("Bundle-SymbolicName").map(|name| name.split(';').next().unwrap_or_default().trim());
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let artifact = stem.strip_suffix(version).map_or(stem, |rest| rest.trim_end_matches('-'));
    let group = field("Implementation-Vendor-Id").filter(|id| plain(id));
    let group = group.or_else(|| symbolic.and_then(|name| Some(name.rsplit_once('.')?.0)).filter(|name| plain(name)));
    (plain(version) && plain(artifact))
        .then(|| (group.unwrap_or(artifact).to_owned(), artifact.to_owned(), version.to_owned()))
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "damaged archive")
}

/// A part of a file, as a file.
struct Part<'a> {
    file: &'a dyn ReadAt,
    start: u64,
    length: u64,
}

impl ReadAt for Part<'_> {
    fn size(&self) -> io::Result<u64> {
        Ok(self.length.min(self.file.size()?.saturating_sub(self.start)))
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = usize::try_from(self.length.saturating_sub(offset)).unwrap_or(usize::MAX);
        let most = buffer.len().min(left);
        self.file.read_at(&mut buffer[..most], self.start + offset)
    }
}

/// Methods of compression.
const STORED: u32 = 0;
const DEFLATED: u32 = 8;

/// An entry of an archive.
struct Entry {
    name: Vec<u8>,
    method: u32,
    /// Bytes that it takes in the archive.
    packed: u64,
    /// Where its header is.
    start: u64,
}

fn entries(file: &dyn ReadAt) -> io::Result<Vec<Entry>> {
    let size = file.size()?;
    let tail = exactly(file, size.saturating_sub(TAIL), size.min(TAIL) as usize)?;
    let end = tail.windows(4).rposition(|w| w == b"PK\x05\x06").ok_or_else(damaged)?;
    let length = u64::from(number(&tail, end + 12, 4)?);
    let start = u64::from(number(&tail, end + 16, 4)?);
    if length > DIRECTORY {
        return Err(damaged());
    }
    // A program may stand in front, which places in the archive do not count.
    let end = size.saturating_sub(TAIL) + end as u64;
    let real = end.checked_sub(length).ok_or_else(damaged)?;
    let front = real.checked_sub(start).ok_or_else(damaged)?;
    let directory = exactly(file, real, length as usize)?;
    let mut out = Vec::new();
    let mut at = 0;
    while directory.get(at..at + 4) == Some(b"PK\x01\x02") {
        let name = number(&directory, at + 28, 2)? as usize;
        let more = number(&directory, at + 30, 2)? as usize + number(&directory, at + 32, 2)? as usize;
        let found = directory.get(at + 46..at + 46 + name).ok_or_else(damaged)?;
        let wanted = found.starts_with(b"META-INF/") || is_archive(found);
        if wanted {
            out.push(Entry {
                name: found.to_vec(),
                method: number(&directory, at + 10, 2)?,
                packed: u64::from(number(&directory, at + 20, 4)?),
                start: front + u64::from(number(&directory, at + 42, 4)?),
            });
        }
        at += 46 + name + more;
    }
    Ok(out)
}

impl Entry {
    /// Where its content begins.
    fn content(&self, file: &dyn ReadAt) -> io::Result<u64> {
        let head = exactly(file, self.start, 30)?;
        Ok(self.start + 30 + u64::from(number(&head, 26, 2)? + number(&head, 28, 2)?))
    }

    /// The content of a small one.
    fn read(&self, file: &dyn ReadAt) -> io::Result<Vec<u8>> {
        if self.packed > PROPERTIES {
            return Err(damaged());
        }
        let content = exactly(file, self.content(file)?, self.packed as usize)?;
        match self.method {
            STORED => Ok(content),
            DEFLATED => {
                let mut out = Vec::new();
                flate2::read::DeflateDecoder::new(content.as_slice()).take(PROPERTIES).read_to_end(&mut out)?;
                Ok(out)
            }
            _ => Err(damaged()),
        }
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

    /// An archive of these entries, stored.
    fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let (mut out, mut directory) = (Vec::new(), Vec::new());
        for (name, content) in entries {
            let (place, length) = (out.len() as u32, content.len() as u32);
            out.extend(b"PK\x03\x04");
            out.extend([0; 22]);
            out.extend((name.len() as u16).to_le_bytes());
            out.extend([0; 2]);
            out.extend(name.bytes().chain(content.iter().copied()));
            directory.extend(b"PK\x01\x02");
            directory.extend([0; 16]);
            directory.extend([length, length].iter().flat_map(|n| n.to_le_bytes()));
            directory.extend((name.len() as u16).to_le_bytes());
            directory.extend([0; 12]);
            directory.extend(place.to_le_bytes());
            directory.extend(name.bytes());
        }
        let start = out.len() as u32;
        let length = directory.len() as u32;
        out.extend(directory);
        out.extend(b"PK\x05\x06");
        out.extend([0; 8]);
        out.extend(length.to_le_bytes());
        out.extend(start.to_le_bytes());
        out.extend([0; 2]);
        out
    }

    #[test]
    fn archives() {
        let text = b"#Generated\ngroupId=org.slf4j\nartifactId=slf4j-api\nversion=2.0.12\n";
        let jar = archive(&[("META-INF/maven/org.slf4j/slf4j-api/pom.properties", text)]);
        let manifest = b"Manifest-Version: 1.0\r\nBundle-SymbolicName: org.apache.commons.la\r\n ng3;x=y\r\n\
                         Bundle-Version: 3.14.0\r\n\r\nName: x\r\nImplementation-Version: 9\r\n";
        let older = archive(&[("META-INF/MANIFEST.MF", manifest)]);
        let nameless = archive(&[("META-INF/MANIFEST.MF", b"Manifest-Version: 1.0\n")]);
        let fat = archive(&[
            (
                "META-INF/MANIFEST.MF",
                b"Implementation-Title: app\nImplementation-Version: 1.0\nImplementation-Vendor-Id: org.own\n",
            ),
            ("BOOT-INF/lib/slf4j-api-2.0.12.jar", &jar),
            ("BOOT-INF/lib/commons-lang3-3.14.0.jar", &older),
            ("BOOT-INF/lib/damaged.jar", &jar[..40]),
        ]);
        let launched = [b"#!/bin/sh\nexec java -jar $0\n", fat.as_slice()].concat();
        let found = check_bytes([
            ("app/slf4j.jar", jar.as_slice()),
            ("app/bad.jar", &jar[..40]),
            ("app/nameless.jar", &nameless),
            ("opt/app-1.0.jar", &launched),
        ]);
        insta::assert_snapshot!(found, @"
        pkg:maven/org.apache.commons/commons-lang3@3.14.0 /opt/app-1.0.jar
        pkg:maven/org.own/app@1.0 /opt/app-1.0.jar
        pkg:maven/org.slf4j/slf4j-api@2.0.12 /app/slf4j.jar /opt/app-1.0.jar
        ! /app/bad.jar: damaged archive
        ");
    }

    #[test]
    fn what_gradle_locks() {
        let lock = b"# This is a Gradle generated file\ncom.google.guava:guava:33.0.0-jre=compileClasspath,runtimeClasspath\nempty=\n";
        insta::assert_snapshot!(check_bytes([("gradle.lockfile", &lock[..])]), @"pkg:maven/com.google.guava/guava@33.0.0-jre /gradle.lockfile");
    }
}
