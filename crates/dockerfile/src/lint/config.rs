//! Which rules judge: the `check` directive, the build argument of the same effect, comments above instructions.

use crate::diagnostic::nearest;
use crate::instruction::Comment;
use crate::lint::{RULES, Rule};
use crate::parser::{check_in_comment, detect_check};
use crate::value::{parse_bool, quoted};
use std::collections::BTreeSet;

/// The build argument that takes the place of the directive.
pub const CHECK_ARG: &str = "BUILDKIT_DOCKERFILE_CHECK";

/// Clauses beyond this many belong to the last one.
const MAX_CLAUSES: usize = 3;

/// Which rules judge, and what follows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// No rule judges, but for experimental ones that are asked for.
    pub skip_all: bool,
    /// These rules do not judge.
    pub skip: BTreeSet<String>,
    /// Every experimental rule judges.
    pub experimental_all: bool,
    /// These experimental rules judge.
    pub experimental: BTreeSet<String>,
    /// Warnings make the build fail.
    pub error: bool,
}

/// Why a check option cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A clause that is none.
    #[error("failed to parse check options: invalid check option {}{}", quoted(.option), meant(.suggestion.as_deref()))]
    Option {
        /// The clause, or its key if it has a value.
        option: String,
        /// The key that was probably meant.
        suggestion: Option<String>,
    },
    /// `error=` something that is no boolean.
    #[error(
        "failed to parse check options: failed to parse check option {}: strconv.ParseBool: parsing {}: invalid syntax",
        quoted(.clause),
        quoted(.value)
    )]
    Bool {
        /// The clause.
        clause: String,
        /// Its value.
        value: String,
    },
}

fn meant(suggestion: Option<&str>) -> String {
    suggestion.map(|s| format!(" (did you mean {s}?)")).unwrap_or_default()
}

impl Config {
    /// Reads `skip=A,B;error=true;experimental=C`.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        if text.trim().is_empty() {
            return Ok(config);
        }
        for clause in text.trim().splitn(MAX_CLAUSES, ';') {
            let Some((key, value)) = clause.split_once('=') else {
                return Err(ConfigError::Option { option: clause.to_owned(), suggestion: None });
            };
            let value = value.trim();
            match key.trim() {
                "skip" if value == "all" => config.skip_all = true,
                "skip" => config.skip = names(value),
                "experimental" if value == "all" => config.experimental_all = true,
                "experimental" => config.experimental = names(value),
                "error" => {
                    let invalid = || ConfigError::Bool { clause: clause.to_owned(), value: value.to_owned() };
                    config.error = parse_bool(value).ok_or_else(invalid)?;
                }
                other => {
                    let suggestion = nearest(other, ["skip", "error", "experimental"], false);
                    return Err(ConfigError::Option { option: other.to_owned(), suggestion });
                }
            }
        }
        Ok(config)
    }

    /// What holds for a file: the build argument [`CHECK_ARG`] if it is given, else the file's directive.
    pub fn of_file(text: &str, argument: Option<&str>) -> Result<Self, ConfigError> {
        match argument {
            Some(argument) => Self::parse(argument),
            None => Self::parse(&detect_check(text).unwrap_or_default()),
        }
    }

    /// Whether a rule judges an instruction with these comments above it. The first `# check=…` among them counts, if
    /// it is valid, in addition to what holds for the file.
    pub fn allows(&self, rule: &Rule, comments: &[Comment]) -> bool {
        let local = comments.iter().find_map(|comment| check_in_comment(&comment.text));
        let local = local.and_then(|text| Self::parse(text).ok());
        let any = |test: &dyn Fn(&Self) -> bool| test(self) || local.as_ref().is_some_and(test);
        if rule.experimental {
            any(&|config| config.experimental_all || config.experimental.contains(rule.name))
        } else {
            !any(&|config| config.skip_all || config.skip.contains(rule.name))
        }
    }

    /// Names among the options that are no rules, each with the nearest one. They are not an error: a file may be
    /// written for a newer builder.
    pub fn unknown_rules(&self) -> Vec<(String, Option<String>)> {
        let known = |name: &String| RULES.iter().any(|rule| rule.name == *name);
        let names = self.skip.iter().chain(&self.experimental).filter(|name| !name.is_empty() && !known(name));
        names.map(|name| (name.clone(), nearest(name, RULES.iter().map(|rule| rule.name), false))).collect()
    }
}

fn names(list: &str) -> BTreeSet<String> {
    list.split(',').map(|name| name.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(text: &str) -> String {
        match Config::parse(text) {
            Ok(config) => {
                let set = |all: bool, set: &BTreeSet<String>| {
                    if all { "all".to_owned() } else { set.iter().cloned().collect::<Vec<_>>().join(",") }
                };
                let skip = set(config.skip_all, &config.skip);
                let experimental = set(config.experimental_all, &config.experimental);
                format!("skip {skip} experimental {experimental} error {}", config.error)
            }
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn options() {
        let all: String = [
            "",
            "skip=all",
            "skip=A, B ;error=TRUE",
            "skip=A;error=true;experimental=all",
            "skip=A;error=true;experimental=C;skip=D",
            "skip",
            "skipp=A",
            "error=maybe",
        ]
        .iter()
        .fold(String::new(), |out, text| out + &format!("{text}: {}\n", show(text)));
        insta::assert_snapshot!(all, @r#"
        : skip  experimental  error false
        skip=all: skip all experimental  error false
        skip=A, B ;error=TRUE: skip A,B experimental  error true
        skip=A;error=true;experimental=all: skip A experimental all error true
        skip=A;error=true;experimental=C;skip=D: skip A experimental C;skip=D error true
        skip: failed to parse check options: invalid check option "skip"
        skipp=A: failed to parse check options: invalid check option "skipp" (did you mean skip?)
        error=maybe: failed to parse check options: failed to parse check option "error=maybe": strconv.ParseBool: parsing "maybe": invalid syntax
        "#);
    }

    #[test]
    fn unknown_rules_are_named() {
        let config = Config::parse("skip=StageNameCase,UndefinedVar;experimental=Foo").unwrap();
        let unknown = config.unknown_rules();
        assert_eq!(unknown, [("StageNameCase".to_owned(), None), ("Foo".to_owned(), None)]);
        let config = Config::parse("skip=UndefinedVars").unwrap();
        assert_eq!(config.unknown_rules(), [("UndefinedVars".to_owned(), Some("UndefinedVar".to_owned()))]);
    }
}
