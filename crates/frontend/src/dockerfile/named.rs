//! Named contexts: what options put in place of stages, images and addresses.

use super::{
    context,
    options::{Request, invalid},
};
use cooper_dockerfile::lower::{ContextRequest, Files, NamedContext, context_key};
use cooper_engine::{Bridge, BuildError, bridge::ResolveOptions};
use cooper_llb::{Http, Image, Local, Meta, OciLayout, Output, pb};
use cooper_oci::{ImageConfig, ImageRef, Platform};
use std::collections::BTreeMap;

/// The image that stands for no files.
const SCRATCH: &str = "scratch";
/// The metadata of inputs that is an image config.
const CONFIG: &str = "containerimage.config";
const IMAGE_SCHEME: &str = "docker-image://";
/// So often may policies put one source in place of another.
const MAX_REPLACEMENTS: usize = 10;
const IGNORE_FILE: &str = ".dockerignore";

/// A context that an option defines.
struct Defined {
    /// The name in the option, perhaps with a platform.
    key: String,
    /// The name alone.
    name: String,
    /// What the option says, or what policies put in its place.
    value: String,
}

/// Whether an option defines the context, for this platform or for all.
pub fn exists(request: &Request, name: &str, platform: &Platform) -> bool {
    find(request, name, platform).is_some()
}

fn find(request: &Request, name: &str, platform: &Platform) -> Option<Defined> {
    let name = context_key(name)?;
    let for_platform = format!("{name}::{}", platform.clone().normalized());
    [for_platform, name.clone()].into_iter().find_map(|key| {
        let value = request.opts.get(&format!("context:{key}"))?;
        Some(Defined { key, name: name.clone(), value: value.clone() })
    })
}

fn files(output: Output) -> NamedContext {
    NamedContext { files: Files::Output(output), image: None }
}

/// Opens a context that [`exists`].
pub async fn open(bridge: &Bridge, request: &Request, wanted: &ContextRequest) -> Result<NamedContext, BuildError> {
    let mut found = find(request, &wanted.name, &wanted.platform)
        .ok_or_else(|| invalid(format!("there is no named context {}", wanted.name)))?;
    for _ in 0..=MAX_REPLACEMENTS {
        match replacement(bridge, &found, wanted).await? {
            Some(other) => found.value = other,
            None => return Box::pin(open_as_is(bridge, request, &found, wanted)).await,
        }
    }
    Err(invalid(format!(
        "context recursion limit exceeded; this may indicate a cycle in the provided source policies: {}",
        found.value
    )))
}

/// What policies put in place of an image, when that is no image.
async fn replacement(bridge: &Bridge, found: &Defined, wanted: &ContextRequest) -> Result<Option<String>, BuildError> {
    let Some(reference) = found.value.strip_prefix("docker-image:") else { return Ok(None) };
    let reference = reference.trim_start_matches("//");
    if reference == SCRATCH {
        return Ok(None);
    }
    let reference = image_reference(found, reference)?;
    let source = pb::SourceOp { identifier: format!("{IMAGE_SCHEME}{reference}"), ..pb::SourceOp::default() };
    let replaced = bridge.replaced_source(source, Some(&wanted.platform)).await?;
    Ok((!replaced.identifier.starts_with(IMAGE_SCHEME)).then_some(replaced.identifier))
}

async fn open_as_is(
    bridge: &Bridge,
    request: &Request,
    found: &Defined,
    wanted: &ContextRequest,
) -> Result<NamedContext, BuildError> {
    let value = found.value.as_str();
    let (kind, rest) =
        value.split_once(':').ok_or_else(|| invalid(format!("invalid context specifier {value} for {}", found.key)))?;
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    match kind {
        // `git@host:path` needs no protocol.
        _ if kind == "git" || kind.starts_with("git@") => {
            let repository = context::git(value, false, false)?;
            repository.map(files).ok_or_else(|| invalid(format!("invalid git context {value}")))
        }
        "http" | "https" => {
            if let Some(repository) = context::git(value, false, false)? {
                return Ok(files(repository));
            }
            let download = Http { filename: Some("context".to_owned()), ..Http::default() };
            Ok(files(download.output(value, shown(found, value))))
        }
        "docker-image" => Box::pin(image(bridge, found, rest, wanted)).await,
        "oci-layout" => Box::pin(layout(bridge, request, found, rest, wanted)).await,
        "local" => local(bridge, request, found, rest).await,
        "input" => input(request, found, rest),
        "target" => Err(invalid(format!(
            "context {} is another target ({rest}), which only a client can build: it must hand over the result as an \
             input",
            found.key
        ))),
        other => Err(invalid(format!("unsupported context source {other} for {}", found.key))),
    }
}

fn image_reference(found: &Defined, reference: &str) -> Result<ImageRef, BuildError> {
    let parsed: Result<ImageRef, _> = reference.parse();
    let parsed = parsed.map_err(|e| invalid(format!("invalid image {reference:?} for {}: {e}", found.key)))?;
    Ok(parsed.with_default_tag())
}

fn shown(found: &Defined, what: &str) -> Meta {
    Meta::named(format!("[context {}] {what}", found.key))
}

fn parse_config(found: &Defined, config: &[u8]) -> Result<ImageConfig, BuildError> {
    let parsed: ImageConfig = serde_json::from_slice(config)
        .map_err(|e| invalid(format!("failed to parse image config for {}: {e}", found.key)))?;
    Ok(ImageConfig { created: None, ..parsed })
}

async fn image(
    bridge: &Bridge,
    found: &Defined,
    reference: &str,
    wanted: &ContextRequest,
) -> Result<NamedContext, BuildError> {
    if reference == SCRATCH {
        return Ok(files(Output::scratch()));
    }
    let parsed = image_reference(found, reference)?;
    let options = ResolveOptions {
        platform: Some(wanted.platform.clone()),
        mode: wanted.resolve_mode.clone(),
        log_name: Some(format!("[context {}] load metadata for {reference}", found.key)),
        ..ResolveOptions::default()
    };
    let resolved = Box::pin(bridge.resolve_image_config(&parsed.to_string(), &options)).await?;
    let image = parse_config(found, &resolved.config)?;
    let mode = wanted.resolve_mode.as_str();
    let source =
        Image { resolve_mode: if mode == "default" { String::new() } else { mode.to_owned() }, ..Image::default() };
    let meta = shown(found, reference).on(&wanted.platform);
    // Policies may have chosen another image.
    let chosen = image_reference(found, &resolved.reference)?.with_digest(resolved.digest);
    let output = source.output(&chosen, meta);
    Ok(NamedContext { files: Files::Output(output), image: Some(image) })
}

async fn layout(
    bridge: &Bridge,
    request: &Request,
    found: &Defined,
    address: &str,
    wanted: &ContextRequest,
) -> Result<NamedContext, BuildError> {
    let fail = |why: &str| invalid(format!("oci-layout reference {address:?} {why}"));
    let (store, digest) = address.split_once('@').ok_or_else(|| fail("has no digest"))?;
    // A tag says nothing that the digest does not.
    let store = match store.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => store,
    };
    if store.is_empty() {
        return Err(fail("has no name"));
    }
    let digest = digest.parse().map_err(|e| fail(&format!("has a bad digest: {e}")))?;
    let name: ImageRef = found.name.parse().map_err(|e| invalid(format!("invalid context {}: {e}", found.name)))?;
    let name = name.with_digest(digest);
    let options = ResolveOptions {
        platform: Some(wanted.platform.clone()),
        mode: String::new(),
        log_name: Some(format!("[context {}] load metadata for {name}", found.key)),
        layout: Some((request.session.clone().unwrap_or_default(), store.to_owned())),
        ..ResolveOptions::default()
    };
    let resolved = Box::pin(bridge.resolve_image_config(&name.to_string(), &options)).await?;
    let image = parse_config(found, &resolved.config)?;
    let source = OciLayout { session: request.session.clone(), store: Some(store.to_owned()), layer_limit: None };
    let output = source.output(&name, shown(found, "OCI load from client").on(&wanted.platform));
    Ok(NamedContext { files: Files::Output(output), image: Some(image) })
}

/// A directory of the client, with an ignore file of its own.
async fn local(
    bridge: &Bridge,
    request: &Request,
    found: &Defined,
    directory: &str,
) -> Result<NamedContext, BuildError> {
    let ignore = Local {
        follow_paths: vec![IGNORE_FILE.to_owned()],
        shared_key_hint: format!("context:{}-{IGNORE_FILE}", found.key),
        differ: Some("none".to_owned()),
        ..request.local(directory)
    };
    let ignore = ignore.output(directory, shown(found, &format!("load {IGNORE_FILE}")));
    let ignore = context::load(bridge, &ignore).await?.read_file(IGNORE_FILE).await?;
    let shared_key = request.opt(&format!("sharedkey:localdir:{}", found.key));
    let local = Local {
        exclude_patterns: ignore.map(|bytes| cooper_fsmatch::parse_ignore_file(&bytes)).unwrap_or_default(),
        shared_key_hint: format!("context:{}-{shared_key}", found.key),
        ..request.local(directory)
    };
    let meta = Box::new(shown(found, "load from client"));
    Ok(NamedContext { files: Files::Local { name: directory.to_owned(), local: Box::new(local), meta }, image: None })
}

/// A definition that came with the request, perhaps with an image config.
fn input(request: &Request, found: &Defined, name: &str) -> Result<NamedContext, BuildError> {
    let definition = request.inputs()?.get(name);
    let definition = definition.ok_or_else(|| invalid(format!("invalid input {name} for {}", found.key)))?;
    let output = Output::from_definition(definition.clone())?;
    let Some(metadata) = request.opts.get(&format!("input-metadata:{name}")) else { return Ok(files(output)) };
    let fail = |why: String| invalid(format!("failed to parse input metadata of {name}: {why}"));
    let metadata: BTreeMap<String, String> = serde_json::from_str(metadata).map_err(|e| fail(e.to_string()))?;
    let image = match metadata.get(CONFIG) {
        None => None,
        Some(encoded) => {
            use base64::Engine as _;
            let config = base64::engine::general_purpose::STANDARD.decode(encoded).map_err(|e| fail(e.to_string()))?;
            Some(parse_config(found, &config)?)
        }
    };
    Ok(NamedContext { files: Files::Output(output), image })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_found_by_short_names_and_platforms() {
        let opts = [
            ("context:busybox", "docker-image://a"),
            ("context:busybox::linux/arm64", "docker-image://b"),
            ("context:docker/dockerfile:1", "docker-image://c"),
            ("context:base", "local:dir"),
        ];
        let opts = opts.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        let request = Request::of(opts, BTreeMap::new());
        let found = |name: &str, platform: &str| {
            let found = find(&request, name, &platform.parse().unwrap())?;
            Some(format!("{} {}", found.key, found.value))
        };
        for (name, platform, expected) in [
            ("busybox", "linux/amd64", Some("busybox docker-image://a")),
            ("docker.io/library/busybox:latest", "linux/amd64", Some("busybox docker-image://a")),
            ("busybox", "linux/arm64/v8", Some("busybox::linux/arm64 docker-image://b")),
            ("busybox:1", "linux/amd64", None),
            ("docker/dockerfile:1", "linux/amd64", Some("docker/dockerfile:1 docker-image://c")),
            ("base", "linux/amd64", Some("base local:dir")),
            ("Not a name", "linux/amd64", None),
        ] {
            assert_eq!(found(name, platform).as_deref(), expected, "{name} {platform}");
        }
    }

    #[test]
    fn inputs_bring_configs() {
        let definition = Output::scratch();
        let made = cooper_llb::file(
            &definition,
            vec![cooper_llb::Action::Mkdir(cooper_llb::Mkdir { path: "/a".into(), mode: 0o755, ..Default::default() })],
            Meta::default(),
        );
        let inputs = BTreeMap::from([("base::linux/arm64".to_owned(), made.marshal().unwrap())]);
        let metadata = r#"{"containerimage.config":"eyJvcyI6ImxpbnV4IiwiYXJjaGl0ZWN0dXJlIjoiYXJtNjQiLCJjb25maWciOnsiRW52IjpbIkE9YiJdfX0="}"#;
        let opts = BTreeMap::from([("input-metadata:base::linux/arm64".to_owned(), metadata.to_owned())]);
        let request = Request::of(opts, inputs);
        let named = |name: &str| Defined { key: "base".into(), name: "base".into(), value: format!("input:{name}") };
        let found = input(&request, &named("base::linux/arm64"), "base::linux/arm64").unwrap();
        assert_eq!(found.image.unwrap().config.env, ["A=b"]);
        let missing = input(&request, &named("other"), "other").unwrap_err();
        assert_eq!(missing.message, "invalid input other for base");
    }
}
