//! How a vertex is keyed: by its definition alone where that is known, else by the content that it reads.

use super::{JobInner, Keyed, MAX_REFRESHES, Node};
use crate::{CacheMap, Domain, Key, KeyInput, KeyRecord, SolveError};
use futures::future::{Either, join_all, select, try_join_all};
use std::sync::{Arc, atomic::Ordering};

impl<D: Domain> JobInner<D> {
    pub(super) async fn compute_key(self: &Arc<Self>, node: &Arc<Node<D>>) -> Result<Keyed, SolveError<D>> {
        let inputs = node.vertex.inputs.iter().map(|edge| async {
            let input = self.node(&edge.vertex)?;
            input.needed.lock().insert(edge.output);
            Ok(self.keyed(&input).await?.canonical.clone())
        });
        let (map, inputs) = self.map_and_keys(node, try_join_all(inputs)).await?;
        let selector = |i: usize| map.dependencies.get(i).map(|d| d.selector.clone()).unwrap_or_default();
        let parts = inputs.into_iter().zip(&node.vertex.inputs).enumerate();
        let record = KeyRecord {
            op: map.digest.clone(),
            name: node.vertex.name.clone(),
            inputs: parts
                .map(|(i, (key, e))| KeyInput::Output { key, output: e.output, selector: selector(i) })
                .collect(),
        };
        let definition = record.key();
        let keyed = |canonical: Key, record: KeyRecord| Keyed {
            canonical,
            definition: definition.clone(),
            record,
            volatile: map.volatile,
        };
        if map.volatile {
            return Ok(keyed(definition.clone(), record));
        }
        let ignore = node.ignore_cache.load(Ordering::Relaxed);
        if !ignore && let Some(alias) = self.best_alias(&definition, node).await {
            return Ok(keyed(alias, record));
        }
        if !map.dependencies.iter().any(|d| d.content) {
            let canonical = if ignore { self.fresh_key(node, &record) } else { definition.clone() };
            return Ok(keyed(canonical, record));
        }
        let by_content = self.content_record(node, &map, record).await?;
        if ignore {
            return Ok(keyed(self.fresh_key(node, &by_content), by_content));
        }
        let canonical = by_content.key();
        if self.load(&canonical, &node.needed()).is_some() {
            self.shared.store.add_alias(&definition, &canonical);
        }
        Ok(keyed(canonical, by_content))
    }

    /// A key under which no earlier build has left anything.
    fn fresh_key(&self, node: &Node<D>, record: &KeyRecord) -> Key {
        let fresh = self.shared.fresh.get(&node.vertex.digest, record.key(), || record.unique_key());
        let key = Key::clone(&fresh);
        *node.fresh.lock() = Some(fresh);
        key
    }

    /// Asks the op and the inputs' keys at the same time. Inputs whose content will be needed begin meanwhile.
    async fn map_and_keys(
        self: &Arc<Self>,
        node: &Arc<Node<D>>,
        keys: impl Future<Output = Result<Vec<Key>, SolveError<D>>>,
    ) -> Result<(Arc<CacheMap>, Vec<Key>), SolveError<D>> {
        let map = self.cache_map(node);
        futures::pin_mut!(keys, map);
        let map = match select(keys.as_mut(), map).await {
            Either::Left((keys, map)) => return Ok((map.await?, keys?)),
            Either::Right((map, _)) => map?,
        };
        let ahead = self.run_ahead(node, &map);
        futures::pin_mut!(ahead);
        match select(keys, ahead).await {
            Either::Left((keys, _)) => Ok((map.clone(), keys?)),
            Either::Right(((), keys)) => Ok((map.clone(), keys.await?)),
        }
    }

    /// Begins the inputs whose content makes the key and which have no result yet, while the keys of others are still
    /// unknown: those wait for steps that run, so this vertex is no cache hit but for the odd coincidence. Without this,
    /// stages that a chain of copies gathers would run one after the other. Failures show where the content is used.
    async fn run_ahead(self: &Arc<Self>, node: &Arc<Node<D>>, map: &CacheMap) {
        let wanted = map.dependencies.iter().zip(&node.vertex.inputs).filter(|(dependency, _)| dependency.content);
        let runs = wanted.map(|(_, edge)| async {
            let Ok(input) = self.node(&edge.vertex) else { return };
            let Ok(keyed) = self.keyed(&input).await else { return };
            if self.load(&keyed.canonical, &[edge.output]).is_none() {
                let _ = self.clone().edge(edge.clone()).await;
            }
        });
        join_all(runs).await;
    }

    /// The newest alias with results, else the newest. Imports are waited for only when there are no results here.
    async fn best_alias(&self, definition: &Key, node: &Node<D>) -> Option<Key> {
        let needed = node.needed();
        let own = &self.shared.store;
        if own.load(definition, &needed).is_some() {
            return own.aliases(definition).into_iter().find(|alias| own.load(alias, &needed).is_some());
        }
        if let Some(alias) = own.aliases(definition).into_iter().find(|alias| own.load(alias, &needed).is_some()) {
            return Some(alias);
        }
        self.imported().await;
        let mut first = None;
        for store in self.stores() {
            for alias in store.aliases(definition) {
                if self.load(&alias, &needed).is_some() {
                    return Some(alias);
                }
                first.get_or_insert(alias);
            }
        }
        first
    }

    async fn cache_map(&self, node: &Arc<Node<D>>) -> Result<Arc<CacheMap>, SolveError<D>> {
        let op = node.vertex.op.clone();
        if !op.resolves() {
            let cx = self.context(node);
            return op.cache_map(&cx).await.map(Arc::new).map_err(|e| self.failed(node, None, node.fail(e)));
        }
        let own = node.clone();
        let (member, loaded) = (self.member(node), self.shared.loaded.clone());
        let key = op.resolving_key(&node.vertex.digest);
        let joined = self.shared.resolving.join(&key, member, loaded, move |cx| async move {
            cx.audience.start();
            op.cache_map(&cx).await.map(Arc::new).map_err(|e| own.fail(e))
        });
        match joined.wait().await {
            Ok(map) => {
                self.report(node, joined.started(), node.vertex.op.found(), None);
                // A result that turns out to be kept is told later as cached.
                node.reported.store(map.volatile, Ordering::Relaxed);
                Ok(map)
            }
            Err(error) => Err(self.failed(node, joined.started(), error)),
        }
    }

    async fn content_record(
        self: &Arc<Self>,
        node: &Arc<Node<D>>,
        map: &CacheMap,
        mut record: KeyRecord,
    ) -> Result<KeyRecord, SolveError<D>> {
        let wanted = map.dependencies.iter().zip(&node.vertex.inputs).enumerate().filter(|(_, (d, _))| d.content);
        let digests = wanted.map(|(i, (_, edge))| async move {
            let mut attempt = 0;
            loop {
                let result = self.clone().edge(edge.clone()).await?;
                match node.vertex.op.content_digest(i, &result, &self.context(node)).await {
                    Ok(digest) => return Ok((i, digest)),
                    Err(error) if D::is_lost(&error) && attempt < MAX_REFRESHES => {
                        attempt += 1;
                        self.refresh_inputs(node);
                    }
                    Err(error) => return Err(self.failed(node, None, node.fail(error))),
                }
            }
        });
        for (i, digest) in try_join_all(digests).await? {
            record.inputs[i] = KeyInput::Content(digest);
        }
        Ok(record)
    }
}
