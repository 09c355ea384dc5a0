//! The predicates of provenance, SLSA 0.2 and 1, from what a build noted.

use crate::{
    Capture, Error, Incomplete, Mode, Origin, ProvenanceParams, PurlType, Request, Result, Version, digest_map,
    image_purl, redact,
    request::{LocalSource, commit_digest},
    steps::BuildSteps,
    system::End,
};
use cooper_llb::pb;
use cooper_oci::{Descriptor, Digest, Platform};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

const TYPE_1: &str = "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";
const TYPE_02: &str = "https://mobyproject.org/buildkit@v1";
/// Requests to this frontend tell which version of the language it speaks.
const DOCKERFILE: &str = "dockerfile.v0";

/// Layers by the name of what made them, `STEP:OUTPUT`: one list for each way to have them.
pub type Layers = BTreeMap<String, Vec<Vec<Descriptor>>>;

/// When a build began, how it is known, and under which rules it ran.
#[derive(Debug, Clone, Default)]
pub struct Moment {
    /// When it began.
    pub started: jiff::Timestamp,
    /// A name that no other build has.
    pub invocation: String,
    /// The version of the Dockerfile language that is built in.
    pub dockerfile_version: String,
    /// The behaviour that was asked for.
    pub compatibility_version: i64,
    /// What the builder's owner says of it.
    pub environment: Map<String, Value>,
}

/// A predicate, but for what is known at the end only.
#[derive(Debug, Clone)]
pub struct Predicate {
    params: ProvenanceParams,
    moment: Moment,
    materials: Vec<(String, BTreeMap<String, String>)>,
    config: crate::ConfigSource,
    request: Request,
    request_complete: bool,
    materials_complete: bool,
    hermetic: bool,
    network: Option<Value>,
    vcs: BTreeMap<String, String>,
    steps: Option<BuildSteps>,
    source: Option<Value>,
}

impl Predicate {
    /// What is known of a result: what was noted, who asked (`request`, none: the client built it itself) and how it
    /// is made.
    pub fn new(
        params: ProvenanceParams,
        capture: &Capture,
        request: &Request,
        definition: &pb::Definition,
        moment: Moment,
    ) -> Result<Self> {
        let materials_complete = !capture.incomplete && capture.sources.local.is_empty();
        if params.complete_materials && !materials_complete {
            let reason = || "local_source".to_owned();
            let local = |name: &String| Incomplete { name: name.clone(), reason: reason(), ..Incomplete::default() };
            let directories = capture.sources.local.iter().map(local);
            return Err(Error::Incomplete(directories.chain(capture.unnamed.iter().cloned()).collect()));
        }
        let origin = Origin::new(&request.frontend, request.args.clone(), &capture.sources);
        let mut request = Request { args: origin.request.args, ..request.clone() };
        request.secrets = capture.secrets();
        request.ssh = capture.ssh();
        request.locals = capture.sources.local.iter().map(|name| LocalSource { name: name.clone() }).collect();
        request.compatibility_version = moment.compatibility_version;
        let vcs = take_vcs(&mut request);
        let mut request_complete = !request.frontend.is_empty();
        let (mut steps, mut source) = (None, None);
        match params.mode {
            Mode::Min => request_complete &= !request.scrub(),
            Mode::Max => {
                let none = BTreeMap::new();
                let samples = if params.capture_usage { &capture.samples } else { &none };
                let found = BuildSteps::of(definition, samples)?;
                source = sources(definition, &found, samples)?;
                steps = Some(found);
            }
        }
        Ok(Self {
            materials: materials(capture)?,
            config: origin.config,
            request_complete,
            materials_complete,
            hermetic: materials_complete && !capture.network,
            network: network(capture),
            vcs,
            steps,
            source,
            request,
            params,
            moment,
        })
    }

    /// What was asked for.
    pub fn params(&self) -> &ProvenanceParams {
        &self.params
    }

    /// The steps, when they are told.
    pub fn steps(&self) -> Option<&BuildSteps> {
        self.steps.as_ref()
    }

    /// The JSON, indented.
    #[allow(clippy::missing_panics_doc, reason = "it cannot")]
    pub fn json(&self, end: &End, layers: &Layers) -> Vec<u8> {
        let predicate = match self.params.version {
            Version::V1 => self.version_1(end, layers),
            Version::V02 => self.version_02(end, layers),
        };
        // Strings, numbers, lists and maps with string keys.
        serde_json::to_vec_pretty(&predicate).expect("plain values always serialise")
    }

    fn version_1(&self, end: &End, layers: &Layers) -> Value {
        let mut internal = self.environment("builderPlatform");
        if let Some(steps) = &self.steps {
            internal.insert("buildConfig".to_owned(), json!(steps));
        }
        let mut metadata = json!({
            "invocationId": self.moment.invocation,
            "startedOn": time(self.moment.started),
            "finishedOn": time(end.at),
            "buildkit_metadata": self.metadata(end, layers),
            "buildkit_completeness": {
                "request": self.request_complete,
                "resolvedDependencies": self.materials_complete,
            },
        });
        set_if(&mut metadata, "buildkit_hermetic", self.hermetic);
        set_if(&mut metadata, "buildkit_reproducible", self.params.reproducible);
        let mut definition = json!({
            "buildType": TYPE_1,
            "externalParameters": { "configSource": self.config, "request": self.request },
            "internalParameters": internal,
        });
        if !self.materials.is_empty() {
            definition["resolvedDependencies"] = self.materials();
        }
        json!({
            "buildDefinition": definition,
            "runDetails": { "builder": { "id": self.params.builder_id }, "metadata": metadata },
        })
    }

    fn version_02(&self, end: &End, layers: &Layers) -> Value {
        let mut config = json!(self.config);
        if let Some(members) = config.as_object_mut()
            && let Some(path) = members.remove("path")
        {
            members.insert("entryPoint".to_owned(), path);
        }
        let mut metadata = json!({
            "buildInvocationID": self.moment.invocation,
            "buildStartedOn": time(self.moment.started),
            "buildFinishedOn": time(end.at),
            "completeness": {
                "parameters": self.request_complete,
                "environment": true,
                "materials": self.materials_complete,
            },
            "reproducible": self.params.reproducible,
            "https://mobyproject.org/buildkit@v1#metadata": self.metadata(end, layers),
        });
        set_if(&mut metadata, "https://mobyproject.org/buildkit@v1#hermetic", self.hermetic);
        let mut out = json!({
            "builder": { "id": self.params.builder_id },
            "buildType": TYPE_02,
            "invocation": {
                "configSource": config,
                "parameters": self.request,
                "environment": self.environment("platform"),
            },
            "metadata": metadata,
        });
        if !self.materials.is_empty() {
            out["materials"] = self.materials();
        }
        if let Some(steps) = &self.steps {
            out["buildConfig"] = json!(steps);
        }
        out
    }

    fn materials(&self) -> Value {
        let material = |(uri, digest): &(String, BTreeMap<String, String>)| {
            let mut out = json!({ "uri": uri });
            if !digest.is_empty() {
                out["digest"] = json!(digest);
            }
            out
        };
        self.materials.iter().map(material).collect()
    }

    /// What the builder is, its owner's words included.
    fn environment(&self, platform: &str) -> Map<String, Value> {
        let mut out = self.moment.environment.clone();
        out.insert(platform.to_owned(), json!(Platform::host().normalized().to_string()));
        if self.request.frontend == DOCKERFILE && !self.moment.dockerfile_version.is_empty() {
            out.insert("dockerfileVersion".to_owned(), json!(self.moment.dockerfile_version));
        }
        out
    }

    fn metadata(&self, end: &End, layers: &Layers) -> Value {
        let mut out = Map::new();
        if !self.vcs.is_empty() {
            out.insert("vcs".to_owned(), json!(self.vcs));
        }
        if let Some(source) = &self.source {
            out.insert("source".to_owned(), source.clone());
        }
        if !layers.is_empty() && self.params.mode == Mode::Max {
            out.insert("layers".to_owned(), json!(layers));
        }
        if let Some(system) = end.system.as_ref().filter(|_| self.params.capture_usage) {
            out.insert("sysUsage".to_owned(), json!([system]));
        }
        if let Some(network) = &self.network {
            out.insert("network".to_owned(), network.clone());
        }
        Value::Object(out)
    }
}

/// How steps got at the network, when a proxy watched.
fn network(capture: &Capture) -> Option<Value> {
    let mut network = json!({ "mode": "proxy" });
    if !capture.unnamed.is_empty() {
        network["proxy"] = json!({ "incomplete": capture.unnamed });
    }
    capture.proxied.then_some(network)
}

/// Keys of the environment that are taken.
pub const OWN_KEYS: [&str; 4] = ["buildConfig", "builderPlatform", "platform", "dockerfileVersion"];

fn time(time: jiff::Timestamp) -> String {
    time.to_string()
}

fn set_if(value: &mut Value, key: &str, flag: bool) {
    if flag {
        value[key] = json!(true);
    }
}

/// Takes what clients say of their repository out of the arguments.
fn take_vcs(request: &mut Request) -> BTreeMap<String, String> {
    let mut vcs = BTreeMap::new();
    request.args.retain(|key, value| match key.strip_prefix("vcs:") {
        None => true,
        Some(name) => {
            if !value.is_empty() {
                vcs.insert(name.to_owned(), if name == "source" { redact(value) } else { value.clone() });
            }
            false
        }
    });
    vcs
}

/// Everything that came from outside and can be named: images, blobs, repositories, downloads.
fn materials(capture: &Capture) -> Result<Vec<(String, BTreeMap<String, String>)>> {
    let sources = &capture.sources;
    let kind = |local| if local { PurlType::Oci } else { PurlType::Docker };
    let mut out = Vec::new();
    for image in &sources.images {
        let url = image_purl(kind(image.local), &image.reference, image.platform.as_ref(), &[])?;
        out.push((url, digest_map(&image.digest)));
    }
    for blob in &sources.blobs {
        let url = image_purl(kind(blob.local), &blob.reference, None, &[("ref_type", "blob")])?;
        out.push((url, digest_map([&blob.digest])));
    }
    for git in &sources.git {
        out.push((git.url.clone(), commit_digest(&git.commit)));
        let Some((scheme, rest)) = git.bundle.as_deref().and_then(|b| b.split_once("://")) else { continue };
        let Some((name, digest)) = rest.rsplit_once('@') else { continue };
        let Ok(digest) = digest.parse::<Digest>() else { continue };
        let more = [("ref_type", "bundle"), ("vcs_url", git.url.as_str())];
        let url = image_purl(kind(scheme == "oci-layout+blob"), name, None, &more)?;
        out.push((url, digest_map([&digest])));
    }
    out.extend(sources.http.iter().map(|http| (http.url.clone(), digest_map([&http.digest]))));
    Ok(out)
}

/// Source files, and which of their lines made which step.
fn sources(
    definition: &pb::Definition,
    steps: &BuildSteps,
    samples: &BTreeMap<String, Value>,
) -> Result<Option<Value>> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let Some(source) = definition.source.as_ref().filter(|s| !s.infos.is_empty()) else { return Ok(None) };
    let mut infos = Vec::with_capacity(source.infos.len());
    for info in &source.infos {
        let own = match &info.definition {
            Some(definition) => BuildSteps::of(definition, samples)?,
            None => BuildSteps::default(),
        };
        let mut value = json!(own);
        for (key, text) in [("filename", info.filename.clone()), ("language", info.language.clone())] {
            if !text.is_empty() {
                value[key] = json!(text);
            }
        }
        if !info.data.is_empty() {
            value["data"] = json!(STANDARD.encode(&info.data));
        }
        infos.push(value);
    }
    let mut locations = Map::new();
    for (digest, places) in &source.locations {
        if let Some(step) = steps.name(digest) {
            let value = cooper_llb::json::provenance_locations(places).map_err(Error::Steps)?;
            locations.insert(step.to_owned(), value);
        }
    }
    let mut out = json!({ "infos": infos });
    if !locations.is_empty() {
        out["locations"] = Value::Object(locations);
    }
    Ok(Some(out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GitSource, ImageSource};

    fn capture() -> Capture {
        let mut capture = Capture::default();
        capture.network = true;
        capture.add_image(ImageSource {
            reference: "docker.io/library/busybox:latest".into(),
            platform: Some("linux/amd64".parse().unwrap()),
            digest: Some(Digest::of("image")),
            local: false,
        });
        capture.add_git(GitSource {
            url: "https://h/a.git#v1".into(),
            commit: "c0ffee".into(),
            bundle: Some(format!("docker-image+blob://h/b@{}", Digest::of("bundle"))),
        });
        capture.add_secret("token", false);
        capture
    }

    fn predicate(version: Version, mode: Mode, capture: &Capture) -> Result<String> {
        let args = [
            ("build-arg:A", "1"),
            ("context", "https://h/a.git#v1"),
            ("filename", "F"),
            ("vcs:source", "https://u:p@h/r"),
            ("target", "t"),
        ];
        let args = args.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let request = Request { frontend: "dockerfile.v0".into(), args, ..Request::default() };
        let moment = Moment {
            invocation: "id".into(),
            dockerfile_version: "1.2".into(),
            environment: json!({"foo": "bar"}).as_object().cloned().unwrap_or_default(),
            ..Moment::default()
        };
        let params = ProvenanceParams { mode, version, ..ProvenanceParams::default() };
        let predicate = Predicate::new(params, capture, &request, &pb::Definition::default(), moment)?;
        let json = predicate.json(&End::default(), &Layers::new());
        let value: Value = serde_json::from_slice(&json).unwrap();
        Ok(serde_json::to_string_pretty(&value).unwrap())
    }

    /// Steps whose only network was the proxy that records.
    #[test]
    fn the_network_is_told_where_it_was_a_proxy() {
        let network = |version, capture: &Capture| {
            let value: Value = serde_json::from_str(&predicate(version, Mode::Min, capture).unwrap()).unwrap();
            match version {
                Version::V1 => value["runDetails"]["metadata"]["buildkit_metadata"]["network"].clone(),
                Version::V02 => value["metadata"]["https://mobyproject.org/buildkit@v1#metadata"]["network"].clone(),
            }
        };
        let mut proxied = capture();
        proxied.proxied = true;
        for version in [Version::V1, Version::V02] {
            assert_eq!(network(version, &proxied), json!({ "mode": "proxy" }));
            assert_eq!(network(version, &capture()), Value::Null);
        }
    }

    #[test]
    fn version_1_tells_the_request_and_what_it_used() {
        insta::assert_snapshot!(predicate(Version::V1, Mode::Max, &capture()).unwrap(), @r#"
{
  "buildDefinition": {
    "buildType": "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md",
    "externalParameters": {
      "configSource": {
        "digest": {
          "sha1": "c0ffee"
        },
        "path": "F",
        "uri": "https://h/a.git#v1"
      },
      "request": {
        "args": {
          "build-arg:A": "1",
          "target": "t"
        },
        "frontend": "dockerfile.v0",
        "secrets": [
          {
            "id": "token"
          }
        ]
      }
    },
    "internalParameters": {
      "buildConfig": {},
      "builderPlatform": "linux/amd64",
      "dockerfileVersion": "1.2",
      "foo": "bar"
    },
    "resolvedDependencies": [
      {
        "digest": {
          "sha256": "6105d6cc76af400325e94d588ce511be5bfdbb73b437dc51eca43917d7a43e3d"
        },
        "uri": "pkg:docker/busybox@latest?platform=linux%2Famd64"
      },
      {
        "digest": {
          "sha1": "c0ffee"
        },
        "uri": "https://h/a.git#v1"
      },
      {
        "digest": {
          "sha256": "1e6ed65d77d6364eeaed5a745ba5c4985ae2b700dd85d7cf7f027bdf294a33fc"
        },
        "uri": "pkg:docker/h/b@latest?ref_type=bundle&vcs_url=https:%2F%2Fh%2Fa.git%23v1"
      }
    ]
  },
  "runDetails": {
    "builder": {
      "id": ""
    },
    "metadata": {
      "buildkit_completeness": {
        "request": true,
        "resolvedDependencies": true
      },
      "buildkit_metadata": {
        "vcs": {
          "source": "https://xxxxx:xxxxx@h/r"
        }
      },
      "finishedOn": "1970-01-01T00:00:00Z",
      "invocationId": "id",
      "startedOn": "1970-01-01T00:00:00Z"
    }
  }
}
"#);
    }

    #[test]
    fn version_02_without_what_may_be_private() {
        insta::assert_snapshot!(predicate(Version::V02, Mode::Min, &capture()).unwrap(), @r#"
{
  "buildType": "https://mobyproject.org/buildkit@v1",
  "builder": {
    "id": ""
  },
  "invocation": {
    "configSource": {
      "digest": {
        "sha1": "c0ffee"
      },
      "entryPoint": "F",
      "uri": "https://h/a.git#v1"
    },
    "environment": {
      "dockerfileVersion": "1.2",
      "foo": "bar",
      "platform": "linux/amd64"
    },
    "parameters": {
      "args": {
        "target": "t"
      },
      "frontend": "dockerfile.v0"
    }
  },
  "materials": [
    {
      "digest": {
        "sha256": "6105d6cc76af400325e94d588ce511be5bfdbb73b437dc51eca43917d7a43e3d"
      },
      "uri": "pkg:docker/busybox@latest?platform=linux%2Famd64"
    },
    {
      "digest": {
        "sha1": "c0ffee"
      },
      "uri": "https://h/a.git#v1"
    },
    {
      "digest": {
        "sha256": "1e6ed65d77d6364eeaed5a745ba5c4985ae2b700dd85d7cf7f027bdf294a33fc"
      },
      "uri": "pkg:docker/h/b@latest?ref_type=bundle&vcs_url=https:%2F%2Fh%2Fa.git%23v1"
    }
  ],
  "metadata": {
    "buildFinishedOn": "1970-01-01T00:00:00Z",
    "buildInvocationID": "id",
    "buildStartedOn": "1970-01-01T00:00:00Z",
    "completeness": {
      "environment": true,
      "materials": true,
      "parameters": false
    },
    "https://mobyproject.org/buildkit@v1#metadata": {
      "vcs": {
        "source": "https://xxxxx:xxxxx@h/r"
      }
    },
    "reproducible": false
  }
}
"#);
    }

    #[test]
    fn local_sources_make_materials_incomplete() {
        let mut capture = capture();
        capture.add_local("context");
        let params = ProvenanceParams { complete_materials: true, ..ProvenanceParams::default() };
        let made = Predicate::new(params, &capture, &Request::default(), &pb::Definition::default(), Moment::default());
        let error = made.unwrap_err().to_string();
        assert!(error.ends_with("Uncaptured local sources:\n  - context\n    reason: local_source"), "{error}");
    }

    #[test]
    fn what_a_proxy_could_not_name_is_told() {
        let mut capture = capture();
        capture.proxied = true;
        assert_eq!(network(&capture).unwrap().to_string(), r#"{"mode":"proxy"}"#);
        capture.add_unnamed(Incomplete {
            op: "sha256:1".into(),
            name: "post it".into(),
            method: "POST".into(),
            uri: "http://h/x".into(),
            reason: "method_not_materializable".into(),
        });
        let unnamed = r#"{"method":"POST","name":"post it","op":"sha256:1","reason":"method_not_materializable","uri":"http://h/x"}"#;
        let expected = format!(r#"{{"mode":"proxy","proxy":{{"incomplete":[{unnamed}]}}}}"#);
        assert_eq!(network(&capture).unwrap().to_string(), expected);
        let params = ProvenanceParams { complete_materials: true, ..ProvenanceParams::default() };
        let made = Predicate::new(params, &capture, &Request::default(), &pb::Definition::default(), Moment::default());
        let error = made.unwrap_err().to_string();
        let listed = "  - post it\n    method: POST\n    url: http://h/x\n    reason: method_not_materializable";
        assert!(error.ends_with(&format!("\n\nUncaptured requests:\n{listed}")), "{error}");
    }
}
