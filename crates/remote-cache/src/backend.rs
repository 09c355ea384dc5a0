//! What a place that keeps a cache must be able to do.

use crate::{Cache, Error, Result};
use async_trait::async_trait;
use cooper_content::BlobSource;
use cooper_oci::{Descriptor, Digest};
use jiff::Timestamp;
use std::{fmt, sync::Arc, time::SystemTime};

/// One cache at one place, opened with the attributes that a client gave. Implementations hide their own retries:
/// what they report is final. They must be safe to use by many tasks at once.
#[async_trait]
pub trait Backend: Send + Sync + fmt::Debug {
    /// The cache as a person would name it, such as `registry cache example.com/app:cache`.
    fn name(&self) -> String;

    /// Every cache document to import, the most wanted first (several names, several platforms of an image, …).
    /// Nothing there: an empty list or [`Error::NotFound`]. Reads no layer.
    async fn load(&self) -> Result<Vec<Stored>>;

    /// The one document that [`Backend::publish`] would replace; `None` when there is none, or when what is there
    /// is no cache.
    async fn current(&self) -> Result<Option<Stored>>;

    /// What people should know of what was done since this was asked last: whose signatures were found, and the like.
    fn take_notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Gets the right to write by now, as far as it lasts: whoever vouches for it may be gone later. What is wrong with it
    /// shows when something is written.
    async fn authorize(&self) {}

    /// Makes sure that the place has a layer: sends its bytes, streamed from `source`, only when they are missing
    /// (and refreshes what would expire soon, where the place has such a notion). A transfer that broke is taken up
    /// again where it broke, as far as the place allows.
    async fn ensure_blob(&self, desc: &Descriptor, source: &dyn BlobSource) -> Result<Sent>;

    /// Makes `cache` the document of this place. Its layers are there already. `over` is the version that `cache`
    /// was merged with, `None` when there was none. [`Error::Conflict`] when another document is there by now:
    /// nothing has changed then. Places without conditional writes look just before they write.
    async fn publish(&self, cache: &Cache, over: Option<&Version>) -> Result<Published>;

    /// Whether [`Backend::publish`] compares and writes in one step. Otherwise a writer looks afterwards whether
    /// its entries are still there.
    fn is_atomic(&self) -> bool {
        false
    }

    /// What is published, when `cache` is just what is there already.
    async fn unchanged(&self, cache: &Cache) -> Result<Option<Published>> {
        let _ = cache;
        Ok(None)
    }

    /// For places without conditional writes: leaves word that `cache` is about to be written, with its entries. `None`: the
    /// place keeps nothing of the kind, and writers can only look again later.
    async fn announce(&self, cache: &Cache) -> Option<Intent> {
        let _ = cache;
        None
    }

    /// Every word that was left and not taken back. Whatever was announced before this was called is among them.
    async fn intents(&self) -> Result<Vec<Intent>> {
        Ok(Vec::new())
    }

    /// The entries of an intent; `None` when it is gone.
    async fn intended(&self, intent: &Intent) -> Result<Option<Cache>> {
        let _ = intent;
        Ok(None)
    }

    /// Notes that the writer of `own` is done, and that `part_of` has its entries, `cache`.
    async fn conclude(&self, own: &Intent, cache: &Cache, part_of: &Version) {
        let _ = (own, cache, part_of);
    }

    /// Takes an intent back. That it stays costs the next writers requests and nothing else.
    async fn retract(&self, intent: &Intent) {
        let _ = intent;
    }

    /// Whether the place itself sees to it that what its document names stays there: nobody has to ask for that.
    fn keeps_what_it_names(&self) -> bool {
        false
    }

    /// Layers to send at a time.
    fn parallelism(&self) -> usize {
        4
    }

    /// Names of all documents that share blobs with this cache, for collection.
    async fn names(&self) -> Result<Vec<String>> {
        Ok(vec![String::new()])
    }

    /// The document of one of [`Backend::names`]; `None` when it is gone.
    async fn named(&self, name: &str) -> Result<Option<Stored>> {
        let _ = name;
        self.current().await
    }

    /// Writes the document of one of [`Backend::names`] anew, an empty one when nothing is left. [`Error::Conflict`] when another
    /// version than `over` is there by now.
    async fn replace(&self, name: &str, cache: &Cache, over: Option<&Version>) -> Result<()> {
        let _ = name;
        self.publish(cache, over).await.map(drop)
    }

    /// What collection leaves behind here, for people.
    fn leftovers(&self) -> Option<&'static str> {
        None
    }

    /// Everything that the place keeps below this cache's prefix or repository, for collection.
    async fn list(&self) -> Result<Vec<Entry>> {
        Err(Error::Unsupported { cache: self.name(), what: "list what it keeps" })
    }

    /// Removes one entry of [`Backend::list`], unless it is a blob that was written or refreshed since. One that is gone
    /// already is fine. Returns whether it did.
    async fn delete(&self, entry: &Entry) -> Result<bool> {
        let _ = entry;
        Err(Error::Unsupported { cache: self.name(), what: "delete" })
    }
}

/// A cache document that was read.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The document. Layers without diff id are of no use to an importer.
    pub cache: Cache,
    /// Serves its layers, lazily and from any offset.
    pub blobs: Arc<dyn BlobSource>,
    /// What this version of the document is called at its place (a digest, an ETag), when it can be replaced.
    pub version: Option<Version>,
}

/// Names one version of a cache document at its place; only compared for equality.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version(pub String);

/// A writer's word that entries are about to be written.
#[derive(Debug, Clone)]
pub struct Intent {
    /// What it is kept under.
    pub name: String,
    /// The manifest with its entries, unlike any other.
    pub descriptor: Descriptor,
    /// When it was made, by the writer's clock.
    pub at: Timestamp,
    /// The version of the document that has its entries, when its writer is done.
    pub part_of: Option<Version>,
    /// Entries of others, who are done, that are kept in it too: it has taken the place of their word.
    pub carried: Option<Cache>,
}

/// What became of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It was there.
    Present,
    /// The place took it from elsewhere in itself, without a transfer.
    Mounted,
    /// Its bytes were sent.
    Uploaded,
}

/// What was written.
#[derive(Debug, Clone, Default)]
pub struct Published {
    /// The manifest, for places that have such a thing (registries, layouts): told to the client as `cache.manifest`.
    pub manifest: Option<Descriptor>,
    /// The version that is there now.
    pub version: Option<Version>,
}

/// Something that a place keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: EntryKind,
    /// Its name at the place: a key, a tag, a path.
    pub name: String,
    /// Bytes, 0 when unknown.
    pub size: u64,
    /// When it was last written or refreshed, when known.
    pub modified: Option<SystemTime>,
}

/// What an [`Entry`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A cache document.
    Document,
    /// A layer or another blob.
    Blob(Digest),
}
