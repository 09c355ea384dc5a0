//! A certificate that a test's servers show, and trust themselves by.

use std::fs;
use std::path::{Path, PathBuf};

/// PEM files of a certificate that signed itself, for `localhost` and 127.0.0.1.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The certificate, and the authority that it is signed by.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Certificate {
    /// Makes one in a directory.
    pub fn make(dir: &Path) -> Self {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).expect("certificate");
        let files = Self { cert: dir.join("tls.crt"), key: dir.join("tls.key") };
        fs::write(&files.cert, made.cert.pem()).expect("certificate");
        fs::write(&files.key, made.signing_key.serialize_pem()).expect("certificate");
        files
    }
}
