//! Ordered patterns as in ignore files: the last one that matches a path or one of its parents
//! decides, `!` takes back.

use crate::{
    PatternError,
    glob::{Glob, push_char},
    path::{clean, parent},
    program::{Class, Program, Step},
};

/// One compiled pattern of a [`PatternMatcher`].
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    exclusion: bool,
    kind: Kind,
}

/// How a pattern is tested, cheapest first.
#[derive(Debug, Clone)]
enum Kind {
    /// The whole path.
    Exact,
    /// Ends in `**` and has no other wildcard: these bytes first.
    Prefix(usize),
    /// Begins with `**` and has no other wildcard: the bytes from here last, or, when they begin
    /// with `/`, the whole path without it.
    Suffix,
    Program(Program),
}

impl Pattern {
    fn new(text: &str) -> Result<Option<Self>, PatternError> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        let cleaned = clean(text);
        let (exclusion, text) = match cleaned.strip_prefix('!') {
            Some("") => return Err(PatternError::LoneExclusion),
            Some(rest) => (true, rest.to_owned()),
            None => (false, cleaned),
        };
        Glob::new(&text)?;
        let kind = compile(&text).ok_or_else(|| PatternError::Syntax { pattern: text.clone() })?;
        Ok(Some(Self { text, exclusion, kind }))
    }

    /// The pattern, cleaned and without `!`.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it was written with `!`.
    #[must_use]
    pub fn is_exclusion(&self) -> bool {
        self.exclusion
    }

    /// Whether the pattern matches this path itself; neither parents nor `!` count.
    #[must_use]
    pub fn matches_itself(&self, path: &str) -> bool {
        match &self.kind {
            Kind::Exact => path == self.text,
            Kind::Prefix(len) => path.as_bytes().starts_with(&self.text.as_bytes()[..*len]),
            Kind::Suffix => {
                let suffix = &self.text[2..];
                path.ends_with(suffix) || suffix.strip_prefix('/') == Some(path)
            }
            Kind::Program(program) => program.matches(path),
        }
    }

    fn matches_parent(&self, path: &str) -> bool {
        let ends = path.match_indices('/').map(|(at, _)| at);
        ends.into_iter().any(|end| self.matches_itself(&path[..end]))
    }

    /// The pattern up to a trailing `/**` and `/*`, in this order.
    pub(crate) fn without_trailing_glob(&self) -> &str {
        let text = self.text.strip_suffix("/**").unwrap_or(&self.text);
        text.strip_suffix("/*").unwrap_or(text)
    }
}

/// Translates a pattern into the field's expression language.
///
/// That language is defined by a rewriting into a regular expression that doesn't know about
/// brackets, so that `*` and `?` between brackets end the bracket early. Patterns in the wild depend on
/// nothing of this, yet results must be equal, so brackets are read from the rewritten text.
fn compile(text: &str) -> Option<Kind> {
    let stars = text.matches('*').count();
    if !text.contains(['?', '[', ']', '\\']) {
        if stars == 0 {
            return Some(Kind::Exact);
        }
        if stars == 2 && text.starts_with("**") {
            return Some(Kind::Suffix);
        }
        if stars == 2 && text.ends_with("**") {
            return Some(Kind::Prefix(text.len() - 2));
        }
    }
    Some(Kind::Program(Program::new(parse_expression(&rewrite(text)?)?, false)))
}

/// One unit of the rewritten pattern.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Unit {
    Plain(char),
    /// Taken literally wherever it stands.
    Escaped(char),
    /// `*`, `?`, `**` before more, `**` at the end.
    Star,
    Question,
    Directories,
    Anything,
}

impl Unit {
    /// What the unit reads as between brackets.
    fn spelling(self) -> &'static str {
        match self {
            Unit::Plain(_) | Unit::Escaped(_) => "",
            Unit::Star => "[^/]*",
            Unit::Question => "[^/]",
            Unit::Directories => "(.*/)?",
            Unit::Anything => ".*",
        }
    }
}

fn rewrite(text: &str) -> Option<Vec<Unit>> {
    let mut units = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        units.push(match c {
            '*' if chars.next_if_eq(&'*').is_some() => {
                chars.next_if_eq(&'/');
                if chars.peek().is_some() { Unit::Directories } else { Unit::Anything }
            }
            '*' => Unit::Star,
            '?' => Unit::Question,
            '\\' => Unit::Escaped(chars.next()?),
            c => Unit::Plain(c),
        });
    }
    Some(units)
}

fn parse_expression(units: &[Unit]) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    let mut rest = units;
    while let Some((&unit, tail)) = rest.split_first() {
        rest = tail;
        match unit {
            Unit::Plain('[') => {
                let (step, after) = parse_class(tail)?;
                steps.push(step);
                rest = after;
            }
            Unit::Plain('^') => steps.push(Step::Start),
            Unit::Plain(c) | Unit::Escaped(c) => push_char(&mut steps, c),
            Unit::Star if steps.last() == Some(&Step::ManyNotSlash) => {}
            Unit::Star => steps.push(Step::ManyNotSlash),
            Unit::Question => steps.push(Step::NotSlash),
            Unit::Directories => steps.push(Step::Directories),
            Unit::Anything => steps.push(Step::Anything),
        }
    }
    Some(steps)
}

/// Reads a bracket expression after its `[`: the step and the units after it.
fn parse_class(units: &[Unit]) -> Option<(Step, &[Unit])> {
    let mut rest = units;
    let negated = rest.first() == Some(&Unit::Plain('^'));
    if negated {
        rest = &rest[1..];
    }
    let mut items: Vec<Unit> = Vec::new();
    loop {
        let (&unit, tail) = rest.split_first()?;
        rest = tail;
        match unit {
            Unit::Plain(']') if !items.is_empty() => {
                return Some((Step::One(Class { negated, ranges: ranges(&items)? }), rest));
            }
            Unit::Star | Unit::Question => {
                // `[^/` joins the set and `]` ends it; a star then repeats the set.
                items.extend(['[', '^', '/'].map(Unit::Escaped));
                let class = Class { negated, ranges: ranges(&items)? };
                let step = if unit == Unit::Star { Step::Many(class) } else { Step::One(class) };
                return Some((step, rest));
            }
            Unit::Directories | Unit::Anything => items.extend(unit.spelling().chars().map(Unit::Escaped)),
            unit => items.push(unit),
        }
    }
}

fn ranges(items: &[Unit]) -> Option<Vec<(char, char)>> {
    let char_of = |unit: &Unit| match *unit {
        Unit::Plain(c) | Unit::Escaped(c) => Some(c),
        _ => None,
    };
    let mut ranges = Vec::new();
    let mut rest = items;
    while let Some((first, tail)) = rest.split_first() {
        let lo = char_of(first)?;
        if let [Unit::Plain('-'), last, after @ ..] = tail {
            let hi = char_of(last)?;
            if hi < lo {
                return None;
            }
            ranges.push((lo, hi));
            rest = after;
        } else {
            ranges.push((lo, lo));
            rest = tail;
        }
    }
    Some(ranges)
}

/// Ordered patterns with exceptions.
#[derive(Debug, Clone, Default)]
pub struct PatternMatcher {
    patterns: Vec<Pattern>,
    exclusions: bool,
}

/// Which patterns matched a directory or one of its parents: what its entries need to know.
///
/// The default is the state above the top of the tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MatchState {
    known: bool,
    /// Patterns 0 to 63; the field is all that the usual list of patterns needs.
    first: u64,
    more: Vec<u64>,
}

impl MatchState {
    fn get(&self, index: usize) -> bool {
        match index / 64 {
            0 => self.first >> index & 1 == 1,
            word => self.more.get(word - 1).is_some_and(|bits| bits >> (index % 64) & 1 == 1),
        }
    }

    fn set(&mut self, index: usize) {
        match index / 64 {
            0 => self.first |= 1 << index,
            word => {
                if self.more.len() < word {
                    self.more.resize(word, 0);
                }
                self.more[word - 1] |= 1 << (index % 64);
            }
        }
    }
}

impl PatternMatcher {
    /// Compiles `patterns` in order; blank ones are dropped.
    pub fn new<I>(patterns: I) -> Result<Self, PatternError>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut compiled = Vec::new();
        for pattern in patterns {
            compiled.extend(Pattern::new(pattern.as_ref())?);
        }
        let exclusions = compiled.iter().any(|p| p.exclusion);
        Ok(Self { patterns: compiled, exclusions })
    }

    /// The patterns that take part, in order.
    #[must_use]
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }

    /// Whether any pattern begins with `!`.
    #[must_use]
    pub fn has_exclusions(&self) -> bool {
        self.exclusions
    }

    /// Whether `path` (clean, relative, `/`-separated) or one of its parents matches and no later
    /// pattern takes it back.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        self.matches_below(path, &MatchState::default()).0
    }

    /// The same for an entry of a directory whose state is known; also returns the entry's own state
    /// for what lies below it. Costs one test per pattern however deep the path is.
    #[must_use]
    pub fn matches_below(&self, path: &str, parent_state: &MatchState) -> (bool, MatchState) {
        let mut matched = false;
        let mut state = MatchState { known: true, ..MatchState::default() };
        for (index, pattern) in self.patterns.iter().enumerate() {
            let mut hit = parent_state.get(index);
            if !hit {
                // An inclusion cannot add to a match, nor an exception take from none.
                if pattern.exclusion != matched {
                    continue;
                }
                hit = pattern.matches_itself(path)
                    || (!parent_state.known && parent(path).is_some() && pattern.matches_parent(path));
            }
            if hit {
                state.set(index);
                matched = !pattern.exclusion;
            }
        }
        (matched, state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(matcher: &PatternMatcher, path: &str) -> bool {
        let mut state = MatchState::default();
        let mut verdict = false;
        for end in path.match_indices('/').map(|(at, _)| at).chain([path.len()]) {
            (verdict, state) = matcher.matches_below(&path[..end], &state);
        }
        verdict
    }

    fn check(rows: &[(&[&str], &str, bool)]) {
        for &(patterns, path, want) in rows {
            let matcher = PatternMatcher::new(patterns).expect("valid");
            assert_eq!(matcher.matches(path), want, "{patterns:?} on {path:?}");
            assert_eq!(walk(&matcher, path), want, "walking: {patterns:?} on {path:?}");
        }
    }

    #[test]
    fn one_pattern() {
        let rows: &[(&str, &str, bool)] = &[
            ("**", "file", true),
            ("**", "file/", true),
            ("**/", "file", true),
            ("**", "dir/file", true),
            ("**/**", "dir/file", true),
            ("dir/**", "dir/file", true),
            ("dir/**", "dir/dir2/file", true),
            ("dir/**", "dir", false),
            ("dir", "dir/file", true),
            ("**/dir2/*", "dir/dir2/file", true),
            ("**/dir2/**", "dir/dir2/dir2/file", true),
            ("**file", "file", true),
            ("**file", "dir/file", true),
            ("**/file", "dir/file", true),
            ("**file", "dir/dir/file", true),
            ("**/file*", "dir/dir/file.txt", true),
            ("**/file*txt", "dir/dir/file.txt", true),
            ("**/file*.txt*", "dir/dir/file.txt", true),
            ("**/**/*.txt", "dir/dir/file.txt", true),
            ("**/**/*.txt2", "dir/dir/file.txt", false),
            ("**/*.txt", "file.txt", true),
            ("**/**/*.txt", "file.txt", true),
            ("a**/*.txt", "a/file.txt", true),
            ("a**/*.txt", "a/dir/file.txt", true),
            ("a**/*.txt", "a/dir/dir/file.txt", true),
            ("a/*.txt", "a/dir/file.txt", false),
            ("a/*.txt", "a/file.txt", true),
            ("a/*.txt**", "a/file.txt", true),
            ("a[b-d]e", "ae", false),
            ("a[b-d]e", "ace", true),
            ("a[b-d]e", "aae", false),
            ("a[^b-d]e", "aze", true),
            (".*", ".foo", true),
            (".*", "foo", false),
            ("abc.def", "abcdef", false),
            ("abc.def", "abc.def", true),
            ("abc.def", "abcZdef", false),
            ("abc?def", "abcZdef", true),
            ("abc?def", "abcdef", false),
            ("a\\\\", "a\\", true),
            ("**/foo/bar", "foo/bar", true),
            ("**/foo/bar", "dir/foo/bar", true),
            ("**/foo/bar", "dir/dir2/foo/bar", true),
            ("abc/**", "abc", false),
            ("abc/**", "abc/def", true),
            ("abc/**", "abc/def/ghi", true),
            ("**/.foo", ".foo", true),
            ("**/.foo", "bar.foo", false),
            ("a(b)c/def", "a(b)c/def", true),
            ("a(b)c/def", "a(b)c/xyz", false),
            ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
            (
                "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl",
                "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl",
                true,
            ),
            ("dist/*.whl", "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("[\\]a]", "]", true),
            ("/a", "a", false),
            ("./a/../b", "b", true),
            ("  b  ", "b", true),
            ("é?c", "éñc", true),
            ("a*^b", "axb", false),
            ("x[*]", "x[^/]", true),
            ("x[*]", "x*", false),
            (" ", "x", false),
            ("*", "a/b/c", true),
            ("*/b", "a/b/c", true),
            ("*/*/*", "a/b", false),
        ];
        for &(pattern, path, want) in rows {
            check(&[(&[pattern], path.trim_end_matches('/'), want)]);
        }
    }

    #[test]
    fn order_and_exceptions() {
        check(&[
            (&["**", "!util/docker/web"], "util/docker/web/foo", false),
            (&["**", "!util/docker/web", "util/docker/web/foo"], "util/docker/web/foo", true),
            (&["**", "!dist/proxy.py-*.whl"], "dist/proxy.py-2.whl", false),
            (&["**", "!dist/*.whl"], "dist/proxy.py.whl", false),
            (&["!a", "a"], "a", true),
            (&["a", "!a"], "a", false),
            (&["a", "!a/b", "a/b/c"], "a/b/c", true),
            (&["a", "!a/b", "a/b/c"], "a/b/d", false),
            (&["a", "!a/b"], "a/c", true),
            (&["*", "!*.go"], "x/y.go", true),
            (&["*", "!**/*.go"], "x/y.go", false),
            (&["*", "!x"], "x/y", false),
            (&["*.md", "!README*.md", "README-secret.md"], "README-secret.md", true),
            (&["*.md", "README-secret.md", "!README*.md"], "README-secret.md", false),
            (&["docs/**", "!docs/keep"], "docs/keep/me", false),
            (&[], "x", false),
        ]);
    }

    #[test]
    fn more_patterns_than_one_word_holds() {
        let mut patterns: Vec<String> = (0..100).map(|i| format!("dir{i}")).collect();
        patterns.push("!dir90/keep".into());
        let matcher = PatternMatcher::new(&patterns).expect("valid");
        for (path, want) in [("dir90/a/b", true), ("dir90/keep/b", false), ("dir99/x", true), ("dirx/x", false)] {
            assert_eq!((matcher.matches(path), walk(&matcher, path)), (want, want), "{path}");
        }
    }

    #[test]
    fn malformed() {
        for (pattern, want) in [
            ("!", "illegal exclusion pattern: \"!\""),
            ("[", "syntax error in pattern \"[\""),
            ("!a[]", "syntax error in pattern \"a[]\""),
            ("a\\", "syntax error in pattern \"a\\\\\""),
        ] {
            assert_eq!(PatternMatcher::new([pattern]).expect_err(pattern).to_string(), want);
        }
    }

    #[test]
    fn hostile_patterns_end() {
        let matcher = PatternMatcher::new([format!("{}x", "**/*a".repeat(30))]).expect("valid");
        assert!(!matcher.matches("a/".repeat(300).trim_end_matches('/')));
    }
}
