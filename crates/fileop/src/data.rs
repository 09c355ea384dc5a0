//! Getting one file from a layer into the writable directory: by a hard link when nothing about it
//! changes, else by copying.

use crate::stack::Level;
use crate::sys::{self, XattrPlace};
use rustix::fs::{self, AtFlags, FileType, Mode};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// What a copied file shall have.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
    pub times: fs::Timestamps,
}

impl Wanted {
    /// Whether the file has all this already; access times do not count.
    pub(crate) fn is(&self, st: &sys::Stat) -> bool {
        let kept_mode = sys::kind(st) == FileType::Symlink || self.mode == st.st_mode & sys::PERM;
        kept_mode && (self.uid, self.gid) == (st.st_uid, st.st_gid) && self.times.last_modification == sys::mtime(st)
    }
}

/// Who linked an inode: hard links are only kept among the files of one copy and one layer, others
/// must not become the same file by accident.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    pub copy: u32,
    pub layer: usize,
}

/// Moves file content into one writable directory tree and remembers what it shares with other layers.
#[derive(Debug, Default)]
pub(crate) struct Mover {
    data: cooper_rooted::Copier,
    /// Inodes of committed layers that the tree now has names of. They must not be written to.
    linked: HashMap<u64, Claim>,
    /// The file systems differ, or links are not permitted.
    links_refused: bool,
}

impl Mover {
    /// Gives the file `name` of a committed layer a second name. False when it has to be copied.
    pub(crate) fn link(
        &mut self,
        from: &Level,
        name: &CStr,
        ino: u64,
        claim: Claim,
        to: BorrowedFd<'_>,
        new_name: &CStr,
    ) -> Result<bool, Errno> {
        if self.links_refused || self.linked.get(&ino).is_some_and(|c| *c != claim) {
            return Ok(false);
        }
        match fs::linkat(from.fd(), name, to, new_name, AtFlags::empty()) {
            Ok(()) => {
                self.linked.insert(ino, claim);
                Ok(true)
            }
            Err(Errno::XDEV | Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) => {
                self.links_refused = true;
                Ok(false)
            }
            Err(Errno::MLINK) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Copies a file of any kind but a directory, with its extended attributes.
    pub(crate) fn copy(
        &mut self,
        from: &Level,
        name: &CStr,
        st: &sys::Stat,
        wanted: &Wanted,
        to: BorrowedFd<'_>,
        new_name: &CStr,
    ) -> io::Result<()> {
        match sys::kind(st) {
            FileType::RegularFile => return self.copy_file(from, name, wanted, to, new_name),
            FileType::Symlink => fs::symlinkat(sys::read_link(from.fd(), name)?.as_slice(), to, new_name)?,
            // A socket is nothing without the process that listens on it.
            FileType::Socket => drop(sys::create_file(to, new_name)?),
            kind => {
                let device = if kind == FileType::Fifo { 0 } else { st.st_rdev };
                fs::mknodat(to, new_name, kind, Mode::from_raw_mode(0o600), device)?;
            }
        }
        sys::chown_at(to, new_name, wanted.uid, wanted.gid)?;
        if sys::kind(st) != FileType::Symlink {
            fs::chmodat(to, new_name, Mode::from_raw_mode(wanted.mode), AtFlags::empty())?;
        }
        let attributes = sys::xattrs(XattrPlace::Name(from.fd(), name))?;
        sys::set_xattrs(XattrPlace::Name(to, new_name), &attributes)?;
        sys::set_times_at(to, new_name, &wanted.times)?;
        Ok(())
    }

    fn copy_file(
        &mut self,
        from: &Level,
        name: &CStr,
        wanted: &Wanted,
        to: BorrowedFd<'_>,
        new_name: &CStr,
    ) -> io::Result<()> {
        let source = sys::open_file(from.fd(), name)?;
        let target = sys::create_file(to, new_name)?;
        self.data.copy(source.as_fd(), target.as_fd())?;
        sys::chown(target.as_fd(), wanted.uid, wanted.gid)?; // before chmod: it clears set-id bits
        sys::chmod(target.as_fd(), wanted.mode)?;
        sys::set_xattrs(XattrPlace::Fd(target.as_fd()), &sys::xattrs(XattrPlace::Fd(source.as_fd()))?)?;
        fs::futimens(&target, &wanted.times)?;
        Ok(())
    }
}
