//! Lint that needs evaluated state: found on the way, reported beside the result.

use crate::instruction::Comment;
use crate::source::Range;
use crate::value::quoted;

/// Something that works but should be written otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub kind: FindingKind,
    /// The lines concerned.
    pub ranges: Vec<Range>,
    /// The comments above the instruction, which may silence the rule.
    pub comments: Vec<Comment>,
}

/// What can be found. The names and messages are those of the published rules.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the messages say what the variants are")]
pub enum FindingKind {
    UndefinedArgInFrom { name: String, suggestion: Option<String> },
    UndefinedVar { name: String, suggestion: Option<String> },
    InvalidDefaultArgInFrom { base: String },
    InvalidBaseImagePlatform { image: String, expected: String, actual: String },
    RedundantTargetPlatform { expression: String },
    FromPlatformFlagConstDisallowed { platform: String },
    CopyIgnoredFile { command: &'static str, path: String },
    WorkdirRelativePath { path: String },
    SecretsUsedInArgOrEnv { instruction: &'static str, name: String },
    LegacyKeyValueFormat { instruction: &'static str },
    JsonArgsRecommended { instruction: &'static str },
    MultipleInstructionsDisallowed { instruction: &'static str },
    ExposeProtoCasing { port: String },
    ExposeInvalidFormat { port: String },
}

impl FindingKind {
    /// The name of the rule.
    pub fn rule(&self) -> &'static str {
        match self {
            Self::UndefinedArgInFrom { .. } => "UndefinedArgInFrom",
            Self::UndefinedVar { .. } => "UndefinedVar",
            Self::InvalidDefaultArgInFrom { .. } => "InvalidDefaultArgInFrom",
            Self::InvalidBaseImagePlatform { .. } => "InvalidBaseImagePlatform",
            Self::RedundantTargetPlatform { .. } => "RedundantTargetPlatform",
            Self::FromPlatformFlagConstDisallowed { .. } => "FromPlatformFlagConstDisallowed",
            Self::CopyIgnoredFile { .. } => "CopyIgnoredFile",
            Self::WorkdirRelativePath { .. } => "WorkdirRelativePath",
            Self::SecretsUsedInArgOrEnv { .. } => "SecretsUsedInArgOrEnv",
            Self::LegacyKeyValueFormat { .. } => "LegacyKeyValueFormat",
            Self::JsonArgsRecommended { .. } => "JSONArgsRecommended",
            Self::MultipleInstructionsDisallowed { .. } => "MultipleInstructionsDisallowed",
            Self::ExposeProtoCasing { .. } => "ExposeProtoCasing",
            Self::ExposeInvalidFormat { .. } => "ExposeInvalidFormat",
        }
    }
}

impl std::fmt::Display for FindingKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::UndefinedArgInFrom { name, suggestion } => {
                write!(f, "FROM argument '{name}' is not declared")?;
                suggestion.iter().try_for_each(|s| write!(f, " (did you mean {s}?)"))
            }
            Self::UndefinedVar { name, suggestion } => {
                write!(f, "Usage of undefined variable '${name}'")?;
                suggestion.iter().try_for_each(|s| write!(f, " (did you mean ${s}?)"))
            }
            Self::InvalidDefaultArgInFrom { base } => {
                write!(f, "Default value for ARG {base} results in empty or invalid base image name")
            }
            Self::InvalidBaseImagePlatform { image, expected, actual } => write!(
                f,
                "Base image {image} was pulled with platform {}, expected {} for current build",
                quoted(actual),
                quoted(expected)
            ),
            Self::RedundantTargetPlatform { expression } => write!(
                f,
                "Setting platform to predefined {expression} in FROM is redundant as this is the default behavior"
            ),
            Self::FromPlatformFlagConstDisallowed { platform } => {
                write!(f, "FROM --platform flag should not use constant value {}", quoted(platform))
            }
            Self::CopyIgnoredFile { command, path } => {
                write!(f, "Attempting to {command} file {} that is excluded by .dockerignore", quoted(path))
            }
            Self::WorkdirRelativePath { path } => {
                write!(f, "Relative workdir {} can have unexpected results if the base image changes", quoted(path))
            }
            Self::SecretsUsedInArgOrEnv { instruction, name } => {
                write!(f, "Do not use ARG or ENV instructions for sensitive data ({instruction} {})", quoted(name))
            }
            Self::LegacyKeyValueFormat { instruction: i } => {
                write!(f, "\"{i} key=value\" should be used instead of legacy \"{i} key value\" format")
            }
            Self::JsonArgsRecommended { instruction } => write!(
                f,
                "JSON arguments recommended for {instruction} to prevent unintended behavior related to OS signals"
            ),
            Self::MultipleInstructionsDisallowed { instruction } => write!(
                f,
                "Multiple {instruction} instructions should not be used in the same stage because only the last one \
                 will be used"
            ),
            Self::ExposeProtoCasing { port } => {
                write!(f, "Defined protocol '{port}' in EXPOSE instruction should be lowercase")
            }
            Self::ExposeInvalidFormat { port } => {
                write!(f, "EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'")
            }
        }
    }
}

/// Words of a name that mean a secret.
const SECRET_WORDS: [&str; 10] =
    ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];
/// Words of a name that mean it is none after all.
const HARMLESS_WORDS: [&str; 3] = ["public", "file", "version"];

/// Whether a variable's name says that it holds a secret.
pub(super) fn sounds_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let has = |words: &[&str]| name.split('_').any(|word| words.contains(&word));
    has(&SECRET_WORDS) && !has(&HARMLESS_WORDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_names() {
        for (name, secret) in [
            ("API_KEY", true),
            ("apikey", true),
            ("GITHUB_TOKEN", true),
            ("secret_message", true),
            ("AUTH", true),
            ("PUBLIC_KEY", false),
            ("TOKEN_FILE", false),
            ("monkey", false),
            ("keyboard", false),
            ("", false),
        ] {
            assert_eq!(sounds_secret(name), secret, "{name}");
        }
    }
}
