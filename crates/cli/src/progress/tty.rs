//! Live progress: the whole list of steps, redrawn in place.

use std::fmt::Write as _;
use std::io::Write as _;

use unicode_width::UnicodeWidthChar as _;

use super::colors::Palette;
use super::model::{Bar, Model, Nanos, Step, seconds};
use super::{Renderer, error_tails};
use crate::units::Bytes;

const RESET: &str = "\x1b[0m";
/// Below this much room for a name, a line says nothing and is left out.
const MIN_NAME: usize = 12;
/// Cells of a transfer bar.
const BAR_CELLS: usize = 10;
/// A rate of less time than this says little.
const RATE_AFTER: Nanos = 500_000_000;
/// Shorter times are noise.
const MIN_SHOWN: Nanos = 50_000_000;

/// State of the screen.
pub struct Tty {
    palette: Palette,
    log_lines: usize,
    size: fn() -> (usize, usize),
    drawn_rows: usize,
}

impl Tty {
    /// `log_lines`: output lines shown under a running step.
    pub fn new(palette: Palette, log_lines: usize) -> Self {
        Self { palette, log_lines, size: terminal_size, drawn_rows: 0 }
    }

    /// A display of fixed size, for tests.
    #[cfg(test)]
    pub fn sized(palette: Palette, log_lines: usize, size: fn() -> (usize, usize)) -> Self {
        Self { palette, log_lines, size, drawn_rows: 0 }
    }
}

/// Columns and rows of the terminal on standard error.
fn terminal_size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(std::io::stderr()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => (80, 10),
    }
}

/// One row of the list.
struct Row {
    left: String,
    /// The same in fewer and fewer words; the first that fits is shown.
    statuses: Vec<String>,
    elapsed: Nanos,
    tone: Tone,
    /// Rows of running things are the last to be dropped on a small screen.
    running: bool,
    /// A line of a step's output: no timer.
    output: bool,
}

#[derive(Clone, Copy)]
enum Tone {
    Plain,
    Done,
    Canceled,
    Failed,
    Faint,
}

impl Renderer for Tty {
    fn draw(&mut self, model: &mut Model, now: Nanos, out: &mut Vec<u8>) {
        model.take_changed();
        self.frame(model, now, false, out);
    }

    fn finish(&mut self, model: &mut Model, now: Nanos, out: &mut Vec<u8>) {
        self.frame(model, now, true, out);
        error_tails(model, out);
    }
}

impl Tty {
    fn frame(&mut self, model: &Model, now: Nanos, last: bool, out: &mut Vec<u8>) {
        let (width, height) = (self.size)();
        let (done, all) = model.counts();
        let elapsed = seconds(now - model.start().unwrap_or(now));
        let finished = if last && done == all && all > 0 { " FINISHED" } else { "" };
        let header = format!("[+] Building {elapsed:.1}s ({done}/{all}){finished}");

        let mut rows = self.rows(model, now - model.clock_offset(), height, last);
        if !last {
            drop_rows(&mut rows, height.saturating_sub(2));
        }
        let mut text = String::from("\x1b[?25l");
        if self.drawn_rows > 0 {
            let _ = write!(text, "\x1b[{}A\r", self.drawn_rows);
        }
        text.push_str(&cut(&header, width));
        text.push_str("\x1b[K\n");
        let mut drawn = 1;
        for row in &rows {
            if let Some(line) = row.line(width) {
                let color = match row.tone {
                    Tone::Plain => "",
                    Tone::Done => &self.palette.run,
                    Tone::Canceled => &self.palette.cancel,
                    Tone::Failed => &self.palette.error,
                    Tone::Faint => &self.palette.faint,
                };
                let reset = if color.is_empty() { "" } else { RESET };
                let _ = writeln!(text, "{color}{line}{reset}\x1b[K");
                drawn += 1;
            }
        }
        text.push_str("\x1b[J\x1b[?25h");
        self.drawn_rows = if last { 0 } else { drawn };
        let _ = out.write_all(text.as_bytes());
    }

    fn rows(&self, model: &Model, now: Nanos, height: usize, last: bool) -> Vec<Row> {
        let steps: Vec<&Step> = model.started.iter().map(|&id| &model.steps[id]).collect();
        let busy = steps.iter().filter(|step| !step.is_completed()).count();
        // Output is shown where there is room for a block of it besides the steps themselves.
        let mut room = height.saturating_sub(2 + busy);
        let mut with_output = vec![false; steps.len()];
        if !last {
            for (index, step) in steps.iter().enumerate().rev() {
                if !step.is_completed() && !step.log.tail.is_empty() && room > self.log_lines + 3 {
                    with_output[index] = true;
                    room -= self.log_lines + 3;
                }
            }
        }
        let mut rows = Vec::new();
        for (step, with_output) in steps.iter().zip(with_output) {
            rows.push(step_row(step, now));
            rows.extend(step.bars.iter().filter_map(|bar| bar_row(bar, now)));
            rows.extend(step.warnings.iter().map(|warning| Row {
                left: format!(" => WARN: {}", printable(warning.as_bytes())),
                statuses: Vec::new(),
                elapsed: step.elapsed(now),
                tone: Tone::Canceled,
                running: false,
                output: false,
            }));
            if with_output {
                let skip = step.log.tail.len().saturating_sub(self.log_lines);
                rows.extend(step.log.tail.iter().skip(skip).map(|line| Row {
                    left: format!(" => => # {}", printable(unstamped(line))),
                    statuses: Vec::new(),
                    elapsed: 0,
                    tone: Tone::Faint,
                    running: true,
                    output: true,
                }));
            }
        }
        rows
    }
}

fn step_row(step: &Step, now: Nanos) -> Row {
    let completed = step.is_completed();
    let (prefix, tone) = if step.is_canceled() {
        ("CANCELED ", Tone::Canceled)
    } else if step.is_failed() {
        ("ERROR ", Tone::Failed)
    } else if step.cached {
        ("CACHED ", Tone::Done)
    } else {
        ("", if completed { Tone::Done } else { Tone::Plain })
    };
    Row {
        left: format!(" => {prefix}{}", printable(step.name.as_bytes())),
        statuses: Vec::new(),
        elapsed: step.elapsed(now),
        tone,
        running: !completed,
        output: false,
    }
}

fn bar_row(bar: &Bar, now: Nanos) -> Option<Row> {
    let started = bar.started?;
    let running = bar.completed.is_none();
    let elapsed = bar.completed.unwrap_or(now).saturating_sub(started).max(0);
    let amount = match (bar.current, bar.total) {
        (0, 0) => String::new(),
        (current, 0) => Bytes(current).to_string(),
        (current, total) => format!("{} / {}", Bytes(current), Bytes(total)),
    };
    let mut statuses = Vec::new();
    if running && bar.current > 0 && elapsed > RATE_AFTER {
        let rate = i128::from(bar.current) * 1_000_000_000 / i128::from(elapsed);
        let rate = format!("{amount} {}/s", Bytes(i64::try_from(rate).unwrap_or(i64::MAX)));
        if bar.total > 0 {
            statuses.push(format!("{}{rate}", gauge(bar.current, bar.total)));
        }
        statuses.push(rate);
    }
    statuses.push(amount);
    let tone = if running { Tone::Plain } else { Tone::Done };
    Some(Row {
        left: format!(" => => {}", printable(bar.id.as_bytes())),
        statuses,
        elapsed,
        tone,
        running,
        output: false,
    })
}

/// `[====>     ] `.
fn gauge(current: i64, total: i64) -> String {
    let filled = usize::try_from(i128::from(current.max(0)) * BAR_CELLS as i128 / i128::from(total)).unwrap_or(0);
    let filled = filled.min(BAR_CELLS);
    let head = if filled < BAR_CELLS { ">" } else { "" };
    format!("[{:<BAR_CELLS$}] ", format!("{}{head}", "=".repeat(filled)))
}

impl Row {
    /// The text, cut to the width: name on the left, then status, timer on the right.
    fn line(&self, width: usize) -> Option<String> {
        if self.output {
            return Some(cut(&self.left, width));
        }
        let elapsed = if self.elapsed < MIN_SHOWN { 0 } else { self.elapsed };
        let timer = format!(" {:.1}s", seconds(elapsed));
        let mut room = width.checked_sub(timer.len() + 1)?;
        let fits = |status: &&String| !status.is_empty() && room > status.len() + MIN_NAME;
        let status = self.statuses.iter().find(fits).map_or_else(String::new, |status| format!(" {status}"));
        room -= status.len();
        if room < MIN_NAME {
            return None;
        }
        let left = cut(&self.left, room);
        let text = format!("{left}{status}");
        let pad = width.saturating_sub(columns(&text) + timer.len());
        Some(format!("{text}{:pad$}{timer}", ""))
    }
}

/// Drops rows of finished things from the top, then whatever is left over.
fn drop_rows(rows: &mut Vec<Row>, limit: usize) {
    let mut excess = rows.len().saturating_sub(limit);
    rows.retain(|row| {
        let dropped = excess > 0 && !row.running;
        excess -= usize::from(dropped);
        !dropped
    });
    rows.drain(..rows.len().saturating_sub(limit));
}

/// Output lines carry their time for the log display; the live one has no use for it.
fn unstamped(line: &[u8]) -> &[u8] {
    line.iter().position(|byte| *byte == b' ').map_or(line, |space| &line[space + 1..])
}

/// What a terminal may safely be given: the text after the last carriage return, tabs as blanks, no
/// escape sequences, no other control characters.
fn printable(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let text = text.trim_end_matches('\r');
    let text = text.rsplit_once('\r').map_or(text, |(_, after)| after);
    let mut clean = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\t' => clean.push_str("    "),
            '\x1b' => skip_escape(&mut chars),
            c if c.is_control() => {}
            c => clean.push(c),
        }
    }
    clean
}

fn skip_escape(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match chars.next() {
        // CSI: parameters, then one final byte from @ to ~.
        Some('[') => drop(chars.find(|c| ('@'..='~').contains(c))),
        // OSC: until BEL or the string terminator.
        Some(']') => {
            while let Some(c) = chars.next() {
                if c == '\x07' || (c == '\x1b' && chars.next_if_eq(&'\\').is_some()) {
                    break;
                }
            }
        }
        _ => {}
    }
}

fn columns(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

fn cut(text: &str, limit: usize) -> String {
    let mut used = 0;
    let fits = |c: &char| {
        used += c.width().unwrap_or(0);
        used <= limit
    };
    text.chars().take_while(fits).collect()
}
