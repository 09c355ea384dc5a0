//! `du`: what the build cache holds.

use clap::Args;
use cooper_wire::control::{DiskUsageRequest, UsageRecord};
use serde_json::{Value, json};
use tonic::transport::Channel;

use super::{list, print_formatted, template};
use crate::client::control;
use crate::error::{CliError, Result, print};
use crate::table::{Fill, Table};
use crate::timestamp;
use crate::units::Bytes;

/// Flags.
#[derive(Debug, Args)]
pub struct DuFlags {
    /// Filter records, e.g. type==regular (may be given several times; any must match)
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
pub async fn run(channel: Channel, flags: DuFlags) -> Result<()> {
    let template = template(flags.format.as_deref())?;
    let unfiltered = flags.filter.is_empty();
    let request = DiskUsageRequest { filter: flags.filter, ..DiskUsageRequest::default() };
    let response = control(channel).disk_usage(request).await.map_err(CliError::rpc("failed to call diskusage"))?;
    let mut records = response.into_inner().record;
    records.sort_by(|a, b| (a.size, &a.id).cmp(&(b.size, &b.id)));
    if let Some(template) = template {
        return print_formatted(&template, &list(records.iter().map(json)));
    }
    let mut text = if flags.verbose { verbose(&records) } else { short(&records) };
    if unfiltered {
        text.push_str(&summary(&records));
    }
    print(&text)
}

/// A record as Go clients write it.
pub fn json(record: &UsageRecord) -> Value {
    json!({
        "id": record.id,
        "mutable": record.mutable,
        "inUse": record.in_use,
        "size": record.size,
        "createdAt": record.created_at.map(timestamp::rfc3339),
        "lastUsedAt": record.last_used_at.map(timestamp::rfc3339),
        "usageCount": record.usage_count,
        "parents": if record.parents.is_empty() { Value::Null } else { json!(record.parents) },
        "description": record.description,
        "recordType": record.record_type,
        "shared": record.shared,
    })
}

/// Headings of [`row`].
pub const HEADER: &str = "ID\t\t\t\t\t\t\t\t\tRECLAIMABLE\tSIZE\t\tLAST ACCESSED\n";

/// One line of the short table. Columns have fixed widths, so that lines can be printed as they come.
pub fn row(record: &UsageRecord) -> String {
    let [id, reclaimable, size] = cells(record);
    let gap = if size.len() < 8 { "\t\t" } else { "\t" };
    format!("{id}\t{reclaimable}\t{size}{gap}\n")
}

fn short(records: &[UsageRecord]) -> String {
    let mut table = Table::new(Fill::Tabs);
    table.line(["ID", "RECLAIMABLE", "SIZE", "LAST ACCESSED"]);
    for record in records {
        let [id, reclaimable, size] = cells(record);
        table.line([&id, &reclaimable, &size, ""]);
    }
    table.finish()
}

fn cells(record: &UsageRecord) -> [String; 3] {
    let id = format!("{}{}", record.id, if record.mutable { "*" } else { "" });
    let size = format!("{}{}", Bytes(record.size), if record.shared { "*" } else { "" });
    [format!("{id:<71}"), format!("{:<11}", !record.in_use), size]
}

/// Everything about each record, one `key: value` per line.
pub fn verbose(records: &[UsageRecord]) -> String {
    let mut table = Table::new(Fill::Tabs);
    for record in records {
        let mut line = |key: &str, value: &str| table.line([&format!("{key}:"), value]);
        line("ID", &record.id);
        if !record.parents.is_empty() {
            line("Parents", &record.parents.join(";"));
        }
        line("Created at", &timestamp::go_string(record.created_at.unwrap_or_default()));
        line("Mutable", &record.mutable.to_string());
        line("Reclaimable", &(!record.in_use).to_string());
        line("Shared", &record.shared.to_string());
        line("Size", &Bytes(record.size).to_string());
        if !record.description.is_empty() {
            line("Description", &record.description);
        }
        line("Usage count", &record.usage_count.to_string());
        if let Some(used) = record.last_used_at {
            line("Last used", &timestamp::go_string(used));
        }
        if !record.record_type.is_empty() {
            line("Type", &record.record_type);
        }
        table.line([""]);
    }
    table.finish()
}

fn summary(records: &[UsageRecord]) -> String {
    let sum = |wanted: fn(&&UsageRecord) -> bool| Bytes(records.iter().filter(wanted).map(|r| r.size.max(0)).sum());
    let (total, shared) = (sum(|_| true), sum(|record| record.shared));
    let mut table = Table::new(Fill::Tabs);
    if shared.0 > 0 {
        table.line(["Shared:", &shared.to_string()]);
        table.line(["Private:", &Bytes(total.0 - shared.0).to_string()]);
    }
    table.line(["Reclaimable:", &sum(|record| !record.in_use).to_string()]);
    table.line(["Total:", &total.to_string()]);
    table.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<UsageRecord> {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 120_000_000 });
        let base = UsageRecord {
            id: "jq0cgxwdm1h9ez8g7hdoy6jwf".into(),
            size: 1_234_567,
            created_at: at(1_700_000_000),
            usage_count: 2,
            record_type: "regular".into(),
            ..UsageRecord::default()
        };
        let shared = UsageRecord {
            id: "2".into(),
            in_use: true,
            mutable: true,
            shared: true,
            size: 42,
            parents: vec!["a".into(), "b".into()],
            description: "local source for context".into(),
            last_used_at: at(1_700_000_001),
            ..base.clone()
        };
        vec![base, shared]
    }

    #[test]
    fn layouts() {
        insta::assert_snapshot!(short(&records()) + &summary(&records()));
        insta::assert_snapshot!(verbose(&records()));
        insta::assert_snapshot!(json(&records()[1]));
    }
}
