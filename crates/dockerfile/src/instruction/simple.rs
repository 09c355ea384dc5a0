//! The instructions that are little more than their words.

use super::{CommandLine, Head, Heredoc};
use crate::source::Word;
use crate::value::GoDuration;

/// `FROM [--platform=…] image [AS name]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    /// Text, place, comments, flags.
    pub head: Head,
    /// The base, unexpanded.
    pub image: Word,
    /// `--platform`, unexpanded.
    pub platform: Option<Word>,
    /// The word `AS` as written.
    pub as_keyword: Option<Word>,
    /// The stage's name in lower case; its span gives the spelling in the file.
    pub name: Option<Word>,
}

/// One `name[=default]` of an `ARG`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgPair {
    /// Name, unexpanded.
    pub name: Word,
    /// Default value, unexpanded; none for a bare name.
    pub default: Option<Word>,
    /// The comment directly above the instruction that describes this name.
    pub description: Option<String>,
}

/// `ARG name[=default] …`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arg {
    /// Text, place, comments, flags.
    pub head: Head,
    /// What it declares.
    pub pairs: Vec<ArgPair>,
}

/// A key and a value of ENV or LABEL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// Key, unexpanded.
    pub key: Word,
    /// Value, unexpanded.
    pub value: Word,
    /// Written in the old form, `KEY value`, without `=`.
    pub legacy: bool,
}

/// `ENV key=value …` or `ENV key value`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Env {
    /// Text, place, comments, flags.
    pub head: Head,
    /// Pairs in order.
    pub pairs: Vec<KeyValue>,
}

/// `LABEL key=value …` or `LABEL key value`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Text, place, comments, flags.
    pub head: Head,
    /// Pairs in order.
    pub pairs: Vec<KeyValue>,
}

/// `MAINTAINER name`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maintainer {
    /// Text, place, comments, flags.
    pub head: Head,
    /// The author.
    pub name: Word,
}

/// `CMD command`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cmd {
    /// Text, place, comments, flags.
    pub head: Head,
    /// The command; may be empty.
    pub command: CommandLine,
}

/// `ENTRYPOINT command`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entrypoint {
    /// Text, place, comments, flags.
    pub head: Head,
    /// The command; empty takes the entry point away.
    pub command: CommandLine,
}

/// `EXPOSE port[/protocol] …`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expose {
    /// Text, place, comments, flags.
    pub head: Head,
    /// Ports as written, sorted by their text (the order in which they are applied), unexpanded.
    pub ports: Vec<Word>,
}

/// `HEALTHCHECK NONE` or `HEALTHCHECK [flags] CMD command`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Healthcheck {
    /// Text, place, comments, flags.
    pub head: Head,
    /// What is run.
    pub test: HealthcheckTest,
    /// `--interval`; zero for the default.
    pub interval: GoDuration,
    /// `--timeout`; zero for the default.
    pub timeout: GoDuration,
    /// `--start-period`; zero for the default.
    pub start_period: GoDuration,
    /// `--start-interval`; zero for the default.
    pub start_interval: GoDuration,
    /// `--retries`; zero for the default.
    pub retries: u32,
}

/// The probe of a health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthcheckTest {
    /// An inherited check is switched off.
    None,
    /// A command in either form.
    Cmd(CommandLine),
}

impl HealthcheckTest {
    /// The list that an image config stores: `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", …]`.
    pub fn config(&self) -> Vec<String> {
        let tagged = |tag: &str, args: Vec<&str>| std::iter::once(tag).chain(args).map(str::to_owned).collect();
        match self {
            Self::None => tagged("NONE", Vec::new()),
            Self::Cmd(command @ CommandLine::Shell(_)) => tagged("CMD-SHELL", command.args()),
            Self::Cmd(command) => tagged("CMD", command.args()),
        }
    }
}

/// `ONBUILD instruction`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Onbuild {
    /// Text, place, comments, flags.
    pub head: Head,
    /// The trigger's text with heredoc bodies, as an image config stores it.
    pub expression: String,
    /// The trigger's instruction name as written.
    pub trigger: Word,
    /// Heredocs of the trigger.
    pub heredocs: Vec<Heredoc>,
}

/// `SHELL ["program", "argument", …]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shell {
    /// Text, place, comments, flags.
    pub head: Head,
    /// The shell that later commands run in.
    pub args: Vec<Word>,
}

/// `STOPSIGNAL signal`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopsignal {
    /// Text, place, comments, flags.
    pub head: Head,
    /// Number or name, unexpanded.
    pub signal: Word,
}

/// `USER user[:group]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Text, place, comments, flags.
    pub head: Head,
    /// User and group, unexpanded.
    pub user: Word,
}

/// `VOLUME path …`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Text, place, comments, flags.
    pub head: Head,
    /// Paths, unexpanded.
    pub paths: Vec<Word>,
}

/// `WORKDIR path`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workdir {
    /// Text, place, comments, flags.
    pub head: Head,
    /// Directory, unexpanded.
    pub path: Word,
}
