//! The side of a build that an external frontend or a client drives: named refs, and a result that comes at the end.

use crate::{
    build_error::{BuildError, FailureClass},
    gateway::{
        attestation::Attestation,
        bridge::{Bridge, BuildResult, Ref, Refs},
        containers::GatewayContainer,
    },
    layers::{store::random_id, tree::Tree},
    progress::spool::unnamed_file,
};
use cooper_llb::pb;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    sync::Arc,
};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// What a driver of a build returns.
pub type Returned = Result<BuildResult, BuildError>;

/// A build whose frontend is on the other side of a connection.
pub struct Gateway {
    bridge: Bridge,
    inputs: BTreeMap<String, pb::Definition>,
    refs: Mutex<HashMap<String, Ref>>,
    /// What failed steps left.
    trees: Mutex<HashMap<String, Tree>>,
    containers: Mutex<HashMap<String, Arc<GatewayContainer>>>,
    result: Mutex<Option<oneshot::Sender<Returned>>>,
    /// Its driver can begin nothing any more.
    closed: CancellationToken,
}

impl Gateway {
    /// A gateway to `bridge`, and where its driver's result will arrive.
    pub fn new(bridge: Bridge, inputs: BTreeMap<String, pb::Definition>) -> (Arc<Self>, oneshot::Receiver<Returned>) {
        let (result, returned) = oneshot::channel();
        let gateway = Self {
            bridge,
            inputs,
            refs: Mutex::default(),
            trees: Mutex::default(),
            containers: Mutex::default(),
            result: Mutex::new(Some(result)),
            closed: CancellationToken::new(),
        };
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
        refs.extend(result.trees().into_iter().map(|r| (r.id().to_owned(), r.clone())));
    }

    /// A ref by id; the empty id is an empty tree.
    pub fn find(&self, id: &str) -> Result<Option<Ref>, BuildError> {
        if id.is_empty() {
            return Ok(None);
        }
        let found = self.refs.lock().get(id).cloned();
        found.map(Some).ok_or_else(|| BuildError::new(FailureClass::NotFound, format!("no ref {id} in this build")))
    }

    /// Makes what a failed step left known by ids, which the failure tells from then on.
    pub fn keep_remains(&self, error: &mut BuildError) {
        let Some(vertex) = &mut error.vertex else { return };
        let Some(remains) = &vertex.error.remains else { return };
        let mut trees = self.trees.lock();
        let mut keep = |tree: &Option<Tree>| match tree {
            None => String::new(),
            Some(tree) => {
                let id = random_id();
                trees.insert(id.clone(), tree.clone());
                id
            }
        };
        vertex.input_ids = remains.inputs.iter().map(&mut keep).collect();
        vertex.mount_ids = remains.mounts.iter().map(&mut keep).collect();
    }

    /// The file tree of an id: a ref, or what a failed step left. The empty id is an empty tree.
    pub async fn tree(&self, id: &str) -> Result<Tree, BuildError> {
        let kept = self.trees.lock().get(id).cloned();
        match kept {
            Some(tree) => Ok(tree),
            None => match self.find(id)? {
                Some(found) => found.evaluate().await,
                None => Ok(Tree::default()),
            },
        }
    }

    /// Makes a container known by an id, which must not be in use. There are no more once the build is over.
    pub fn add_container(&self, id: &str, container: Arc<GatewayContainer>) -> Result<(), BuildError> {
        let mut containers = self.containers.lock();
        // Whoever closes says so first and takes what is in here then.
        if self.closed.is_cancelled() {
            return Err(BuildError::cancelled());
        }
        match containers.entry(id.to_owned()) {
            Entry::Occupied(_) => {
                Err(BuildError::new(FailureClass::AlreadyExists, format!("Container {id} already exists")))
            }
            Entry::Vacant(place) => {
                place.insert(container);
                Ok(())
            }
        }
    }

    /// A container by id.
    pub fn container(&self, id: &str) -> Result<Arc<GatewayContainer>, BuildError> {
        let found = self.containers.lock().get(id).cloned();
        found.ok_or_else(|| {
            BuildError::new(FailureClass::NotFound, format!("container {id:?} previously released or not created"))
        })
    }

    /// Forgets a container. It ends with [`GatewayContainer::release`].
    pub fn remove_container(&self, id: &str) -> Result<Arc<GatewayContainer>, BuildError> {
        let found = self.containers.lock().remove(id);
        found.ok_or_else(|| BuildError::new(FailureClass::NotFound, format!("container details for {id} not found")))
    }

    /// Ends everything that the driver has left behind.
    pub async fn close(&self) {
        let left = self.let_go();
        futures::future::join_all(left.iter().map(|c| c.release())).await;
    }

    /// Ends with the build.
    pub fn closed(&self) -> CancellationToken {
        self.closed.clone()
    }

    /// Makes files without a name, for what does not fit into memory. Blocks when called.
    pub fn scratch_files(&self) -> impl Fn() -> std::io::Result<std::fs::File> + Send + Sync + use<> {
        let dir = self.bridge.worker().scratch.clone();
        move || unnamed_file(&dir)
    }

    /// Begins the end of everything that the driver has left behind.
    fn let_go(&self) -> Vec<Arc<GatewayContainer>> {
        self.closed.cancel();
        self.refs.lock().clear();
        self.trees.lock().clear();
        let left: Vec<_> = self.containers.lock().drain().map(|(_, c)| c).collect();
        left.iter().for_each(|c| c.cancel());
        left
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
        let typed = |(key, list): (String, Vec<cooper_wire::gateway::Attestation>)| {
            let list = list.into_iter().map(|a| Attestation::from_wire(a, |id| self.find(id)));
            Ok((key, list.collect::<Result<Vec<_>, BuildError>>()?))
        };
        let attestations = attestations.into_iter().map(typed).collect::<Result<_, BuildError>>()?;
        Ok(BuildResult { refs, metadata, attestations })
    }
}

/// Cleans up after a driver whichever way its build ends.
pub(crate) struct Driven(pub Arc<Gateway>);

impl Drop for Driven {
    fn drop(&mut self) {
        self.0.let_go();
    }
}
