//! The same changes make the same archives, whichever way snapshots are kept.

use super::pack::diff;
use cooper_layer::{DiffOptions, Mtimes};
use cooper_rooted::{Root, mount};
use cooper_snapshot::{
    Active, Native, Overlay, OverlayFlavour, SnapshotId, Snapshotter,
    conformance::mutations::{Change, Numbers},
};

fn see(active: &Active) -> Root {
    Root::from_fd(mount::detached(active.mount()).unwrap())
}

/// The archive of a stack's top layer. Some changes set times and others take the clock's, so that times are left out.
fn archive(store: &dyn Snapshotter, stack: &[SnapshotId]) -> Vec<u8> {
    let mut out = Vec::new();
    let options = DiffOptions { mtimes: Mtimes::Set(0), ..DiffOptions::default() };
    diff(&store.diff_source(stack).unwrap(), &mut out, &options).unwrap();
    out
}

/// Type, mode, name and link of each entry, for people.
fn headers(archive: &[u8]) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes.split(|b| *b == 0).next().unwrap_or_default()).into_owned();
    let (mut found, mut rest) = (Vec::new(), archive);
    while rest.len() >= 512 && rest[0] != 0 {
        let size = usize::from_str_radix(&text(&rest[124..136]), 8).unwrap();
        let kind = char::from(rest[156]);
        let (name, mode, link) = (text(&rest[..100]), text(&rest[100..108]), text(&rest[157..257]));
        found.push(format!("{kind} {mode} {name} {link} {}", rest[512..512 + size].escape_ascii()));
        rest = &rest[512 + size.next_multiple_of(512)..];
    }
    found
}

#[test]
fn archives_do_not_tell_how_snapshots_are_kept() {
    for seed in 100..124 {
        let dir = tempfile::tempdir().unwrap();
        let overlay = Overlay::open(&dir.path().join("overlay"), OverlayFlavour::Trusted).unwrap();
        let native = Native::open(&dir.path().join("native")).unwrap();
        let numbers = &mut Numbers::new(seed);
        // Stacks of the one and of the other.
        let mut known = vec![(Vec::new(), Vec::new())];
        for step in 0..10 {
            let from = if numbers.below(4) == 0 { numbers.below(known.len()) } else { known.len() - 1 };
            let (mut over, mut plain) = known[from].clone();
            let actives = (overlay.prepare(&over).unwrap(), native.prepare(&plain).unwrap());
            let roots = (see(&actives.0), see(&actives.1));
            // Another tick of the file system's clock than that in which the trees were made, as for any process.
            std::thread::sleep(std::time::Duration::from_millis(12));
            for _ in 0..numbers.below(12) {
                // Overlays can do less: what works there must work in plain directories.
                Change(&roots.0, &roots.1).make(numbers);
            }
            drop(roots);
            over.push(overlay.commit(actives.0).unwrap());
            plain.push(native.commit(actives.1).unwrap());
            let archives = (archive(&overlay, &over), archive(&native, &plain));
            let message = || format!("{:#?}\n{:#?}", headers(&archives.0), headers(&archives.1));
            assert!(archives.0 == archives.1, "seed {seed}, step {step}: {}", message());
            known.push((over, plain));
        }
    }
}
