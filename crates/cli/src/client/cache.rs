//! Remote caches: `--export-cache`, `--import-cache`, `--cache-to`, `--cache-from`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use cooper_daemon::config::parse_go_bool;
use cooper_wire::control::CacheOptionsEntry;

use super::oci_index::{OciIndex, Writer};
use super::pairs::Env;
use crate::csv;
use crate::error::{CliError, Result};

/// `type=…,key=value`. A value without `type=` is an image reference in a registry.
pub fn parse_exports(flags: &[String], flag_name: &str, env: Env<'_>) -> Result<Vec<CacheOptionsEntry>> {
    let mut entries = parse(flags, flag_name, env)?;
    for entry in &mut entries {
        entry.attrs.entry("mode".into()).or_insert_with(|| "min".into());
    }
    Ok(entries)
}

/// The same without the export's defaults.
pub fn parse_imports(flags: &[String], flag_name: &str, env: Env<'_>) -> Result<Vec<CacheOptionsEntry>> {
    parse(flags, flag_name, env)
}

fn parse(flags: &[String], flag_name: &str, env: Env<'_>) -> Result<Vec<CacheOptionsEntry>> {
    flags
        .iter()
        .map(|flag| {
            let attributes = |text: &str| -> Result<BTreeMap<_, _>> {
                let pairs = csv::attributes(text).map_err(|error| CliError::Usage(format!("{flag_name}: {error}")))?;
                Ok(pairs.into_iter().collect())
            };
            if !flag.contains("type=") {
                // Short for a registry: a name alone, or with attributes behind it.
                let (name, more) =
                    flag.split_once(',').map_or((flag.as_str(), None), |(name, more)| (name, Some(more)));
                let mut attrs = more.map(attributes).transpose()?.unwrap_or_default();
                attrs.insert("ref".to_owned(), name.to_owned());
                return Ok(CacheOptionsEntry { r#type: "registry".into(), attrs });
            }
            let mut attrs = attributes(flag)?;
            let kind = attrs.remove("type").filter(|kind| !kind.is_empty());
            let r#type = kind.ok_or_else(|| CliError::Usage(format!("{flag_name} requires type=<type>")))?;
            if r#type == "gha" {
                fill_from_actions(&mut attrs, env)?;
            }
            // buildctl leaves it at what the daemon finds where it runs.
            if r#type == "s3" && flag_name.starts_with("--cache-") {
                fill_from_aws(&mut attrs, env);
            }
            Ok(CacheOptionsEntry { r#type, attrs })
        })
        .collect()
}

/// The cache service of GitHub's runners describes itself in the environment.
fn fill_from_actions(attrs: &mut BTreeMap<String, String>, env: Env<'_>) -> Result<()> {
    let v2_in_env = || env("ACTIONS_CACHE_SERVICE_V2").is_some_and(|value| parse_go_bool(&value) == Ok(true));
    let version2 = attrs.get("version").map_or_else(v2_in_env, |version| version == "2");
    if version2 && !attrs.contains_key("url_v2") {
        attrs.extend(env("ACTIONS_RESULTS_URL").map(|url| ("url_v2".to_owned(), url)));
    }
    if !attrs.contains_key("url") {
        let url = env("ACTIONS_CACHE_URL").or_else(|| env("ACTIONS_RESULTS_URL"));
        attrs.extend(url.map(|url| ("url".to_owned(), url)));
    }
    if !attrs.contains_key("url") && !attrs.contains_key("url_v2") {
        return Err(CliError::Usage("cache with type gha requires url parameter to be set".into()));
    }
    if !attrs.contains_key("token") {
        let token = env("ACTIONS_RUNTIME_TOKEN").ok_or_else(|| {
            CliError::Usage("cache with type gha requires token parameter or $ACTIONS_RUNTIME_TOKEN".into())
        })?;
        attrs.insert("token".into(), token);
    }
    Ok(())
}

/// Credentials of whoever asks for the build, for a daemon that may have none or others.
fn fill_from_aws(attrs: &mut BTreeMap<String, String>, env: Env<'_>) {
    if ["access_key_id", "secret_access_key"].iter().any(|key| attrs.contains_key(*key)) {
        return;
    }
    let given = |name: &str| env(name).filter(|value| !value.is_empty());
    let Some(pair) = given("AWS_ACCESS_KEY_ID").zip(given("AWS_SECRET_ACCESS_KEY")) else { return };
    attrs.extend([("access_key_id".to_owned(), pair.0), ("secret_access_key".to_owned(), pair.1)]);
    attrs.extend(given("AWS_SESSION_TOKEN").map(|token| ("session_token".to_owned(), token)));
}

/// What the session and the end of the build have to do for caches in local directories.
#[derive(Debug, Default)]
pub struct LocalCaches {
    /// Content stores by session name (`local:DIR`).
    pub stores: BTreeMap<String, PathBuf>,
    /// Layouts whose index gets the new cache's manifest.
    pub to_tag: Vec<ToTag>,
    /// Layouts to be rid of blobs that nothing refers to.
    pub to_reset: Vec<PathBuf>,
    /// For others who write the same layouts.
    pub writers: Vec<Writer>,
    /// Imports that were dropped, each with its reason.
    pub skipped: Vec<String>,
}

/// A layout whose index gets the manifest of a new cache.
#[derive(Debug)]
pub struct ToTag {
    /// The directory.
    pub dir: String,
    /// The tag.
    pub tag: String,
    /// What the tag stood for when the build began.
    pub before: Option<String>,
}

/// Checks the entries, resolves tags of local imports, drops imports that are not there.
pub fn prepare(exports: &[CacheOptionsEntry], imports: &mut Vec<CacheOptionsEntry>) -> Result<LocalCaches> {
    let mut local = LocalCaches::default();
    let required = |entry: &CacheOptionsEntry, what: &str, key: &str| match entry.attrs.get(key) {
        Some(value) if !value.is_empty() => Ok(value.clone()),
        _ => Err(CliError::Usage(format!("{} cache {what} requires {key}", entry.r#type))),
    };
    for export in exports {
        match export.r#type.as_str() {
            "registry" => drop(required(export, "exporter", "ref")?),
            "local" => {
                let dir = required(export, "exporter", "dest")?;
                std::fs::create_dir_all(&dir).map_err(CliError::file("cannot create", &dir))?;
                let tag = export.attrs.get("tag").cloned().unwrap_or_else(|| "latest".into());
                local.stores.insert(format!("local:{dir}"), dir.clone().into());
                let index = OciIndex::at(&dir);
                local.writers.extend(index.writer());
                let before = index.find(&tag).ok().flatten();
                local.to_tag.push(ToTag { dir: dir.clone(), tag, before });
                if let Some(reset) = export.attrs.get("reset")
                    && parse_go_bool(reset)
                        .map_err(|e| CliError::Usage(format!("failed to parse reset attribute: {e}")))?
                {
                    local.to_reset.push(dir.into());
                }
            }
            _ => {}
        }
    }
    let mut kept = Vec::new();
    for mut import in std::mem::take(imports) {
        match import.r#type.as_str() {
            "registry" => drop(required(&import, "importer", "ref")?),
            "local" => {
                let dir = required(&import, "importer", "src")?;
                match local_digest(&dir, &import.attrs) {
                    Ok(digest) => import.attrs.insert("digest".into(), digest),
                    Err(reason) => {
                        local.skipped.push(format!("local cache import at {dir} skipped: {reason}"));
                        continue;
                    }
                };
                local.stores.insert(format!("local:{dir}"), dir.into());
            }
            _ => {}
        }
        kept.push(import);
    }
    *imports = kept;
    Ok(local)
}

/// The manifest that a local import means: by digest, else by tag.
fn local_digest(dir: &str, attrs: &BTreeMap<String, String>) -> Result<String, String> {
    let index = OciIndex::at(dir);
    let digest = if let Some(digest) = attrs.get("digest").filter(|digest| !digest.is_empty()) {
        digest.clone()
    } else {
        let tag = attrs.get("tag").map_or("latest", String::as_str);
        let found = index.find(tag).map_err(|error| error.to_string())?;
        found.ok_or_else(|| format!("no digest found for tag {tag}"))?
    };
    if index.blob(&digest).is_some_and(|path| path.exists()) {
        Ok(digest)
    } else {
        Err(format!("digest {digest} unavailable"))
    }
}

/// Imports as the `cache-imports` option carries them.
pub fn imports_attribute(imports: &[CacheOptionsEntry]) -> Option<String> {
    if imports.is_empty() {
        return None;
    }
    let entries: Vec<_> =
        imports.iter().map(|entry| serde_json::json!({"Type": entry.r#type, "Attrs": entry.attrs})).collect();
    Some(serde_json::Value::Array(entries).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags() {
        let env = |name: &str| match name {
            "ACTIONS_CACHE_SERVICE_V2" => Some("True".to_owned()),
            "ACTIONS_CACHE_URL" => Some("https://v1".into()),
            "ACTIONS_RESULTS_URL" => Some("https://v2".into()),
            "ACTIONS_RUNTIME_TOKEN" => Some("bar".into()),
            "AWS_ACCESS_KEY_ID" => Some("id".into()),
            "AWS_SECRET_ACCESS_KEY" => Some("key".into()),
            _ => None,
        };
        let read = |flag: &str| match parse_imports(&[flag.to_owned()], "--import-cache", &env) {
            Ok(entries) => format!("{} {:?}", entries[0].r#type, entries[0].attrs),
            Err(error) => format!("! {error}"),
        };
        for (flag, expected) in [
            ("example.com/foo", r#"registry {"ref": "example.com/foo"}"#),
            ("example.com/foo:cache,mode=max", r#"registry {"mode": "max", "ref": "example.com/foo:cache"}"#),
            ("example.com/foo,max", "! --import-cache: invalid value max, expected key=value"),
            ("type=local,src=/x", r#"local {"src": "/x"}"#),
            ("type=gha", r#"gha {"token": "bar", "url": "https://v1", "url_v2": "https://v2"}"#),
            ("type=gha,url=u,token=t", r#"gha {"token": "t", "url": "u", "url_v2": "https://v2"}"#),
            ("type=", "! --import-cache requires type=<type>"),
            ("type=local,src", "! --import-cache: invalid value src, expected key=value"),
        ] {
            assert_eq!(read(flag), expected, "{flag}");
        }
        let own = |flag: &str| parse_exports(&[flag.to_owned()], "--cache-to", &env).unwrap().remove(0).attrs;
        assert_eq!(own("type=s3")["access_key_id"], "id");
        assert_eq!(own("type=s3")["secret_access_key"], "key");
        assert!(!own("type=s3,access_key_id=other").contains_key("secret_access_key"));
        assert!(
            !parse_imports(&["type=s3".to_owned()], "--import-cache", &env).unwrap()[0]
                .attrs
                .contains_key("access_key_id")
        );
        let exports = parse_exports(&["type=registry,ref=a,mode=max".into(), "b".into()], "x", &env).unwrap();
        assert_eq!((exports[0].attrs["mode"].as_str(), exports[1].attrs["mode"].as_str()), ("max", "min"));
        let none = |_: &str| None;
        let error = parse_imports(&["type=gha".into()], "x", &none).unwrap_err().to_string();
        assert_eq!(error, "cache with type gha requires url parameter to be set");
    }

    #[test]
    fn imports_travel_as_json() {
        let entry = CacheOptionsEntry { r#type: "registry".into(), attrs: [("ref".into(), "a".into())].into() };
        assert_eq!(imports_attribute(&[entry]).unwrap(), r#"[{"Attrs":{"ref":"a"},"Type":"registry"}]"#);
        assert_eq!(imports_attribute(&[]), None);
    }
}
