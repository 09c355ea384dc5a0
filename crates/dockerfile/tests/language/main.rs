//! The language from outside, one file per chapter: Dockerfiles in; configs, names of steps, errors and lint out.
//!
//! The rows were compared with what the reference builder makes of the same files. What needs files, processes or
//! registries to be seen is tested with the whole program.

mod arguments;
mod copies;
mod directives;
mod expansion;
mod files;
mod heredocs;
mod image;
mod lint;
mod mounts;
mod stages;

use cooper_dockerfile::lower::{
    ContextRequest, Error, ImageMeta, ImageRequest, Lowered, MetaResolver, NamedContext, Options, ResolveError, lower,
};
use cooper_dockerfile::{Source, parser};
use cooper_llb::dump;
use cooper_oci::Platform;
use futures::executor::block_on;
use std::sync::Arc;

/// Every image is there, for Linux, with one variable.
struct AllImages;

impl MetaResolver for AllImages {
    async fn context(&self, request: ContextRequest) -> Result<NamedContext, ResolveError> {
        Err(format!("there is no context {}", request.name).into())
    }

    async fn image(&self, request: ImageRequest) -> Result<ImageMeta, ResolveError> {
        if request.reference.to_string().contains("missing") {
            return Err(format!("{}: not found", request.reference).into());
        }
        let config = serde_json::json!({
            "os": request.platform.os,
            "architecture": request.platform.architecture,
            "config": { "Env": ["PATH=/bin"], "Cmd": ["sh"] },
            "rootfs": { "type": "layers", "diff_ids": [cooper_oci::Digest::of("layer").to_string()] },
            "history": [{ "created_by": "base" }],
        });
        Ok(ImageMeta { reference: request.reference, digest: None, config: serde_json::to_vec(&config)? })
    }
}

fn options() -> Options {
    Options { target_platform: Some(Platform::new("linux", "amd64", "")), ..Options::default() }
}

fn lowered(text: &str, options: &Options) -> Result<Lowered, String> {
    let source = Arc::new(Source::new("Dockerfile", text));
    let parsed = parser::parse(source).into_result().map_err(|e| e.to_string())?;
    block_on(lower(&parsed, options, &AllImages)).map_err(|e: Error| e.to_string())
}

/// What a file comes to, in one line: its error, or members of the config and the history.
fn outcome_with(text: &str, options: &Options) -> String {
    let image = match lowered(text, options) {
        Ok(lowered) => lowered.image,
        Err(error) => return format!("error: {error}"),
    };
    let mut config = serde_json::to_value(&image.config).expect("configs are JSON");
    let members = config.as_object_mut().expect("a config is an object");
    // Of no interest: what every image without a base begins with.
    if members.get("WorkingDir").is_some_and(|dir| dir == "/") {
        members.remove("WorkingDir");
    }
    if let Some(env) = members.get_mut("Env").and_then(|env| env.as_array_mut()) {
        env.retain(|entry| !entry.as_str().is_some_and(|entry| entry.starts_with("PATH=")));
        if env.is_empty() {
            members.remove("Env");
        }
    }
    let history: Vec<String> = image.history.iter().map(|entry| entry.created_by.clone()).collect();
    format!("{config} {}", history.join(" ; ")).replace('\n', "\\n")
}

fn outcome(text: &str) -> String {
    outcome_with(text, &options())
}

/// One line per row: instructions below `FROM scratch`, and what they come to.
fn table(rows: &[&str]) -> String {
    rows.iter().map(|row| format!("{} => {}\n", shown(row), outcome(&format!("FROM scratch\n{row}\n")))).collect()
}

/// The same for whole files.
fn files_table(rows: &[&str]) -> String {
    rows.iter().map(|row| format!("{} => {}\n", shown(row), outcome(row))).collect()
}

fn shown(text: &str) -> String {
    text.replace('\r', "\\r").replace('\n', "\\n").replace('\t', "\\t").replace('\u{feff}', "\\ufeff")
}

/// The names of the steps of a file, or its error.
fn steps(text: &str) -> String {
    let lowered = match lowered(text, &options()) {
        Ok(lowered) => lowered,
        Err(error) => return format!("error: {error}"),
    };
    let definition = lowered.output.marshal().expect("what was lowered is a graph");
    let names = dump(&definition);
    let names = names.lines().filter_map(|line| line.trim_start().strip_prefix("name "));
    names.collect::<Vec<_>>().join("\n")
}

/// The graph of a file below `FROM scratch`, or its error.
fn graph(lines: &str) -> String {
    match lowered(&format!("FROM scratch\n{lines}\n"), &options()) {
        Ok(lowered) => dump(&lowered.output.marshal().expect("what was lowered is a graph")),
        Err(error) => format!("error: {error}"),
    }
}

/// Lint of a file: rule, line and text.
fn warnings(text: &str) -> String {
    let source = Arc::new(Source::new("Dockerfile", text));
    match cooper_dockerfile::lint::judge(&source, &options()) {
        Ok(verdict) => {
            let warnings = verdict.warnings.iter().map(|warning| format!("{}\n", warning.short()));
            let errors = verdict.errors.iter().map(|error| format!("error: {error}\n"));
            warnings.chain(errors).chain(verdict.refused.iter().map(|(e, _)| format!("error: {e}\n"))).collect()
        }
        Err(error) => format!("error: {error}\n"),
    }
}
