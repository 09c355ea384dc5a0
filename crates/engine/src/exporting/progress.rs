//! An export's steps as progress bars of its vertex.

use crate::progress::internal_step::Step;
use cooper_export::Progress;
use cooper_solver::StatusUpdate;
use parking_lot::Mutex;
use std::{collections::HashMap, time::SystemTime};

/// Shows steps under one vertex.
pub struct Bars {
    step: Step,
    started: Mutex<HashMap<String, SystemTime>>,
}

impl Bars {
    /// Bars of `step`.
    pub fn new(step: &Step) -> Self {
        Self { step: step.clone(), started: Mutex::default() }
    }

    fn show(&self, id: &str, current: u64, total: u64, completed: bool) {
        let started = *self.started.lock().entry(id.to_owned()).or_insert_with(SystemTime::now);
        self.step.update(StatusUpdate::bar(id, current, total, started, completed));
    }
}

impl Progress for Bars {
    fn started(&self, id: &str) {
        self.show(id, 0, 0, false);
    }
    fn advanced(&self, id: &str, current: u64, total: u64) {
        self.show(id, current, total, false);
    }
    fn finished(&self, id: &str, _success: bool) {
        self.show(id, 0, 0, true);
    }
}
