//! What is asked for, and what came.

use super::HttpError;
use cooper_content::Store;
use cooper_oci::{Algorithm, Digest, Digester};
use cooper_signature::{Policy, verify_detached};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use std::{collections::BTreeMap, io::Read, path::Path};

/// Mode of a downloaded file that none was asked for.
const DEFAULT_MODE: u32 = 0o600;

/// A file wanted from a URL.
#[derive(Debug, Clone, Default)]
pub struct HttpRequest {
    /// The URL.
    pub url: String,
    /// What the content must be (`http.checksum`).
    pub checksum: Option<Digest>,
    /// Its name (`http.filename`).
    pub filename: Option<String>,
    /// Its permission bits (`http.perm`); 0600 by default.
    pub mode: Option<u32>,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Id of a secret with the whole `Authorization` value (`http.authheadersecret`).
    pub auth_header_secret: Option<String>,
    /// Headers by lower-case name (`http.header.*`); others than [`HttpRequest::HEADERS`] are left out.
    pub headers: BTreeMap<String, String>,
    /// The signature that must fit the content. The caller sees to it, see [`HttpFile::verify`].
    pub signature: Option<HttpSignature>,
}

/// A detached signature, and whose it must be (`http.sig.*`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpSignature {
    /// Armoured OpenPGP certificates.
    pub keys: String,
    /// The armoured signature.
    pub signature: String,
}

impl HttpRequest {
    /// The headers that a request may set.
    pub const HEADERS: [&'static str; 2] = ["accept", "user-agent"];

    /// A request for `url` without further wishes.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), ..Self::default() }
    }

    /// The headers to send.
    pub(super) fn allowed_headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let listed = |name: &str| Self::HEADERS.iter().any(|h| h.eq_ignore_ascii_case(name));
        self.headers.iter().filter(move |(name, _)| listed(name)).map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Identity of the request without its checksum: within a build it stands for one file, and what is known of
    /// the last exchange with the server is kept by it.
    pub fn key(&self) -> Digest {
        let mut digester = Digester::default();
        digester.update_field(&self.url);
        digester.update_field(self.filename.as_deref().unwrap_or_default());
        for number in [self.mode.unwrap_or(DEFAULT_MODE), self.uid, self.gid] {
            digester.update_field(number.to_le_bytes());
        }
        digester.update_field(self.auth_header_secret.as_deref().unwrap_or_default());
        for (name, value) in self.allowed_headers() {
            digester.update_field(name.to_ascii_lowercase());
            digester.update_field(value);
        }
        digester.finish()
    }
}

/// A file from a URL. Its content may not be downloaded yet; see [`super::HttpSource::resolve`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpFile {
    /// Digest of the content.
    pub digest: Digest,
    /// Name, without directories.
    pub filename: String,
    /// `Last-Modified` in seconds since 1970, when the server said it.
    pub last_modified: Option<i64>,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl HttpFile {
    pub(super) fn of(request: &HttpRequest, digest: Digest, filename: String, last_modified: Option<&str>) -> Self {
        Self {
            digest,
            filename,
            last_modified: last_modified.and_then(http_date),
            mode: request.mode.unwrap_or(DEFAULT_MODE),
            uid: request.uid,
            gid: request.gid,
        }
    }

    /// Identity of the file with its name, owner, mode and time: the definition of its cache key.
    pub fn cache_key(&self) -> Digest {
        let mut digester = Digester::default();
        digester.update_field(self.digest.as_str());
        digester.update_field(&self.filename);
        digester.update_field(self.last_modified.map(|t| t.to_string()).unwrap_or_default());
        for number in [self.mode, self.uid, self.gid] {
            digester.update_field(number.to_le_bytes());
        }
        digester.finish()
    }

    /// Writes the file into `dir`, which nobody else writes to meanwhile. Blocks. Without `Last-Modified` the file's
    /// time is 1970-01-01.
    pub fn write(&self, store: &Store, dir: &Path) -> Result<(), HttpError> {
        let path = dir.join(&self.filename);
        let fail = |action| {
            let path = path.clone();
            move |e| HttpError::Write { action, path, source: e }
        };
        let blob = store.reader(&self.digest)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600)).map_err(|e| fail("create")(e.into()))?;
        let mut file = std::fs::File::from(file);
        // `io::copy` between files reflinks or copies within the kernel.
        std::io::copy(&mut blob.file(), &mut file).map_err(fail("write"))?;
        rustix::fs::fchown(&file, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))
            .map_err(|e| fail("change the owner of")(e.into()))?;
        // After the owner: changing that clears set-id bits.
        rustix::fs::fchmod(&file, Mode::from_raw_mode(self.mode & 0o7777))
            .map_err(|e| fail("change the mode of")(e.into()))?;
        let time = Timespec { tv_sec: self.last_modified.unwrap_or(0), tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(rustix::fs::CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| fail("set the time of")(e.into()))
    }

    /// Checks a signature of the content, which is in the store. Blocks.
    pub fn verify(&self, store: &Store, signature: &HttpSignature) -> Result<(), HttpError> {
        let mut blob = store.reader(&self.digest)?;
        let (keys, signature) = (signature.keys.as_bytes(), signature.signature.as_bytes());
        verify_detached(&mut blob, signature, keys, Policy::default()).map_err(HttpError::Signature)
    }

    /// Digest of the content followed by `suffix`, by any algorithm: what signature checks hash. Blocks.
    pub fn checksum(&self, store: &Store, algorithm: Algorithm, suffix: &[u8]) -> Result<Digest, HttpError> {
        let mut blob = store.reader(&self.digest)?;
        let mut digester = Digester::new(algorithm);
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let read = blob.read(&mut buffer).map_err(|source| HttpError::Write {
                action: "read",
                path: self.filename.clone().into(),
                source,
            })?;
            if read == 0 {
                break;
            }
            digester.update(&buffer[..read]);
        }
        digester.update(suffix);
        Ok(digester.finish())
    }
}

/// Seconds since 1970 of an HTTP date, in any of the three forms of RFC 9110.
pub(super) fn http_date(text: &str) -> Option<i64> {
    if let Ok(date) = jiff::fmt::rfc2822::parse(text) {
        return Some(date.timestamp().as_second());
    }
    // Zones are GMT by the standard, whatever they are called.
    let (date, _) = text.rsplit_once(' ')?;
    let rfc850 = jiff::civil::DateTime::strptime("%A, %d-%b-%y %H:%M:%S", date);
    let parsed = rfc850.or_else(|_| jiff::civil::DateTime::strptime("%a %b %e %H:%M:%S %Y", text)).ok()?;
    Some(parsed.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::http_date;

    #[test]
    fn dates_come_in_three_forms() {
        for text in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 UTC", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(http_date(text), Some(784_111_777), "{text}");
        }
        assert_eq!(http_date("yesterday"), None);
    }
}
