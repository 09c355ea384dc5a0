//! How long calls to the daemon take, and how they end: a layer around all services, and the figures that it collects.

use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use tonic::{
    Code,
    codegen::http::{HeaderMap, Request, Response},
};
use tower::{Layer, Service};

/// Upper bounds of the classes, in seconds: those of OpenTelemetry's convention.
const BOUNDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// Methods are counted apart up to this number: their names come from clients.
const MOST: usize = 256;
const OTHER: &str = "_OTHER";
const NAME: &str = "rpc_server_call_duration_seconds";

#[derive(Debug, Clone, Copy, Default)]
struct Histogram {
    within: [u64; BOUNDS.len()],
    count: u64,
    sum: f64,
}

/// Ended calls by method and outcome. Clones share the figures.
#[derive(Debug, Clone, Default)]
pub struct RpcFigures(Arc<Mutex<BTreeMap<(String, i32), Histogram>>>);

impl RpcFigures {
    fn count(&self, method: String, code: Code, elapsed: Duration) {
        let mut figures = self.0.lock();
        let mut key = (method, code as i32);
        if figures.len() >= MOST && !figures.contains_key(&key) {
            key.0 = OTHER.to_owned();
        }
        let histogram = figures.entry(key).or_default();
        let seconds = elapsed.as_secs_f64();
        histogram.count += 1;
        histogram.sum += seconds;
        for (within, bound) in histogram.within.iter_mut().zip(BOUNDS) {
            *within += u64::from(seconds <= bound);
        }
    }

    /// Adds the figures in Prometheus' text format.
    pub fn write(&self, out: &mut String) {
        let figures = self.0.lock().clone();
        let mut add = |line: std::fmt::Arguments<'_>| writeln!(out, "{line}").unwrap_or_default(); // memory has room
        add(format_args!("# HELP {NAME} How long calls to the daemon took.\n# TYPE {NAME} histogram"));
        for ((method, code), histogram) in figures {
            let labels = format!(
                "rpc_method=\"{method}\",rpc_response_status_code=\"{}\",rpc_system_name=\"grpc\"",
                code_name(code)
            );
            for (bound, within) in BOUNDS.iter().zip(histogram.within) {
                add(format_args!("{NAME}_bucket{{{labels},le=\"{bound}\"}} {within}"));
            }
            add(format_args!("{NAME}_bucket{{{labels},le=\"+Inf\"}} {}", histogram.count));
            add(format_args!("{NAME}_sum{{{labels}}} {}", histogram.sum));
            add(format_args!("{NAME}_count{{{labels}}} {}", histogram.count));
        }
    }
}

/// As the protocol's specification spells it: `NOT_FOUND`.
fn code_name(code: i32) -> String {
    if code == Code::Cancelled as i32 {
        return "CANCELLED".to_owned();
    }
    let mut name = String::new();
    for (i, letter) in format!("{:?}", Code::from_i32(code)).chars().enumerate() {
        if i > 0 && letter.is_uppercase() && code != Code::Ok as i32 {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// Puts [`RpcFigures`] around services.
#[derive(Debug, Clone)]
pub struct RpcLayer(pub RpcFigures);

impl<S> Layer<S> for RpcLayer {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, figures: self.0.clone() }
    }
}

/// A service whose calls are counted.
#[derive(Debug, Clone)]
pub struct Counted<S> {
    inner: S,
    figures: RpcFigures,
}

impl<S, B, R> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = Response<CountedBody<R>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut call = Call {
            figures: self.figures.clone(),
            method: method(request.uri().path()),
            began: Instant::now(),
            code: Code::Cancelled,
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = answer.await?;
            // Refusals have their status in front, everything else behind.
            call.take(response.headers());
            Ok(response.map(|body| CountedBody { body, call }))
        })
    }
}

/// `package.Service/Method`, in letters that a label may have.
fn method(path: &str) -> String {
    let path = path.trim_start_matches('/');
    let plain = path.len() < 120 && path.chars().all(|c| c.is_ascii_alphanumeric() || "._/".contains(c));
    if plain { path.to_owned() } else { OTHER.to_owned() }
}

/// A call under way; counted when it is dropped. One that is dropped before its status is known was cancelled.
struct Call {
    figures: RpcFigures,
    method: String,
    began: Instant,
    code: Code,
}

impl Call {
    fn take(&mut self, headers: &HeaderMap) {
        if let Some(code) = headers.get("grpc-status") {
            self.code = Code::from_bytes(code.as_bytes());
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.figures.count(std::mem::take(&mut self.method), self.code, self.began.elapsed());
    }
}

/// The answer of a call, which is over when its trailers are.
pub struct CountedBody<B> {
    body: B,
    call: Call,
}

impl<B: Body + Unpin> Body for CountedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            self.call.take(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_under_known_names() {
        let figures = RpcFigures::default();
        let ms = Duration::from_millis;
        for (path, code, elapsed) in [
            ("/moby.buildkit.v1.Control/Solve", Code::Ok, ms(300)),
            ("/moby.buildkit.v1.Control/Solve", Code::Ok, ms(3)),
            ("/moby.buildkit.v1.Control/Status", Code::NotFound, ms(1)),
            ("/\"quoted\"", Code::Cancelled, ms(1)),
        ] {
            figures.count(method(path), code, elapsed);
        }
        let mut out = String::new();
        figures.write(&mut out);
        let shown = |line: &&str| line.contains("_count") || line.contains("le=\"0.005\"");
        insta::assert_snapshot!(out.lines().filter(shown).collect::<Vec<_>>().join("\n"), @r#"
        rpc_server_call_duration_seconds_bucket{rpc_method="_OTHER",rpc_response_status_code="CANCELLED",rpc_system_name="grpc",le="0.005"} 1
        rpc_server_call_duration_seconds_count{rpc_method="_OTHER",rpc_response_status_code="CANCELLED",rpc_system_name="grpc"} 1
        rpc_server_call_duration_seconds_bucket{rpc_method="moby.buildkit.v1.Control/Solve",rpc_response_status_code="OK",rpc_system_name="grpc",le="0.005"} 1
        rpc_server_call_duration_seconds_count{rpc_method="moby.buildkit.v1.Control/Solve",rpc_response_status_code="OK",rpc_system_name="grpc"} 2
        rpc_server_call_duration_seconds_bucket{rpc_method="moby.buildkit.v1.Control/Status",rpc_response_status_code="NOT_FOUND",rpc_system_name="grpc",le="0.005"} 1
        rpc_server_call_duration_seconds_count{rpc_method="moby.buildkit.v1.Control/Status",rpc_response_status_code="NOT_FOUND",rpc_system_name="grpc"} 1
        "#);
    }

    #[test]
    fn clients_cannot_name_methods_without_end() {
        let figures = RpcFigures::default();
        for n in 0..2000 {
            figures.count(method(&format!("/a.B/C{n}")), Code::Unimplemented, Duration::ZERO);
        }
        assert!(figures.0.lock().len() <= MOST + 1);
    }
}
