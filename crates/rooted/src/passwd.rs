//! Users and groups of a root: `/etc/passwd` and `/etc/group` inside it, whatever the image wrote there.
//!
//! The files are read confined, up to a limit; lines that make no sense are skipped, as the C library does.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};

use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::root::Root;

/// More of a user database than this is not looked at.
const MAX_FILE: u64 = 64 << 20;

/// Longer lines are skipped.
const MAX_LINE: u64 = 1 << 20;

/// The greatest user or group id that a specification may name.
const MAX_ID: u32 = i32::MAX as u32;

/// An entry of `/etc/passwd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserEntry {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Home directory.
    pub home: String,
    /// Login shell.
    pub shell: String,
}

/// An entry of `/etc/group`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupEntry {
    /// Group name.
    pub name: String,
    /// Group id.
    pub gid: u32,
    /// Names of the users that have it as a supplementary group.
    pub members: Vec<String>,
}

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecUser {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups, in the file's order.
    pub groups: Vec<u32>,
    /// Home directory, when the user is listed.
    pub home: Option<String>,
    /// Login name, when the user is listed.
    pub name: Option<String>,
}

/// Who `user[:group]` is in this root. Either part is a name or a number; a listed name that looks like a number wins
/// over the number. An empty specification is user 0.
///
/// Supplementary groups are those that list the user, unless the specification names a group: then there are none.
///
/// # Errors
/// A name that is not listed, an id out of range, or files that cannot be read. A missing file lists nobody.
pub fn exec_user(root: &Root, spec: &str) -> Result<ExecUser> {
    let (user, group) = match spec.split_once(':') {
        Some((user, group)) => (user, group),
        None => (spec, ""),
    };
    let mut found = match parse_id("user", user)? {
        // Numbers for both parts need no files.
        Some(uid) if !group.is_empty() && parse_id("group", group)?.is_some() => ExecUser { uid, ..Default::default() },
        number => {
            let entry = if user.is_empty() { user_by_id(root, 0)? } else { find_user_or_id(root, user, number)? };
            match (entry, number) {
                (Some(e), _) => {
                    ExecUser { uid: e.uid, gid: e.gid, home: Some(e.home), name: Some(e.name), groups: Vec::new() }
                }
                (None, Some(uid)) => ExecUser { uid, ..Default::default() },
                (None, None) if user.is_empty() => ExecUser::default(),
                (None, None) => {
                    return Err(Error::UnknownName { what: "user", name: user.to_owned(), file: "passwd" });
                }
            }
        }
    };
    if group.is_empty() {
        if let Some(name) = found.name.clone() {
            found.groups = supplementary_groups(root, &name)?;
        }
    } else {
        found.gid = group_id(root, group)?;
    }
    Ok(found)
}

fn find_user_or_id(root: &Root, user: &str, number: Option<u32>) -> Result<Option<UserEntry>> {
    if let Some(entry) = user_by_name(root, user)? {
        return Ok(Some(entry));
    }
    match number {
        Some(uid) => user_by_id(root, uid),
        None => Ok(None),
    }
}

/// The group id behind a name or a number.
pub fn group_id(root: &Root, group: &str) -> Result<u32> {
    if let Some(entry) = group_by_name(root, group)? {
        return Ok(entry.gid);
    }
    parse_id("group", group)?.ok_or_else(|| Error::UnknownName { what: "group", name: group.to_owned(), file: "group" })
}

/// The user of this name.
pub fn user_by_name(root: &Root, name: &str) -> Result<Option<UserEntry>> {
    find(root, "etc/passwd", |line| parse_user(line).filter(|u| u.name == name))
}

/// The first user with this id.
pub fn user_by_id(root: &Root, uid: u32) -> Result<Option<UserEntry>> {
    find(root, "etc/passwd", |line| parse_user(line).filter(|u| u.uid == uid))
}

/// The group of this name.
pub fn group_by_name(root: &Root, name: &str) -> Result<Option<GroupEntry>> {
    find(root, "etc/group", |line| parse_group(line).filter(|g| g.name == name))
}

/// The ids of all groups that list this user, in the file's order.
pub fn supplementary_groups(root: &Root, user: &str) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    find(root, "etc/group", |line| {
        if let Some(group) = parse_group(line)
            && group.members.iter().any(|m| m == user)
            && !ids.contains(&group.gid)
        {
            ids.push(group.gid);
        }
        None::<()>
    })?;
    Ok(ids)
}

/// A number in digits alone; `None` for a name.
fn parse_id(what: &'static str, text: &str) -> Result<Option<u32>> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if id <= MAX_ID => Ok(Some(id)),
        _ => Err(Error::IdOutOfRange { what, value: text.to_owned() }),
    }
}

fn parse_user(line: &str) -> Option<UserEntry> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|n| !n.is_empty())?.to_owned();
    let _password = fields.next()?;
    let uid = fields.next()?.trim().parse().ok()?;
    let gid = fields.next()?.trim().parse().ok()?;
    let _comment = fields.next();
    let home = fields.next().unwrap_or_default().to_owned();
    let shell = fields.next().unwrap_or_default().to_owned();
    Some(UserEntry { name, uid, gid, home, shell })
}

fn parse_group(line: &str) -> Option<GroupEntry> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|n| !n.is_empty())?.to_owned();
    let _password = fields.next()?;
    let gid = fields.next()?.trim().parse().ok()?;
    let members = fields.next().unwrap_or_default();
    let members = members.split(',').map(|m| m.trim().to_owned()).filter(|m| !m.is_empty()).collect();
    Some(GroupEntry { name, gid, members })
}

/// The first answer that `pick` has for a line of a file; a file that is absent (or is no file) has no lines.
fn find<T>(root: &Root, path: &str, mut pick: impl FnMut(&str) -> Option<T>) -> Result<Option<T>> {
    let file = match root.open_file(path) {
        Ok(file) => file,
        Err(Error::WrongKind { .. }) => return Ok(None),
        Err(e) if e.is_not_found() || e.errno() == Some(Errno::NOTDIR.raw_os_error()) => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut lines = Lines { reader: BufReader::new(file.take(MAX_FILE)), line: Vec::new() };
    while lines.advance().at("read", path)? {
        let line = String::from_utf8_lossy(&lines.line);
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(found) = pick(line) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

struct Lines {
    reader: BufReader<std::io::Take<File>>,
    line: Vec<u8>,
}

impl Lines {
    /// Reads the next line of at most [`MAX_LINE`] bytes; the rest of a longer one is dropped, and the line emptied.
    fn advance(&mut self) -> std::io::Result<bool> {
        self.line.clear();
        if (&mut self.reader).take(MAX_LINE).read_until(b'\n', &mut self.line)? == 0 {
            return Ok(false);
        }
        let cut = self.line.len() as u64 == MAX_LINE && self.line.last() != Some(&b'\n');
        if cut {
            self.reader.skip_until(b'\n')?;
            self.line.clear();
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(passwd: &[u8], group: &[u8]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/passwd"), passwd).unwrap();
        std::fs::write(dir.path().join("etc/group"), group).unwrap();
        let root = Root::open(dir.path()).unwrap();
        (dir, root)
    }

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
        # comment\n\n:x:5:5::/:\nbroken\nbad:x:uid:gid::/:\n\xff\xfe:x:9:9::/:\n\
        app:x:1000:1001:App:/home/app:/bin/bash\n1234:x:77:78::/n:\nlast:x:2000:2000::/l:";
    const GROUP: &[u8] = b"root:x:0:\nwheel:x:10:root,app\napp:x:1001:\nbroken\ndocker:x:999: app , last\n\
        twice:x:10:app\n55:x:66:\n";

    #[test]
    fn specifications() {
        let (_dir, root) = root(PASSWD, GROUP);
        for (spec, uid, gid, groups, home) in [
            ("", 0, 0, &[10][..], Some("/root")),
            ("root", 0, 0, &[10], Some("/root")),
            ("app", 1000, 1001, &[10, 999], Some("/home/app")),
            ("1000", 1000, 1001, &[10, 999], Some("/home/app")),
            ("app:", 1000, 1001, &[10, 999], Some("/home/app")),
            ("app:docker", 1000, 999, &[], Some("/home/app")),
            ("app:4242", 1000, 4242, &[], Some("/home/app")),
            ("4000", 4000, 0, &[], None),
            ("4000:4001", 4000, 4001, &[], None),
            ("4000:wheel", 4000, 10, &[], None),
            ("1234", 77, 78, &[], Some("/n")),
            ("last", 2000, 2000, &[999], Some("/l")),
            (":wheel", 0, 10, &[], Some("/root")),
        ] {
            let found = exec_user(&root, spec).unwrap();
            assert_eq!(
                (found.uid, found.gid, &found.groups[..], found.home.as_deref()),
                (uid, gid, groups, home),
                "{spec}"
            );
        }
    }

    #[test]
    fn what_is_not_listed_is_an_error() {
        let (_dir, root) = root(PASSWD, GROUP);
        for (spec, message) in [
            ("nobody", "unable to find user nobody: no matching entries in passwd file"),
            ("app:none", "unable to find group none: no matching entries in group file"),
            ("broken", "unable to find user broken: no matching entries in passwd file"),
            ("4294967296", "user id 4294967296 is out of range: ids go from 0 to 2147483647"),
            ("-1", "user id -1 is out of range: ids go from 0 to 2147483647"),
            ("1:2147483648", "group id 2147483648 is out of range: ids go from 0 to 2147483647"),
        ] {
            assert_eq!(exec_user(&root, spec).unwrap_err().to_string(), message, "{spec}");
        }
    }

    #[test]
    fn files_that_are_none_list_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let check = || {
            assert_eq!(exec_user(&root, "").unwrap(), ExecUser::default());
            assert_eq!(exec_user(&root, "5:6").unwrap().gid, 6);
            assert!(exec_user(&root, "root").is_err());
        };
        check();
        root.mkdir("etc", 0o755).unwrap();
        check();
        root.symlink("/../../../../../../etc/passwd", "etc/passwd").unwrap(); // a loop, inside
        assert!(exec_user(&root, "root").is_err());
        root.remove("etc/passwd").unwrap();
        root.mknod("etc/passwd", crate::Kind::Fifo, 0o644, 0).unwrap();
        check();
        root.remove("etc/passwd").unwrap();
        root.mkdir("etc/passwd", 0o755).unwrap();
        check();
    }

    #[test]
    fn long_lines_and_big_files() {
        let mut passwd = vec![b'x'; 3 << 20];
        passwd.push(b'\n');
        for n in 0..100_000 {
            passwd.extend_from_slice(format!("u{n}:x:{n}:{n}::/:\n").as_bytes());
        }
        let (_dir, root) = root(&passwd, b"");
        assert_eq!(exec_user(&root, "u99999").unwrap().uid, 99_999);
    }
}
