//! `cooper lint`: advice about Dockerfiles without an engine, and repairs. Also how the advice of a build is shown.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use clap::Args;
use cooper_dockerfile::lint::{Verdict, Warning, apply_fixes, judge, rule};
use cooper_dockerfile::lower::Options;
use cooper_dockerfile::{Position, Range, Source};
use serde::Deserialize;

use crate::error::{CliError, Result, print};

/// Repairs make room for others; a file that is not at rest after so many rounds is left as it is then.
const ROUNDS: usize = 10;
const BOM: &str = "\u{feff}";
const USUAL_NAMES: [&str; 2] = ["Dockerfile", "dockerfile"];

/// Flags and arguments.
#[derive(Debug, Args)]
pub struct LintFlags {
    /// Dockerfiles, or directories with a Dockerfile; - is standard input
    #[arg(value_name = "PATH", default_value = ".")]
    paths: Vec<PathBuf>,
    /// Repair what has an obvious repair: files in place, standard input to standard output
    #[arg(long)]
    fix: bool,
    /// Values of build arguments, where advice depends on them
    #[arg(long, value_name = "KEY=VALUE")]
    build_arg: Vec<String>,
    /// Judge only what this stage needs
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
}

/// Judges, repairs, tells. The exit code is 1 when something is left to do.
pub fn run(flags: &LintFlags) -> Result<()> {
    let mut left = 0;
    for path in &flags.paths {
        left += one(flags, path)?;
    }
    if left > 0 { Err(CliError::Exit(1)) } else { Ok(()) }
}

/// One file; returns how many warnings and errors are left.
fn one(flags: &LintFlags, path: &Path) -> Result<usize> {
    let file = File::read(path)?;
    let options = options(flags, &file);
    let mut source = Arc::new(Source::new(file.shown.clone(), file.text.clone()));
    let mut verdict = verdict(&source, &options)?;
    if flags.fix {
        let mut repaired = 0;
        for _ in 0..ROUNDS {
            let fixes = verdict.warnings.iter().filter_map(|warning| warning.fix.as_ref());
            let fixed = apply_fixes(source.text(), fixes);
            if fixed.applied == 0 || fixed.text == source.text() {
                break;
            }
            repaired += fixed.applied;
            source = Arc::new(Source::new(file.shown.clone(), fixed.text));
            verdict = self::verdict(&source, &options)?;
        }
        file.write(source.text())?;
        if repaired > 0 {
            eprintln!("{}: {repaired} repaired", file.shown);
        }
    }
    let text = told(&source, &verdict);
    // What is repaired goes where the file came from.
    if flags.fix && file.path.is_none() {
        eprint!("{text}");
    } else {
        print(&text)?;
    }
    Ok(verdict.warnings.len() + verdict.errors.len() + usize::from(verdict.refused.is_some()))
}

fn verdict(source: &Arc<Source>, options: &Options) -> Result<Verdict> {
    judge(source, options).map_err(|error| CliError::Usage(format!("{}: {error}", source.filename())))
}

fn options(flags: &LintFlags, file: &File) -> Options {
    let pair = |arg: &String| {
        let (key, value) = arg.split_once('=')?;
        Some((key.to_owned(), value.to_owned()))
    };
    Options {
        build_args: flags.build_arg.iter().filter_map(pair).collect::<BTreeMap<_, _>>(),
        target: flags.target.clone(),
        all_stages: flags.target.is_none(),
        ignore_patterns: file.ignore_patterns(),
        ..Options::default()
    }
}

fn told(source: &Source, verdict: &Verdict) -> String {
    let mut parts: Vec<String> = verdict.warnings.iter().map(|warning| warning.explain(source)).collect();
    parts.extend(verdict.errors.iter().map(|error| error.explain(source)));
    parts.extend(verdict.refused.iter().map(|(message, ranges)| refusal(source, message, ranges)));
    if !parts.is_empty() {
        parts.push(summary(&verdict.warnings, parts.len()));
    }
    parts.join("\n")
}

fn summary(warnings: &[Warning], all: usize) -> String {
    let plural = |count: usize| if count == 1 { "" } else { "s" };
    let errors = all - warnings.len();
    let repairs = warnings.iter().filter(|warning| warning.fix.is_some()).count();
    let mut text = format!("{} warning{}", warnings.len(), plural(warnings.len()));
    if errors > 0 {
        let _ = write!(text, ", {errors} error{}", plural(errors));
    }
    if repairs > 0 {
        let _ = write!(text, "; --fix repairs {repairs}");
    }
    text + "\n"
}

fn refusal(source: &Source, message: &str, ranges: &[Range]) -> String {
    let place = if ranges.is_empty() { String::new() } else { source.snippet(source.span_of(ranges), "") };
    format!("error: {message}\n{place}")
}

/// A Dockerfile as it was found.
struct File {
    /// None: standard input.
    path: Option<PathBuf>,
    shown: String,
    text: String,
    bom: bool,
}

impl File {
    fn read(path: &Path) -> Result<Self> {
        let mut bytes = Vec::new();
        let path = if path == Path::new("-") {
            std::io::stdin().read_to_end(&mut bytes).map_err(CliError::io("cannot read standard input"))?;
            None
        } else {
            let path = file_in(path);
            bytes = fs::read(&path).map_err(CliError::file("cannot read", &path))?;
            Some(path)
        };
        let shown = path.as_ref().map_or_else(|| "-".to_owned(), |path| path.display().to_string());
        let text = String::from_utf8(bytes)
            .map_err(|error| CliError::Usage(format!("{shown} is no text in UTF-8: {}", error.utf8_error())))?;
        let (bom, text) = match text.strip_prefix(BOM) {
            Some(rest) => (true, rest.to_owned()),
            None => (false, text),
        };
        Ok(Self { path, shown, text, bom })
    }

    /// The patterns of the ignore file that a build with this file has, when its directory is the context.
    fn ignore_patterns(&self) -> Vec<String> {
        let Some(path) = &self.path else { return Vec::new() };
        let mut own = path.clone().into_os_string();
        own.push(".dockerignore");
        let bytes = fs::read(own).or_else(|_| fs::read(path.with_file_name(".dockerignore")));
        bytes.map(|bytes| cooper_fsmatch::parse_ignore_file(&bytes)).unwrap_or_default()
    }

    /// Puts a new text in its place, whole or not at all.
    fn write(&self, text: &str) -> Result<()> {
        let full = if self.bom { format!("{BOM}{text}") } else { text.to_owned() };
        let Some(path) = &self.path else { return print(&full) };
        if text == self.text {
            return Ok(());
        }
        let fault = || CliError::file("cannot write", path);
        // Links stay links: what they lead to is replaced.
        let real = fs::canonicalize(path).map_err(fault())?;
        let directory = real.parent().unwrap_or(Path::new("/"));
        let mut new = tempfile::NamedTempFile::new_in(directory).map_err(fault())?;
        new.write_all(full.as_bytes()).map_err(fault())?;
        let permissions = fs::metadata(&real).map_err(fault())?.permissions();
        new.as_file().set_permissions(permissions).map_err(fault())?;
        new.persist(&real).map_err(|error| fault()(error.error))?;
        Ok(())
    }
}

/// The Dockerfile of a directory, or the file itself.
fn file_in(path: &Path) -> PathBuf {
    if !path.is_dir() {
        return path.to_owned();
    }
    let mut candidates = USUAL_NAMES.iter().map(|name| path.join(name));
    let found = candidates.find(|file| file.is_file()).unwrap_or_else(|| path.join(USUAL_NAMES[0]));
    found.strip_prefix(".").map(Path::to_owned).unwrap_or(found)
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    warnings: Option<Vec<Found>>,
    #[serde(default)]
    sources: Option<Vec<SourceFile>>,
    #[serde(rename = "buildError", default)]
    error: Option<Refused>,
}

#[derive(Deserialize)]
struct Found {
    #[serde(rename = "ruleName")]
    rule: String,
    #[serde(default)]
    url: String,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    location: Location,
}

#[derive(Deserialize)]
struct Refused {
    message: String,
    #[serde(default)]
    location: Location,
}

#[derive(Deserialize, Default)]
struct Location {
    #[serde(rename = "sourceIndex", default)]
    source: i64,
    #[serde(default)]
    ranges: Option<Vec<Lines>>,
}

#[derive(Deserialize)]
struct Lines {
    #[serde(default)]
    start: Line,
    #[serde(default)]
    end: Line,
}

#[derive(Deserialize, Default)]
struct Line {
    #[serde(default)]
    line: u32,
}

#[derive(Deserialize)]
struct SourceFile {
    #[serde(default)]
    filename: String,
    #[serde(default)]
    data: String,
}

/// The text for what a frontend's lint found; `None` when the answer has another form.
pub fn explain(answer: &[u8]) -> Option<String> {
    let answer: Answer = serde_json::from_slice(answer).ok()?;
    let decode = |file: SourceFile| {
        let bytes = base64::engine::general_purpose::STANDARD.decode(file.data).ok()?;
        Some(Source::from_bytes(file.filename, &bytes))
    };
    let sources: Vec<Source> = answer.sources.unwrap_or_default().into_iter().map(decode).collect::<Option<_>>()?;
    let mut found = answer.warnings.unwrap_or_default();
    found.sort_by_key(|warning| (warning.location.source, warning.location.first_line()));
    let mut parts: Vec<String> = found.iter().map(|warning| warning.explain(&sources)).collect();
    parts.extend(answer.error.iter().map(|error| {
        let place = error.location.snippet(&sources);
        format!("error: {}\n{place}", error.message)
    }));
    Some(if parts.is_empty() { "no warnings found\n".to_owned() } else { parts.join("\n") })
}

impl Found {
    fn explain(&self, sources: &[Source]) -> String {
        let mut out = format!("warning[{}]: {}\n{}", self.rule, self.detail, self.location.snippet(sources));
        if rule(&self.rule).is_some_and(|rule| !rule.repair.is_empty()) {
            out.push_str("  = fix: cooper lint --fix may repair it\n");
        }
        if !self.url.is_empty() {
            let _ = writeln!(out, "  = see: {}", self.url);
        }
        out
    }
}

impl Location {
    fn ranges(&self) -> Vec<Range> {
        let at = |line: &Line| Position { line: line.line, character: 0 };
        let ranges = self.ranges.iter().flatten().filter(|lines| lines.start.line > 0);
        ranges.map(|lines| Range { start: at(&lines.start), end: at(&lines.end) }).collect()
    }

    fn first_line(&self) -> u32 {
        self.ranges().iter().map(|range| range.start.line).min().unwrap_or(0)
    }

    fn snippet(&self, sources: &[Source]) -> String {
        let ranges = self.ranges();
        let source = usize::try_from(self.source).ok().and_then(|index| sources.get(index));
        source.filter(|_| !ranges.is_empty()).map_or_else(String::new, |s| s.snippet(s.span_of(&ranges), ""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(path: &Path, fix: bool) -> LintFlags {
        LintFlags { paths: vec![path.to_owned()], fix, build_arg: Vec::new(), target: None }
    }

    #[test]
    fn files_are_repaired_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("Dockerfile");
        let text = "\u{feff}FROM alpine as base\r\nENV A 1\r\nCMD echo $A\r\n";
        fs::write(&path, text).unwrap();
        assert_eq!(one(&flags(dir.path(), false), dir.path()).unwrap(), 3);
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "nothing changes unasked");
        let left = one(&flags(dir.path(), true), dir.path()).unwrap();
        assert_eq!(left, 1, "what a shell is needed for is left to people");
        assert_eq!(fs::read_to_string(&path).unwrap(), "\u{feff}FROM alpine AS base\r\nENV A=1\r\nCMD echo $A\r\n");
        fs::write(&path, b"FROM \xff\n").unwrap();
        assert!(one(&flags(dir.path(), true), dir.path()).unwrap_err().to_string().contains("is no text in UTF-8"));
    }

    #[test]
    fn answers_of_frontends_are_shown() {
        let source = Arc::new(Source::new("Dockerfile", "FROM alpine\nWORKDIR a\n"));
        let verdict = judge(&source, &Options::default()).unwrap();
        insta::assert_snapshot!(told(&source, &verdict), @r#"
        warning[WorkdirRelativePath]: Relative workdir "a" can have unexpected results if the base image changes
         --> Dockerfile:2:9
          |
        2 | WORKDIR a
          |         ^
          = see: https://docs.docker.com/go/dockerfile/rule/workdir-relative-path/

        1 warning
        "#);
        let data = base64::engine::general_purpose::STANDARD.encode("FROM alpine\nWORKDIR a\n");
        let answer = serde_json::json!({
            "warnings": [{ "ruleName": "WorkdirRelativePath", "url": "https://example.com/x", "detail": "Relative",
                "location": { "ranges": [{ "start": { "line": 2 }, "end": { "line": 2 } }] } }],
            "sources": [{ "filename": "Dockerfile", "data": data }],
            "buildError": { "message": "it fails", "location": {} },
        });
        insta::assert_snapshot!(explain(answer.to_string().as_bytes()).unwrap(), @r"
        warning[WorkdirRelativePath]: Relative
         --> Dockerfile:2:1
          |
        2 | WORKDIR a
          | ^^^^^^^^^
          = see: https://example.com/x

        error: it fails
        ");
        assert_eq!(explain(b"{}").unwrap(), "no warnings found\n");
        assert_eq!(explain(b"text"), None);
    }
}
