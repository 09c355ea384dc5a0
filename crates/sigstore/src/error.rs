//! Why something is not trusted.

/// A trusted root that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// Not of the format.
    #[error("it is no sigstore trusted root (application/vnd.dev.sigstore.trustedroot+json)")]
    Format(#[source] serde_json::Error),
    /// A key or certificate that cannot be read.
    #[error("{what} {name:?} cannot be read")]
    Unreadable {
        /// What it belongs to.
        what: &'static str,
        /// Where that is.
        name: String,
    },
    /// Nothing could ever be verified with it.
    #[error("it has no {0}")]
    Missing(&'static str),
}

/// A signature that does not count.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Not of the format.
    #[error("it is no sigstore bundle")]
    Format(#[source] serde_json::Error),
    /// A version of the format that nobody here knows.
    #[error("bundles of type {0:?} are not known")]
    MediaType(String),
    /// A part that the format demands.
    #[error("the bundle has no {0}")]
    Missing(&'static str),
    /// A part that cannot be read.
    #[error("{0} of the bundle cannot be read")]
    Unreadable(&'static str),
    /// Somebody tries to cost time, or to be counted twice.
    #[error("the bundle has {0}")]
    Excess(&'static str),
    /// An entry of a log that says something else than the bundle.
    #[error("the entry of the transparency log does not fit: {0}")]
    Entry(&'static str),
    /// An entry that the log cannot be shown to have.
    #[error("the transparency log is not shown to have the entry: {0}")]
    Inclusion(&'static str),
    /// Nobody who is trusted has logged the signature.
    #[error("not enough verified log entries from transparency log: 0 < 1 ({0})")]
    NotLogged(String),
    /// Nobody who is trusted knows when it was.
    #[error("no valid observer timestamps found{0}")]
    NoTime(String),
    /// Nobody who is trusted has issued the certificate.
    #[error("failed to verify leaf certificate at {time}: {reasons}")]
    Certificate {
        /// When the signature was made, RFC 3339.
        time: String,
        /// What each authority has against it.
        reasons: String,
    },
    /// The certificate's issuing was not logged.
    #[error("failed to verify signed certificate timestamp: {0}")]
    CertificateLog(&'static str),
    /// The certificate names nobody.
    #[error("no Subject Alternative Name found in the certificate, or its extensions cannot be read")]
    Nameless,
    /// The signature is not the key's.
    #[error("the signature is not that of the certificate's key")]
    Signature,
    /// It is a signature of something else.
    #[error("the signature is of another document")]
    OtherDocument,
}

/// A good signature that the policy does not take.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PolicyError {
    /// Too few witnesses of the time.
    #[error("not enough timestamp authorities: have {have}, need {need}")]
    Timestamps {
        /// Those that were verified.
        have: usize,
        /// Those that are wanted.
        need: usize,
    },
    /// Too few logs.
    #[error("not enough tlog authorities: have {have}, need {need}")]
    Logs {
        /// Those that were verified.
        have: usize,
        /// Those that are wanted.
        need: usize,
    },
    /// Somebody else signed.
    #[error("certificate field {field:?} does not match policy ({have:?} != {want:?})")]
    Field {
        /// Its name.
        field: &'static str,
        /// What the certificate says.
        have: String,
        /// The pattern.
        want: String,
    },
}
