//! Merges and differences of random trees, against a model that knows nothing of overlays.

use crate::{
    layers::{splice::Form, tree::Tree},
    testing::Bench,
};
use cooper_rooted::{Dir, Kind, Root};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// What is at a path: directories have no content. Every object made has an owner of its own, so that nothing that was
/// made anew looks like what it took the place of.
type Entry = (u32, Option<String>);
type Model = BTreeMap<String, Entry>;

/// What one step changed: what it left at a path, or that it left nothing.
#[derive(Debug, Clone, Default)]
struct Changes {
    /// In the order in which they apply: what is above comes first.
    changed: BTreeMap<String, Option<Entry>>,
    /// Directories that the step went through without changing them.
    touched: BTreeMap<String, Entry>,
}

fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

fn remove(model: &mut Model, path: &str) {
    let below = format!("{path}/");
    model.retain(|p, _| p != path && !p.starts_with(&below));
}

impl Changes {
    fn between(before: &Model, after: &Model, touched: &BTreeSet<String>) -> Self {
        let mut changed: BTreeMap<String, Option<Entry>> = BTreeMap::new();
        for (path, entry) in after {
            if before.get(path) != Some(entry) {
                changed.insert(path.clone(), Some(entry.clone()));
            }
        }
        for path in before.keys().filter(|p| !after.contains_key(*p)) {
            // A directory that is gone is one deletion, and one that became a file none.
            if parents(path).all(|p| after.get(p).is_some_and(|(_, content)| content.is_none())) {
                changed.insert(path.clone(), None);
            }
        }
        // A layer has the directories on the way to its changes.
        let ways: BTreeSet<String> = changed.keys().flat_map(|p| parents(p)).map(str::to_owned).collect();
        for way in ways {
            changed.entry(way.clone()).or_insert_with(|| Some(after[&way].clone()));
        }
        let touched = touched.iter().filter_map(|p| Some((p.clone(), after.get(p)?.clone())));
        Self { changed, touched: touched.filter(|(_, (_, content))| content.is_none()).collect() }
    }

    fn apply(&self, model: &mut Model, form: Form) {
        let mut all = self.changed.clone();
        if form == Form::Whole {
            for (path, entry) in &self.touched {
                all.entry(path.clone()).or_insert_with(|| Some(entry.clone()));
            }
        }
        for (path, entry) in all {
            let Some(entry) = entry else {
                remove(model, &path);
                continue;
            };
            let is_dir = |e: &Entry| e.1.is_none();
            if !(is_dir(&entry) && model.get(&path).is_some_and(is_dir)) {
                remove(model, &path);
            }
            model.insert(path, entry);
        }
    }
}

/// A tree with what the model knows of it: its list of layers, each with what it changed and how it is used.
#[derive(Clone)]
struct Known {
    tree: Tree,
    layers: Vec<(Arc<Changes>, Form)>,
}

impl Known {
    fn model(&self) -> Model {
        let mut model = Model::new();
        for (changes, form) in &self.layers {
            changes.apply(&mut model, *form);
        }
        model
    }
}

struct Maker {
    bench: Bench,
    counter: u32,
}

impl Maker {
    /// A step over `base` that does `count` random things.
    fn step(&mut self, base: &Known, rng: &mut StdRng) -> Known {
        let worker = self.bench.bridge.worker().clone();
        let write = worker.write(&base.tree).unwrap();
        let root = Root::from_fd(cooper_rooted::mount::detached(write.mount()).unwrap());
        let before = base.model();
        let (mut after, mut touched) = (before.clone(), BTreeSet::new());
        for _ in 0..rng.random_range(1..5) {
            self.act(&root, &mut after, &mut touched, rng);
        }
        let tree = write.commit("random step").unwrap();
        let mut layers = base.layers.clone();
        layers.push((Arc::new(Changes::between(&before, &after, &touched)), Form::Whole));
        Known { tree, layers }
    }

    fn act(&mut self, root: &Root, model: &mut Model, touched: &mut BTreeSet<String>, rng: &mut StdRng) {
        let depth = rng.random_range(1..4);
        let names: Vec<_> = (0..depth).map(|_| ["a", "b", "c"][rng.random_range(0..3)]).collect();
        let path = names.join("/");
        self.counter += 1;
        // The way there.
        for way in parents(&path).map(str::to_owned).collect::<Vec<_>>() {
            touched.insert(way.clone());
            match model.get(&way) {
                Some((_, None)) => {}
                found => {
                    if found.is_some() {
                        root.remove(&way).unwrap();
                        remove(model, &way);
                    }
                    self.counter += 1;
                    root.mkdir(&way, 0o755).unwrap();
                    root.set_owner(&way, self.counter, 0).unwrap();
                    model.insert(way, (self.counter, None));
                }
            }
        }
        let known = model.get(&path).cloned();
        match (rng.random_range(0..5), known) {
            // Gone, or replaced by a directory that hides what was there.
            (kind @ 0..2, Some(_)) => {
                root.remove_all(&path).unwrap();
                remove(model, &path);
                if kind == 1 {
                    root.mkdir(&path, 0o755).unwrap();
                    root.set_owner(&path, self.counter, 0).unwrap();
                    model.insert(path, (self.counter, None));
                }
            }
            (0..3, None) => {
                root.mkdir(&path, 0o755).unwrap();
                root.set_owner(&path, self.counter, 0).unwrap();
                model.insert(path, (self.counter, None));
            }
            // Other attributes.
            (2, Some(entry)) => {
                root.set_owner(&path, self.counter, 0).unwrap();
                model.insert(path, (self.counter, entry.1));
            }
            (_, known) => {
                if known.is_some_and(|(_, content)| content.is_none()) {
                    root.remove_all(&path).unwrap();
                    remove(model, &path);
                }
                let content = format!("{:04}", self.counter);
                root.remove_all(&path).unwrap();
                root.write(&path, content.as_bytes(), 0o644).unwrap();
                root.set_owner(&path, self.counter, 0).unwrap();
                model.insert(path, (self.counter, Some(content)));
            }
        }
    }

    fn merge(&self, parts: &[&Known]) -> Known {
        let worker = self.bench.bridge.worker();
        let trees: Vec<Tree> = parts
            .iter()
            .enumerate()
            .map(|(i, p)| worker.portable(&p.tree, if i == 0 { usize::MAX } else { 0 }, Form::Whole).unwrap())
            .collect();
        Known { tree: Tree::merge(&trees), layers: parts.iter().flat_map(|p| p.layers.clone()).collect() }
    }

    async fn diff(&self, lower: &Known, upper: &Known) -> Known {
        let tree = self.bench.bridge.worker().diff(&lower.tree, &upper.tree, &self.bench.cx).await.unwrap();
        let begins = upper.layers.len() >= lower.layers.len()
            && lower.layers.iter().zip(&upper.layers).all(|(a, b)| Arc::ptr_eq(&a.0, &b.0));
        let layers = if begins {
            upper.layers[lower.layers.len()..].iter().map(|(c, _)| (c.clone(), Form::Changes)).collect()
        } else {
            let changes = Changes::between(&lower.model(), &upper.model(), &BTreeSet::new());
            vec![(Arc::new(changes), Form::Whole)]
        };
        Known { tree, layers }
    }

    fn files(&self, tree: &Tree) -> Model {
        let mut found = Model::new();
        let root = self.bench.bridge.worker().read(tree).unwrap().root().unwrap();
        walk(&root.top().unwrap(), "", &mut found);
        found
    }
}

fn walk(dir: &Dir, at: &str, found: &mut Model) {
    for entry in dir.entries().unwrap() {
        let path = format!("{at}{}", entry.name.to_str().unwrap());
        let stat = dir.stat(&entry.name).unwrap();
        assert!(!stat.is_whiteout(), "a deletion shows as {path}");
        if stat.kind == Kind::Dir {
            found.insert(path.clone(), (stat.uid, None));
            walk(&dir.open_dir(&entry.name).unwrap(), &format!("{path}/"), found);
        } else {
            let mut content = String::new();
            std::io::Read::read_to_string(&mut dir.open_file(&entry.name).unwrap(), &mut content).unwrap();
            found.insert(path, (stat.uid, Some(content)));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn merges_and_differences_of_random_trees() {
    let mut bench = Maker { bench: Bench::new(), counter: 1000 };
    for seed in 0..12 {
        let rng = &mut StdRng::seed_from_u64(seed);
        let mut known = vec![Known { tree: Tree::default(), layers: Vec::new() }];
        for round in 0..25 {
            let pick = |rng: &mut StdRng, known: &[Known]| known[rng.random_range(0..known.len())].clone();
            let (a, b) = (pick(rng, &known), pick(rng, &known));
            let (what, made) = match rng.random_range(0..4) {
                0 | 1 => ("a step", bench.step(&a, rng)),
                2 => ("a merge", bench.merge(&[&a, &b])),
                _ => ("a difference", bench.diff(&a, &b).await),
            };
            if made.tree.layers().len() > 40 {
                continue;
            }
            assert_eq!(bench.files(&made.tree), made.model(), "seed {seed}, round {round}: {what}");
            known.push(made);
        }
    }
}
