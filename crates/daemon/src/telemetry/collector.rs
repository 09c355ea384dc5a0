//! Sends spans to a collector, as the `OTEL_*` variables of the environment ask: OTLP over gRPC or HTTP.
//!
//! Spans wait in a queue of bounded length; when the collector is slow or away, they are dropped and a warning says so.

use crate::config::ConfigError;
use cooper_engine::history::SpanSink;
use cooper_wire::{
    spans::ResourceSpans,
    trace::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
};
use prost::Message as _;
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};
use tonic::{
    metadata::{AsciiMetadataKey, AsciiMetadataValue},
    transport::Channel,
};

/// Messages that wait for the collector.
const QUEUE: usize = 256;
/// Messages that are sent as one.
const BATCH: usize = 64;
/// A collector that has not answered by then gets no more of this message.
const LIMIT: Duration = Duration::from_secs(10);
/// Where a collector is when nothing else is said, by protocol.
const GRPC_DEFAULT: &str = "http://localhost:4317";
const HTTP_DEFAULT: &str = "http://localhost:4318";
/// Path of the service below a general endpoint.
const HTTP_PATH: &str = "v1/traces";

/// Where spans go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectorSettings {
    /// Over HTTP instead of gRPC.
    http: bool,
    /// A URL; for HTTP with the path.
    endpoint: String,
    /// Sent along with every message.
    headers: BTreeMap<String, String>,
}

impl CollectorSettings {
    /// What the environment asks for; `None`: spans go nowhere.
    pub fn from_env() -> Result<Option<Self>, ConfigError> {
        Self::read(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn read(env: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>, ConfigError> {
        let lenient = env("OTEL_IGNORE_ERROR").is_some_and(|v| crate::config::parse_go_bool(&v).unwrap_or(false));
        match Self::detect(env) {
            Err(_) if lenient => Ok(None),
            other => other,
        }
    }

    fn detect(env: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>, ConfigError> {
        let refuse = |name, message| Err(ConfigError::Value { name, message });
        let specific = env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
        let general = env("OTEL_EXPORTER_OTLP_ENDPOINT");
        match env("OTEL_TRACES_EXPORTER").as_deref() {
            Some("none") => return Ok(None),
            Some("otlp") => {}
            Some(other) => {
                let message = format!("unsupported opentelemetry exporter {other}, expected otlp or none");
                return refuse("OTEL_TRACES_EXPORTER", message);
            }
            None if specific.is_some() || general.is_some() => {}
            None => {
                let jaeger = ["JAEGER_TRACE", "OTEL_EXPORTER_JAEGER_AGENT_HOST", "OTEL_EXPORTER_JAEGER_ENDPOINT"];
                if let Some(name) = jaeger.into_iter().find(|name| env(name).is_some()) {
                    let message = "Jaeger's own protocol is not spoken here; its collectors take OTLP: \
                                   set OTEL_EXPORTER_OTLP_ENDPOINT, or OTEL_TRACES_EXPORTER=none";
                    return refuse(name, message.to_owned());
                }
                return Ok(None);
            }
        }
        let protocol = env("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL").or_else(|| env("OTEL_EXPORTER_OTLP_PROTOCOL"));
        let http = match protocol.as_deref() {
            None | Some("grpc") => false,
            Some("http/protobuf") => true,
            Some(other) => {
                let message = format!("unsupported otlp protocol {other}, expected grpc or http/protobuf");
                return refuse("OTEL_EXPORTER_OTLP_PROTOCOL", message);
            }
        };
        let endpoint = match (specific, general, http) {
            (Some(url), _, _) | (None, Some(url), false) => url,
            (None, Some(url), true) => format!("{}/{HTTP_PATH}", url.trim_end_matches('/')),
            (None, None, false) => GRPC_DEFAULT.to_owned(),
            (None, None, true) => format!("{HTTP_DEFAULT}/{HTTP_PATH}"),
        };
        let endpoint = if endpoint.contains("://") { endpoint } else { format!("http://{endpoint}") };
        if !http && !endpoint.starts_with("http://") {
            let message = format!("{endpoint}: spans go over gRPC without TLS only; use http/protobuf for https");
            return refuse("OTEL_EXPORTER_OTLP_ENDPOINT", message);
        }
        let headers = env("OTEL_EXPORTER_OTLP_TRACES_HEADERS").or_else(|| env("OTEL_EXPORTER_OTLP_HEADERS"));
        let pair = |text: &str| text.split_once('=').map(|(k, v)| (k.trim().to_lowercase(), v.trim().to_owned()));
        let headers = headers.unwrap_or_default().split(',').filter_map(pair).collect();
        Ok(Some(Self { http, endpoint, headers }))
    }
}

enum Item {
    Spans(Vec<ResourceSpans>),
    /// Answered when everything before it has been sent.
    Flush(oneshot::Sender<()>),
}

/// The last spans of a process may hold up its end for so long.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// A collector that takes spans at its own pace.
pub struct Collector {
    queue: mpsc::Sender<Item>,
    dropping: AtomicBool,
}

impl Collector {
    /// Begins to send. Needs a tokio runtime.
    pub fn start(settings: CollectorSettings) -> Result<Self, ConfigError> {
        let client = Client::open(&settings)?;
        let (queue, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(send_all(client, settings.endpoint, waiting));
        Ok(Self { queue, dropping: AtomicBool::new(false) })
    }

    /// Waits a little until everything so far has been sent.
    pub async fn flush(&self) {
        let (sent, all) = oneshot::channel();
        if self.queue.try_send(Item::Flush(sent)).is_ok() {
            tokio::time::timeout(FLUSH_LIMIT, all).await.ok();
        }
    }
}

impl SpanSink for Collector {
    fn export(&self, spans: Vec<ResourceSpans>) {
        let dropped = self.queue.try_send(Item::Spans(spans)).is_err();
        if dropped && !self.dropping.swap(true, Ordering::Relaxed) {
            tracing::warn!("the trace collector does not keep up, spans are dropped");
        } else if !dropped {
            self.dropping.store(false, Ordering::Relaxed);
        }
    }
}

async fn send_all(mut client: Client, endpoint: String, mut waiting: mpsc::Receiver<Item>) {
    let mut batch = Vec::new();
    let mut failing = false;
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        let (mut resource_spans, mut flushes) = (Vec::new(), Vec::new());
        for item in batch.drain(..) {
            match item {
                Item::Spans(spans) => resource_spans.extend(spans),
                Item::Flush(done) => flushes.push(done),
            }
        }
        if resource_spans.is_empty() {
            continue; // dropping the flushes answers them
        }
        let sent = tokio::time::timeout(LIMIT, client.send(ExportTraceServiceRequest { resource_spans })).await;
        match sent.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
            Ok(()) => failing = false,
            Err(error) if !failing => {
                failing = true;
                tracing::warn!("spans cannot be sent to the trace collector {endpoint}: {error}");
            }
            Err(_) => {}
        }
        drop(flushes);
    }
}

enum Client {
    Grpc(TraceServiceClient<Channel>, Vec<(AsciiMetadataKey, AsciiMetadataValue)>),
    Http(reqwest::RequestBuilder),
}

impl Client {
    fn open(settings: &CollectorSettings) -> Result<Self, ConfigError> {
        let refuse = |message: String| ConfigError::Value {
            name: "OTEL_EXPORTER_OTLP_ENDPOINT",
            message: format!("{}: {message}", settings.endpoint),
        };
        if settings.http {
            let client = cooper_registry::http_client_builder().map_err(|e| refuse(e.to_string()))?;
            let client = client.build().map_err(|e| refuse(e.to_string()))?;
            let request = client.post(&settings.endpoint).header("content-type", "application/x-protobuf");
            let request = settings.headers.iter().fold(request, |request, (name, value)| request.header(name, value));
            return Ok(Self::Http(request));
        }
        let channel = Channel::from_shared(settings.endpoint.clone()).map_err(|e| refuse(e.to_string()))?;
        let header = |(name, value): (&String, &String)| Some((name.parse().ok()?, value.parse().ok()?));
        let headers = settings.headers.iter().filter_map(header).collect();
        Ok(Self::Grpc(TraceServiceClient::new(channel.connect_lazy()), headers))
    }

    async fn send(&mut self, message: ExportTraceServiceRequest) -> Result<(), String> {
        match self {
            Self::Grpc(client, headers) => {
                let mut request = tonic::Request::new(message);
                for (name, value) in headers {
                    request.metadata_mut().insert(name.clone(), value.clone());
                }
                client.export(request).await.map(drop).map_err(|status| status.to_string())
            }
            Self::Http(request) => {
                let request = request.try_clone().ok_or("the request cannot be repeated")?;
                let answer = request.body(message.encode_to_vec()).send().await.map_err(|e| e.to_string())?;
                answer.error_for_status().map(drop).map_err(|e| e.to_string())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_decides_where_spans_go() {
        for (variables, expected) in [
            ("", "nowhere"),
            ("OTEL_TRACES_EXPORTER=none OTEL_EXPORTER_OTLP_ENDPOINT=http://c", "nowhere"),
            ("OTEL_TRACES_EXPORTER=otlp", "grpc http://localhost:4317"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT=http://c:1", "grpc http://c:1"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT=c:1", "grpc http://c:1"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT=https://c", "! OTEL_EXPORTER_OTLP_ENDPOINT"),
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT=https://c/ OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
                "http https://c/v1/traces",
            ),
            (
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://c/x OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf",
                "http http://c/x",
            ),
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT=http://c OTEL_EXPORTER_OTLP_HEADERS=Authorization=a,x=y=z",
                "grpc http://c authorization:a x:y=z",
            ),
            ("OTEL_TRACES_EXPORTER=zipkin", "! OTEL_TRACES_EXPORTER"),
            ("OTEL_TRACES_EXPORTER=zipkin OTEL_IGNORE_ERROR=1", "nowhere"),
            ("OTEL_TRACES_EXPORTER=otlp OTEL_EXPORTER_OTLP_PROTOCOL=http/json", "! OTEL_EXPORTER_OTLP_PROTOCOL"),
            ("JAEGER_TRACE=localhost:6831", "! JAEGER_TRACE"),
        ] {
            let variables: BTreeMap<&str, &str> =
                variables.split_whitespace().filter_map(|pair| pair.split_once('=')).collect();
            let shown = match CollectorSettings::read(&|name| variables.get(name).map(|v| (*v).to_owned())) {
                Ok(None) => "nowhere".to_owned(),
                Ok(Some(s)) => {
                    let mut shown = format!("{} {}", if s.http { "http" } else { "grpc" }, s.endpoint);
                    shown.extend(s.headers.iter().flat_map(|(k, v)| [" ", k, ":", v]));
                    shown
                }
                Err(ConfigError::Value { name, .. }) => format!("! {name}"),
                Err(other) => panic!("{other}"),
            };
            assert_eq!(shown, expected, "{variables:?}");
        }
    }
}
