//! What is kept on disk, and getting rid of it: disk usage, prune, garbage collection.

use crate::{
    domain::Chain,
    engine::{Engine, EngineInner},
    layers::store::{Layer, LayerId, RecordType, millis},
};
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
    time::{Duration, SystemTime},
};

/// Shortest time between two collections that builds trigger.
const COLLECT_INTERVAL: Duration = Duration::from_secs(60);

/// One rule of garbage collection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcPolicy {
    /// Also internal, frontend and shared records.
    pub all: bool,
    /// Records to look at: any of these must match; none: every record.
    pub filters: Vec<String>,
    /// Records used more recently than this are kept.
    pub keep_duration: Duration,
    /// Bytes that are never collected.
    pub reserved_space: i64,
    /// Bytes above which records are collected; 0: no such limit.
    pub max_used_space: i64,
    /// Bytes that shall be free on the disk; 0: no such limit.
    pub min_free_space: i64,
}

impl GcPolicy {
    /// The rule in words, as the one of this number.
    fn described(&self, number: usize) -> String {
        let mut words = vec![format!("gc policy {number}")];
        let mut word = |name: &str, value: String| words.push(format!("{name} {value}"));
        if !self.filters.is_empty() {
            word("filters", self.filters.join(";"));
        }
        if !self.keep_duration.is_zero() {
            word("keep", format!("{}s", self.keep_duration.as_secs()));
        }
        for (name, bytes) in
            [("reserved", self.reserved_space), ("max used", self.max_used_space), ("min free", self.min_free_space)]
        {
            if bytes > 0 {
                word(name, format!("{bytes} bytes"));
            }
        }
        words.join(", ")
    }
}

/// A record, as `du` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageRecord {
    /// Identity.
    pub id: String,
    /// Whether builds write to it in place.
    pub mutable: bool,
    /// Whether a build holds it now.
    pub in_use: bool,
    /// Bytes on disk.
    pub size: i64,
    /// The records that it needs.
    pub parents: Vec<String>,
    /// When it was made.
    pub created: SystemTime,
    /// When a build used it last.
    pub last_used: Option<SystemTime>,
    /// How often builds used it.
    pub uses: i64,
    /// For people.
    pub description: String,
    /// Kind.
    pub record_type: RecordType,
    /// Whether something outside the cache needs it, too.
    pub shared: bool,
}

/// What to remove.
#[derive(Debug, Clone, Default)]
pub struct PruneRequest {
    /// The limits; `all` and `filters` as there.
    pub policy: GcPolicy,
}

/// A filter that cannot be read.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("invalid filter {filter:?}: {reason}")]
pub struct FilterError {
    filter: String,
    reason: String,
}

impl Engine {
    /// Applies the rules of garbage collection now. Blocks.
    pub fn collect_garbage(&self) {
        self.inner().collect();
    }

    /// Every record that a filter matches. Measures what was not measured yet: blocks.
    pub fn usage(&self, filters: &[String]) -> Result<Vec<UsageRecord>, FilterError> {
        self.inner().usage(filters)
    }

    /// Removes records until the limits hold, calling `removed` for each. Blocks.
    pub fn prune(&self, request: &PruneRequest, removed: &mut dyn FnMut(UsageRecord)) -> Result<(), FilterError> {
        self.inner().apply_policy(&request.policy, "prune", removed)?;
        let policy = &request.policy;
        if policy.all
            && policy.filters.is_empty()
            && policy.keep_duration.is_zero()
            && self.inner().floor(policy, 0).is_none()
        {
            self.inner().worker.names.forget_all();
        }
        self.inner().collect_content();
        Ok(())
    }
}

impl EngineInner {
    fn usage(&self, filters: &[String]) -> Result<Vec<UsageRecord>, FilterError> {
        let filters = Filters::parse(filters)?;
        let mut records = Vec::new();
        for layer in self.worker.layers.all() {
            let record = self.layer_usage(&layer);
            if filters.matches(&record) {
                records.push(record);
            }
        }
        let caches = self.worker.caches.all().into_iter().map(|(name, dir, record, in_use)| UsageRecord {
            id: name,
            mutable: true,
            in_use,
            size: dir_size(&dir),
            parents: Vec::new(),
            created: time(record.created),
            last_used: Some(time(record.last_used)),
            uses: record.uses as i64,
            description: record.description,
            record_type: RecordType::CacheMount,
            shared: false,
        });
        let locals = self.worker.locals.all().into_iter().map(|local| UsageRecord {
            id: local.name,
            mutable: true,
            in_use: local.in_use,
            size: dir_size(&local.dir),
            parents: Vec::new(),
            created: time(local.record.created),
            last_used: Some(time(local.record.last_used)),
            uses: local.record.uses as i64,
            description: local.record.description,
            record_type: RecordType::LocalSource,
            shared: false,
        });
        let spare = self.worker.layers.snapshots.spare().into_iter().map(|spare| UsageRecord {
            id: spare.name,
            mutable: true,
            in_use: false,
            size: spare.usage.bytes as i64,
            parents: Vec::new(),
            created: spare.since,
            last_used: Some(spare.since),
            uses: 1,
            description: "tree in which the next step goes on".to_owned(),
            record_type: RecordType::Internal,
            shared: false,
        });
        records.extend(caches.chain(locals).chain(spare).filter(|r| filters.matches(r)));
        records.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        Ok(records)
    }

    fn layer_usage(&self, layer: &Arc<Layer>) -> UsageRecord {
        let record = layer.record();
        let files = match (record.size, layer.snapshot()) {
            (Some(size), _) => size,
            (None, Some(snapshot)) => {
                let size = self.worker.layers.snapshots.usage(&snapshot).map_or(0, |u| u.bytes);
                self.worker.layers.update(layer, |r| r.size = Some(size));
                size
            }
            (None, None) => 0,
        };
        let content = &self.worker.layers.content;
        let blobs: u64 = record.blobs.values().filter(|d| content.contains(&d.digest)).map(|d| d.size).sum();
        UsageRecord {
            id: layer.id.to_string(),
            mutable: false,
            // One reference is the store's, one the caller's.
            in_use: Arc::strong_count(layer) > 2,
            size: (files + blobs) as i64,
            parents: record.parents.iter().map(ToString::to_string).collect(),
            created: time(record.created),
            last_used: Some(time(record.last_used)),
            uses: record.uses as i64,
            description: record.description,
            record_type: record.record_type,
            shared: false,
        }
    }

    /// Runs the collection in the background, at most once per interval.
    pub(crate) fn collect_soon(self: Arc<Self>) {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let now = millis(SystemTime::now());
        let last = LAST.load(Ordering::Relaxed);
        if self.gc.is_empty() || now < last + COLLECT_INTERVAL.as_millis() as u64 {
            return;
        }
        LAST.store(now, Ordering::Relaxed);
        tokio::task::spawn_blocking(move || self.collect());
    }

    /// Applies the rules of garbage collection. Blocks.
    fn collect(&self) {
        for (number, policy) in self.gc.iter().enumerate() {
            let mut removed = 0;
            let outcome = self.apply_policy(policy, &policy.described(number + 1), &mut |record| {
                removed += 1;
                tracing::debug!(id = record.id, size = record.size, "collected");
            });
            if let Err(error) = outcome {
                tracing::warn!(error = %Chain(&error), "a rule of garbage collection cannot be applied");
            }
            if removed > 0 {
                tracing::info!(removed, "garbage collection");
            }
        }
        self.collect_content();
    }

    /// Removes records, the least useful first, leaves before what they stand on, until the limits hold.
    fn apply_policy(
        &self,
        policy: &GcPolicy,
        name: &str,
        removed: &mut dyn FnMut(UsageRecord),
    ) -> Result<(), FilterError> {
        let filters = Filters::parse(&policy.filters)?;
        let mut records: HashMap<String, UsageRecord> =
            self.usage(&[])?.into_iter().map(|r| (r.id.clone(), r)).collect();
        let mut used: i64 = records.values().map(|r| r.size).sum();
        let floor = self.floor(policy, used);
        let mut children: HashMap<String, usize> = HashMap::new();
        for parent in records.values().flat_map(|r| &r.parents) {
            *children.entry(parent.clone()).or_default() += 1;
        }
        let now = SystemTime::now();
        let wanted = |r: &UsageRecord| {
            let spared =
                !policy.all && (matches!(r.record_type, RecordType::Internal | RecordType::Frontend) || r.shared);
            let age = r.last_used.and_then(|t| now.duration_since(t).ok()).unwrap_or_default();
            !spared && !r.in_use && age >= policy.keep_duration && filters.matches(r)
        };
        let rank = rank(records.values().filter(|r| wanted(r)));
        let mut gone: HashSet<LayerId> = HashSet::new();
        let bounded = floor.is_some();
        loop {
            if floor.is_some_and(|floor| used <= floor) {
                break;
            }
            let leaves = records.values().filter(|r| wanted(r) && children.get(&r.id).copied().unwrap_or(0) == 0);
            let mut batch: Vec<String> = leaves.map(|r| r.id.clone()).collect();
            batch.sort_by_key(|id| rank.get(id).copied().unwrap_or(usize::MAX));
            if bounded {
                batch.truncate(1);
            }
            if batch.is_empty() {
                break;
            }
            for id in batch {
                let Some(record) = records.remove(&id) else { continue };
                if !self.remove(&record) {
                    continue;
                }
                for parent in &record.parents {
                    children.entry(parent.clone()).and_modify(|n| *n -= 1);
                }
                used -= record.size;
                gone.extend((!record.mutable).then(|| LayerId::known(&record.id)));
                removed(record);
            }
        }
        self.keys.forget_layers(&gone, name);
        Ok(())
    }

    /// The bytes to come down to; none when the rule has no limit and everything it matches goes.
    fn floor(&self, policy: &GcPolicy, used: i64) -> Option<i64> {
        if policy.max_used_space == 0 && policy.min_free_space == 0 && policy.reserved_space == 0 {
            return None;
        }
        let mut floor = if policy.max_used_space > 0 { policy.max_used_space } else { i64::MAX };
        if policy.min_free_space > 0
            && let Ok(stat) = rustix::fs::statvfs(&self.worker.scratch)
        {
            let free = (stat.f_bavail * stat.f_frsize) as i64;
            floor = floor.min(used - (policy.min_free_space - free).max(0));
        }
        if floor == i64::MAX {
            floor = 0;
        }
        Some(floor.max(policy.reserved_space))
    }

    fn remove(&self, record: &UsageRecord) -> bool {
        match record.record_type {
            RecordType::CacheMount => self.worker.caches.remove(&record.id),
            RecordType::LocalSource if record.mutable => self.worker.locals.remove(&record.id),
            RecordType::Internal if record.mutable => self.worker.layers.snapshots.release(&record.id),
            _ => self.worker.layers.remove(&LayerId::known(&record.id)),
        }
    }

    /// Removes blobs that neither a layer nor an image nor a record of the history names.
    fn collect_content(&self) {
        crate::records::content_gc::collect(self);
    }
}

/// Combined order of age and use: the least recently and least often used first.
fn rank<'a>(records: impl Iterator<Item = &'a UsageRecord>) -> HashMap<String, usize> {
    let records: Vec<&UsageRecord> = records.collect();
    let mut ranks: HashMap<String, usize> = HashMap::new();
    let mut by_age = records.clone();
    by_age.sort_by_key(|r| r.last_used);
    let mut by_use = records;
    by_use.sort_by_key(|r| r.uses);
    for order in [by_age, by_use] {
        for (i, record) in order.into_iter().enumerate() {
            *ranks.entry(record.id.clone()).or_default() += i;
        }
    }
    ranks
}

fn time(millis: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
}

/// Allocated bytes below a directory that steps may be changing meanwhile.
fn dir_size(dir: &std::path::Path) -> i64 {
    use std::os::unix::fs::MetadataExt as _;
    let mut sum = 0;
    let mut queue = vec![dir.to_owned()];
    while let Some(dir) = queue.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(stat) = entry.metadata() else { continue };
            sum += stat.blocks() as i64 * 512;
            if stat.is_dir() {
                queue.push(entry.path());
            }
        }
    }
    sum
}

/// Filters of `du` and `prune`: alternatives, each a comma-separated list of conditions that must all hold.
struct Filters(Vec<Vec<Condition>>);

struct Condition {
    field: String,
    test: Test,
}

enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(regex::Regex),
}

const FIELDS: [&str; 9] =
    ["id", "parents", "description", "inuse", "mutable", "immutable", "type", "shared", "private"];

impl Filters {
    fn parse(filters: &[String]) -> Result<Self, FilterError> {
        let conditions = |filter: &String| {
            let parts = filter.split(',').map(str::trim).filter(|p| !p.is_empty());
            parts.map(|part| Condition::parse(filter, part)).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self(filters.iter().map(conditions).collect::<Result<_, _>>()?))
    }

    fn matches(&self, record: &UsageRecord) -> bool {
        self.0.is_empty() || self.0.iter().any(|all| all.iter().all(|c| c.holds(record)))
    }
}

impl Condition {
    fn parse(filter: &str, part: &str) -> Result<Self, FilterError> {
        let fail = |reason: String| FilterError { filter: filter.to_owned(), reason };
        let end = part.find(['=', '!', '~']).unwrap_or(part.len());
        let (field, rest) = part.split_at(end);
        let field = field.trim().to_ascii_lowercase();
        if !FIELDS.contains(&field.as_str()) {
            return Err(fail(format!("unknown field {field:?}; known are {}", FIELDS.join(", "))));
        }
        let value = |text: &str| text.trim().trim_matches('"').to_owned();
        let test = if rest.is_empty() {
            Test::Present
        } else if let Some(text) = rest.strip_prefix("~=") {
            Test::Matches(regex::Regex::new(&value(text)).map_err(|e| fail(e.to_string()))?)
        } else if let Some(text) = rest.strip_prefix("!=") {
            Test::NotEqual(value(text))
        } else if let Some(text) = rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')) {
            Test::Equal(value(text))
        } else {
            return Err(fail(format!("{rest:?} is no comparison; expected ==, != or ~=")));
        };
        Ok(Self { field, test })
    }

    fn holds(&self, record: &UsageRecord) -> bool {
        let flag = |set: bool| set.then(|| "true".to_owned());
        let value = match self.field.as_str() {
            "id" => Some(record.id.clone()),
            "parents" => (!record.parents.is_empty()).then(|| record.parents.join(";")),
            "description" => Some(record.description.clone()),
            "inuse" => flag(record.in_use),
            "mutable" => flag(record.mutable),
            "immutable" => flag(!record.mutable),
            "type" => Some(record.record_type.name().to_owned()),
            "shared" => flag(record.shared),
            _ => flag(!record.shared),
        };
        match (&self.test, value) {
            (Test::Present, value) => value.is_some(),
            (Test::Equal(want), value) => value.as_deref() == Some(want) || value.is_none() && want == "false",
            (Test::NotEqual(want), value) => value.as_deref() != Some(want.as_str()),
            (Test::Matches(pattern), value) => value.is_some_and(|v| pattern.is_match(&v)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str) -> UsageRecord {
        UsageRecord {
            id: id.into(),
            mutable: false,
            in_use: true,
            size: 1,
            parents: vec!["p".into()],
            created: time(0),
            last_used: Some(time(0)),
            uses: 1,
            description: "mount / from exec true".into(),
            record_type: RecordType::Regular,
            shared: false,
        }
    }

    #[test]
    fn filters_select_records() {
        for (filter, holds) in [
            ("", true),
            ("id==a", true),
            ("id=b", false),
            ("id!=b", true),
            ("type==regular,inuse", true),
            ("type==regular,mutable", false),
            ("description~=exec t.*", true),
            ("private", true),
            ("shared", false),
            ("mutable==false", true),
        ] {
            assert_eq!(Filters::parse(&[filter.to_owned()]).unwrap().matches(&record("a")), holds, "{filter}");
        }
    }

    #[test]
    fn a_bad_filter_says_why() {
        let error = Filters::parse(&["colour==red".to_owned()]).err().unwrap().to_string();
        insta::assert_snapshot!(error, @r#"invalid filter "colour==red": unknown field "colour"; known are id, parents, description, inuse, mutable, immutable, type, shared, private"#);
    }
}
