//! What can be done to a file tree: plain values without protocol or I/O.

/// One change of a file tree. Paths are absolute within the tree or relative to its root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Copies from a second tree.
    Copy(Box<Copy>),
    /// Writes one file.
    Mkfile(Mkfile),
    /// Makes a directory.
    Mkdir(Mkdir),
    /// Removes a file or a tree.
    Rm(Rm),
    /// Makes a symbolic link.
    Symlink(Symlink),
}

/// A user or a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// By number.
    Id(u32),
    /// By name in the `/etc/passwd` or `/etc/group` of a tree. A name that is not listed there counts
    /// as 0.
    Name(String),
}

/// Who shall own what an action makes. Without a group, a user given by number owns it together with
/// the group of that number, a user given by name with its login group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owner {
    /// The user, 0 when absent.
    pub user: Option<Principal>,
    /// The group.
    pub group: Option<Principal>,
}

/// A point in time: nanoseconds since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub i64);

/// Copies files and trees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Copy {
    /// What is read. A trailing `/` or `/.` is significant.
    pub src: String,
    /// Where it goes. With a trailing `/` it is a directory.
    pub dest: String,
    /// New owner of everything; kept when absent.
    pub owner: Option<Owner>,
    /// New permissions of everything (up to 0o7777); kept when absent.
    pub mode: Option<u32>,
    /// Symbolic permissions such as `u=rwX,go=rX`; wins over `mode` when not empty.
    pub mode_str: String,
    /// Follows a symbolic link at the end of `src`.
    pub follow_symlink: bool,
    /// Copies what a source directory holds rather than the directory.
    pub dir_copy_contents: bool,
    /// Unpacks a source file that is a tar archive, compressed or not.
    pub attempt_unpack: bool,
    /// Makes missing parents of `dest`.
    pub create_dest_path: bool,
    /// Takes `src` as a pattern.
    pub allow_wildcard: bool,
    /// A pattern that matches nothing is no error.
    pub allow_empty_wildcard: bool,
    /// New modification time of everything; kept when absent.
    pub timestamp: Option<Time>,
    /// Copies only what matches, relative to `src`.
    pub include_patterns: Vec<String>,
    /// Leaves out what matches, relative to `src`.
    pub exclude_patterns: Vec<String>,
    /// Paths of the source that must exist.
    pub required_paths: Vec<String>,
    /// Replaces what is in the way even when it is of another kind.
    pub always_replace: bool,
}

/// Writes one file; an existing one is overwritten and keeps its permissions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mkfile {
    /// Where.
    pub path: String,
    /// Permissions (0o777 at most) of a new file.
    pub mode: u32,
    /// The content.
    pub data: Vec<u8>,
    /// Owner; 0 for new files when absent.
    pub owner: Option<Owner>,
    /// Modification time; now when absent.
    pub timestamp: Option<Time>,
}

/// Makes a directory; an existing one is left as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mkdir {
    /// Where.
    pub path: String,
    /// Permissions (0o777 at most).
    pub mode: u32,
    /// Makes missing parents too.
    pub make_parents: bool,
    /// Owner; 0 when absent.
    pub owner: Option<Owner>,
    /// Modification time; now when absent.
    pub timestamp: Option<Time>,
}

/// Removes a file or a tree. A symbolic link is removed, not what it points to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rm {
    /// What.
    pub path: String,
    /// A missing path is no error.
    pub allow_not_found: bool,
    /// Takes `path` as a pattern; one that matches nothing is no error.
    pub allow_wildcard: bool,
}

/// Makes a symbolic link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Symlink {
    /// What the link points to, as it is.
    pub oldpath: String,
    /// Where the link goes.
    pub newpath: String,
    /// Owner; 0 when absent.
    pub owner: Option<Owner>,
    /// Modification time; now when absent.
    pub timestamp: Option<Time>,
}
