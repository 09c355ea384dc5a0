//! What can be wrong with a Dockerfile, with the place and the nearest valid spelling.
//!
//! The wording of [`Problem`]s is part of the contract: build tools and their tests match on it.

use crate::source::{Range, Source, Span};
use crate::value::quoted;

/// An error in a Dockerfile: the problem, where it is, and what was probably meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// What is wrong.
    pub problem: Problem,
    /// The nearest valid spelling of the offending word.
    pub suggestion: Option<String>,
    /// The offending text, as exactly as is known.
    pub span: Span,
    /// First line of the instruction concerned, from 1; named in the message of problems with an instruction. Zero when
    /// only whoever evaluates the instruction knows its lines.
    pub first_line: u32,
    /// Last line of the instruction concerned; zero as above.
    pub last_line: u32,
}

impl Diagnostic {
    /// The lines concerned, in the form that protocol clients expect.
    pub fn ranges(&self) -> Vec<Range> {
        Range::lines(self.first_line, self.last_line)
    }

    /// The message without the line prefix, with the suggestion.
    pub fn short(&self) -> String {
        match &self.suggestion {
            Some(suggestion) => format!("{} (did you mean {suggestion}?)", self.problem),
            None => self.problem.to_string(),
        }
    }

    /// The form for terminals: the place underlined, with the nearest valid spelling.
    pub fn explain(&self, source: &Source) -> String {
        let meant = self.suggestion.as_ref().map(|word| format!("did you mean {word}?"));
        let span = if self.span.is_empty() { source.span_of(&self.ranges()) } else { self.span };
        format!("error: {}\n{}", self.problem, source.snippet(span, meant.as_deref().unwrap_or_default()))
    }

    /// The message followed by the excerpt of the source that it is about.
    pub fn render(&self, source: &Source) -> String {
        format!("{}{self}\n", source.excerpt(&self.ranges()))
    }
}

impl std::fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.first_line > 0 && self.problem.names_line() {
            write!(f, "dockerfile parse error on line {}: ", self.first_line)?;
        }
        f.write_str(&self.short())
    }
}

impl std::error::Error for Diagnostic {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.problem)
    }
}

/// Everything that parsing finds wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the variants are")]
pub enum Problem {
    // The file and its lines.
    #[error("file with no instructions")]
    NoInstructions,
    #[error("dockerfile line greater than max allowed size of {0}")]
    LineTooLong(usize),
    #[error("unterminated heredoc")]
    UnterminatedHeredoc { name: String },
    #[error("string field contains invalid UTF-8: the file is to be in UTF-8, other bytes belong into a file to COPY")]
    NotUtf8,
    #[error("only one {0} parser directive can be used")]
    RepeatedDirective(&'static str),
    #[error("invalid escape token '{0}' does not match ` or \\")]
    InvalidEscape(String),
    #[error("{0} must have two arguments")]
    MissingValue(&'static str),
    #[error("Syntax error - can't find = in {}. Must be of the form: name=value", quoted(.0))]
    MissingEquals(String),
    #[error("when using JSON array syntax, arrays must be comprised of strings only")]
    JsonNotStrings,
    #[error("no build stage in current context")]
    NoStage,

    // Instructions.
    #[error("unknown instruction: {0}")]
    UnknownInstruction(String),
    #[error("{0} requires at least one argument")]
    AtLeastOneArgument(&'static str),
    #[error("{0} requires exactly one argument")]
    ExactlyOneArgument(&'static str),
    #[error("{0} requires at least two arguments, but only one was provided. Destination could not be determined")]
    NoDestination(&'static str),
    #[error("{0} cannot accept a heredoc as a destination")]
    HeredocDestination(&'static str),
    #[error("{0} names can not be blank")]
    BlankName(&'static str),
    #[error("FROM requires either one or three arguments")]
    FromArguments,
    #[error("invalid name for build stage: {}, name can't start with a number or contain symbols", quoted(.0))]
    StageName(String),
    #[error("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")]
    OnbuildChain,
    #[error("{0} isn't allowed as an ONBUILD trigger")]
    OnbuildTrigger(String),
    #[error("VOLUME specified can not be an empty string")]
    EmptyVolume,
    #[error("{0} requires the arguments to be in JSON form")]
    NotJson(&'static str),
    #[error("HEALTHCHECK NONE takes no arguments")]
    HealthcheckNoneArguments,
    #[error("Missing command after HEALTHCHECK CMD")]
    HealthcheckNoCommand,
    #[error("Unknown type {} in HEALTHCHECK (try CMD)", quoted(.0))]
    HealthcheckType(String),
    #[error("{0}")]
    Duration(#[source] crate::value::DurationError),
    #[error("Interval {} cannot be less than 1ms", quoted(.0))]
    IntervalTooShort(String),
    #[error("--retries cannot be negative ({0})")]
    NegativeRetries(i64),
    #[error("strconv.ParseInt: parsing {}: {reason}", quoted(.value))]
    RetriesNumber { value: String, reason: &'static str },

    // Flags.
    #[error("unknown flag: --{0}")]
    UnknownFlag(String),
    #[error("duplicate flag specified: --{0}")]
    DuplicateFlag(String),
    #[error("missing a value on flag: --{0}")]
    FlagWithoutValue(String),
    #[error("expecting boolean value for flag --{flag}, not: {value}")]
    FlagNotBoolean { flag: String, value: String },
    #[error("invalid network mode {}", quoted(.0))]
    NetworkMode(String),
    #[error("security {} is not valid", quoted(.0))]
    SecurityMode(String),

    // Comma-separated values of RUN flags.
    #[error("failed to parse csv {what}: {reason}")]
    Csv {
        what: &'static str,
        #[source]
        reason: crate::value::CsvError,
    },
    #[error("invalid field '{0}' must be a key=value pair")]
    FieldWithoutValue(String),
    #[error("unexpected key '{key}' in '{field}'")]
    UnexpectedKey { key: String, field: String },
    #[error("unexpected key '{key}' for mount type '{mount}'")]
    KeyNotForMount { key: String, mount: &'static str },
    #[error("{key} not allowed for \"{mount}\" type mounts")]
    AccessNotForMount { key: &'static str, mount: &'static str },
    #[error("'{0}' doesn't support variable expansion, define alias stage instead")]
    VariableInFrom(String),
    #[error("invalid value for {key}: {value}")]
    InvalidValue { key: String, value: String },
    #[error("invalid value {value} for {key}")]
    InvalidNumber { key: &'static str, value: String },
    #[error("unsupported mount type {}", quoted(.0))]
    MountType(String),
    #[error("unsupported sharing value {}", quoted(.0))]
    Sharing(String),
    #[error("invalid cache sharing set for {0} mount")]
    SharingNotForMount(&'static str),
    #[error("secret mount should not have a from")]
    SecretFrom,
    #[error("secret mount should not define sharing")]
    SecretSharing,
    #[error("invalid secret mount. one of source, target required")]
    SecretUnnamed,
    #[error("both source and id can't be set")]
    SecretSourceAndId,
    #[error("device name already set to {0}")]
    DeviceNamedTwice(String),

    /// A variable expansion inside a value failed.
    #[error("{0}")]
    Expand(#[from] crate::expand::ExpandError),
}

impl Problem {
    /// Whether the text cannot be read any further, so that no instruction is looked at.
    pub(crate) fn stops_reading(&self) -> bool {
        !self.names_line() && *self != Self::NoStage
    }

    /// Whether the message starts with the line: so for problems with an instruction's meaning, not for problems with
    /// reading the file.
    pub(crate) fn names_line(&self) -> bool {
        !matches!(
            self,
            Self::NoInstructions
                | Self::LineTooLong(_)
                | Self::UnterminatedHeredoc { .. }
                | Self::RepeatedDirective(_)
                | Self::InvalidEscape(_)
                | Self::MissingValue(_)
                | Self::MissingEquals(_)
                | Self::JsonNotStrings
                | Self::NoStage
        )
    }
}

/// Finds the option nearest to a mistyped word: fewer than three edits away, and not equal to it. Of several that are
/// as near, one with the same letters in another order is meant.
///
/// With `ignore_case` the result follows the case of the word if that is uniform.
pub fn nearest<'a>(word: &str, options: impl IntoIterator<Item = &'a str>, ignore_case: bool) -> Option<String> {
    let fold = |text: &str| if ignore_case { text.to_lowercase() } else { text.to_owned() };
    let wanted = fold(word);
    let letters = |text: &str| {
        let mut letters: Vec<char> = text.chars().collect();
        letters.sort_unstable();
        letters
    };
    let mixed_up = |option: &str| letters(option) == letters(&wanted);
    let mut best: Option<(usize, String)> = None;
    for option in options {
        let option = fold(option);
        let distance = edit_distance(&wanted, &option);
        if distance == 0 {
            return None;
        }
        let nearer = match &best {
            None => distance < 3,
            Some((least, other)) => distance < *least || distance == *least && mixed_up(&option) && !mixed_up(other),
        };
        if nearer {
            best = Some((distance, option));
        }
    }
    let (_, found) = best?;
    let shout = ignore_case && word != word.to_lowercase() && word == word.to_uppercase();
    Some(if shout { found.to_uppercase() } else { found })
}

/// Levenshtein distance in characters.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(left != *right);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_spelling() {
        let instructions = ["ARG", "RUN", "FROM", "COPY", "ENTRYPOINT", "CMD"];
        let check = |word, expected: Option<&str>| {
            assert_eq!(nearest(word, instructions, true).as_deref(), expected, "{word}");
        };
        check("RUNN", Some("RUN"));
        check("runn", Some("run"));
        check("Runn", Some("run"));
        check("FORM", Some("FROM"));
        check("URN", Some("RUN"));
        check("run", None);
        check("NOTHINGLIKEIT", None);
        assert_eq!(
            nearest("forM", ["from"], false),
            Some("from".to_owned()).filter(|_| edit_distance("forM", "from") < 3)
        );
    }
}
