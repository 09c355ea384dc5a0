//! Questions to a daemon that more than one program name offers: disk usage, pruning, workers, versions.

pub mod cache;
pub mod du;
pub mod explain;
pub mod info;
pub mod prune;
pub mod workers;

use serde_json::Value;

use crate::error::{CliError, Result, print};
use crate::template::{Template, TemplateError};

/// `--format`, if it was given.
pub fn template(format: Option<&str>) -> Result<Option<Template>> {
    format.filter(|format| !format.is_empty()).map(Template::parse).transpose().map_err(usage)
}

/// Prints a value through a template, with a line end.
pub fn print_formatted(template: &Template, value: &Value) -> Result<()> {
    print(&format!("{}\n", template.render(value).map_err(usage)?))
}

/// A list as Go writes it: an empty one is `null`.
pub fn list(items: impl Iterator<Item = Value>) -> Value {
    let items: Vec<_> = items.collect();
    if items.is_empty() { Value::Null } else { Value::Array(items) }
}

fn usage(error: TemplateError) -> CliError {
    CliError::Usage(error.to_string())
}
