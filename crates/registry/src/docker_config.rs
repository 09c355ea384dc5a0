//! `~/.docker/config.json`: `auths`, `credsStore`, `credHelpers`.

use crate::{Credential, Credentials, CredentialsError};
use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

/// Under which name Docker Hub's credentials are kept.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
/// User name by which helpers mark an identity token.
const TOKEN_USER: &str = "<token>";
/// A helper may ask its user something; it may not hang for ever.
const HELPER_TIMEOUT: Duration = Duration::from_secs(60);

/// Credentials of Docker's configuration file. The file is read anew for each host, so a login takes effect at once.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    path: PathBuf,
}

/// Why Docker's configuration gives no credentials.
#[derive(Debug, thiserror::Error)]
pub enum DockerConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is not what Docker writes.
    #[error("{} is not a valid Docker configuration", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where it breaks.
        #[source]
        source: serde_json::Error,
    },
    /// An `auth` entry is not base64 of `user:password`.
    #[error("the entry {host:?} under \"auths\" in {} is damaged: log in to the registry again", path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// The entry.
        host: String,
    },
    /// A credential helper is missing or failed.
    #[error("credential helper {helper} failed for {host}: {reason}")]
    Helper {
        /// Program name.
        helper: String,
        /// Registry host.
        host: String,
        /// What it said.
        reason: String,
    },
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    auths: BTreeMap<String, Auth>,
    creds_store: String,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Auth {
    #[serde(rename = "auth")]
    encoded: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

impl DockerConfig {
    /// `$DOCKER_CONFIG/config.json`, else `$HOME/.docker/config.json`. The file need not exist.
    pub fn from_env() -> Self {
        let set = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let dir = set("DOCKER_CONFIG").or_else(|| set("HOME").map(|home| home.join(".docker")));
        Self::at(dir.unwrap_or_else(|| PathBuf::from("/root/.docker")).join("config.json"))
    }

    /// The configuration file at `path`.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The credential for `host`; anonymous when the file or the entry does not exist.
    pub async fn lookup(&self, host: &str) -> Result<Credential, DockerConfigError> {
        let bytes = match tokio::fs::read(&self.path).await {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Credential::Anonymous),
            Err(source) => return Err(DockerConfigError::Read { path: self.path.clone(), source }),
        };
        let file: File = serde_json::from_slice(&bytes)
            .map_err(|source| DockerConfigError::Parse { path: self.path.clone(), source })?;
        let names = names_of(host);
        let named = names.iter().find_map(|name| file.cred_helpers.get(name));
        if let Some(helper) = named.or((!file.creds_store.is_empty()).then_some(&file.creds_store)) {
            let credential = ask_helper(&format!("docker-credential-{helper}"), &names[0]).await?;
            if credential != Credential::Anonymous {
                return Ok(credential);
            }
        }
        for (key, auth) in &file.auths {
            if names.iter().any(|name| name == key || host_of(key) == host_of(name)) {
                return self.decode(key, auth);
            }
        }
        Ok(Credential::Anonymous)
    }

    fn decode(&self, host: &str, auth: &Auth) -> Result<Credential, DockerConfigError> {
        if !auth.identitytoken.is_empty() {
            return Ok(Credential::IdentityToken(auth.identitytoken.as_str().into()));
        }
        if !auth.registrytoken.is_empty() {
            return Ok(Credential::RegistryToken(auth.registrytoken.as_str().into()));
        }
        let (username, secret) = if auth.encoded.is_empty() {
            (auth.username.clone(), auth.password.clone())
        } else {
            let decoded = STANDARD.decode(auth.encoded.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let pair = decoded.as_deref().and_then(|text| text.trim_end_matches('\0').split_once(':'));
            let (user, secret) =
                pair.ok_or_else(|| DockerConfigError::Entry { path: self.path.clone(), host: host.to_owned() })?;
            (user.to_owned(), secret.to_owned())
        };
        Ok(credential(username, secret))
    }
}

#[async_trait]
impl Credentials for DockerConfig {
    async fn credentials(&self, host: &str) -> Result<Credential, CredentialsError> {
        Ok(self.lookup(host).await?)
    }
}

fn credential(username: String, secret: String) -> Credential {
    match (username.as_str(), secret.as_str()) {
        ("", "") => Credential::Anonymous,
        ("" | TOKEN_USER, _) => Credential::IdentityToken(secret.into()),
        _ => Credential::Basic { username, secret: secret.into() },
    }
}

/// The names under which credentials of `host` may be kept, the usual one first.
fn names_of(host: &str) -> Vec<String> {
    match host {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" => {
            vec![DOCKER_HUB.to_owned(), "docker.io".to_owned(), "registry-1.docker.io".to_owned()]
        }
        _ => vec![host.to_owned()],
    }
}

/// The host in a key of `auths`, which may be a URL.
fn host_of(key: &str) -> &str {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    rest.split('/').next().unwrap_or(rest)
}

/// Runs `<program> get` (docker-credential-helpers protocol): host on stdin, JSON on stdout.
async fn ask_helper(program: &str, host: &str) -> Result<Credential, DockerConfigError> {
    let fail = |reason: String| DockerConfigError::Helper { helper: program.to_owned(), host: host.to_owned(), reason };
    let spawned = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = spawned.map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => fail(format!("{program} is not on PATH; install it or log in without it")),
        _ => fail(e.to_string()),
    })?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input still answers.
        let _ = stdin.write_all(host.as_bytes()).await;
    }
    let output = timeout(HELPER_TIMEOUT, child.wait_with_output())
        .await
        .map_err(|_| fail(format!("no answer within {} s", HELPER_TIMEOUT.as_secs())))?
        .map_err(|e| fail(e.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let said = format!("{} {}", text.trim(), String::from_utf8_lossy(&output.stderr).trim());
        return if said.contains("credentials not found") {
            Ok(Credential::Anonymous)
        } else {
            Err(fail(said.trim().to_owned()))
        };
    }
    let answer: HelperAnswer =
        serde_json::from_str(&text).map_err(|e| fail(format!("its answer is not the JSON expected: {e}")))?;
    Ok(credential(answer.username, answer.secret))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt};

    fn basic(user: &str, secret: &str) -> Credential {
        Credential::Basic { username: user.into(), secret: secret.into() }
    }

    async fn lookup(json: &str, host: &str) -> Result<Credential, DockerConfigError> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), json).unwrap();
        DockerConfig::at(dir.path().join("config.json")).lookup(host).await
    }

    #[tokio::test]
    async fn auths_in_all_their_forms() {
        let json = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "aHViOnM6ZWNyZXQ="},
            "r.example:5000": {"username": "u", "password": "p"},
            "https://old.example/v1/": {"auth": "b2xkOnB3"},
            "id.example": {"auth": "dTo=", "identitytoken": "it"},
            "bearer.example": {"registrytoken": "rt"},
            "empty.example": {},
            "bad.example": {"auth": "%%%"}
        }}"#;
        for (host, expected) in [
            ("registry-1.docker.io", basic("hub", "s:ecret")),
            ("docker.io", basic("hub", "s:ecret")),
            ("r.example:5000", basic("u", "p")),
            ("old.example", basic("old", "pw")),
            ("id.example", Credential::IdentityToken("it".into())),
            ("bearer.example", Credential::RegistryToken("rt".into())),
            ("empty.example", Credential::Anonymous),
            ("r.example", Credential::Anonymous),
        ] {
            assert_eq!(lookup(json, host).await.unwrap(), expected, "{host}");
        }
        assert!(matches!(lookup(json, "bad.example").await, Err(DockerConfigError::Entry { .. })));
        assert!(matches!(lookup("{", "x").await, Err(DockerConfigError::Parse { .. })));
        assert_eq!(DockerConfig::at("/nonexistent/config.json").lookup("x").await.unwrap(), Credential::Anonymous);
        assert!(!format!("{:?}", basic("u", "p")).contains("\"p\""));
    }

    #[tokio::test]
    async fn helpers_answer_on_stdout() {
        let dir = tempfile::tempdir().unwrap();
        let helper = dir.path().join("docker-credential-cooper-test");
        fs::write(
            &helper,
            "#!/bin/sh\nread host\ncase $host in\n\
             good.example) echo '{\"ServerURL\":\"x\",\"Username\":\"h\",\"Secret\":\"s\"}';;\n\
             token.example) echo '{\"Username\":\"<token>\",\"Secret\":\"t\"}';;\n\
             broken.example) echo oops >&2; exit 3;;\n\
             *) echo 'credentials not found in native keychain'; exit 1;; esac\n",
        )
        .unwrap();
        fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
        let program = helper.to_str().unwrap();
        assert_eq!(ask_helper(program, "good.example").await.unwrap(), basic("h", "s"));
        assert_eq!(ask_helper(program, "token.example").await.unwrap(), Credential::IdentityToken("t".into()));
        assert_eq!(ask_helper(program, "unknown.example").await.unwrap(), Credential::Anonymous);
        let error = ask_helper(program, "broken.example").await.unwrap_err();
        assert!(error.to_string().ends_with("failed for broken.example: oops"), "{error}");
        let error = lookup(r#"{"credsStore": "no-such-helper"}"#, "x").await.unwrap_err();
        insta::assert_snapshot!(error, @"credential helper docker-credential-no-such-helper failed for x: docker-credential-no-such-helper is not on PATH; install it or log in without it");
    }
}
