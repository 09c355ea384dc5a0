//! Reading and judging the text of a file of 2,000 lines in 200 stages.

use cooper_dockerfile::{
    Source,
    lint::{Config, Linter},
    parser::parse,
};
use divan::{Bencher, counter::BytesCount};
use std::fmt::Write as _;
use std::sync::Arc;

const STAGES: usize = 200;

/// Ten lines a stage, of every common form.
fn dockerfile() -> String {
    let mut text = String::from("# syntax=docker/dockerfile:1\nARG BASE=alpine\n");
    for stage in 0..STAGES {
        let _ = write!(
            text,
            "# s{stage} does things\nFROM $BASE AS s{stage}\nARG VERSION=1.{stage}\nENV A={stage} B=\"x y\"\nWORKDIR /src\n\
             COPY --chown=1:1 --link go.mod go.sum ./\nRUN --mount=type=cache,target=/root/.cache \\\n    go build -o /out/app ./... \\\n    \
             && true\nCMD [\"/out/app\", \"--serve\"]\n"
        );
    }
    text
}

#[divan::bench]
fn parsing(bencher: Bencher<'_, '_>) {
    let source = Arc::new(Source::new("Dockerfile", dockerfile()));
    let size = BytesCount::of_str(source.text());
    bencher.counter(size).bench(|| parse(Arc::clone(&source)));
}

#[divan::bench]
fn parsing_and_lint(bencher: Bencher<'_, '_>) {
    let source = Arc::new(Source::new("Dockerfile", dockerfile()));
    bencher.bench(|| {
        let parsed = parse(Arc::clone(&source));
        let mut linter = Linter::new(Config::default());
        linter.check_syntax(&parsed);
        (parsed, linter)
    });
}

fn main() {
    divan::main();
}
