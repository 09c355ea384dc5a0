//! Build records: `debug histories`, `debug ctl`, `prune-histories`.

use clap::Args;
use cooper_wire::control::{
    BuildHistoryEvent, BuildHistoryEventType, BuildHistoryRecord, BuildHistoryRequest, BuildResultInfo, Descriptor,
    UpdateBuildHistoryRequest,
};
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::client::control;
use crate::commands::{print_formatted, template};
use crate::error::{CliError, Result, print};
use crate::table::{Fill, Table};
use crate::timestamp;

/// Flags of the two lists.
#[derive(Debug, Args)]
pub struct HistoriesFlags {
    /// Format every record using the given Go template, e.g. '{{json .}}'
    #[arg(long)]
    format: Option<String>,
}

/// Flags of `debug ctl`.
#[derive(Debug, Args)]
pub struct CtlFlags {
    /// Pin build so it will not be garbage collected
    #[arg(long)]
    pin: bool,
    /// Unpin build so it will be garbage collected
    #[arg(long)]
    unpin: bool,
    /// Delete build record
    #[arg(long)]
    delete: bool,
    /// Build ref
    reference: Option<String>,
}

/// `debug histories`.
pub async fn list(channel: Channel, flags: HistoriesFlags) -> Result<()> {
    let events = events(channel, EARLY_EXIT.clone()).await?;
    show(&flags, &events, true)
}

/// `prune-histories`: deletes what is not pinned and prints it. One failure does not stop the rest.
pub async fn prune(channel: Channel, flags: HistoriesFlags) -> Result<()> {
    let mut deleted = Vec::new();
    let mut failed = Ok(());
    for event in events(channel.clone(), EARLY_EXIT.clone()).await? {
        let Some(record) = event.record.as_ref().filter(|record| !record.pinned) else { continue };
        let request = UpdateBuildHistoryRequest { r#ref: record.r#ref.clone(), delete: true, ..Default::default() };
        match control(channel.clone()).update_build_history(request).await {
            Ok(_) => deleted.push(event),
            Err(status) => failed = Err(CliError::rpc("failed to delete a build record")(status)),
        }
    }
    show(&flags, &deleted, false)?;
    failed
}

/// `debug ctl`.
pub async fn ctl(channel: Channel, flags: CtlFlags) -> Result<()> {
    let usage = |text: &str| Err(CliError::Usage(text.into()));
    let CtlFlags { pin, unpin, delete, reference } = flags;
    let Some(reference) = reference else { return usage("build ref must be specified") };
    match (pin, unpin, delete) {
        (false, false, false) => return usage("must specify one of --pin, --unpin, --delete"),
        (true, true, _) => return usage("cannot specify both --pin and --unpin"),
        (true, _, true) | (_, true, true) => return usage("cannot specify --delete with --pin or --unpin"),
        _ => {}
    }
    let request = UpdateBuildHistoryRequest { r#ref: reference, pinned: pin, delete, ..Default::default() };
    control(channel).update_build_history(request).await.map_err(CliError::rpc("failed to update the record"))?;
    Ok(())
}

const EARLY_EXIT: BuildHistoryRequest =
    BuildHistoryRequest { active_only: false, r#ref: String::new(), early_exit: true, filter: Vec::new(), limit: 0 };

/// All events of a request that ends.
pub async fn events(channel: Channel, request: BuildHistoryRequest) -> Result<Vec<BuildHistoryEvent>> {
    let fault = || CliError::rpc("failed to list build records");
    let mut stream = control(channel).listen_build_history(request).await.map_err(fault())?.into_inner();
    let mut events = Vec::new();
    while let Some(event) = stream.message().await.map_err(fault())? {
        events.push(event);
    }
    Ok(events)
}

/// The protocol's name of an event's type.
pub fn type_name(event: &BuildHistoryEvent) -> &'static str {
    BuildHistoryEventType::try_from(event.r#type).map_or("UNKNOWN", |kind| kind.as_str_name())
}

fn show(flags: &HistoriesFlags, events: &[BuildHistoryEvent], pins: bool) -> Result<()> {
    if let Some(template) = template(flags.format.as_deref())? {
        return events.iter().try_for_each(|event| print_formatted(&template, &event_json(event)));
    }
    let mut table = Table::new(Fill::Tabs);
    if pins {
        table.line(["TYPE", "REF", "CREATED", "COMPLETED", "GENERATION", "PINNED"]);
    } else {
        table.line(["TYPE", "REF", "CREATED", "COMPLETED", "GENERATION"]);
    }
    for event in events {
        let record = event.record.clone().unwrap_or_default();
        let time = |at: Option<prost_types::Timestamp>| at.map(timestamp::local).unwrap_or_default();
        let (created, completed) = (time(record.created_at), time(record.completed_at));
        let generation = record.generation.to_string();
        if pins {
            let pinned = if record.pinned { "*" } else { "" };
            table.line([type_name(event), &record.r#ref, &created, &completed, &generation, pinned]);
        } else {
            table.line([type_name(event), &record.r#ref, &created, &completed, &generation]);
        }
    }
    print(&table.finish())
}

fn event_json(event: &BuildHistoryEvent) -> Value {
    let mut json = json!({});
    if event.r#type != 0 {
        json["type"] = event.r#type.into();
    }
    if let Some(record) = &event.record {
        json["record"] = record_json(record);
    }
    json
}

/// A record with Go's names; members without a value are left out.
fn record_json(record: &BuildHistoryRecord) -> Value {
    let time = |at: &prost_types::Timestamp| json!({"seconds": at.seconds, "nanos": at.nanos});
    let blob = |d: &Descriptor| json!({"media_type": d.media_type, "digest": d.digest, "size": d.size, "annotations": d.annotations});
    let info = |info: &BuildResultInfo| {
        let attestations: Vec<Value> = info.attestations.iter().map(blob).collect();
        let results: serde_json::Map<_, _> = info.results.iter().map(|(i, d)| (i.to_string(), blob(d))).collect();
        json!({"Attestations": attestations, "Results": results})
    };
    let optional = |d: &Option<Descriptor>| d.as_ref().map_or(Value::Null, blob);
    let by_platform: serde_json::Map<_, _> = record.results.iter().map(|(key, r)| (key.clone(), info(r))).collect();
    let exporters: Vec<_> = record.exporters.iter().map(|e| json!({"Type": e.r#type, "Attrs": e.attrs})).collect();
    let members = [
        ("Ref", json!(record.r#ref)),
        ("Frontend", json!(record.frontend)),
        ("FrontendAttrs", json!(record.frontend_attrs)),
        ("Exporters", Value::Array(exporters)),
        ("error", record.error.as_ref().map_or(Value::Null, |e| json!({"code": e.code, "message": e.message}))),
        ("CreatedAt", record.created_at.as_ref().map_or(Value::Null, time)),
        ("CompletedAt", record.completed_at.as_ref().map_or(Value::Null, time)),
        ("logs", optional(&record.logs)),
        ("ExporterResponse", json!(record.exporter_response)),
        ("Result", record.result.as_ref().map_or(Value::Null, info)),
        ("Results", Value::Object(by_platform)),
        ("trace", optional(&record.trace)),
        ("externalError", optional(&record.external_error)),
        ("Generation", json!(record.generation)),
        ("pinned", json!(record.pinned)),
        ("numCachedSteps", json!(record.num_cached_steps)),
        ("numTotalSteps", json!(record.num_total_steps)),
        ("numCompletedSteps", json!(record.num_completed_steps)),
        ("numWarnings", json!(record.num_warnings)),
    ];
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
    };
    let kept = members.into_iter().filter(|(_, value)| !empty(value));
    Value::Object(kept.map(|(name, value)| (name.to_owned(), value)).collect())
}
