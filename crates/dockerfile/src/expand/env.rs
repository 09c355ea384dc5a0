//! Ordered environment lists.

/// Variables in the order in which they were first set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Env {
    entries: Vec<(String, String)>,
    ignore_case: bool,
}

impl Env {
    /// An empty environment whose names distinguish case.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty environment whose names ignore case, as Windows does.
    pub fn ignoring_case() -> Self {
        Self { entries: Vec::new(), ignore_case: true }
    }

    /// Reads `KEY=value` lines; one without `=` is a variable with an empty value.
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
        let same = |own: &str| if self.ignore_case { own.eq_ignore_ascii_case(name) } else { own == name };
        self.entries.iter().position(|(own, _)| same(own))
    }

    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.position(name).map(|i| self.entries[i].1.as_str())
    }

    /// Sets a variable; one that exists keeps its place and the spelling of its name.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let name = name.into();
        match self.position(&name) {
            Some(i) => self.entries[i].1 = value.into(),
            None => self.entries.push((name, value.into())),
        }
    }

    /// Takes a variable away; says whether it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        let found = self.position(name);
        found.map(|i| self.entries.remove(i)).is_some()
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
