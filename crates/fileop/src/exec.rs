//! Applying actions to one active snapshot.

use crate::aliases::Aliases;
use crate::data::Mover;
use crate::path::{Resolved, c_name, clean, join, resolve, text};
use crate::stack::Stack;
use crate::target::{Existing, NewDir, Target, TargetDir, mkdir_all, set_dir_time};
use crate::{Action, Error, Mkdir, Mkfile, Owner, Rm, Symlink, Time, copy, owner, sys, wildcard};
use cooper_mount::Mount;
use rustix::fs;
use rustix::io::Errno;
use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether files may be hard-linked from committed layers into the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// The target becomes a layer that an overlay never writes to: sharing is safe.
    Allowed,
    /// The target will be written to in place later (native snapshots).
    Refused,
}

/// The trees that an action reads.
#[derive(Debug, Clone, Copy, Default)]
pub struct Inputs<'a> {
    /// What a copy copies from; an empty tree when absent.
    pub source: Option<&'a Mount>,
    /// Where a user name is looked up.
    pub users: Option<&'a Mount>,
    /// Where a group name is looked up.
    pub groups: Option<&'a Mount>,
}

/// Applies actions, one after the other, to one writable tree.
///
/// Invariant: between the first action and the commit of the target nobody else writes into it, and it
/// is not mounted. Files linked from other layers are never written through; the executor knows
/// which they are, so all actions on one target go through one executor.
#[derive(Debug)]
pub struct Executor {
    pub(crate) target: Target,
    pub(crate) mover: Mover,
    pub(crate) aliases: Aliases,
    pub(crate) links: Links,
    pub(crate) copies: u32,
    mount: Mount,
    cancel: Arc<AtomicBool>,
}

impl Executor {
    /// Opens `target`, the mount of an active snapshot, without mounting it.
    ///
    /// # Errors
    /// [`Error::ReadOnlyTarget`]; [`Error::Layer`] when a directory cannot be opened.
    pub fn open(target: &Mount, links: Links) -> Result<Self, Error> {
        Ok(Self {
            target: Target::open(target)?,
            mover: Mover::default(),
            aliases: Aliases::default(),
            links,
            copies: 0,
            mount: target.clone(),
            cancel: Arc::default(),
        })
    }

    /// A flag that stops a running action with [`Error::Canceled`] once it is set.
    pub fn cancel_flag(&self) -> Arc<AtomicBool> {
        self.cancel.clone()
    }

    /// Makes `flag` the one that stops a running action, shared by several executors.
    pub fn set_cancel_flag(&mut self, flag: Arc<AtomicBool>) {
        self.cancel = flag;
    }

    /// Applies one action. After an error the target holds what was done before it.
    pub fn apply(&mut self, action: &Action, inputs: Inputs<'_>) -> Result<(), Error> {
        let ids = |o: &Option<Owner>| o.as_ref().map(|o| owner::ids(o, &inputs)).transpose();
        match action {
            Action::Mkdir(a) => self.mkdir(a, ids(&a.owner)?),
            Action::Mkfile(a) => self.mkfile(a, ids(&a.owner)?),
            Action::Symlink(a) => self.symlink(a, ids(&a.owner)?),
            Action::Rm(a) => self.rm(a),
            Action::Copy(a) => {
                let owner = ids(&a.owner)?;
                let source = match inputs.source {
                    Some(mount) => Stack::open(mount)?,
                    None => Stack::of(Vec::new(), false)?,
                };
                copy::run(self, a, &source, owner)
            }
        }
    }

    pub(crate) fn check_canceled(&self) -> Result<(), Error> {
        if self.cancel.load(Ordering::Relaxed) { Err(Error::Canceled) } else { Ok(()) }
    }

    /// Whether a file of a committed layer may become a file of the target by a link.
    pub(crate) fn may_link(&mut self, st: &sys::Stat) -> bool {
        let lower = self.target.dirs.split_last().map_or(&[][..], |(_, lower)| lower);
        self.aliases.allow(st, lower)
    }

    /// The target as it was given.
    pub(crate) fn mount(&self) -> &Mount {
        &self.mount
    }

    fn mkdir(&mut self, action: &Mkdir, owner: Option<(u32, u32)>) -> Result<(), Error> {
        let at = resolve(&self.target, &action.path, true)?;
        let new = NewDir { mode: action.mode, owner, time: action.timestamp };
        if action.make_parents {
            return mkdir_all(at, new).map(drop);
        }
        let path = at.path();
        if at.rest.len() > 1 {
            return Err(Error::at("mkdir", path, Errno::NOENT));
        }
        let Some((parent, name)) = single(&at)? else { return Ok(()) };
        match parent.child(&name, &path)? {
            Existing::Missing => mkdir_all(at, new).map(drop),
            _ => Ok(()),
        }
    }

    fn mkfile(&mut self, action: &Mkfile, owner: Option<(u32, u32)>) -> Result<(), Error> {
        let at = resolve(&self.target, &action.path, true)?;
        let path = at.path();
        if at.rest.len() > 1 {
            return Err(Error::at("open", path, Errno::NOENT));
        }
        let Some((parent, name)) = single(&at)? else { return Err(Error::at("open", path, Errno::ISDIR)) };
        let fail = |e: Errno| Error::at("open", &path, e);
        let before = parent.file_attributes(&name, &path)?;
        let upper = parent.writable().map_err(fail)?;
        // Always a new file: the old one may be another layer's as well.
        parent.clear(&name, &path)?;
        let file = File::from(sys::create_file(upper, &name).map_err(fail)?);
        (&file).write_all(&action.data).map_err(|e| Error::at("write", &path, e))?;
        let kept = before.as_ref().map(|(st, _)| (st.st_uid, st.st_gid));
        if let Some((uid, gid)) = owner.or(kept) {
            sys::chown(file.as_fd(), uid, gid).map_err(|e| Error::at("lchown", &path, e))?;
        }
        let mode = before.as_ref().map_or(action.mode & 0o777, |(st, _)| st.st_mode);
        sys::chmod(file.as_fd(), mode).map_err(|e| Error::at("chmod", &path, e))?;
        if let Some((_, attributes)) = before {
            sys::set_xattrs(sys::XattrPlace::Fd(file.as_fd()), &attributes).map_err(fail)?;
        }
        match action.timestamp {
            Some(time) => fs::futimens(&file, &time.stamps()).map_err(|e| Error::at("utimes", &path, e)),
            None => Ok(()),
        }
    }

    fn symlink(&mut self, action: &Symlink, owner: Option<(u32, u32)>) -> Result<(), Error> {
        let at = resolve(&self.target, &action.newpath, true)?;
        let path = at.path();
        let fail = |e: Errno| Error::at("symlink", format!("{} {path}", action.oldpath), e);
        if at.rest.len() > 1 {
            return Err(fail(Errno::NOENT));
        }
        let Some((parent, name)) = single(&at)? else { return Err(fail(Errno::EXIST)) };
        if !matches!(parent.child(&name, &path)?, Existing::Missing) {
            return Err(fail(Errno::EXIST));
        }
        let upper = parent.writable().map_err(fail)?;
        parent.clear(&name, &path)?;
        fs::symlinkat(action.oldpath.as_str(), upper, &name).map_err(fail)?;
        finish(upper, &name, owner, action.timestamp).map_err(fail)
    }

    fn rm(&mut self, action: &Rm) -> Result<(), Error> {
        let paths = if action.allow_wildcard {
            wildcard::expand(&self.target, &action.path, false)?
        } else {
            vec![action.path.clone()]
        };
        for path in paths {
            self.check_canceled()?;
            self.rm_path(&path, action.allow_not_found)?;
        }
        Ok(())
    }

    fn rm_path(&mut self, path: &str, allow_not_found: bool) -> Result<(), Error> {
        let path = clean(path);
        if path == "/" {
            return Err(Error::RemoveRoot(path));
        }
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let at = resolve(&self.target, dir, true)?;
        let shown = join(&at.path(), name);
        let name = c_name(name.as_bytes(), &path)?;
        let missing = !at.rest.is_empty() || matches!(at.dir.child(&name, &shown)?, Existing::Missing);
        match (missing, allow_not_found) {
            (true, true) => Ok(()),
            (true, false) => Err(Error::at("stat", shown, Errno::NOENT)),
            (false, _) => at.dir.remove(&name, &shown),
        }
    }
}

/// The parent and the name of a resolved path whose last name is all that is left; none when the path
/// is an existing directory.
fn single(at: &Resolved<Arc<TargetDir>>) -> Result<Option<(Arc<TargetDir>, CString)>, Error> {
    match at.rest.first() {
        Some(name) => Ok(Some((at.dir.clone(), c_name(name, &text(name))?))),
        None => Ok(None),
    }
}

/// Owner and time of something just made.
fn finish(dir: BorrowedFd<'_>, name: &CString, owner: Option<(u32, u32)>, time: Option<Time>) -> Result<(), Errno> {
    if let Some((uid, gid)) = owner {
        sys::chown_at(dir, name, uid, gid)?;
    }
    match time {
        Some(time) => sys::set_times_at(dir, name, &time.stamps()),
        None => Ok(()),
    }
}

/// Sets the wanted time of directories that were made on the way, the deepest first.
pub(crate) fn settle(made: &[Arc<TargetDir>], time: Option<Time>, path: &str) -> Result<(), Error> {
    for dir in made.iter().rev() {
        set_dir_time(dir, time).map_err(|e| Error::at("utimes", path, e))?;
    }
    Ok(())
}
