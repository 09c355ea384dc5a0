//! Fetching the Dockerfile and the ignore file.

use super::{
    context::{self, DockerfileSource, MainContext},
    options::Request,
};
use cooper_engine::{Bridge, BuildError, FailureClass, Ref};
use cooper_llb::{Local, Meta, pb};
use cooper_oci::Digest;

const IGNORE_FILE: &str = ".dockerignore";

/// What was fetched.
pub struct Fetched {
    /// The Dockerfile.
    pub dockerfile: Vec<u8>,
    /// Patterns of the ignore file.
    pub ignore: Vec<String>,
    /// Where the Dockerfile came from.
    pub definition: pb::Definition,
    /// The vertex that the Dockerfile came from.
    pub vertex: Digest,
}

/// Fetches both, side by side. Other people's contexts bring no ignore file: they hold what they hold.
pub async fn fetch(bridge: &Bridge, request: &Request, main: &MainContext) -> Result<Fetched, BuildError> {
    let name = &main.filename;
    let lower = lower_case(name);
    let own_ignore = format!("{name}{IGNORE_FILE}");
    let source = match &main.dockerfile {
        DockerfileSource::Output(output) => context::load(bridge, output).await?,
        DockerfileSource::Local(directory) => {
            let wanted = [Some(name.clone()), Some(own_ignore.clone()), lower.clone()];
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
    let dockerfile = read_dockerfile(&source, name, lower.as_deref());
    let ignore = async {
        if main.files.is_some() {
            return Ok(Vec::new());
        }
        let patterns = match source.read_file(&own_ignore).await? {
            Some(own) => Some(own),
            None => context_ignore(bridge, request, &main.local).await?,
        };
        Ok(patterns.map(|bytes| cooper_fsmatch::parse_ignore_file(&bytes)).unwrap_or_default())
    };
    let (dockerfile, ignore) = futures::try_join!(dockerfile, ignore)?;
    let vertex = source.edge().vertex.clone();
    Ok(Fetched { dockerfile, ignore, definition: source.definition().clone(), vertex })
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
