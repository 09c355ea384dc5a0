//! What is known about a running build, gathered from status messages. Draws nothing, reads no clock.
//!
//! Times are nanoseconds since the epoch by the daemon's clock; [`Model::clock_offset`] is what to add
//! for this machine's.

use std::collections::{HashMap, VecDeque};

use cooper_wire::control::{StatusResponse, Vertex, VertexLog, VertexStatus};

/// Nanoseconds since the epoch.
pub type Nanos = i64;

/// Index into [`Model::steps`].
pub type StepId = usize;

/// Which log lines a renderer needs.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// Every line, until the renderer takes it.
    pub lines: bool,
    /// So many of the last ones per step.
    pub tail: usize,
}

/// All steps of a build.
pub struct Model {
    /// In order of first mention.
    pub steps: Vec<Step>,
    /// Visible steps in the order in which they started.
    pub started: Vec<StepId>,
    /// Steps that changed since [`Model::take_changed`].
    changed: Vec<StepId>,
    by_digest: HashMap<String, StepId>,
    groups: HashMap<String, Group>,
    first_start: Option<Nanos>,
    clock_offset: Option<Nanos>,
    keep: Keep,
}

/// Members of a progress group; together they are one step.
#[derive(Default)]
struct Group {
    step: StepId,
    members: HashMap<String, Member>,
}

#[derive(Clone)]
struct Member {
    interval: Option<Interval>,
    cached: bool,
    weak: bool,
    error: String,
}

/// A time span; open while `stop` is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interval {
    /// Begin.
    pub start: Nanos,
    /// End, not before `start`.
    pub stop: Option<Nanos>,
}

/// One vertex, or one progress group.
#[derive(Debug, Default)]
pub struct Step {
    /// Display name.
    pub name: String,
    /// Result came from the cache.
    pub cached: bool,
    /// Empty unless it failed.
    pub error: String,
    /// Belongs to a group of which only weak members have started: not shown.
    pub hidden: bool,
    /// Progress bars in the order in which they started.
    pub bars: Vec<Bar>,
    /// Warnings' short texts.
    pub warnings: Vec<String>,
    /// Output.
    pub log: Log,
    /// Events since the renderer last reset it, and when the first of them came (local clock).
    pub activity: Activity,
    intervals: Vec<Interval>,
    merged: Vec<Interval>,
    dirty: bool,
}

/// How busy a step is; feeds the choice of the step to follow.
#[derive(Debug, Default, Clone, Copy)]
pub struct Activity {
    /// Events.
    pub count: u32,
    /// Local time of the first one.
    pub since: Nanos,
}

/// A progress bar of a step.
#[derive(Debug, Clone, Default)]
pub struct Bar {
    /// Identity within the step, and its text.
    pub id: String,
    /// Done so far, usually bytes.
    pub current: i64,
    /// All of it; 0 when unknown.
    pub total: i64,
    /// Time of this state.
    pub timestamp: Nanos,
    /// Absent bars are not shown.
    pub started: Option<Nanos>,
    /// Finished.
    pub completed: Option<Nanos>,
    /// Changed since the renderer last looked.
    pub updated: bool,
}

/// Output of a step, line by line, without line ends.
#[derive(Debug, Default)]
pub struct Log {
    /// Lines that the renderer has not taken; empty unless [`Keep::lines`].
    pub lines: Vec<Vec<u8>>,
    /// The last of `lines` has not ended.
    pub open: bool,
    /// Bytes of that open line that are on the screen already.
    pub shown: usize,
    /// The last lines, each with its time since the step's start.
    pub tail: VecDeque<Vec<u8>>,
    tail_open: bool,
}

impl Step {
    /// Has begun.
    pub fn is_started(&self) -> bool {
        !self.merged.is_empty()
    }

    /// Has begun and is not running now.
    pub fn is_completed(&self) -> bool {
        self.last_stop().is_some()
    }

    /// End of the most recent run.
    pub fn last_stop(&self) -> Option<Nanos> {
        self.merged.last()?.stop
    }

    /// Time spent, counting overlapping runs once.
    pub fn elapsed(&self, now: Nanos) -> Nanos {
        self.merged.iter().map(|i| i.stop.unwrap_or(now).saturating_sub(i.start).max(0)).sum()
    }

    /// Failed, or stopped because something else failed.
    pub fn is_canceled(&self) -> bool {
        self.error.ends_with("context canceled")
    }

    /// Failed by itself.
    pub fn is_failed(&self) -> bool {
        !self.error.is_empty() && !self.is_canceled()
    }

    fn record(&mut self, interval: Interval) -> bool {
        match self.intervals.iter_mut().find(|known| known.start == interval.start) {
            Some(known) if *known == interval => return false,
            Some(known) => *known = interval,
            None => self.intervals.push(interval),
        }
        self.merged = merge(&self.intervals);
        true
    }
}

/// Unites overlapping spans; an open one swallows everything after it.
fn merge(intervals: &[Interval]) -> Vec<Interval> {
    let mut sorted = intervals.to_vec();
    sorted.sort_unstable_by_key(|interval| interval.start);
    let mut merged: Vec<Interval> = Vec::with_capacity(sorted.len());
    for next in sorted {
        match merged.last_mut() {
            Some(Interval { stop: None, .. }) => break,
            Some(Interval { stop: Some(stop), .. }) if next.start <= *stop => match next.stop {
                None => merged.last_mut().expect("just matched").stop = None,
                Some(later) => *stop = later.max(*stop),
            },
            _ => merged.push(next),
        }
    }
    merged
}

impl Model {
    /// An empty build.
    pub fn new(keep: Keep) -> Self {
        Self {
            steps: Vec::new(),
            started: Vec::new(),
            changed: Vec::new(),
            by_digest: HashMap::new(),
            groups: HashMap::new(),
            first_start: None,
            clock_offset: None,
            keep,
        }
    }

    /// Takes in one message. `now` is the local time.
    pub fn apply(&mut self, status: &StatusResponse, now: Nanos) {
        let mut groups = Vec::new();
        for vertex in &status.vertexes {
            self.first_start = self.first_start.or_else(|| vertex.started.map(nanos));
            match &vertex.progress_group {
                Some(group) => {
                    self.apply_member(vertex, group);
                    if !groups.contains(&group.id) {
                        groups.push(group.id.clone());
                    }
                }
                None => self.apply_vertex(vertex, now),
            }
        }
        for id in groups {
            self.refresh_group(&id, now);
        }
        for bar in &status.statuses {
            self.apply_bar(bar, now);
        }
        for warning in &status.warnings {
            if let Some(&id) = self.by_digest.get(&warning.vertex) {
                self.steps[id].warnings.push(String::from_utf8_lossy(&warning.short).into_owned());
                self.touch(id, now);
            }
        }
        for log in &status.logs {
            self.apply_log(log, now);
        }
    }

    /// The steps that changed since the last call, each once.
    pub fn take_changed(&mut self) -> Vec<StepId> {
        for &id in &self.changed {
            self.steps[id].dirty = false;
        }
        std::mem::take(&mut self.changed)
    }

    /// Puts a step back among the changed ones.
    pub fn keep_changed(&mut self, id: StepId) {
        if !std::mem::replace(&mut self.steps[id].dirty, true) {
            self.changed.push(id);
        }
    }

    /// Local time minus the daemon's, as far as the first started step tells.
    pub fn clock_offset(&self) -> Nanos {
        self.clock_offset.unwrap_or(0)
    }

    /// Start of the build by the local clock.
    pub fn start(&self) -> Option<Nanos> {
        self.first_start.map(|start| start + self.clock_offset())
    }

    /// Completed and all steps, without hidden ones.
    pub fn counts(&self) -> (usize, usize) {
        let visible = self.steps.iter().filter(|step| !step.hidden);
        visible.fold((0, 0), |(done, all), step| (done + usize::from(step.is_completed()), all + 1))
    }

    /// Failed steps, in the order in which they started.
    pub fn failed(&self) -> impl Iterator<Item = &Step> {
        self.started.iter().map(|&id| &self.steps[id]).filter(|step| step.is_failed())
    }

    fn touch(&mut self, id: StepId, now: Nanos) {
        let activity = &mut self.steps[id].activity;
        if activity.count == 0 {
            activity.since = now;
        }
        activity.count += 1;
        self.keep_changed(id);
    }

    fn apply_vertex(&mut self, vertex: &Vertex, now: Nanos) {
        let id = *self.by_digest.entry(vertex.digest.clone()).or_insert_with(|| {
            self.steps.push(Step::default());
            self.steps.len() - 1
        });
        let step = &mut self.steps[id];
        let was_started = step.is_started();
        let mut changed = false;
        // A vertex is announced again without times when another build joins it; that resets nothing.
        if vertex.started.is_some() || !was_started {
            changed = step.name != vertex.name || step.cached != vertex.cached || step.error != vertex.error;
            step.name.clone_from(&vertex.name);
            step.cached = vertex.cached;
            step.error.clone_from(&vertex.error);
        }
        let Some(start) = vertex.started.map(nanos) else { return };
        changed |= step.record(Interval { start, stop: vertex.completed.map(nanos) });
        if !was_started {
            self.clock_offset.get_or_insert(now - start);
            self.started.push(id);
        }
        if changed {
            self.touch(id, now);
        }
    }

    fn apply_member(&mut self, vertex: &Vertex, progress: &cooper_wire::pb::ProgressGroup) {
        let steps = &mut self.steps;
        let group = self.groups.entry(progress.id.clone()).or_insert_with(|| {
            steps.push(Step { name: progress.name.clone(), hidden: true, ..Step::default() });
            Group { step: steps.len() - 1, members: HashMap::new() }
        });
        self.by_digest.insert(vertex.digest.clone(), group.step);
        let interval = vertex.started.map(|start| Interval { start: nanos(start), stop: vertex.completed.map(nanos) });
        let member = Member { interval, cached: vertex.cached, weak: progress.weak, error: vertex.error.clone() };
        group.members.insert(vertex.digest.clone(), member);
    }

    fn refresh_group(&mut self, group_id: &str, now: Nanos) {
        let group = &self.groups[group_id];
        let id = group.step;
        let step = &mut self.steps[id];
        let mut changed = false;
        for interval in group.members.values().filter_map(|member| member.interval) {
            changed |= step.record(interval);
        }
        let cached = group.members.values().all(|member| member.cached);
        let error = group.members.values().find(|m| !m.error.is_empty()).map_or("", |m| &m.error).to_owned();
        changed |= step.cached != cached || step.error != error;
        step.cached = cached;
        step.error = error;
        let revealed = step.hidden && group.members.values().any(|m| m.interval.is_some() && !m.weak);
        if revealed {
            step.hidden = false;
            self.clock_offset.get_or_insert(step.merged.last().map_or(0, |interval| now - interval.start));
            self.started.push(id);
        }
        if !self.steps[id].hidden && (changed || revealed) {
            self.touch(id, now);
        }
    }

    fn apply_bar(&mut self, status: &VertexStatus, now: Nanos) {
        let Some(&id) = self.by_digest.get(&status.vertex) else { return };
        let bars = &mut self.steps[id].bars;
        let bar = Bar {
            id: status.id.clone(),
            current: status.current,
            total: status.total,
            timestamp: status.timestamp.map_or(0, nanos),
            started: status.started.map(nanos),
            completed: status.completed.map(nanos),
            updated: true,
        };
        match bars.iter_mut().find(|known| known.id == bar.id) {
            Some(known) => *known = bar,
            None => bars.push(bar),
        }
        self.touch(id, now);
    }

    fn apply_log(&mut self, log: &VertexLog, now: Nanos) {
        let Some(&id) = self.by_digest.get(&log.vertex) else { return };
        if log.msg.is_empty() {
            return;
        }
        let step = &mut self.steps[id];
        let since_start = match step.merged.last() {
            Some(interval) => log.timestamp.map_or(0, nanos).saturating_sub(interval.start),
            None => 0,
        };
        step.log.push(&log.msg, since_start, self.keep);
        self.touch(id, now);
    }
}

impl Log {
    fn push(&mut self, text: &[u8], since_start: Nanos, keep: Keep) {
        let complete = text.last() == Some(&b'\n');
        let body = if complete { &text[..text.len() - 1] } else { text };
        for (index, piece) in body.split(|byte| *byte == b'\n').enumerate() {
            let continues = index == 0;
            if keep.lines {
                match self.lines.last_mut().filter(|_| continues && self.open) {
                    Some(line) => line.extend_from_slice(piece),
                    None => self.lines.push(stamped(piece, since_start)),
                }
            }
            if let Some(line) = self.tail.back_mut().filter(|_| continues && self.tail_open) {
                line.extend_from_slice(piece);
            } else {
                if self.tail.len() == keep.tail {
                    self.tail.pop_front();
                }
                self.tail.push_back(stamped(piece, since_start));
            }
        }
        self.open = !complete;
        self.tail_open = !complete;
    }

    /// Forgets the lines that were shown, except one that has not ended.
    pub fn take_shown(&mut self) {
        if self.open && !self.lines.is_empty() {
            self.lines.drain(..self.lines.len() - 1);
            self.shown = self.lines[0].len();
        } else {
            self.lines.clear();
            self.shown = 0;
        }
    }
}

/// `0.123 text`; precision shrinks as the number grows.
fn stamped(text: &[u8], since_start: Nanos) -> Vec<u8> {
    let seconds = seconds(since_start);
    let precision = match seconds {
        s if s < 10.0 => 3,
        s if s < 100.0 => 2,
        _ => 1,
    };
    let mut line = format!("{seconds:.precision$} ").into_bytes();
    line.extend_from_slice(text);
    line
}

/// Nanoseconds as seconds, for display.
#[allow(clippy::cast_precision_loss)] // a display of three digits
pub fn seconds(nanos: Nanos) -> f64 {
    nanos as f64 / 1e9
}

/// A protocol timestamp. Times beyond 2262 wrap; nobody builds then.
pub fn nanos(timestamp: prost_types::Timestamp) -> Nanos {
    timestamp.seconds.wrapping_mul(1_000_000_000).wrapping_add(i64::from(timestamp.nanos))
}
