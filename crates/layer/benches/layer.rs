//! Speed of applying, telling apart and compressing: a tree of many small files and one of few large ones.

use std::io::Write;
use std::path::Path;
use std::sync::LazyLock;

use cooper_layer::{
    ApplyOptions, Compression, DiffOptions, Encoding, apply, decompress, diff_trees, recompress, write_blob,
};
use cooper_rooted::Root;
use divan::Bencher;
use divan::counter::BytesCount;

fn main() {
    divan::main();
}

/// Up to 180 MB of this machine's programs and libraries, as a real layer has them.
static USR: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let root = Root::open("/usr").unwrap();
    let mut tar = Limited { bytes: Vec::new(), limit: 180 << 20 };
    // The limit ends the walk with an error; what was written by then is the sample.
    let _ = diff_trees(None, &root, &DiffOptions::default(), &mut tar);
    tar.bytes
});

static USR_GZIP: LazyLock<Vec<u8>> = LazyLock::new(|| blob(&USR, Compression::Gzip));
static USR_ZSTD: LazyLock<Vec<u8>> = LazyLock::new(|| blob(&USR, Compression::Zstd));

/// 20,000 files of 2 KiB in 200 directories.
static SMALL: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let dir = scratch();
    for d in 0..200 {
        let sub = dir.path().join(format!("dir{d}"));
        std::fs::create_dir(&sub).unwrap();
        for f in 0..100 {
            std::fs::write(sub.join(format!("file{f}")), format!("{d} {f} ").repeat(300)).unwrap();
        }
    }
    dir
});

/// In memory where possible: on ext4, creating files right after many were deleted is slow (it searches for inodes that
/// were not freed a moment ago), and would be what is measured.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

struct Limited {
    bytes: Vec<u8>,
    limit: usize,
}

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() > self.limit {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn blob(tar: &[u8], compression: Compression) -> Vec<u8> {
    let mut out = Vec::new();
    write_blob(|w| Ok(w.write_all(tar)?), &Encoding::new(compression), &mut out).unwrap();
    out
}

fn tree_tar(path: &Path) -> Vec<u8> {
    let mut out = Vec::new();
    diff_trees(None, &Root::open(path).unwrap(), &DiffOptions::default(), &mut out).unwrap();
    out
}

/// What the field's tools do: one thread of zlib.
#[divan::bench(sample_count = 1, args = [1, 6])]
fn zlib_single_thread(bencher: Bencher<'_, '_>, level: u32) {
    let tar = &*USR;
    bencher.counter(BytesCount::new(tar.len())).bench(|| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
        encoder.write_all(tar).unwrap();
        let out = encoder.finish().unwrap();
        eprintln!("zlib level {level}: {} of {}", out.len(), tar.len());
    });
}

#[divan::bench(sample_count = 2, args = [1, 2, 3, 4, 5, 6, 7, 9])]
fn gzip_level(bencher: Bencher<'_, '_>, level: i32) {
    encode(bencher, Compression::Gzip, level);
}

#[divan::bench(sample_count = 2, args = [1, 3, 6])]
fn zstd_level(bencher: Bencher<'_, '_>, level: i32) {
    encode(bencher, Compression::Zstd, level);
}

fn encode(bencher: Bencher<'_, '_>, compression: Compression, level: i32) {
    let tar = &*USR;
    bencher.counter(BytesCount::new(tar.len())).bench(|| {
        let encoding = Encoding { compression, level: Some(level), threads: 0 };
        let (info, ()) = write_blob(|w| Ok(w.write_all(tar)?), &encoding, std::io::sink()).unwrap();
        eprintln!("{compression} level {level}: {} of {}", info.size, info.uncompressed_size);
    });
}

#[divan::bench(sample_count = 3)]
fn gzip_to_zstd(bencher: Bencher<'_, '_>) {
    let gzip = &*USR_GZIP;
    bencher
        .counter(BytesCount::new(USR.len()))
        .bench(|| recompress(&gzip[..], None, &Encoding::new(Compression::Zstd), std::io::sink()).unwrap());
}

#[divan::bench(sample_count = 3)]
fn gunzip_alone(bencher: Bencher<'_, '_>) {
    let gzip = &*USR_GZIP;
    bencher
        .counter(BytesCount::new(USR.len()))
        .bench(|| std::io::copy(&mut decompress(&gzip[..], None).unwrap(), &mut std::io::sink()).unwrap());
}

#[divan::bench(sample_count = 3, args = ["plain", "gzip", "zstd"])]
fn apply_usr(bencher: Bencher<'_, '_>, kind: &str) {
    let blob = match kind {
        "plain" => &*USR,
        "gzip" => &*USR_GZIP,
        _ => &*USR_ZSTD,
    };
    apply_blob(bencher, blob, USR.len());
}

#[divan::bench(sample_count = 5)]
fn apply_20000_small(bencher: Bencher<'_, '_>) {
    let tar = tree_tar(SMALL.path());
    apply_blob(bencher, &tar, tar.len());
}

fn apply_blob(bencher: Bencher<'_, '_>, blob: &[u8], size: usize) {
    bencher.counter(BytesCount::new(size)).with_inputs(scratch).bench_values(|dir| {
        // The sample is cut off, so its last entry fails; all before it is unpacked.
        let _ = apply(blob, None, &Root::open(dir.path()).unwrap(), &ApplyOptions::default());
        dir
    });
}

#[divan::bench(sample_count = 5)]
fn diff_20000_small(bencher: Bencher<'_, '_>) {
    let root = Root::open(SMALL.path()).unwrap();
    bencher.bench(|| diff_trees(None, &root, &DiffOptions::default(), &mut std::io::sink()).unwrap());
}

#[divan::bench(sample_count = 5)]
fn diff_20000_small_unchanged(bencher: Bencher<'_, '_>) {
    let root = Root::open(SMALL.path()).unwrap();
    bencher.bench(|| diff_trees(Some(&root), &root, &DiffOptions::default(), &mut std::io::sink()).unwrap());
}
