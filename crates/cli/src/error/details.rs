//! Typed details of a gRPC error. They travel as JSON inside `google.protobuf.Any`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message as _;
use serde::Deserialize;
use tonic::Code;

/// A daemon's error, decoded as far as this program understands it.
#[derive(Debug)]
pub struct Failure {
    /// gRPC code.
    pub code: Code,
    /// The daemon's words.
    pub message: String,
    /// Source excerpts, outermost first.
    pub sources: Vec<Source>,
    /// Reasons that a policy gave.
    pub denials: Vec<String>,
    /// Exit code of the failed step.
    pub step_exit_code: Option<u32>,
    /// A frontend capability or subrequest that is missing.
    pub missing: Option<String>,
    /// What is left of the step that failed.
    pub step: Option<FailedStep>,
}

/// The step that failed, and where its mounts can be looked at while the build is held.
#[derive(Debug, Deserialize)]
pub struct FailedStep {
    /// The op, as protobuf JSON.
    pub op: serde_json::Value,
    /// One name per mount of the op; empty for mounts of which nothing is left.
    #[serde(rename = "mountIDs", default)]
    pub mounts: Vec<String>,
}

/// A place in a source file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// As the user named it.
    pub filename: String,
    /// The whole file.
    pub text: String,
    /// Lines, counted from 1, both ends inclusive.
    pub ranges: Vec<(usize, usize)>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct SourceJson {
    info: Option<InfoJson>,
    ranges: Vec<RangeJson>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct InfoJson {
    filename: String,
    data: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RangeJson {
    start: PositionJson,
    end: PositionJson,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct PositionJson {
    line: usize,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct DecisionJson {
    #[serde(rename = "denyMessages")]
    deny_messages: Vec<MessageJson>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct MessageJson {
    message: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ExitJson {
    #[serde(rename = "Code")]
    code: u32,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct NameJson {
    name: String,
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        let mut failure = Self {
            code: status.code(),
            message: status.message().to_owned(),
            sources: Vec::new(),
            denials: Vec::new(),
            step_exit_code: None,
            missing: None,
            step: None,
        };
        // Details of newer daemons may be unknown or unreadable; the message stands on its own.
        if let Ok(details) = cooper_wire::rpc::Status::decode(status.details()) {
            for detail in &details.details {
                let name = detail.type_url.rsplit('/').next().unwrap_or_default();
                failure.add(name, &detail.value);
            }
        }
        failure
    }
}

impl Failure {
    fn add(&mut self, name: &str, json: &[u8]) {
        fn parse<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Option<T> {
            serde_json::from_slice(json).ok()
        }
        match name.strip_suffix("+json").unwrap_or(name) {
            "errdefs.Source" => self.sources.extend(parse::<SourceJson>(json).and_then(Source::from_json)),
            "policysession.DecisionResponse" => {
                let decision: Option<DecisionJson> = parse(json);
                let messages = decision.into_iter().flat_map(|decision| decision.deny_messages);
                self.denials.extend(messages.map(|deny| deny.message).filter(|text| !text.is_empty()));
            }
            "errdefs.Solve" => self.step = self.step.take().or_else(|| parse(json)),
            "gatewayapi.ExitMessage" => {
                self.step_exit_code = self.step_exit_code.or_else(|| parse::<ExitJson>(json).map(|exit| exit.code));
            }
            "errdefs.FrontendCap" | "errdefs.Subrequest" => {
                self.missing = self.missing.take().or_else(|| parse::<NameJson>(json).map(|cap| cap.name));
            }
            _ => {}
        }
    }
}

impl Source {
    fn from_json(json: SourceJson) -> Option<Self> {
        let info = json.info?;
        let text = String::from_utf8_lossy(&STANDARD.decode(info.data).ok()?).into_owned();
        let lines = |range: RangeJson| (range.start.line, range.end.line.max(range.start.line));
        Some(Self { filename: info.filename, text, ranges: json.ranges.into_iter().map(lines).collect() })
    }
}

/// The message; codes other than "unknown" come before it, as Go clients print them.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match code_name(self.code) {
            Some(name) => write!(f, "{name}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

fn code_name(code: Code) -> Option<&'static str> {
    Some(match code {
        Code::Ok | Code::Unknown => return None,
        Code::Cancelled => "Canceled",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    })
}
