//! Spans that clients sent, until the records of the builds that they belong to are complete.

use super::TraceId;
use cooper_wire::spans::{ResourceSpans, ScopeSpans};
use parking_lot::Mutex;
use prost::Message as _;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Bytes of spans that are kept for one trace.
const TRACE_BYTES: usize = 4 << 20;
/// Bytes of spans that are kept in all: programs of steps may send as much as they like.
const ALL_BYTES: usize = 16 << 20;
/// Traces for which spans are kept.
const TRACES: usize = 64;
/// Traces that nothing was heard of for so long make room for others first, and go in any case.
const PATIENCE: Duration = Duration::from_secs(60);

/// The spans, by trace.
#[derive(Default)]
pub struct Collected {
    traces: Mutex<HashMap<TraceId, Trace>>,
}

struct Trace {
    spans: Vec<ResourceSpans>,
    bytes: usize,
    last: Instant,
}

impl Collected {
    /// Sorts spans by trace and keeps them for a while.
    pub fn add(&self, spans: &[ResourceSpans]) {
        let mut traces = self.traces.lock();
        let now = Instant::now();
        for (trace, spans) in by_trace(spans) {
            let bytes = spans.encoded_len();
            make_room(&mut traces, &trace, bytes, now);
            let known = traces.entry(trace).or_insert(Trace { spans: Vec::new(), bytes: 0, last: now });
            known.last = now;
            if known.bytes + bytes <= TRACE_BYTES {
                known.bytes += bytes;
                known.spans.push(spans);
            }
        }
    }

    /// What came for a trace so far.
    pub fn of(&self, trace: &TraceId) -> Vec<ResourceSpans> {
        self.traces.lock().get(trace).map(|t| t.spans.clone()).unwrap_or_default()
    }
}

/// Drops what has waited longest, until there is room for so many bytes of a trace.
fn make_room(traces: &mut HashMap<TraceId, Trace>, wanted: &TraceId, bytes: usize, now: Instant) {
    traces.retain(|id, t| id == wanted || now.duration_since(t.last) < PATIENCE);
    loop {
        let full = !traces.contains_key(wanted) && traces.len() >= TRACES;
        if !full && traces.values().map(|t| t.bytes).sum::<usize>() + bytes <= ALL_BYTES {
            return;
        }
        let others = traces.iter().filter(|(id, _)| *id != wanted);
        let Some(oldest) = others.min_by_key(|(_, t)| t.last).map(|(id, _)| *id) else { return };
        traces.remove(&oldest);
    }
}

/// A client's message may hold spans of several traces.
fn by_trace(all: &[ResourceSpans]) -> HashMap<TraceId, ResourceSpans> {
    let mut found: HashMap<TraceId, ResourceSpans> = HashMap::new();
    for resource in all {
        for scope in &resource.scope_spans {
            let mut scopes: HashMap<TraceId, ScopeSpans> = HashMap::new();
            for span in &scope.spans {
                let Ok(trace) = TraceId::try_from(&*span.trace_id) else { continue };
                let empty = || ScopeSpans { spans: Vec::new(), ..scope.clone() };
                scopes.entry(trace).or_insert_with(empty).spans.push(span.clone());
            }
            for (trace, spans) in scopes {
                let empty = || ResourceSpans { scope_spans: Vec::new(), ..resource.clone() };
                found.entry(trace).or_insert_with(empty).scope_spans.push(spans);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use cooper_wire::spans::Span;

    fn message(traces: &[u8]) -> Vec<ResourceSpans> {
        let spans = traces.iter().map(|t| Span { trace_id: vec![*t; 16], ..Span::default() }).collect();
        let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
        vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }]
    }

    fn count(collected: &Collected, trace: u8) -> usize {
        collected.of(&[trace; 16]).iter().flat_map(|r| &r.scope_spans).map(|s| s.spans.len()).sum()
    }

    #[test]
    fn spans_are_sorted_by_trace() {
        let collected = Collected::default();
        collected.add(&message(&[1, 2, 1]));
        collected.add(&message(&[2]));
        assert_eq!([1, 2, 3].map(|t| count(&collected, t)), [2, 2, 0]);
    }

    #[test]
    fn traces_that_nobody_asks_for_do_not_pile_up() {
        let collected = Collected::default();
        for trace in 1..=200 {
            collected.add(&message(&[trace]));
        }
        assert_eq!(collected.traces.lock().len(), TRACES);
        assert_eq!(count(&collected, 200), 1);
    }
}
