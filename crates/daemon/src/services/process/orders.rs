//! Signals and terminal sizes for a process, whether it runs already or not.
//!
//! What comes before the process runs is kept as the kernel keeps it: one size, the last, and each signal once.

use cooper_engine::{BuildError, containers::ProcessControl};
use parking_lot::Mutex;

/// What a client orders.
#[derive(Default)]
pub struct Orders(Mutex<State>);

enum State {
    Waiting {
        /// Rows and columns.
        size: Option<(u32, u32)>,
        /// A bit per number, the lowest for number 1.
        signals: u64,
    },
    Running(ProcessControl),
    Over,
}

impl Default for State {
    fn default() -> Self {
        Self::Waiting { size: None, signals: 0 }
    }
}

impl Orders {
    /// Tells the terminal its size.
    pub fn resize(&self, rows: u32, cols: u32) {
        match &mut *self.0.lock() {
            State::Waiting { size, .. } => *size = Some((rows, cols)),
            State::Running(process) => told(process.resize(rows, cols)),
            State::Over => {}
        }
    }

    /// Sends the signal of a number from 1 to 64.
    pub fn signal(&self, number: i32) {
        match &mut *self.0.lock() {
            State::Waiting { signals, .. } => *signals |= 1 << (number - 1),
            State::Running(process) => told(process.signal(number)),
            State::Over => {}
        }
    }

    /// The size that was told so far: rows and columns.
    pub fn size(&self) -> (u32, u32) {
        match &*self.0.lock() {
            State::Waiting { size: Some(size), .. } => *size,
            _ => (0, 0),
        }
    }

    /// The process runs, and gets what came before.
    pub fn begin(&self, process: ProcessControl) {
        let mut state = self.0.lock();
        if let State::Waiting { size, signals } = &*state {
            if let Some((rows, cols)) = *size {
                told(process.resize(rows, cols));
            }
            for number in numbers(*signals) {
                told(process.signal(number));
            }
        }
        *state = State::Running(process);
    }

    /// The process has ended, or will not start.
    pub fn end(&self) {
        *self.0.lock() = State::Over;
    }
}

fn numbers(signals: u64) -> impl Iterator<Item = i32> {
    (1..=64).filter(move |number| signals & 1 << (number - 1) != 0)
}

/// Who orders is not told of failures: the process may be about to end.
fn told(outcome: Result<(), BuildError>) {
    if let Err(error) = outcome {
        tracing::debug!(%error, "an order for a process came to nothing");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_early_is_kept_in_little_room() {
        let orders = Orders::default();
        for n in 1..=1000 {
            orders.resize(n, 2 * n);
            for number in [64, 15, 1] {
                orders.signal(number);
            }
        }
        assert_eq!(orders.size(), (1000, 2000));
        let State::Waiting { signals, .. } = *orders.0.lock() else { panic!("it runs") };
        assert_eq!(numbers(signals).collect::<Vec<_>>(), [1, 15, 64]);
        orders.end();
        orders.signal(9);
        assert_eq!(orders.size(), (0, 0));
    }
}
