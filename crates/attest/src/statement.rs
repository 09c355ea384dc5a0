//! In-toto statements: a predicate, and what it is about.

use crate::{Error, Result};
use cooper_oci::Digest;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

const TYPE: &str = "https://in-toto.io/Statement/v1";
/// What the types of all provenance predicates begin with.
pub const PREDICATE_PROVENANCE_PREFIX: &str = "https://slsa.dev/provenance/";
/// The type of SPDX documents.
pub const PREDICATE_SPDX: &str = "https://spdx.dev/Document";

/// What a statement is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// A package URL, a path, or whatever the author chose.
    #[serde(default)]
    pub name: String,
    /// Digests by algorithm.
    #[serde(default, deserialize_with = "or_default")]
    pub digest: BTreeMap<String, String>,
}

/// A statement. Its predicate is kept as it was written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Statement {
    #[serde(rename = "_type", default)]
    kind: String,
    /// The type of the predicate.
    #[serde(rename = "predicateType", default)]
    pub predicate_type: String,
    /// What it is about.
    #[serde(default, deserialize_with = "or_default")]
    pub subject: Vec<Subject>,
    /// The predicate.
    #[serde(default = "nothing")]
    pub predicate: Box<RawValue>,
}

/// `null` is what some programs write for an empty list.
fn or_default<'de, T: Default + Deserialize<'de>, D: serde::Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

fn nothing() -> Box<RawValue> {
    RawValue::NULL.to_owned()
}

/// Digests as statements list them.
pub fn digest_map<'a>(digests: impl IntoIterator<Item = &'a Digest>) -> BTreeMap<String, String> {
    digests
        .into_iter()
        .map(|d| (d.as_str().split_once(':').map_or("", |(algorithm, _)| algorithm).to_owned(), d.hex().to_owned()))
        .collect()
}

impl Statement {
    /// A statement of the predicate `json` (empty: none).
    pub fn new(predicate_type: &str, subject: Vec<Subject>, json: &[u8]) -> Result<Self> {
        let predicate =
            if json.is_empty() { nothing() } else { serde_json::from_slice(json).map_err(Error::Statement)? };
        Ok(Self { kind: TYPE.to_owned(), predicate_type: predicate_type.to_owned(), subject, predicate })
    }

    /// Reads a statement.
    pub fn parse(json: &[u8]) -> Result<Self> {
        serde_json::from_slice(json).map_err(Error::Statement)
    }

    /// On one line, without spaces between tokens.
    pub fn compact(&self) -> Vec<u8> {
        cooper_oci::without_spaces(&serde_json::to_string(self).unwrap_or_default()).into_bytes()
    }

    /// Indented by two spaces.
    pub fn pretty(&self) -> Vec<u8> {
        let compact = self.compact();
        let value: Option<serde_json::Value> = serde_json::from_slice(&compact).ok();
        value.and_then(|v| serde_json::to_vec_pretty(&v).ok()).unwrap_or(compact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_hold_predicates_as_written() {
        let subject = Subject { name: "pkg:docker/a".into(), digest: digest_map([&Digest::of("x")]) };
        let statement = Statement::new("https://t", vec![subject], b"{\n  \"b\": 1.50,\n \"a\": \" x \" }").unwrap();
        let text = String::from_utf8(statement.compact()).unwrap().replace(Digest::of("x").hex(), "HEX");
        assert_eq!(
            text,
            r#"{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://t","subject":[{"name":"pkg:docker/a","digest":{"sha256":"HEX"}}],"predicate":{"b":1.50,"a":" x "}}"#
        );
        let again = Statement::parse(&statement.pretty()).unwrap();
        assert_eq!((again.subject, again.predicate_type), (statement.subject, statement.predicate_type));
        let null = Statement::parse(br#"{"predicateType": "t", "subject": null, "predicate": {}}"#).unwrap();
        assert!(null.subject.is_empty());
        let empty = Statement::new("t", Vec::new(), b"").unwrap();
        assert!(String::from_utf8(empty.compact()).unwrap().ends_with(r#""subject":[],"predicate":null}"#));
    }

    #[test]
    fn what_is_no_statement_is_refused() {
        for text in ["", "{", "7", r#"{"subject":1}"#, r#"{"predicateType":"x"} {}"#] {
            assert!(Statement::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
