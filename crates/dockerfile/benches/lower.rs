//! Text to graph: 2,000 lines in 200 stages, parsed, linted and lowered. The goal is 10 ms.

use cooper_dockerfile::lower::{
    self, ContextRequest, ImageMeta, ImageRequest, MetaResolver, NamedContext, Options, ResolveError,
};
use cooper_dockerfile::{Source, lint::Linter, parser};
use divan::Bencher;
use std::fmt::Write as _;
use std::sync::Arc;

const STAGES: usize = 200;

/// Ten lines per stage: half of the stages build on the one before, the others copy from it.
fn dockerfile() -> String {
    let mut text = String::from("ARG BASE=alpine\n");
    for stage in 0..STAGES {
        let base = if stage % 2 == 1 { format!("s{}", stage - 1) } else { "$BASE".to_owned() };
        let _ = writeln!(text, "FROM {base} AS s{stage}");
        let _ = writeln!(text, "ARG TARGETARCH\nENV STAGE={stage} DIR=/work/$TARGETARCH\nWORKDIR $DIR");
        let _ = writeln!(text, "COPY --chown=1:1 src/{stage} lib ./");
        if stage > 0 && stage % 2 == 0 {
            let _ = writeln!(text, "COPY --from=s{} /out /in", stage - 1);
        } else {
            text.push_str("LABEL a=1\n");
        }
        let _ = writeln!(text, "RUN --mount=type=cache,target=/c \\\n  make -C \"$DIR\" all \\\n  && make install");
    }
    text
}

struct Image;

impl MetaResolver for Image {
    async fn context(&self, _: ContextRequest) -> Result<NamedContext, ResolveError> {
        Err("there are no contexts".into())
    }

    async fn image(&self, request: ImageRequest) -> Result<ImageMeta, ResolveError> {
        let config = br#"{"os":"linux","architecture":"amd64","config":{"Env":["PATH=/bin","A=1","B=2"]},
            "history":[{"created_by":"base"}]}"#;
        Ok(ImageMeta { reference: request.reference, digest: None, config: config.to_vec() })
    }
}

#[divan::bench]
fn text_to_definition(bencher: Bencher<'_, '_>) {
    let text = dockerfile();
    bencher.bench(|| {
        let source = parser::parse(Arc::new(Source::new("Dockerfile", text.clone())));
        let mut linter = Linter::default();
        linter.check_syntax(&source);
        let parsed = source.into_result().unwrap();
        let options = Options { missing_caps: Vec::new(), ..Options::default() };
        let lowered = futures::executor::block_on(lower::lower(&parsed, &options, &Image)).unwrap();
        for finding in &lowered.findings {
            linter.add(&parsed, finding);
        }
        (lowered.output.marshal().unwrap(), linter.into_warnings())
    });
}

fn main() {
    divan::main();
}
