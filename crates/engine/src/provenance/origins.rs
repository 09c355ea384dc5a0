//! Which requests made which definitions, for as long as the builds run that made them: a result that a client hands
//! to another frontend as input is told with the request that it came from.

use cooper_attest::Origin;
use cooper_llb::pb;
use parking_lot::Mutex;
use prost::Message as _;
use std::collections::HashMap;

/// The requests behind the results of running builds.
#[derive(Debug, Default)]
pub struct Origins {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// By the digest of the op that makes the result.
    by_op: HashMap<String, Vec<(u64, Origin)>>,
}

impl Origins {
    /// Remembers what asked for a result until [`Self::forget`].
    pub fn remember(&self, definition: &pb::Definition, mut origin: Origin) -> Option<u64> {
        let op = head(definition)?;
        // The client's request is not the input's own.
        origin.request.root = None;
        let mut state = self.state.lock();
        let id = state.next;
        state.next += 1;
        state.by_op.entry(op).or_default().push((id, origin));
        Some(id)
    }

    /// Forgets what a build made.
    pub fn forget(&self, ids: &[u64]) {
        if ids.is_empty() {
            return;
        }
        self.state.lock().by_op.retain(|_, list| {
            list.retain(|(id, _)| !ids.contains(id));
            !list.is_empty()
        });
    }

    /// What asked for a result; none when nobody did, or different requests have the same result.
    pub fn find(&self, definition: &pb::Definition) -> Option<Origin> {
        let state = self.state.lock();
        let mut found = state.by_op.get(&head(definition)?)?.iter().map(|(_, origin)| origin);
        let first = found.next()?;
        found.all(|other| other == first).then(|| first.clone())
    }
}

/// The op whose output a definition is.
fn head(definition: &pb::Definition) -> Option<String> {
    let last = pb::Op::decode(definition.def.last()?.as_slice()).ok()?;
    Some(last.inputs.into_iter().next()?.digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(op: &str) -> pb::Definition {
        let inputs = vec![pb::Input { digest: op.to_owned(), index: 0 }];
        let last = pb::Op { inputs, ..pb::Op::default() };
        pb::Definition { def: vec![last.encode_to_vec()], ..pb::Definition::default() }
    }

    fn origin(frontend: &str) -> Origin {
        Origin::new(frontend, std::collections::BTreeMap::new(), &cooper_attest::Sources::default())
    }

    #[test]
    fn what_asked_is_known_while_it_is_one_and_runs() {
        let origins = Origins::default();
        let found = |op: &str| origins.find(&definition(op)).map(|o| o.request.frontend);
        let a = origins.remember(&definition("x"), origin("a")).unwrap();
        let again = origins.remember(&definition("x"), origin("a")).unwrap();
        assert_eq!((found("x").as_deref(), found("y")), (Some("a"), None));
        let b = origins.remember(&definition("x"), origin("b")).unwrap();
        assert_eq!(found("x"), None);
        origins.forget(&[a, again]);
        assert_eq!(found("x").as_deref(), Some("b"));
        origins.forget(&[b]);
        assert_eq!(found("x"), None);
        assert_eq!(origins.remember(&pb::Definition::default(), origin("a")), None);
    }
}
