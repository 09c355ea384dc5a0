//! `[cache.gha]`: how entries of GitHub's cache are signed, and whose signatures count.

use super::{ConfigError, GhaCacheConfig};
use cooper_engine::{Signatures, Trust};
use cooper_sigstore::{Policy, TrustedRoot};
use std::sync::Arc;

const ROOT: &str = "cache.gha.verify.trustedRoot";
const POLICY: &str = "cache.gha.verify.policy";

impl GhaCacheConfig {
    /// Refuses what would protect less than it says.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.verify.required && self.verify.trusted_root.is_none() {
            return Err(ConfigError::Value {
                name: ROOT,
                message:
                    "cache.gha.verify.required needs the path of a sigstore trusted_root.json here, none is built in \
                          (`cosign trusted-root create` and `gh attestation trusted-root` write one)"
                        .into(),
            });
        }
        self.policy().map(drop)
    }

    /// What the file says, with the trusted root read.
    pub fn signatures(&self) -> Result<Signatures, ConfigError> {
        let trust = match &self.verify.trusted_root {
            None => None,
            Some(path) => {
                let json = std::fs::read(path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
                let root = TrustedRoot::parse(&json).map_err(|error| ConfigError::Value {
                    name: ROOT,
                    message: format!("{} cannot be used: {error}", path.display()),
                })?;
                Some(Arc::new(Trust { root, policy: self.policy()? }))
            }
        };
        Ok(Signatures { command: self.sign.command.clone(), required: self.verify.required, trust })
    }

    fn policy(&self) -> Result<Policy, ConfigError> {
        let mut policy = Policy::default();
        for (key, value) in &self.verify.policy {
            let wrong = |expected: &str| ConfigError::Value { name: POLICY, message: format!("{key}: {expected}") };
            let number = || {
                let number = value.as_integer().and_then(|number| usize::try_from(number).ok());
                number.ok_or_else(|| wrong("expected a number"))
            };
            match (key.to_lowercase().as_str(), Policy::field(key)) {
                ("timestampthreshold", _) => policy.timestamp_threshold = number()?,
                ("tlogthreshold", _) => policy.tlog_threshold = number()?,
                (_, Some(field)) => {
                    let pattern = value.as_str().ok_or_else(|| wrong("expected a text, * at its ends for anything"))?;
                    policy.fields.insert(field, pattern.to_owned());
                }
                // A rule that nobody knows would be one that nobody keeps.
                (_, None) => return Err(wrong("certificates have no such field")),
            }
        }
        Ok(policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Result<Policy, String> {
        let mut config = GhaCacheConfig::default();
        config.verify.policy = text.parse().unwrap();
        config.policy().map_err(|error| error.to_string())
    }

    #[test]
    fn policies() {
        let read =
            policy("timestampThreshold = 2\ntlogThreshold = 1\nbuildSignerURI = \"https://*\"\nIssuer = \"i\"\n");
        let fields = [("buildSignerURI", "https://*".to_owned()), ("issuer", "i".to_owned())].into();
        assert_eq!(read, Ok(Policy { timestamp_threshold: 2, tlog_threshold: 1, fields }));
        for (text, expected) in [
            ("tlogThreshold = -1", "cache.gha.verify.policy: tlogThreshold: expected a number"),
            ("issuer = 1", "cache.gha.verify.policy: issuer: expected a text, * at its ends for anything"),
            ("signer = \"x\"", "cache.gha.verify.policy: signer: certificates have no such field"),
        ] {
            assert_eq!(policy(text).unwrap_err(), expected);
        }
    }

    #[test]
    fn trusted_roots_are_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut config = GhaCacheConfig::default();
        config.verify.trusted_root = Some(file.path().to_owned());
        std::fs::write(file.path(), "{}").unwrap();
        let error = config.signatures().unwrap_err().to_string();
        assert!(error.ends_with("cannot be used: it has no certificate authorities"), "{error}");
        config.verify.trusted_root = Some("/nowhere/root.json".into());
        assert!(config.signatures().unwrap_err().to_string().contains("/nowhere/root.json"));
        config.verify.trusted_root = None;
        assert!(config.signatures().unwrap().trust.is_none());
    }
}
