//! Bounds on what one step may show to those who watch. Its record holds everything, up to a bound of its own.

use crate::domain::Build;
use bytes::Bytes;
use cooper_solver::{LogAudience, OpContext};
use parking_lot::Mutex;
use std::{collections::VecDeque, time::Instant};

/// Bytes of log per step when nothing else is set.
const MAX_SIZE: i64 = 2 << 20;
/// Bytes of log per second when nothing else is set.
const MAX_SPEED: i64 = 200 << 10;
/// Bytes kept back after the limit was reached, shown when the step ends.
const TAIL: usize = 256 << 10;
/// Bytes of a step's log that its record holds: a step that prints without end must not fill the disk.
const RECORDED: u64 = 1 << 30;

/// Counts what a step writes; what exceeds the limits is dropped except for the tail, and says so.
pub struct LogLimit {
    size: i64,
    speed: i64,
    state: Mutex<State>,
}

struct State {
    since: Instant,
    passed: i64,
    recorded: u64,
    clipped: Option<&'static str>,
    tail: VecDeque<(i32, Bytes)>,
    tail_bytes: usize,
}

impl LogLimit {
    /// Limits from `BUILDKIT_STEP_LOG_MAX_SIZE` and `BUILDKIT_STEP_LOG_MAX_SPEED`; -1 is unlimited.
    pub fn from_env() -> Self {
        let read = |name: &str, default| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
        Self::new(read("BUILDKIT_STEP_LOG_MAX_SIZE", MAX_SIZE), read("BUILDKIT_STEP_LOG_MAX_SPEED", MAX_SPEED))
    }

    fn new(size: i64, speed: i64) -> Self {
        let state = State {
            since: Instant::now(),
            passed: 0,
            recorded: 0,
            clipped: None,
            tail: VecDeque::new(),
            tail_bytes: 0,
        };
        Self { size, speed, state: Mutex::new(state) }
    }

    /// Passes `data` on, or keeps it back.
    pub fn write(&self, stream: i32, data: Bytes, cx: &OpContext<Build>) {
        let mut state = self.state.lock();
        let before = state.recorded;
        state.recorded += data.len() as u64;
        if state.clipped.is_none() {
            state.clipped = self.exceeded(&state, data.len() as i64);
            match state.clipped {
                None => {
                    state.passed += data.len() as i64;
                    return cx.log(stream, data);
                }
                Some(what) => {
                    let notice = format!("[output clipped, log limit {what} reached]\n");
                    cx.log_to(LogAudience::Watchers, stream, notice);
                }
            }
        }
        if state.recorded <= RECORDED {
            cx.log_to(LogAudience::Record, stream, data.clone());
        } else if before <= RECORDED {
            cx.log_to(LogAudience::Record, stream, "[output clipped, the record of the step is full]\n");
        }
        state.tail_bytes += data.len();
        state.tail.push_back((stream, data));
        while state.tail_bytes > TAIL {
            let Some((_, dropped)) = state.tail.pop_front() else { break };
            state.tail_bytes -= dropped.len();
        }
    }

    fn exceeded(&self, state: &State, more: i64) -> Option<&'static str> {
        if self.size >= 0 && state.passed + more > self.size {
            return Some("size");
        }
        // The first second's worth may come at once.
        let seconds = state.since.elapsed().as_secs() as i64 + 1;
        (self.speed >= 0 && state.passed + more > self.speed.saturating_mul(seconds)).then_some("speed")
    }

    /// Shows what was kept back last.
    pub fn finish(&self, cx: &OpContext<Build>) {
        let mut state = self.state.lock();
        for (stream, data) in state.tail.drain(..) {
            cx.log_to(LogAudience::Watchers, stream, data);
        }
    }
}
