//! Ordered environment lists, and what expansion asks of an environment.

use std::collections::HashMap;

/// Where expansion looks variables up.
pub trait Variables {
    /// The value of a variable; `None` if it is unset.
    fn get(&self, name: &str) -> Option<&str>;
}

/// No variables at all.
impl Variables for () {
    fn get(&self, _name: &str) -> Option<&str> {
        None
    }
}

/// Variables in the order in which they were first set.
#[derive(Debug, Clone, Default)]
pub struct Env {
    entries: Vec<(String, String)>,
    /// Place in `entries` of each name (folded if case is ignored).
    index: HashMap<String, usize>,
    ignore_case: bool,
}

impl PartialEq for Env {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries && self.ignore_case == other.ignore_case
    }
}

impl Eq for Env {}

impl Variables for Env {
    fn get(&self, name: &str) -> Option<&str> {
        Env::get(self, name)
    }
}

impl Env {
    /// An empty environment whose names distinguish case.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty environment whose names ignore case, as Windows does.
    pub fn ignoring_case() -> Self {
        Self { ignore_case: true, ..Self::default() }
    }

    /// Reads `KEY=value` strings; one without `=` is a variable with an empty value. Later ones win.
    pub fn from_list<S: AsRef<str>>(list: impl IntoIterator<Item = S>) -> Self {
        let mut env = Self::new();
        env.extend_list(list);
        env
    }

    /// Sets every `KEY=value` of a list.
    pub fn extend_list<S: AsRef<str>>(&mut self, list: impl IntoIterator<Item = S>) {
        for entry in list {
            let (name, value) = entry.as_ref().split_once('=').unwrap_or((entry.as_ref(), ""));
            self.set(name, value);
        }
    }

    /// Whether names are compared without case.
    pub fn ignores_case(&self) -> bool {
        self.ignore_case
    }

    fn position(&self, name: &str) -> Option<usize> {
        if self.ignore_case { self.index.get(&name.to_uppercase()) } else { self.index.get(name) }.copied()
    }

    fn key(&self, name: &str) -> String {
        if self.ignore_case { name.to_uppercase() } else { name.to_owned() }
    }

    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.position(name).map(|i| self.entries[i].1.as_str())
    }

    /// The value of a variable that was set by exactly this name, whatever the rules for case are.
    pub fn get_as_written(&self, name: &str) -> Option<&str> {
        let (written, value) = &self.entries[self.position(name)?];
        (written == name).then_some(value)
    }

    /// Whether a variable is set, be it to nothing.
    pub fn contains(&self, name: &str) -> bool {
        self.position(name).is_some()
    }

    /// Sets a variable; one that exists keeps its place and the spelling of its name.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let name = name.into();
        if let Some(i) = self.position(&name) {
            self.entries[i].1 = value.into();
        } else {
            self.index.insert(self.key(&name), self.entries.len());
            self.entries.push((name, value.into()));
        }
    }

    /// Takes a variable away; says whether it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        let Some(at) = self.position(name) else { return false };
        self.index.remove(&self.key(name));
        self.entries.remove(at);
        for place in self.index.values_mut() {
            *place -= usize::from(*place > at);
        }
        true
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Names in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(name, _)| name.as_str())
    }

    /// The list of `KEY=value` strings, in order.
    pub fn to_list(&self) -> Vec<String> {
        self.entries.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    /// Number of variables.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
