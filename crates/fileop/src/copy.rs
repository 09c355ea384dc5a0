//! The copy action: where things go, what takes part, and the walk that does it.
//!
//! The walk keeps its own stack of open directories, so that depth costs memory and descriptors but
//! never the thread's stack.

use crate::data::{Claim, Wanted};
use crate::exec::settle;
use crate::mode::ModeSet;
use crate::path::{Look, Resolved, Space, c_name, clean_keep_trailer, join, resolve, text};
use crate::stack::{Dir, Item, Level, Node, Stack};
use crate::sys::{self, XattrPlace};
use crate::target::{Existing, NewDir, TargetDir, mkdir_all};
use crate::{Copy, Error, Executor, Links, Time, wildcard};
use cooper_fsmatch::{MatchState, PatternMatcher, has_wildcards};
use rustix::fs::{AtFlags, FileType, Timestamps};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::AsFd;
use std::sync::Arc;

/// Directories of new paths get this when no mode is asked for.
const DIR_MODE: u32 = 0o755;

/// What the walk does with everything it copies.
#[derive(Debug)]
pub(crate) struct Plan {
    owner: Option<(u32, u32)>,
    mode: Option<ModeChange>,
    time: Option<Time>,
    filter: Filter,
    always_replace: bool,
    contents: bool,
    follow: bool,
}

#[derive(Debug)]
enum ModeChange {
    Octal(u32),
    Symbolic(ModeSet),
}

/// Include and exclude patterns.
#[derive(Debug)]
pub(crate) struct Filter {
    include: Option<PatternMatcher>,
    exclude: Option<PatternMatcher>,
    /// The patterns of `include` up to their first component with a wildcard.
    reach: Vec<(Vec<String>, bool)>,
}

/// What a directory's entries need to know of its match.
#[derive(Debug, Clone, Default)]
pub(crate) struct FilterState {
    include: MatchState,
    exclude: MatchState,
}

/// How an entry fares with a [`Filter`].
#[derive(Debug)]
pub(crate) struct Match {
    /// It is copied itself.
    pub included: bool,
    /// Something below it may be copied.
    pub descend: bool,
    pub state: FilterState,
}

impl Filter {
    pub(crate) fn new(include: &[String], exclude: &[String]) -> Result<Self, Error> {
        let compile = |patterns: &[String], kind| match patterns {
            [] => Ok(None),
            _ => PatternMatcher::new(patterns).map(Some).map_err(|e| Error::Pattern {
                kind,
                patterns: patterns.to_vec(),
                reason: e.to_string(),
            }),
        };
        let include = compile(include, "includepatterns")?;
        let reach = include.iter().flat_map(PatternMatcher::patterns).filter(|p| !p.is_exclusion()).map(|p| {
            let parts: Vec<&str> = p.text().split('/').collect();
            let plain: Vec<String> =
                parts.iter().take_while(|c| !has_wildcards(c) && !c.contains('\\')).map(|c| (*c).to_owned()).collect();
            let open_ended = plain.len() < parts.len();
            (plain, open_ended)
        });
        Ok(Self { reach: reach.collect(), include, exclude: compile(exclude, "excludepatterns")? })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.include.is_none() && self.exclude.is_none()
    }

    /// `path` is relative to what is copied.
    pub(crate) fn check(&self, path: &str, parent: &FilterState) -> Match {
        let mut state = FilterState::default();
        let (mut included, mut descend) = (true, true);
        if let Some(matcher) = &self.include {
            (included, state.include) = matcher.matches_below(path, &parent.include);
            descend = included || self.may_reach(path);
        }
        if let Some(matcher) = &self.exclude {
            let (excluded, below) = matcher.matches_below(path, &parent.exclude);
            state.exclude = below;
            if excluded {
                included = false;
                descend &= matcher.has_exclusions();
            }
        }
        Match { included, descend, state }
    }

    /// Whether an include pattern can match below `path`, going by the plain parts alone.
    fn may_reach(&self, path: &str) -> bool {
        self.reach.iter().any(|(plain, open_ended)| {
            let mut wanted = plain.iter();
            path.split('/').all(|part| match wanted.next() {
                Some(want) => want == part,
                None => *open_ended,
            })
        })
    }
}

impl Plan {
    fn new(action: &Copy, owner: Option<(u32, u32)>) -> Result<Self, Error> {
        let mode = match (action.mode_str.as_str(), action.mode) {
            ("", None) => None,
            ("", Some(bits)) => Some(ModeChange::Octal(bits & sys::PERM)),
            (text, _) => Some(ModeChange::Symbolic(ModeSet::parse(text)?)),
        };
        Ok(Self {
            owner,
            mode,
            time: action.timestamp,
            filter: Filter::new(&action.include_patterns, &action.exclude_patterns)?,
            always_replace: action.always_replace,
            contents: action.dir_copy_contents,
            follow: action.follow_symlink,
        })
    }

    /// What directories on the way to the destination get.
    fn new_dir(&self) -> NewDir {
        let mode = match self.mode {
            Some(ModeChange::Octal(bits)) => bits,
            _ => DIR_MODE,
        };
        NewDir { mode, owner: self.owner, time: self.time }
    }

    fn wanted(&self, st: &sys::Stat) -> Wanted {
        let (uid, gid) = self.owner.unwrap_or((st.st_uid, st.st_gid));
        let mode = match &self.mode {
            None => st.st_mode & sys::PERM,
            Some(ModeChange::Octal(bits)) => *bits,
            Some(ModeChange::Symbolic(set)) => set.apply(st.st_mode),
        };
        Wanted { uid, gid, mode, times: self.times(st) }
    }

    fn times(&self, st: &sys::Stat) -> Timestamps {
        self.time.map_or_else(|| sys::times(st), Time::stamps)
    }

    /// Whether every file stays as it is, so that there is nothing to look up before linking it.
    fn keeps_all(&self) -> bool {
        self.owner.is_none() && self.mode.is_none() && self.time.is_none()
    }
}

/// Carries out a copy action.
pub(crate) fn run(
    executor: &mut Executor,
    action: &Copy,
    source: &Stack,
    owner: Option<(u32, u32)>,
) -> Result<(), Error> {
    let (src, dest) = (clean_keep_trailer(&action.src), clean_keep_trailer(&action.dest));
    let plan = Plan::new(action, owner)?;
    for path in &action.required_paths {
        require(source, path)?;
    }
    if !action.create_dest_path {
        let at = resolve(&executor.target, &action.dest, true)?;
        if at.rest.len() > 1 {
            let parent = at.path();
            let parent = parent.rsplit_once('/').map_or("/", |(parent, _)| parent);
            return Err(Error::DestParent { dest: action.dest.clone(), parent: parent.to_owned() });
        }
    }
    let matches = match action.allow_wildcard {
        true => wildcard::expand(source, &src, action.follow_symlink)?,
        false => vec![src.clone()],
    };
    if matches.is_empty() {
        return if action.allow_empty_wildcard { Ok(()) } else { Err(Error::NoMatch(src)) };
    }
    for path in matches {
        executor.check_canceled()?;
        copy_one(executor, &plan, source, &path, &dest)?;
    }
    Ok(())
}

fn require(source: &Stack, path: &str) -> Result<(), Error> {
    let missing = || Error::NotFound(crate::path::clean(path));
    let at = resolve(source, path, false)?;
    match at.rest.as_slice() {
        [] => Ok(()),
        [name] if !matches!(source.look(&at.dir, name, path)?, Look::Missing) => Ok(()),
        _ => Err(missing()),
    }
}

/// What the walk starts from.
enum Top {
    Dir(Dir),
    Leaf(Box<sys::Stat>, Level, CString),
}

/// Copies one source path.
fn copy_one(executor: &mut Executor, plan: &Plan, source: &Stack, src: &str, dest: &str) -> Result<(), Error> {
    let mut made = Vec::new();
    let (ensure, last) = dest.rsplit_once('/').unwrap_or(("", dest));
    let ensure = if last.is_empty() || last == "." { dest } else { ensure };
    if !ensure.is_empty() {
        made.extend(mkdir_all(resolve(&executor.target, ensure, true)?, plan.new_dir())?.1);
    }
    let top = open_top(source, src, plan.follow)?;
    let is_dir = matches!(top, Top::Dir(_));
    let at = resolve(&executor.target, dest, true)?;
    let existing_dir = at.rest.is_empty();
    let exists = existing_dir
        || at.rest.len() == 1
            && !matches!(at.dir.child(&c_name(&at.rest[0], dest)?, dest)?, Existing::Missing);
    let into = !plan.contents && is_dir && exists || !is_dir && existing_dir;
    let place = place_of(at, if into { wildcard::destination_name(src) } else { "" }, plan, is_dir && plan.contents && !exists)?;
    made.extend(place.made);

    executor.copies += 1;
    let claim = executor.copies;
    let links = executor.links == Links::Allowed && !source.dirs().iter().any(|d| executor.target.dirs.contains(d));
    let mut walk = Walk { executor, plan, claim, links, first_names: HashMap::new(), frames: Vec::new() };
    match top {
        Top::Leaf(st, level, name) => {
            let (parent, new_name) = place.slot.ok_or_else(|| Error::IsADirectory(place.path.clone()))?;
            let new = NewLeaf { parent: &parent, name: &new_name, path: &place.path, fresh: false };
            walk.leaf(&level, &name, Some(&st), st.st_ino, sys::kind(&st), new)?;
        }
        Top::Dir(dir) => {
            walk.start(dir, src, place.slot, place.dir, place.path)?;
            while walk.step()? {}
        }
    }
    settle(&made, plan.time, dest)
}

fn open_top(source: &Stack, src: &str, follow: bool) -> Result<Top, Error> {
    let at = resolve(source, src, follow)?;
    let path = at.path();
    let missing = || Error::at("lstat", &path, Errno::NOENT);
    match at.rest.as_slice() {
        [] => Ok(Top::Dir(at.dir)),
        [name] => {
            let name = c_name(name, &path)?;
            match at.dir.child(&name, &path)? {
                None => Err(missing()),
                Some(Node::Dir(dir)) => Ok(Top::Dir(dir)),
                Some(Node::Leaf(st, level)) => Ok(Top::Leaf(st, level, name)),
            }
        }
        _ => Err(missing()),
    }
}

/// Where the top of a copy goes.
struct Place {
    /// A name in a directory, or else the directory itself.
    slot: Option<(Arc<TargetDir>, CString)>,
    dir: Arc<TargetDir>,
    path: String,
    made: Vec<Arc<TargetDir>>,
}

/// The place `name` below a resolved destination, or the destination itself without a name; its
/// parents are made, and the destination too with `make_all`.
fn place_of(mut at: Resolved<Arc<TargetDir>>, name: &str, plan: &Plan, make_all: bool) -> Result<Place, Error> {
    let mut path = at.path();
    if name.is_empty() && (make_all || at.rest.is_empty()) {
        let (dir, made) = mkdir_all(at, plan.new_dir())?;
        return Ok(Place { slot: None, dir, path, made });
    }
    let last = if name.is_empty() {
        at.rest.pop().unwrap_or_default()
    } else {
        path = join(&path, name);
        name.as_bytes().to_vec()
    };
    let last = c_name(&last, &path)?;
    let (dir, made) = mkdir_all(at, plan.new_dir())?;
    Ok(Place { slot: Some((dir.clone(), last)), dir, path, made })
}

/// One source path on its way.
struct Walk<'a> {
    executor: &'a mut Executor,
    plan: &'a Plan,
    /// Number of this copy among all of the executor.
    claim: u32,
    links: bool,
    /// Where inodes with several names were copied to, relative to the target's root.
    first_names: HashMap<(usize, u64), CString>,
    frames: Vec<Frame>,
}

/// A source directory that is being copied.
struct Frame {
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
struct NewLeaf<'a> {
    parent: &'a Arc<TargetDir>,
    name: &'a CString,
    path: &'a str,
    fresh: bool,
}

impl Walk<'_> {
    /// Opens the top directory; it is always made.
    fn start(
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
    fn step(&mut self) -> Result<bool, Error> {
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
        if self.links && self.plan.keeps_all() && matches!(item.kind, FileType::RegularFile | FileType::Symlink) {
            return self.leaf(&level, &item.name, None, item.ino, item.kind, new);
        }
        let source_path = join(&frame.source_path, name);
        let st = stat_leaf(&level, item, &source_path)?;
        self.leaf(&level, &item.name, Some(&st), st.st_ino, item.kind, new)
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

    /// Copies anything but a directory. Without `st` it is known to stay as it is.
    fn leaf(
        &mut self,
        level: &Level,
        name: &CString,
        st: Option<&sys::Stat>,
        ino: u64,
        kind: FileType,
        new: NewLeaf<'_>,
    ) -> Result<(), Error> {
        let fail = |call, e: Errno| Error::at(call, new.path, e);
        if !new.fresh {
            if new.parent.child(new.name, new.path)?.is_dir() && !self.plan.always_replace {
                return Err(Error::IsADirectory(new.path.to_owned()));
            }
            new.parent.clear(new.name, new.path)?;
        }
        let to = new.parent.writable().map_err(|e| fail("open", e))?;
        let key = (level.layer, ino);
        if let Some(first) = self.first_names.get(&key) {
            let root = self.executor.target.root().writable().map_err(|e| fail("link", e))?;
            match rustix::fs::linkat(root, first.as_c_str(), to, new.name.as_c_str(), AtFlags::empty()) {
                Ok(()) => return Ok(()),
                // Too many links, or a path that is not text: copied once more.
                Err(Errno::MLINK | Errno::NOENT) => self.first_names.remove(&key),
                Err(e) => return Err(fail("link", e)),
            };
        }
        let unchanged = st.is_none_or(|st| self.plan.wanted(st).is(st));
        if self.links && unchanged && kind != FileType::Socket {
            let claim = Claim { copy: self.claim, layer: level.layer };
            let linked = self.executor.mover.link(level, name, ino, claim, to, new.name);
            if linked.map_err(|e| fail("link", e))? {
                return Ok(());
            }
        }
        let looked_up;
        let st = match st {
            Some(st) => st,
            None => {
                let found = sys::stat(level.fd(), name).map_err(|e| fail("lstat", e))?;
                looked_up = found.ok_or_else(|| fail("lstat", Errno::NOENT))?;
                &looked_up
            }
        };
        let wanted = self.plan.wanted(st);
        self.executor
            .mover
            .copy(level, name, st, &wanted, to, new.name)
            .map_err(|e| Error::at("copy", new.path, e))?;
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
