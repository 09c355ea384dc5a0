//! What lint says, beside the error that the build would end with.

use super::{Answer, Location, base64};
use crate::lint::Warning;
use crate::source::{Range, Source};
use serde::Serialize;

/// The results of lint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LintAnswer {
    /// Warnings in the order found.
    pub warnings: Vec<LintWarning>,
    /// The files that locations point into.
    pub sources: Vec<SourceInfo>,
    /// Why the file cannot be built, if so.
    #[serde(rename = "buildError", skip_serializing_if = "Option::is_none")]
    pub error: Option<LintBuildError>,
    #[serde(skip)]
    text: String,
}

/// A warning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LintWarning {
    /// Name of the rule.
    #[serde(rename = "ruleName")]
    pub rule: &'static str,
    /// What the rule is about.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub description: &'static str,
    /// Documentation of the rule.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub url: &'static str,
    /// What is found.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Where.
    pub location: Location,
}

/// An error of the build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LintBuildError {
    /// The message.
    pub message: String,
    /// Where.
    pub location: Location,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceInfo {
    /// Its name.
    pub filename: String,
    /// Its bytes, in base64.
    pub data: String,
    /// Always `Dockerfile`.
    pub language: &'static str,
}

impl LintAnswer {
    /// The results for a file: warnings, and the message and lines of the error if it cannot be built.
    pub fn new(source: &Source, warnings: &[Warning], error: Option<(String, Vec<Range>)>) -> Self {
        let one = |warning: &Warning| LintWarning {
            rule: warning.rule.name,
            description: warning.rule.description,
            url: warning.rule.url,
            detail: warning.message.clone(),
            location: Location::new(&warning.ranges),
        };
        let mut sorted: Vec<&Warning> = warnings.iter().collect();
        sorted.sort_by_key(|warning| (warning.line(), if warning.ranges.is_empty() { warning.rule.name } else { "" }));
        Self {
            warnings: warnings.iter().map(one).collect(),
            sources: vec![SourceInfo {
                filename: source.filename().to_owned(),
                data: base64(source.text().as_bytes()),
                language: "Dockerfile",
            }],
            error: error.map(|(message, ranges)| LintBuildError { message, location: Location::new(&ranges) }),
            text: sorted.iter().map(|warning| warning.render(source)).collect(),
        }
    }

    /// The forms that clients read. The status tells whether there is anything to say.
    pub fn answer(&self) -> Answer {
        let status = u8::from(!self.warnings.is_empty() || self.error.is_some());
        Answer { status: Some(status), ..Answer::new(self, self.text.clone(), "1.0.0") }
    }
}
