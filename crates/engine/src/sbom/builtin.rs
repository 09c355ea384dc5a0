//! The scanner that is built in: reads results where they are, when they are exported.

use super::{CORE, SbomTarget, metadata};
use crate::{
    build_error::BuildError,
    domain::StepError,
    gateway::{
        attestation::{Attestation, Content, Kind, Predicate},
        bridge::{Bridge, Ref},
    },
    progress::internal_step,
};
use async_trait::async_trait;
use bytes::Bytes;
use cooper_rooted::Root;
use cooper_sbom::{
    Entry, EntryKind, Files, ReadAt, Scan,
    document::{Format, Subject},
};
use std::{collections::BTreeMap, io, sync::Arc};
use tokio::sync::OnceCell;

/// The parameters of the scanner.
#[derive(Debug, Clone)]
pub struct Builtin {
    formats: Vec<Format>,
}

impl Builtin {
    /// Reads `format`: `spdx` (also when none is given), `cyclonedx` or `all`.
    pub fn new(params: &BTreeMap<String, String>) -> Result<Self, BuildError> {
        if let Some(unknown) = params.keys().find(|key| *key != "format") {
            return Err(BuildError::refused(format!(
                "the built-in generator of bills of materials has no parameter {unknown:?}; it has format=spdx|cyclonedx|all"
            )));
        }
        let formats = match params.get("format").map_or("spdx", String::as_str) {
            "spdx" => vec![Format::Spdx],
            "cyclonedx" => vec![Format::CycloneDx],
            "all" => vec![Format::Spdx, Format::CycloneDx],
            other => {
                return Err(BuildError::refused(format!(
                    "a bill of materials cannot be written as {other:?}: format is one of spdx, cyclonedx, all"
                )));
            }
        };
        Ok(Self { formats })
    }

    pub fn attest(&self, bridge: &Bridge, target: SbomTarget) -> Vec<Attestation> {
        let extras = target.extras.into_iter().map(|(name, tree)| {
            let shown = format!("{} of {}", name, target.name);
            (format!("{CORE}-{name}"), shown, tree)
        });
        let all = std::iter::once((CORE.to_owned(), target.name.clone(), target.core)).chain(extras);
        let mut out = Vec::new();
        for (file, name, tree) in all {
            let found =
                Arc::new(Found { bridge: bridge.clone(), tree, name, epoch: target.epoch, cell: OnceCell::new() });
            out.extend(self.formats.iter().map(|format| Attestation {
                kind: Kind::InToto,
                metadata: metadata(),
                content: Content::Late(Arc::new(Document { found: found.clone(), format: *format })),
                path: format!("{file}.{}", format.extension()),
                predicate_type: format.predicate_type().to_owned(),
                subjects: Vec::new(),
            }));
        }
        out
    }
}

/// A scan that is made once, for every format.
struct Found {
    bridge: Bridge,
    tree: Option<Ref>,
    name: String,
    epoch: Option<i64>,
    cell: OnceCell<(Arc<Scan>, Subject)>,
}

struct Document {
    found: Arc<Found>,
    format: Format,
}

#[async_trait]
impl Predicate for Document {
    async fn json(&self) -> Result<Bytes, BuildError> {
        let (scan, subject) = self.found.cell.get_or_try_init(|| self.found.scan()).await?;
        Ok(self.format.write(scan, subject).into())
    }
}

impl Found {
    async fn scan(&self) -> Result<(Arc<Scan>, Subject), BuildError> {
        let status = self.bridge.status().clone();
        let name = format!("[{}] generating sbom", self.name);
        internal_step::run(&status, &name, |step| async move {
            let mut created = self.epoch.unwrap_or_default();
            let scan = match &self.tree {
                None => Scan::default(),
                Some(tree) => {
                    if self.epoch.is_none() {
                        let layers = tree.evaluate().await?;
                        let newest = layers.layers().iter().map(|l| l.record().created).max();
                        created = newest.map_or(0, |ms| ms as i64 / 1000);
                    }
                    let tree = tree.open().await?;
                    let work = move || -> Result<Scan, StepError> { Ok(cooper_sbom::scan(&InTree(tree.root()?))) };
                    let scan = tokio::task::spawn_blocking(work).await;
                    scan.map_err(StepError::while_doing("scanning for packages ended abnormally"))??
                }
            };
            for note in &scan.notes {
                step.log(format!("{note}\n"));
            }
            step.log(format!("{} packages\n", scan.packages.len()));
            let created = jiff::Timestamp::from_second(created).unwrap_or_default();
            Ok::<_, BuildError>((Arc::new(scan), Subject { name: self.name.clone(), created }))
        })
        .await
    }
}

/// A result, as scanners read it.
struct InTree(Root);

fn plain(error: cooper_rooted::Error) -> io::Error {
    io::Error::new(error.kind(), error)
}

impl Files for InTree {
    fn read_dir(&self, path: &str) -> io::Result<Vec<Entry>> {
        let entries = self.0.open_dir(path).and_then(|dir| dir.entries()).map_err(plain)?;
        let entry = |entry: cooper_rooted::DirEntry| {
            let kind = match entry.kind {
                cooper_rooted::Kind::File => EntryKind::File,
                cooper_rooted::Kind::Dir => EntryKind::Dir,
                _ => EntryKind::Other,
            };
            Some(Entry { name: entry.name.into_string().ok()?, kind })
        };
        Ok(entries.into_iter().filter_map(entry).collect())
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn ReadAt>> {
        Ok(Box::new(self.0.open_file(path).map_err(plain)?))
    }

    fn executable(&self, path: &str) -> bool {
        self.0.lstat(path).is_ok_and(|found| found.mode & 0o111 != 0)
    }
}
