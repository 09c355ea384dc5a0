//! Parser directives (`# syntax=…`, `# escape=…`, `# check=…`) and the search for the syntax image.

use crate::instruction::Directive;
use crate::source::{Range, Span, Word};

/// Names of directives; any other `# name=value` is a comment.
pub const DIRECTIVES: [&str; 3] = ["syntax", "escape", "check"];

/// Follows the lines at the top of a file as long as they are directives.
#[derive(Debug)]
pub(super) struct DirectiveScanner {
    prefix: &'static str,
    seen: Vec<&'static str>,
    done: bool,
}

impl DirectiveScanner {
    pub fn new(prefix: &'static str) -> Self {
        Self { prefix, seen: Vec::new(), done: false }
    }

    /// Looks at the next line, which stands at `offset`. Directives end at the first line that is none.
    /// A directive that was given before is an error: its name.
    pub fn line(&mut self, text: &str, offset: usize, number: u32) -> Result<Option<Directive>, &'static str> {
        if self.done {
            return Ok(None);
        }
        let Some((name, value, at)) = text.strip_prefix(self.prefix).and_then(name_and_value) else {
            self.done = true;
            return Ok(None);
        };
        if self.seen.contains(&name) {
            return Err(name);
        }
        self.seen.push(name);
        let start = offset + self.prefix.len() + at;
        Ok(Some(Directive { name, value: Word::new(value, Span::new(start, start + value.len())), line: number }))
    }
}

/// Reads `name = value`; gives the known name, the value, and where in `text` the value starts.
fn name_and_value(text: &str) -> Option<(&'static str, &str, usize)> {
    let (name, value) = text.split_once('=')?;
    let known = DIRECTIVES.into_iter().find(|known| name.trim().eq_ignore_ascii_case(known))?;
    let at = text.len() - value.trim_start().len();
    let value = value.trim();
    (!value.is_empty()).then_some((known, value, at))
}

/// The value of a `check` directive in a comment above an instruction: its first word.
pub(crate) fn check_in_comment(comment: &str) -> Option<&str> {
    let (name, value, _) = name_and_value(comment)?;
    (name == "check").then(|| value.split(' ').next().unwrap_or_default())
}

/// The frontend that a file asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Syntax {
    /// Image reference: the first word.
    pub image: String,
    /// The whole value: what the frontend gets as `cmdline`.
    pub cmdline: String,
    /// The line (from 1) that says so.
    pub line: u32,
}

impl Syntax {
    /// The line in the form that protocol clients expect.
    pub fn range(&self) -> Range {
        Range::line(self.line)
    }
}

/// Finds the frontend that a file asks for: `# syntax=…` or `// syntax=…` at the top, perhaps below a shebang line,
/// or the key `syntax` of a file that is one JSON object.
pub fn detect_syntax(text: &str) -> Option<Syntax> {
    let (body, first_line) = below_shebang(text);
    for prefix in ["#", "//"] {
        if let Some(directive) = find(body, prefix, "syntax", first_line) {
            let cmdline = directive.value.text;
            let image = cmdline.split(' ').next().unwrap_or_default().to_owned();
            return Some(Syntax { image, cmdline, line: directive.line });
        }
    }
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(body).ok()?;
    let value = object.get("syntax")?.as_str()?.to_owned();
    Some(Syntax { image: value.clone(), cmdline: value, line: first_line })
}

/// The value of the `check` directive at the top of a file, perhaps below a shebang line: its first word.
pub fn detect_check(text: &str) -> Option<String> {
    let (body, first_line) = below_shebang(text);
    let directive = find(body, "#", "check", first_line)?;
    Some(directive.value.text.split(' ').next().unwrap_or_default().to_owned())
}

/// The text without byte order mark and shebang line, and the number of its first line.
fn below_shebang(text: &str) -> (&str, u32) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.starts_with("#!") { (text.split_once('\n').map_or("", |(_, rest)| rest), 2) } else { (text, 1) }
}

fn find(body: &str, prefix: &'static str, name: &str, first_line: u32) -> Option<Directive> {
    let mut scanner = DirectiveScanner::new(prefix);
    for (number, line) in (first_line..).zip(body.lines()) {
        // A repeated directive ends the search, as does a line that is none.
        let directive = scanner.line(line, 0, number).ok()??;
        if directive.name == name {
            return Some(directive);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syntax_in_all_positions() {
        let check = |text: &str, expected: Option<(&str, &str, u32)>| {
            let found = detect_syntax(text);
            let found = found.as_ref().map(|s| (s.image.as_str(), s.cmdline.as_str(), s.line));
            assert_eq!(found, expected, "{text}");
        };
        check(
            "# syntax = dockerfile:experimental // opts\nFROM busybox\n",
            Some(("dockerfile:experimental", "dockerfile:experimental // opts", 1)),
        );
        check("#!/bin/sh\n# syntax=a\nFROM b", Some(("a", "a", 2)));
        check("#!/bin/sh\n\n# syntax=a\n", None);
        check("\u{feff}#SynTax=a\r\n", Some(("a", "a", 1)));
        check("# escape=`\n# syntax=a", Some(("a", "a", 2)));
        check("# comment\n# syntax=a", None);
        check("# key=value\n# syntax=a", None);
        check("//syntax=foo\n//key=value", Some(("foo", "foo", 1)));
        check("#!/bin/sh\n//syntax=x", Some(("x", "x", 2)));
        check(r#"{"syntax": "foo", "bar": ["abc"]}"#, Some(("foo", "foo", 1)));
        check(r#"{"syntax": "foo""#, None);
        check("{\"syntax\": \"foo\"}\n# syntax=bar", None);
        check("FROM busybox\nRUN ls\n", None);
        check("", None);
    }

    #[test]
    fn check_option_in_all_positions() {
        let check = |text: &str, expected: Option<&str>| assert_eq!(detect_check(text).as_deref(), expected, "{text}");
        check("#check = skip=all // opts\nFROM busybox\n", Some("skip=all"));
        check("#!/bin/sh\n# check=skip=all;error=true\n", Some("skip=all;error=true"));
        check("# syntax=a\n# check=error=true", Some("error=true"));
        check("//check=skip=all", None);
        check("FROM a\n# check=skip=all", None);
        assert_eq!(check_in_comment("check=skip=A // why"), Some("skip=A"));
        assert_eq!(check_in_comment("checks=skip=A"), None);
    }
}
