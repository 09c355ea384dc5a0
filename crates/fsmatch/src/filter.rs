//! The filter of a file transfer: include patterns, exclude patterns, and directories that are walked
//! but only appear when something below them does.

use crate::{
    PatternError,
    matcher::{MatchState, Pattern, PatternMatcher},
};

/// What a transfer should carry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilterSpec {
    /// When there are any, an entry or one of its parents must match.
    pub include: Vec<String>,
    /// Entries that match, or lie below one that does, stay out.
    pub exclude: Vec<String>,
    /// Paths, possibly with wildcards or through symbolic links, that are added to `include` with
    /// everything they lead through. See [`follow_paths`](crate::follow_paths).
    pub follow: Vec<String>,
}

/// A compiled [`FilterSpec`].
#[derive(Debug, Clone, Default)]
pub struct Filter {
    include: Option<PatternMatcher>,
    exclude: Option<PatternMatcher>,
    /// Directories that lead to an inclusion, with a `/` at the end; `None` when wildcards make that
    /// unknowable and everything has to be walked.
    include_prefixes: Option<Vec<String>>,
    /// The same for exceptions of the exclusions.
    exception_prefixes: Option<Vec<String>>,
}

/// What the filter knows about a directory, to judge its entries. The default is for the top.
#[derive(Debug, Clone, Default)]
pub struct DirState {
    include: MatchState,
    exclude: MatchState,
}

/// The filter's word on one entry.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// The entry belongs to the result. The directories above it that didn't so far do too.
    pub emit: bool,
    /// A directory that has to be walked.
    pub descend: bool,
    /// For the entries of a directory.
    pub state: DirState,
}

impl Filter {
    /// Compiles the patterns. `followed` is the outcome of [`follow_paths`](crate::follow_paths) for
    /// `spec.follow`, `None` when that wasn't asked for or leads to everything.
    pub fn new(spec: &FilterSpec, followed: Option<&[String]>) -> Result<Self, PatternError> {
        let mut include = spec.include.clone();
        if let Some(followed) = followed {
            include.extend_from_slice(followed);
            include = without_nested(include).unwrap_or_default();
        }
        let compile = |patterns: &[String]| (!patterns.is_empty()).then(|| PatternMatcher::new(patterns)).transpose();
        let (include, exclude) = (compile(&include)?, compile(&spec.exclude)?);
        Ok(Self {
            include_prefixes: include.as_ref().and_then(|m| prefixes(m, |p| !p.is_exclusion())),
            exception_prefixes: exclude.as_ref().and_then(|m| prefixes(m, Pattern::is_exclusion)),
            include,
            exclude,
        })
    }

    /// Whether everything passes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.include.is_none() && self.exclude.is_none()
    }

    /// Judges the entry `path` of a directory with the state `parent`.
    #[must_use]
    pub fn entry(&self, path: &str, is_dir: bool, parent: &DirState) -> Verdict {
        let mut verdict = Verdict { emit: true, descend: is_dir, state: DirState::default() };
        if let Some(include) = &self.include {
            let (matched, state) = include.matches_below(path, &parent.include);
            verdict.state.include = state;
            if !matched {
                verdict.emit = false;
                verdict.descend &= leads_to(self.include_prefixes.as_ref(), path);
            }
        }
        if !verdict.emit && !verdict.descend {
            return verdict;
        }
        if let Some(exclude) = &self.exclude {
            let (matched, state) = exclude.matches_below(path, &parent.exclude);
            verdict.state.exclude = state;
            if matched {
                verdict.emit = false;
                verdict.descend &= leads_to(self.exception_prefixes.as_ref(), path);
            }
        }
        verdict
    }

    /// Whether `path` may be opened: the filter's word without a walk.
    #[must_use]
    pub fn allows(&self, path: &str) -> bool {
        self.include.as_ref().is_none_or(|m| m.matches(path)) && !self.exclude.as_ref().is_some_and(|m| m.matches(path))
    }
}

fn prefixes(matcher: &PatternMatcher, which: impl Fn(&Pattern) -> bool) -> Option<Vec<String>> {
    matcher
        .patterns()
        .iter()
        .filter(|p| which(p))
        .map(|p| {
            let text = p.without_trailing_glob();
            (!text.contains(['*', '[', ']', '?', '^', '\\'])).then(|| format!("{text}/"))
        })
        .collect()
}

fn leads_to(prefixes: Option<&Vec<String>>, dir: &str) -> bool {
    let below = |prefix: &String| prefix.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'));
    prefixes.is_none_or(|prefixes| prefixes.iter().any(below))
}

/// Drops paths that lie right below their predecessor; `None` when one of them is everything.
pub(crate) fn without_nested(paths: Vec<String>) -> Option<Vec<String>> {
    let mut kept: Vec<String> = Vec::with_capacity(paths.len());
    for path in paths {
        if path == "." {
            return None;
        }
        let last = kept.last().map_or("", String::as_str);
        if !path.strip_prefix(last).is_some_and(|rest| rest.starts_with('/')) {
            kept.push(path);
        }
    }
    Some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small tree; a trailing slash marks directories. In walk order.
    const TREE: &[&str] = &[
        "a/",
        "a/b/",
        "a/b/c.go",
        "a/b/d.md",
        "a/b.txt",
        "a/x/",
        "a/x/y/",
        "a/x/y/z",
        "bar",
        "foo/",
        "foo/bar/",
        "foo/bar/baz",
        "foo/bar2",
        "foo2",
        "node_modules/",
        "node_modules/m/",
        "node_modules/m/index.js",
    ];

    /// What a walk emits, and how many entries it looked at.
    fn walk(include: &[&str], exclude: &[&str]) -> (Vec<&'static str>, usize) {
        let owned = |list: &[&str]| list.iter().map(|&s| s.to_owned()).collect();
        let spec = FilterSpec { include: owned(include), exclude: owned(exclude), follow: vec![] };
        let filter = Filter::new(&spec, None).expect("valid");
        let mut stack: Vec<(&'static str, DirState, bool)> = Vec::new();
        let (mut out, mut seen, mut skip) = (Vec::new(), 0, None::<&str>);
        for &entry in TREE {
            if skip.is_some_and(|dir| entry.starts_with(dir)) {
                continue;
            }
            seen += 1;
            while stack.last().is_some_and(|(dir, ..)| !entry.starts_with(dir)) {
                stack.pop();
            }
            let state = stack.last().map(|(_, s, _)| s.clone()).unwrap_or_default();
            let verdict = filter.entry(entry.trim_end_matches('/'), entry.ends_with('/'), &state);
            if verdict.emit {
                for (dir, _, emitted) in &mut stack {
                    if !std::mem::replace(emitted, true) {
                        out.push(*dir);
                    }
                }
                out.push(entry);
            }
            if entry.ends_with('/') {
                if verdict.descend {
                    stack.push((entry, verdict.state, verdict.emit));
                } else {
                    skip = Some(entry);
                }
            }
        }
        (out, seen)
    }

    #[test]
    fn includes() {
        for (include, want) in [
            (&["bar"][..], &["bar"][..]),
            (&["a/b/c.go"], &["a/", "a/b/", "a/b/c.go"]),
            (&["**/*.go"], &["a/", "a/b/", "a/b/c.go"]),
            (&["foo/bar"], &["foo/", "foo/bar/", "foo/bar/baz"]),
            (&["foo/bar/*"], &["foo/", "foo/bar/", "foo/bar/baz"]),
            (&["foo", "!foo/bar"], &["foo/", "foo/bar2"]),
            (&["a", "!a/x", "!**/*.md"], &["a/", "a/b/", "a/b/c.go", "a/b.txt"]),
            (&["nothing"], &[]),
            (&["*/y"], &[]),
            (&["**/y"], &["a/", "a/x/", "a/x/y/", "a/x/y/z"]),
        ] {
            assert_eq!(walk(include, &[]).0, want, "{include:?}");
        }
    }

    #[test]
    fn excludes() {
        for (exclude, want) in [
            (&["a", "foo", "node_modules"][..], &["bar", "foo2"][..]),
            (&["*"], &[]),
            (&["*", "!bar"], &["bar"]),
            (&["*", "!foo/bar"], &["foo/", "foo/bar/", "foo/bar/baz"]),
            (&["*", "!**/*.md"], &["a/", "a/b/", "a/b/d.md"]),
            (&["**", "!a/x/y/z"], &["a/", "a/x/", "a/x/y/", "a/x/y/z"]),
            (&["a", "foo*", "!foo2", "node_modules"], &["bar", "foo2"]),
        ] {
            assert_eq!(walk(&[], exclude).0, want, "{exclude:?}");
        }
    }

    #[test]
    fn both() {
        assert_eq!(walk(&["a"], &["**/*.md", "a/x"]).0, ["a/", "a/b/", "a/b/c.go", "a/b.txt"]);
        assert_eq!(walk(&["a/b"], &["a/b/c.go"]).0, ["a/", "a/b/", "a/b/d.md"]);
    }

    #[test]
    fn directories_without_prospect_are_not_walked() {
        assert_eq!(walk(&[], &["node_modules", "a", "foo"]).1, 5);
        assert_eq!(walk(&["foo/bar2"], &[]).1, 7); // the five at the top and foo's two
        assert_eq!(walk(&[], &["a", "node_modules", "foo", "!foo/bar/baz"]).1, 8);
        assert_eq!(walk(&["**/z"], &[]).1, TREE.len());
    }

    #[test]
    fn everything_passes_without_patterns() {
        assert_eq!(walk(&[], &[]).0, TREE);
    }
}
