//! A copied file that is an archive is unpacked instead: tar, plain or in gzip, zstd, bzip2 or xz, told by
//! its content alone.

use crate::path::{Resolved, c_name, resolve};
use crate::stack::{Node, Stack};
use crate::target::{NewDir, TargetDir, mkdir_all};
use crate::{Error, Executor, sys};
use cooper_layer::{ApplyOptions, Compression, Whiteouts, apply, decompress, tar};
use cooper_rooted::Root;
use rustix::fs::{FileType, SeekFrom};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::AsFd;

/// Directories that are made for an archive get this, whatever mode the copy asks for.
const DIR_MODE: u32 = 0o755;

const BUFFER: usize = 256 << 10;

/// Unpacks the file at `src` into the directory `dest` when it is an archive; false when it is not.
pub(crate) fn unpack(
    executor: &mut Executor,
    source: &Stack,
    src: &str,
    dest: &str,
    new: NewDir,
) -> Result<bool, Error> {
    let Some((mut file, path)) = open_regular(source, src)? else { return Ok(false) };
    if !is_archive(&mut file).map_err(|e| Error::at("read", &path, e))? {
        return Ok(false);
    }
    let at = resolve(&executor.target, dest, true)?;
    let dest_path = at.path();
    let (dir, _) = mkdir_all(at, NewDir { mode: DIR_MODE, ..new })?;
    let fail = |e: &dyn std::error::Error| Error::Unpack { path: path.clone(), reason: chain(e) };
    let root = open_target(executor, &dir, &dest_path).map_err(|e| fail(&e))?;
    let options = ApplyOptions { whiteouts: Whiteouts::Literal, owner: new.owner, ..ApplyOptions::default() };
    let (stream, compression) = plain(file).map_err(|e| Error::at("read", &path, e))?;
    apply(stream, compression, &root, &options).map_err(|e| fail(&e))?;
    Ok(true)
}

/// The directory as a root to unpack into: itself when nothing lies below it, else within a mount of the
/// whole tree that lasts as long as the root.
fn open_target(executor: &Executor, dir: &TargetDir, path: &str) -> Result<Root, cooper_rooted::Error> {
    if let Some(fd) = dir.alone() {
        return Root::from_fd(fd.try_clone_to_owned().map_err(|source| cooper_rooted::Error::Io {
            action: "open",
            path: path.into(),
            source,
        })?)
        .try_clone();
    }
    Root::from_fd(cooper_rooted::mount::detached(executor.mount())?).sub(path.trim_start_matches('/'))
}

fn open_regular(source: &Stack, src: &str) -> Result<Option<(File, String)>, Error> {
    let Resolved { dir, rest, dir_path } = resolve(source, src, true)?;
    let [name] = rest.as_slice() else { return Ok(None) };
    let path = crate::path::join(&dir_path, &crate::path::text(name));
    let name = c_name(name, &path)?;
    match dir.child(&name, &path)? {
        Some(Node::Leaf(st, level)) if sys::kind(&st) == FileType::RegularFile => {
            let fd = sys::open_file(level.fd(), &name).map_err(|e| Error::at("open", &path, e))?;
            Ok(Some((File::from(fd), path)))
        }
        _ => Ok(None),
    }
}

/// Whether the file begins with an entry of an archive; its position is at the start before and after.
fn is_archive(file: &mut File) -> io::Result<bool> {
    let found = match plain(file.try_clone()?) {
        Ok((stream, compression)) => match decompress(stream, compression) {
            Ok(stream) => {
                let first = tar::Reader::new(BufReader::with_capacity(BUFFER, stream)).next_entry();
                matches!(first, Ok(Some(_)))
            }
            Err(_) => false,
        },
        Err(_) => false,
    };
    rustix::fs::seek(file.as_fd(), SeekFrom::Start(0))?;
    Ok(found)
}

type Stream = Box<dyn Read + Send>;

/// The stream freed of compressions that layers do not have, and what is left for the layer code to undo.
fn plain(mut file: File) -> io::Result<(Stream, Option<Compression>)> {
    let mut magic = Vec::with_capacity(6);
    (&mut file).take(6).read_to_end(&mut magic)?;
    rustix::fs::seek(file.as_fd(), SeekFrom::Start(0))?;
    let reader = BufReader::with_capacity(BUFFER, file);
    Ok(match magic.as_slice() {
        [b'B', b'Z', b'h', ..] => {
            (Box::new(bzip2::bufread::MultiBzDecoder::new(reader)), Some(Compression::Uncompressed))
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0x00] => {
            (Box::new(lzma_rust2::XzReader::new(reader, true)), Some(Compression::Uncompressed))
        }
        _ => (Box::new(reader), None),
    })
}

/// An error with everything behind it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !out.ends_with(&text) {
            out = format!("{out}: {text}");
        }
        next = cause.source();
    }
    out
}
