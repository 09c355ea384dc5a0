//! `debug monitor`: build events as they happen.

use std::fmt::Write as _;

use clap::Args;
use cooper_wire::control::{BuildHistoryEvent, BuildHistoryRequest, BuildResultInfo, Descriptor};
use tonic::transport::Channel;

use super::histories::type_name;
use crate::client::control;
use crate::error::{CliError, Result, print};

/// Flags.
#[derive(Debug, Args)]
pub struct MonitorFlags {
    /// Show completed builds
    #[arg(long)]
    completed: bool,
    /// Show events for a specific build
    #[arg(long = "ref", value_name = "REF", default_value = "", hide_default_value = true)]
    reference: String,
}

/// Runs until the daemon ends the stream.
pub async fn run(channel: Channel, flags: MonitorFlags) -> Result<()> {
    let fault = || CliError::rpc("failed to listen to build events");
    let request = BuildHistoryRequest { active_only: !flags.completed, r#ref: flags.reference, ..Default::default() };
    let mut events = control(channel).listen_build_history(request).await.map_err(fault())?.into_inner();
    while let Some(event) = events.message().await.map_err(fault())? {
        print(&text(&event))?;
    }
    Ok(())
}

fn text(event: &BuildHistoryEvent) -> String {
    let record = event.record.clone().unwrap_or_default();
    let mut out = format!("event: {} ref:{}\n", type_name(event), record.r#ref);
    if record.num_total_steps != 0 {
        let _ = writeln!(out, "  cache: {}/{}", record.num_cached_steps, record.num_total_steps);
    }
    if record.num_warnings != 0 {
        let _ = writeln!(out, "  warnings: {}", record.num_warnings);
    }
    for (name, descriptor) in [("logs", &record.logs), ("trace", &record.trace)] {
        if let Some(descriptor) = descriptor {
            let _ = writeln!(out, "  {name}: {}", short(descriptor));
        }
    }
    if let Some(result) = &record.result {
        describe(result, "", &mut out);
    }
    for (platform, result) in &record.results {
        describe(result, &format!("[{platform}] "), &mut out);
    }
    out
}

fn describe(result: &BuildResultInfo, prefix: &str, out: &mut String) {
    let deprecated = result.result_deprecated.iter().filter(|_| result.results.is_empty());
    for descriptor in result.results.values().chain(deprecated) {
        let _ = writeln!(out, "  {prefix}descriptor: {}", short(descriptor));
    }
    for attestation in &result.attestations {
        let _ = writeln!(out, "  {prefix}attestation: {}", short(attestation));
    }
}

fn short(descriptor: &Descriptor) -> String {
    format!("media_type:{:?} digest:{:?} size:{}", descriptor.media_type, descriptor.digest, descriptor.size)
}
