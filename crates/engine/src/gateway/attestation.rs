//! Statements about results: from frontends, from scanners, from the engine itself.
//!
//! Lives here: how a statement travels with a [`BuildResult`](crate::BuildResult), and its protocol form. Exporters
//! read and place them.

use crate::{build_error::BuildError, gateway::bridge::Ref};
use async_trait::async_trait;
use bytes::Bytes;
use cooper_oci::Digest;
use cooper_wire::gateway::{self as wire, AttestationKind, InTotoSubjectKind};
use std::{collections::BTreeMap, fmt, sync::Arc};

/// Keys of [`Attestation::metadata`], and what they say.
pub mod keys {
    /// Why the statement was made: [`SBOM`] or [`PROVENANCE`].
    pub const REASON: &str = "reason";
    /// The name (without extension) of the file in a bundle that describes the result itself.
    pub const SBOM_CORE: &str = "sbom-core";
    /// `true`: the statement is for images alone.
    pub const INLINE_ONLY: &str = "inline-only";
    /// Says what is in the result.
    pub const SBOM: &str = "sbom";
    /// Says how the result was made.
    pub const PROVENANCE: &str = "provenance";
}

/// A statement about a result, or a directory of them.
#[derive(Debug, Clone)]
pub struct Attestation {
    /// What the content is.
    pub kind: Kind,
    /// See [`keys`]; frontends may add their own.
    pub metadata: BTreeMap<String, Vec<u8>>,
    /// Where the content is.
    pub content: Content,
    /// The file in the content's tree, or the directory of a bundle; its last part names the statement in file trees.
    pub path: String,
    /// The type of the predicate; of a bundle: the only type allowed in it, when not empty.
    pub predicate_type: String,
    /// What the statement is about; none: the result.
    pub subjects: Vec<Subject>,
}

/// What the content of an attestation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A predicate.
    InToto,
    /// A directory of whole statements.
    Bundle,
}

/// Where the content of an attestation is.
#[derive(Clone)]
pub enum Content {
    /// Nowhere: exporters refuse such a statement.
    Missing,
    /// A file or directory of a tree.
    File(Ref),
    /// A predicate that is known.
    Bytes(Bytes),
    /// A predicate that is made when it is exported. Only the engine itself makes those.
    Late(Arc<dyn Predicate>),
}

/// A predicate that is made late.
#[async_trait]
pub trait Predicate: Send + Sync {
    /// Its JSON. The same each time.
    async fn json(&self) -> Result<Bytes, BuildError>;
}

/// What a statement is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The result, under its own names and under this one (empty: none).
    Result(String),
    /// Something else.
    Raw {
        /// Its name, which may be empty.
        name: String,
        /// Its digests.
        digests: Vec<Digest>,
    },
}

impl Attestation {
    /// Whether the metadata `key` is `value`.
    pub fn is(&self, key: &str, value: &str) -> bool {
        self.metadata.get(key).is_some_and(|v| v == value.as_bytes())
    }

    /// Whether it is for images alone.
    pub fn inline_only(&self) -> bool {
        self.is(keys::INLINE_ONLY, "true")
    }

    /// The tree with its content.
    pub fn tree(&self) -> Option<&Ref> {
        match &self.content {
            Content::File(r) => Some(r),
            _ => None,
        }
    }

    /// Reads the protocol's form; `find` knows refs by their ids.
    pub(crate) fn from_wire(
        message: wire::Attestation,
        find: impl FnOnce(&str) -> Result<Option<Ref>, BuildError>,
    ) -> Result<Self, BuildError> {
        let kind = match AttestationKind::try_from(message.kind) {
            Ok(AttestationKind::InToto) => Kind::InToto,
            Ok(AttestationKind::Bundle) => Kind::Bundle,
            Err(_) => return Err(BuildError::refused(format!("unknown attestation kind {}", message.kind))),
        };
        let tree = find(message.r#ref.as_ref().map_or("", |r| r.id.as_str()))?;
        let subjects = message.in_toto_subjects.into_iter().map(Subject::from_wire).collect::<Result<_, _>>()?;
        Ok(Self {
            kind,
            metadata: message.metadata,
            content: tree.map_or(Content::Missing, Content::File),
            path: message.path,
            predicate_type: message.in_toto_predicate_type,
            subjects,
        })
    }

    /// The protocol's form; none when its content is no file: the engine's own stay here.
    pub fn to_wire(&self) -> Option<wire::Attestation> {
        let tree = self.tree()?;
        let kind = match self.kind {
            Kind::InToto => AttestationKind::InToto,
            Kind::Bundle => AttestationKind::Bundle,
        };
        Some(wire::Attestation {
            kind: kind as i32,
            metadata: self.metadata.clone(),
            r#ref: Some(wire::Ref { id: tree.id().to_owned(), def: Some(tree.definition().clone()) }),
            path: self.path.clone(),
            in_toto_predicate_type: self.predicate_type.clone(),
            in_toto_subjects: self.subjects.iter().map(Subject::to_wire).collect(),
        })
    }
}

impl Subject {
    fn from_wire(message: wire::InTotoSubject) -> Result<Self, BuildError> {
        match InTotoSubjectKind::try_from(message.kind) {
            Ok(InTotoSubjectKind::Self_) => Ok(Self::Result(message.name)),
            Ok(InTotoSubjectKind::Raw) => {
                let parse = |digest: &String| {
                    let parsed: Result<Digest, _> = digest.parse();
                    parsed.map_err(|e| BuildError::refused(format!("attestation subject {:?}: {e}", message.name)))
                };
                let digests = message.digest.iter().map(parse).collect::<Result<_, _>>()?;
                Ok(Self::Raw { name: message.name, digests })
            }
            Err(_) => Err(BuildError::refused(format!("unknown attestation subject type {}", message.kind))),
        }
    }

    fn to_wire(&self) -> wire::InTotoSubject {
        match self {
            Self::Result(name) => {
                wire::InTotoSubject { kind: InTotoSubjectKind::Self_ as i32, digest: Vec::new(), name: name.clone() }
            }
            Self::Raw { name, digests } => wire::InTotoSubject {
                kind: InTotoSubjectKind::Raw as i32,
                digest: digests.iter().map(ToString::to_string).collect(),
                name: name.clone(),
            },
        }
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("Missing"),
            Self::File(r) => f.debug_tuple("File").field(r).finish(),
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::Late(_) => f.write_str("Late"),
        }
    }
}
