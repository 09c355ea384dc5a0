//! Fetching the Dockerfile and the ignore file.

use super::{
    context::{self, DockerfileSource, MainContext},
    options::Request,
};
use cooper_engine::{Bridge, BuildError, FailureClass, Ref};
use cooper_llb::{Local, Meta, pb};
use cooper_oci::Digest;

const IGNORE_FILE: &str = ".dockerignore";

/// The Dockerfile and where it came from.
pub struct Fetched {
    /// Its text.
    pub dockerfile: Vec<u8>,
    /// What loads it.
    pub definition: pb::Definition,
    /// The vertex that it came from.
    pub vertex: Digest,
    source: Ref,
}

/// Fetches the Dockerfile, with the ignore file that is its own.
pub async fn fetch(bridge: &Bridge, request: &Request, main: &MainContext) -> Result<Fetched, BuildError> {
    let name = &main.filename;
    let lower = lower_case(name);
    let source = match &main.dockerfile {
        DockerfileSource::Output(output) => context::load(bridge, output).await?,
        DockerfileSource::Local(directory) => {
            let wanted = [Some(name.clone()), Some(own_ignore_file(name)), lower.clone()];
            let local = Local {
                follow_paths: wanted.into_iter().flatten().collect(),
                shared_key_hint: directory.clone(),
                differ: Some("none".to_owned()),
                ..request.local(directory)
            };
            let shown = Meta::named(format!("[internal] load build definition from {name}"));
            context::load(bridge, &local.output(directory, shown)).await?
        }
    };
    let dockerfile = read_dockerfile(&source, name, lower.as_deref()).await?;
    let (definition, vertex) = (source.definition().clone(), source.edge().vertex.clone());
    Ok(Fetched { dockerfile, definition, vertex, source })
}

impl Fetched {
    /// Patterns of the ignore file: the Dockerfile's own one, or that of the context. Other people's contexts bring
    /// none: they hold what they hold.
    pub async fn ignore(
        &self,
        bridge: &Bridge,
        request: &Request,
        main: &MainContext,
    ) -> Result<Vec<String>, BuildError> {
        if main.files.is_some() {
            return Ok(Vec::new());
        }
        let patterns = match self.source.read_file(&own_ignore_file(&main.filename)).await? {
            Some(own) => Some(own),
            None => context_ignore(bridge, request, &main.local).await?,
        };
        Ok(patterns.map(|bytes| cooper_fsmatch::parse_ignore_file(&bytes)).unwrap_or_default())
    }
}

fn own_ignore_file(dockerfile: &str) -> String {
    format!("{dockerfile}{IGNORE_FILE}")
}

async fn read_dockerfile(source: &Ref, name: &str, lower: Option<&str>) -> Result<Vec<u8>, BuildError> {
    let doing = |e: BuildError| e.context("failed to read dockerfile");
    for candidate in [Some(name), lower].into_iter().flatten() {
        if let Some(found) = source.read_file(candidate).await.map_err(doing)? {
            return Ok(found);
        }
    }
    let missing = format!("open {name}: no such file or directory");
    // Without a class: clients show one in front of the text that tools look for.
    Err(doing(BuildError::new(FailureClass::Unknown, missing)))
}

/// The ignore file of a directory of the client.
async fn context_ignore(bridge: &Bridge, request: &Request, directory: &str) -> Result<Option<Vec<u8>>, BuildError> {
    let local = Local {
        follow_paths: vec![IGNORE_FILE.to_owned()],
        shared_key_hint: format!("{directory}-{IGNORE_FILE}"),
        differ: Some("none".to_owned()),
        ..request.local(directory)
    };
    let shown = Meta::named(format!("[internal] load {IGNORE_FILE}"));
    let source = context::load(bridge, &local.output(directory, shown)).await?;
    match source.read_file(IGNORE_FILE).await {
        // A client may offer no build context: not every Dockerfile reads one, and who does is told then.
        Err(error) if error.class != FailureClass::Cancelled => Ok(None),
        read => read,
    }
}

/// The file that is taken when the usual one is missing.
fn lower_case(name: &str) -> Option<String> {
    let (dir, base) = name.rsplit_once('/').map_or(("", name), |(dir, base)| (dir, base));
    let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
    (base == "Dockerfile").then(|| format!("{prefix}dockerfile"))
}
