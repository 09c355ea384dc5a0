//! Word that writers of a registry cache leave beside its tag, because registries cannot compare and write: a manifest of
//! the same kind with the writer's entries, under a tag of its own.
//!
//! The tag's name begins with that of the cache and ends in something random. A writer takes its word back when it is done
//! and nobody else is at it, so that an ordinary export leaves no tag. Where tags cannot be listed, a few fixed names are
//! tried; where manifests cannot be deleted, an empty one takes the place, and the name is used again.
//!
//! What follows from whose word lives in `publish`, not here.

use crate::{
    Backend as _, Cache, Intent, Result, Version,
    documents::{Documents as _, documents_with},
    registry::{KIND, RegistryCache},
};
use cooper_oci::{Descriptor, Digest, ImageRef};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use serde::Deserialize;
use std::{collections::BTreeMap, sync::atomic::Ordering::Relaxed, time::Duration};

/// Annotation of an intent: when it was made, or [`VOID`].
const MADE: &str = "cooperage.intent";
/// Annotation of an intent: a random number, so that no two are the same manifest.
const WRITER: &str = "cooperage.writer";
/// Annotation of an intent whose writer is done: the manifest that has its entries.
const PART_OF: &str = "cooperage.part-of";
/// Stands where an intent was that could not be deleted.
const VOID: &str = "void";

/// Most intents that are looked at, those of a repository's other tags not counted.
const MAX_INTENTS: usize = 200;
/// Names where tags cannot be listed.
const FIXED: usize = 16;
/// Names that are tried before a writer goes on without having left word.
const ATTEMPTS: u32 = 30;
/// First pause where every name is taken by somebody who writes.
const PAUSE: Duration = Duration::from_millis(10);
/// Tags have 128 characters at most; longer ones than this are told apart by digest.
const MAX_TAG: usize = 90;
const PARALLEL: usize = 8;

#[derive(Deserialize)]
struct Notes {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// What is under a name.
enum Found {
    /// Nothing, or nothing any more: the name may be used.
    Free,
    Word(Box<Intent>),
    /// Not ours.
    Foreign,
}

impl RegistryCache {
    /// The beginning of the names of this cache's intents.
    fn prefix(&self) -> Option<String> {
        let tag = self.reference.tag()?;
        let short = if tag.len() > MAX_TAG { Digest::of(tag).hex()[..40].to_owned() } else { tag.to_owned() };
        Some(format!("{short}.cooperage-"))
    }

    fn beside(&self, name: &str) -> Option<ImageRef> {
        format!("{}:{name}", self.reference.repository()).parse().ok()
    }

    /// Names under which intents may be, and whether these are all that there are.
    async fn names_of_words(&self, prefix: &str) -> (Vec<String>, bool) {
        match self.client.tags_from(&self.reference, prefix, MAX_INTENTS).await {
            Ok(tags) => (tags, true),
            Err(error) if error.is_not_found() => (Vec::new(), true),
            Err(error) => {
                tracing::debug!(%error, cache = self.name(), "the registry does not list tags");
                ((0..FIXED).map(|n| format!("{prefix}{n}")).collect(), false)
            }
        }
    }

    async fn found(&self, name: String) -> Result<(String, Found)> {
        let Some(reference) = self.beside(&name) else { return Ok((name, Found::Foreign)) };
        let root = match self.client.resolve(&reference).await {
            Ok(root) => root,
            Err(e) if e.is_not_found() => return Ok((name, Found::Free)),
            Err(e) => return Err(self.failed("cannot look for other writers")(e)),
        };
        let bytes = match root.bytes {
            Some(bytes) => bytes,
            None => match self.document(&root.descriptor).await {
                Ok(bytes) => bytes,
                Err(crate::Error::NotFound { .. }) => return Ok((name, Found::Free)),
                Err(error) => return Err(error),
            },
        };
        let notes = serde_json::from_slice::<Notes>(&bytes).map(|n| n.annotations).unwrap_or_default();
        let found = match notes.get(MADE).map(String::as_str) {
            Some(VOID) => Found::Free,
            Some(made) => made.parse().map_or(Found::Foreign, |at| {
                let part_of = notes.get(PART_OF).map(|digest| Version(digest.clone()));
                Found::Word(Box::new(Intent {
                    name: name.clone(),
                    descriptor: root.descriptor,
                    at,
                    part_of,
                    carried: None,
                }))
            }),
            None => Found::Foreign,
        };
        Ok((name, found))
    }

    async fn look(&self, names: Vec<String>) -> Result<Vec<(String, Found)>> {
        stream::iter(names).map(|name| self.found(name)).buffered(PARALLEL).try_collect().await
    }

    /// Every intent.
    pub(crate) async fn words(&self) -> Result<Vec<Intent>> {
        let Some(prefix) = self.prefix() else { return Ok(Vec::new()) };
        let (names, _) = self.names_of_words(&prefix).await;
        let found = self.look(names).await?.into_iter();
        Ok(found.filter_map(|(_, found)| if let Found::Word(intent) = found { Some(*intent) } else { None }).collect())
    }

    /// Leaves word. `None` where the registry does not let us: the export goes on without.
    pub(crate) async fn leave_word(&self, cache: &Cache) -> Option<Intent> {
        let prefix = self.prefix()?;
        for attempt in 0..ATTEMPTS {
            let (names, listed) = self.names_of_words(&prefix).await;
            let (mut free, mut done) = (Vec::new(), Vec::new());
            for (name, found) in self.look(names).await.ok()? {
                match found {
                    Found::Free => free.push(name),
                    Found::Word(intent) if intent.part_of.is_some() => done.push(intent),
                    _ => {}
                }
            }
            // Two could take a name that was used before at the same time, but not a new one.
            let shared = (!free.is_empty()).then(|| free.swap_remove(rand::random_range(0..free.len())));
            let is_new = shared.is_none() && listed;
            let mut carried = None;
            let name = match (shared, is_new) {
                (Some(name), _) => name,
                (None, true) => format!("{prefix}{:016x}", rand::random::<u64>()),
                // The entries of somebody who is done are kept for those who are not.
                (None, false) => match done.pop() {
                    Some(intent) => {
                        carried = self.intended(&intent).await.ok()?;
                        intent.name
                    }
                    None => {
                        tokio::time::sleep(PAUSE * (attempt + 1)).await;
                        continue;
                    }
                },
            };
            let at = Timestamp::now();
            let notes = [(MADE, at.to_string()), (WRITER, format!("{:016x}", rand::random::<u64>()))];
            let merged = carried.as_ref().map(|carried| cache.merged(carried));
            let descriptor = self.put_word(&name, merged.as_ref().unwrap_or(cache), notes.into()).await?;
            let intent = Intent { name, descriptor, at, part_of: None, carried };
            if is_new || self.stands(&intent).await {
                return Some(intent);
            }
        }
        None
    }

    async fn stands(&self, intent: &Intent) -> bool {
        let Some(reference) = self.beside(&intent.name) else { return false };
        self.client.resolve(&reference).await.is_ok_and(|found| found.descriptor.digest == intent.descriptor.digest)
    }

    async fn put_word(&self, name: &str, cache: &Cache, notes: BTreeMap<&str, String>) -> Option<Descriptor> {
        let notes = notes.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let (config, manifest) = documents_with(cache, self.shape, KIND, notes).ok()?;
        let reference = self.beside(name)?;
        let pushed = async {
            self.push(&config).await?;
            let pushed = self.client.push_manifest(&reference, &manifest.descriptor.media_type, manifest.bytes).await;
            pushed.map_err(self.failed("cannot tell other writers"))
        };
        let failed = |error: &crate::Error| tracing::debug!(%error, name, "no word is left for other writers");
        pushed.await.inspect_err(failed).ok()
    }

    /// Says that the writer of an intent is done.
    pub(crate) async fn mark(&self, own: &Intent, cache: &Cache, part_of: &Version) {
        if !self.stands(own).await {
            return;
        }
        let writer = format!("{:016x}", rand::random::<u64>());
        let notes = [(MADE, own.at.to_string()), (WRITER, writer), (PART_OF, part_of.0.clone())];
        if self.put_word(&own.name, cache, notes.into()).await.is_some() {
            self.delete_word(own).await;
        }
    }

    /// Whether the registry has deleted the manifest of an intent.
    async fn delete_word(&self, intent: &Intent) -> bool {
        if self.keeps.load(Relaxed) {
            return false;
        }
        let deleted = self.client.delete_manifest(&self.reference, &intent.descriptor.digest).await;
        if let Err(error) = &deleted {
            tracing::debug!(%error, cache = self.name(), "the registry does not delete");
            self.keeps.store(true, Relaxed);
        }
        deleted.is_ok()
    }

    /// Removes an intent.
    pub(crate) async fn take_back(&self, intent: &Intent) {
        if !self.delete_word(intent).await && self.stands(intent).await {
            self.put_word(&intent.name, &Cache::default(), [(MADE, VOID.to_owned())].into()).await;
        }
    }
}
