//! Spans of programs in steps. A step of a traced build finds, in its environment, which span it is part of
//! (`TRACEPARENT`, as W3C trace contexts are written) and where a collector listens (the variables of OpenTelemetry's
//! exporter specification); the collector's socket is a mount of the step.

use crate::{history::TraceContext, worker::Worker};
use cooper_sandbox::{ContainerMount, Level, MountKind};
use std::{
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};
use tokio::net::UnixListener;

/// Where a step finds the socket.
const PLACE: &str = "/dev/otel-grpc.sock";
/// The socket, below the scratch directory.
const SOCKET: &str = "otel-grpc.sock";
/// Every user of a step may send spans.
const MODE: u32 = 0o666;

/// Listens for the spans of steps. Whoever serves the protocol there notes the path with the worker.
pub(crate) fn listen(scratch: &Path) -> io::Result<(PathBuf, UnixListener)> {
    let path = scratch.join(SOCKET);
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(MODE))?;
    Ok((path, listener))
}

/// What a container of a traced build is given.
#[derive(Debug, Clone)]
pub(crate) struct StepTrace {
    socket: PathBuf,
    parent: TraceContext,
}

impl StepTrace {
    /// For what runs within a span; `None` where nothing takes spans, or nobody traces the build.
    pub fn within(worker: &Worker, parent: Option<TraceContext>) -> Option<Self> {
        let socket = worker.trace_socket.get()?.clone();
        // A socket has no place in a tree that is all that a step sees of the machine, if it is on another file system.
        let placed = worker.sandbox.level() != Level::Chroot;
        Some(Self { socket, parent: parent.filter(|_| placed)? })
    }

    /// The socket.
    pub fn mount(&self) -> ContainerMount {
        ContainerMount { dest: PLACE.into(), kind: MountKind::Host { source: self.socket.clone() }, readonly: true }
    }

    /// Adds the variables that the step does not set itself.
    pub fn add_to(&self, env: &mut Vec<String>) {
        for (name, value) in [
            ("OTEL_TRACES_EXPORTER", "otlp"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &format!("unix://{PLACE}")),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
            ("TRACEPARENT", &self.parent.to_string()),
        ] {
            if !env.iter().any(|entry| entry.split_once('=').is_some_and(|(known, _)| known == name)) {
                env.push(format!("{name}={value}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_the_step_stay() {
        let parent = TraceContext::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").unwrap();
        let trace = StepTrace { socket: "/s".into(), parent };
        let with = |env: &[&str]| {
            let mut env: Vec<String> = env.iter().map(|&entry| entry.to_owned()).collect();
            trace.add_to(&mut env);
            env.join("\n")
        };
        insta::assert_snapshot!(with(&["PATH=/bin"]), @r"
        PATH=/bin
        OTEL_TRACES_EXPORTER=otlp
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=unix:///dev/otel-grpc.sock
        OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=grpc
        TRACEPARENT=00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
        ");
        insta::assert_snapshot!(with(&["OTEL_TRACES_EXPORTER=none", "TRACEPARENT="]), @r"
        OTEL_TRACES_EXPORTER=none
        TRACEPARENT=
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=unix:///dev/otel-grpc.sock
        OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=grpc
        ");
    }
}
