//! The copy action: what takes part and where it goes.

use crate::data::Wanted;
use crate::exec::settle;
use crate::filter::Filter;
use crate::mode::ModeSet;
use crate::path::{Look, Resolved, Space, c_name, clean_keep_trailer, join, resolve};
use crate::stack::{Dir, Level, Node, Stack};
use crate::sys;
use crate::target::{Existing, NewDir, TargetDir, mkdir_all};
use crate::walk::{NewLeaf, Walk};
use crate::{Copy, Error, Executor, Links, Time, wildcard};
use rustix::fs::Timestamps;
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::CString;
use std::sync::Arc;

/// Directories of new paths get this when no mode is asked for.
const DIR_MODE: u32 = 0o755;

/// What the walk does with everything it copies.
#[derive(Debug)]
pub(crate) struct Plan {
    owner: Option<(u32, u32)>,
    mode: Option<ModeChange>,
    time: Option<Time>,
    pub filter: Filter,
    pub always_replace: bool,
    contents: bool,
    follow: bool,
}

#[derive(Debug)]
enum ModeChange {
    Octal(u32),
    Symbolic(ModeSet),
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

    pub(crate) fn wanted(&self, st: &sys::Stat) -> Wanted {
        let (uid, gid) = self.owner.unwrap_or((st.st_uid, st.st_gid));
        let mode = match &self.mode {
            None => st.st_mode & sys::PERM,
            Some(ModeChange::Octal(bits)) => *bits,
            Some(ModeChange::Symbolic(set)) => set.apply(st.st_mode),
        };
        Wanted { uid, gid, mode, times: self.times(st) }
    }

    pub(crate) fn times(&self, st: &sys::Stat) -> Timestamps {
        self.time.map_or_else(|| sys::times(st), Time::stamps)
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
    let matches =
        if action.allow_wildcard { wildcard::expand(source, &src, action.follow_symlink)? } else { vec![src.clone()] };
    if matches.is_empty() {
        return if action.allow_empty_wildcard { Ok(()) } else { Err(Error::NoMatch(src)) };
    }
    for path in matches {
        executor.check_canceled()?;
        if action.attempt_unpack && crate::archive::unpack(executor, source, &path, &dest, plan.new_dir())? {
            continue;
        }
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
        || at.rest.len() == 1 && !matches!(at.dir.child(&c_name(&at.rest[0], dest)?, dest)?, Existing::Missing);
    let into = !plan.contents && is_dir && exists || !is_dir && existing_dir;
    let place = place_of(
        at,
        if into { wildcard::destination_name(src) } else { "" },
        plan,
        is_dir && plan.contents && !exists,
    )?;
    made.extend(place.made);

    executor.copies += 1;
    let claim = executor.copies;
    let links = executor.links == Links::Allowed && !source.dirs().iter().any(|d| executor.target.dirs.contains(d));
    let mut walk = Walk { executor, plan, claim, links, first_names: HashMap::new(), frames: Vec::new() };
    match top {
        Top::Leaf(st, level, name) => {
            let (parent, new_name) = place.slot.ok_or_else(|| Error::IsADirectory(place.path.clone()))?;
            let new = NewLeaf { parent: &parent, name: &new_name, path: &place.path, fresh: false };
            walk.leaf(&level, &name, &st, new)?;
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
