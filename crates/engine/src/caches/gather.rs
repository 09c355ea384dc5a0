//! From the keys of a build's results to a cache: a walk over the graph, a record per output that somebody reads,
//! archives of the layers that are worth sending.

use crate::{
    build_error::BuildError,
    domain::Build,
    explain::{attachments, canonical_record},
    gateway::bridge::{Bridge, BuildResult, Ref},
    layers::{
        pack::{Packed, Packing},
        store::LayerId,
        tree::Tree,
    },
};
use cooper_content::BlobSource;
use cooper_oci::{Digest, annotations};
use cooper_remote_cache::{Cache, DESCRIPTION, Layer, Link, Record, RecordKind, StepResult, attachments::is_embedded};
use cooper_solver::{Edge, Identity, KeyInput, Vertex};
use jiff::Timestamp;
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

/// Which results a cache has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Those whose layers are layers of the build's results.
    #[default]
    Min,
    /// All that there are.
    Max,
}

/// A cache with what its layers are read from.
pub struct Gathered {
    /// The graph.
    pub cache: Cache,
    /// Serves each layer, and keeps it from being removed.
    pub layers: HashMap<Digest, Packed>,
    /// Serves attachments.
    pub documents: HashMap<Digest, Arc<dyn BlobSource>>,
}

/// One output of a vertex.
type Place = (Digest, usize);

/// What is exported of a build, before any layer is looked at.
struct Walk<'a> {
    bridge: &'a Bridge,
    vertices: HashMap<Digest, Vertex<Build>>,
    cache: Cache,
    places: HashMap<Place, usize>,
    /// Records that read nothing.
    leaves: HashMap<(Digest, RecordKind), usize>,
    /// The tree behind a record.
    trees: Vec<(usize, Tree)>,
    /// Layers of images. When they came here says nothing about them.
    pulled: HashSet<LayerId>,
}

impl<'a> Walk<'a> {
    fn new(bridge: &'a Bridge) -> Self {
        let vertices = bridge.solver_job().vertices().into_iter().map(|v| (v.digest.clone(), v)).collect();
        Self {
            bridge,
            vertices,
            cache: Cache::default(),
            places: HashMap::new(),
            leaves: HashMap::new(),
            trees: Vec::new(),
            pulled: HashSet::new(),
        }
    }

    /// Adds an edge with everything below it, the inputs first. Iterative: graphs are deeper than stacks.
    fn add(&mut self, root: &Edge) {
        let mut todo = vec![(root.clone(), false)];
        while let Some((edge, ready)) = todo.pop() {
            let place = (edge.vertex.clone(), edge.output);
            if self.places.contains_key(&place) {
                continue;
            }
            let Some(vertex) = self.vertices.get(&edge.vertex) else { continue };
            if ready {
                self.add_record(place);
            } else {
                let inputs = vertex.inputs.clone();
                todo.push((edge, true));
                todo.extend(inputs.into_iter().map(|input| (input, false)));
            }
        }
    }

    fn add_record(&mut self, place: Place) {
        let Some(identity) = self.bridge.solver_job().identity(&place.0) else { return };
        self.pulled.extend(self.bridge.image_tree_of(&place.0).into_iter().flat_map(|tree| tree.ids()));
        let parts = canonical_record(self.bridge, &identity);
        let Some(vertex) = self.vertices.get(&place.0) else { return };
        let (edges, name) = (vertex.inputs.clone(), vertex.name.clone());
        let mut inputs = Vec::with_capacity(parts.inputs.len());
        for (i, part) in parts.inputs.iter().enumerate() {
            let mut links = Vec::new();
            if let KeyInput::Content(digest) = part {
                links.push(Link { record: self.leaf(digest, RecordKind::Content), selector: String::new() });
            }
            let known = edges.get(i).and_then(|e| self.places.get(&(e.vertex.clone(), e.output)).map(|r| (e, *r)));
            if let Some((edge, record)) = known
                && (links.is_empty() || !self.bridge.is_local_source(&edge.vertex))
            {
                let selector = match identity.record.inputs.get(i) {
                    Some(KeyInput::Output { selector, .. }) => selector.clone(),
                    _ => String::new(),
                };
                links.push(Link { record, selector });
                if let Some(manifest) = self.bridge.image_of(&edge.vertex) {
                    links.push(Link { record: self.leaf(&manifest, RecordKind::Source), selector: String::new() });
                }
            }
            inputs.push(links);
        }
        let index = self.cache.records.len();
        let (digest, output) = (parts.op.clone(), place.1);
        let kind = RecordKind::Step;
        self.cache.records.push(Record { digest, kind, output, name, inputs, results: Vec::new() });
        if let Some(tree) = self.tree(&place, &identity) {
            self.trees.push((index, tree));
        }
        self.places.insert(place, index);
    }

    fn leaf(&mut self, digest: &Digest, kind: RecordKind) -> usize {
        if let Some(&known) = self.leaves.get(&(digest.clone(), kind)) {
            return known;
        }
        let (index, digest) = (self.cache.records.len(), digest.clone());
        self.leaves.insert((digest.clone(), kind), index);
        let record = Record { digest, kind, output: 0, name: String::new(), inputs: Vec::new(), results: Vec::new() };
        self.cache.records.push(record);
        index
    }

    /// What the vertex made, in this build or earlier. Sources are found again by themselves.
    fn tree(&self, place: &Place, identity: &Identity) -> Option<Tree> {
        if identity.volatile {
            return None;
        }
        let job = self.bridge.solver_job();
        let solved = job.solved(&place.0).and_then(|s| s.outputs.get(place.1).cloned().flatten());
        solved.or_else(|| job.load_key(&identity.key)?.get(place.1).cloned().flatten()).filter(|t| !t.is_scratch())
    }
}

/// The refs of a result that can be walked from.
fn refs(result: &BuildResult) -> Vec<&Ref> {
    result.refs.iter().into_iter().filter_map(|(_, r)| r).collect()
}

/// Makes a cache of a result that has been built.
pub async fn gather(
    bridge: &Bridge,
    result: &BuildResult,
    mode: Mode,
    packing: Packing,
) -> Result<Gathered, BuildError> {
    let mut walk = Walk::new(bridge);
    let mut wanted: HashSet<LayerId> = HashSet::new();
    for r in refs(result) {
        let tree = r.evaluate().await?;
        wanted.extend(tree.ids());
        walk.add(r.edge());
    }
    let (mut cache, trees, pulled) = (walk.cache, walk.trees, walk.pulled);
    let mut archives = Archives { bridge, packing, known: HashMap::new() };
    let mut numbers: HashMap<(Option<usize>, Digest), usize> = HashMap::new();
    for (record, tree) in trees {
        if mode == Mode::Min && !tree.ids().iter().all(|id| wanted.contains(id)) {
            continue;
        }
        // A result that cannot be packed any more is left out: it came from a cache that has lost it.
        let Some(packed) = archives.of(&tree).await else { continue };
        let mut stack = Vec::with_capacity(packed.len());
        for one in packed {
            let below = stack.last().copied();
            let number = *numbers.entry((below, one.descriptor.digest.clone())).or_insert_with(|| {
                let created = created(&one).filter(|_| !pulled.contains(&one.layer.id));
                cache.layers.push(Layer { descriptor: described(&one), parent: below, created });
                cache.layers.len() - 1
            });
            stack.push(number);
        }
        if let Some(&top) = stack.last() {
            let created = cache.layers[top].created;
            cache.records[record].results.push(StepResult { created, expires: None, layers: stack });
        }
    }
    let layers = archives.known.into_values().flatten();
    let layers = layers.map(|packed| (packed.descriptor.digest.clone(), packed)).collect();
    let mut cache = cache.normalized();
    let mut documents = HashMap::new();
    if !cache.is_empty() {
        for (desc, source) in attachments(bridge, &cache).await {
            documents.insert(desc.digest.clone(), source);
            cache.attachments.push(desc);
        }
        cache = cache.normalized();
    }
    Ok(Gathered { cache, layers, documents })
}

/// Archives of layers, each looked for once. `None`: it cannot be had.
struct Archives<'a> {
    bridge: &'a Bridge,
    packing: Packing,
    known: HashMap<LayerId, Option<Packed>>,
}

impl Archives<'_> {
    async fn of(&mut self, tree: &Tree) -> Option<Vec<Packed>> {
        let jobs = std::slice::from_ref(self.bridge.job());
        let mut stack = Vec::with_capacity(tree.layers().len());
        for (i, layer) in tree.layers().iter().enumerate() {
            if !self.known.contains_key(&layer.id) {
                let made = self.bridge.worker().pack_layer(tree, i, self.packing, jobs).await;
                let made = made.inspect_err(|error| tracing::warn!(%error, "a result is left out of the cache"));
                self.known.insert(layer.id.clone(), made.ok());
            }
            match self.known.get(&layer.id)? {
                None => return None,
                Some(archive) => stack.push(archive.clone()),
            }
        }
        Some(stack)
    }
}

/// The descriptor of a layer with everything that an importer needs.
fn described(packed: &Packed) -> cooper_oci::Descriptor {
    let mut descriptor = packed.descriptor.clone();
    let notes =
        [(annotations::UNCOMPRESSED, packed.diff_id.to_string()), (DESCRIPTION, packed.layer.record().description)];
    for (key, value) in notes {
        if !value.is_empty() {
            descriptor.annotations.insert(key.to_owned(), value);
        }
    }
    descriptor
}

fn created(packed: &Packed) -> Option<Timestamp> {
    Timestamp::from_millisecond(packed.layer.record().created as i64).ok()
}

/// The records for the config of an image with exactly these layers; `None` when nothing fits them. They hold no
/// times, so that the same image comes out of a build that has imported them.
pub(crate) fn inline_records(bridge: &Bridge, root: &Ref, image: &[Packed]) -> Option<Vec<u8>> {
    let mut walk = Walk::new(bridge);
    walk.add(root.edge());
    let (mut cache, trees) = (walk.cache, walk.trees);
    let numbers: HashMap<LayerId, usize> = image.iter().enumerate().map(|(i, p)| (p.layer.id.clone(), i)).collect();
    cache.layers = image
        .iter()
        .enumerate()
        .map(|(i, p)| Layer { descriptor: p.descriptor.clone(), parent: i.checked_sub(1), created: None })
        .collect();
    for (record, tree) in trees {
        let stack: Option<Vec<usize>> = tree.layers().iter().map(|l| numbers.get(&l.id).copied()).collect();
        if let Some(layers) = stack.filter(|s| !s.is_empty()) {
            cache.records[record].results.push(StepResult { created: None, expires: None, layers });
        }
    }
    let cache = cache.normalized();
    // Layers are named by their place in the image.
    let in_order = cache.layers.iter().zip(image).all(|(l, p)| l.descriptor.digest == p.descriptor.digest);
    (!cache.is_empty() && in_order).then(|| cache.marshal_inline())
}

/// Archives by digest, as whoever uploads them needs them.
pub fn sources(gathered: &Gathered) -> HashMap<Digest, Arc<dyn BlobSource>> {
    let layers = gathered.layers.iter().map(|(digest, packed)| (digest.clone(), packed.source.clone()));
    layers.chain(gathered.documents.iter().map(|(digest, source)| (digest.clone(), source.clone()))).collect()
}

/// Every layer and every attachment that is a blob, once.
pub fn distinct(cache: &Cache) -> Vec<cooper_oci::Descriptor> {
    let mut seen = BTreeSet::new();
    let all = cache.layers.iter().map(|l| &l.descriptor).chain(&cache.attachments);
    all.filter(|d| !is_embedded(d) && seen.insert(d.digest.clone())).cloned().collect()
}
