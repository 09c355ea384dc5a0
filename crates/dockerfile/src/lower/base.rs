//! Looking up what stages are built on, all at once.

use super::args::Platforms;
use super::findings::{Finding, FindingKind};
use super::naming;
use super::resolver::{ContextRequest, ImageMeta, ImageRequest, MetaResolver, NamedContext};
use super::stages::{Node, SCRATCH, Stages, is_context};
use super::state::StageState;
use super::{Cause, Error, Files, Options};
use crate::diagnostic::nearest;
use crate::expand::Env;
use cooper_llb::{Image, Meta, Output, SourceMap, attrs};
use cooper_oci::{ImageConfig, ImageRef, Platform};
use futures::future::try_join_all;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What is asked about a base.
#[derive(Debug, Clone, PartialEq)]
enum Question {
    Image(ImageRequest),
    Context(ContextRequest),
}

/// The answer.
#[derive(Debug, Clone)]
enum Answer {
    Image(Box<Found>),
    Context(Box<NamedContext>),
}

/// An image with its config read.
#[derive(Debug, Clone)]
struct Found {
    reference: ImageRef,
    config: ImageConfig,
}

impl Found {
    fn read(meta: ImageMeta) -> Result<Self, Cause> {
        let config = serde_json::from_slice(&meta.config).map_err(Cause::ImageConfig)?;
        let reference = match meta.digest {
            Some(digest) => meta.reference.with_digest(digest),
            None => meta.reference,
        };
        Ok(Self { reference, config })
    }
}

/// What bases are looked up with.
pub(super) struct Bases<'r, R> {
    pub(super) options: &'r Options,
    pub(super) platforms: &'r Platforms,
    pub(super) resolver: &'r R,
    pub(super) source_map: &'r Arc<SourceMap>,
}

impl<R: MetaResolver> Bases<'_, R> {
    /// Gives every node in `needed` its first state, unless it is built on another stage.
    pub(super) async fn resolve(
        &self,
        stages: &mut Stages<'_>,
        needed: &BTreeSet<usize>,
        findings: &mut Vec<Finding>,
    ) -> Result<(), Error> {
        let mut questions: Vec<(Question, Vec<usize>)> = Vec::new();
        for id in 0..stages.nodes.len() {
            let node = &mut stages.nodes[id];
            if node.base.is_some() || node.resolved {
                continue;
            }
            if node.base_name == SCRATCH && !node.is_context {
                node.resolved = true;
                node.done = node.stage.is_none();
                node.state = Some(StageState::scratch(&self.platforms.target));
                continue;
            }
            // A wrong name is an error even where nobody needs the image.
            let question = self.question(node).map_err(|e| e.at(&node.ranges))?;
            if !needed.contains(&id) {
                continue;
            }
            node.resolved = true;
            match questions.iter_mut().find(|(other, _)| *other == question) {
                Some((_, ids)) => ids.push(id),
                None => questions.push((question, vec![id])),
            }
        }
        let answers = {
            let stages = &*stages;
            try_join_all(questions.iter().map(|(question, ids)| self.ask(question, &stages.nodes[ids[0]], stages)))
                .await?
        };
        for ((question, ids), answer) in questions.iter().zip(answers) {
            for id in ids {
                let node = &mut stages.nodes[*id];
                self.start(node, question, answer.clone(), findings);
            }
        }
        Ok(())
    }

    fn question(&self, node: &Node<'_>) -> Result<Question, Error> {
        let platform = node.platform.clone().unwrap_or_else(|| self.platforms.target.clone());
        let resolve_mode = self.options.resolve_mode.clone();
        let context = |name: String| {
            Question::Context(ContextRequest { name, platform: platform.clone(), resolve_mode: resolve_mode.clone() })
        };
        if let Some(name) = node.stage.and_then(|stage| stage.name()).filter(|_| node.is_context) {
            return Ok(context(name.to_owned()));
        }
        let reference: ImageRef = node
            .base_name
            .parse::<ImageRef>()
            .map_err(|source| Cause::BaseReference { name: node.base_name.clone(), source })?
            .with_default_tag();
        // A context may be named by what the file says or by the whole reference.
        for name in [node.base_name.clone(), reference.to_string()] {
            if is_context(self.resolver, &name, &platform) {
                return Ok(context(name));
            }
        }
        let shown =
            if self.options.multi_platform { format!("{} ", naming::full_platform(&platform)) } else { String::new() };
        let log_name = format!("[{shown}internal] load metadata for {reference}");
        Ok(Question::Image(ImageRequest { reference, platform: platform.clone(), resolve_mode, log_name }))
    }

    async fn ask(&self, question: &Question, node: &Node<'_>, stages: &Stages<'_>) -> Result<Answer, Error> {
        match question {
            Question::Image(request) => match self.resolver.image(request.clone()).await {
                Ok(meta) => Found::read(meta).map(|found| Answer::Image(Box::new(found))),
                Err(source) => {
                    let options = stages.names().chain(COMMON_IMAGES);
                    let suggestion = nearest(&node.base_name, options, false);
                    Err(Cause::Image { name: node.base_name.clone(), source, suggestion })
                }
            },
            Question::Context(request) => self
                .resolver
                .context(request.clone())
                .await
                .map(|c| Answer::Context(Box::new(c)))
                .map_err(Cause::Context),
        }
        .map_err(|cause| Error::new(cause).at(&node.ranges))
    }

    fn start(&self, node: &mut Node<'_>, question: &Question, answer: Answer, findings: &mut Vec<Finding>) {
        // What is from outside has no instructions, and a context is taken as it is.
        node.done = node.stage.is_none() || node.is_context;
        let state = match (question, answer) {
            (Question::Image(request), Answer::Image(found)) => self.image(node, request, *found, findings),
            (Question::Context(request), Answer::Context(context)) => self.context(node, request, *context),
            _ => return, // answers are of the kind of their question
        };
        node.state = Some(state);
    }

    fn image(
        &self,
        node: &mut Node<'_>,
        request: &ImageRequest,
        Found { reference, config }: Found,
        findings: &mut Vec<Finding>,
    ) -> StageState {
        let platform = match &node.platform {
            None if self.platforms.implicit => self.platforms.detect(&config.platform),
            _ => request.platform.clone(),
        };
        let empty = config.rootfs.diff_ids.is_empty() && config.history.iter().all(|entry| entry.empty_layer);
        let output = if empty { Output::scratch() } else { self.source(node, &reference, &platform) };
        if !empty {
            let (wanted, actual) = (&platform, &config.platform);
            if wanted.os != actual.os || wanted.architecture != actual.architecture {
                let full = |p: &Platform| naming::full_platform(&p.clone().normalized());
                let kind = FindingKind::InvalidBaseImagePlatform {
                    image: node.base_name.clone(),
                    expected: full(wanted),
                    actual: full(actual),
                };
                let comments = node.stage.map(|stage| stage.from.head.comments.clone()).unwrap_or_default();
                findings.push(Finding { kind, ranges: node.ranges.clone(), comments });
            }
        }
        let base_image = Some(config.clone());
        StageState::new(output, ImageConfig { created: None, ..config }, base_image, platform)
    }

    /// The source op of a base image: the first step of its stage.
    fn source(&self, node: &mut Node<'_>, reference: &ImageRef, platform: &Platform) -> Output {
        let head = node.stage.map(|stage| &stage.from.head);
        let mut steps = naming::Steps {
            stage: node.display.clone(),
            done: 0,
            total: node.steps,
            with_platform: self.options.multi_platform,
        };
        let name = steps.next(&format!("FROM {reference}"), false, platform, &Env::new());
        node.steps_done = steps.done;
        let command = head.map(|head| head.text.clone()).unwrap_or_default();
        let meta = Meta::named(name).on(platform).describe(attrs::DOCKERFILE_COMMAND, command);
        let place = |meta: Meta, ranges: &Vec<_>| meta.at(self.source_map, super::pb_ranges(ranges));
        let meta = node.named_by.iter().fold(meta, place);
        let mode = self.options.resolve_mode.as_str();
        let resolve_mode = if mode == "default" { String::new() } else { mode.to_owned() };
        Image { resolve_mode, ..Image::default() }.output(reference, meta)
    }

    fn context(&self, node: &mut Node<'_>, request: &ContextRequest, context: NamedContext) -> StageState {
        let output = match context.files {
            Files::Output(output) => output,
            local @ Files::Local { .. } => {
                // Which paths are used is known when every stage is done.
                let (output, deferred) = Output::deferred();
                node.pending = Some((deferred, local));
                output
            }
        };
        let base_image = context.image.clone();
        let Some(mut image) = context.image else {
            let empty = StageState::scratch(&request.platform);
            // In place of a stage, a context without a config brings none.
            let image = if node.is_context { ImageConfig::default() } else { empty.image };
            let platform = if node.is_context { self.platforms.target.clone() } else { request.platform.clone() };
            return StageState::new(output, image, None, platform);
        };
        image.created = None;
        let own = !image.platform.os.is_empty() && !image.platform.architecture.is_empty();
        let platform = if node.is_context && own { image.platform.clone() } else { request.platform.clone() };
        StageState::new(output, image, base_image, platform)
    }
}

/// Names that a mistyped image may have meant.
const COMMON_IMAGES: [&str; 14] = [
    "alpine",
    "alpine:latest",
    "busybox",
    "busybox:latest",
    "centos",
    "centos:latest",
    "debian",
    "debian:latest",
    "golang",
    "golang:latest",
    "ubuntu",
    "ubuntu:latest",
    "fedora",
    "fedora:latest",
];
