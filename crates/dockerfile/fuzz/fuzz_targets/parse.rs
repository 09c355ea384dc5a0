//! Any bytes are read, judged and lowered without a panic, every place that is named lies in the file, and what was
//! repaired still reads.

#![no_main]

use cooper_dockerfile::lint::{apply_fixes, judge};
use cooper_dockerfile::lower::Options;
use cooper_dockerfile::{Range, Source, parser};
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;

fuzz_target!(|bytes: &[u8]| {
    let source = Arc::new(Source::from_bytes("Dockerfile", bytes));
    let parsed = parser::parse(Arc::clone(&source));
    let reads = parsed.into_result().is_ok();
    let options = Options { all_stages: true, ..Options::default() };
    let Ok(verdict) = judge(&source, &options) else { return };
    for warning in &verdict.warnings {
        inside(&source, &warning.ranges);
        source.snippet(warning.span, "");
    }
    for error in &verdict.errors {
        inside(&source, &error.ranges());
        source.snippet(error.span, "");
    }
    let fixes = verdict.warnings.iter().filter_map(|warning| warning.fix.as_ref());
    let fixed = apply_fixes(source.text(), fixes);
    if reads {
        let fixed = Arc::new(Source::new("Dockerfile", fixed.text));
        assert!(parser::parse(fixed).into_result().is_ok(), "a repair broke the file");
    }
});

fn inside(source: &Source, ranges: &[Range]) {
    for range in ranges {
        assert!(range.start.line >= 1 && range.start <= range.end && range.end.line <= source.line_count());
    }
}
