//! `/metrics`: the state of the builder in Prometheus' text format, under the names that BuildKit's dashboards know.
#![expect(clippy::cast_precision_loss, reason = "the format knows floating point numbers alone")]

use super::{RpcFigures, process::ProcessFigures};
use cooper_engine::{
    Engine,
    history::{BuildStatistics, DURATION_BOUNDS},
};
use std::fmt::Write as _;
use tonic::Code;

/// Media type of the answer.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Everything, as of now.
pub fn text(engine: &Engine, calls: &RpcFigures) -> String {
    let mut out = String::new();
    builds(&mut out, &engine.history().statistics());
    calls.write(&mut out);
    process(&mut out, &ProcessFigures::read());
    out
}

fn builds(out: &mut String, statistics: &BuildStatistics) {
    family(out, "buildkit_builds_total", "counter", "Builds that have ended, by outcome and gRPC code.");
    for (code, count) in &statistics.builds {
        let labels = match code {
            0 => "status=\"success\"".to_owned(),
            code => format!("error_code=\"{:?}\",status=\"failure\"", Code::from_i32(*code)),
        };
        line(out, "buildkit_builds_total", &labels, *count as f64);
    }
    family(out, "buildkit_builds_steps_total", "counter", "Steps of ended builds, by kind.");
    let steps = &statistics.steps;
    for (kind, count) in
        [("cached", steps.cached), ("completed", steps.completed), ("total", steps.total), ("warnings", steps.warnings)]
    {
        line(out, "buildkit_builds_steps_total", &format!("kind=\"{kind}\""), count as f64);
    }
    let name = "buildkit_build_duration_seconds";
    family(out, name, "histogram", "How long builds took.");
    for (durations, status) in statistics.durations.iter().zip(["success", "failure"]) {
        if durations.count == 0 {
            continue;
        }
        let status = format!("status=\"{status}\"");
        for (bound, within) in DURATION_BOUNDS.iter().zip(durations.within) {
            line(out, &format!("{name}_bucket"), &format!("{status},le=\"{bound}\""), within as f64);
        }
        line(out, &format!("{name}_bucket"), &format!("{status},le=\"+Inf\""), durations.count as f64);
        line(out, &format!("{name}_sum"), &status, durations.sum);
        line(out, &format!("{name}_count"), &status, durations.count as f64);
    }
    family(out, "buildkit_builds_running", "gauge", "Builds under way.");
    line(out, "buildkit_builds_running", "", statistics.running as f64);
}

fn process(out: &mut String, figures: &ProcessFigures) {
    let whole = |value: Option<u64>| value.map(|v| v as f64);
    for (name, kind, help, value) in [
        ("process_cpu_seconds_total", "counter", "User and system time.", figures.cpu_seconds),
        ("process_resident_memory_bytes", "gauge", "Memory in use.", whole(figures.resident_bytes)),
        ("process_virtual_memory_bytes", "gauge", "Address space.", whole(figures.virtual_bytes)),
        ("process_open_fds", "gauge", "Open file descriptors.", whole(figures.open_files)),
        ("process_max_fds", "gauge", "Most file descriptors that may be open.", whole(figures.max_files)),
        ("process_threads", "gauge", "Threads.", whole(figures.threads)),
        ("process_start_time_seconds", "gauge", "When the process began, since the epoch.", figures.start),
    ] {
        if let Some(value) = value {
            family(out, name, kind, help);
            line(out, name, "", value);
        }
    }
}

fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}").unwrap_or_default(); // a string never runs out of space
}

fn line(out: &mut String, name: &str, labels: &str, value: f64) {
    let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
    writeln!(out, "{name}{labels} {value}").unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;
    use cooper_engine::history::{Durations, StepCounts};

    #[test]
    fn builds_are_counted_under_known_names() {
        let statistics = BuildStatistics {
            builds: [(0, 3), (2, 1)].into(),
            steps: StepCounts { total: 9, cached: 2, completed: 8, warnings: 1 },
            durations: [Durations { within: [1; 12], count: 3, sum: 4.5 }, Durations::default()],
            running: 1,
        };
        let mut out = String::new();
        builds(&mut out, &statistics);
        let lines: Vec<&str> = out.lines().filter(|l| !l.starts_with('#') && !l.contains("le=\"3")).collect();
        insta::assert_snapshot!(lines.join("\n"), @r#"
        buildkit_builds_total{status="success"} 3
        buildkit_builds_total{error_code="Unknown",status="failure"} 1
        buildkit_builds_steps_total{kind="cached"} 2
        buildkit_builds_steps_total{kind="completed"} 8
        buildkit_builds_steps_total{kind="total"} 9
        buildkit_builds_steps_total{kind="warnings"} 1
        buildkit_build_duration_seconds_bucket{status="success",le="0.1"} 1
        buildkit_build_duration_seconds_bucket{status="success",le="0.25"} 1
        buildkit_build_duration_seconds_bucket{status="success",le="0.5"} 1
        buildkit_build_duration_seconds_bucket{status="success",le="1"} 1
        buildkit_build_duration_seconds_bucket{status="success",le="2.5"} 1
        buildkit_build_duration_seconds_bucket{status="success",le="5"} 1
        buildkit_build_duration_seconds_bucket{status="success",le="10"} 1
        buildkit_build_duration_seconds_bucket{status="success",le="60"} 1
        buildkit_build_duration_seconds_bucket{status="success",le="900"} 1
        buildkit_build_duration_seconds_bucket{status="success",le="+Inf"} 3
        buildkit_build_duration_seconds_sum{status="success"} 4.5
        buildkit_build_duration_seconds_count{status="success"} 3
        buildkit_builds_running 1
        "#);
    }
}
