//! Fetching the Dockerfile and the ignore file.

use super::options::Request;
use cooper_engine::{Bridge, BuildError, Ref};
use cooper_llb::{Local, Meta, pb};

/// What was fetched.
pub struct Fetched {
    /// The Dockerfile.
    pub dockerfile: Vec<u8>,
    /// Patterns of the ignore file.
    pub ignore: Vec<String>,
    /// Where the Dockerfile came from.
    pub definition: Option<pb::Definition>,
}

/// Fetches both, side by side.
pub async fn fetch(bridge: &Bridge, request: &Request) -> Result<Fetched, BuildError> {
    let name = &request.filename;
    let lower = lower_case(name);
    let own_ignore = format!("{name}.dockerignore");
    let wanted = [Some(name.clone()), Some(own_ignore.clone()), lower.clone()];
    let file_source = local(
        bridge,
        &request.dockerfile,
        wanted.into_iter().flatten().collect(),
        &format!("[internal] load build definition from {name}"),
    )?;
    let ignore_source =
        local(bridge, &request.context, vec![".dockerignore".to_owned()], "[internal] load .dockerignore")?;
    let dockerfile = async {
        if let Some(found) = file_source.read_file(name).await? {
            return Ok(found);
        }
        if let Some(lower) = &lower
            && let Some(found) = file_source.read_file(lower).await?
        {
            return Ok(found);
        }
        Err(BuildError::refused(format!(
            "failed to read dockerfile: open {name}: no such file or directory"
        )))
    };
    let patterns = async {
        if let Some(own) = file_source.read_file(&own_ignore).await? {
            return Ok(Some(own));
        }
        ignore_source.read_file(".dockerignore").await
    };
    let (dockerfile, patterns) = futures::try_join!(dockerfile, patterns)?;
    let ignore = patterns.map(|bytes| cooper_fsmatch::parse_ignore_file(&bytes)).unwrap_or_default();
    Ok(Fetched { dockerfile, ignore, definition: Some(file_source.definition().clone()) })
}

/// The file that is taken when the usual one is missing.
fn lower_case(name: &str) -> Option<String> {
    let (dir, base) = name.rsplit_once('/').map_or(("", name), |(dir, base)| (dir, base));
    let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
    (base == "Dockerfile").then(|| format!("{prefix}dockerfile"))
}

fn local(bridge: &Bridge, name: &str, paths: Vec<String>, shown: &str) -> Result<Ref, BuildError> {
    let local = Local { follow_paths: paths, shared_key_hint: shown_hint(shown), ..Local::default() };
    let output = local.output(name, Meta::named(shown));
    let definition = output.marshal()?;
    bridge.load(definition)?.ok_or_else(|| BuildError::refused("a local source is an empty definition"))
}

/// Sources that take different parts of one directory are kept apart.
fn shown_hint(shown: &str) -> String {
    shown.rsplit(' ').next().unwrap_or_default().to_owned()
}
