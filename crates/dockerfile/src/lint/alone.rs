//! Judging a file by itself: no engine, no network, no base images.

use super::{CHECK_ARG, Config, ConfigError, Linter, Warning};
use crate::diagnostic::Diagnostic;
use crate::instruction::{Dockerfile, Stage};
use crate::lower::{
    self, ContextRequest, Finding, FindingKind, ImageMeta, ImageRequest, MetaResolver, NamedContext, Options,
    ResolveError,
};
use crate::parser;
use crate::source::{Range, Source};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// What is wrong with a file.
#[derive(Debug, Default)]
pub struct Verdict {
    /// In the order of the file.
    pub warnings: Vec<Warning>,
    /// Why it does not parse: every place.
    pub errors: Vec<Diagnostic>,
    /// Why it parses and still cannot be built, and the lines.
    pub refused: Option<(String, Vec<Range>)>,
}

/// Judges a file by itself. Advice that would need the environment of a base image is left out.
///
/// # Errors
/// The check options, of the file or of the build argument in `options`, make no sense.
pub fn judge(source: &Arc<Source>, options: &Options) -> Result<Verdict, ConfigError> {
    let argument = options.build_args.get(CHECK_ARG).map(String::as_str);
    let mut linter = Linter::new(Config::of_file(source.text(), argument)?);
    let mut verdict = Verdict::default();
    let parsed = parser::parse(Arc::clone(source));
    linter.check_syntax(&parsed);
    match parsed.into_result() {
        Err(errors) => verdict.errors = errors.all().to_vec(),
        Ok(dockerfile) => {
            let findings = match at_once(lower::lower(&dockerfile, options, &NoImages)) {
                Ok(lowered) => lowered.findings,
                Err(error) => {
                    verdict.refused = Some((error.to_string(), error.ranges));
                    error.findings
                }
            };
            for finding in findings.iter().filter(|finding| is_sure(&dockerfile, finding)) {
                linter.add(&dockerfile, finding);
            }
        }
    }
    verdict.warnings = linter.into_warnings();
    Ok(verdict)
}

/// Whether a finding holds whatever the base image is.
fn is_sure(file: &Dockerfile, finding: &Finding) -> bool {
    let FindingKind::UndefinedVar { .. } = finding.kind else { return true };
    let line = finding.ranges.first().map_or(0, |range| range.start.line);
    let stage = file.stages.iter().rposition(|stage| stage.from.head.first_line <= line);
    stage.is_some_and(|stage| begins_empty(&file.stages, stage))
}

/// Whether a stage and those below it begin with nothing.
fn begins_empty(stages: &[Stage], mut at: usize) -> bool {
    loop {
        let base = stages[at].base();
        if base == "scratch" {
            return true;
        }
        let named = |stage: &Stage| stage.name().is_some_and(|name| name.eq_ignore_ascii_case(base));
        match stages[..at].iter().rposition(named) {
            Some(below) => at = below,
            None => return false,
        }
    }
}

/// Says of every image that it is there, and nothing else about it.
struct NoImages;

impl MetaResolver for NoImages {
    async fn context(&self, request: ContextRequest) -> Result<NamedContext, ResolveError> {
        Err(format!("there is no context {}", request.name).into())
    }

    async fn image(&self, request: ImageRequest) -> Result<ImageMeta, ResolveError> {
        let config = serde_json::json!({
            "os": request.platform.os,
            "architecture": request.platform.architecture,
            "variant": request.platform.variant,
            "config": {},
            "rootfs": { "type": "layers", "diff_ids": [] },
            "history": [{ "created_by": "unknown" }],
        });
        Ok(ImageMeta { reference: request.reference, digest: None, config: serde_json::to_vec(&config)? })
    }
}

/// The outcome of work that waits for nobody: [`NoImages`] answers at once.
fn at_once<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        // Large joins let others run from time to time; here are no others.
        if let Poll::Ready(outcome) = work.as_mut().poll(&mut context) {
            return outcome;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> String {
        let source = Arc::new(Source::new("Dockerfile", text));
        let verdict = match judge(&source, &Options::default()) {
            Ok(verdict) => verdict,
            Err(error) => return error.to_string(),
        };
        let warnings = verdict.warnings.iter().map(Warning::short);
        let errors = verdict.errors.iter().map(ToString::to_string);
        let refused = verdict.refused.iter().map(|(message, _)| message.clone());
        warnings.chain(errors).chain(refused).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn files_by_themselves() {
        insta::assert_snapshot!(check("FROM alpine as a\nWORKDIR b\nCMD echo $X\n"), @r#"
        FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 1)
        WorkdirRelativePath: Relative workdir "b" can have unexpected results if the base image changes (line 2)
        JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals (line 3)
        "#);
        insta::assert_snapshot!(check("FROM scratch AS a\nENV A=$B\nFROM a\nENV C=$WHICH\n"), @r#"
        UndefinedVar: Usage of undefined variable '$B' (line 2)
        UndefinedVar: Usage of undefined variable '$WHICH' (line 4)
        "#);
        insta::assert_snapshot!(check("FROM python\nENV C=$PYTHON_VERSION\n"), @"");
        insta::assert_snapshot!(check("FROM a\nRUNN x\nCOPPY y z\n"), @r#"
        dockerfile parse error on line 2: unknown instruction: RUNN (did you mean RUN?)
        dockerfile parse error on line 3: unknown instruction: COPPY (did you mean COPY?)
        "#);
        insta::assert_snapshot!(check("FROM a AS a\nWORKDIR x\nCOPY --from=b --chmod=9 a b\n"), @r#"
        WorkdirRelativePath: Relative workdir "x" can have unexpected results if the base image changes (line 2)
        invalid chmod parameter: '9'. it should be octal string and between 0 and 07777
        "#);
        insta::assert_snapshot!(check("# check=skip=all;errr=1\nFROM a\n"), @r#"failed to parse check options: invalid check option "errr" (did you mean error?)"#);
    }
}
