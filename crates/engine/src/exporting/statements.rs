//! Statements on their way out: bundles taken apart, contents read, subjects filled in.

use crate::{
    build_error::BuildError,
    gateway::{
        attestation::{Attestation, Content, Kind, Subject, keys},
        bridge::{DirQuery, Ref},
    },
};
use bytes::Bytes;
use cooper_attest::{PREDICATE_PROVENANCE_PREFIX, Statement, digest_map};
use cooper_export::assemble::{Attest, Statement as Exported};
use cooper_oci::{Descriptor, Digest, Platform};

/// Largest predicate, in bytes.
const MAX_STATEMENT: u64 = 40 << 20;

/// A statement that waits for its subjects.
#[derive(Debug, Clone)]
pub struct Loose {
    /// Names it in file trees.
    pub path: String,
    /// What it is about, beside or in place of the result.
    pub subjects: Vec<Subject>,
    /// The type of its predicate.
    pub predicate_type: String,
    /// The name of the statement of its bundle that is about the result itself.
    pub core: Option<Vec<u8>>,
    /// The predicate.
    pub predicate: Bytes,
}

/// Reads what is attested of a result. The statements about the result's own content come first.
pub async fn load(attestations: &[Attestation]) -> Result<Vec<Loose>, BuildError> {
    let mut out = Vec::new();
    for attestation in attestations {
        match attestation.kind {
            Kind::InToto => out.push(single(attestation).await?),
            Kind::Bundle => bundle(attestation, &mut out).await?,
        }
    }
    out.sort_by_key(|loose| !loose.is_core());
    Ok(out)
}

async fn single(attestation: &Attestation) -> Result<Loose, BuildError> {
    if attestation.path.is_empty() {
        return Err(BuildError::refused("attestation does not have set path"));
    }
    let own = matches!(attestation.content, Content::Late(_));
    if attestation.predicate_type.starts_with(PREDICATE_PROVENANCE_PREFIX) && !own {
        return Err(BuildError::refused("frontend may not set provenance attestations"));
    }
    let predicate = match &attestation.content {
        Content::Missing => return Err(BuildError::refused("attestation does not have available content")),
        Content::Bytes(bytes) => bytes.clone(),
        Content::Late(predicate) => predicate.json().await?,
        Content::File(tree) => {
            let read = tree.read_whole(&attestation.path, MAX_STATEMENT).await;
            read.map_err(|e| e.context("cannot read in-toto attestation"))?.into()
        }
    };
    Ok(Loose {
        path: attestation.path.clone(),
        subjects: attestation.subjects.clone(),
        predicate_type: attestation.predicate_type.clone(),
        core: attestation.metadata.get(keys::SBOM_CORE).cloned(),
        predicate,
    })
}

async fn bundle(attestation: &Attestation, out: &mut Vec<Loose>) -> Result<(), BuildError> {
    let tree = match &attestation.content {
        Content::File(tree) => tree,
        Content::Missing => return Err(BuildError::refused("attestation does not have available content")),
        _ => return Err(BuildError::refused("attestation bundle must be a directory of a result")),
    };
    let dir = attestation.path.trim_end_matches('/');
    let entries = tree.read_dir(DirQuery { path: format!("{dir}/"), ..DirQuery::default() }).await?;
    for entry in entries {
        let path = if dir.is_empty() { entry.path } else { format!("{dir}/{}", entry.path) };
        out.push(bundled(attestation, tree, path).await?);
    }
    Ok(())
}

async fn bundled(attestation: &Attestation, tree: &Ref, path: String) -> Result<Loose, BuildError> {
    let bytes = tree.read_whole(&path, MAX_STATEMENT).await?;
    let statement = Statement::parse(&bytes).map_err(|e| BuildError::refused(format!("{path}: {e}")))?;
    let wanted = &attestation.predicate_type;
    if !wanted.is_empty() && statement.predicate_type != *wanted {
        return Err(BuildError::refused(format!(
            "bundle entry {} does not match required predicate type {wanted}",
            statement.predicate_type
        )));
    }
    if statement.predicate_type.starts_with(PREDICATE_PROVENANCE_PREFIX) {
        return Err(BuildError::refused("frontend may not bundle provenance attestations"));
    }
    let subject = |subject: cooper_attest::Subject| {
        let parse = |(algorithm, hex): (&String, &String)| format!("{algorithm}:{hex}").parse();
        let digests: Result<Vec<Digest>, _> = subject.digest.iter().map(parse).collect();
        let digests = digests.map_err(|e: cooper_oci::DigestError| BuildError::refused(format!("{path}: {e}")))?;
        Ok(Subject::Raw { name: subject.name, digests })
    };
    Ok(Loose {
        subjects: statement.subject.into_iter().map(subject).collect::<Result<_, BuildError>>()?,
        predicate_type: statement.predicate_type,
        core: attestation.metadata.get(keys::SBOM_CORE).cloned(),
        predicate: statement.predicate.get().to_owned().into(),
        path,
    })
}

impl Loose {
    /// Whether it is about the content of the result itself, not of what the result was made from.
    pub fn is_core(&self) -> bool {
        let stem = self.path.split('.').next().unwrap_or_default();
        self.core.as_ref().is_some_and(|core| stem.as_bytes() == core.as_slice())
    }

    /// The same by the name of its file alone, wherever that lies.
    pub fn names_core(&self) -> bool {
        let stem = self.file_name().split('.').next().unwrap_or_default();
        self.core.as_ref().is_some_and(|core| stem.as_bytes() == core.as_slice())
    }

    /// The name of its file.
    pub fn file_name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// The statement about a result of these names and digests.
    pub fn statement(&self, result: &[cooper_attest::Subject]) -> Result<Statement, BuildError> {
        let of_result = [Subject::Result(String::new())];
        let mut subjects = Vec::new();
        for subject in if self.subjects.is_empty() { &of_result } else { self.subjects.as_slice() } {
            match subject {
                Subject::Result(name) => {
                    for known in result {
                        subjects.push(known.clone());
                        if !name.is_empty() && name != "_" {
                            subjects.push(cooper_attest::Subject { name: name.clone(), ..known.clone() });
                        }
                    }
                }
                Subject::Raw { name, digests } => subjects.push(cooper_attest::Subject {
                    name: if name.is_empty() { "_".to_owned() } else { name.clone() },
                    digest: digest_map(digests),
                }),
            }
        }
        Statement::new(&self.predicate_type, subjects, &self.predicate).map_err(|e| BuildError::refused(e.to_string()))
    }
}

/// What is attested of an image, once its manifest is known.
#[derive(Debug)]
pub struct OfImage {
    statements: Vec<Loose>,
    /// Package URLs of the image.
    names: Vec<String>,
}

impl OfImage {
    /// Statements about the image of these names for `platform`. Fails when one of them can be no statement.
    pub fn new(statements: Vec<Loose>, names: &[String], platform: &Platform) -> Result<Self, BuildError> {
        for loose in &statements {
            loose.statement(&[]).map_err(|e| e.context(&loose.path))?;
        }
        let url = |name: &String| {
            let url = cooper_attest::image_purl(cooper_attest::PurlType::Docker, name, Some(platform), &[]);
            url.map_err(|e| BuildError::refused(e.to_string()))
        };
        Ok(Self { statements, names: names.iter().map(url).collect::<Result<_, _>>()? })
    }
}

impl Attest for OfImage {
    fn statements(&self, manifest: &Descriptor) -> Vec<Exported> {
        let digest = digest_map([&manifest.digest]);
        let subjects: Vec<_> = self
            .names
            .iter()
            .map(|name| cooper_attest::Subject { name: name.clone(), digest: digest.clone() })
            .collect();
        let statements = self.statements.iter().filter_map(|loose| loose.statement(&subjects).ok());
        statements.map(|s| Exported { json: s.compact(), predicate_type: s.predicate_type }).collect()
    }
}
