//! How a vertex comes to its result: one that is kept, or by running.

use super::{JobInner, Keyed, MAX_REFRESHES, Node, Solved, SolverShared};
use crate::{Domain, OpContext, SolveError};
use futures::future::try_join_all;
use std::sync::{Arc, atomic::Ordering};

impl<D: Domain> JobInner<D> {
    pub(super) async fn compute_result(self: &Arc<Self>, node: &Arc<Node<D>>) -> Result<Solved<D>, SolveError<D>> {
        let keyed = self.keyed(node).await?;
        let solved = |outputs, cached| Solved {
            key: keyed.canonical.clone(),
            definition: keyed.definition.clone(),
            record: keyed.record.clone(),
            outputs,
            cached,
        };
        let ignore = node.ignore_cache.load(Ordering::Relaxed);
        if !ignore
            && !keyed.volatile
            && let Some(outputs) = self.load_kept(&keyed, node).await
        {
            self.report_cached(&node.vertex.digest);
            return Ok(solved(outputs, true));
        }
        // Another build that still lives has done it under the key that both share.
        let is_fresh = ignore && node.fresh.lock().as_deref() == Some(&keyed.canonical);
        if is_fresh && let Some(outputs) = self.shared.store.load(&keyed.canonical, &node.needed()) {
            if node.vertex.op.resolves() {
                node.reported.store(true, Ordering::Relaxed);
            } else {
                self.report(node, None, false, None);
            }
            for edge in &node.vertex.inputs {
                self.report_cached(&edge.vertex);
            }
            return Ok(solved(Arc::new(outputs), false));
        }
        let mut attempt = 0;
        loop {
            let inputs = node.vertex.inputs.iter().map(|edge| self.clone().edge(edge.clone()));
            let inputs = try_join_all(inputs).await?;
            for edge in &node.vertex.inputs {
                self.report_cached(&edge.vertex);
            }
            let (own, shared, run_key) = (node.clone(), self.shared.clone(), keyed.clone());
            let (member, loaded) = (self.member(node), self.shared.loaded.clone());
            let joined = self.shared.running.join(&keyed.canonical.0, member, loaded, move |cx| async move {
                shared.run(&own, &run_key, ignore && !is_fresh, inputs, cx).await
            });
            match joined.wait().await {
                Ok(outputs) => {
                    if node.vertex.op.resolves() {
                        node.reported.store(true, Ordering::Relaxed);
                    } else {
                        self.report(node, joined.started(), false, None);
                    }
                    return Ok(solved(outputs, false));
                }
                Err(error) if error.is_lost() && attempt < MAX_REFRESHES => {
                    attempt += 1;
                    self.refresh_inputs(node);
                }
                Err(error) => return Err(self.failed(node, joined.started(), error)),
            }
        }
    }

    /// Looks up again what inputs turned out not to have.
    pub(super) fn refresh_inputs(&self, node: &Node<D>) {
        for input in node.vertex.inputs.iter().filter_map(|edge| self.node(&edge.vertex).ok()) {
            self.refresh(&input);
        }
    }

    pub(super) fn refresh(&self, node: &Node<D>) {
        let keyed = node.keyed.lock().as_ref().and_then(|k| k.peek()?.clone().ok());
        if keyed.is_some_and(|k| k.volatile || self.load(&k.canonical, &node.needed()).is_none()) {
            *node.solved.lock() = None;
        }
    }

    async fn load_kept(&self, keyed: &Keyed, node: &Node<D>) -> Option<Arc<Vec<Option<D::Result>>>> {
        let needed = node.needed();
        if let Some(outputs) = self.shared.store.load(&keyed.canonical, &needed) {
            return Some(Arc::new(outputs));
        }
        self.imported().await;
        let imports = self.imports.read().clone();
        let (store, outputs) = imports.iter().find_map(|s| Some((s, s.load(&keyed.canonical, &needed)?)))?;
        let record = store.record(&keyed.canonical).unwrap_or_else(|| keyed.record.clone());
        self.shared.store.save(&keyed.canonical, &record, &outputs);
        self.shared.store.add_alias(&keyed.definition, &keyed.canonical);
        Some(Arc::new(outputs))
    }
}

impl<D: Domain> SolverShared<D> {
    async fn run(
        &self,
        node: &Node<D>,
        keyed: &Keyed,
        ignore: bool,
        inputs: Vec<D::Result>,
        cx: OpContext<D>,
    ) -> Result<Arc<Vec<Option<D::Result>>>, SolveError<D>> {
        // Another build may have finished the same work between this one's look-up and now.
        if !ignore
            && !keyed.volatile
            && let Some(outputs) = self.store.load(&keyed.canonical, &node.needed())
        {
            return Ok(Arc::new(outputs));
        }
        let op = &node.vertex.op;
        let _slot = match &self.slots {
            Some(slots) if op.takes_slot() => slots.clone().acquire_owned().await.ok(),
            _ => None,
        };
        if !op.resolves() {
            cx.audience.start();
        }
        let outputs = op.run(inputs, &cx).await.map_err(|e| node.fail(e))?;
        if !keyed.volatile {
            self.store.save(&keyed.canonical, &keyed.record, &outputs);
            if keyed.canonical != keyed.definition {
                self.store.add_alias(&keyed.definition, &keyed.canonical);
            }
        }
        Ok(Arc::new(outputs))
    }
}
