//! Failures of the language as build errors, with the places that they are about.

use super::files::Fetched;
use cooper_dockerfile::{
    Range, Source,
    lower::{Error, pb_ranges},
    parser::ParseErrors,
};
use cooper_engine::{BuildError, FailureClass, SourceRanges};
use cooper_llb::pb;

/// The Dockerfile of a build: its text, and where that came from.
pub struct Origin<'a> {
    /// The text.
    pub source: &'a Source,
    /// How it was fetched.
    pub files: &'a Fetched,
}

impl Origin<'_> {
    /// The file as the protocol has it.
    pub fn info(&self) -> pb::SourceInfo {
        pb::SourceInfo {
            filename: self.source.filename().to_owned(),
            data: self.files.dockerfile.clone(),
            definition: Some(self.files.definition.clone()),
            language: "Dockerfile".to_owned(),
        }
    }

    /// Places in the file.
    pub fn ranges(&self, ranges: &[Range]) -> SourceRanges {
        SourceRanges { info: self.info(), ranges: pb_ranges(ranges) }
    }

    /// A file that does not parse.
    pub fn parse_error(&self, errors: &ParseErrors) -> BuildError {
        let first = errors.first();
        BuildError {
            sources: vec![self.ranges(&first.ranges())],
            ..BuildError::new(FailureClass::Unknown, first.to_string())
        }
    }

    /// A file that cannot be given a meaning. An engine's failure underneath keeps its details.
    pub fn lowering_error(&self, error: &Error) -> BuildError {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        let mut built = BuildError::default();
        while let Some(inner) = cause {
            if let Some(known) = inner.downcast_ref::<BuildError>() {
                built = known.clone();
                break;
            }
            cause = inner.source();
        }
        built.message = error.to_string();
        if !error.ranges.is_empty() {
            built.sources.push(self.ranges(&error.ranges));
        }
        built
    }
}
