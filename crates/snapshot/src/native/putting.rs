//! Puts what a layer has into a tree, directory by directory.

use cooper_rooted::{CloneMode, Copier, Cursor, Dir, Metadata, Result, Root, clone_entry};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::PathBuf;

/// A tree that is being changed, and where in it.
pub(super) struct Putting<'a> {
    root: &'a Root,
    here: Cursor,
    mode: CloneMode,
    copier: Copier,
    /// Where files with several names were put, by device and inode of the original.
    joined: HashMap<(u64, u64), PathBuf>,
}

impl<'a> Putting<'a> {
    /// At the top of a tree. With [`CloneMode::HardLink`] files get into it by second names, and nobody may write to them in
    /// place.
    pub(super) fn into(root: &'a Root, mode: CloneMode) -> Result<Self> {
        let (copier, joined) = Default::default();
        Ok(Self { root, here: Cursor::new(root)?, mode, copier, joined })
    }

    pub(super) fn dir(&self) -> &Dir {
        self.here.dir()
    }

    /// Goes into a directory, which takes the place of anything else of that name.
    pub(super) fn down(&mut self, name: &OsStr) -> Result<()> {
        let dir = self.here.dir();
        if !dir.try_stat(name)?.is_some_and(|there| there.is_dir()) {
            dir.remove_all(name)?;
            dir.mkdir(name, 0o700)?;
        }
        self.here.down(name)
    }

    pub(super) fn up(&mut self) -> Result<()> {
        self.here.up()
    }

    /// Puts an entry of `from` that is no directory in the place of whatever is there.
    pub(super) fn object(&mut self, from: &Dir, name: &OsStr, stat: &Metadata) -> Result<()> {
        let to = self.here.dir();
        to.remove_all(name)?;
        if self.mode == CloneMode::HardLink {
            return share(from, name, to, &mut self.copier);
        }
        if stat.nlink > 1 {
            let path = to.path().join(name);
            if let Some(first) = self.joined.get(&(stat.dev, stat.ino)) {
                return self.root.hard_link(first, path);
            }
            self.joined.insert((stat.dev, stat.ino), path);
        }
        clone_entry(from, name, to, name, &mut self.copier)
    }
}

/// Gives an entry of a tree that nobody writes to a second name in another such tree; copies it where that is impossible.
fn share(from: &Dir, name: &OsStr, to: &Dir, copier: &mut Copier) -> Result<()> {
    match to.hard_link(from, name, name) {
        Err(e) if e.is_linking_impossible() => clone_entry(from, name, to, name, copier),
        linked => linked,
    }
}
