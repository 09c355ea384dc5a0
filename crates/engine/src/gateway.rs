//! The side of a build that an external frontend or a client drives: named refs, and a result that comes at the end.

use crate::{
    bridge::{Bridge, BuildResult, Ref, Refs},
    build_error::{BuildError, FailureClass},
};
use cooper_llb::pb;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};
use tokio::sync::oneshot;

/// What a driver of a build returns.
pub type Returned = Result<BuildResult, BuildError>;

/// A build whose frontend is on the other side of a connection.
pub struct Gateway {
    bridge: Bridge,
    inputs: BTreeMap<String, pb::Definition>,
    refs: Mutex<HashMap<String, Ref>>,
    result: Mutex<Option<oneshot::Sender<Returned>>>,
}

impl Gateway {
    /// A gateway to `bridge`, and where its driver's result will arrive.
    pub fn new(bridge: Bridge, inputs: BTreeMap<String, pb::Definition>) -> (Arc<Self>, oneshot::Receiver<Returned>) {
        let (result, returned) = oneshot::channel();
        let gateway =
            Self { bridge, inputs, refs: Mutex::default(), result: Mutex::new(Some(result)) };
        (Arc::new(gateway), returned)
    }

    /// What the driver builds with.
    pub fn bridge(&self) -> &Bridge {
        &self.bridge
    }

    /// Definitions that the driver was given.
    pub fn inputs(&self) -> &BTreeMap<String, pb::Definition> {
        &self.inputs
    }

    /// Makes the refs of a result known by their ids.
    pub fn remember(&self, result: &BuildResult) {
        let mut refs = self.refs.lock();
        for (_, r) in result.refs.iter() {
            if let Some(r) = r {
                refs.insert(r.id().to_owned(), r.clone());
            }
        }
    }

    /// A ref by id; the empty id is an empty tree.
    pub fn find(&self, id: &str) -> Result<Option<Ref>, BuildError> {
        if id.is_empty() {
            return Ok(None);
        }
        let found = self.refs.lock().get(id).cloned();
        found.map(Some).ok_or_else(|| BuildError::new(FailureClass::NotFound, format!("no ref {id} in this build")))
    }

    /// Takes the driver's result. A second one is refused.
    pub fn finish(&self, returned: Returned) -> Result<(), BuildError> {
        let waiting = self.result.lock().take();
        let waiting = waiting.ok_or_else(|| {
            BuildError::new(FailureClass::InvalidArgument, "the result of this build was returned already")
        })?;
        waiting.send(returned).map_err(|_| BuildError::cancelled())
    }

    /// Ends the build without a result, when its driver is gone.
    pub fn abandon(&self) {
        if let Some(waiting) = self.result.lock().take() {
            waiting.send(Err(BuildError::refused("no result for incomplete build"))).ok();
        }
    }

    /// A result of refs by id.
    pub fn result(
        &self,
        single: Option<&str>,
        map: impl IntoIterator<Item = (String, String)>,
        metadata: BTreeMap<String, Vec<u8>>,
        attestations: BTreeMap<String, Vec<cooper_wire::gateway::Attestation>>,
    ) -> Result<BuildResult, BuildError> {
        let refs = match single {
            Some(id) => Refs::Single(self.find(id)?),
            None => {
                let map = map.into_iter().map(|(key, id)| Ok((key, self.find(&id)?)));
                let map = map.collect::<Result<BTreeMap<_, _>, BuildError>>()?;
                if map.is_empty() { Refs::Empty } else { Refs::Map(map) }
            }
        };
        Ok(BuildResult { refs, metadata, attestations })
    }
}
