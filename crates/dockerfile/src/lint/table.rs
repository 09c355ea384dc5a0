//! The rules as data.

/// A lint rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Name, as options have it.
    pub name: &'static str,
    /// What it is about: the detail of warnings.
    pub description: &'static str,
    /// Documentation; empty where there is none.
    pub url: &'static str,
    /// Judges only when asked to by name or with `experimental=all`.
    pub experimental: bool,
    /// How `--fix` repairs it; empty where people must decide.
    pub repair: &'static str,
}

macro_rules! rule {
    ($name:literal, $slug:literal, $description:literal, $repair:literal) => {
        Rule {
            name: $name,
            description: $description,
            url: concat!("https://docs.docker.com/go/dockerfile/rule/", $slug, "/"),
            experimental: false,
            repair: $repair,
        }
    };
}

/// Every rule.
pub static RULES: [Rule; 22] = [
    rule!("StageNameCasing", "stage-name-casing", "Stage names should be lowercase", "write the name in lower case"),
    rule!(
        "FromAsCasing",
        "from-as-casing",
        "The 'as' keyword should match the case of the 'from' keyword",
        "write both in one case"
    ),
    rule!(
        "NoEmptyContinuation",
        "no-empty-continuation",
        "Empty continuation lines will become errors in a future release",
        "remove the empty lines"
    ),
    rule!(
        "ConsistentInstructionCasing",
        "consistent-instruction-casing",
        "All commands within the Dockerfile should use the same casing (either upper or lower)",
        "write the instruction like most others"
    ),
    rule!("DuplicateStageName", "duplicate-stage-name", "Stage names should be unique", ""),
    rule!("ReservedStageName", "reserved-stage-name", "Reserved words should not be used as stage names", ""),
    rule!(
        "JSONArgsRecommended",
        "json-args-recommended",
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
        "write a command without shell syntax as a JSON array"
    ),
    rule!(
        "MaintainerDeprecated",
        "maintainer-deprecated",
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
        "use a label"
    ),
    rule!(
        "UndefinedArgInFrom",
        "undefined-arg-in-from",
        "FROM command must use declared ARGs",
        "use the argument that was probably meant"
    ),
    rule!(
        "WorkdirRelativePath",
        "workdir-relative-path",
        "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes",
        ""
    ),
    rule!(
        "UndefinedVar",
        "undefined-var",
        "Variables should be defined before their use",
        "use the variable that was probably meant"
    ),
    rule!(
        "MultipleInstructionsDisallowed",
        "multiple-instructions-disallowed",
        "Multiple instructions of the same type should not be used in the same stage",
        "remove the one that has no effect"
    ),
    rule!(
        "LegacyKeyValueFormat",
        "legacy-key-value-format",
        "Legacy key/value format with whitespace separator should not be used",
        "write key=value"
    ),
    Rule {
        name: "InvalidBaseImagePlatform",
        description: "Base image platform does not match expected target platform",
        url: "",
        experimental: false,
        repair: "",
    },
    rule!(
        "RedundantTargetPlatform",
        "redundant-target-platform",
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
        "remove the flag"
    ),
    rule!(
        "SecretsUsedInArgOrEnv",
        "secrets-used-in-arg-or-env",
        "Sensitive data should not be used in the ARG or ENV commands",
        ""
    ),
    rule!(
        "InvalidDefaultArgInFrom",
        "invalid-default-arg-in-from",
        "Default value for global ARG results in an empty or invalid base image name",
        ""
    ),
    rule!(
        "FromPlatformFlagConstDisallowed",
        "from-platform-flag-const-disallowed",
        "FROM --platform flag should not use a constant value",
        ""
    ),
    rule!("CopyIgnoredFile", "copy-ignored-file", "Attempting to Copy file that is excluded by .dockerignore", ""),
    Rule {
        name: "InvalidDefinitionDescription",
        description: "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.",
        url: "https://docs.docker.com/go/dockerfile/rule/invalid-definition-description/",
        experimental: true,
        repair: "",
    },
    rule!(
        "ExposeProtoCasing",
        "expose-proto-casing",
        "Protocol in EXPOSE instruction should be lowercase",
        "write the protocol in lower case"
    ),
    rule!(
        "ExposeInvalidFormat",
        "expose-invalid-format",
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release",
        "keep only the container's port"
    ),
];

/// The rule with a name.
pub fn rule(name: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_made_from_names() {
        for rule in RULES.iter().filter(|rule| !rule.url.is_empty()) {
            let mut slug = String::new();
            let chars: Vec<char> = rule.name.chars().collect();
            for (i, c) in chars.iter().enumerate() {
                let after_lower = i > 0 && chars[i - 1].is_lowercase();
                let before_lower = i > 0 && chars.get(i + 1).is_some_and(|next| next.is_lowercase());
                let word_starts = c.is_uppercase() && (after_lower || before_lower);
                if word_starts {
                    slug.push('-');
                }
                slug.extend(c.to_lowercase());
            }
            assert_eq!(rule.url, format!("https://docs.docker.com/go/dockerfile/rule/{slug}/"));
        }
        assert_eq!(RULES.iter().filter(|rule| rule.url.is_empty()).count(), 1);
    }
}
