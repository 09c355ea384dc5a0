//! `prune`: forget build cache.

use clap::Args;
use cooper_daemon::config::{GoDuration, parse_go_duration};
use cooper_wire::control::PruneRequest;
use tonic::transport::Channel;

use super::{du, print_formatted, template};
use crate::client::control;
use crate::error::{CliError, Result, print};
use crate::units::Bytes;

/// Flags.
#[derive(Debug, Args)]
pub struct PruneFlags {
    /// Keep data newer than this limit, e.g. 24h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub keep_duration: Option<GoDuration>,
    /// Keep data below this limit (in MB)
    #[arg(long, value_name = "MB", default_value_t = 0.0, hide_default_value = true)]
    pub keep_storage: f64,
    /// Always allow data above this limit (in MB)
    #[arg(long, value_name = "MB", default_value_t = 0.0, hide_default_value = true)]
    pub keep_storage_min: f64,
    /// Keep free data below this limit (in MB)
    #[arg(long, value_name = "MB", default_value_t = 0.0, hide_default_value = true)]
    pub free_storage: f64,
    /// Filter records
    #[arg(short, long)]
    pub filter: Vec<String>,
    /// Include internal/frontend references
    #[arg(long)]
    pub all: bool,
    /// Verbose output
    #[arg(short, long)]
    pub verbose: bool,
    /// Format every record using the given Go template, e.g. '{{json .}}'
    #[arg(long)]
    pub format: Option<String>,
}

fn duration(text: &str) -> Result<GoDuration, String> {
    parse_go_duration(text).map(GoDuration)
}

fn megabytes(amount: f64) -> i64 {
    (amount * 1e6) as i64
}

/// Runs it, printing records as they are deleted.
pub async fn run(channel: Channel, flags: PruneFlags) -> Result<()> {
    let template = template(flags.format.as_deref())?;
    let keep = flags.keep_duration.unwrap_or_default().0;
    let request = PruneRequest {
        filter: flags.filter,
        all: flags.all,
        keep_duration: i64::try_from(keep.as_nanos()).unwrap_or(i64::MAX),
        reserved_space: megabytes(flags.keep_storage_min),
        max_used_space: megabytes(flags.keep_storage),
        min_free_space: megabytes(flags.free_storage),
    };
    let fault = || CliError::rpc("failed to call prune");
    let mut records = control(channel).prune(request).await.map_err(fault())?.into_inner();
    let (mut total, mut first) = (0, true);
    while let Some(record) = records.message().await.map_err(fault())? {
        total += record.size;
        if let Some(template) = &template {
            print_formatted(template, &du::json(&record))?;
        } else if flags.verbose {
            print(&du::verbose(&[record]))?;
        } else {
            let header = if std::mem::take(&mut first) { du::HEADER } else { "" };
            print(&format!("{header}{}", du::row(&record)))?;
        }
    }
    if template.is_none() {
        print(&format!("Total:\t{}\n", Bytes(total)))?;
    }
    Ok(())
}
