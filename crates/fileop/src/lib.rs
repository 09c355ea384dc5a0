//! File actions (copy, make file, make directory, remove, symlink) on snapshots, and content digests
//! of exactly what a copy reads.
//!
//! [`Executor`] applies [`Action`]s to one active snapshot. It mounts nothing to do so: it reads the
//! layer directories of a [`Mount`](cooper_mount::Mount) as an overlay would show them and writes
//! into the topmost directory what an overlay would have left there. That makes a copy of an
//! unchanged file one `link(2)` between two layers.
//!
//! [`index`] keeps the entries of a layer in memory and on disk, and digests selections of a stack
//! of layers for cache keys.
//!
//! All calls block; run them on a thread that may. No protocol types and no snapshot bookkeeping
//! belong here.

mod action;
mod aliases;
mod archive;
mod copy;
mod data;
mod error;
mod exec;
mod filter;
pub mod index;
mod mode;
mod owner;
mod path;
pub mod stack;
mod sys;
mod target;
mod walk;
mod wildcard;

pub use action::{Action, Copy, Mkdir, Mkfile, Owner, Principal, Rm, Symlink, Time};
pub use error::Error;
pub use exec::{Executor, Inputs, Links};
pub use mode::{ModeSet, ModeSyntax};
