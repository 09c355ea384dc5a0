//! What is told of vertices, and to whom.

use super::{JobInner, Node};
use crate::{
    Domain, OpContext, SolveError, VertexUpdate,
    flight::{Audience, Member},
};
use cooper_oci::Digest;
use std::{
    sync::{Arc, atomic::Ordering},
    time::SystemTime,
};

impl<D: Domain> JobInner<D> {
    pub(super) fn member(&self, node: &Node<D>) -> Member<D> {
        Member {
            job: self.data.clone(),
            observer: self.observer.clone(),
            vertex: node.vertex.digest.clone(),
            name: node.vertex.name.clone(),
        }
    }

    /// A context for calls that are this build's alone.
    pub(super) fn context(&self, node: &Node<D>) -> OpContext<D> {
        let audience = Audience::new();
        audience.join(self.member(node));
        OpContext {
            vertex: node.vertex.digest.clone(),
            cancelled: self.cancel.clone(),
            audience: Arc::new(audience),
            loaded: self.shared.loaded.clone(),
        }
    }

    pub(super) fn report(&self, node: &Node<D>, started: Option<SystemTime>, cached: bool, error: Option<String>) {
        node.reported.store(true, Ordering::Relaxed);
        let completed = SystemTime::now();
        let vertex = node.vertex.digest.clone();
        let started = Some(started.unwrap_or(completed));
        self.observer.vertex(VertexUpdate { vertex, started, completed: Some(completed), cached, error });
    }

    /// Reports a failure at the vertex where it happened, not at those that wait for it.
    pub(super) fn failed(&self, node: &Node<D>, started: Option<SystemTime>, error: SolveError<D>) -> SolveError<D> {
        if matches!(&error, SolveError::Op { vertex, .. } if *vertex == node.vertex.digest) || started.is_some() {
            self.report(node, started, false, Some(error.to_string()));
        }
        error
    }

    /// Tells the observer of every vertex in the closure of `root` whose end it has not been told: they were not
    /// needed, because something behind them is kept.
    pub(super) fn report_cached(&self, root: &Digest) {
        let mut queue = vec![root.clone()];
        while let Some(digest) = queue.pop() {
            let Ok(node) = self.node(&digest) else { continue };
            let under_way = node.solved.lock().as_ref().is_some_and(|s| s.peek().is_none()) && digest != *root;
            if under_way || node.reported.swap(true, Ordering::Relaxed) {
                continue;
            }
            self.report(&node, None, true, None);
            queue.extend(node.vertex.inputs.iter().map(|e| e.vertex.clone()));
        }
    }
}
