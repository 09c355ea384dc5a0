//! From instructions to LLB: what a Dockerfile means for one target platform.
//!
//! [`lower`] plans the stages, looks up their bases (the only questions that it asks, through [`MetaResolver`]), and
//! runs the instructions of the stages that the target needs, in the order of the file. The result is a graph that
//! nobody has run yet, the image's config, and lint that could only be found with evaluated state.
//!
//! No I/O, no parsing of Dockerfiles (but for triggers of base images) and no transport lives here.

mod args;
mod base;
mod epoch;
mod error;
mod findings;
mod instruction;
mod naming;
mod options;
mod outline;
mod paths;
mod resolver;
mod run_stage;
mod stages;
mod state;

pub use error::{Cause, Error, ResolveError};
pub use findings::{Finding, FindingKind};
pub use options::{Files, NoCache, Options};
pub use outline::{Outline, OutlineArg, OutlineCache, OutlineSecret};
pub use paths::PathError;
pub use resolver::{
    ContextRequest, ImageMeta, ImageRequest, MetaResolver, NamedContext, TimestampRequest, TimestampSource, context_key,
};

use crate::Dockerfile;
use crate::expand::Expander;
use crate::source::Range;
use args::{Globals, Platforms};
use base::Bases;
use cooper_fsmatch::PatternMatcher;
use cooper_llb::{Output, SourceMap, pb};
use cooper_oci::{ImageConfig, Platform};
use run_stage::{Shared, StageRun};
use stages::Stages;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What a Dockerfile comes to.
#[derive(Debug)]
pub struct Lowered {
    /// The target's files; may be empty ([`Output::is_scratch`]).
    pub output: Output,
    /// The image's config. Its root file system is that of the base: whoever exports the image sets it.
    pub image: ImageConfig,
    /// The config of the base image at the bottom of the target, as it was.
    pub base_image: Option<ImageConfig>,
    /// What the result is for: the platform asked for, whatever the target's last stage runs on. For Windows the
    /// version and features of the base are filled in.
    pub platform: Platform,
    /// The name of `platform` in results, as asked for.
    pub platform_id: String,
    /// Lint, in the order of the file.
    pub findings: Vec<Finding>,
    /// Paths of the build context that are used; `None` is all of them.
    pub context_paths: Option<Vec<String>>,
    /// What the target can be told.
    pub outline: Outline,
    /// What else is to be scanned for a bill of materials, by name: stages, and `context`.
    pub scans: Vec<(String, Output)>,
    /// Whether the target, or a stage to be scanned, ignores known results.
    pub ignore_cache: bool,
    /// The time of `SOURCE_DATE_EPOCH`, in seconds since 1970.
    pub epoch: Option<i64>,
    /// The file, as ops refer to it.
    pub source_map: Arc<SourceMap>,
}

/// Gives a Dockerfile its meaning.
pub async fn lower(dockerfile: &Dockerfile, options: &Options, resolver: &impl MetaResolver) -> Result<Lowered, Error> {
    let mut findings = Vec::new();
    let outcome = lower_with(dockerfile, options, resolver, &mut findings).await;
    let in_order = |mut findings: Vec<Finding>| {
        findings.sort_by_key(|finding| finding.ranges.first().map_or(0, |range| range.start.line));
        findings
    };
    match outcome {
        Ok(lowered) => Ok(Lowered { findings: in_order(findings), ..lowered }),
        Err(mut error) => {
            findings.append(&mut error.findings);
            Err(Error { findings: in_order(findings), ..error })
        }
    }
}

async fn lower_with(
    dockerfile: &Dockerfile,
    options: &Options,
    resolver: &impl MetaResolver,
    findings: &mut Vec<Finding>,
) -> Result<Lowered, Error> {
    let platforms = Platforms::of(options);
    let last_name = dockerfile.stages.last().and_then(|stage| stage.name());
    let target_name = options.target.as_deref().filter(|name| !name.is_empty());
    let predefined = args::predefined(&platforms, options, target_name.or(last_name));
    stages::check_default_bases(dockerfile, &predefined, findings);

    let mut build_args = options.build_args.clone();
    let mut globals = Globals::evaluate(predefined, dockerfile, &build_args)?;
    let mut epoch = None;
    if let Some(value) = args::lookup(options, &globals.env, epoch::NAME).map(ToOwned::to_owned) {
        epoch = epoch::resolve(&value, dockerfile, options, &platforms.target, &globals, resolver).await?;
        // From here on it is the number that it stands for.
        if build_args.remove(epoch::NAME).is_some() {
            build_args.extend(epoch.map(|seconds| (epoch::NAME.to_owned(), seconds.to_string())));
        }
        if globals.env.remove(epoch::NAME)
            && let Some(seconds) = epoch
        {
            globals.env.set(epoch::NAME, seconds.to_string());
        }
    }

    let mut stages = Stages::plan(dockerfile, options, &platforms.target, &globals, resolver, findings)?;
    let target = stages.target(target_name, dockerfile.stages.len() - 1)?;
    stages.connect()?;

    let source_map = source_map(dockerfile, options);
    let bases = Bases { options, platforms: &platforms, resolver, source_map: &source_map };
    let needed = loop {
        let needed = if options.all_stages { (0..stages.nodes.len()).collect() } else { stages.needed_by(target) };
        bases.resolve(&mut stages, &needed, findings).await?;
        // Even where all stages are looked at, triggers are those of the target.
        let built = stages.needed_by(target);
        if !stages.read_triggers(&built)? {
            break needed;
        }
    };

    let target_platform = platforms.target.clone();
    let (context, deferred) = Output::deferred();
    let shared = Shared {
        options,
        proxy: args::proxy(&build_args),
        build_args,
        global_env: globals.env,
        rules: Expander::new(dockerfile.escape),
        epoch,
        context: context.clone(),
        ignore: match options.ignore_patterns.as_slice() {
            [] => None,
            patterns => Some(PatternMatcher::new(patterns).map_err(Cause::from)?),
        },
        source_map,
    };
    let context_paths = run_stages(&shared, &mut stages, &needed, findings)?;
    let context_paths = follow_paths(&context_paths);
    deferred.set(options.context.clone().output(context_paths.clone()));
    finish_contexts(&mut stages, target);

    let outline = outline::outline(&stages, &globals.declared, target);
    let mut scans = Vec::new();
    if stages.nodes[target].scan_context {
        scans.push(("context".to_owned(), context));
    }
    let mut ignore_cache = stages.nodes[target].ignore_cache;
    for id in stages.needed_by(target) {
        let node = &stages.nodes[id];
        if let Some(state) = node.state.as_ref().filter(|_| id != target && node.scan) {
            scans.push((node.display.clone(), state.output.clone()));
            ignore_cache |= node.ignore_cache;
        }
    }
    let Some(state) = stages.nodes[target].state.take() else { return Err(Error::new(Cause::NoStages)) };
    let image = finish_image(state.image, options);
    let (platform, platform_id) = result_platform(target_platform, &image.platform);
    Ok(Lowered {
        output: state.output,
        image,
        base_image: state.base_image,
        platform,
        platform_id,
        findings: Vec::new(),
        context_paths,
        outline,
        scans,
        ignore_cache,
        epoch,
        source_map: shared.source_map,
    })
}

/// Runs what is needed, in the order of the file. Returns the paths used of the build context.
fn run_stages(
    shared: &Shared<'_>,
    stages: &mut Stages<'_>,
    needed: &BTreeSet<usize>,
    findings: &mut Vec<Finding>,
) -> Result<BTreeSet<String>, Error> {
    let mut context_paths = BTreeSet::new();
    for id in 0..stages.nodes.len() {
        let node = &stages.nodes[id];
        if node.done || !needed.contains(&id) {
            continue;
        }
        let start = match node.base {
            Some(base) => stages.nodes[base].state.as_ref().map(state::StageState::child),
            None => stages.nodes[id].state.take(),
        };
        // A base is needed by what is built on it, comes earlier, and so is done.
        let Some(start) = start else { continue };
        let finished = StageRun::run(shared, stages, id, start)?;
        for (used, path) in finished.stage_paths {
            let first = stages.first_of_chain(used);
            stages.nodes[first].paths.insert(path);
        }
        if finished.reads_all {
            let first = stages.first_of_chain(id);
            stages.nodes[first].paths.insert("/".to_owned());
        }
        context_paths.extend(finished.context_paths);
        findings.extend(finished.findings);
        let node = &mut stages.nodes[id];
        let asks = |name: &str| {
            let own = finished.state.args.iter().rev().find(|(arg, value)| arg == name && value.is_some());
            let value = own.and_then(|(_, value)| value.as_deref()).or_else(|| shared.global_env.get(name));
            value.is_some_and(|value| args::enabled_for(&node.display, value))
        };
        (node.scan_context, node.scan) = (asks(args::SBOM_CONTEXT), asks(args::SBOM_STAGE));
        node.capture = finished.capture;
        node.state = Some(finished.state);
        node.done = true;
    }
    Ok(context_paths)
}

/// Tells directories of the client that stand for stages or images which of their paths are used.
fn finish_contexts(stages: &mut Stages<'_>, target: usize) {
    // All of the target is used: it is the result.
    let first = stages.first_of_chain(target);
    stages.nodes[first].paths.insert("/".to_owned());
    for node in &mut stages.nodes {
        if let Some((deferred, files)) = node.pending.take() {
            deferred.set(files.output(follow_paths(&node.paths)));
        }
    }
}

/// Paths as transfers want them: relative and sorted. `None` when all or nothing is used.
fn follow_paths(paths: &BTreeSet<String>) -> Option<Vec<String>> {
    if paths.is_empty() || paths.contains("/") {
        return None;
    }
    Some(paths.iter().map(|path| path.trim_start_matches('/').to_owned()).collect())
}

fn finish_image(mut image: ImageConfig, options: &Options) -> ImageConfig {
    image.config.labels.extend(options.labels.clone());
    if let Some(target) = &options.target_platform {
        let own = &mut image.platform;
        let same = own.os == target.os && own.architecture == target.architecture;
        own.os.clone_from(&target.os);
        own.architecture.clone_from(&target.architecture);
        // What the target leaves open stays as the base has it, unless that is for another machine.
        if !target.variant.is_empty() || !same {
            own.variant.clone_from(&target.variant);
        }
        if !target.os_version.is_empty() || !same {
            own.os_version.clone_from(&target.os_version);
        }
        if !target.os_features.is_empty() {
            own.os_features.clone_from(&target.os_features);
        }
    }
    image.platform = image.platform.normalized();
    image
}

/// What a result is for, and the name of that.
fn result_platform(target: Platform, image: &Platform) -> (Platform, String) {
    let mut platform = target.normalized();
    let id = naming::full_platform(&platform);
    if platform.os == "windows" && image.os == "windows" {
        if platform.os_version.is_empty() {
            platform.os_version.clone_from(&image.os_version);
        }
        if platform.os_features.is_empty() {
            platform.os_features.clone_from(&image.os_features);
        }
    }
    (platform, id)
}

fn source_map(dockerfile: &Dockerfile, options: &Options) -> Arc<SourceMap> {
    let source = &dockerfile.source;
    Arc::new(SourceMap {
        filename: source.filename().to_owned(),
        language: "Dockerfile".to_owned(),
        data: source.text().as_bytes().to_vec(),
        definition: options.dockerfile_definition.clone(),
    })
}

/// Ranges as the protocol has them.
pub fn pb_ranges(ranges: &[Range]) -> Vec<pb::Range> {
    let position = |p: crate::Position| Some(pb::Position { line: p.line as i32, character: p.character as i32 });
    ranges.iter().map(|range| pb::Range { start: position(range.start), end: position(range.end) }).collect()
}

#[cfg(test)]
mod tests;
