//! The matching machine that every wildcard pattern compiles to.
//!
//! A program is a short list of steps over characters. Matching is backtracking with a memo of failed
//! positions once there is more than one loop, so hostile patterns cost at most
//! steps × length² and never explode.

/// One set of characters, as written between brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Class {
    pub negated: bool,
    /// Inclusive ranges; one that is upside down holds nothing.
    pub ranges: Vec<(char, char)>,
}

impl Class {
    fn holds(&self, c: char) -> bool {
        self.ranges.iter().any(|&(lo, hi)| lo <= c && c <= hi) != self.negated
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// These characters.
    Literal(String),
    /// One character other than `/`.
    NotSlash,
    /// One character of the set, which may hold `/`.
    One(Class),
    /// Any number of characters other than `/`.
    ManyNotSlash,
    /// Any number of characters of the set.
    Many(Class),
    /// Nothing, or whole leading directories up to and with a `/`. Never spans a line feed.
    Directories,
    /// Anything but line feeds, slashes too.
    Anything,
    /// Holds at the start of the text only.
    Start,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    steps: Vec<Step>,
    loops: usize,
    /// A loop whose following characters matched up to the next loop is not tried again, which Go's
    /// globs do and which shows where a bracket expression takes a `/`.
    commits: bool,
}

impl Program {
    pub fn new(steps: Vec<Step>, commits: bool) -> Self {
        let loops = steps
            .iter()
            .filter(|s| matches!(s, Step::ManyNotSlash | Step::Many(_) | Step::Directories | Step::Anything))
            .count();
        Self { steps, loops, commits }
    }

    /// Whether the whole of `text` matches.
    pub fn matches(&self, text: &str) -> bool {
        if let Some(Step::Literal(tail)) = self.steps.last()
            && !text.ends_with(tail.as_str())
        {
            return false; // what refuses most paths of a tree in one comparison
        }
        let mut run = Run {
            steps: &self.steps,
            text,
            failed: Vec::new(),
            memoise: self.loops > 1,
            commits: self.commits,
            entered: 0,
        };
        run.at(0, 0)
    }
}

struct Run<'a> {
    steps: &'a [Step],
    text: &'a str,
    /// One bit per (step, byte position) that is known not to lead to a match.
    failed: Vec<u64>,
    memoise: bool,
    commits: bool,
    /// How often a loop was entered.
    entered: usize,
}

impl Run<'_> {
    fn at(&mut self, mut step: usize, mut pos: usize) -> bool {
        loop {
            let rest = &self.text[pos..];
            let Some(current) = self.steps.get(step) else { return rest.is_empty() };
            let first = rest.chars().next();
            let taken = match current {
                Step::Literal(text) if rest.starts_with(text.as_str()) => text.len(),
                Step::Start if pos == 0 => 0,
                Step::NotSlash => match first {
                    Some(c) if c != '/' => c.len_utf8(),
                    _ => return false,
                },
                Step::One(class) => match first {
                    Some(c) if class.holds(c) => c.len_utf8(),
                    _ => return false,
                },
                Step::Literal(_) | Step::Start => return false,
                Step::ManyNotSlash | Step::Many(_) | Step::Directories | Step::Anything => {
                    return self.repeat(step, pos);
                }
            };
            pos += taken;
            step += 1;
        }
    }

    /// Tries every length of the loop at `step`, shortest first.
    fn repeat(&mut self, step: usize, pos: usize) -> bool {
        if self.memoise && self.known_to_fail(step, pos) {
            return false;
        }
        self.entered += 1;
        let steps = self.steps;
        let text = self.text;
        let last = step + 1 == steps.len();
        let matched = match &steps[step] {
            Step::ManyNotSlash if last => !text[pos..].contains('/'),
            Step::Anything if last => !text[pos..].contains('\n'),
            Step::ManyNotSlash => self.each_length(step, pos, |c| c != '/'),
            Step::Anything => self.each_length(step, pos, |c| c != '\n'),
            Step::Many(class) => self.each_length(step, pos, |c| class.holds(c)),
            Step::Directories => {
                let line = text[pos..].find('\n').map_or(text.len(), |at| pos + at);
                self.at(step + 1, pos)
                    || text[pos..line].match_indices('/').any(|(at, _)| self.at(step + 1, pos + at + 1))
            }
            _ => false,
        };
        if self.memoise && !matched {
            self.remember(step, pos);
        }
        matched
    }

    fn each_length(&mut self, step: usize, pos: usize, holds: impl Fn(char) -> bool) -> bool {
        let mut rest = self.text[pos..].chars();
        loop {
            let entered = self.entered;
            let matched = self.at(step + 1, self.text.len() - rest.as_str().len());
            if matched || (self.commits && self.entered > entered) {
                return matched;
            }
            if !rest.next().is_some_and(&holds) {
                return false;
            }
        }
    }

    fn bit(&self, step: usize, pos: usize) -> usize {
        step * (self.text.len() + 1) + pos
    }

    fn known_to_fail(&self, step: usize, pos: usize) -> bool {
        let bit = self.bit(step, pos);
        self.failed.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }

    fn remember(&mut self, step: usize, pos: usize) {
        let bit = self.bit(step, pos);
        if self.failed.is_empty() {
            self.failed = vec![0; (self.steps.len() * (self.text.len() + 1)).div_ceil(64)];
        }
        self.failed[bit / 64] |= 1 << (bit % 64);
    }
}
