//! Subrequests: answers about the file instead of a build of it.

use super::{build::Prepared, caps, options::Request, warnings};
use cooper_dockerfile::{
    Range,
    lint::Linter,
    subrequest::{self, Answer, LintAnswer, names},
};
use cooper_engine::{BuildError, BuildResult};
use std::collections::BTreeMap;

/// The option that names a request.
pub const KEY: &str = "requestid";

/// Version of the conversion's answer.
const CONVERT_VERSION: &str = "0.1.0";

/// The answers that need no file.
pub fn without_file(request: &Request) -> Option<BuildResult> {
    (request.opt(KEY) == names::DESCRIBE).then(|| result(&subrequest::describe()))
}

/// Answers a request.
pub async fn answer(prepared: &Prepared<'_>, id: &str) -> Result<BuildResult, BuildError> {
    match id {
        names::OUTLINE => outline(prepared).await,
        names::TARGETS => targets(prepared),
        names::LINT => lint(prepared).await,
        names::CONVERT_LLB => convert(prepared).await,
        unknown => Err(caps::named_error(format!("unsupported request {unknown}"), "Subrequest", unknown)),
    }
}

fn result(answer: &Answer) -> BuildResult {
    let metadata = answer.metadata().into_iter().map(|(key, value)| (key.to_owned(), value));
    BuildResult { metadata: metadata.collect(), ..BuildResult::default() }
}

async fn outline(prepared: &Prepared<'_>) -> Result<BuildResult, BuildError> {
    let origin = prepared.origin();
    let mut linter = prepared.linter()?;
    let parsed = prepared.parse()?;
    linter.check_syntax(&parsed);
    let dockerfile = parsed.into_result().map_err(|e| origin.parse_error(&e))?;
    let lowered = prepared.lower(&dockerfile, None, false).await.map_err(|e| origin.lowering_error(&e))?;
    for finding in &lowered.findings {
        linter.add(&dockerfile, finding);
    }
    warnings::Shown::default().send(prepared.bridge, &origin, &linter);
    Ok(result(&subrequest::outline(prepared.source, &lowered.outline)))
}

fn targets(prepared: &Prepared<'_>) -> Result<BuildResult, BuildError> {
    let dockerfile = prepared.parse()?.into_result().map_err(|e| prepared.origin().parse_error(&e))?;
    Ok(result(&subrequest::targets(&dockerfile)))
}

/// An error is a part of this answer, too.
async fn lint(prepared: &Prepared<'_>) -> Result<BuildResult, BuildError> {
    let mut linter = Linter::default();
    let error = match prepared.linter() {
        Ok(configured) => {
            linter = configured;
            judge(prepared, &mut linter).await.err()
        }
        Err(error) => Some((error.message, Vec::new())),
    };
    let answer = LintAnswer::new(prepared.source, linter.warnings(), error);
    Ok(result(&answer.answer()))
}

/// Collects warnings; the error is that of a build.
async fn judge(prepared: &Prepared<'_>, linter: &mut Linter) -> Result<(), (String, Vec<Range>)> {
    let parsed = prepared.parse().map_err(|e| (e.message, Vec::new()))?;
    linter.check_syntax(&parsed);
    let dockerfile = parsed.into_result().map_err(|e| (e.to_string(), e.first().ranges()))?;
    // Without a target, every stage is judged.
    let all_stages = prepared.request.opt("target").is_empty();
    let (findings, wrong) = match prepared.lower(&dockerfile, None, all_stages).await {
        Ok(lowered) => (lowered.findings, None),
        Err(error) => (error.findings, Some((error.cause.to_string(), error.ranges))),
    };
    for finding in &findings {
        linter.add(&dockerfile, finding);
    }
    if let Some(wrong) = wrong {
        return Err(wrong);
    }
    linter.error().map_or(Ok(()), |error| Err((error.to_string(), Vec::new())))
}

async fn convert(prepared: &Prepared<'_>) -> Result<BuildResult, BuildError> {
    let origin = prepared.origin();
    let dockerfile = prepared.parse()?.into_result().map_err(|e| origin.parse_error(&e))?;
    let lowered = prepared.lower(&dockerfile, None, false).await.map_err(|e| origin.lowering_error(&e))?;
    let json = cooper_llb::json::definition(&lowered.output.marshal()?)?;
    let metadata = BTreeMap::from([
        ("result.json".to_owned(), format!("{json:#}").into_bytes()),
        ("version".to_owned(), CONVERT_VERSION.as_bytes().to_vec()),
    ]);
    Ok(BuildResult { metadata, ..BuildResult::default() })
}
