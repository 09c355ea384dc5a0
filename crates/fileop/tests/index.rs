//! What a content digest depends on, and what it does not.

mod support;

use cooper_fileop::index::{Attributes, EntryKind, IndexBuilder, LayerIndex, Selector, Tree};
use cooper_oci::Digest;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use support::Store;

/// Trees by name, each of layers cut by `---`.
fn trees(store: &Store, specs: &[(&str, &str)]) -> HashMap<String, Tree> {
    let make = |(name, text): &(&str, &str)| {
        let layers: Vec<_> = text
            .split("---")
            .enumerate()
            .map(|(i, part)| store.layer(&format!("{name}{i}"), part))
            .map(|dir| Arc::new(LayerIndex::scan(&dir, false).unwrap()))
            .collect();
        ((*name).to_owned(), Tree::of(&layers))
    };
    specs.iter().map(make).collect()
}

fn digest(spec: &str, selector: &Selector) -> Result<Digest, String> {
    let store = Store::new();
    trees(&store, &[("t", spec)])["t"].digest(selector).map_err(|e| e.to_string())
}

fn at(path: &str) -> Selector {
    Selector::path(path)
}

fn contents(path: &str) -> Selector {
    Selector { contents_only: true, ..at(path) }
}

fn pattern(path: &str) -> Selector {
    Selector { wildcard: true, ..contents(path) }
}

const BASE: &str = "d /d 755 0:0\nf /d/a 644 0:0 A\nf /d/s/b 600 1:2 B\nl /d/l a\nl /ln d\nf /other 644 0:0 O";

#[test]
fn every_attribute_but_times_counts() {
    let same = digest(BASE, &at("/d")).unwrap();
    for (what, from, to, differs) in [
        ("content", "A", "B", true),
        ("permissions", "/d/a 644", "/d/a 600", true),
        ("owner", "1:2", "3:2", true),
        ("group", "1:2", "1:3", true),
        ("name", "/d/a", "/d/c", true),
        ("link target", "l /d/l a", "l /d/l b", true),
        ("a new file", "f /other", "f /d/new", true),
        ("the directory itself", "d /d 755", "d /d 700", true),
        ("kind", "l /d/l a", "p /d/l", true),
        ("an attribute", "l /ln d", "x /d/a user.note n", true),
        ("a device number", "l /d/l a", "c /d/l 1:3", true),
        ("what lies beside", "f /other 644 0:0 O", "f /other 600 0:0 P", false),
        ("a hard link", "f /d/a 644 0:0 A", "f /x 644 0:0 A\nh /d/a /x", false),
    ] {
        let changed = digest(&BASE.replace(from, to), &at("/d")).unwrap();
        assert_eq!(changed != same, differs, "{what}");
    }
    let store = Store::new();
    let dir = store.layer("t", BASE);
    std::fs::File::options()
        .write(true)
        .open(dir.join("d/a"))
        .unwrap()
        .set_modified(std::time::SystemTime::now())
        .unwrap();
    let tree = Tree::of(&[Arc::new(LayerIndex::scan(&dir, false).unwrap())]);
    assert_eq!(tree.digest(&at("/d")).unwrap(), same, "times");
}

#[test]
fn the_same_content_elsewhere_is_the_same() {
    let store = Store::new();
    let t = trees(&store, &[("a", "f /x/in/f 644 0:0 1"), ("b", "f /y/z/in/f 644 0:0 1\nl /l y/z")]);
    let one = t["a"].digest(&at("/x")).unwrap();
    assert_eq!(one, t["b"].digest(&at("/y/z")).unwrap());
    assert_eq!(one, t["b"].digest(&at("l/")).unwrap(), "through a link");
    assert_ne!(one, t["b"].digest(&Selector { follow_links: false, ..at("/l") }).unwrap(), "the link itself");
    assert_ne!(one, t["a"].digest(&at("/x/in")).unwrap());
    assert_ne!(one, t["a"].digest(&contents("/x")).unwrap());
    assert_eq!(t["a"].digest(&contents("/x")).unwrap(), t["b"].digest(&contents("/y/z/.")).unwrap());
}

#[test]
fn contents_do_not_depend_on_the_directory_itself() {
    let other = BASE.replace("d /d 755", "d /d 700");
    assert_eq!(digest(BASE, &contents("/d")), digest(&other, &contents("/d")));
    assert_ne!(digest(BASE, &at("/d")), digest(&other, &at("/d")));
}

#[test]
fn names_and_nesting_cannot_be_confused() {
    let specs = [
        "f /d/ab 644 0:0 c",
        "f /d/a 644 0:0 bc",
        "f /d/a/b 644 0:0 c",
        "d /d/a\nf /d/b 644 0:0 c",
        "d /d/a/b",
        "d /d/a\nd /d/b",
    ];
    let digests: std::collections::HashSet<_> = specs.iter().map(|s| digest(s, &contents("/d")).unwrap()).collect();
    assert_eq!(digests.len(), specs.len());
}

#[test]
fn layers_are_seen_merged() {
    let flat = digest("f /d/a 644 0:0 new\nf /d/b 644 0:0 b\nd /e\nf /e/f 644 0:0 f", &at("/")).unwrap();
    let stacks = [
        "f /d/a 644 0:0 old\nf /d/x 644 0:0 gone\n---\nf /d/a 644 0:0 new\nw /d/x\nf /d/b 644 0:0 b\n---\nf /e/f 644 0:0 f",
        "f /e/hidden 644 0:0 h\nf /d/b 644 0:0 b\n---\no /e\nf /e/f 644 0:0 f\nf /d/a 644 0:0 new",
        "f /d 644 0:0 file\nl /e d\n---\nf /d/a 644 0:0 new\nf /d/b 644 0:0 b\nf /e/f 644 0:0 f",
        "f /d/zzz 644\n---\nw /d\n---\nf /d/a 644 0:0 new\nf /d/b 644 0:0 b\nf /e/f 644 0:0 f",
    ];
    for stack in stacks {
        assert_eq!(digest(stack, &at("/")).unwrap(), flat, "{stack}");
    }
}

#[test]
fn wildcards_take_the_names_of_matches() {
    let spec = "f /a1 644 0:0 1\nf /a2 644 0:0 2\nf /b 644 0:0 1\nf /s/a1 644 0:0 1\nf /s/a2 644 0:0 2";
    assert_eq!(digest(spec, &pattern("/a*")), digest(spec, &pattern("/s/a*")));
    assert_ne!(digest(spec, &pattern("/a*")), digest(spec, &pattern("/a1*")));
    assert_ne!(digest(spec, &pattern("/a1*")), digest(spec, &pattern("/b*")));
    assert_eq!(digest(spec, &pattern("/b")), digest(spec, &contents("/a1")), "no wildcard, no name");
    assert!(digest(spec, &pattern("/none*")).is_ok());
    assert!(digest(spec, &pattern("/none/x*")).is_ok());
}

#[test]
fn filters_take_exactly_what_is_copied() {
    let filtered = |include: &[&str], exclude: &[&str]| Selector {
        include_patterns: include.iter().map(|p| (*p).into()).collect(),
        exclude_patterns: exclude.iter().map(|p| (*p).into()).collect(),
        ..contents("/d")
    };
    let changed = |from: &str, to: &str| BASE.replace(from, to);
    for (what, selector, spec, differs) in [
        ("left out", filtered(&["s/b"], &[]), changed("f /d/a 644", "f /d/a 600"), false),
        ("taken", filtered(&["s/b"], &[]), changed("0:0 A", "0:0 C"), false),
        ("taken", filtered(&["s/b"], &[]), changed("1:2 B", "1:2 C"), true),
        ("taken", filtered(&["**/b"], &[]), changed("1:2 B", "1:2 C"), true),
        ("left out", filtered(&[], &["s"]), changed("1:2 B", "1:2 C"), false),
        ("taken", filtered(&[], &["s"]), changed("0:0 A", "0:0 C"), true),
        ("taken back", filtered(&[], &["s", "!s/b"]), changed("1:2 B", "1:2 C"), true),
        ("its directory", filtered(&["s/b"], &[]), format!("d /d/s 700 0:0\n{BASE}"), true),
        ("another directory", filtered(&["a"], &[]), format!("d /d/s 700 0:0\n{BASE}"), false),
    ] {
        assert_eq!(digest(BASE, &selector) != digest(&spec, &selector), differs, "{what}: {spec}");
    }
}

#[test]
fn missing_paths_are_named() {
    for (selector, want) in [
        (at("/nope"), Err("\"/nope\": not found".to_owned())),
        (at("other/x"), Err("\"/other/x\": not found".to_owned())),
        (
            Selector { required_paths: vec!["/d/z".into()], include_patterns: vec!["d/z".into()], ..at("/") },
            Err("\"/d/z\": not found".to_owned()),
        ),
        (Selector { required_paths: vec!["/d/a".into()], ..at("/") }, Ok(())),
        (Selector { required_paths: vec!["/d/s".into()], include_patterns: vec!["d/s".into()], ..at("/") }, Ok(())),
    ] {
        assert_eq!(digest(BASE, &selector).map(drop), want);
    }
}

#[test]
fn survives_being_saved() {
    let store = Store::new();
    let dir = store.layer("t", &format!("{BASE}\nw /gone\no /op\nx /d/a user.note n"));
    let index = LayerIndex::scan(&dir, false).unwrap();
    let fresh = LayerIndex::decode(&index.encode(), dir.clone()).unwrap();
    let index = Arc::new(index);
    let digest = Tree::of(std::slice::from_ref(&index)).digest(&at("/")).unwrap();
    assert!(index.take_learnt() && !index.take_learnt());
    let bytes = index.encode();
    assert_eq!(Tree::of(&[Arc::new(fresh)]).digest(&at("/")).unwrap(), digest);
    // All contents are known now: the files are not needed any more.
    let loaded = LayerIndex::decode(&bytes, PathBuf::from("/nonexistent")).unwrap();
    assert_eq!(loaded.encode(), bytes);
    assert_eq!(Tree::of(&[Arc::new(loaded)]).digest(&at("/")).unwrap(), digest);
    for cut in 0..bytes.len() {
        assert!(LayerIndex::decode(&bytes[..cut], PathBuf::new()).is_err(), "cut at {cut}");
    }
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x21;
        assert!(LayerIndex::decode(&damaged, PathBuf::new()).is_err(), "damaged at {at}");
    }
}

#[test]
fn built_without_a_walk() {
    let store = Store::new();
    let dir = store.layer("t", "f /d/a 644 0:0 A\nl /l d/a");
    let walked = Tree::of(&[Arc::new(LayerIndex::scan(&dir, false).unwrap())]);
    let mut builder = IndexBuilder::default();
    let content = Some(Digest::of("A"));
    builder.insert(b"l", Attributes { target: b"d/a".to_vec(), ..Attributes::new(EntryKind::Symlink, 0o777) });
    builder.insert(b"d/a", Attributes { size: 1, content, ..Attributes::new(EntryKind::File, 0o644) });
    builder.insert(b"d/removed", Attributes::new(EntryKind::File, 0o644));
    builder.remove(b"d/removed");
    let index = builder.finish(PathBuf::from("/nonexistent"));
    assert_eq!(index.content(b"/d/a"), Some(Digest::of("A")));
    assert_eq!(Tree::of(&[Arc::new(index)]).digest(&at("/")).unwrap(), walked.digest(&at("/")).unwrap());
}
