//! What is seen of builds besides their results: logs of ended builds, spans, metrics, failed steps.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cooper_testkit::{Daemon, Workshop, image, outcome};
use cooper_wire::control::{UpdateBuildHistoryRequest, control_client::ControlClient};
use cooper_wire::spans::{ResourceSpans, ScopeSpans, Span};
use cooper_wire::trace::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient};
use serde_json::Value;

use crate::hostile::channel;
use crate::workshop;

/// Everything that a step printed, as the record of the build has it.
fn replayed(shop: &Workshop, daemon: &Daemon, reference: &str) -> Vec<u8> {
    let logs = outcome(&mut shop.buildctl(daemon, &["debug", "logs", "--progress", "rawjson", reference])).ok();
    let mut bytes = Vec::new();
    let stdout = String::from_utf8_lossy(&logs.stdout);
    for message in logs.stderr.lines().chain(stdout.lines()).map(serde_json::from_str::<Value>) {
        let Ok(message) = message else { continue };
        for log in message["logs"].as_array().into_iter().flatten() {
            bytes.extend(STANDARD.decode(log["data"].as_str().unwrap_or_default()).unwrap());
        }
    }
    bytes
}

#[test]
fn the_whole_log_is_kept_where_watchers_see_a_part() {
    let shop = workshop();
    let daemon = shop.daemon();
    let context = shop.dockerfile("RUN --mount=type=secret,id=s seq 1 500000; cat /run/secrets/s\n");
    let reference = shop.path("ref");
    let build = outcome(
        shop.buildctl_build(&daemon, &context)
            .args(["--secret", "id=s,env=WORD", "--ref-file"])
            .arg(&reference)
            .env("WORD", "unspeakable"),
    )
    .ok();
    assert!(build.stderr.contains("[output clipped, log limit"), "nothing was clipped");
    let mut lines: Vec<String> = (1..=500_000).map(|n| n.to_string()).collect();
    lines.push("***".to_owned());
    let whole = lines.join("\n");
    let shown = replayed(&shop, &daemon, fs::read_to_string(&reference).unwrap().trim());
    assert!(shown == whole.as_bytes(), "{} bytes printed, {} replayed", whole.len(), shown.len());
}

/// What a step sees of the trace of its build, by variable.
fn traced(shop: &Workshop, daemon: &Daemon, lines: &str) -> (String, Vec<(String, String)>) {
    let context = shop.dockerfile(&format!(
        "{lines}RUN env | grep -e ^OTEL -e ^TRACE > /env; [ ! -S /dev/otel-grpc.sock ] || echo SOCKET= >> /env\n\
         FROM scratch\nCOPY --from=base /env /\n"
    ));
    let (out, reference) = (shop.path("traced"), shop.path("traced.ref"));
    let to = format!("type=local,dest={}", out.display());
    outcome(shop.buildctl_build(daemon, &context).args(["--no-cache", "--output", &to, "--ref-file"]).arg(&reference))
        .ok();
    let env = fs::read_to_string(out.join("env")).unwrap();
    let pairs = env.lines().map(|line| line.split_once('=').unwrap()).map(|(k, v)| (k.to_owned(), v.to_owned()));
    let mut pairs: Vec<_> = pairs.collect();
    pairs.sort();
    (fs::read_to_string(reference).unwrap().trim().to_owned(), pairs)
}

/// Programs in steps find a collector, and the span that theirs belong below; what they send is part of the build's trace.
#[tokio::test(flavor = "multi_thread")]
async fn spans_of_steps_belong_to_the_trace_of_their_build() {
    let shop = workshop();
    let daemon = shop.daemon();
    let (reference, seen) = traced(&shop, &daemon, "");
    let names: Vec<&str> = seen.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
            "OTEL_TRACES_EXPORTER",
            "SOCKET",
            "TRACEPARENT"
        ]
    );
    let parent: Vec<&str> = seen.last().unwrap().1.split('-').collect();
    let bytes =
        |hex: &str| (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect();
    // One is the socket that steps have, the other is for whoever knows its path.
    let sockets = [shop.path("state/tmp/otel-grpc.sock"), daemon.socket().with_extension("spans")];
    for (number, socket) in sockets.iter().enumerate() {
        let span = Span {
            trace_id: bytes(parent[1]),
            span_id: vec![number as u8 + 1; 8],
            parent_span_id: bytes(parent[2]),
            name: format!("compiling {number}"),
            ..Span::default()
        };
        let scope_spans = vec![ScopeSpans { spans: vec![span], ..ScopeSpans::default() }];
        let resource_spans = vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }];
        let mut collector = TraceServiceClient::new(channel(socket).await);
        collector.export(ExportTraceServiceRequest { resource_spans }).await.unwrap();
    }
    let finalize = UpdateBuildHistoryRequest { r#ref: reference.clone(), finalize: true, ..Default::default() };
    ControlClient::new(channel(daemon.socket()).await).update_build_history(finalize).await.unwrap();
    let trace = outcome(&mut shop.buildctl(&daemon, &["debug", "logs", "--trace", &reference])).ok().stdout;
    let spans = serde_json::Deserializer::from_slice(&trace).into_iter::<Value>().map(Result::unwrap);
    let below = spans.filter(|span| span["Parent"]["SpanID"] == parent[2]);
    let mut names: Vec<Value> = below.map(|span| span["Name"].clone()).collect();
    names.sort_by_key(Value::to_string);
    assert_eq!(names, ["compiling 0", "compiling 1"], "{}", String::from_utf8_lossy(&trace));

    // A step that wants none, or another collector, gets its way.
    let (_, seen) = traced(&shop, &daemon, "ENV OTEL_TRACES_EXPORTER=none\n");
    assert!(seen.contains(&("OTEL_TRACES_EXPORTER".to_owned(), "none".to_owned())), "{seen:?}");
}

/// The body of the answer.
pub fn get(socket: &Path, path: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: debug\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
}

#[test]
fn the_debugging_address_tells_what_was_built_and_why() {
    let shop = workshop();
    let (socket, debug) = (shop.path("d.sock"), shop.path("debug.sock"));
    let mut command = shop.daemon_command(&shop.path("state"), &socket);
    command.arg("--debugaddr").arg(format!("unix://{}", debug.display()));
    let daemon = Daemon::start(command, socket, shop.path("daemon.log"));
    outcome(&mut shop.build_with(&daemon, &shop.dockerfile("RUN echo one\n"))).ok();
    outcome(&mut shop.build_with(&daemon, &shop.dockerfile("RUN false\n"))).refused(&["exit code: 1"]);

    let metrics = get(&debug, "/metrics");
    for line in [
        "buildkit_builds_total{status=\"success\"} 1",
        "buildkit_builds_total{error_code=\"Unknown\",status=\"failure\"} 1",
        "buildkit_build_duration_seconds_count{status=\"success\"} 1",
        "# TYPE process_resident_memory_bytes gauge",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} is not in\n{metrics}");
    }
    let keys = get(&debug, "/debug/cache/all");
    let key = keys.lines().find(|line| line.contains("RUN echo one")).unwrap_or_else(|| panic!("{keys}"));
    let key = key.split_whitespace().next().unwrap();
    let explained: Value = serde_json::from_str(&get(&debug, &format!("/debug/cache/lookup?digest={key}"))).unwrap();
    assert_eq!(explained["inputs"].as_array().map(Vec::len), Some(1), "{explained}");
    assert!(get(&debug, "/debug/requests").lines().count() >= 3);
    serde_json::from_str::<Value>(&get(&debug, "/debug/vars")).unwrap();
}

/// What a shell in a failed step prints when it is told `input`.
fn look_into(shop: &Workshop, daemon: &Daemon, lines: &str, input: &str) -> String {
    let mut command = shop.build_with(daemon, &shop.dockerfile(lines));
    let mut build = command
        .arg("--on-error=shell")
        .env("COOPER_SHELL", image::busybox_binary())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    build.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = build.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && stderr.contains("exit code: 3"), "{stderr}");
    daemon.becomes_idle();
    format!("{}{stderr}", String::from_utf8_lossy(&output.stdout))
}

#[test]
fn a_failed_step_can_be_looked_into() {
    let shop = workshop();
    let daemon = shop.daemon();
    let step = "ENV WHO=me\nWORKDIR /work\nRUN --mount=type=cache,target=/kept \
                echo remains > left; echo cached > /kept/it; exit 3\n";
    let shown = look_into(&shop, &daemon, step, "cat left /kept/it; echo $WHO in $PWD; exit 7\n");
    assert!(shown.starts_with("remains\ncached\nme in /work\n"), "{shown}");
}

#[test]
fn a_failed_step_without_a_shell_is_looked_into_with_another() {
    let shop = workshop();
    let daemon = shop.daemon();
    let step = "RUN echo remains > /left; busybox rm -r /bin; exit 3\n";
    let shown = look_into(&shop, &daemon, step, "busybox cat /left; busybox ls /\n");
    assert!(shown.starts_with("remains\n") && !shown.contains("\nbin\n"), "{shown}");
}
