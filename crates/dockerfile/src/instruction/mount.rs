//! `RUN --mount`: the table of keys, and mounts resolved to a typed value.
//!
//! A mount's values may hold variables, even its type, so the file's mount is a [`MountSpec`] (keys and raw values)
//! that becomes a [`Mount`] once an environment is known.

use crate::diagnostic::{Diagnostic, Problem, nearest};
use crate::expand::ExpandError;
use crate::source::{Span, Word};
use crate::value::{csv_fields, parse_bool, parse_size};

/// `--mount` as written: comma-separated keys and values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountSpec {
    /// The flag's whole value.
    pub word: Word,
    /// Its fields in order.
    pub fields: Vec<MountField>,
}

/// One field of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountField {
    /// Key in lower case.
    pub key: Word,
    /// Value after `=`, unexpanded; none for a bare key.
    pub value: Option<Word>,
    /// The field as written, for messages.
    pub text: String,
}

/// A mount with everything expanded and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the variants are the mount types")]
pub enum Mount {
    Bind(BindMount),
    Cache(CacheMount),
    Tmpfs(TmpfsMount),
    Secret(SecretMount),
    Ssh(SshMount),
}

/// Files of a stage, context or image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindMount {
    /// Stage, named context or image; the build context when absent.
    pub from: Option<String>,
    /// Path inside it; may be empty (its root).
    pub source: String,
    /// Where it appears; may be relative to the working directory or empty.
    pub target: String,
    /// Whether writes are refused; if not, they are dropped after the step.
    pub read_only: bool,
    /// The `id` key, which means nothing here but is accepted.
    pub id: Option<String>,
}

/// A directory that outlives the build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheMount {
    /// Identity; defaults to the target.
    pub id: Option<String>,
    /// Where it appears.
    pub target: String,
    /// Whether writes are refused.
    pub read_only: bool,
    /// How concurrent steps share it.
    pub sharing: CacheSharing,
    /// Where the first content comes from.
    pub from: Option<String>,
    /// Path in `from`.
    pub source: String,
    /// Mode and owner of the directory when it is made.
    pub access: FileAccess,
}

/// How concurrent steps use one cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CacheSharing {
    /// All at once.
    #[default]
    Shared,
    /// Each gets its own.
    Private,
    /// One after the other.
    Locked,
}

/// A file system in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TmpfsMount {
    /// Where it appears.
    pub target: String,
    /// Size limit in bytes; 0 for none.
    pub size: i64,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// A secret of the client as a file, an environment variable, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretMount {
    /// The `id` key.
    pub id: Option<String>,
    /// The `source` key, an older spelling of `id`.
    pub source: String,
    /// File to appear; empty when not given.
    pub target: String,
    /// Variable to set. An empty name stands for the default.
    pub env: Option<String>,
    /// Whether the step fails without the secret.
    pub required: bool,
    /// Mode and owner of the file.
    pub access: FileAccess,
}

/// A forwarded SSH agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshMount {
    /// Which agent; `default` when absent.
    pub id: Option<String>,
    /// Where the socket appears; empty for the default.
    pub target: String,
    /// Whether the step fails without it.
    pub required: bool,
    /// Mode and owner of the socket.
    pub access: FileAccess,
}

/// Mode and owner of something that a mount creates; `None` is that mount type's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FileAccess {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
}

/// A key of `--mount`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MountKey {
    /// The key and its other spellings.
    pub names: &'static [&'static str],
    /// Mount types that it has a meaning for.
    pub types: &'static [&'static str],
    /// What it does.
    pub summary: &'static str,
}

/// The types of mounts.
pub const MOUNT_TYPES: [&str; 5] = ["bind", "cache", "tmpfs", "secret", "ssh"];
/// The values of the key `sharing`.
pub const SHARING: [&str; 3] = ["shared", "private", "locked"];

const ALL: &[&str] = &MOUNT_TYPES;
const FILES: &[&str] = &["cache", "secret", "ssh"];

/// The keys of `--mount`.
pub static MOUNT_KEYS: [MountKey; 14] = [
    MountKey { names: &["type"], types: ALL, summary: "kind of mount: bind (default), cache, tmpfs, secret or ssh" },
    MountKey { names: &["from"], types: &["bind", "cache"], summary: "stage, named context or image; no variables" },
    MountKey {
        names: &["source", "src"],
        types: &["bind", "cache", "secret"],
        summary: "path in `from`; id of a secret",
    },
    MountKey { names: &["target", "dst", "destination"], types: ALL, summary: "path of the mount" },
    MountKey { names: &["readonly", "ro"], types: &["bind", "cache", "tmpfs"], summary: "refuse writes" },
    MountKey { names: &["readwrite", "rw"], types: &["bind", "cache", "tmpfs"], summary: "allow writes" },
    MountKey { names: &["id"], types: FILES, summary: "identity of the cache, secret or agent" },
    MountKey { names: &["sharing"], types: &["cache"], summary: "shared, private or locked between concurrent steps" },
    MountKey { names: &["required"], types: &["secret", "ssh"], summary: "fail without it" },
    MountKey { names: &["env"], types: &["secret"], summary: "variable that holds the secret" },
    MountKey { names: &["size"], types: &["tmpfs"], summary: "limit in bytes, with units" },
    MountKey { names: &["mode"], types: FILES, summary: "permissions, in octal" },
    MountKey { names: &["uid"], types: FILES, summary: "owner" },
    MountKey { names: &["gid"], types: FILES, summary: "group" },
];

fn key_names() -> impl Iterator<Item = &'static str> {
    MOUNT_KEYS.iter().flat_map(|key| key.names).copied()
}

impl MountSpec {
    /// Cuts a flag's value into fields. Whether they make sense shows when they are expanded; only variables in `from`
    /// are refused at once, since stages are chosen before anything is expanded.
    pub(crate) fn parse(word: Word) -> Result<Self, Box<(Problem, Span)>> {
        let fault = |problem, span| Err(Box::new((problem, span)));
        let fields = match csv_fields(&word.text) {
            Ok(fields) => fields,
            Err(reason) => return fault(Problem::Csv { what: "mounts", reason }, word.span),
        };
        let exact = word.text.len() == word.span.end - word.span.start;
        let fields = fields.into_iter().map(|field| {
            let place = |from: usize, to: usize| {
                if exact { Span::new(word.span.start + from, word.span.start + to) } else { word.span }
            };
            let (key, value) = match field.text.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (field.text.as_str(), None),
            };
            // A quoted field is pointed at as a whole.
            let plain = field.end - field.start == field.text.len();
            let (key_place, value_place) = if plain {
                let equals = field.start + key.len();
                (place(field.start, equals), place((equals + 1).min(field.end), field.end))
            } else {
                (place(field.start, field.end), place(field.start, field.end))
            };
            MountField {
                key: Word::new(key.to_lowercase(), key_place),
                value: value.map(|value| Word::new(value, value_place)),
                text: field.text.clone(),
            }
        });
        let fields: Vec<_> = fields.collect();
        for field in fields.iter().filter(|field| field.key.text == "from") {
            let variable = |value: &&Word| value.text.find('$').is_some_and(|at| at + 1 != value.text.len());
            if let Some(value) = field.value.as_ref().filter(variable) {
                return fault(Problem::VariableInFrom(field.key.text.clone()), value.span);
            }
        }
        Ok(Self { word, fields })
    }

    /// The stage, context or image that the mount takes files from.
    pub fn from(&self) -> Option<&Word> {
        let field = self.fields.iter().rfind(|field| field.key.text == "from")?;
        field.value.as_ref().filter(|value| !value.text.is_empty())
    }

    /// Expands every value and checks the whole. The lines of the diagnostic are left to the caller, who knows them.
    pub fn resolve(&self, expand: &mut dyn FnMut(&str) -> Result<String, ExpandError>) -> Result<Mount, Diagnostic> {
        let mut keys = Keys::default();
        let mut at = self.word.span;
        let result = self.fields.iter().try_for_each(|field| {
            at = field.value.as_ref().map_or(field.key.span, |value| field.key.span.to(value.span));
            keys.field(field, expand)
        });
        let result = result.map(|()| at = self.word.span).and_then(|()| keys.finish());
        result.map_err(|wrong| {
            let (problem, suggestion) = *wrong;
            Diagnostic { problem, suggestion, span: at, first_line: 0, last_line: 0 }
        })
    }
}

/// A problem and the nearest valid spelling.
type Wrong = Box<(Problem, Option<String>)>;

fn wrong<T>(problem: Problem) -> Result<T, Wrong> {
    Err(Box::new((problem, None)))
}

/// The keys of a mount as they are read.
#[derive(Debug, Default)]
struct Keys {
    kind: Kind,
    from: Option<String>,
    source: String,
    target: String,
    read_only: Option<bool>,
    id: Option<String>,
    sharing: Option<CacheSharing>,
    required: bool,
    env: Option<String>,
    size: i64,
    access: FileAccess,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Kind {
    #[default]
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

impl Kind {
    fn name(self) -> &'static str {
        MOUNT_TYPES[self as usize]
    }

    fn parse(value: &str) -> Result<Self, Wrong> {
        match value.to_lowercase().as_str() {
            "bind" => Ok(Self::Bind),
            "cache" => Ok(Self::Cache),
            "tmpfs" => Ok(Self::Tmpfs),
            "secret" => Ok(Self::Secret),
            "ssh" => Ok(Self::Ssh),
            _ => Err(Box::new((Problem::MountType(value.to_owned()), nearest(value, MOUNT_TYPES, false)))),
        }
    }
}

impl Keys {
    fn field(
        &mut self,
        field: &MountField,
        expand: &mut dyn FnMut(&str) -> Result<String, ExpandError>,
    ) -> Result<(), Wrong> {
        let key = field.key.text.as_str();
        let Some(raw) = &field.value else { return self.bare(key, &field.text) };
        let value = expand(&raw.text).or_else(|error| wrong(Problem::Expand(error)))?;
        let boolean = || {
            let invalid = || Box::new((Problem::InvalidValue { key: key.to_owned(), value: value.clone() }, None));
            parse_bool(&value).ok_or_else(invalid)
        };
        match key {
            "type" => self.kind = Kind::parse(&value)?,
            "from" => self.from = Some(value).filter(|from| !from.is_empty()),
            "source" | "src" => self.source = value,
            "target" | "dst" | "destination" => self.target = value,
            "readonly" | "ro" => self.read_only = Some(boolean()?),
            "readwrite" | "rw" => self.read_only = Some(!boolean()?),
            "required" => {
                self.check_required(key)?;
                self.required = boolean()?;
            }
            "size" => {
                if self.kind != Kind::Tmpfs {
                    return wrong(Problem::KeyNotForMount { key: key.to_owned(), mount: self.kind.name() });
                }
                let invalid = || Box::new((Problem::InvalidValue { key: key.to_owned(), value: value.clone() }, None));
                self.size = parse_size(&value).ok_or_else(invalid)?;
            }
            "id" => self.id = Some(value).filter(|id| !id.is_empty()),
            "sharing" => self.sharing = Some(sharing(&value)?),
            "mode" => self.access.mode = Some(number("mode", &value, 8)?),
            "uid" => self.access.uid = Some(number("uid", &value, 10)?),
            "gid" => self.access.gid = Some(number("gid", &value, 10)?),
            "env" => self.env = Some(value),
            _ => {
                let problem = Problem::UnexpectedKey { key: key.to_owned(), field: field.text.clone() };
                return Err(Box::new((problem, nearest(key, key_names(), false))));
            }
        }
        Ok(())
    }

    /// A key without a value.
    fn bare(&mut self, key: &str, text: &str) -> Result<(), Wrong> {
        match key {
            "readonly" | "ro" => self.read_only = Some(true),
            "readwrite" | "rw" => self.read_only = Some(false),
            "required" => {
                self.check_required(key)?;
                self.required = true;
            }
            _ => return wrong(Problem::FieldWithoutValue(text.to_owned())),
        }
        Ok(())
    }

    fn check_required(&self, key: &str) -> Result<(), Wrong> {
        match self.kind {
            Kind::Secret | Kind::Ssh => Ok(()),
            other => wrong(Problem::KeyNotForMount { key: key.to_owned(), mount: other.name() }),
        }
    }

    fn finish(self) -> Result<Mount, Wrong> {
        let Self { kind, from, source, target, read_only, id, sharing, required, env, size, access } = self;
        if matches!(kind, Kind::Bind | Kind::Tmpfs) {
            let given = [("mode", access.mode), ("uid", access.uid), ("gid", access.gid)];
            if let Some((key, _)) = given.into_iter().find(|(_, value)| value.is_some()) {
                return wrong(Problem::AccessNotForMount { key, mount: kind.name() });
            }
        }
        if kind == Kind::Secret {
            if from.is_some() {
                return wrong(Problem::SecretFrom);
            }
            if sharing.is_some() {
                return wrong(Problem::SecretSharing);
            }
            if source.is_empty() && target.is_empty() && id.is_none() {
                return wrong(Problem::SecretUnnamed);
            }
            if !source.is_empty() && id.is_some() {
                return wrong(Problem::SecretSourceAndId);
            }
        }
        if sharing.is_some() && kind != Kind::Cache {
            return wrong(Problem::SharingNotForMount(kind.name()));
        }
        Ok(match kind {
            Kind::Bind => Mount::Bind(BindMount { from, source, target, read_only: read_only.unwrap_or(true), id }),
            Kind::Cache => Mount::Cache(CacheMount {
                id,
                target,
                read_only: read_only.unwrap_or(false),
                sharing: sharing.unwrap_or_default(),
                from,
                source,
                access,
            }),
            Kind::Tmpfs => Mount::Tmpfs(TmpfsMount { target, size, read_only: read_only.unwrap_or(false) }),
            Kind::Secret => Mount::Secret(SecretMount { id, source, target, env, required, access }),
            Kind::Ssh => Mount::Ssh(SshMount { id, target, required, access }),
        })
    }
}

fn sharing(value: &str) -> Result<CacheSharing, Wrong> {
    match value.to_lowercase().as_str() {
        "shared" => Ok(CacheSharing::Shared),
        "private" => Ok(CacheSharing::Private),
        "locked" => Ok(CacheSharing::Locked),
        _ => Err(Box::new((Problem::Sharing(value.to_owned()), nearest(value, SHARING, false)))),
    }
}

fn number(key: &'static str, value: &str, radix: u32) -> Result<u32, Wrong> {
    let digits = Some(value).filter(|value| !value.starts_with('+'));
    let number = digits.and_then(|digits| u32::from_str_radix(digits, radix).ok());
    number.map_or_else(|| wrong(Problem::InvalidNumber { key, value: value.to_owned() }), Ok)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expand::{Env, Expander};

    fn resolve(text: &str) -> Result<Mount, String> {
        let word = Word::new(text, Span::new(0, text.len()));
        let spec = MountSpec::parse(word).map_err(|wrong| wrong.0.to_string())?;
        let env = Env::from_list(["T=cache", "D=/data"]);
        spec.resolve(&mut |word| Expander::default().process_word(word, &env)).map_err(|d| d.short())
    }

    #[test]
    fn mounts() {
        let show =
            |rows: &[&str]| rows.iter().fold(String::new(), |out, row| out + &format!("{:?}\n", resolve(row).unwrap()));
        insta::assert_snapshot!(show(&[
            "target=/a",
            "type=bind,from=base,src=x,dst=/y,rw",
            "type=$T,target=$D",
            "type=CACHE,id=n,target=/c,sharing=locked,mode=0755,uid=1,gid=2,readonly=true",
            "type=tmpfs,target=/t,size=1g",
            "type=secret,id=s,env=S,required",
            "type=secret,target=/run/s,mode=0400",
            "type=ssh,required=false",
            "from=a$,target=/x",
        ]), @r#"
        Bind(BindMount { from: None, source: "", target: "/a", read_only: true, id: None })
        Bind(BindMount { from: Some("base"), source: "x", target: "/y", read_only: false, id: None })
        Cache(CacheMount { id: None, target: "/data", read_only: false, sharing: Shared, from: None, source: "", access: FileAccess { mode: None, uid: None, gid: None } })
        Cache(CacheMount { id: Some("n"), target: "/c", read_only: true, sharing: Locked, from: None, source: "", access: FileAccess { mode: Some(493), uid: Some(1), gid: Some(2) } })
        Tmpfs(TmpfsMount { target: "/t", size: 1073741824, read_only: false })
        Secret(SecretMount { id: Some("s"), source: "", target: "", env: Some("S"), required: true, access: FileAccess { mode: None, uid: None, gid: None } })
        Secret(SecretMount { id: None, source: "", target: "/run/s", env: None, required: false, access: FileAccess { mode: Some(256), uid: None, gid: None } })
        Ssh(SshMount { id: None, target: "", required: false, access: FileAccess { mode: None, uid: None, gid: None } })
        Bind(BindMount { from: Some("a$"), source: "", target: "/x", read_only: true, id: None })
        "#);
    }

    #[test]
    fn wrong_mounts() {
        let show = |rows: &[&str]| {
            rows.iter().fold(String::new(), |out, row| out + &format!("{row}: {}\n", resolve(row).unwrap_err()))
        };
        insta::assert_snapshot!(show(&[
            "type=bind,targt=/x",
            "type=bnd,target=/x",
            "target",
            "from=$BASE,target=/x",
            "target=/x,required",
            "target=/x,mode=0755",
            "type=tmpfs,uid=1",
            "type=cache,target=/x,sharing=lokced",
            "type=cache,target=/x,mode=8",
            "type=cache,target=/x,uid=-1",
            "target=/x,ro=maybe",
            "target=/x,size=1",
            "type=tmpfs,size=big",
            "type=secret",
            "type=secret,id=a,src=b",
            "type=secret,from=a",
            "type=secret,id=a,sharing=shared",
            "type=ssh,sharing=shared",
            "type=cache,target=${X",
            "target=\"/x",
        ]), @r#"
        type=bind,targt=/x: unexpected key 'targt' in 'targt=/x' (did you mean target?)
        type=bnd,target=/x: unsupported mount type "bnd" (did you mean bind?)
        target: invalid field 'target' must be a key=value pair
        from=$BASE,target=/x: 'from' doesn't support variable expansion, define alias stage instead
        target=/x,required: unexpected key 'required' for mount type 'bind'
        target=/x,mode=0755: mode not allowed for "bind" type mounts
        type=tmpfs,uid=1: uid not allowed for "tmpfs" type mounts
        type=cache,target=/x,sharing=lokced: unsupported sharing value "lokced" (did you mean locked?)
        type=cache,target=/x,mode=8: invalid value 8 for mode
        type=cache,target=/x,uid=-1: invalid value -1 for uid
        target=/x,ro=maybe: invalid value for ro: maybe
        target=/x,size=1: unexpected key 'size' for mount type 'bind'
        type=tmpfs,size=big: invalid value for size: big
        type=secret: invalid secret mount. one of source, target required
        type=secret,id=a,src=b: both source and id can't be set
        type=secret,from=a: secret mount should not have a from
        type=secret,id=a,sharing=shared: secret mount should not define sharing
        type=ssh,sharing=shared: invalid cache sharing set for ssh mount
        type=cache,target=${X: failed to process "${X": unsupported modifier (�) in substitution
        target="/x: failed to parse csv mounts: parse error on line 1, column 8: bare " in non-quoted field
        "#);
    }
}
