//! The same random actions on an overlay's upper directory and on a plain copy of the tree: what the kernel
//! shows must be the same, and so must the digests of what it shows.

mod support;

use cooper_fileop::index::{LayerIndex, Selector, Tree};
use cooper_fileop::{Action, Copy, Executor, Inputs, Links, Mkdir, Mkfile, Owner, Principal, Rm, Symlink};
use cooper_mount::Mount;
use std::path::PathBuf;
use std::sync::Arc;
use support::{Store, copy, show, upper};

/// A small generator, so that a failure can be repeated by its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    fn path(&mut self) -> String {
        let depth = 1 + self.below(3);
        (0..depth).flat_map(|_| ["/", self.pick(&["a", "b", "c", "l"])]).collect()
    }

    fn layer(&mut self) -> String {
        let count = 2 + self.below(6);
        let line = |r: &mut Self| {
            let path = r.path();
            match r.below(8) {
                0 | 1 => format!("d {path} {} {}:0\n", r.pick(&["700", "755", "1777"]), r.below(3)),
                2 => format!("l {path} {}\n", r.pick(&["a", "../b", "/c", "a/b", "nowhere"])),
                3 => format!("p {path}\n"),
                _ => format!("f {path} {} {}:1 {}\n", r.pick(&["600", "644", "4755"]), r.below(3), r.below(100)),
            }
        };
        (0..count).map(|_| line(self)).collect()
    }

    fn action(&mut self) -> Action {
        let flip = |r: &mut Self| r.below(2) == 0;
        match self.below(9) {
            0 => Action::Mkdir(Mkdir { path: self.path(), mode: 0o711, make_parents: flip(self), ..Mkdir::default() }),
            1 => {
                let data = self.below(100).to_string().into_bytes();
                Action::Mkfile(Mkfile { path: self.path(), mode: 0o640, data, ..Mkfile::default() })
            }
            2 => Action::Symlink(Symlink { oldpath: self.path(), newpath: self.path(), ..Symlink::default() }),
            3 | 4 => {
                let allow_wildcard = flip(self);
                let path = if allow_wildcard { format!("{}*", self.path()) } else { self.path() };
                Action::Rm(Rm { path, allow_not_found: flip(self), allow_wildcard })
            }
            _ => Action::Copy(Box::new(self.copy())),
        }
    }

    fn copy(&mut self) -> Copy {
        let (src, dest) = (self.path(), self.path());
        let flip = |r: &mut Self| r.below(2) == 0;
        Copy {
            dir_copy_contents: flip(self),
            follow_symlink: flip(self),
            always_replace: flip(self),
            create_dest_path: self.below(4) > 0,
            owner: flip(self).then_some(Owner { user: Some(Principal::Id(7)), group: None }),
            mode: flip(self).then_some(0o751),
            exclude_patterns: if flip(self) { vec!["**/b".into(), "!a/b".into()] } else { Vec::new() },
            include_patterns: if self.below(4) == 0 { vec!["a".into(), "*/c".into()] } else { Vec::new() },
            ..copy(&if flip(self) { "/".to_owned() } else { src }, &format!("{dest}{}", self.pick(&["", "/"])))
        }
    }
}

/// A layer from random lines; lines that do not fit what is there are left out.
fn layer(store: &Store, name: &str, random: &mut Random) -> PathBuf {
    let dir = store.layer(name, "");
    for line in random.layer().lines() {
        let path = dir.join(line.split(' ').nth(1).unwrap().trim_start_matches('/'));
        let above = path.ancestors().skip(1).take_while(|p| *p != dir);
        let fits = above.map(std::path::Path::symlink_metadata).all(|m| m.map_or(true, |m| m.is_dir()));
        if fits && path.symlink_metadata().is_err() {
            support::fill(&dir, line);
        }
    }
    dir
}

/// The kernel's view of `lower` copied to a directory of its own.
fn flatten(store: &Store, name: &str, lower: &[PathBuf]) -> Mount {
    let target = store.active(name, &[]);
    let fd = cooper_rooted::mount::detached(&support::tree(lower)).unwrap();
    let from = cooper_rooted::Root::from_fd(fd);
    let to = cooper_rooted::Root::open(upper(&target)).unwrap();
    cooper_rooted::clone_tree(&from, &to, cooper_rooted::CloneMode::Copy).unwrap();
    target
}

/// Times of parents that were merely passed through depend on the order of calls.
fn without_times(text: &str) -> String {
    text.lines().map(|l| l.trim_end_matches(" now").to_owned() + "\n").collect()
}

fn digest(dirs: &[PathBuf]) -> cooper_oci::Digest {
    let layers: Vec<_> = dirs.iter().map(|d| Arc::new(LayerIndex::scan(d, false).unwrap())).collect();
    Tree::of(&layers).digest(&Selector { contents_only: true, ..Selector::path("/") }).unwrap()
}

fn round(seed: u64) {
    let store = Store::new();
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut lower: Vec<_> = (0..=random.below(3)).map(|i| layer(&store, &format!("lower{i}"), &mut random)).collect();
    let source: Vec<_> = (0..=random.below(2)).map(|i| layer(&store, &format!("source{i}"), &mut random)).collect();
    let source_mount = support::tree(&source);
    // Twice, so that the second time there are whiteouts and opaque directories below.
    for generation in 0..2 {
        let overlay = store.active(&format!("overlay{generation}"), &lower);
        let flat = flatten(&store, &format!("flat{generation}"), &lower);
        let mut on_overlay = Executor::open(&overlay, Links::Allowed).unwrap();
        let mut on_flat = Executor::open(&flat, Links::Refused).unwrap();
        for step in 0..8 {
            let action = random.action();
            let inputs = Inputs { source: Some(&source_mount), ..Inputs::default() };
            let outcomes = [on_overlay.apply(&action, inputs), on_flat.apply(&action, inputs)];
            let [one, other] = outcomes.map(|o| o.map_err(|e| e.to_string()));
            let place = format!("seed {seed}, generation {generation}, step {step}: {action:?}");
            // A directory may fail at another entry first; that both fail is what counts.
            assert_eq!(one.is_ok(), other.is_ok(), "{place}: {one:?} {other:?}");
            if one.is_err() {
                return;
            }
            assert_eq!(without_times(&show(&overlay)), without_times(&show(&flat)), "{place}");
        }
        lower.push(upper(&overlay));
        assert_eq!(digest(&lower), digest(&[upper(&flat)]), "seed {seed}: digests");
    }
}

#[test]
fn overlays_and_plain_trees_agree() {
    std::panic::set_hook(Box::new(|_| {}));
    let rounds: Vec<u64> = match std::env::var("COOPER_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (1..=60).collect(),
    };
    let failed: Vec<_> = rounds
        .into_iter()
        .filter_map(|seed| std::panic::catch_unwind(|| round(seed)).err())
        .filter_map(|p| p.downcast::<String>().ok())
        .collect();
    let _ = std::panic::take_hook();
    assert!(failed.is_empty(), "{} rounds failed, first: {}", failed.len(), failed[0]);
}
