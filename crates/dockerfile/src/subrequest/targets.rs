//! Which targets there are.

use super::table::{row, table};
use super::{Answer, Location, base64};
use crate::Dockerfile;
use serde::Serialize;

#[derive(Serialize)]
struct List<'a> {
    targets: Vec<Target<'a>>,
    sources: [String; 1],
}

#[derive(Serialize)]
struct Target<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    default: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    base: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    platform: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<Location>,
}

/// The stages of a file; the last is what is built by default.
pub fn targets(file: &Dockerfile) -> Answer {
    let last = file.stages.len().saturating_sub(1);
    let list: Vec<Target<'_>> = file
        .stages
        .iter()
        .enumerate()
        .map(|(i, stage)| Target {
            name: stage.name().unwrap_or_default(),
            default: i == last,
            description: stage.description().unwrap_or_default(),
            base: stage.base(),
            platform: stage.platform().unwrap_or_default(),
            location: Location::some(&stage.from.head.ranges()),
        })
        .collect();
    let mut rows = vec![row(["TARGET", "DESCRIPTION"])];
    for target in &list {
        let name = match (target.name, target.default) {
            ("", true) => "(default)".to_owned(),
            (name, true) => format!("{name} (default)"),
            (name, false) => name.to_owned(),
        };
        rows.push(row([&name, target.description]));
    }
    let list = List { targets: list, sources: [base64(file.source.text().as_bytes())] };
    Answer::new(&list, table(&rows, 1), "1.0.0")
}
