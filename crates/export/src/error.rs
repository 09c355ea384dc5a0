//! Why an export failed.

use std::path::PathBuf;

/// The result of an export.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an export failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An exporter attribute that is no boolean.
    #[error("non-bool value {value:?} specified for {key}")]
    NotBool {
        /// The attribute.
        key: String,
        /// Its value.
        value: String,
    },
    /// An exporter attribute that is no number, or out of range.
    #[error("invalid {key} {value:?}: expected {expected}")]
    Attribute {
        /// The attribute.
        key: String,
        /// Its value.
        value: String,
        /// What it takes.
        expected: &'static str,
    },
    /// Two attributes that exclude each other.
    #[error("exporter option \"{0}\" conflicts with \"{1}\"")]
    Conflict(String, &'static str),
    /// An annotation of an unknown level.
    #[error("unrecognized annotation type {0}")]
    AnnotationType(String),
    /// An annotation for a platform that the result does not have.
    #[error("invalid annotation: no platform {0} found in source")]
    AnnotationPlatform(String),
    /// A platform that cannot be read.
    #[error(transparent)]
    Platform(#[from] cooper_oci::PlatformError),
    /// Something that the chosen image format cannot hold.
    #[error("cannot export {0} with \"oci-mediatypes=false\"")]
    NeedsOci(&'static str),
    /// Annotations of an index where there is none.
    #[error("index annotations not supported for single platform export")]
    NoIndex,
    /// The result's platforms are malformed.
    #[error("{0}")]
    Platforms(String),
    /// The image config of a frontend is malformed.
    #[error("invalid image config for export: {0}")]
    Config(String),
    /// The image config of a frontend names an operating system or an architecture, and not the other.
    #[error("invalid image config: os and architecture must be specified together")]
    HalfPlatform,
    /// The image config of a frontend is `null`.
    #[error("invalid null image config for export")]
    NullConfig,
    /// `source-date-epoch` is malformed.
    #[error("invalid SOURCE_DATE_EPOCH {0:?}: expected seconds since 1970")]
    Epoch(String),
    /// An image name that is none.
    #[error("failed to parse {name}")]
    Name {
        /// The name.
        name: String,
        /// Why.
        #[source]
        source: cooper_oci::ReferenceError,
    },
    /// A tagged name with `push-by-digest`.
    #[error("can't push tagged ref {0} by digest")]
    TaggedByDigest(String),
    /// The docker archive holds one image.
    #[error("docker exporter does not currently support exporting manifest lists")]
    DockerIndex,
    /// Two platforms have a file at the same path.
    #[error("cannot overwrite {path} from {first} with {second} when split option is disabled")]
    Duplicate {
        /// The path.
        path: String,
        /// The platform that has it.
        first: String,
        /// The platform that has it too.
        second: String,
    },
    /// A document cannot be read back.
    #[error("malformed document {digest}")]
    Document {
        /// Which.
        digest: cooper_oci::Digest,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A blob ended early or went on.
    #[error("blob {digest} has {actual} bytes instead of {expected}")]
    Size {
        /// Which.
        digest: cooper_oci::Digest,
        /// What its descriptor says.
        expected: u64,
        /// What came.
        actual: u64,
    },
    /// A blob cannot be had.
    #[error("cannot read blob {digest}")]
    Blob {
        /// Which.
        digest: cooper_oci::Digest,
        /// Why.
        #[source]
        source: cooper_content::SourceError,
    },
    /// The local content store failed.
    #[error(transparent)]
    Content(#[from] cooper_content::Error),
    /// A registry refused or could not be reached.
    #[error("failed to push {name}")]
    Push {
        /// The image.
        name: String,
        /// Why.
        #[source]
        source: Box<cooper_registry::Error>,
    },
    /// The client failed.
    #[error(transparent)]
    Session(#[from] cooper_session::Error),
    /// The output cannot be written.
    #[error("cannot write the output")]
    Output(#[source] std::io::Error),
    /// A file of the output directory.
    #[error("cannot write {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file of the result cannot be read.
    #[error(transparent)]
    Tree(#[from] cooper_rooted::Error),
}
