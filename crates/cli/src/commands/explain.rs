//! `explain`: why the steps of a build were not cached.

use clap::{Args, ValueEnum};
use cooper_engine::explain::{ANNOTATION, Explanation, FileChange, Reason, StepExplained};
use cooper_wire::content::ReadContentRequest;
use cooper_wire::content::content_client::ContentClient;
use cooper_wire::control::control_client::ControlClient;
use cooper_wire::control::{BuildHistoryRecord, BuildHistoryRequest, UpdateBuildHistoryRequest};
use jiff::Timestamp;
use tonic::transport::Channel;

use crate::buildctl::events;
use crate::client::MAX_MESSAGE;
use crate::error::{CliError, Result, print};

/// Flags.
#[derive(Debug, Args)]
pub struct ExplainFlags {
    /// Ref of the build (default: the last one that has ended)
    #[arg(value_name = "REF")]
    reference: Option<String>,
    /// How the answer is written
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// One document, with the ref and the numbers of steps beside the steps.
    Json,
}

/// Runs it.
pub async fn run(channel: Channel, flags: ExplainFlags) -> Result<()> {
    let mut record = find(channel.clone(), flags.reference).await?;
    // Explanations are worked out behind their builds.
    let request = UpdateBuildHistoryRequest { r#ref: record.r#ref.clone(), finalize: true, ..Default::default() };
    let mut control = ControlClient::new(channel.clone());
    control.update_build_history(request).await.map_err(CliError::rpc("failed to wait for the explanation"))?;
    record = find(channel.clone(), Some(record.r#ref)).await?;
    let place = record.logs.as_ref().and_then(|log| log.annotations.get(ANNOTATION)).cloned();
    let explanation = match place {
        Some(digest) => read(channel, digest).await?,
        None => Explanation::default(),
    };
    match flags.format {
        Format::Text => print(&text(&record, &explanation)),
        Format::Json => print(&format!("{}\n", json(&record, &explanation))),
    }
}

/// The record of a build that has ended.
async fn find(channel: Channel, reference: Option<String>) -> Result<BuildHistoryRecord> {
    let wanted = reference.clone().unwrap_or_default();
    let request = BuildHistoryRequest { early_exit: true, r#ref: wanted, ..Default::default() };
    let records = events(channel, request).await?.into_iter().filter_map(|event| event.record);
    let ended = records.filter(|record| record.completed_at.is_some());
    let newest = ended.max_by_key(|r| r.created_at.map(|at| (at.seconds, at.nanos)));
    newest.ok_or_else(|| {
        CliError::Usage(match reference {
            Some(reference) => format!("no record of build {reference}: it never ran here, still runs, or was deleted"),
            None => "no build has ended here yet".into(),
        })
    })
}

async fn read(channel: Channel, digest: String) -> Result<Explanation> {
    let fault = || CliError::rpc("failed to read the explanation");
    let mut client = ContentClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let mut pieces =
        client.read(ReadContentRequest { digest, offset: 0, size: 0 }).await.map_err(fault())?.into_inner();
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.message().await.map_err(fault())? {
        bytes.extend_from_slice(&piece.data);
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| CliError::Unsupported(format!("the explanation of the build cannot be read: {error}")))
}

fn json(record: &BuildHistoryRecord, explanation: &Explanation) -> serde_json::Value {
    serde_json::json!({
        "ref": record.r#ref,
        "cachedSteps": record.num_cached_steps,
        "totalSteps": record.num_total_steps,
        "steps": explanation.steps,
        "failedImports": explanation.failed_imports,
    })
}

fn text(record: &BuildHistoryRecord, explanation: &Explanation) -> String {
    let missed = explanation.steps.len();
    let what = match missed {
        0 => "every step was cached".to_owned(),
        1 => "1 step was not cached".to_owned(),
        n => format!("{n} steps were not cached"),
    };
    let mut text = format!("build {}: {what}\n", record.r#ref);
    for import in &explanation.failed_imports {
        text.extend(["cache ", &import.cache, " could not be imported: ", &import.error, "\n"]);
    }
    for step in &explanation.steps {
        let failed = if step.failed { " (failed)" } else { "" };
        text.extend(["\n", &step.name, failed, "\n    ", &reason(step), "\n"]);
    }
    text
}

fn reason(step: &StepExplained) -> String {
    let or_unset = |value: &Option<String>| value.as_deref().map_or("not set".to_owned(), |v| format!("{v:?}"));
    match &step.reason {
        Reason::NoCache => "no-cache was asked for".into(),
        Reason::NeverSeen => "never seen before".into(),
        Reason::Evicted { at, by } => format!("its result was removed at {} by {by}", time(*at)),
        Reason::ImportFailed { cache, error } => {
            format!("never seen before here, and cache {cache} could not be imported: {error}")
        }
        Reason::Lost { cache } => format!("{cache} has it, but a layer of it could not be had"),
        Reason::NotExported { cache } => format!("{cache} knows it, but not its result (exported with mode=min)"),
        Reason::NotKept => "it was made before, but its result was not kept".into(),
        Reason::Instruction { from, to } => format!("the instruction changed\n    - {from}\n    + {to}"),
        Reason::Platform { from, to } => format!("the platform changed: {from} -> {to}"),
        Reason::Variable { name, argument, from, to } => {
            let what = if *argument { "build argument" } else { "variable" };
            format!("{what} {name} changed: {} -> {}", or_unset(from), or_unset(to))
        }
        Reason::Source { what, name, from, to } if name == to => format!("another {what}: {from} -> {to}"),
        Reason::Source { what, name, from, to } => format!("{what} {name} changed: {from} -> {to}"),
        Reason::Part { name, from, to } => format!("{name} changed: {} -> {}", or_unset(from), or_unset(to)),
        Reason::Definition => "its definition changed".into(),
        Reason::File { input, path, change, from, to, others } => {
            let place = if input.is_empty() { String::new() } else { format!(" (from {input})") };
            let more = match others {
                0 => String::new(),
                1 => ", and 1 other".to_owned(),
                n => format!(", and {n} others"),
            };
            format!("{}{more}{place}", file(path, *change, from.as_deref(), to.as_deref()))
        }
        Reason::Content { input } => format!("the files that it reads changed (from {input})"),
        Reason::Follows { step } => format!("follows {step}"),
        Reason::Input { from, to } if from.is_empty() => format!("lies on another step now: {to}"),
        Reason::Input { from, to } => format!("lies on another step now: {from} -> {to}"),
    }
}

fn file(path: &str, change: FileChange, from: Option<&str>, to: Option<&str>) -> String {
    let both = match (from, to) {
        (Some(from), Some(to)) => format!(": {from} -> {to}"),
        _ => String::new(),
    };
    match change {
        FileChange::Added => format!("file {path} is new"),
        FileChange::Removed => format!("file {path} is gone"),
        FileChange::Kind => format!("{path} is another kind of file{both}"),
        FileChange::Content => format!("the content of file {path} changed"),
        FileChange::Mode => format!("the mode of {path} changed{both}"),
        FileChange::Owner => format!("the owner of {path} changed{both}"),
        FileChange::Attributes => format!("the attributes of {path} changed"),
    }
}

fn time(millis: u64) -> String {
    i64::try_from(millis).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).map_or("?".into(), |t| t.to_string())
}
