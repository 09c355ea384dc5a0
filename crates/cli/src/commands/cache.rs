//! `cache`: exports that go on behind builds, and expired entries of remote caches.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use cooper_daemon::registries;
use cooper_registry::{DockerConfig, Options, Registry};
use cooper_remote_cache::{Backend, Collect, Collected, GRACE, RegistryCache, Role, collect, open_store};
use cooper_wire::control::CacheOptionsEntry;
use cooper_wire::cooperage::caches_client::CachesClient;
use cooper_wire::cooperage::{CacheExport, ListExportsRequest};
use jiff::Timestamp;
use serde_json::{Value, json};
use tonic::transport::Channel;

use super::{print_formatted, template};
use crate::client::cache::parse_imports;
use crate::client::local_cache;
use crate::client::pairs::process_env;
use crate::error::{CliError, Result, print};
use crate::table::{Fill, Table};
use crate::timestamp;
use crate::units::Bytes;

/// What to do.
#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// Show cache exports that go on, or went on, after their builds had returned (async=true)
    Status(StatusFlags),
    /// Delete what has expired (ttl=) from remote caches
    Gc(GcFlags),
}

/// Flags of `cache status`.
#[derive(Debug, Args)]
pub struct StatusFlags {
    #[command(flatten)]
    pub engine: crate::cooper::EmbeddedFlags,
    /// Format every export using the given Go template, e.g. '{{json .}}'
    #[arg(long)]
    format: Option<String>,
}

/// Flags of `cache gc`.
#[derive(Debug, Args)]
pub struct GcFlags {
    /// The caches, as --cache-to and --cache-from name them (e.g. user/app:cache, type=local,dest=DIR, type=s3,…)
    #[arg(value_name = "SPEC", required = true)]
    specs: Vec<String>,
    /// Only say what would be deleted
    #[arg(long)]
    dry_run: bool,
    /// Keep layers that nothing names for so long: exports may be about to name them
    #[arg(long, value_name = "HOURS", default_value_t = GRACE.as_secs() / 3600)]
    keep_hours: u64,
    /// Configuration file with [registry] sections
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// `cache status`.
pub async fn status(channel: Channel, flags: StatusFlags) -> Result<()> {
    let template = template(flags.format.as_deref())?;
    let fault = || CliError::rpc("failed to list cache exports");
    let exports = CachesClient::new(channel).list_exports(ListExportsRequest {}).await.map_err(fault())?;
    let exports = exports.into_inner().exports;
    if let Some(template) = template {
        return exports.iter().try_for_each(|export| print_formatted(&template, &export_json(export)));
    }
    let mut table = Table::new(Fill::Blanks);
    table.line(["STATE", "SENT", "STARTED", "BUILD", "CACHE"]);
    for export in &exports {
        let started = export.started.map(timestamp::local).unwrap_or_default();
        table.line([state(export), &bytes(export.sent), &started, &export.build, &export.cache]);
        if !export.error.is_empty() {
            table.line(["", "", "", "", &format!("  {}", export.error)]);
        }
    }
    print(&table.finish())
}

fn state(export: &CacheExport) -> &'static str {
    match (&export.ended, export.error.is_empty()) {
        (None, _) => "running",
        (Some(_), true) => "done",
        (Some(_), false) => "failed",
    }
}

fn export_json(export: &CacheExport) -> Value {
    let time = |at: &prost_types::Timestamp| Timestamp::new(at.seconds, at.nanos).ok().map(|t| t.to_string());
    json!({
        "id": export.id,
        "build": export.build,
        "cache": export.cache,
        "state": state(export),
        "started": export.started.as_ref().and_then(time),
        "ended": export.ended.as_ref().and_then(time),
        "error": export.error,
        "sentBytes": export.sent,
    })
}

/// `cache gc`. Asks no builder: caches are reached with this client's own rights. One failure does not stop the rest.
pub async fn gc(flags: GcFlags) -> Result<()> {
    let options = Collect {
        now: Timestamp::now(),
        grace: Duration::from_secs(flags.keep_hours.saturating_mul(3600)),
        dry_run: flags.dry_run,
    };
    let mut failed = Ok(());
    for entry in parse_imports(&flags.specs, "SPEC", &process_env)? {
        match one(&entry, options, flags.config.as_ref()).await {
            Ok((name, done)) => print(&told(&name, &done, flags.dry_run))?,
            Err(error) => {
                if let Err(earlier) = std::mem::replace(&mut failed, Err(error)) {
                    eprintln!("ERROR: {earlier}");
                }
            }
        }
    }
    failed
}

async fn one(entry: &CacheOptionsEntry, options: Collect, config: Option<&PathBuf>) -> Result<(String, Collected)> {
    let fault = |e: cooper_remote_cache::Error| {
        let mut text = e.to_string();
        let mut cause = std::error::Error::source(&e);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        CliError::Unsupported(text)
    };
    let backend: Arc<dyn Backend> = match entry.r#type.as_str() {
        "local" => {
            let dir = ["dest", "src"].iter().find_map(|key| entry.attrs.get(*key)).filter(|dir| !dir.is_empty());
            let dir = dir.ok_or_else(|| CliError::Usage("a local cache requires dest=DIR or src=DIR".into()))?;
            return Ok((format!("local cache {dir}"), local_cache::collect(dir, options)?));
        }
        "registry" => Arc::new(registry(&entry.attrs, config)?),
        kind => match open_store(kind, &entry.attrs, Role::Export, &Arc::default()) {
            Some(opened) => opened.map_err(fault)?,
            None => return Err(CliError::Usage(format!("unknown kind of cache: {kind:?}"))),
        },
    };
    let done = collect(backend.as_ref(), options).await.map_err(fault)?;
    Ok((backend.name(), done))
}

fn registry(attrs: &BTreeMap<String, String>, config: Option<&PathBuf>) -> Result<RegistryCache> {
    let hosts = registries(&crate::cooper::configuration_file(config))?;
    let client = Registry::new(hosts, Options::default()).client(Arc::new(DockerConfig::from_env()));
    RegistryCache::open(attrs, client).map_err(|error| CliError::Usage(error.to_string()))
}

fn told(name: &str, done: &Collected, dry_run: bool) -> String {
    let would = if dry_run { "would delete " } else { "deleted " };
    let note = done.note.filter(|_| done.results > 0).map(|note| format!("; {note}")).unwrap_or_default();
    format!("{name}: {would}{} expired results and {} blobs ({}){note}\n", done.results, done.blobs, bytes(done.bytes))
}

fn bytes(count: u64) -> String {
    Bytes(i64::try_from(count).unwrap_or(i64::MAX)).to_string()
}
