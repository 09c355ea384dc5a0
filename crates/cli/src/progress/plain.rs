//! Progress as a log: one step's lines at a time, switching between steps without flicker.
//!
//! The layout is what people's scripts already parse: `#1 [internal] …`, `#1 DONE 0.1s`, `#2 CACHED`.

use std::collections::HashMap;
use std::io::Write as _;

use super::model::{Bar, Model, Nanos, Step, StepId, seconds};
use super::{Renderer, error_tails};
use crate::units::Bytes;

const SECOND: Nanos = 1_000_000_000;
/// A step that is being followed is not left for a while, the longer the larger its share of the events.
const ANTI_FLICKER: Nanos = 5 * SECOND;
/// Nobody waits longer than this to be shown.
const MAX_DELAY: Nanos = 10 * SECOND;
/// A bar is repeated when it moved by this share …
const MIN_PROGRESS: f64 = 0.05;
/// … or after this time.
const MIN_PAUSE: Nanos = 5 * SECOND;

/// State of the screen.
pub struct Plain {
    current: Option<StepId>,
    numbers: HashMap<StepId, usize>,
    warnings_shown: HashMap<StepId, usize>,
    bars_shown: HashMap<String, (i64, Nanos)>,
    name_limit: Option<usize>,
    anything_shown: bool,
}

impl Plain {
    /// `truncate`: names are cut at 72 characters.
    pub fn new(truncate: bool) -> Self {
        Self {
            current: None,
            numbers: HashMap::new(),
            warnings_shown: HashMap::new(),
            bars_shown: HashMap::new(),
            name_limit: truncate.then_some(72),
            anything_shown: false,
        }
    }
}

impl Renderer for Plain {
    fn draw(&mut self, model: &mut Model, now: Nanos, out: &mut Vec<u8>) {
        let changed = model.take_changed();
        let (mut completed, mut running): (Vec<_>, Vec<_>) =
            changed.into_iter().filter(|&id| !model.steps[id].hidden).partition(|&id| model.steps[id].is_completed());

        // What is over is told first: the current step, then the others in order of their end.
        let current_completed = self.current.filter(|id| completed.contains(id));
        completed.sort_by_key(|&id| (Some(id) != current_completed, model.steps[id].last_stop()));
        for id in completed {
            self.show(model, id, out);
        }

        if running.is_empty() {
            if self.current.is_none()
                && let Some(open) = (0..model.steps.len()).find(|&id| {
                    let step = &model.steps[id];
                    step.is_started() && !step.is_completed() && !step.hidden
                })
            {
                self.show(model, open, out);
            }
            return;
        }
        if let Some(current) = self.current.filter(|id| running.contains(id)) {
            self.show(model, current, out);
            running.retain(|&id| id != current);
        }
        let next = self.next_to_follow(model, &running, now);
        if let Some(next) = next {
            self.show(model, next, out);
            running.retain(|&id| id != next);
        }
        for id in running {
            model.keep_changed(id);
        }
    }

    fn finish(&mut self, model: &mut Model, now: Nanos, out: &mut Vec<u8>) {
        self.draw(model, now, out);
        // Whoever never got its turn is told now.
        for id in model.take_changed() {
            if !model.steps[id].hidden {
                self.show(model, id, out);
            }
        }
        error_tails(model, out);
    }
}

impl Plain {
    /// Which step to turn to, if any: whoever waited too long, or the busiest one once the current had its share.
    fn next_to_follow(&self, model: &Model, running: &[StepId], now: Nanos) -> Option<StepId> {
        let waited = |id: StepId| now.saturating_sub(model.steps[id].activity.since);
        #[allow(clippy::cast_precision_loss)]
        let speed = |id: StepId| f64::from(model.steps[id].activity.count) / (waited(id).max(1) as f64 / SECOND as f64);
        // Of equally busy ones, the first.
        let busiest = running.iter().rev().copied().max_by(|&a, &b| speed(a).total_cmp(&speed(b)))?;
        let Some(current) = self.current else { return Some(busiest) };
        if let Some(&starved) = running.iter().find(|&&id| waited(id) > MAX_DELAY) {
            return Some(starved);
        }
        let all: f64 = running.iter().map(|&id| speed(id)).sum::<f64>() + speed(current);
        let share = speed(current) / all;
        let turn = seconds(ANTI_FLICKER) / (1.0 - share);
        (turn < seconds(waited(current))).then_some(busiest)
    }

    fn show(&mut self, model: &mut Model, id: StepId, out: &mut Vec<u8>) {
        let fresh = self.numbers.len() + 1;
        let number = *self.numbers.entry(id).or_insert(fresh);
        if self.current != Some(id) {
            self.leave_current(model, out);
            let step = &model.steps[id];
            if std::mem::replace(&mut self.anything_shown, true) {
                out.push(b'\n');
            }
            let name = match self.name_limit.and_then(|limit| step.name.char_indices().nth(limit)) {
                Some((end, _)) => format!("{}...", &step.name[..end]),
                None => step.name.clone(),
            };
            let _ = writeln!(out, "#{number} {name}");
        }
        let step = &mut model.steps[id];
        let bar_open = self.show_bars(step, number, out);
        let shown = self.warnings_shown.entry(id).or_default();
        for warning in &step.warnings[*shown..] {
            let _ = writeln!(out, "#{number} WARN: {warning}");
        }
        *shown = step.warnings.len();
        show_lines(step, number, out);

        self.current = Some(id);
        // Remote cache imports report bars of steps that are not running.
        if step.is_completed() && !bar_open {
            self.current = None;
            step.activity.count = 0;
            if step.log.open {
                out.push(b'\n');
                step.log.open = false;
                step.log.take_shown();
            }
            show_end(step, number, out);
        }
    }

    fn leave_current(&mut self, model: &mut Model, out: &mut Vec<u8>) {
        let Some(old) = self.current.take() else { return };
        let step = &mut model.steps[old];
        if step.log.open && step.log.shown > 0 {
            out.push(b'\n');
        }
        step.log.shown = 0;
        step.activity.count = 0;
        let _ = writeln!(out, "#{} ...", self.numbers[&old]);
    }

    /// Returns whether a bar that was printed is still moving.
    fn show_bars(&mut self, step: &mut Step, number: usize, out: &mut Vec<u8>) -> bool {
        let mut open = false;
        for bar in step.bars.iter_mut().filter(|bar| bar.updated && bar.started.is_some()) {
            bar.updated = false;
            if bar.completed.is_none() && !self.moved_enough(bar) {
                continue;
            }
            self.bars_shown.insert(bar.id.clone(), (bar.current, bar.timestamp));
            let _ = write!(out, "#{number} {}", bar.id);
            if bar.total != 0 {
                let _ = write!(out, " {} / {}", Bytes(bar.current), Bytes(bar.total));
            } else if bar.current != 0 {
                let _ = write!(out, " {}", Bytes(bar.current));
            }
            let end = bar.completed.unwrap_or(bar.timestamp);
            let elapsed = seconds(end - bar.started.unwrap_or(end));
            if elapsed > 0.01 {
                let _ = write!(out, " {elapsed:.1}s");
            }
            out.extend_from_slice(if bar.completed.is_some() { b" done\n" } else { b"\n" });
            open |= bar.completed.is_none();
        }
        open
    }

    #[allow(clippy::cast_precision_loss)]
    fn moved_enough(&self, bar: &Bar) -> bool {
        let Some(&(current, timestamp)) = self.bars_shown.get(&bar.id) else { return true };
        let progress = if bar.total > 0 { (bar.current - current) as f64 / bar.total as f64 } else { 0.0 };
        progress >= MIN_PROGRESS || bar.timestamp - timestamp >= MIN_PAUSE
    }
}

fn show_lines(step: &mut Step, number: usize, out: &mut Vec<u8>) {
    let log = &mut step.log;
    let last = log.lines.len().saturating_sub(1);
    for (index, line) in log.lines.iter().enumerate() {
        if index == 0 && log.shown > 0 {
            out.extend_from_slice(&line[log.shown..]);
        } else {
            let _ = write!(out, "#{number} ");
            out.extend_from_slice(line);
        }
        if index != last || !log.open {
            out.push(b'\n');
        }
    }
    log.take_shown();
}

fn show_end(step: &Step, number: usize, out: &mut Vec<u8>) {
    let _ = if step.is_canceled() {
        writeln!(out, "#{number} CANCELED")
    } else if step.is_failed() {
        writeln!(out, "#{number} ERROR: {}", step.error)
    } else if step.cached {
        writeln!(out, "#{number} CACHED")
    } else {
        writeln!(out, "#{number} DONE {:.1}s", seconds(step.elapsed(0)))
    };
}
