//! From results to what a client asked for.

mod files;
mod image;
mod progress;
mod statements;
pub(crate) mod verify;

pub(crate) use statements::Loose;

use crate::{
    build_error::BuildError,
    gateway::bridge::{Bridge, BuildResult},
    progress::internal_step,
};
use base64::Engine as _;
use std::collections::BTreeMap;

/// One output of a build.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ExporterSpec {
    /// `image`, `oci`, `docker`, `local` or `tar`.
    pub kind: String,
    /// Attributes, as clients send them.
    pub attrs: BTreeMap<String, String>,
}

/// An exporter with its attributes read.
#[derive(Clone)]
pub enum Exporter {
    /// Into the local image store, and to a registry when asked for.
    Image(Box<cooper_export::ImageAttrs>),
    /// An image archive for the client.
    Archive(Box<cooper_export::ImageAttrs>, cooper_export::write::ArchiveKind),
    /// Files into a directory of the client.
    Local(cooper_export::FsAttrs),
    /// Files as an archive for the client.
    Tar(cooper_export::FsAttrs),
}

impl Exporter {
    /// Reads what a client sent. Nothing is built yet when this fails.
    pub fn parse(spec: &ExporterSpec) -> Result<Self, BuildError> {
        use cooper_export::{Target, write::ArchiveKind};
        let attrs = || spec.attrs.iter().map(|(k, v)| (k.as_str(), v.as_str()));
        let image = |target| cooper_export::ImageAttrs::parse(target, attrs()).map_err(BuildError::from).map(Box::new);
        let files = || cooper_export::FsAttrs::parse(attrs()).map_err(BuildError::from);
        Ok(match spec.kind.as_str() {
            "image" => Self::Image(image(Target::Store)?),
            "oci" => Self::Archive(image(Target::Client)?, ArchiveKind::Oci),
            "docker" => Self::Archive(image(Target::Client)?, ArchiveKind::Docker),
            "local" => Self::Local(files()?),
            "tar" => Self::Tar(files()?),
            other => return Err(BuildError::refused(format!("exporter {other:?} could not be found"))),
        })
    }

    fn name(&self) -> &'static str {
        use cooper_export::write::ArchiveKind;
        match self {
            Self::Image(_) => "exporting to image",
            Self::Archive(_, ArchiveKind::Oci) => "exporting to oci image format",
            Self::Archive(_, ArchiveKind::Docker) => "exporting to docker image format",
            Self::Local(_) => "exporting to client directory",
            Self::Tar(_) => "exporting to client tarball",
        }
    }

    /// Exports a result whose trees have been built. `index` is the exporter's place among the client's.
    pub async fn run(
        self,
        bridge: &Bridge,
        index: usize,
        result: &BuildResult,
        warnings: &[String],
    ) -> Result<BTreeMap<String, String>, BuildError> {
        let status = bridge.status().clone();
        internal_step::run(&status, self.name(), |step| async move {
            warn(bridge, step.vertex(), warnings);
            match self {
                Self::Image(attrs) => image::to_store(bridge, *attrs, result, &step).await,
                Self::Archive(attrs, kind) => image::to_client(bridge, *attrs, kind, index, result, &step).await,
                Self::Local(attrs) => files::to_directory(bridge, attrs, index, result, &step).await,
                Self::Tar(attrs) => files::to_archive(bridge, attrs, index, result, &step).await,
            }
        })
        .await
    }
}

/// Shows warnings about a result under a vertex.
pub fn warn(bridge: &Bridge, vertex: &cooper_oci::Digest, warnings: &[String]) {
    for short in warnings {
        let warning = cooper_solver::Warning { level: 0, short: short.clone(), detail: Vec::new(), url: String::new() };
        bridge.status().warn(vertex.clone(), warning, None);
    }
}

/// The image that an exporter says it made.
pub fn made(response: &BTreeMap<String, String>) -> Option<cooper_oci::Descriptor> {
    let encoded = response.get(cooper_export::keys::DESCRIPTOR)?;
    let document = base64::engine::general_purpose::STANDARD.decode(encoded).ok()?;
    serde_json::from_slice(&document).ok()
}

impl From<cooper_export::Error> for BuildError {
    fn from(error: cooper_export::Error) -> Self {
        Self::refused(crate::domain::Chain(&error).to_string())
    }
}

impl From<cooper_session::Error> for BuildError {
    fn from(error: cooper_session::Error) -> Self {
        crate::domain::StepError::from(error).into()
    }
}
