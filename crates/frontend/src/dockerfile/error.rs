//! Failures and advice of the language as build errors and warnings, with the places that they are about.

use cooper_dockerfile::{
    Range, Source,
    lower::{Error, Lowered},
    parser::ParseErrors,
};
use cooper_engine::{Bridge, BuildError, FailureClass, SourceRanges};
use cooper_llb::pb;
use cooper_solver::Warning;

/// A file that does not parse.
pub fn parse(errors: &ParseErrors, source: &Source) -> BuildError {
    let first = errors.first();
    BuildError {
        sources: vec![ranges(source, &first.ranges())],
        ..BuildError::new(FailureClass::Unknown, first.to_string())
    }
}

/// A file that cannot be given a meaning. An engine's failure underneath keeps its details.
pub fn lowering(error: Error, source: &Source) -> BuildError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
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
        built.sources.push(ranges(source, &error.ranges));
    }
    built
}

/// Passes on what lint found.
pub fn warn(bridge: &Bridge, lowered: &Lowered, source: &Source) {
    for finding in &lowered.findings {
        let rule = finding.kind.rule();
        let line = finding.ranges.first().map_or(0, |r| r.start.line);
        let shown = Warning {
            level: 1,
            short: format!("{rule}: {} (line {line})", finding.kind),
            detail: Vec::new(),
            url: String::new(),
        };
        bridge.warn("dockerfile", shown, Some(ranges(source, &finding.ranges)));
    }
}

fn ranges(source: &Source, ranges: &[Range]) -> SourceRanges {
    let position = |p: cooper_dockerfile::Position| pb::Position { line: p.line as i32, character: p.character as i32 };
    SourceRanges {
        info: pb::SourceInfo {
            filename: source.filename().to_owned(),
            data: source.text().as_bytes().to_vec(),
            definition: None,
            language: "Dockerfile".to_owned(),
        },
        ranges: ranges.iter().map(|r| pb::Range { start: Some(position(r.start)), end: Some(position(r.end)) }).collect(),
    }
}
