//! Go's `filepath.Match` on Unix: `*`, `?`, `[…]` and backslash escapes within one path, where `*`
//! and `?` stop at `/`.

use crate::{
    PatternError,
    program::{Class, Program, Step},
};
use std::{iter::Peekable, str::Chars};

/// A compiled pattern of [`glob_match`], for matching many names.
#[derive(Debug, Clone)]
pub struct Glob {
    program: Program,
}

impl Glob {
    /// Compiles `pattern`; the whole pattern is checked.
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        parse(pattern)
            .map(|steps| Self { program: Program::new(steps, true) })
            .ok_or_else(|| PatternError::Syntax { pattern: pattern.to_owned() })
    }

    /// Whether all of `name` matches.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.program.matches(name)
    }
}

/// Whether all of `name` matches `pattern`. A malformed pattern is an error for any name (Go only
/// notices when matching gets as far).
pub fn glob_match(pattern: &str, name: &str) -> Result<bool, PatternError> {
    Ok(Glob::new(pattern)?.matches(name))
}

/// Whether `name` holds an unescaped `*`, `?` or `[`.
#[must_use]
pub fn has_wildcards(name: &str) -> bool {
    let mut chars = name.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            '*' | '?' | '[' => return true,
            _ => {}
        }
    }
    false
}

/// Appends one character to the literal at the end of `steps`.
pub(crate) fn push_char(steps: &mut Vec<Step>, c: char) {
    if let Some(Step::Literal(text)) = steps.last_mut() {
        text.push(c);
    } else {
        steps.push(Step::Literal(c.to_string()));
    }
}

fn parse(pattern: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' if steps.last() == Some(&Step::ManyNotSlash) => {}
            '*' => steps.push(Step::ManyNotSlash),
            '?' => steps.push(Step::NotSlash),
            '[' => steps.push(Step::One(parse_class(&mut chars)?)),
            '\\' => push_char(&mut steps, chars.next()?),
            c => push_char(&mut steps, c),
        }
    }
    Some(steps)
}

/// The rest of a bracket expression. At least one range; `-` and `]` must be escaped to stand for
/// themselves.
fn parse_class(chars: &mut Peekable<Chars>) -> Option<Class> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
            return Some(Class { negated, ranges });
        }
        let lo = parse_class_char(chars)?;
        let hi = if chars.next_if_eq(&'-').is_some() { parse_class_char(chars)? } else { lo };
        ranges.push((lo, hi));
    }
}

fn parse_class_char(chars: &mut Peekable<Chars>) -> Option<char> {
    let c = match chars.next()? {
        '-' | ']' => return None,
        '\\' => chars.next()?,
        c => c,
    };
    chars.peek().map(|_| c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rows: &[(&str, &str, Option<bool>)]) {
        for &(pattern, name, want) in rows {
            assert_eq!(glob_match(pattern, name).ok(), want, "{pattern:?} on {name:?}");
        }
    }

    #[test]
    fn the_documented_language() {
        check(&[
            ("abc", "abc", Some(true)),
            ("*", "abc", Some(true)),
            ("*c", "abc", Some(true)),
            ("a*", "a", Some(true)),
            ("a*", "abc", Some(true)),
            ("a*", "ab/c", Some(false)),
            ("a*/b", "abc/b", Some(true)),
            ("a*/b", "a/c/b", Some(false)),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", Some(true)),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", Some(true)),
            ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", Some(false)),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", Some(false)),
            ("a*b?c*x", "abxbbxdbxebxczzx", Some(true)),
            ("a*b?c*x", "abxbbxdbxebxczzy", Some(false)),
            ("ab[c]", "abc", Some(true)),
            ("ab[b-d]", "abc", Some(true)),
            ("ab[e-g]", "abc", Some(false)),
            ("ab[^c]", "abc", Some(false)),
            ("ab[^e-g]", "abc", Some(true)),
            ("a\\*b", "a*b", Some(true)),
            ("a\\*b", "ab", Some(false)),
            ("a?b", "a☺b", Some(true)),
            ("a[^a]b", "a☺b", Some(true)),
            ("a???b", "a☺b", Some(false)),
            ("[a-ζ]*", "α", Some(true)),
            ("*[a-ζ]", "A", Some(false)),
            ("a?b", "a/b", Some(false)),
            ("a*b", "a/b", Some(false)),
            ("a[^x]b", "a/b", Some(true)),
            ("[\\]a]", "]", Some(true)),
            ("[\\-]", "-", Some(true)),
            ("[x\\-]", "x", Some(true)),
            ("[x\\-]", "-", Some(true)),
            ("[x\\-]", "z", Some(false)),
            ("[\\-x]", "a", Some(false)),
            ("*x", "xxx", Some(true)),
            ("", "", Some(true)),
            ("", "x", Some(false)),
            ("**", "ab", Some(true)),
            ("*[^a]*", "b.b/c", Some(false)),
        ]);
    }

    #[test]
    fn malformed_patterns_fail_for_every_name() {
        for pattern in
            ["[]a]", "[-]", "[x-]", "[-x]", "\\", "[a-b-c]", "[", "[^", "[^bc", "a[", "a[\\", "*a[", "[a", "[a\\]"]
        {
            check(&[(pattern, "a", None), (pattern, "ab", None), (pattern, "", None)]);
        }
    }

    #[test]
    fn many_stars_stay_polynomial() {
        let pattern = "*a".repeat(40) + "b";
        assert_eq!(glob_match(&pattern, &"a".repeat(400)), Ok(false));
    }

    #[test]
    fn wildcards() {
        for (name, want) in [("a", false), ("a*", true), ("a\\*", false), ("[", true), ("?", true), ("\\\\?", true)] {
            assert_eq!(has_wildcards(name), want, "{name}");
        }
    }
}
