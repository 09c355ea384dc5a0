//! Include and exclude patterns during a walk.

use crate::Error;
use cooper_fsmatch::{MatchState, PatternMatcher, has_wildcards};

/// Include and exclude patterns.
#[derive(Debug)]
pub(crate) struct Filter {
    include: Option<PatternMatcher>,
    exclude: Option<PatternMatcher>,
    /// The patterns of `include` up to their first component with a wildcard.
    reach: Vec<(Vec<String>, bool)>,
}

/// What a directory's entries need to know of its match.
#[derive(Debug, Clone, Default)]
pub(crate) struct FilterState {
    include: MatchState,
    exclude: MatchState,
}

/// How an entry fares with a [`Filter`].
#[derive(Debug)]
pub(crate) struct Match {
    /// It is copied itself.
    pub included: bool,
    /// Something below it may be copied.
    pub descend: bool,
    pub state: FilterState,
}

impl Filter {
    pub(crate) fn new(include: &[String], exclude: &[String]) -> Result<Self, Error> {
        let compile = |patterns: &[String], kind| match patterns {
            [] => Ok(None),
            _ => PatternMatcher::new(patterns).map(Some).map_err(|e| Error::Pattern {
                kind,
                patterns: patterns.to_vec(),
                reason: e.to_string(),
            }),
        };
        let include = compile(include, "includepatterns")?;
        let reach = include.iter().flat_map(PatternMatcher::patterns).filter(|p| !p.is_exclusion()).map(|p| {
            let parts: Vec<&str> = p.text().split('/').collect();
            let plain: Vec<String> =
                parts.iter().take_while(|c| !has_wildcards(c) && !c.contains('\\')).map(|c| (*c).to_owned()).collect();
            let open_ended = plain.len() < parts.len();
            (plain, open_ended)
        });
        Ok(Self { reach: reach.collect(), include, exclude: compile(exclude, "excludepatterns")? })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.include.is_none() && self.exclude.is_none()
    }

    /// `path` is relative to what is copied.
    pub(crate) fn check(&self, path: &str, parent: &FilterState) -> Match {
        let mut state = FilterState::default();
        let (mut included, mut descend) = (true, true);
        if let Some(matcher) = &self.include {
            (included, state.include) = matcher.matches_below(path, &parent.include);
            descend = included || self.may_reach(path);
        }
        if let Some(matcher) = &self.exclude {
            let (excluded, below) = matcher.matches_below(path, &parent.exclude);
            state.exclude = below;
            if excluded {
                included = false;
                descend &= matcher.has_exclusions();
            }
        }
        Match { included, descend, state }
    }

    /// Whether an include pattern can match below `path`, going by the plain parts alone.
    fn may_reach(&self, path: &str) -> bool {
        self.reach.iter().any(|(plain, open_ended)| {
            let mut wanted = plain.iter();
            path.split('/').all(|part| match wanted.next() {
                Some(want) => want == part,
                None => *open_ended,
            })
        })
    }
}
