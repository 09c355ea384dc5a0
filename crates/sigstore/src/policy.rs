//! Whose signatures are taken, of all that are good.

use crate::{PolicyError, Verified, Witness};
use std::collections::BTreeMap;

/// What a policy may ask of certificates.
pub const FIELDS: &[&str] = &[
    "certificateIssuer",
    "subjectAlternativeName",
    "issuer",
    "githubWorkflowTrigger",
    "githubWorkflowSHA",
    "githubWorkflowName",
    "githubWorkflowRepository",
    "githubWorkflowRef",
    "buildSignerURI",
    "buildSignerDigest",
    "runnerEnvironment",
    "sourceRepositoryURI",
    "sourceRepositoryDigest",
    "sourceRepositoryRef",
    "sourceRepositoryIdentifier",
    "sourceRepositoryOwnerURI",
    "sourceRepositoryOwnerIdentifier",
    "buildConfigURI",
    "buildConfigDigest",
    "buildTrigger",
    "runInvocationURI",
    "sourceRepositoryVisibilityAtSigning",
];

/// A policy. The default takes every good signature.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// How many must have witnessed the time, logs and timestamp authorities together.
    pub timestamp_threshold: usize,
    /// How many logs must have witnessed the time.
    pub tlog_threshold: usize,
    /// Patterns of certificate fields, by the names of [`FIELDS`]; an empty one asks for nothing.
    pub fields: BTreeMap<&'static str, String>,
}

impl Policy {
    /// The name of a field however its letters are written.
    pub fn field(name: &str) -> Option<&'static str> {
        FIELDS.iter().find(|field| field.eq_ignore_ascii_case(name)).copied()
    }

    /// Looks at a good signature.
    ///
    /// # Errors
    ///
    /// The first thing that is not as wanted.
    pub fn check(&self, verified: &Verified) -> Result<(), PolicyError> {
        let (have, need) = (verified.timestamps.len(), self.timestamp_threshold);
        if have < need {
            return Err(PolicyError::Timestamps { have, need });
        }
        let logs = verified.timestamps.iter().filter(|t| t.witness == Witness::Log);
        let (have, need) = (logs.count(), self.tlog_threshold);
        if have < need {
            return Err(PolicyError::Logs { have, need });
        }
        for (field, want) in self.fields.iter().filter(|(_, want)| !want.is_empty()) {
            let have = verified.certificate.get(field).map_or("", String::as_str);
            if !matches_pattern(want, have) {
                return Err(PolicyError::Field { field, have: have.to_owned(), want: want.clone() });
            }
        }
        Ok(())
    }
}

/// Whether a text is as the pattern says: `*` at the beginning or end of it stands for anything.
pub fn matches_pattern(pattern: &str, text: &str) -> bool {
    match (pattern, pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        ("*", ..) => true,
        (_, Some(rest), Some(_)) => text.contains(rest.strip_suffix('*').unwrap_or(rest)),
        (_, Some(end), None) => text.ends_with(end),
        (_, None, Some(start)) => text.starts_with(start),
        (whole, None, None) => text == whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;

    #[test]
    fn patterns_have_stars_at_their_ends() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "ab", true),
            ("a*", "ba", false),
            ("*a", "ba", true),
            ("*a*", "bab", true),
            ("*a*", "b", false),
            ("a*b", "a*b", true),
            ("a*b", "axb", false),
            ("**", "anything", true),
        ] {
            assert_eq!(matches_pattern(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn thresholds_count_witnesses() {
        let witness = |witness| Timestamp { witness, authority: String::new(), time: 0 };
        let certificate = BTreeMap::from([("issuer", "https://issuer".to_owned())]);
        let verified = Verified { certificate, timestamps: vec![witness(Witness::Log), witness(Witness::Authority)] };
        let check = |timestamps, logs, fields: &[(&'static str, &str)]| {
            let fields = fields.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
            let policy = Policy { timestamp_threshold: timestamps, tlog_threshold: logs, fields };
            policy.check(&verified).map_err(|e| e.to_string())
        };
        assert_eq!(check(0, 0, &[]), Ok(()));
        assert_eq!(check(2, 1, &[("issuer", "https://*"), ("buildSignerURI", "")]), Ok(()));
        assert_eq!(check(3, 0, &[]).unwrap_err(), "not enough timestamp authorities: have 2, need 3");
        assert_eq!(check(2, 2, &[]).unwrap_err(), "not enough tlog authorities: have 1, need 2");
        assert_eq!(
            check(0, 0, &[("buildSignerURI", "x*")]).unwrap_err(),
            "certificate field \"buildSignerURI\" does not match policy (\"\" != \"x*\")"
        );
        assert_eq!(Policy::field("BuildSignerURI"), Some("buildSignerURI"));
        assert_eq!(Policy::field("buildsigner"), None);
    }
}
