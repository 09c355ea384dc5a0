//! Dockerfiles in, graphs, configs and messages out.
#![allow(clippy::format_push_string, clippy::format_collect, reason = "a test may allocate")]

mod basics;
mod config;
mod copies;
mod lint;
mod runs;
mod stages;

use super::*;
use crate::parser;
use crate::source::Source;
use cooper_llb::{CapSet, Graph, Local, Meta, dump};
use cooper_oci::Digest;
use futures::executor::block_on;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Images and contexts that exist, and a log of what was asked.
#[derive(Default)]
struct Fake {
    images: BTreeMap<&'static str, serde_json::Value>,
    contexts: BTreeMap<&'static str, NamedContext>,
    time: Option<i64>,
    asked: Mutex<Vec<String>>,
}

impl Fake {
    fn new() -> Self {
        let linux = |config: serde_json::Value| {
            serde_json::json!({
                "created": "2020-01-01T00:00:00Z",
                "architecture": "amd64",
                "os": "linux",
                "config": config,
                "rootfs": {"type": "layers", "diff_ids": [Digest::of("layer").to_string()]},
                "history": [{"created_by": "base"}],
            })
        };
        let mut fake = Self::default();
        fake.images.insert(
            "docker.io/library/alpine:latest",
            linux(serde_json::json!({
                "Env": ["PATH=/bin:/usr/bin", "LANG=C"], "Cmd": ["/bin/sh"], "WorkingDir": "/",
            })),
        );
        fake.images.insert("docker.io/library/bare:latest", linux(serde_json::json!({})));
        fake.images.insert(
            "docker.io/library/app:1",
            linux(serde_json::json!({
                "Env": ["PATH=/app/bin"], "WorkingDir": "/app", "User": "me", "Entrypoint": ["/app/run"], "Cmd": ["x"],
                "Labels": {"base": "yes"},
            })),
        );
        fake.images.insert(
            "docker.io/library/triggers:latest",
            linux(serde_json::json!({
                "OnBuild": ["COPY . /src", "RUN make $T", "COPY --from=alpine /etc /etc"],
            })),
        );
        fake.images.insert(
            "docker.io/library/empty:latest",
            serde_json::json!({
                "architecture": "amd64", "os": "linux", "config": {"Env": ["A=1"]}, "rootfs": {"type": "layers"},
            }),
        );
        let mut arm = linux(serde_json::json!({}));
        arm["architecture"] = "arm64".into();
        fake.images.insert("docker.io/library/armed:latest", arm);
        let mut windows = linux(serde_json::json!({"WorkingDir": "C:\\"}));
        windows["os"] = "windows".into();
        fake.images.insert("docker.io/library/win:latest", windows);
        fake
    }

    fn context(mut self, name: &'static str, context: NamedContext) -> Self {
        self.contexts.insert(name, context);
        self
    }

    fn asked(&self) -> Vec<String> {
        let mut asked = self.asked.lock().unwrap().clone();
        asked.sort();
        asked
    }
}

impl MetaResolver for Fake {
    fn has_context(&self, name: &str, _platform: &Platform) -> bool {
        context_key(name).is_some_and(|key| self.contexts.contains_key(key.as_str()))
    }

    async fn context(&self, request: ContextRequest) -> Result<NamedContext, ResolveError> {
        self.asked.lock().unwrap().push(format!("context {} {}", request.name, request.platform));
        let key = context_key(&request.name).ok_or("no name")?;
        Ok(self.contexts.get(key.as_str()).ok_or("no such context")?.clone())
    }

    async fn image(&self, request: ImageRequest) -> Result<ImageMeta, ResolveError> {
        self.asked.lock().unwrap().push(format!("{} {}", request.log_name, request.platform));
        let name = request.reference.to_string();
        let config = self.images.get(name.as_str()).ok_or_else(|| format!("{name}: not found"))?;
        Ok(ImageMeta {
            reference: request.reference,
            digest: Some(Digest::of("manifest")),
            config: serde_json::to_vec(config)?,
        })
    }

    async fn timestamp(&self, request: TimestampRequest) -> Result<Option<i64>, ResolveError> {
        let source = match request.source {
            TimestampSource::MainContext => "context".to_owned(),
            TimestampSource::Source(output) => {
                let source = output.source().unwrap();
                format!("{} {:?}", source.identifier, source.attrs)
            }
        };
        self.asked.lock().unwrap().push(format!("time of {source}"));
        Ok(self.time)
    }
}

fn amd64() -> Platform {
    Platform::new("linux", "amd64", "")
}

/// Options with a session and a platform that does not depend on the machine.
fn options() -> Options {
    let local = Local { session: Some("s".to_owned()), shared_key_hint: "context".to_owned(), ..Local::default() };
    Options {
        target_platform: Some(amd64()),
        context: Files::Local {
            name: "context".to_owned(),
            local: Box::new(local),
            meta: Box::new(Meta::named("[internal] load build context")),
        },
        ..Options::default()
    }
}

fn lower_with(text: &str, options: &Options, fake: &Fake) -> Result<Lowered, String> {
    let source = Arc::new(Source::new("Dockerfile", text));
    let parsed = parser::parse(Arc::clone(&source)).into_result().map_err(|e| e.to_string())?;
    block_on(lower(&parsed, options, fake)).map_err(|e| e.render(&source))
}

fn lowered(text: &str) -> Lowered {
    lower_with(text, &options(), &Fake::new()).unwrap()
}

/// The graph of what was lowered, which the decoder takes as well. Digests are shortened.
fn graph(lowered: &Lowered) -> String {
    let definition = lowered.output.marshal().unwrap();
    if !lowered.output.is_scratch() {
        Graph::decode(definition.clone(), &CapSet::llb()).unwrap();
    }
    dump(&definition).replace(Digest::of("manifest").as_str(), "sha256:…")
}

/// Dockerfile to graph.
fn check(text: &str) -> String {
    check_with(text, &options(), &Fake::new())
}

fn check_with(text: &str, options: &Options, fake: &Fake) -> String {
    match lower_with(text, options, fake) {
        Ok(lowered) => graph(&lowered),
        Err(error) => error,
    }
}

/// Only the lines of a graph that start with one of `heads`.
fn only(dump: &str, heads: &[&str]) -> String {
    let body = |line: &str| {
        line.trim_start()
            .split_once(' ')
            .filter(|(number, _)| number.starts_with('#'))
            .map_or(line.trim_start().to_owned(), |(_, rest)| rest.to_owned())
    };
    dump.lines().map(body).filter(|line| heads.iter().any(|head| line.starts_with(head))).collect::<Vec<_>>().join("\n")
}

/// Dockerfile to image config, with a line per member and per history entry.
fn config(text: &str) -> String {
    config_with(text, &options(), &Fake::new())
}

fn config_with(text: &str, options: &Options, fake: &Fake) -> String {
    let image = match lower_with(text, options, fake) {
        Ok(lowered) => lowered.image,
        Err(error) => return error,
    };
    let mut out = format!("{}\n", image.platform);
    if !image.author.is_empty() {
        out.push_str(&format!("author {}\n", image.author));
    }
    let value = serde_json::to_value(&image.config).unwrap();
    for (name, value) in value.as_object().unwrap() {
        out.push_str(&format!("{name} {value}\n"));
    }
    for entry in &image.history {
        let layer = if entry.empty_layer { "-" } else { "+" };
        let time = entry.created.as_ref().map(|time| format!(" @{time}")).unwrap_or_default();
        out.push_str(&format!("{layer} {}{time}\n", entry.created_by));
    }
    out
}

/// Dockerfile to lint.
fn lint(text: &str) -> String {
    lint_with(text, &options())
}

fn lint_with(text: &str, options: &Options) -> String {
    match lower_with(text, options, &Fake::new()) {
        Ok(lowered) => lowered
            .findings
            .iter()
            .map(|f| {
                let line = f.ranges.first().map_or(0, |range| range.start.line);
                format!("{line}: {}: {}\n", f.kind.rule(), f.kind)
            })
            .collect(),
        Err(error) => error,
    }
}

/// Dockerfile to the message of its error.
fn refused(text: &str) -> String {
    match lower_with(text, &options(), &Fake::new()) {
        Ok(_) => "accepted".to_owned(),
        Err(error) => error.lines().last().unwrap_or_default().to_owned(),
    }
}

/// One line of message per Dockerfile.
fn refusals(rows: &[&str]) -> String {
    rows.iter().map(|row| format!("{}\n", refused(row))).collect()
}
