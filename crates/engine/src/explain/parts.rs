//! The parts of an op, by name, as people know them. Only for comparison: what makes the key is in the ops.

use crate::ops::{SourceOp, vertex};
use cooper_attest::Capture;
use cooper_llb::{pb, platform_from_pb};
use cooper_oci::Digest;
use pb::op::Op as Kind;
use prost::Message as _;
use serde::{Deserialize, Serialize};

/// Longest value that is kept; longer ones are cut, and told apart by a digest.
const MAX_VALUE: usize = 512;
/// Most parts of one op.
const MAX_PARTS: usize = 512;

/// The parts of one op.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    /// `exec`, `file`, `image`, …
    pub kind: String,
    /// Names and values, in the order in which they are compared.
    pub list: Vec<(String, String)>,
}

/// Name of the part with the platform.
pub const PLATFORM: &str = "platform";
/// Name of the part with the command of a process.
pub const COMMAND: &str = "command";
/// What the names of parts begin with that are variables.
pub const VARIABLE: &str = "$";
/// Name of the part of a source that is its name.
pub const NAME: &str = "name";
/// Name of the part of a source that is what it stood for.
pub const DIGEST: &str = "digest";

/// Name of the part with the text of an instruction as it stands in the file. It is no part of the op.
pub const WRITTEN: &str = "written";

impl Parts {
    /// Notes what an instruction looks like before its variables are replaced, where that is not seen otherwise.
    pub fn set_written(&mut self, text: &str) {
        if self.kind == "file" && text.contains('$') {
            self.add(WRITTEN, text);
        }
    }

    /// The parts of an op, as received; of a source with what it stands for.
    pub fn of(raw: &[u8], source: Option<&dyn SourceOp>) -> Self {
        let Ok(op) = pb::Op::decode(raw) else { return Self::default() };
        let mut parts = Self::default();
        match &op.op {
            Some(Kind::Exec(exec)) => {
                parts.kind = "exec".to_owned();
                if let Some(platform) = &op.platform {
                    parts.add(PLATFORM, platform_from_pb(platform).normalized().to_string());
                }
                parts.exec(exec);
            }
            Some(Kind::File(file)) => {
                parts.kind = "file".to_owned();
                parts.file(file);
            }
            Some(Kind::Source(found)) => parts.source(found, op.platform.as_ref(), source),
            Some(Kind::Merge(_)) => parts.kind = "merge".to_owned(),
            Some(Kind::Diff(_)) => parts.kind = "diff".to_owned(),
            Some(Kind::Build(_)) => parts.kind = "build".to_owned(),
            Some(Kind::Passthrough(_)) => parts.kind = "passthrough".to_owned(),
            None => {}
        }
        parts.list.truncate(MAX_PARTS);
        parts
    }

    /// Whether it stands for something that comes from outside.
    pub fn is_source(&self) -> bool {
        !matches!(self.kind.as_str(), "" | "exec" | "file" | "merge" | "diff" | "build" | "passthrough")
    }

    /// A part by its name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.list.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Adds a part; an empty value is none.
    fn add(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let value = value.into();
        if !value.is_empty() {
            self.list.push((name.into(), shortened(value)));
        }
    }

    fn exec(&mut self, exec: &pb::ExecOp) {
        let meta = exec.meta.clone().unwrap_or_default();
        self.add(COMMAND, meta.args.join(" "));
        for variable in &meta.env {
            let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
            // An empty value is a value, too.
            self.list.push((format!("{VARIABLE}{name}"), shortened(value.to_owned())));
        }
        self.add("working directory", meta.cwd);
        self.add("user", meta.user);
        self.add("host name", meta.hostname);
        self.add("network", if exec.network() == pb::NetMode::Unset { "" } else { exec.network().as_str_name() });
        self.add(
            "security",
            if exec.security() == pb::SecurityMode::Sandbox { "" } else { exec.security().as_str_name() },
        );
        let hosts: Vec<&str> = meta.extra_hosts.iter().map(|h| h.host.as_str()).collect();
        self.add("extra hosts", hosts.join(" "));
        for limit in &meta.ulimit {
            self.add(format!("limit {}", limit.name), format!("{}:{}", limit.soft, limit.hard));
        }
        self.add("cgroup parent", meta.cgroup_parent);
        let devices: Vec<&str> = exec.cdi_devices.iter().map(|d| d.name.as_str()).collect();
        self.add("devices", devices.join(" "));
        for secret in &exec.secretenv {
            self.add(format!("secret variable {}", secret.name), &secret.id);
        }
        for mount in &exec.mounts {
            let bare = pb::Mount { dest: String::new(), ..mount.clone() };
            self.add(format!("mount {}", mount.dest), described(&bare));
        }
        if !meta.valid_exit_codes.is_empty() {
            self.add("exit codes", format!("{:?}", meta.valid_exit_codes));
        }
    }

    fn file(&mut self, file: &pb::FileOp) {
        for action in &file.actions {
            let Some(kind) = &action.action else { continue };
            self.add(vertex::action_name(kind), format!("{kind:?}"));
        }
    }

    fn source(&mut self, found: &pb::SourceOp, platform: Option<&pb::Platform>, op: Option<&dyn SourceOp>) {
        let (scheme, rest) = found.identifier.split_once("://").unwrap_or(("source", &found.identifier));
        self.kind = match scheme {
            "docker-image" | "oci-layout" => "image",
            "https" => "http",
            other => other,
        }
        .to_owned();
        let mut capture = Capture::default();
        if let Some(op) = op {
            op.capture(&mut capture);
        }
        let sources = capture.sources;
        let images = sources.images.into_iter().map(|i| (i.reference, i.digest.map(|d| d.to_string())));
        let git = sources.git.into_iter().map(|g| (g.url, Some(g.commit)));
        let http = sources.http.into_iter().map(|h| (h.url, Some(h.digest.to_string())));
        let blobs = sources.blobs.into_iter().map(|b| (b.reference, Some(b.digest.to_string())));
        let (name, digest) =
            images.chain(git).chain(http).chain(blobs).next().unwrap_or_else(|| (rest.to_owned(), None));
        if self.kind == "image"
            && let Some(platform) = platform
        {
            self.add(PLATFORM, platform_from_pb(platform).normalized().to_string());
        }
        // A name that is pinned stands for itself; the digest is told apart from it.
        self.add(NAME, name.split('@').next().unwrap_or_default());
        self.add(DIGEST, digest.unwrap_or_default());
    }
}

fn shortened(value: String) -> String {
    if value.len() <= MAX_VALUE {
        return value;
    }
    let start: String = value.chars().take(MAX_VALUE / 4).collect();
    format!("{start}… ({} bytes, {})", value.len(), &Digest::of(&value).hex()[..12])
}

/// A mount in words.
fn described(mount: &pb::Mount) -> String {
    let mut words = vec![mount.mount_type().as_str_name().to_lowercase()];
    let mut word = |name: &str, value: &str| {
        if !value.is_empty() {
            words.push(format!("{name}={value}"));
        }
    };
    word("source", &mount.selector);
    word("readonly", if mount.readonly { "true" } else { "" });
    if let Some(cache) = &mount.cache_opt {
        word("id", &cache.id);
        word("sharing", &cache.sharing().as_str_name().to_lowercase());
    }
    if let Some(secret) = &mount.secret_opt {
        word("id", &secret.id);
        word("mode", &format!("{:o}", secret.mode));
    }
    if let Some(ssh) = &mount.ssh_opt {
        word("id", &ssh.id);
    }
    if let Some(tmpfs) = &mount.tmpfs_opt
        && tmpfs.size > 0
    {
        word("size", &tmpfs.size.to_string());
    }
    words.join(" ")
}

/// The values of the variables in an instruction, by name, from its text with values in their places. `None` when that
/// cannot be told.
pub fn values(written: &str, shown: &str) -> Option<Vec<(String, String)>> {
    let (mut written, mut shown) = (written.split_whitespace(), shown.split_whitespace());
    let mut values = Vec::new();
    loop {
        match (written.next(), shown.next()) {
            (None, None) => return Some(values),
            (Some("\\"), _) => return None,
            (Some(word), Some(with)) => word_values(word, with, &mut values)?,
            _ => return None,
        }
    }
}

/// The same for one word.
fn word_values(word: &str, shown: &str, values: &mut Vec<(String, String)>) -> Option<()> {
    let mut pieces = word.split('$');
    let mut rest = shown.strip_prefix(pieces.next()?)?;
    let pieces: Vec<&str> = pieces.collect();
    for (number, piece) in pieces.iter().enumerate() {
        let (name, literal) = match piece.strip_prefix('{') {
            Some(braced) => braced.split_once('}')?,
            None => piece.split_at(piece.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(piece.len())),
        };
        let name = name.split([':', '#', '%', '/']).next().filter(|name| !name.is_empty())?;
        let end = match (literal, number + 1 == pieces.len()) {
            (literal, true) => rest.len().checked_sub(literal.len()).filter(|at| rest.is_char_boundary(*at))?,
            ("", false) => return None,
            (literal, false) => rest.find(literal)?,
        };
        let value = &rest[..end];
        rest = rest[end..].strip_prefix(literal)?;
        values.push((name.to_owned(), value.to_owned()));
    }
    rest.is_empty().then_some(())
}

/// What people wrote: a vertex' name without the heading that tells its place.
pub fn text_of(name: &str) -> &str {
    match name.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((_, text)) => text,
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_without_their_place() {
        for (name, text) in [
            ("[stage-0 2/3] COPY a /a", "COPY a /a"),
            ("[linux/amd64 build 1/9] RUN [\"x\"] y", "RUN [\"x\"] y"),
            ("RUN x", "RUN x"),
            ("[x", "[x"),
        ] {
            assert_eq!(text_of(name), text);
        }
    }

    #[test]
    fn values_of_variables_in_text() {
        let check = |written: &str, shown: &str, expected: &str| {
            let found =
                values(written, shown).map(|all| all.iter().map(|(n, v)| format!("{n}={v} ")).collect::<String>());
            assert_eq!(found.as_deref().map_or("?", str::trim_end), expected, "{written}");
        };
        check("COPY d-$V /d", "COPY d-1 /d", "V=1");
        check("COPY  --chown=$A:${B} ${S:-x}/y /$T", "COPY --chown=1:2 s/y /t", "A=1 B=2 S=s T=t");
        check("COPY a-${V}", "COPY a-", "V=");
        check("COPY a b", "COPY a b", "");
        check("COPY $A$B", "COPY 12", "?");
        check("COPY $A b", "COPY b", "?");
        check("COPY \\\n $A b", "COPY a b", "?");
        check("COPY x$A b", "COPY y1 b", "?");
    }

    #[test]
    fn parts_of_a_process() {
        let meta = pb::Meta {
            args: vec!["sh".into(), "-c".into(), "x".into()],
            env: vec!["A=1".into(), "EMPTY=".into(), format!("LONG={}", "x".repeat(600))],
            cwd: "/w".into(),
            ..pb::Meta::default()
        };
        let mounts = vec![pb::Mount { dest: "/c".into(), selector: "s".into(), ..pb::Mount::default() }];
        let exec = pb::ExecOp { meta: Some(meta), mounts, ..pb::ExecOp::default() };
        let op = pb::Op { op: Some(Kind::Exec(exec)), ..pb::Op::default() };
        let parts = Parts::of(&op.encode_to_vec(), None);
        let shown: Vec<String> = parts.list.iter().map(|(n, v)| format!("{n}={}", &v[..v.len().min(12)])).collect();
        insta::assert_snapshot!(shown.join("\n"), @r"
        command=sh -c x
        $A=1
        $EMPTY=
        $LONG=xxxxxxxxxxxx
        working directory=/w
        mount /c=bind source=
        ");
        assert!(parts.get("$LONG").unwrap().len() < 200);
    }
}
