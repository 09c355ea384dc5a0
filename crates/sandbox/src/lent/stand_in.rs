//! What the kernel itself has to find below a changed root: directories to go to and programs to execute, whose names cannot
//! be answered for.
//!
//! The step's tree has empty `/proc` and `/sys` of its own while the step runs (`placing`). When a caller wants to go into a
//! directory of them, an empty one is put there, and what is asked about relative paths is answered from then on; where it
//! wants to go through a door, or executes one (`/proc/self/exe`), a link is put there that leads where the door leads. What
//! belongs to a process is below its number. `self` is a link as well: when two processes want it at once, the second waits
//! until the first is through.

use super::caller::{Caller, Reader};
use super::path::{Wanted, Who};
use cooper_rooted::{DirAttributes, Result, Root};
use std::cell::{Cell, RefCell};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A caller that was let go on gets through in a few microseconds, if the machine has a processor for it.
const PATIENCE: Duration = Duration::from_millis(50);

/// What stands there.
#[derive(Debug)]
pub(super) enum StandIn<'a> {
    /// An empty directory.
    Directory,
    /// A link to this path of the step.
    Door { at: &'a str, target: &'a [u8] },
}

/// The stand-ins in one tree.
pub(super) struct StandIns {
    /// The step's own `/proc` and `/sys`: nothing comes to be elsewhere, and nothing in those that are put back in their place
    /// at the end.
    proc: Root,
    sys: Root,
    entered: Cell<bool>,
    /// Who was the last to need a link by which every process finds its own.
    turn: RefCell<Option<Turn>>,
}

/// A caller that goes through such a link.
struct Turn {
    target: PathBuf,
    thread: u32,
    through: Through,
}

/// How to see that it is through.
enum Through {
    /// The working directory is another.
    Enters { from: Option<PathBuf> },
    /// The path is no longer in its memory.
    Executes { path: u64, text: Vec<u8> },
}

impl StandIns {
    /// In a tree whose `/proc` and `/sys` are the step's own.
    pub(super) fn new(tree: &Root) -> Result<Self> {
        let (proc, sys) = (tree.sub("proc")?, tree.sub("sys")?);
        Ok(Self { proc, sys, entered: Cell::new(false), turn: RefCell::default() })
    }

    /// Whether working directories may be stand-ins.
    pub(super) fn entered(&self) -> bool {
        self.entered.get()
    }

    /// Has the kernel find a stand-in for what is wanted. `executed`: where the path is in the caller's memory, and the path.
    pub(super) fn put(
        &self,
        wanted: &Wanted,
        caller: &Caller,
        reader: &Reader,
        what: &StandIn<'_>,
        executed: Option<(u64, &[u8])>,
    ) -> Result<()> {
        let (root, dir, below) = match wanted {
            Wanted::Terminal(_) => return Ok(()),
            Wanted::Common(path) => match path.strip_prefix("/sys") {
                Ok(inside) => (&self.sys, inside.to_owned(), ""),
                Err(_) => (&self.proc, path.strip_prefix("/proc").unwrap_or(path).to_owned(), ""),
            },
            Wanted::Process { who, below } => {
                let own = match who {
                    Who::Caller => caller.process.to_string(),
                    Who::Thread => format!("{}/task/{}", caller.process, caller.thread),
                    Who::Number(number) => number.to_string(),
                };
                let link = match who {
                    Who::Caller => Some("self"),
                    Who::Thread => Some("thread-self"),
                    Who::Number(_) => None,
                };
                if let Some(link) = link {
                    let through = match executed {
                        Some((path, text)) => Through::Executes { path, text: text.to_owned() },
                        None => Through::Enters { from: fs::read_link(working_directory(caller.thread)).ok() },
                    };
                    self.lead(link, Turn { target: own.clone().into(), thread: caller.thread, through }, reader)?;
                }
                (&self.proc, PathBuf::from(own), below.as_str())
            }
        };
        match what {
            StandIn::Directory => {
                root.mkdir_all(dir.join(below), &DirAttributes::default())?;
                self.entered.set(true);
            }
            StandIn::Door { at, target } => {
                let at = dir.join(at);
                root.mkdir_all(at.parent().unwrap_or(&dir), &DirAttributes::default())?;
                self.link(Path::new(OsStr::from_bytes(target)), &at)?;
            }
        }
        Ok(())
    }

    /// Has one of the links in `/proc` lead to the caller's own directory.
    fn lead(&self, link: &str, turn: Turn, reader: &Reader) -> Result<()> {
        let mut last = self.turn.borrow_mut();
        match &*last {
            Some(before) if before.target == turn.target => {}
            before => {
                if let Some(before) = before {
                    before.wait(reader);
                } else {
                    for (target, name) in [("self/mounts", "mounts"), ("self/net", "net")] {
                        self.link(Path::new(target), Path::new(name))?;
                    }
                }
                self.link(&turn.target, Path::new(link))?;
            }
        }
        *last = Some(turn);
        Ok(())
    }

    /// Puts a link in place of whatever is there in `/proc`, at once.
    fn link(&self, target: &Path, at: &Path) -> Result<()> {
        let new = at.with_file_name(".new");
        self.proc.remove_all(&new)?;
        self.proc.symlink(target, &new)?;
        self.proc.rename(&new, at)
    }
}

impl Turn {
    fn wait(&self, reader: &Reader) {
        let begun = Instant::now();
        while !self.is_through(reader) && begun.elapsed() < PATIENCE {
            std::thread::yield_now();
        }
    }

    fn is_through(&self, reader: &Reader) -> bool {
        match &self.through {
            Through::Enters { from } => fs::read_link(working_directory(self.thread)).ok() != *from,
            Through::Executes { path, text } => {
                reader.text(self.thread, *path, &|_| true).is_none_or(|now| now != *text)
            }
        }
    }
}

pub(super) fn working_directory(thread: u32) -> String {
    format!("/proc/{thread}/cwd")
}
