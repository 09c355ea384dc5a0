//! The two numbers that builds feel: copying an unchanged tree and digesting an indexed one. Bounds are
//! wide, for slow machines; the times are printed.

mod support;

use cooper_fileop::index::{LayerIndex, Selector, Tree};
use cooper_fileop::{Action, Executor, Inputs, Links};
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::{Store, copy, tree};

fn many_files(store: &Store, count: usize) -> std::path::PathBuf {
    let dir = store.layer("source", "");
    for i in 0..count {
        let sub = dir.join(format!("d{}/e{}", i % 20, i % 200));
        if i < 200 {
            std::fs::create_dir_all(&sub).unwrap();
        }
        std::fs::write(sub.join(format!("f{i}")), i.to_string()).unwrap();
    }
    dir
}

#[test]
fn large_trees() {
    let store = Store::new();
    let source = many_files(&store, 20_000);
    let mount = tree(std::slice::from_ref(&source));

    let plain = store.layer("plain", "");
    let begin = Instant::now();
    for i in 0..20_000 {
        let from = source.join(format!("d{}/e{}/f{i}", i % 20, i % 200));
        std::fs::hard_link(from, plain.join(format!("f{i}"))).unwrap();
    }
    let links = begin.elapsed();

    let lower = store.layer("lower", "d /app");
    let mut executor = Executor::open(&store.active("linked", &[lower]), Links::Allowed).unwrap();
    let begin = Instant::now();
    let inputs = Inputs { source: Some(&mount), ..Inputs::default() };
    executor.apply(&Action::Copy(Box::new(copy("/", "/app/"))), inputs).unwrap();
    let copied = begin.elapsed();

    let begin = Instant::now();
    let index = Arc::new(LayerIndex::scan(&source, false).unwrap());
    let scanned = begin.elapsed();
    let begin = Instant::now();
    let cold = Tree::of(std::slice::from_ref(&index)).digest(&Selector::path("/")).unwrap();
    let read = begin.elapsed();
    let bytes = index.encode();
    let begin = Instant::now();
    let loaded = Arc::new(LayerIndex::decode(&bytes, source).unwrap());
    let decoded = begin.elapsed();
    let filter = Selector { exclude_patterns: vec!["**/f1".into(), "**/f2*".into()], ..Selector::path("/") };
    let begin = Instant::now();
    Tree::of(std::slice::from_ref(&loaded)).digest(&filter).unwrap();
    let filtered = begin.elapsed();
    let begin = Instant::now();
    assert_eq!(Tree::of(&[loaded]).digest(&Selector::path("/")).unwrap(), cold);
    let warm = begin.elapsed();
    println!(
        "20,000 files: {links:?} link(2) alone, {copied:?} copied; {scanned:?} scanned, {read:?} hashed, \
         {} KiB saved, {decoded:?} loaded, {warm:?} digested, {filtered:?} filtered",
        bytes.len() >> 10
    );
    assert!(copied < links * 4 + Duration::from_millis(200), "{copied:?} against {links:?} for links alone");
    assert!(warm < Duration::from_millis(20), "{warm:?}");
}
