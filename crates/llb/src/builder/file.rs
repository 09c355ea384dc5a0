//! Changing files without a process.

use super::{Body, Meta, Node, Output};
use crate::pb::{self, file_action, user_opt};

/// One step of a file op. Paths are absolute and clean; a trailing slash on a copy's destination means "into".
#[derive(Debug, Clone)]
pub enum Action {
    /// Copies from another file system.
    Copy(Box<Copy>),
    /// Makes a file.
    Mkfile(Mkfile),
    /// Makes a directory.
    Mkdir(Mkdir),
    /// Removes a path.
    Rm(Rm),
    /// Makes a symbolic link.
    Symlink(Symlink),
}

/// Copies files.
#[derive(Debug, Clone, Default)]
pub struct Copy {
    /// Where from.
    pub source: Output,
    /// Path in the source.
    pub src: String,
    /// Path in the destination.
    pub dest: String,
    /// New owner; the source's when absent.
    pub owner: Option<Owner>,
    /// New permissions; the source's when absent.
    pub mode: Option<Chmod>,
    /// Whether a link as the source is followed.
    pub follow_symlink: bool,
    /// Whether a directory means its entries.
    pub dir_copy_contents: bool,
    /// Whether archives are unpacked.
    pub unpack: bool,
    /// Whether missing parents of the destination are made.
    pub create_dest_path: bool,
    /// Whether the source is a pattern.
    pub allow_wildcard: bool,
    /// Whether a pattern may match nothing.
    pub allow_empty_wildcard: bool,
    /// Times of the copies, in nanoseconds since 1970; the source's when absent.
    pub timestamp: Option<i64>,
    /// Only what matches.
    pub include_patterns: Vec<String>,
    /// Not what matches.
    pub exclude_patterns: Vec<String>,
    /// Whether something of another type in the way is removed.
    pub always_replace_existing: bool,
    /// Paths that must exist.
    pub required_paths: Vec<String>,
}

/// Permissions of copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chmod {
    /// All bits, set-id and sticky included.
    Octal(u32),
    /// `u=rwX,go=rX`.
    Symbolic(String),
}

/// Makes a file.
#[derive(Debug, Clone, Default)]
pub struct Mkfile {
    /// Where.
    pub path: String,
    /// Permissions.
    pub mode: u32,
    /// Content.
    pub data: Vec<u8>,
    /// Owner; root when absent.
    pub owner: Option<Owner>,
    /// Time, in nanoseconds since 1970; now when absent.
    pub timestamp: Option<i64>,
}

/// Makes a directory.
#[derive(Debug, Clone, Default)]
pub struct Mkdir {
    /// Where.
    pub path: String,
    /// Permissions.
    pub mode: u32,
    /// Whether parents are made, and an existing one is fine.
    pub make_parents: bool,
    /// Owner; root when absent.
    pub owner: Option<Owner>,
    /// Time, in nanoseconds since 1970; now when absent.
    pub timestamp: Option<i64>,
}

/// Removes a path.
#[derive(Debug, Clone, Default)]
pub struct Rm {
    /// Which.
    pub path: String,
    /// Whether nothing there is fine.
    pub allow_not_found: bool,
    /// Whether the path is a pattern.
    pub allow_wildcard: bool,
}

/// Makes a symbolic link.
#[derive(Debug, Clone, Default)]
pub struct Symlink {
    /// What the link says.
    pub oldpath: String,
    /// Where the link is.
    pub newpath: String,
    /// Owner; root when absent.
    pub owner: Option<Owner>,
    /// Time, in nanoseconds since 1970; now when absent.
    pub timestamp: Option<i64>,
}

/// Who owns what an action makes. Names are looked up in the file system that the op starts from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub user: Option<OwnerId>,
    /// The group; that of the user when absent.
    pub group: Option<OwnerId>,
}

/// A user or a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnerId {
    /// By number.
    Id(u32),
    /// By name.
    Name(String),
}

impl Owner {
    /// Reads `user[:group]`, each a number or a name; `root` is 0 wherever it is.
    pub fn parse(text: &str) -> Self {
        let id = |part: &str| match part {
            "root" => OwnerId::Id(0),
            // Numbers beyond 31 bits were always taken for names.
            _ => match part.parse::<i32>() {
                Ok(number) => OwnerId::Id(number as u32),
                Err(_) => OwnerId::Name(part.to_owned()),
            },
        };
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        Self { user: Some(id(user)), group: group.map(id) }
    }

    /// By numbers.
    pub fn ids(uid: u32, gid: u32) -> Self {
        Self { user: Some(OwnerId::Id(uid)), group: Some(OwnerId::Id(gid)) }
    }

    fn to_pb(&self, base: i64) -> pb::ChownOpt {
        let id = |id: &OwnerId| pb::UserOpt {
            user: Some(match id {
                // An empty name means number 0, as nobody can be called nothing.
                OwnerId::Name(name) if name.is_empty() => user_opt::User::ById(0),
                OwnerId::Name(name) => user_opt::User::ByName(pb::NamedUserOpt { name: name.clone(), input: base }),
                OwnerId::Id(id) => user_opt::User::ById(*id),
            }),
        };
        pb::ChownOpt { user: self.user.as_ref().map(id), group: self.group.as_ref().map(id) }
    }
}

/// Runs `actions` one after the other on `base`.
pub fn file(base: &Output, actions: Vec<Action>, meta: Meta) -> Output {
    let mut caps = vec!["file.base"];
    for action in &actions {
        match action {
            Action::Copy(copy) => {
                if !(copy.include_patterns.is_empty() && copy.exclude_patterns.is_empty()) {
                    caps.push("file.copy.includeexcludepatterns");
                }
                if !copy.required_paths.is_empty() {
                    caps.push("file.copy.requiredpaths");
                }
                if copy.always_replace_existing {
                    caps.push("file.copy.alwaysreplaceexistingdestpaths");
                }
            }
            Action::Symlink(_) => caps.push("file.symlink.create"),
            Action::Rm(rm) if rm.allow_wildcard => caps.push("file.rm.wildcard"),
            Action::Mkfile(_) | Action::Mkdir(_) | Action::Rm(_) => {}
        }
    }
    Node::output(Body::File { base: base.clone(), actions }, meta, caps)
}

const PERMISSIONS: u32 = 0o777;

impl Action {
    pub(super) fn source(&self) -> Option<&Output> {
        match self {
            Self::Copy(copy) => Some(&copy.source),
            _ => None,
        }
    }

    pub(super) fn take(self) -> Option<Output> {
        match self {
            Self::Copy(copy) => Some(copy.source),
            _ => None,
        }
    }

    /// `base` is the index of the input that owner names are looked up in.
    pub(super) fn to_pb(&self, base: i64) -> file_action::Action {
        let owner = |owner: &Option<Owner>| owner.as_ref().map(|o| o.to_pb(base));
        let time = |time: &Option<i64>| time.unwrap_or(-1);
        match self {
            Self::Copy(copy) => file_action::Action::Copy(pb::FileActionCopy {
                src: copy.src.clone(),
                dest: copy.dest.clone(),
                owner: owner(&copy.owner),
                mode: match &copy.mode {
                    Some(Chmod::Octal(mode)) => *mode as i32,
                    Some(Chmod::Symbolic(_)) => 0,
                    None => -1,
                },
                mode_str: match &copy.mode {
                    Some(Chmod::Symbolic(text)) => text.clone(),
                    _ => String::new(),
                },
                follow_symlink: copy.follow_symlink,
                dir_copy_contents: copy.dir_copy_contents,
                attempt_unpack_docker_compatibility: copy.unpack,
                create_dest_path: copy.create_dest_path,
                allow_wildcard: copy.allow_wildcard,
                allow_empty_wildcard: copy.allow_empty_wildcard,
                timestamp: time(&copy.timestamp),
                include_patterns: copy.include_patterns.clone(),
                exclude_patterns: copy.exclude_patterns.clone(),
                always_replace_existing_dest_paths: copy.always_replace_existing,
                required_paths: copy.required_paths.clone(),
            }),
            Self::Mkfile(a) => file_action::Action::Mkfile(pb::FileActionMkFile {
                path: a.path.clone(),
                mode: (a.mode & PERMISSIONS) as i32,
                data: a.data.clone(),
                owner: owner(&a.owner),
                timestamp: time(&a.timestamp),
            }),
            Self::Mkdir(a) => file_action::Action::Mkdir(pb::FileActionMkDir {
                path: a.path.clone(),
                mode: (a.mode & PERMISSIONS) as i32,
                make_parents: a.make_parents,
                owner: owner(&a.owner),
                timestamp: time(&a.timestamp),
            }),
            Self::Rm(a) => file_action::Action::Rm(pb::FileActionRm {
                path: a.path.clone(),
                allow_not_found: a.allow_not_found,
                allow_wildcard: a.allow_wildcard,
            }),
            Self::Symlink(a) => file_action::Action::Symlink(pb::FileActionSymlink {
                oldpath: a.oldpath.clone(),
                newpath: a.newpath.clone(),
                owner: owner(&a.owner),
                timestamp: time(&a.timestamp),
            }),
        }
    }
}
