//! The debugging address (`--debugaddr`): plain HTTP for whoever may connect to it.
//!
//! What is about another language's runtime (its profiles, its memory statistics) is answered with what there is
//! here instead, or with 501 and the reason.

use super::{RpcFigures, metrics, process};
use crate::listen::{Connection, Listener};
use bytes::Bytes;
use cooper_engine::{Engine, history::HistoryEvent, history::HistoryQuery};
use futures::StreamExt as _;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header::CONTENT_TYPE, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{convert::Infallible, fmt::Write as _};

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

const INDEX: &str = "\
/debug/vars            command line and figures of the process, as JSON
/debug/pprof/cmdline   the command line
/debug/pprof/threads   threads: state, CPU ticks, where they wait
/debug/requests        builds under way and ended ones, the newest first
/debug/events          the same
/debug/cache/all       cache keys with their parts (JSON with Accept: application/json)
/debug/cache/lookup    ?digest=DIGEST: one cache key with its parts
/debug/cache/store     cache keys as JSON
/debug/gc              collects garbage by the configured rules
/metrics               Prometheus metrics
";

/// Answers requests on an open socket for as long as the process lives.
pub async fn serve(listener: Listener, engine: Engine, calls: RpcFigures) {
    let mut incoming = std::pin::pin!(listener.incoming());
    while let Some(Ok(connection)) = incoming.next().await {
        tokio::spawn(converse(connection, engine.clone(), calls.clone()));
    }
}

async fn converse(connection: Connection, engine: Engine, calls: RpcFigures) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (engine, calls) = (engine.clone(), calls.clone());
        async move {
            let accept = request.headers().get("accept").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
            let (method, uri) = (request.method().clone(), request.uri().clone());
            // Some answers read the database.
            let answer = tokio::task::spawn_blocking(move || {
                answer(&engine, &calls, &method, uri.path(), uri.query().unwrap_or_default(), &accept)
            });
            let answer =
                answer.await.unwrap_or_else(|e| Answer::new(StatusCode::INTERNAL_SERVER_ERROR, TEXT, e.to_string()));
            Ok::<_, Infallible>(answer.into_response())
        }
    });
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(connection), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection to the debugging address broke");
    }
}

struct Answer {
    status: StatusCode,
    kind: &'static str,
    body: String,
}

impl Answer {
    fn new(status: StatusCode, kind: &'static str, body: String) -> Self {
        Self { status, kind, body }
    }

    fn ok(kind: &'static str, body: String) -> Self {
        Self::new(StatusCode::OK, kind, body)
    }

    fn absent(why: &str) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, TEXT, format!("{why}\n"))
    }

    fn failed(status: StatusCode, error: &dyn std::fmt::Display) -> Self {
        Self::new(status, TEXT, format!("{error}\n"))
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::from(self.body)));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(self.kind));
        response
    }
}

fn answer(engine: &Engine, calls: &RpcFigures, method: &Method, path: &str, query: &str, accept: &str) -> Answer {
    match path {
        "/" | "/debug" | "/debug/" | "/debug/pprof" | "/debug/pprof/" => Answer::ok(TEXT, INDEX.to_owned()),
        "/metrics" => Answer::ok(metrics::CONTENT_TYPE, metrics::text(engine, calls)),
        "/debug/vars" => Answer::ok(JSON, variables(engine)),
        "/debug/pprof/cmdline" => Answer::ok(TEXT, command_line().join("\0")),
        "/debug/pprof/threads" => Answer::ok(TEXT, process::threads()),
        "/debug/requests" | "/debug/events" => Answer::ok(TEXT, requests(engine)),
        "/debug/cache/all" => keys(engine, accept == JSON),
        "/debug/cache/store" => keys(engine, true),
        "/debug/cache/lookup" => lookup(engine, query),
        "/debug/gc" => {
            engine.collect_garbage();
            Answer::ok(TEXT, String::new())
        }
        "/debug/cache/load" if method != Method::POST => {
            Answer::new(StatusCode::METHOD_NOT_ALLOWED, TEXT, "expected POST\n".to_owned())
        }
        "/debug/cache/load" => Answer::absent("keys are explained where they were made, they cannot be loaded"),
        path if path.starts_with("/debug/pprof/") || path.starts_with("/debug/flight/") => Answer::absent(
            "this program has no runtime that profiles itself; use `perf record -g -p PID` or /debug/pprof/threads",
        ),
        _ => Answer::new(StatusCode::NOT_FOUND, TEXT, format!("404 page not found\n\n{INDEX}")),
    }
}

fn command_line() -> Vec<String> {
    std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect()
}

fn variables(engine: &Engine) -> String {
    let figures = process::ProcessFigures::read();
    let variables = serde_json::json!({
        "cmdline": command_line(),
        "version": env!("CARGO_PKG_VERSION"),
        "builds": engine.active_builds(),
        "sessions": engine.sessions().count(),
        "tasks": tokio::runtime::Handle::try_current().map(|runtime| runtime.metrics().num_alive_tasks()).ok(),
        "process": {
            "cpuSeconds": figures.cpu_seconds,
            "residentBytes": figures.resident_bytes,
            "virtualBytes": figures.virtual_bytes,
            "openFiles": figures.open_files,
            "threads": figures.threads,
        },
    });
    format!("{variables:#}\n")
}

fn requests(engine: &Engine) -> String {
    let mut out = String::from("# build\tfrontend\tbegan\tended\tsteps\terror\n");
    let Ok(mut listener) = engine.history().listen(HistoryQuery::default()) else { return out };
    while let Some(event) = listener.present() {
        let (HistoryEvent::Started(record) | HistoryEvent::Completed(record)) = event else { continue };
        let time = |at: std::time::SystemTime| jiff::Timestamp::try_from(at).unwrap_or_default().to_string();
        let ended = record.completed.map_or_else(|| "-".to_owned(), time);
        let steps = format!("{}/{}", record.steps.completed, record.steps.total);
        let error = record.error.as_ref().map_or("", |e| e.message.lines().next().unwrap_or_default());
        let (id, frontend, began) = (&record.id, &record.frontend, time(record.created));
        writeln!(out, "{id}\t{frontend}\t{began}\t{ended}\t{steps}\t{error}").unwrap_or_default();
    }
    out
}

fn keys(engine: &Engine, json: bool) -> Answer {
    match engine.explain_keys() {
        Err(error) => Answer::failed(StatusCode::INTERNAL_SERVER_ERROR, &error),
        Ok(keys) if json => show_json(&keys),
        Ok(keys) => {
            let mut out = String::new();
            for key in keys {
                writeln!(out, "{}  {}\n  op {}", key.key, key.record.name, key.record.op).unwrap_or_default();
                for input in &key.record.inputs {
                    writeln!(out, "  input {input:?}").unwrap_or_default();
                }
                for definition in &key.definitions {
                    writeln!(out, "  defined by {definition}").unwrap_or_default();
                }
            }
            Answer::ok(TEXT, out)
        }
    }
}

fn lookup(engine: &Engine, query: &str) -> Answer {
    let digest = query.split('&').find_map(|pair| pair.strip_prefix("digest=")).unwrap_or_default();
    if digest.is_empty() {
        return Answer::failed(StatusCode::BAD_REQUEST, &"digest query parameter is required");
    }
    // A colon may come escaped.
    let digest = digest.replace("%3A", ":").replace("%3a", ":");
    match digest.parse().map(|digest| engine.explain_key(&digest)) {
        Err(error) => Answer::failed(StatusCode::BAD_REQUEST, &format!("invalid digest: {error}")),
        Ok(Err(error)) => Answer::failed(StatusCode::INTERNAL_SERVER_ERROR, &error),
        Ok(Ok(None)) => Answer::failed(StatusCode::NOT_FOUND, &format!("no cache key {digest}")),
        Ok(Ok(Some(key))) => show_json(&key),
    }
}

fn show_json(value: &impl serde::Serialize) -> Answer {
    match serde_json::to_string_pretty(value) {
        Ok(text) => Answer::ok(JSON, text + "\n"),
        Err(error) => Answer::failed(StatusCode::INTERNAL_SERVER_ERROR, &error),
    }
}
