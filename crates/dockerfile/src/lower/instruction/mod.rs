//! The meaning of each instruction, one file each.
#![allow(clippy::unnecessary_wraps, reason = "instructions have one signature")]

pub(super) mod add;
pub(super) mod arg;
pub(super) mod cmd;
pub(super) mod copy;
pub(super) mod entrypoint;
pub(super) mod env;
pub(super) mod expose;
pub(super) mod healthcheck;
pub(super) mod label;
pub(super) mod maintainer;
pub(super) mod onbuild;
pub(super) mod run;
mod run_mount;
pub(super) mod shell;
pub(super) mod stopsignal;
mod transfer;
pub(super) mod user;
pub(super) mod volume;
pub(super) mod workdir;

pub(super) use transfer::url_file_name;

use super::Error;
use super::run_stage::StageRun;
