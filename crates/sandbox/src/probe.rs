//! Finds out how well this process can shield others, by trying.

use crate::chroot::Chroot;
use crate::error::{Error, Result};
use crate::namespaces::Namespaces;
use crate::runtime::Runtime;
use crate::{Level, Sandbox, apparmor, userns};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How processes are to be shielded.
#[derive(Debug, Clone, Default)]
pub struct Isolation {
    /// The level; the best that works when none.
    pub level: Option<Level>,
    /// A program with the commands of runc that runs containers: a path, or a name to look up in `PATH`. None: nothing but
    /// this crate does.
    pub runtime: Option<PathBuf>,
    /// The profile of AppArmor by which processes are confined.
    pub apparmor: Option<String>,
}

/// What was tried, in order of preference.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// One entry per level that was tried.
    pub attempts: Vec<Attempt>,
    /// What the chosen level can't do here, one sentence each.
    pub shortcomings: Vec<String>,
}

/// One level.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Which.
    pub level: Level,
    /// Why it doesn't work, if it doesn't.
    pub refusal: Option<String>,
}

impl Report {
    /// For people: a line per level, and what is to be known of the one in use.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for Attempt { level, refusal } in &self.attempts {
            let _ = match refusal {
                None => writeln!(text, "{:<16} works", level.as_str()),
                Some(reason) => writeln!(text, "{:<16} does not work: {reason}", level.as_str()),
            };
        }
        for shortcoming in &self.shortcomings {
            let _ = writeln!(text, "note: {shortcoming}");
        }
        text
    }
}

/// Opens the best sandbox that works here, or the one that is `wanted`, with a state directory of its own.
///
/// A user namespace must have been entered before, by [`userns::enter`], since only a process without threads can.
///
/// # Errors
/// None works; the message says why for each. The runtime program or the profile that is asked for can't be used: nothing else
/// is tried in their place.
pub fn open(state: &Path, wanted: &Isolation) -> Result<(Arc<dyn Sandbox>, Report)> {
    let own = if userns::inside() { Level::UserNamespace } else { Level::Namespaces };
    let mut report = Report::default();
    let Isolation { level: wanted, runtime, apparmor } = wanted;
    let wanted = *wanted;
    if let Some(profile) = apparmor {
        apparmor::check(profile)?;
    }
    if let Some(binary) = runtime {
        return open_runtime(state, wanted, own, binary, apparmor.clone());
    }
    if own == Level::UserNamespace {
        let refusal = Some("this process is in a user namespace".to_owned());
        report.attempts.push(Attempt { level: Level::Namespaces, refusal });
    }
    if wanted.is_none_or(|wanted| wanted == own) {
        match Namespaces::confined(state, apparmor.clone()) {
            Ok(sandbox) => {
                report.attempts.push(Attempt { level: own, refusal: None });
                report.shortcomings = sandbox.shortcomings();
                return Ok((Arc::new(sandbox), report));
            }
            Err(error) => report.attempts.push(Attempt { level: own, refusal: Some(chain(&error)) }),
        }
        if own == Level::Namespaces {
            let refusal = userns::refusal().unwrap_or_else(|| "it was not entered at the start".to_owned());
            report.attempts.push(Attempt { level: Level::UserNamespace, refusal: Some(refusal) });
        }
    }
    if apparmor.is_some() {
        let refusal = Some("processes cannot be confined by AppArmor there".to_owned());
        report.attempts.push(Attempt { level: Level::Chroot, refusal });
    } else if wanted.is_none_or(|wanted| wanted == Level::Chroot) {
        match Chroot::open(state) {
            Ok(sandbox) => {
                report.attempts.push(Attempt { level: Level::Chroot, refusal: None });
                report.shortcomings = Chroot::shortcomings();
                return Ok((Arc::new(sandbox), report));
            }
            Err(error) => report.attempts.push(Attempt { level: Level::Chroot, refusal: Some(chain(&error)) }),
        }
    }
    Err(Error::NoLevel(report.text().trim_end().to_owned()))
}

/// Through a runtime program.
fn open_runtime(
    state: &Path,
    wanted: Option<Level>,
    own: Level,
    binary: &Path,
    apparmor: Option<String>,
) -> Result<(Arc<dyn Sandbox>, Report)> {
    if let Some(other) = wanted.filter(|wanted| *wanted != own) {
        return Err(Error::Invalid(format!(
            "{} runs build steps at the level {} here, not {}: name no runtime program, or ask for no other level",
            binary.display(),
            own.as_str(),
            other.as_str()
        )));
    }
    let sandbox = Runtime::open(state, binary, apparmor)?;
    let mut report = Report { shortcomings: sandbox.shortcomings(), ..Report::default() };
    report.attempts.push(Attempt { level: own, refusal: None });
    Ok((Arc::new(sandbox), report))
}

fn chain(error: &Error) -> String {
    error.to_string()
}
