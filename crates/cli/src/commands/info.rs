//! `info`: versions of the daemon.

use clap::Args;
use cooper_wire::control::InfoRequest;
use cooper_wire::types::BuildkitVersion;
use serde_json::{Value, json};
use tonic::transport::Channel;

use super::{print_formatted, template};
use crate::client::control;
use crate::error::{CliError, Result, print};
use crate::table::{Fill, Table};

/// Flags.
#[derive(Debug, Args)]
pub struct InfoFlags {
    /// Format the output using the given Go template, e.g. '{{json .}}'
    #[arg(long)]
    pub format: Option<String>,
}

/// A version as Go clients write it.
pub fn version_json(version: Option<&BuildkitVersion>) -> Value {
    let version = version.cloned().unwrap_or_default();
    let mut json = json!({"package": version.package, "version": version.version, "revision": version.revision});
    if !version.dockerfile_version.is_empty() {
        json["dockerfileVersion"] = version.dockerfile_version.into();
    }
    json
}

/// Runs it.
pub async fn run(channel: Channel, flags: InfoFlags) -> Result<()> {
    let template = template(flags.format.as_deref())?;
    let response = control(channel).info(InfoRequest {}).await.map_err(CliError::rpc("failed to call info"))?;
    let version = response.into_inner().buildkit_version;
    if let Some(template) = template {
        return print_formatted(&template, &json!({"buildkitVersion": version_json(version.as_ref())}));
    }
    let version = version.unwrap_or_default();
    let mut table = Table::new(Fill::Blanks);
    table.line(["BuildKit:", &format!("{} {} {}", version.package, version.version, version.revision)]);
    if !version.dockerfile_version.is_empty() {
        table.line(["Dockerfile:", &version.dockerfile_version]);
    }
    print(&table.finish())
}
