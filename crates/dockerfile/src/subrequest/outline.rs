//! What a target can be told.

use super::table::{row, table};
use super::{Answer, Location, base64};
use crate::Source;
use crate::lower::{Outline, OutlineArg, OutlineSecret};
use serde::Serialize;

#[derive(Serialize)]
struct Json<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<Arg<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    secrets: Vec<Secret<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ssh: Vec<Secret<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cache: Vec<Cache<'a>>,
    sources: [String; 1],
}

#[derive(Serialize)]
struct Arg<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    value: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<Location>,
}

#[derive(Serialize)]
struct Secret<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    required: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<Location>,
}

#[derive(Serialize)]
struct Cache<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<Location>,
}

/// What lowering found that a target of `source` can be told.
pub fn outline(source: &Source, outline: &Outline) -> Answer {
    let mut text = String::new();
    let (name, description) = (outline.name.as_deref(), outline.description.as_deref());
    if name.is_some() || description.is_some() {
        let mut rows = vec![row(["TARGET:", name.unwrap_or("(default)")])];
        rows.extend(description.map(|description| row(["DESCRIPTION:", description])));
        block(&mut text, &rows, 1);
    }
    if !outline.args.is_empty() {
        let mut rows = vec![row(["BUILD ARG", "VALUE", "DESCRIPTION"])];
        let cells = |arg: &OutlineArg| row([&arg.name, &arg.value, arg.description.as_deref().unwrap_or_default()]);
        rows.extend(outline.args.iter().map(cells));
        block(&mut text, &rows, 3);
    }
    for (title, list) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        if !list.is_empty() {
            let mut rows = vec![row([title, "REQUIRED"])];
            rows.extend(list.iter().map(|one| row([&one.name, if one.required { "true" } else { "" }])));
            block(&mut text, &rows, 3);
        }
    }
    let json = Json {
        name: name.unwrap_or_default(),
        description: description.unwrap_or_default(),
        args: outline
            .args
            .iter()
            .map(|arg| Arg {
                name: &arg.name,
                description: arg.description.as_deref().unwrap_or_default(),
                value: &arg.value,
                location: Location::some(&arg.ranges),
            })
            .collect(),
        secrets: secrets(&outline.secrets),
        ssh: secrets(&outline.ssh),
        cache: outline
            .cache_mounts
            .iter()
            .map(|cache| Cache { id: &cache.id, location: Location::some(&cache.ranges) })
            .collect(),
        sources: [base64(source.text().as_bytes())],
    };
    Answer::new(&json, text, "1.0.0")
}

fn secrets(list: &[OutlineSecret]) -> Vec<Secret<'_>> {
    list.iter()
        .map(|OutlineSecret { name, required, ranges }| Secret {
            name,
            required: *required,
            location: Location::some(ranges),
        })
        .collect()
}

/// A table with an empty line below it.
fn block(text: &mut String, rows: &[Vec<String>], gap: usize) {
    text.push_str(&table(rows, gap));
    text.push('\n');
}
