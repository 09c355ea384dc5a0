//! Explanations that are worked out when their builds have returned, one at a time.

use super::compare::Unexplained;
use crate::history::History;
use parking_lot::Mutex;
use std::{collections::BTreeSet, sync::Arc};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

/// Builds whose facts wait in memory at most. Another one waits for room before it returns.
const MAX_WAITING: usize = 8;

/// The builds of one root directory that have returned, or are about to, without their explanation.
pub struct Explanations {
    builds: watch::Sender<BTreeSet<String>>,
    room: Arc<Semaphore>,
    /// Ends with the explanation that was begun last: they are worked out in the order of their builds, as later ones
    /// compare with what earlier ones keep.
    last: Mutex<Option<oneshot::Receiver<()>>>,
}

impl Default for Explanations {
    fn default() -> Self {
        Self {
            builds: watch::channel(BTreeSet::new()).0,
            room: Arc::new(Semaphore::new(MAX_WAITING)),
            last: Mutex::default(),
        }
    }
}

impl Explanations {
    /// Waits until the record of a build has its explanation, if there is to be one.
    pub async fn settled(&self, build: &str) {
        // Fails only when the sender is gone, which is here.
        self.builds.subscribe().wait_for(|builds| !builds.contains(build)).await.ok();
    }

    /// Waits until no build is without its explanation.
    pub async fn idle(&self) {
        self.builds.subscribe().wait_for(BTreeSet::is_empty).await.ok(); // as above
    }

    /// Announces the explanation of a build whose record is about to be complete.
    pub(crate) async fn announce(self: &Arc<Self>, build: &str, facts: Unexplained) -> Announced {
        let room = self.room.clone().acquire_owned().await.ok(); // closed nowhere
        self.builds.send_if_modified(|builds| builds.insert(build.to_owned()));
        Announced { explanations: self.clone(), build: build.to_owned(), facts: Some(facts), _room: room }
    }
}

/// A build whose explanation is wanted. Dropped, it does without.
pub(crate) struct Announced {
    explanations: Arc<Explanations>,
    build: String,
    facts: Option<Unexplained>,
    _room: Option<OwnedSemaphorePermit>,
}

impl Announced {
    /// Works out the explanation behind the build, and adds it to the record, which must be complete.
    pub fn begin(mut self, history: Arc<History>) {
        let Some(facts) = self.facts.take() else { return };
        let (ours, next) = oneshot::channel::<()>();
        let before = self.explanations.last.lock().replace(next);
        tokio::spawn(async move {
            if let Some(before) = before {
                before.await.ok(); // nothing is sent: it ends
            }
            let explained = facts.explain().await;
            drop(ours);
            if let Some(explanation) = explained {
                let build = self.build.clone();
                let added = tokio::task::spawn_blocking(move || history.explained(&build, &explanation)).await;
                if let Err(error) = added {
                    tracing::error!(%error, "keeping an explanation ended abnormally");
                }
            }
            drop(self);
        });
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        self.explanations.builds.send_if_modified(|builds| builds.remove(&self.build));
    }
}
