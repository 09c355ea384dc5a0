//! Owners by name: the user databases of a tree, read without leaving it.

use crate::path::{c_name, resolve};
use crate::stack::{Node, Stack};
use crate::{Error, Inputs, Owner, Principal, sys};
use cooper_mount::Mount;
use rustix::fs::FileType;
use std::fs::File;
use std::io::Read;

/// More than this is no user database.
const MAX_BYTES: u64 = 10 << 20;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// User and group ids of `owner`.
pub(crate) fn ids(owner: &Owner, inputs: &Inputs<'_>) -> Result<(u32, u32), Error> {
    let (mut uid, mut gid) = (0, 0);
    match &owner.user {
        None => {}
        Some(Principal::Id(id)) => (uid, gid) = (*id, *id),
        Some(Principal::Name(name)) => {
            let tree = inputs.users.ok_or(Error::MissingInput("the tree in which to look up the user"))?;
            if let Some(fields) = entry(tree, PASSWD, name)? {
                (uid, gid) = (number(&fields, 2), number(&fields, 3));
            }
        }
    }
    match &owner.group {
        None => {}
        Some(Principal::Id(id)) => gid = *id,
        Some(Principal::Name(name)) => {
            let tree = inputs.groups.ok_or(Error::MissingInput("the tree in which to look up the group"))?;
            if let Some(fields) = entry(tree, GROUP, name)? {
                gid = number(&fields, 2);
            }
        }
    }
    Ok((uid, gid))
}

fn number(fields: &[String], at: usize) -> u32 {
    fields.get(at).and_then(|f| f.trim().parse().ok()).unwrap_or(0)
}

/// The fields of the first line for `name`; none when there is no such line or no such file.
fn entry(tree: &Mount, file: &'static str, name: &str) -> Result<Option<Vec<String>>, Error> {
    let fail = |reason: String| Error::Names { name: name.to_owned(), file, reason };
    let stack = Stack::open(tree)?;
    let found = match resolve(&stack, file, true) {
        Err(Error::Path { source, .. }) if source.raw_os_error() == Some(rustix::io::Errno::NOTDIR.raw_os_error()) => {
            return Ok(None);
        }
        found => found?,
    };
    let [last] = found.rest.as_slice() else {
        return if found.rest.is_empty() { Err(fail("it is a directory".into())) } else { Ok(None) };
    };
    let last = c_name(last, file)?;
    let Some(Node::Leaf(st, level)) = found.dir.child(&last, file)? else { return Ok(None) };
    if sys::kind(&st) != FileType::RegularFile {
        return Err(fail("it is not a regular file".into()));
    }
    let fd = sys::open_file(level.fd(), &last).map_err(|e| Error::at("open", file, e))?;
    let mut bytes = Vec::new();
    let read = File::from(fd).take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|e| Error::at("read", file, e))?;
    if read as u64 > MAX_BYTES {
        return Err(fail(format!("it exceeds {MAX_BYTES} bytes")));
    }
    let text = String::from_utf8_lossy(&bytes);
    Ok(text
        .lines()
        .map(|line| line.trim().split(':'))
        .find(|fields| fields.clone().next() == Some(name))
        .map(|fields| fields.map(str::to_owned).collect()))
}
