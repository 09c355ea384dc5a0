//! The language as data: instructions, the shape of their arguments, and their flags.
//!
//! The parser, its suggestions, completions and documentation all read these tables; nothing about an instruction's
//! grammar is written down twice.

/// How an instruction's arguments are cut into words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arguments {
    /// The whole text is one argument.
    Text,
    /// Words between white space.
    Words,
    /// Words in which quotes and escapes group: `name` or `name=value`.
    Names,
    /// `key=value …`, or the old `key value`.
    Pairs,
    /// A JSON array of strings, or else one text for the shell.
    JsonOrText,
    /// A JSON array of strings, or else words between white space.
    JsonOrWords,
    /// `NONE`, or `CMD` and a [`Arguments::JsonOrText`].
    Healthcheck,
    /// Another instruction.
    Instruction,
}

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlagKind {
    /// Nothing, `true` or `false`.
    Bool,
    /// One value.
    Text,
    /// A value each time it is given.
    List,
}

/// A flag of an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlagRule {
    /// Name without dashes.
    pub name: &'static str,
    /// What it takes.
    pub kind: FlagKind,
    /// What it does.
    pub summary: &'static str,
}

/// An instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstructionRule {
    /// Name in upper case.
    pub name: &'static str,
    /// Operands, for documentation.
    pub usage: &'static str,
    /// What it does.
    pub summary: &'static str,
    /// Shape of its arguments.
    pub arguments: Arguments,
    /// Its flags.
    pub flags: &'static [FlagRule],
    /// Whether here-documents may follow.
    pub heredocs: bool,
    /// Whether flags are looked at. Where they are not, any text that looks like a flag is dropped in silence.
    pub checks_flags: bool,
}

impl InstructionRule {
    /// The flag with a name.
    pub fn flag(&self, name: &str) -> Option<&'static FlagRule> {
        self.flags.iter().find(|flag| flag.name == name)
    }
}

/// Finds an instruction by name, in any case.
pub fn instruction(name: &str) -> Option<&'static InstructionRule> {
    INSTRUCTIONS.iter().find(|rule| rule.name.eq_ignore_ascii_case(name))
}

const fn flag(name: &'static str, kind: FlagKind, summary: &'static str) -> FlagRule {
    FlagRule { name, kind, summary }
}

const CHOWN: FlagRule = flag("chown", FlagKind::Text, "owner of what is written: user[:group], names or numbers");
const CHMOD: FlagRule = flag("chmod", FlagKind::Text, "permissions of what is written: octal or symbolic");
const LINK: FlagRule = flag("link", FlagKind::Bool, "write an independent layer that does not depend on what is below");
const EXCLUDE: FlagRule = flag("exclude", FlagKind::List, "pattern of files to leave out");

const RULE: InstructionRule = InstructionRule {
    name: "",
    usage: "",
    summary: "",
    arguments: Arguments::Text,
    flags: &[],
    heredocs: false,
    checks_flags: true,
};

/// Every instruction, by name.
pub static INSTRUCTIONS: [InstructionRule; 18] = [
    InstructionRule {
        name: "ADD",
        usage: "[flags] source… destination",
        summary: "Adds files, archives, URLs or git repositories to the image",
        arguments: Arguments::JsonOrWords,
        flags: &[
            CHOWN,
            CHMOD,
            LINK,
            flag("keep-git-dir", FlagKind::Bool, "keep the .git directory of a git source"),
            flag("checksum", FlagKind::Text, "digest of a URL's content, or commit of a git source"),
            flag("unpack", FlagKind::Bool, "whether archives are unpacked"),
            EXCLUDE,
        ],
        heredocs: true,
        ..RULE
    },
    InstructionRule {
        name: "ARG",
        usage: "name[=default] …",
        summary: "Declares build arguments",
        arguments: Arguments::Names,
        checks_flags: false,
        ..RULE
    },
    InstructionRule {
        name: "CMD",
        usage: "command",
        summary: "Sets the default command of the image",
        arguments: Arguments::JsonOrText,
        ..RULE
    },
    InstructionRule {
        name: "COPY",
        usage: "[flags] source… destination",
        summary: "Copies files of the context, a stage or an image",
        arguments: Arguments::JsonOrWords,
        flags: &[
            CHOWN,
            flag("from", FlagKind::Text, "stage, named context or image to copy from"),
            CHMOD,
            LINK,
            EXCLUDE,
            flag("parents", FlagKind::Bool, "keep the parent directories of sources"),
        ],
        heredocs: true,
        ..RULE
    },
    InstructionRule {
        name: "ENTRYPOINT",
        usage: "command",
        summary: "Sets the program that the image runs",
        arguments: Arguments::JsonOrText,
        ..RULE
    },
    InstructionRule {
        name: "ENV",
        usage: "key=value …",
        summary: "Sets environment variables",
        arguments: Arguments::Pairs,
        ..RULE
    },
    InstructionRule {
        name: "EXPOSE",
        usage: "port[/protocol] …",
        summary: "Documents the ports that the image listens on",
        arguments: Arguments::Words,
        ..RULE
    },
    InstructionRule {
        name: "FROM",
        usage: "[--platform=platform] image [AS name]",
        summary: "Begins a stage from a base image or an earlier stage",
        arguments: Arguments::Words,
        flags: &[flag("platform", FlagKind::Text, "platform of the base image")],
        ..RULE
    },
    InstructionRule {
        name: "HEALTHCHECK",
        usage: "NONE | [flags] CMD command",
        summary: "Sets the probe that tells whether a container works",
        arguments: Arguments::Healthcheck,
        flags: &[
            flag("interval", FlagKind::Text, "time between probes"),
            flag("timeout", FlagKind::Text, "time after which a probe has failed"),
            flag("start-period", FlagKind::Text, "time in which failures do not count"),
            flag("start-interval", FlagKind::Text, "time between probes during the start period"),
            flag("retries", FlagKind::Text, "failures in a row that make a container unhealthy"),
        ],
        ..RULE
    },
    InstructionRule {
        name: "LABEL",
        usage: "key=value …",
        summary: "Adds metadata to the image",
        arguments: Arguments::Pairs,
        ..RULE
    },
    InstructionRule { name: "MAINTAINER", usage: "name", summary: "Sets the author (deprecated: use a label)", ..RULE },
    InstructionRule {
        name: "ONBUILD",
        usage: "instruction",
        summary: "Stores an instruction for builds that use the image as their base",
        arguments: Arguments::Instruction,
        ..RULE
    },
    InstructionRule {
        name: "RUN",
        usage: "[flags] command",
        summary: "Runs a command and keeps what it changes",
        arguments: Arguments::JsonOrText,
        flags: &[
            flag("device", FlagKind::List, "CDI device to give to the command"),
            flag("mount", FlagKind::List, "mount for the time of the command"),
            flag("network", FlagKind::Text, "network of the command: default, none or host"),
            flag("security", FlagKind::Text, "confinement of the command: sandbox or insecure"),
        ],
        heredocs: true,
        ..RULE
    },
    InstructionRule {
        name: "SHELL",
        usage: "[\"program\", \"argument\", …]",
        summary: "Sets the shell of later commands",
        arguments: Arguments::JsonOrText,
        ..RULE
    },
    InstructionRule {
        name: "STOPSIGNAL",
        usage: "signal",
        summary: "Sets the signal that stops a container",
        checks_flags: false,
        ..RULE
    },
    InstructionRule {
        name: "USER",
        usage: "user[:group]",
        summary: "Sets the user of later commands and of containers",
        ..RULE
    },
    InstructionRule {
        name: "VOLUME",
        usage: "path …",
        summary: "Declares directories that live outside the image",
        arguments: Arguments::JsonOrWords,
        ..RULE
    },
    InstructionRule { name: "WORKDIR", usage: "path", summary: "Sets, and creates, the working directory", ..RULE },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_sorted_and_described() {
        assert!(INSTRUCTIONS.is_sorted_by_key(|rule| rule.name));
        for rule in &INSTRUCTIONS {
            assert!(!rule.usage.is_empty() && !rule.summary.is_empty(), "{}", rule.name);
            assert!(rule.flags.is_empty() || rule.checks_flags, "{}", rule.name);
        }
    }
}
