//! Builds within a build: which wait for which, so that none waits for itself.

use cooper_llb::OpDigest;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};

/// The nested builds of one build: the build ops in the definition that each builds.
#[derive(Debug, Default)]
pub struct Nesting(Mutex<HashMap<OpDigest, HashSet<OpDigest>>>);

impl Nesting {
    /// Notes that `outer` needs all of `inner`; false when it would need itself.
    pub fn enter(&self, outer: &OpDigest, inner: HashSet<OpDigest>) -> bool {
        let mut known = self.0.lock();
        let (mut seen, mut queue) = (HashSet::new(), inner.iter().cloned().collect::<Vec<_>>());
        while let Some(next) = queue.pop() {
            if next == *outer {
                return false;
            }
            if seen.insert(next.clone()) {
                queue.extend(known.get(&next).into_iter().flatten().cloned());
            }
        }
        known.entry(outer.clone()).or_default().extend(inner);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cooper_oci::Digest;

    #[test]
    fn no_build_waits_for_itself() {
        let op = |name: &str| OpDigest(Digest::of(name));
        let nesting = Nesting::default();
        for (outer, inner, fine) in [
            ("a", vec!["b", "c"], true),
            ("b", vec!["c"], true),
            ("c", vec!["c"], false),
            ("c", vec!["a"], false),
            ("c", vec!["d"], true),
            ("d", vec!["e", "a"], false),
            ("d", vec![], true),
        ] {
            let inner: HashSet<_> = inner.iter().map(|name| op(name)).collect();
            assert_eq!(nesting.enter(&op(outer), inner.clone()), fine, "{outer}");
        }
    }
}
