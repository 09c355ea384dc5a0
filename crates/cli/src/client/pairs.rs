//! `key=value` flags: frontend options, locals, layouts, entitlements.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::csv;
use crate::error::{CliError, Result};

/// Looks up an environment variable; a parameter so that tests need no environment.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The process's environment.
pub fn process_env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

const BUILD_ARG: &str = "build-arg:";
/// Taken from the environment into the build's arguments without being asked.
const PROPAGATED: &str = "SOURCE_DATE_EPOCH";

/// `--opt`. `build-arg:NAME` without a value takes it from the environment, and is left out when it is unset
/// there, so that the Dockerfile's default stays.
pub fn frontend_options(options: &[String], env: Env<'_>) -> Result<BTreeMap<String, String>> {
    let mut attrs = BTreeMap::new();
    if let Some(epoch) = env(PROPAGATED) {
        attrs.insert(format!("{BUILD_ARG}{PROPAGATED}"), epoch);
    }
    for option in options {
        let value = match option.split_once('=') {
            Some((key, value)) => Some((key, value.to_owned())),
            None => match option.strip_prefix(BUILD_ARG).filter(|name| !name.is_empty()) {
                Some(name) => env(name).map(|value| (option.as_str(), value)),
                None => return Err(CliError::Usage(format!("invalid opt: invalid value {option}"))),
            },
        };
        attrs.extend(value.map(|(key, value)| (key.to_owned(), value)));
    }
    Ok(attrs)
}

/// `--build-arg NAME[=VALUE]`, by the same rules.
pub fn build_args(args: &[String], env: Env<'_>) -> Result<BTreeMap<String, String>> {
    let options: Vec<String> = args.iter().map(|arg| format!("{BUILD_ARG}{arg}")).collect();
    frontend_options(&options, env)
}

/// `--local NAME=DIR`. The directories must exist.
pub fn locals(flags: &[String]) -> Result<BTreeMap<String, PathBuf>> {
    let mut dirs = BTreeMap::new();
    for flag in flags {
        let (name, dir) =
            flag.split_once('=').ok_or_else(|| CliError::Usage(format!("invalid local: invalid value {flag}")))?;
        let metadata =
            std::fs::metadata(dir).map_err(|error| CliError::Usage(format!("invalid local: {dir}: {error}")))?;
        if !metadata.is_dir() {
            return Err(CliError::Usage(format!("invalid local: {dir} is not a directory")));
        }
        dirs.insert(name.to_owned(), dir.into());
    }
    Ok(dirs)
}

/// `--oci-layout NAME=DIR`.
pub fn oci_layouts(flags: &[String]) -> Result<BTreeMap<String, PathBuf>> {
    flags
        .iter()
        .map(|flag| match flag.split_once('=') {
            Some((name, dir)) => Ok((name.to_owned(), dir.into())),
            None => Err(CliError::Usage(format!(
                "invalid oci-layout: oci-layout option must be 'id=path/to/layout', instead had invalid {flag}"
            ))),
        })
        .collect()
}

/// `--allow`.
pub fn entitlements(flags: &[String]) -> Result<Vec<String>> {
    for flag in flags {
        let known = match flag.split_once('=') {
            Some(("device", device)) => {
                let fields = csv::fields(device).map_err(|e| CliError::Usage(format!("--allow {flag}: {e}")))?;
                if let Some(bad) = fields.iter().skip(1).find(|field| !field.starts_with("alias=")) {
                    return Err(CliError::Usage(format!("invalid device config {bad:?}")));
                }
                true
            }
            Some(_) => false,
            None => matches!(flag.as_str(), "network.host" | "security.insecure" | "device"),
        };
        if !known {
            return Err(CliError::Usage(format!(
                "unknown entitlement {flag}, expected network.host, security.insecure or device[=NAME]"
            )));
        }
    }
    Ok(flags.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        matches!(name, "SET" | "SOURCE_DATE_EPOCH").then(|| format!("env-{name}"))
    }

    #[test]
    fn options_take_values_from_the_environment() {
        let read = |options: &[&str]| {
            let options: Vec<_> = options.iter().map(|&o| o.to_owned()).collect();
            frontend_options(&options, &env)
                .map(|attrs| attrs.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" "))
                .map_err(|error| error.to_string())
        };
        let epoch = "build-arg:SOURCE_DATE_EPOCH=env-SOURCE_DATE_EPOCH";
        for (options, expected) in [
            (&[][..], Ok(epoch.to_owned())),
            (&["build-arg:SOURCE_DATE_EPOCH=1"], Ok("build-arg:SOURCE_DATE_EPOCH=1".into())),
            (&["target=a=b"], Ok(format!("{epoch} target=a=b"))),
            (&["build-arg:SET"], Ok(format!("build-arg:SET=env-SET {epoch}"))),
            (&["build-arg:UNSET"], Ok(epoch.into())),
            (&["build-arg:SET=1", "build-arg:SET"], Ok(format!("build-arg:SET=env-SET {epoch}"))),
            (&["target"], Err("invalid opt: invalid value target".into())),
            (&["build-arg:"], Err("invalid opt: invalid value build-arg:".into())),
        ] {
            assert_eq!(read(options), expected, "{options:?}");
        }
    }

    #[test]
    fn entitlements_are_known() {
        let check = |flag: &str| entitlements(&[flag.to_owned()]).is_ok();
        for good in ["network.host", "security.insecure", "device", "device=vendor/class=x", "device=a,alias=b"] {
            assert!(check(good), "{good}");
        }
        for bad in ["network", "security.insecure=1", "device=a,b"] {
            assert!(!check(bad), "{bad}");
        }
    }
}
