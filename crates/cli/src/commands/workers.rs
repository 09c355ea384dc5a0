//! `workers`: who builds, for which platforms, with which limits.

use clap::Args;
use cooper_oci::Platform;
use cooper_wire::control::ListWorkersRequest;
use cooper_wire::{pb, types};
use serde_json::{Value, json};
use tonic::transport::Channel;

use super::info::version_json;
use super::{list, print_formatted, template};
use crate::client::control;
use crate::error::{CliError, Result, print};
use crate::table::{Fill, Table};
use crate::units::Bytes;

/// Flags.
#[derive(Debug, Args)]
pub struct WorkersFlags {
    /// Filter workers
    #[arg(short, long)]
    pub filter: Vec<String>,
    /// Verbose output
    #[arg(short, long)]
    pub verbose: bool,
    /// Format the output using the given Go template, e.g. '{{json .}}'
    #[arg(long)]
    pub format: Option<String>,
}

/// Runs it.
pub async fn run(channel: Channel, flags: WorkersFlags) -> Result<()> {
    let template = template(flags.format.as_deref())?;
    let request = ListWorkersRequest { filter: flags.filter };
    let response = control(channel).list_workers(request).await.map_err(CliError::rpc("failed to list workers"))?;
    let workers = response.into_inner().record;
    match template {
        Some(template) => print_formatted(&template, &list(workers.iter().map(json))),
        None if flags.verbose => print(&verbose(&workers)),
        None => print(&short(&workers)),
    }
}

fn platform(platform: &pb::Platform) -> Platform {
    Platform {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        os_version: platform.os_version.clone(),
        os_features: platform.os_features.clone(),
        variant: platform.variant.clone(),
    }
}

fn platforms(worker: &types::WorkerRecord) -> String {
    let names: Vec<_> = worker.platforms.iter().map(|p| platform(p).normalized().to_string()).collect();
    names.join(",")
}

fn json(worker: &types::WorkerRecord) -> Value {
    let policy = |policy: &types::GcPolicy| {
        json!({
            "all": policy.all,
            "filter": if policy.filters.is_empty() { Value::Null } else { json!(policy.filters) },
            "keepDuration": policy.keep_duration,
            "reservedSpace": policy.reserved_space,
            "maxUsedSpace": policy.max_used_space,
            "minFreeSpace": policy.min_free_space,
        })
    };
    let device = |device: &types::CdiDevice| json!({"name": device.name, "autoAllow": device.auto_allow, "annotations": device.annotations, "onDemand": device.on_demand});
    let devices: Vec<_> = worker.cdi_devices.iter().map(device).collect();
    json!({
        "id": worker.id,
        "labels": worker.labels,
        "platforms": worker.platforms.iter().map(platform).collect::<Vec<_>>(),
        "gcPolicy": worker.gc_policy.iter().map(policy).collect::<Vec<_>>(),
        "buildkitVersion": version_json(worker.buildkit_version.as_ref()),
        "cdiDevices": if devices.is_empty() { Value::Null } else { Value::Array(devices) },
    })
}

fn short(workers: &[types::WorkerRecord]) -> String {
    let mut table = Table::new(Fill::Tabs);
    table.line(["ID", "PLATFORMS"]);
    for worker in workers {
        table.line([&worker.id, &platforms(worker)]);
    }
    table.finish()
}

fn verbose(workers: &[types::WorkerRecord]) -> String {
    let mut table = Table::new(Fill::Tabs);
    for worker in workers {
        let version = worker.buildkit_version.clone().unwrap_or_default();
        table.line(["ID:", &worker.id]);
        table.line(["Platforms:", &platforms(worker)]);
        table.line(["BuildKit:", &format!("{} {} {}", version.package, version.version, version.revision)]);
        if !version.dockerfile_version.is_empty() {
            table.line(["Dockerfile:", &version.dockerfile_version]);
        }
        table.line(["Labels:"]);
        for (key, value) in &worker.labels {
            table.line(["", &format!("{key}:"), value]);
        }
        if !worker.cdi_devices.is_empty() {
            table.line(["Devices:"]);
            for device in &worker.cdi_devices {
                table.line(["", "Name:", &device.name]);
                if device.on_demand {
                    table.line(["", "OnDemand:", "true"]);
                } else {
                    table.line(["", "AutoAllow:", &device.auto_allow.to_string()]);
                }
                for (key, value) in &device.annotations {
                    table.line(["", "Annotations:", &format!("{key}:"), value]);
                }
            }
            table.line([""]);
        }
        for (index, policy) in worker.gc_policy.iter().enumerate() {
            gc_policy(&mut table, index, policy);
        }
        table.line([""]);
    }
    table.finish()
}

fn gc_policy(table: &mut Table, index: usize, policy: &types::GcPolicy) {
    table.line([&format!("GC Policy rule#{index}:")]);
    table.line(["", "All:", &policy.all.to_string()]);
    if !policy.filters.is_empty() {
        table.line(["", "Filters:", &policy.filters.join(" ")]);
    }
    if policy.keep_duration > 0 {
        table.line(["", "Keep duration:", &go_duration(policy.keep_duration)]);
    }
    for (name, bytes) in [
        ("Reserved space:", policy.reserved_space),
        ("Minimum free space:", policy.min_free_space),
        ("Maximum used space:", policy.max_used_space),
    ] {
        if bytes > 0 {
            table.line(["", name, &Bytes(bytes).short()]);
        }
    }
}

/// `48h0m0s`, as Go prints durations of a second and more.
fn go_duration(nanos: i64) -> String {
    let seconds = nanos / 1_000_000_000;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let fraction = nanos % 1_000_000_000;
    let mut rest = format!("{}", seconds % 60);
    if fraction > 0 {
        rest.push_str(format!(".{fraction:09}").trim_end_matches('0'));
    }
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, minutes) => format!("{minutes}m{rest}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{rest}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts() {
        let worker = types::WorkerRecord {
            id: "w1".into(),
            labels: [("org.example.executor".to_owned(), "oci".to_owned()), ("b".into(), "c".into())].into(),
            platforms: vec![
                pb::Platform { os: "linux".into(), architecture: "amd64".into(), ..pb::Platform::default() },
                pb::Platform {
                    os: "linux".into(),
                    architecture: "arm".into(),
                    variant: "v6".into(),
                    ..pb::Platform::default()
                },
            ],
            gc_policy: vec![types::GcPolicy {
                filters: vec!["type==source.local".into()],
                keep_duration: 172_800_000_000_000,
                max_used_space: 512_000_000,
                min_free_space: 1_500_000_000,
                ..types::GcPolicy::default()
            }],
            buildkit_version: Some(types::BuildkitVersion {
                package: "p".into(),
                version: "v1".into(),
                revision: "r".into(),
                dockerfile_version: "1.2".into(),
            }),
            ..types::WorkerRecord::default()
        };
        insta::assert_snapshot!(short(std::slice::from_ref(&worker)));
        insta::assert_snapshot!(verbose(std::slice::from_ref(&worker)));
        insta::assert_snapshot!(json(&worker));
        assert_eq!(go_duration(90_500_000_000), "1m30.5s");
    }
}
