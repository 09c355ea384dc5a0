//! What a target can be told: arguments, secrets, agents, cache mounts.

use super::stages::Stages;
use crate::source::Range;
use std::collections::{BTreeMap, BTreeSet};

/// What a target can be told, in the order of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outline {
    /// Name of the target's stage, if it has one.
    pub name: Option<String>,
    /// The comment above the stage.
    pub description: Option<String>,
    /// Arguments that the target or something it needs uses.
    pub args: Vec<OutlineArg>,
    /// Secrets that steps ask for.
    pub secrets: Vec<OutlineSecret>,
    /// Agents that steps ask for.
    pub ssh: Vec<OutlineSecret>,
    /// Directories that outlive the build.
    pub cache_mounts: Vec<OutlineCache>,
}

/// An argument.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutlineArg {
    /// Its name.
    pub name: String,
    /// The comment above it.
    pub description: Option<String>,
    /// Its value in this build.
    pub value: String,
    /// Where it is declared.
    pub ranges: Vec<Range>,
}

/// A secret or an agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutlineSecret {
    /// Its id.
    pub name: String,
    /// Whether a step fails without it.
    pub required: bool,
    /// Where it is first asked for.
    pub ranges: Vec<Range>,
}

/// A cache mount.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutlineCache {
    /// Its id.
    pub id: String,
    /// Where it is first asked for.
    pub ranges: Vec<Range>,
}

/// A declared argument.
#[derive(Debug, Clone, Default)]
pub(super) struct ArgInfo {
    pub(super) value: String,
    pub(super) description: Option<String>,
    /// Arguments that the value is made from.
    pub(super) deps: BTreeSet<String>,
    pub(super) ranges: Vec<Range>,
}

/// What one stage contributes.
#[derive(Debug, Clone, Default)]
pub(super) struct Capture {
    /// Arguments declared in the stage.
    pub(super) declared: BTreeMap<String, ArgInfo>,
    /// Arguments used by the stage.
    pub(super) used: BTreeSet<String>,
    /// Whether required, and where, by id.
    pub(super) secrets: BTreeMap<String, (bool, Vec<Range>)>,
    pub(super) ssh: BTreeMap<String, (bool, Vec<Range>)>,
    pub(super) caches: BTreeMap<String, Vec<Range>>,
}

/// Collects the contributions of `target` and of all that it needs.
pub(super) fn outline(stages: &Stages<'_>, globals: &BTreeMap<String, ArgInfo>, target: usize) -> Outline {
    let node = &stages.nodes[target];
    let mut out = Outline {
        name: node.stage.and_then(|stage| stage.name()).map(ToOwned::to_owned),
        description: node.stage.and_then(|stage| stage.description()).map(ToOwned::to_owned),
        ..Outline::default()
    };
    let mut args: BTreeMap<String, OutlineArg> = BTreeMap::new();
    for id in stages.nearest_first(target) {
        let capture = &stages.nodes[id].capture;
        for name in closure(capture, globals) {
            let Some(info) = capture.declared.get(&name).or_else(|| globals.get(&name)) else { continue };
            args.entry(name.clone()).or_insert_with(|| OutlineArg {
                name,
                description: info.description.clone(),
                value: info.value.clone(),
                ranges: info.ranges.clone(),
            });
        }
        for (list, found) in [(&mut out.secrets, &capture.secrets), (&mut out.ssh, &capture.ssh)] {
            for (name, (required, ranges)) in found {
                if !list.iter().any(|known| known.name == *name) {
                    list.push(OutlineSecret { name: name.clone(), required: *required, ranges: ranges.clone() });
                }
            }
        }
        for (id, ranges) in &capture.caches {
            if !out.cache_mounts.iter().any(|known| known.id == *id) {
                out.cache_mounts.push(OutlineCache { id: id.clone(), ranges: ranges.clone() });
            }
        }
    }
    let line = |ranges: &[Range]| ranges.first().map_or(0, |range| range.start.line);
    out.args = args.into_values().collect();
    out.args.sort_by_key(|arg| line(&arg.ranges));
    out.secrets.sort_by_key(|secret| line(&secret.ranges));
    out.ssh.sort_by_key(|secret| line(&secret.ranges));
    out.cache_mounts.sort_by_key(|cache| line(&cache.ranges));
    out
}

/// What a stage uses, and what the values of that are made from.
fn closure(capture: &Capture, globals: &BTreeMap<String, ArgInfo>) -> BTreeSet<String> {
    let mut done = BTreeSet::new();
    let mut open: Vec<String> = capture.used.iter().cloned().collect();
    while let Some(name) = open.pop() {
        if let Some(info) = capture.declared.get(&name).or_else(|| globals.get(&name)) {
            open.extend(info.deps.iter().filter(|dep| !done.contains(*dep)).cloned());
        }
        done.insert(name);
    }
    done
}
