//! `SOURCE_DATE_EPOCH`: a number, or something whose time it is.

use super::args::{self, Globals};
use super::resolver::{ContextRequest, MetaResolver, TimestampRequest, TimestampSource};
use super::stages::{SCRATCH, is_context};
use super::{Cause, Error, Files, Options};
use crate::expand::{Env, Expander};
use crate::instruction::{Add, Arg, Instruction};
use crate::{Dockerfile, Stage};
use cooper_llb::{Git, GitRef, Http, Meta, Output};
use cooper_oci::Platform;
use std::collections::BTreeMap;

pub(super) const NAME: &str = "SOURCE_DATE_EPOCH";

/// Finds the time that `value` stands for; `None` when there is none.
pub(super) async fn resolve(
    value: &str,
    dockerfile: &Dockerfile,
    options: &Options,
    target: &Platform,
    globals: &Globals,
    resolver: &impl MetaResolver,
) -> Result<Option<i64>, Error> {
    if value.is_empty() {
        return Ok(None);
    }
    if let Ok(seconds) = args::epoch_seconds(value) {
        return Ok(Some(seconds));
    }
    let (source, log_name) = if value == "context" {
        (TimestampSource::MainContext, "[internal] resolve main build context metadata".to_owned())
    } else if is_context(resolver, value, target) {
        let resolve_mode = options.resolve_mode.clone();
        let request = ContextRequest { name: value.to_owned(), platform: target.clone(), resolve_mode };
        let context = resolver.context(request).await.map_err(Cause::Context)?;
        let Files::Output(output) = context.files else { return Ok(None) };
        if output.source().is_none() {
            return Ok(None);
        }
        (TimestampSource::Source(output), format!("[internal] resolve {NAME} named context {value}"))
    } else {
        let named = |stage: &&Stage| stage.name().is_some_and(|name| name.eq_ignore_ascii_case(value));
        let stage = dockerfile.stages.iter().find(named).ok_or_else(|| Error::new(Cause::Epoch(value.to_owned())))?;
        let output = stage_source(stage, dockerfile, options, globals).map_err(|e| e.at(&stage.from.head.ranges()))?;
        if output.source().is_none() {
            return Ok(None);
        }
        let name = stage.name().unwrap_or_default();
        (TimestampSource::Source(output), format!("[internal] resolve {NAME} source stage {name}"))
    };
    let time = resolver.timestamp(TimestampRequest { source, log_name }).await.map_err(Cause::Context)?;
    Ok(time)
}

/// The only source of a stage that does nothing but add it.
fn stage_source(stage: &Stage, dockerfile: &Dockerfile, options: &Options, globals: &Globals) -> Result<Output, Error> {
    let rules = Expander::new(dockerfile.escape);
    let mut env = globals.env.clone();
    env.remove(NAME);
    if rules.process_word(stage.base(), &env)? != SCRATCH {
        return Err(Error::new(Cause::EpochBase));
    }
    let mut source = None;
    for instruction in &stage.instructions {
        match instruction {
            Instruction::Arg(arg) => declare(&mut env, arg, &options.build_args, rules)?,
            Instruction::Add(_) if source.is_some() => return Err(Error::new(Cause::EpochOneAdd)),
            Instruction::Add(add) => source = Some(add_source(add, &env, rules)?),
            other => {
                let keyword = other.head().keyword.text.clone();
                return Err(Error::new(Cause::EpochInstruction(keyword)));
            }
        }
    }
    source.ok_or_else(|| Error::new(Cause::EpochOneAdd))
}

fn declare(env: &mut Env, arg: &Arg, build_args: &BTreeMap<String, String>, rules: Expander) -> Result<(), Error> {
    for pair in &arg.pairs {
        let name = &pair.name.text;
        let value = match (build_args.get(name), &pair.default) {
            (Some(value), _) => value.clone(),
            (None, Some(default)) => rules.process_word(&default.text, env)?,
            (None, None) => continue,
        };
        env.set(name.clone(), value);
    }
    Ok(())
}

fn add_source(add: &Add, env: &Env, rules: Expander) -> Result<Output, Cause> {
    let ([source], []) = (add.operands.paths.as_slice(), add.operands.files.as_slice()) else {
        return Err(Cause::EpochOneSource);
    };
    let url = rules.process_word(&source.text, env)?;
    let checksum = match &add.checksum {
        Some(checksum) => rules.process_word(&checksum.text, env)?,
        None => String::new(),
    };
    match GitRef::parse(&url) {
        Ok(git) if !git.ambiguous => {
            let keep_git_dir = add.keep_git_dir == Some(true) || git.keep_git_dir == Some(true);
            let checksum = if checksum.is_empty() { git.checksum.clone() } else { checksum };
            let options = Git { keep_git_dir, checksum, mtime: String::new(), fetch_by_commit: false, ..git.source() };
            Ok(options.output(&git.remote, Meta::default())?)
        }
        Err(error) if error.is_git() => Err(error.into()),
        _ if url.starts_with("http://") || url.starts_with("https://") => {
            let checksum = if checksum.is_empty() { None } else { Some(checksum.parse()?) };
            let filename = Some(super::instruction::url_file_name(&url));
            Ok(Http { checksum, filename, ..Http::default() }.output(&url, Meta::default()))
        }
        _ => Err(Cause::EpochSource),
    }
}
