//! `[registry."host"]` of the daemon's configuration: mirrors, plain HTTP, certificates.

use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

/// The tables by host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct HostsConfig(pub BTreeMap<String, HostConfig>);

/// How to reach one registry host. `docker.io` stands for `registry-1.docker.io`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct HostConfig {
    /// Hosts (with an optional path) asked before this one when pulling, in order. How to reach a mirror is said in
    /// the mirror's own table.
    pub mirrors: Vec<String>,
    /// Plain HTTP; by default for loopback hosts only.
    pub http: Option<bool>,
    /// Certificates are not verified; with `http` too, HTTPS is tried first.
    pub insecure: Option<bool>,
    /// PEM files with authorities trusted besides the system's.
    pub ca: Vec<PathBuf>,
    /// Directories with `*.crt` authorities and `*.cert`/`*.key` pairs.
    pub tlsconfigdir: Vec<PathBuf>,
    /// Client certificates.
    pub keypair: Vec<KeyPair>,
}

/// A client certificate and its key, PEM files.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct KeyPair {
    /// Private key.
    pub key: PathBuf,
    /// Certificate chain.
    pub cert: PathBuf,
}

/// What is wrong with a host's table.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    /// A file or directory that is named cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A PEM file holds nothing usable.
    #[error("{} holds no usable {what}: {reason}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// `certificate` or `key`.
        what: &'static str,
        /// Why not.
        reason: String,
    },
    /// A certificate and a key do not fit, or TLS cannot be set up with them.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    /// The host is not part of a valid URL.
    #[error("{0:?} is not a registry host")]
    Host(String),
}

/// Ways to speak to a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Scheme {
    Https,
    Http,
    /// HTTPS without verification.
    Unverified,
    /// HTTPS without verification, and HTTP when that is not spoken.
    UnverifiedOrHttp,
}

/// A place that serves an image host's repositories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Host with port.
    pub(crate) host: String,
    /// Path between `/v2/` and the repository, `""` or ending in `/`.
    pub(crate) prefix: String,
    pub(crate) scheme: Scheme,
    /// For a mirror: the host mirrored.
    pub(crate) mirrors: Option<String>,
}

impl HostsConfig {
    /// The table for `host`, if there is one.
    pub fn get(&self, host: &str) -> Option<&HostConfig> {
        self.0.get(host)
    }

    /// Where to pull images of `host` from, in order: the mirrors, then the host itself.
    pub(crate) fn pull_places(&self, host: &str) -> Vec<Place> {
        let mirrors = self.get(host).map(|c| c.mirrors.as_slice()).unwrap_or_default();
        let mut places: Vec<Place> = mirrors.iter().map(|mirror| self.mirror(host, mirror)).collect();
        places.push(self.origin(host, false));
        places
    }

    /// The host itself; `insecure` overrides its table as a push asks for.
    pub(crate) fn origin(&self, host: &str, insecure: bool) -> Place {
        let scheme = if insecure { Scheme::UnverifiedOrHttp } else { self.scheme(host) };
        let host = if host == "docker.io" { "registry-1.docker.io" } else { host };
        Place { host: host.to_owned(), prefix: String::new(), scheme, mirrors: None }
    }

    fn mirror(&self, host: &str, mirror: &str) -> Place {
        let bare = mirror.strip_prefix("https://").or_else(|| mirror.strip_prefix("http://")).unwrap_or(mirror);
        let (mirror_host, path) = bare.split_once('/').unwrap_or((bare, ""));
        let path = path.trim_matches('/');
        Place {
            host: mirror_host.to_owned(),
            prefix: if path.is_empty() { String::new() } else { format!("{path}/") },
            scheme: self.scheme(mirror_host),
            mirrors: Some(host.to_owned()),
        }
    }

    fn scheme(&self, host: &str) -> Scheme {
        let config = self.get(host);
        let http = config.and_then(|c| c.http).unwrap_or_else(|| is_loopback(host));
        match (config.and_then(|c| c.insecure).unwrap_or(false), http) {
            (true, true) => Scheme::UnverifiedOrHttp,
            (true, false) => Scheme::Unverified,
            (false, true) => Scheme::Http,
            (false, false) => Scheme::Https,
        }
    }

    /// The table that says how to speak TLS with the place's host.
    pub(crate) fn tls_of(&self, place: &Place) -> Option<&HostConfig> {
        match place.host.as_str() {
            "registry-1.docker.io" => self.get("docker.io").or_else(|| self.get(&place.host)),
            host => self.get(host),
        }
    }
}

impl HostConfig {
    /// Authorities and client certificates, those of `tlsconfigdir` included.
    pub(crate) fn certificates(&self) -> Result<(Vec<PathBuf>, Vec<KeyPair>), HostsError> {
        let (mut ca, mut pairs) = (self.ca.clone(), self.keypair.clone());
        for dir in &self.tlsconfigdir {
            for path in sorted_entries(dir)? {
                match path.extension().and_then(|e| e.to_str()) {
                    Some("crt") => ca.push(path),
                    Some("cert") => pairs.push(KeyPair { key: path.with_extension("key"), cert: path }),
                    _ => {}
                }
            }
        }
        Ok((ca, pairs))
    }
}

/// Directories that do not exist or may not be read are no certificates.
fn sorted_entries(dir: &Path) -> Result<Vec<PathBuf>, HostsError> {
    let fail = |source| HostsError::Read { path: dir.to_owned(), source };
    match fs::read_dir(dir) {
        Ok(entries) => {
            let mut paths: Vec<PathBuf> =
                entries.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>().map_err(fail)?;
            paths.sort();
            Ok(paths)
        }
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => Ok(Vec::new()),
        Err(e) => Err(fail(e)),
    }
}

/// `localhost` or a loopback address, with or without a port.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(config: &str, host: &str) -> String {
        let hosts: HostsConfig = toml::from_str(config).unwrap();
        let show = |p: &Place| {
            let of = p.mirrors.as_ref().map(|h| format!(" for {h}")).unwrap_or_default();
            format!("{:?} {}/v2/{}{of}", p.scheme, p.host, p.prefix)
        };
        hosts.pull_places(host).iter().map(show).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn places_come_in_order() {
        let config = r#"
            ["docker.io"]
            mirrors = ["mirror.example:5000/proxy/hub/", "localhost:5001", "https://plain.example"]
            ["mirror.example:5000"]
            http = true
            ["plain.example"]
            insecure = true
            unknown = "ignored"
            ["both.example"]
            http = true
            insecure = true
            ["localhost:9"]
            http = false
        "#;
        insta::assert_snapshot!(places(config, "docker.io"), @r"
        Http mirror.example:5000/v2/proxy/hub/ for docker.io
        Http localhost:5001/v2/ for docker.io
        Unverified plain.example/v2/ for docker.io
        Https registry-1.docker.io/v2/
        ");
        insta::assert_snapshot!(places(config, "both.example"), @"UnverifiedOrHttp both.example/v2/");
        insta::assert_snapshot!(places(config, "localhost:9"), @"Https localhost:9/v2/");
        insta::assert_snapshot!(places(config, "127.0.0.2:80"), @"Http 127.0.0.2:80/v2/");
        insta::assert_snapshot!(places(config, "[::1]:80"), @"Http [::1]:80/v2/");
        insta::assert_snapshot!(places(config, "ghcr.io"), @"Https ghcr.io/v2/");
    }

    #[test]
    fn a_push_can_ask_for_an_insecure_host() {
        assert_eq!(HostsConfig::default().origin("r.example", true).scheme, Scheme::UnverifiedOrHttp);
    }

    #[test]
    fn certificates_come_from_files_and_directories() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.crt", "b.cert", "b.key", "notes.txt"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let config = HostConfig {
            ca: vec!["x.pem".into()],
            tlsconfigdir: vec!["/nonexistent".into(), dir.path().to_owned()],
            ..HostConfig::default()
        };
        let (ca, pairs) = config.certificates().unwrap();
        assert_eq!(ca, [PathBuf::from("x.pem"), dir.path().join("a.crt")]);
        assert_eq!(pairs, [KeyPair { key: dir.path().join("b.key"), cert: dir.path().join("b.cert") }]);
    }
}
