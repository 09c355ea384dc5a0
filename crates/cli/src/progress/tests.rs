use cooper_wire::control::{Vertex, VertexLog, VertexStatus};
use cooper_wire::pb::ProgressGroup;
use prost_types::Timestamp;

use super::colors::Palette;
use super::*;

const MS: Nanos = 1_000_000;
/// The daemon's clock is this far behind ours.
const SKEW: Nanos = 500 * MS;

#[allow(clippy::unnecessary_wraps)] // what messages hold
fn at(ms: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds: ms / 1000, nanos: i32::try_from(ms % 1000 * MS).unwrap() })
}

fn vertex(name: &str, started: i64, completed: Option<i64>) -> Vertex {
    Vertex {
        digest: format!("sha256:{name}"),
        name: name.into(),
        started: at(started),
        completed: completed.and_then(at),
        ..Vertex::default()
    }
}

fn log(name: &str, ms: i64, text: &str) -> VertexLog {
    VertexLog { vertex: format!("sha256:{name}"), timestamp: at(ms), stream: 1, msg: text.into() }
}

fn bar(name: &str, id: &str, current: i64, total: i64, times: (i64, i64, Option<i64>)) -> VertexStatus {
    VertexStatus {
        id: id.into(),
        vertex: format!("sha256:{name}"),
        current,
        total,
        started: at(times.0),
        timestamp: at(times.1),
        completed: times.2.and_then(at),
        ..VertexStatus::default()
    }
}

fn vertexes(vertexes: &[Vertex]) -> StatusResponse {
    StatusResponse { vertexes: vertexes.to_vec(), ..StatusResponse::default() }
}

fn logs(logs: &[VertexLog]) -> StatusResponse {
    StatusResponse { logs: logs.to_vec(), ..StatusResponse::default() }
}

fn bars(statuses: &[VertexStatus]) -> StatusResponse {
    StatusResponse { statuses: statuses.to_vec(), ..StatusResponse::default() }
}

/// Everything that a log shows of messages that come at these times.
fn plain(messages: &[(i64, StatusResponse)]) -> String {
    let mut model = Model::new(Keep { lines: true, tail: PLAIN_TAIL });
    let mut renderer = plain::Plain::new(false);
    let mut out = Vec::new();
    let mut last = 0;
    for (ms, status) in messages {
        last = ms * MS + SKEW;
        model.apply(status, last);
        renderer.draw(&mut model, last, &mut out);
    }
    renderer.finish(&mut model, last, &mut out);
    String::from_utf8(out).unwrap()
}

/// The last frame of a live display, without the sequences that redraw it.
fn live(messages: &[(i64, StatusResponse)], now_ms: i64, done: bool) -> String {
    let mut model = Model::new(Keep { lines: false, tail: TTY_TAIL });
    for (ms, status) in messages {
        model.apply(status, ms * MS + SKEW);
    }
    let mut renderer = tty::Tty::sized(Palette::none(), 3, || (60, 20));
    let mut out = Vec::new();
    let now = now_ms * MS + SKEW;
    if done {
        renderer.finish(&mut model, now, &mut out);
    } else {
        renderer.draw(&mut model, now, &mut out);
    }
    let text = String::from_utf8(out).unwrap();
    ["\x1b[?25l", "\x1b[?25h", "\x1b[K", "\x1b[J"].iter().fold(text, |text, code| text.replace(code, ""))
}

fn ordinary_build() -> Vec<(i64, StatusResponse)> {
    let load = "[internal] load build definition from Dockerfile";
    let cached = Vertex { cached: true, ..vertex("[1/2] FROM docker.io/library/busybox", 60, Some(60)) };
    let run = "[2/2] RUN make";
    vec![
        (0, vertexes(&[vertex(load, 0, None)])),
        (10, bars(&[bar(load, "transferring dockerfile:", 31, 0, (0, 10, Some(10)))])),
        (40, vertexes(&[vertex(load, 0, Some(40))])),
        (60, vertexes(&[cached])),
        (100, vertexes(&[vertex(run, 100, None)])),
        (223, logs(&[log(run, 223, "compiling\nlink")])),
        (300, logs(&[log(run, 300, "ing\n")])),
        (12_100, logs(&[log(run, 12_100, "slow\n")])),
        (12_300, vertexes(&[vertex(run, 100, Some(12_300))])),
    ]
}

#[test]
fn plain_follows_an_ordinary_build() {
    insta::assert_snapshot!(plain(&ordinary_build()), @r"
    #1 [internal] load build definition from Dockerfile
    #1 transferring dockerfile: 31B done
    #1 DONE 0.0s

    #2 [1/2] FROM docker.io/library/busybox
    #2 CACHED

    #3 [2/2] RUN make
    #3 0.123 compiling
    #3 0.123 linking
    #3 12.00 slow
    #3 DONE 12.2s
    ");
}

#[test]
fn plain_repeats_the_output_of_a_failed_step() {
    let failed = Vertex { error: "process \"x\" did not complete".into(), ..vertex("[a] RUN x", 0, Some(500)) };
    let canceled = Vertex { error: "context canceled".into(), ..vertex("[b] RUN y", 0, Some(501)) };
    let numbered = (1..=12).fold(String::new(), |text, n| text + &format!("line {n}\n"));
    let text = plain(&[
        (0, vertexes(&[vertex("[a] RUN x", 0, None), vertex("[b] RUN y", 0, None)])),
        (100, logs(&[log("[a] RUN x", 100, &numbered), log("[a] RUN x", 100, "no end")])),
        (500, vertexes(&[failed, canceled])),
    ]);
    insta::assert_snapshot!(text);
}

#[test]
fn plain_switches_only_for_a_reason() {
    let (a, b) = ("[a] RUN loud", "[b] RUN quiet");
    let mut messages = vec![(0, vertexes(&[vertex(a, 0, None), vertex(b, 0, None)]))];
    for step in 1..=14 {
        messages.push((step * 1000, logs(&[log(a, step * 1000, &format!("loud {step}\n"))])));
        messages.push((step * 1000 + 1, logs(&[log(b, step * 1000, "quiet\n")])));
    }
    messages.push((15_000, vertexes(&[vertex(a, 0, Some(15_000)), vertex(b, 0, Some(15_001))])));
    insta::assert_snapshot!(plain(&messages));
}

#[test]
fn plain_repeats_bars_when_they_moved() {
    let push = "exporting to image";
    let transfer = |current, ms, end| bars(&[bar(push, "pushing layers", current, 100_000_000, (0, ms, end))]);
    let text = plain(&[
        (0, vertexes(&[vertex(push, 0, None)])),
        (100, transfer(1_000_000, 100, None)),
        (200, transfer(2_000_000, 200, None)),
        (300, transfer(12_345_678, 300, None)),
        (6_000, transfer(12_500_000, 6_000, None)),
        (7_000, transfer(100_000_000, 7_000, Some(7_000))),
        (7_001, vertexes(&[vertex(push, 0, Some(7_001))])),
    ]);
    insta::assert_snapshot!(text, @r"
    #1 exporting to image
    #1 pushing layers 1.00MB / 100.00MB 0.1s
    #1 pushing layers 12.35MB / 100.00MB 0.3s
    #1 pushing layers 12.50MB / 100.00MB 6.0s
    #1 pushing layers 100.00MB / 100.00MB 7.0s done
    #1 DONE 7.0s
    ");
}

#[test]
fn groups_are_one_step() {
    let member = |name: &str, weak, times: (i64, Option<i64>)| Vertex {
        progress_group: Some(ProgressGroup { id: "g".into(), name: "[a] COPY things".into(), weak }),
        ..vertex(name, times.0, times.1)
    };
    let text = plain(&[
        (0, vertexes(&[member("weak", true, (0, Some(10)))])),
        (20, vertexes(&[member("one", false, (20, None))])),
        (40, vertexes(&[member("two", false, (30, Some(60))), member("one", false, (20, Some(40)))])),
    ]);
    insta::assert_snapshot!(text, @r"
    #1 [a] COPY things
    #1 DONE 0.1s
    ");
}

#[test]
fn warnings_and_unknown_vertices() {
    let mut status = vertexes(&[vertex("a", 0, Some(1))]);
    let warning = |vertex: &str| VertexWarning {
        vertex: format!("sha256:{vertex}"),
        short: b"Rule: wrong (line 1)".to_vec(),
        ..VertexWarning::default()
    };
    status.warnings = vec![warning("a"), warning("nobody")];
    status.logs = vec![log("nobody", 0, "x\n")];
    insta::assert_snapshot!(plain(&[(0, status)]), @r"
    #1 a
    #1 WARN: Rule: wrong (line 1)
    #1 DONE 0.0s
    ");
}

#[test]
fn live_display_of_a_running_build() {
    let mut messages = ordinary_build();
    messages.truncate(7);
    let pull = "[x] FROM docker.io/library/debian";
    messages.push((400, vertexes(&[vertex(pull, 400, None)])));
    messages.push((2400, bars(&[bar(pull, "sha256:abc", 30_000_000, 50_000_000, (400, 2400, None))])));
    messages.push((2400, logs(&[log("[2/2] RUN make", 2400, "50%\r\x1b[32m60%\x1b[0m\tdone\n")])));
    insta::assert_snapshot!(live(&messages, 2400, false));
}

#[test]
fn live_display_at_the_end() {
    let mut messages = ordinary_build();
    let failed = Vertex { error: "boom".into(), ..vertex("[2/2] RUN make", 100, Some(12_300)) };
    messages.push((12_300, vertexes(&[failed])));
    insta::assert_snapshot!(live(&messages, 12_300, true));
}

#[test]
fn small_screens_keep_what_is_running() {
    let mut model = Model::new(Keep { lines: false, tail: 0 });
    let steps: Vec<_> = (0..30).map(|n| vertex(&format!("step {n}"), n, (n % 10 != 0).then_some(n + 1))).collect();
    model.apply(&vertexes(&steps), SKEW);
    let mut out = Vec::new();
    tty::Tty::sized(Palette::none(), 6, || (30, 8)).draw(&mut model, 1000 * MS + SKEW, &mut out);
    let text = String::from_utf8(out).unwrap().replace("\x1b[K", "");
    insta::assert_snapshot!(text.replace("\x1b[?25l", "").replace("\x1b[?25h", "").replace("\x1b[J", ""), @r"
    [+] Building 1.0s (27/30)
     => step 0                1.0s
     => step 10               1.0s
     => step 20               1.0s
     => step 27               0.0s
     => step 28               0.0s
     => step 29               0.0s
    ");
}

#[test]
fn rawjson_has_gos_names() {
    let mut status = vertexes(&[Vertex { cached: true, inputs: vec!["sha256:i".into()], ..vertex("a", 1500, None) }]);
    status.statuses = vec![bar("a", "b", 0, 0, (1, 2, None))];
    status.logs = vec![log("a", 3, "text\n")];
    let text = String::from_utf8(rawjson::line(&status)).unwrap();
    insta::assert_snapshot!(text, @r#"{"logs":[{"data":"dGV4dAo=","stream":1,"timestamp":"1970-01-01T00:00:00.003Z","vertex":"sha256:a"}],"statuses":[{"current":0,"id":"b","started":"1970-01-01T00:00:00.001Z","timestamp":"1970-01-01T00:00:00.002Z","vertex":"sha256:a"}],"vertexes":[{"cached":true,"digest":"sha256:a","inputs":["sha256:i"],"name":"a","started":"1970-01-01T00:00:01.5Z"}]}"#);
    assert_eq!(rawjson::line(&StatusResponse::default()), b"{}\n");
}

#[test]
fn modes() {
    for (flag, environment, terminal, expected) in [
        ("auto", None, true, "Ok(Tty)"),
        ("auto", None, false, "Ok(Plain)"),
        ("auto", Some("plain"), true, "Ok(Plain)"),
        ("auto", Some(""), true, "Ok(Tty)"),
        ("rawjson", Some("plain"), true, "Ok(RawJson)"),
        ("quiet", None, true, "Ok(Quiet)"),
        ("tty", None, false, "Err(NoTerminal)"),
        ("fancy", None, true, "Err(Unknown(\"fancy\"))"),
    ] {
        assert_eq!(format!("{:?}", Mode::parse(flag, environment, terminal)), expected, "{flag} {environment:?}");
    }
}

#[test]
fn palettes() {
    let env = |colors: &'static str, no_color: &'static str| {
        Palette::from_env(move |name| match name {
            "BUILDKIT_COLORS" => Some(colors.to_owned()),
            "NO_COLOR" => Some(no_color.to_owned()),
            _ => None,
        })
    };
    let palette = env("run=light-green:error=1,2,3:cancel=nonsense:strange=red", "");
    assert_eq!(palette.run, "\x1b[92m");
    assert_eq!(palette.error, "\x1b[38;2;1;2;3m");
    assert_eq!(palette.cancel, "\x1b[33m");
    assert_eq!(env("run=red", "1"), Palette::none());
}

/// Twenty thousand lines, three hundred steps: far below a second even without optimisation.
#[test]
fn large_builds_cost_little() {
    let started = Instant::now();
    let steps: Vec<_> = (0..300).map(|n| vertex(&format!("s{n}"), n, None)).collect();
    let mut messages = vec![(0, vertexes(&steps))];
    for batch in 0..200 {
        let lines: Vec<_> = (0..100).map(|n| log(&format!("s{}", n % 300), batch, "some line of output\n")).collect();
        messages.push((batch, logs(&lines)));
    }
    plain(&messages);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}
