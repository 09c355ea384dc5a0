//! What was asked for, as provenance tells it.

use crate::{Sources, redact};
use cooper_llb::GitRef;
use serde::Serialize;
use std::collections::BTreeMap;

/// A secret or an SSH agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Access {
    /// Its id.
    pub id: String,
    /// Whether steps could do without.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

/// A directory of the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LocalSource {
    /// Its name.
    pub name: String,
}

/// A request to a frontend.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Request {
    /// The frontend; empty when the client was it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub frontend: String,
    /// Its options.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub args: BTreeMap<String, String>,
    /// Secrets that steps could read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<Access>,
    /// SSH agents that steps could use.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ssh: Vec<Access>,
    /// Directories of the client.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub locals: Vec<LocalSource>,
    /// How its inputs came about, when other frontends made them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, Origin>,
    /// The client's request, when that was another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<Box<Origin>>,
    /// The behaviour that was asked for.
    #[serde(rename = "compatibilityVersion", skip_serializing_if = "is_zero")]
    pub compatibility_version: i64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the serialiser's signature")]
fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// A request and the place of its build file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// The place of the build file.
    #[serde(rename = "configSource")]
    pub config: ConfigSource,
    /// The request.
    pub request: Request,
}

/// The place of a build file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ConfigSource {
    /// The address of the context, unless it is a directory of the client.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uri: String,
    /// What that stood for.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub digest: BTreeMap<String, String>,
    /// The file in it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
}

const CONTEXT: &str = "context";

/// Options without those that say something about the builder, not about the build; credentials in addresses masked.
pub fn filter_args(opts: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    const OF_HOST: [&str; 4] = ["cgroup-parent", "image-resolve-mode", "platform", "cache-imports"];
    let context = opts.get("contextkey").filter(|key| !key.is_empty()).map_or(CONTEXT, String::as_str);
    let kept = opts.iter().filter(|(key, _)| !OF_HOST.contains(&key.as_str()) && !key.starts_with("attest:"));
    let shown = |(key, value): (&String, &String)| {
        let address = key == context || key.strip_prefix(CONTEXT).is_some_and(|rest| rest.starts_with(':'));
        (key.clone(), if address { redact(value) } else { value.clone() })
    };
    kept.map(shown).collect()
}

impl Origin {
    /// The request `frontend` with `args`, of which the context and the file name become the place of the build file.
    pub fn new(frontend: &str, mut args: BTreeMap<String, String>, sources: &Sources) -> Self {
        let given = |key: &str| args.get(key).filter(|v| !v.is_empty()).cloned();
        let context = given("contextkey")
            .or_else(|| given("input:context").map(|_| "input:context".to_owned()))
            .unwrap_or_else(|| CONTEXT.to_owned());
        let mut config = ConfigSource::default();
        if let Some(address) = given(&context) {
            (config.uri, config.digest) = find(sources, &address).unwrap_or_else(|| (address.clone(), BTreeMap::new()));
            config.uri = redact(&config.uri);
            args.remove(&context);
        }
        if let Some(path) = args.get("filename").filter(|v| !v.is_empty()).cloned() {
            config.path = path;
            args.remove("filename");
        }
        Self { config, request: Request { frontend: frontend.to_owned(), args, ..Request::default() } }
    }

    /// Whether nothing was asked for.
    pub fn is_empty(&self) -> bool {
        self.request.frontend.is_empty() && self.request.args.is_empty() && self.request.inputs.is_empty()
    }
}

/// The source behind an address: how it is told, and its digests.
fn find(sources: &Sources, address: &str) -> Option<(String, BTreeMap<String, String>)> {
    let git = GitRef::parse(address).ok();
    let (told, wanted) = match &git {
        Some(git) => (git.fragment_form(true), git.fragment_form(false)),
        None => (address.to_owned(), address.to_owned()),
    };
    // Noted addresses have no credentials.
    let wanted = redact(&wanted);
    if let Some(found) = sources.git.iter().find(|g| g.url == wanted) {
        return Some((told, commit_digest(&found.commit)));
    }
    let found = sources.http.iter().find(|h| h.url == wanted)?;
    Some((found.url.clone(), crate::digest_map([&found.digest])))
}

/// The digests of a commit.
pub(crate) fn commit_digest(commit: &str) -> BTreeMap<String, String> {
    let algorithm = if commit.len() == 64 { "sha256" } else { "sha1" };
    [(algorithm.to_owned(), commit.to_owned())].into()
}

impl Request {
    /// Leaves out what may be private: arguments, labels, secrets, SSH agents. Tells whether arguments were among it.
    pub(crate) fn scrub(&mut self) -> bool {
        let before = self.args.len();
        self.args.retain(|key, _| !key.starts_with("build-arg:") && !key.starts_with("label:"));
        let mut scrubbed = self.args.len() != before;
        self.secrets.clear();
        self.ssh.clear();
        for origin in self.inputs.values_mut().chain(self.root.as_deref_mut()) {
            scrubbed |= origin.request.scrub();
        }
        scrubbed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GitSource;

    fn args(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn options_of_the_builder_are_left_out() {
        let opts = args(&[
            ("platform", "linux/amd64"),
            ("attest:sbom", ""),
            ("context:x", "https://a:b@h/c"),
            ("contextkey", "ctx"),
            ("ctx", "https://a@h/d"),
            ("build-arg:A", "https://a:b@h"),
        ]);
        let shown: Vec<String> = filter_args(&opts).into_iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            shown,
            [
                "build-arg:A=https://a:b@h",
                "context:x=https://xxxxx:xxxxx@h/c",
                "contextkey=ctx",
                "ctx=https://xxxxx@h/d"
            ]
        );
    }

    #[test]
    fn the_context_is_where_the_file_comes_from() {
        let sources = Sources {
            git: vec![GitSource {
                url: "https://xxxxx:xxxxx@h/a.git#v1".into(),
                commit: "c0ffee".into(),
                bundle: None,
            }],
            ..Sources::default()
        };
        let opts = args(&[("context", "https://u:p@h/a.git#v1:src"), ("filename", "F"), ("target", "t")]);
        let origin = Origin::new("dockerfile.v0", opts, &sources);
        assert_eq!(origin.config.uri, "https://xxxxx:xxxxx@h/a.git#v1:src");
        assert_eq!(origin.config.digest, args(&[("sha1", "c0ffee")]));
        assert_eq!((origin.config.path.as_str(), origin.request.args), ("F", args(&[("target", "t")])));
    }

    #[test]
    fn scrubbing_reaches_inputs() {
        let input = Origin::new("f", args(&[("build-arg:A", "1")]), &Sources::default());
        let mut request = Request { inputs: [("base".to_owned(), input)].into(), ..Request::default() };
        assert!(request.scrub());
        assert!(request.inputs["base"].request.args.is_empty());
        assert!(!request.scrub());
    }
}
