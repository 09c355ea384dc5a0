//! `--secret`.

use std::path::{Path, PathBuf};

use super::pairs::Env;
use crate::csv;
use crate::error::{CliError, Result};

/// A secret and where its value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// The name that steps ask for.
    pub id: String,
    /// Read when asked for.
    pub value: SecretValue,
}

/// Where a secret's value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretValue {
    /// A file.
    File(PathBuf),
    /// An environment variable.
    Env(String),
}

/// Larger files are refused, as the protocol's clients do.
const MAX_SIZE: u64 = 500 << 10;

/// Reads all flags. Files must exist and be small.
pub fn parse_all(flags: &[String], env: Env<'_>) -> Result<Vec<Secret>> {
    flags.iter().map(|flag| parse(flag, env)).collect()
}

fn parse(flag: &str, env: Env<'_>) -> Result<Secret> {
    let usage = |message: String| CliError::Usage(message);
    let (mut kind, mut id, mut file, mut variable) = (String::new(), String::new(), String::new(), String::new());
    for field in csv::fields(flag).map_err(|error| usage(format!("failed to parse csv secret: {error}")))? {
        let (key, value) =
            field.split_once('=').ok_or_else(|| usage(format!("invalid field '{field}' must be a key=value pair")))?;
        let slot = match key.to_lowercase().as_str() {
            "type" if !matches!(value, "file" | "env") => {
                return Err(usage(format!("unsupported secret type {value:?}")));
            }
            "type" => &mut kind,
            "id" => &mut id,
            "source" | "src" => &mut file,
            "env" => &mut variable,
            key => return Err(usage(format!("unexpected key '{key}' in '{field}'"))),
        };
        value.clone_into(slot);
    }
    if kind == "env" && variable.is_empty() {
        variable = std::mem::take(&mut file);
    }
    if id.is_empty() {
        return Err(usage("secret missing ID".into()));
    }
    if variable.is_empty() && file.is_empty() {
        let slot = if env(&id).is_some() { &mut variable } else { &mut file };
        slot.clone_from(&id);
    }
    if !file.is_empty() {
        check_file(&id, Path::new(&file))?;
    }
    let value = if variable.is_empty() { SecretValue::File(file.into()) } else { SecretValue::Env(variable) };
    Ok(Secret { id, value })
}

fn check_file(id: &str, path: &Path) -> Result<()> {
    let metadata = std::fs::metadata(path).map_err(CliError::file("failed to stat", path))?;
    if metadata.len() > MAX_SIZE {
        return Err(CliError::Usage(format!("secret {id} too big. max size 500KiB")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let env = |name: &str| (name == "VAR").then(|| "v".to_owned());
        let read = |flag: &str| match parse(flag, &env) {
            Ok(Secret { id, value: SecretValue::File(path) }) => format!("{id} file {}", path.display()),
            Ok(Secret { id, value: SecretValue::Env(name) }) => format!("{id} env {name}"),
            Err(error) => format!("! {error}"),
        };
        for (flag, expected) in [
            ("id=a,src=/dev/null", "a file /dev/null"),
            ("id=a,source=/dev/null,type=file", "a file /dev/null"),
            ("id=a,env=X", "a env X"),
            ("type=env,id=a,src=X", "a env X"),
            ("type=env,id=VAR", "VAR env VAR"),
            ("id=VAR", "VAR env VAR"),
            ("id=/dev/null", "/dev/null file /dev/null"),
            ("src=/dev/null", "! secret missing ID"),
            ("id=a,src=/nonexistent", "! failed to stat /nonexistent: No such file or directory (os error 2)"),
            ("id=a,type=vault", "! unsupported secret type \"vault\""),
            ("id=a,mode=1", "! unexpected key 'mode' in 'mode=1'"),
            ("id", "! invalid field 'id' must be a key=value pair"),
            ("", "! failed to parse csv secret: empty value"),
        ] {
            assert_eq!(read(flag), expected, "{flag}");
        }
    }
}
