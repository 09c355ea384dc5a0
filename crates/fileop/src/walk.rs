//! The walk that copies a tree. It keeps its own stack of open directories, so that depth costs memory and
//! descriptors but never the thread's stack.

use crate::copy::Plan;
use crate::data::Claim;
use crate::filter::{FilterState, Match};
use crate::path::{join, text};
use crate::stack::{Dir, Item, Level, Node};
use crate::sys::{self, XattrPlace};
use crate::target::{Existing, TargetDir};
use crate::{Error, Executor};
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::AsFd;
use std::sync::Arc;

/// One source path on its way.
pub(crate) struct Walk<'a> {
    pub executor: &'a mut Executor,
    pub plan: &'a Plan,
    /// Number of this copy among all of the executor.
    pub claim: u32,
    /// Files may be linked from the source's layers.
    pub links: bool,
    /// Where inodes with several names were copied to, relative to the target's root.
    pub first_names: HashMap<(usize, u64), CString>,
    pub frames: Vec<Frame>,
}

/// A source directory that is being copied.
pub(crate) struct Frame {
    source: Dir,
    stat: sys::Stat,
    items: std::vec::IntoIter<Item>,
    target: Slot,
    /// Relative to the top, for patterns; empty there.
    relative: String,
    source_path: String,
    path: String,
    state: FilterState,
    /// Attributes of an existing directory are overwritten: everywhere but at the top.
    overwrite: bool,
    included: bool,
    made: bool,
    /// Made by this walk with nothing below: names need not be looked up.
    fresh: bool,
}

enum Slot {
    Ready(Arc<TargetDir>),
    /// To be made in the parent's once something in it is copied.
    Later(CString),
}

/// Where a file goes.
pub(crate) struct NewLeaf<'a> {
    pub parent: &'a Arc<TargetDir>,
    pub name: &'a CString,
    pub path: &'a str,
    pub fresh: bool,
}

impl Walk<'_> {
    /// Opens the top directory; it is always made.
    pub(crate) fn start(
        &mut self,
        source: Dir,
        source_path: &str,
        slot: Option<(Arc<TargetDir>, CString)>,
        dir: Arc<TargetDir>,
        path: String,
    ) -> Result<(), Error> {
        let (target, made) = match slot {
            None => (dir, false),
            Some((parent, name)) => self.make_dir(&parent, &name, &path, false)?,
        };
        let frame = Frame::open(source, source_path.to_owned(), Slot::Ready(target), path, String::new())?;
        self.frames.push(Frame { included: true, made, fresh: made, ..frame });
        Ok(())
    }

    /// Copies one entry or finishes one directory. False when all is done.
    pub(crate) fn step(&mut self) -> Result<bool, Error> {
        self.executor.check_canceled()?;
        let Some(frame) = self.frames.last_mut() else { return Ok(false) };
        let Some(item) = frame.items.next() else {
            if let Some(frame) = self.frames.pop() {
                self.finish(&frame)?;
            }
            return Ok(true);
        };
        let name = text(item.name.as_bytes()).into_owned();
        let relative = if self.plan.filter.is_empty() || frame.relative.is_empty() {
            name.clone()
        } else {
            format!("{}/{name}", frame.relative)
        };
        let matched = self.plan.filter.check(&relative, &frame.state);
        let path = join(&frame.path, &name);
        if item.kind == FileType::Directory {
            if matched.included || matched.descend {
                self.enter(&item, &name, relative, path, matched)?;
            }
        } else if matched.included {
            self.item(&item, &name, &path)?;
        }
        Ok(true)
    }

    fn item(&mut self, item: &Item, name: &str, path: &str) -> Result<(), Error> {
        let parent = self.ready()?;
        let Some(frame) = self.frames.last() else { return Ok(()) };
        let fresh = frame.fresh;
        let level = frame.source.level(item).clone();
        let new = NewLeaf { parent: &parent, name: &item.name, path, fresh };
        let source_path = join(&frame.source_path, name);
        let st = stat_leaf(&level, item, &source_path)?;
        self.leaf(&level, &item.name, &st, new)
    }

    /// Opens a directory below the current one.
    fn enter(&mut self, item: &Item, name: &str, relative: String, path: String, m: Match) -> Result<(), Error> {
        let Some(frame) = self.frames.last() else { return Ok(()) };
        let source_path = join(&frame.source_path, name);
        let Some(Node::Dir(source)) = frame.source.child(&item.name, &source_path)? else { return Ok(()) };
        let fresh = frame.fresh;
        let (target, made) = if m.included {
            let parent = self.ready()?;
            let (target, made) = self.make_dir(&parent, &item.name, &path, fresh)?;
            (Slot::Ready(target), made)
        } else {
            (Slot::Later(item.name.clone()), false)
        };
        let mut frame = Frame::open(source, source_path, target, path, relative)?;
        if !m.descend {
            frame.items = Vec::new().into_iter();
        }
        self.frames.push(Frame { included: m.included, overwrite: true, made, fresh: made, state: m.state, ..frame });
        Ok(())
    }

    /// The target of the current directory; it and its parents are made now if they were put off.
    fn ready(&mut self) -> Result<Arc<TargetDir>, Error> {
        let from = self.frames.iter().rposition(|f| matches!(f.target, Slot::Ready(_))).unwrap_or(0);
        let mut dir = match self.frames.get(from).map(|f| &f.target) {
            Some(Slot::Ready(dir)) => dir.clone(),
            _ => return Err(Error::at("mkdir", "/", Errno::NOENT)),
        };
        for at in from + 1..self.frames.len() {
            let frame = &self.frames[at];
            let Slot::Later(name) = &frame.target else { continue };
            let (next, made) = self.make_dir(&dir, name, &frame.path, self.frames[at - 1].fresh)?;
            let frame = &mut self.frames[at];
            if made {
                apply_to_dir(&next, frame, self.plan)?;
            } else {
                let fd = next.writable().map_err(|e| Error::at("chmod", &frame.path, e))?;
                sys::chmod(fd, frame.stat.st_mode).map_err(|e| Error::at("chmod", &frame.path, e))?;
            }
            (frame.made, frame.fresh) = (made, made);
            frame.target = Slot::Ready(next.clone());
            dir = next;
        }
        Ok(dir)
    }

    /// A directory of the target, made unless it exists; whether it was made.
    fn make_dir(
        &self,
        parent: &Arc<TargetDir>,
        name: &CString,
        path: &str,
        fresh: bool,
    ) -> Result<(Arc<TargetDir>, bool), Error> {
        if !fresh {
            match parent.child(name, path)? {
                Existing::Dir(dir) => return Ok((dir, false)),
                Existing::Leaf(_) if self.plan.always_replace => parent.clear(name, path)?,
                Existing::Leaf(_) => return Err(Error::NotADirectory(path.to_owned())),
                Existing::Missing => {}
            }
        }
        Ok((parent.mkdir(name, path)?, true))
    }

    /// Gives a directory its attributes, after everything in it was copied: copying changes its times.
    fn finish(&mut self, frame: &Frame) -> Result<(), Error> {
        let Slot::Ready(dir) = &frame.target else { return Ok(()) };
        if frame.made || frame.included && frame.overwrite {
            return apply_to_dir(dir, frame, self.plan);
        }
        if frame.included {
            let times = self.plan.times(&frame.stat);
            let fd = dir.writable().map_err(|e| Error::at("utimes", &frame.path, e))?;
            rustix::fs::futimens(fd, &times).map_err(|e| Error::at("utimes", &frame.path, e))?;
        }
        Ok(())
    }

    /// Copies anything but a directory.
    pub(crate) fn leaf(
        &mut self,
        level: &Level,
        name: &CString,
        st: &sys::Stat,
        new: NewLeaf<'_>,
    ) -> Result<(), Error> {
        let kind = sys::kind(st);
        let fail = |call, e: Errno| Error::at(call, new.path, e);
        if !new.fresh {
            if new.parent.child(new.name, new.path)?.is_dir() && !self.plan.always_replace {
                return Err(Error::IsADirectory(new.path.to_owned()));
            }
            new.parent.clear(new.name, new.path)?;
        }
        let to = new.parent.writable().map_err(|e| fail("open", e))?;
        let key = (level.layer, st.st_ino);
        if let Some(first) = self.first_names.get(&key) {
            let root = self.executor.target.root().writable().map_err(|e| fail("link", e))?;
            match rustix::fs::linkat(root, first.as_c_str(), to, new.name.as_c_str(), AtFlags::empty()) {
                Ok(()) => return Ok(()),
                // Too many links, or a path that is not text: copied once more.
                Err(Errno::MLINK | Errno::NOENT) => self.first_names.remove(&key),
                Err(e) => return Err(fail("link", e)),
            };
        }
        let wanted = self.plan.wanted(st);
        if self.links && kind != FileType::Socket && wanted.is(st) && self.executor.may_link(st) {
            let claim = Claim { copy: self.claim, layer: level.layer };
            let linked = self.executor.mover.link(level, name, st.st_ino, claim, to, new.name);
            if linked.map_err(|e| fail("link", e))? {
                return Ok(());
            }
        }
        self.executor.mover.copy(level, name, st, &wanted, to, new.name).map_err(|e| Error::at("copy", new.path, e))?;
        if kind == FileType::RegularFile && st.st_nlink > 1 {
            let relative = CString::new(new.path.trim_start_matches('/')).map_err(|_| fail("link", Errno::INVAL))?;
            self.first_names.insert(key, relative);
        }
        Ok(())
    }
}

impl Frame {
    fn open(source: Dir, source_path: String, target: Slot, path: String, relative: String) -> Result<Self, Error> {
        let stat = source.stat().map_err(|e| Error::at("lstat", &source_path, e))?;
        let items = source.list(&source_path)?.into_iter();
        Ok(Self {
            source,
            stat,
            items,
            target,
            relative,
            source_path,
            path,
            state: FilterState::default(),
            overwrite: false,
            included: false,
            made: false,
            fresh: false,
        })
    }
}

fn stat_leaf(level: &Level, item: &Item, path: &str) -> Result<sys::Stat, Error> {
    match sys::stat(level.fd(), &item.name) {
        Ok(Some(st)) => Ok(st),
        Ok(None) => Err(Error::at("lstat", path, Errno::NOENT)),
        Err(e) => Err(Error::at("lstat", path, e)),
    }
}

/// Owner, permissions, extended attributes and times of a copied directory.
fn apply_to_dir(dir: &TargetDir, frame: &Frame, plan: &Plan) -> Result<(), Error> {
    let wanted = plan.wanted(&frame.stat);
    let set = || {
        let fd = dir.writable()?;
        sys::chown(fd, wanted.uid, wanted.gid)?;
        sys::chmod(fd, wanted.mode)?;
        sys::set_xattrs(XattrPlace::Fd(fd.as_fd()), &frame.source.xattrs()?)?;
        rustix::fs::futimens(fd, &wanted.times)
    };
    set().map_err(|e| Error::at("failed to copy file info", &frame.path, e))
}
