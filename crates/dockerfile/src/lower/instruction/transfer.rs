//! What `COPY` and `ADD` have in common.

use super::{Error, StageRun};
use crate::expand::Expander;
use crate::instruction::{Head, SourcesAndDest};
use crate::lower::findings::FindingKind;
use crate::lower::{Cause, paths};
use crate::value::quoted;
use cooper_llb::{
    Action, Chmod, Copy, Git, GitRef, Http, Meta, Mkfile, Output, Owner, attrs, file, git_url::GitUrlError, merge, path,
};
use cooper_oci::Digest;
use std::fmt::Write as _;

/// The operands, variables filled in.
#[derive(Default)]
pub(super) struct Sources {
    paths: Vec<String>,
    /// Names and contents of files that are written in the Dockerfile.
    files: Vec<(String, String)>,
    dest: String,
}

impl Sources {
    pub(super) fn expand(run: &mut StageRun<'_>, operands: &SourcesAndDest) -> Result<Self, Error> {
        let paths = operands.paths.iter().map(|path| run.expand(&path.text)).collect::<Result<_, _>>()?;
        let dest = run.expand(&operands.dest.text)?;
        let mut files = Vec::with_capacity(operands.files.len());
        for file in &operands.files {
            let content =
                if file.expand { run.expand_by(Expander::for_heredoc(), &file.content)? } else { file.content.clone() };
            files.push((file.name.clone(), content));
        }
        Ok(Self { paths, files, dest })
    }
}

/// A copy in the making.
pub(super) struct Transfer<'a> {
    pub(super) head: &'a Head,
    /// `ADD` rather than `COPY`.
    pub(super) add: bool,
    pub(super) chown: String,
    pub(super) chmod: String,
    pub(super) exclude: Vec<String>,
    pub(super) link: bool,
    pub(super) parents: bool,
    pub(super) checksum: String,
    pub(super) keep_git_dir: Option<bool>,
    pub(super) unpack: Option<bool>,
    /// Where paths are looked for.
    pub(super) files: Output,
    /// `files` is the build context.
    pub(super) from_context: bool,
    pub(super) sources: Sources,
}

/// Where a source operand leads.
enum Place {
    Git(Box<GitRef>),
    Http,
    Files,
}

impl Place {
    fn of(source: &str) -> Result<Self, GitUrlError> {
        match GitRef::parse(source) {
            // Without a protocol it is a path, unless it is a whole context.
            Ok(git) if !git.ambiguous => Ok(Self::Git(Box::new(git))),
            Err(error) if error.is_git() => Err(error),
            _ if source.starts_with("http://") || source.starts_with("https://") => Ok(Self::Http),
            _ => Ok(Self::Files),
        }
    }
}

impl Transfer<'_> {
    /// Makes the ops. Returns the paths of `files` that are used.
    pub(super) fn lower(mut self, run: &mut StageRun<'_>) -> Result<Vec<String>, Error> {
        let os = run.state.platform.os.clone();
        let dest = paths::destination(&run.state.dir, &self.sources.dest, &os)?;
        let template = Copy {
            dest,
            owner: (!self.chown.is_empty()).then(|| Owner::parse(&self.chown)),
            mode: chmod(&self.chmod)?,
            exclude_patterns: std::mem::take(&mut self.exclude),
            create_dest_path: true,
            ..Copy::default()
        };
        self.check_checksum()?;
        let text = run.shown(run.shared.rules, &self.head.text);
        let name = run.next_step(&text);
        let (mut copies, mut used) = (Vec::new(), Vec::new());
        let sources = std::mem::take(&mut self.sources);
        for source in &sources.paths {
            let copy = match Place::of(source).map_err(Cause::from)? {
                Place::Git(_) if !self.add => return Err(Error::new(Cause::GitInCopy)),
                Place::Http if !self.add => return Err(Error::new(Cause::UrlInCopy)),
                Place::Git(git) => self.git(&git, &name, &template)?,
                Place::Http => self.http(source, &name, &template)?,
                Place::Files => {
                    used.push(paths::source(source, &os)?);
                    self.check_ignored(run, source);
                    self.path(source, &os, &template)?
                }
            };
            copies.push(copy);
        }
        for (file_name, content) in &sources.files {
            copies.push(inline(run, file_name, content, &os, &template)?);
        }
        let actions = copies.into_iter().map(|copy| Action::Copy(Box::new(copy))).collect();
        self.apply(run, actions, &text, name);
        run.commit(self.history(&sources), true, true);
        Ok(used)
    }

    fn check_checksum(&self) -> Result<(), Cause> {
        if self.checksum.is_empty() {
            return Ok(());
        }
        let [source] = self.sources.paths.as_slice() else { return Err(Cause::ChecksumManySources) };
        match Place::of(source) {
            Ok(Place::Files) => Err(Cause::ChecksumLocalSource),
            Ok(_) => Ok(()),
            Err(error) => Err(Cause::Git(error)),
        }
    }

    fn git(&self, git: &GitRef, name: &str, template: &Copy) -> Result<Copy, Cause> {
        if let (Some(flag), Some(query)) = (self.keep_git_dir, git.keep_git_dir)
            && flag != query
        {
            return Err(Cause::KeepGitDir);
        }
        let mut checksum = self.checksum.clone();
        if !git.checksum.is_empty() {
            if !checksum.is_empty() && checksum != git.checksum {
                return Err(Cause::ChecksumMismatch { flag: checksum, address: git.checksum.clone() });
            }
            checksum.clone_from(&git.checksum);
        }
        let keep_git_dir = git.keep_git_dir.or(self.keep_git_dir) == Some(true);
        let options = Git { keep_git_dir, checksum, ..git.source() };
        let source = options.output(&git.remote, Meta::named(name))?;
        Ok(Copy { source, src: "/".to_owned(), ..template.clone() })
    }

    fn http(&self, url: &str, name: &str, template: &Copy) -> Result<Copy, Cause> {
        let file_name = url_file_name(url);
        let checksum = match self.checksum.as_str() {
            "" => None,
            text => Some(text.parse::<Digest>()?),
        };
        let options = Http { checksum, filename: Some(file_name.clone()), ..Http::default() };
        let source = options.output(url, Meta::named(name).describe(attrs::DOCKERFILE_COMMAND, ""));
        let unpack = self.unpack.unwrap_or(false);
        Ok(Copy { source, src: path::join("/", &file_name), unpack, ..template.clone() })
    }

    fn path(&self, source: &str, os: &str, template: &Copy) -> Result<Copy, Cause> {
        let (mut dir, mut include, mut required) = (source, Vec::new(), Vec::new());
        if self.parents {
            // What is left of the pivot is not kept at the destination.
            let (above, below) = source.split_once("/./").unwrap_or(("/", source));
            let pattern = paths::source(below, os)?;
            let all = pattern == "/";
            if !all && !cooper_fsmatch::has_wildcards(above) && !cooper_fsmatch::has_wildcards(&pattern) {
                required.push(paths::source(&path::join(above, &pattern), os)?);
            }
            if !all {
                include.push(pattern.trim_start_matches('/').to_owned());
            }
            dir = above;
        }
        Ok(Copy {
            source: self.files.clone(),
            src: paths::source(dir, os)?,
            follow_symlink: true,
            dir_copy_contents: true,
            include_patterns: include,
            required_paths: required,
            unpack: self.unpack.unwrap_or(self.add),
            allow_wildcard: true,
            allow_empty_wildcard: true,
            ..template.clone()
        })
    }

    /// Makes the op: on top of the stage, or beside it and then laid over it.
    fn apply(&self, run: &mut StageRun<'_>, actions: Vec<Action>, text: &str, name: String) {
        let linked = self.link && self.chmod.is_empty() && run.shared.supports("mergeop");
        if !linked {
            let meta = run.meta(name);
            run.state.output = file(&run.state.output, actions, meta);
            return;
        }
        let group = group_id(run, &name);
        let meta = run.meta(name.clone()).in_group(&group, &name, true);
        let layer = file(&Output::scratch(), actions, meta);
        let meta = run.meta(run.same_step(&format!("LINK {text}"))).in_group(&group, &name, false);
        run.state.output = merge([run.state.output.clone(), layer], meta);
    }

    fn history(&self, sources: &Sources) -> String {
        let mut out = String::from(if self.add { "ADD" } else { "COPY" });
        if self.parents {
            out.push_str(" --parents");
        }
        for (flag, value) in [("chown", &self.chown), ("chmod", &self.chmod)] {
            if !value.is_empty() {
                let _ = write!(out, " --{flag}={value}");
            }
        }
        for source in &sources.paths {
            let _ = write!(out, " {source}");
        }
        for (name, _) in &sources.files {
            let _ = write!(out, " <<{name}");
        }
        let _ = write!(out, " {}", sources.dest);
        out
    }

    /// Lint of a path that the ignore file keeps from being sent. With re-included patterns nothing is certain.
    fn check_ignored(&self, run: &mut StageRun<'_>, source: &str) {
        let Some(ignore) = run.shared.ignore.as_ref().filter(|m| self.from_context && !m.has_exclusions()) else {
            return;
        };
        let path = path::clean(source);
        let root = path == "." || path == "/";
        let ignored = if root {
            ignore.patterns().iter().any(|pattern| matches!(pattern.text(), "*" | "**" | "**/*"))
        } else {
            ignore.matches(&path)
        };
        if ignored {
            run.find(FindingKind::CopyIgnoredFile { command: if self.add { "Add" } else { "Copy" }, path });
        }
    }
}

/// A file that is written in the Dockerfile.
fn inline(run: &StageRun<'_>, name: &str, content: &str, os: &str, template: &Copy) -> Result<Copy, Error> {
    let path = paths::inline(name, os)?;
    let mkfile = Mkfile { path: path.clone(), mode: 0o644, data: content.as_bytes().to_vec(), ..Mkfile::default() };
    let meta = Meta::named("[internal] preparing inline document").on(&run.state.platform);
    let source = file(&Output::scratch(), vec![Action::Mkfile(mkfile)], meta);
    Ok(Copy { source, src: path, ..template.clone() })
}

/// The last element of a URL's path. One that is no URL has none.
pub(in crate::lower) fn url_file_name(url: &str) -> String {
    const UNNAMED: &str = "__unnamed__";
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let path = rest.find('/').map_or("", |slash| &rest[slash..]);
    let hex = |bytes: &[u8]| bytes.len() >= 2 && bytes[..2].iter().all(u8::is_ascii_hexdigit);
    let encoded = path.split('%').skip(1).all(|rest| hex(rest.as_bytes()));
    if !encoded || url.bytes().any(|b| b.is_ascii_control()) {
        return UNNAMED.to_owned();
    }
    match path::base(&cooper_llb::git_url::decode(path)) {
        "." | "/" => UNNAMED.to_owned(),
        name => name.to_owned(),
    }
}

/// Octal digits up to 07777, or a symbolic mode.
fn chmod(text: &str) -> Result<Option<Chmod>, Cause> {
    if text.is_empty() {
        return Ok(None);
    }
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return match u32::from_str_radix(text, 8) {
            Ok(mode) if mode <= 0o7777 => Ok(Some(Chmod::Octal(mode))),
            _ => Err(Cause::Chmod(text.to_owned())),
        };
    }
    if !text.split(',').all(is_mode_clause) {
        return Err(Cause::SymbolicChmod(text.to_owned()));
    }
    Ok(Some(Chmod::Symbolic(text.to_owned())))
}

/// `[ugoa]*` and then at least once `[+-=]` and permissions.
fn is_mode_clause(clause: &str) -> bool {
    let actions = clause.trim_start_matches(['u', 'g', 'o', 'a']);
    actions.starts_with(['+', '-', '='])
        && actions.split(['+', '-', '=']).all(|permissions| {
            permissions.bytes().all(|b| b"rwxXst".contains(&b)) || matches!(permissions, "u" | "g" | "o")
        })
}

/// An id for the ops of one step, the same in every run.
fn group_id(run: &StageRun<'_>, name: &str) -> String {
    let line = run.ranges.first().map_or(0, |range| range.start.line);
    let key = format!("{} {} {line} {}", quoted(name), run.state.platform, quoted(run.name));
    Digest::of(key).hex().chars().take(25).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        for (text, ok) in [
            ("0", true),
            ("755", true),
            ("07777", true),
            ("10000", false),
            ("64a", false),
            ("u=rwX,go=rX", true),
            ("+x", true),
            ("a-w+x", true),
            ("g=u", true),
            ("u", false),
            ("u=q", false),
            (",", false),
        ] {
            assert_eq!(chmod(text).is_ok(), ok, "{text}");
        }
    }

    #[test]
    fn names_of_downloads() {
        for (url, name) in [
            ("https://h/a/b.tar.gz?x=1#y", "b.tar.gz"),
            ("https://h/a/", "a"),
            ("https://h/", "__unnamed__"),
            ("https://h", "__unnamed__"),
            ("http://h/a%20b", "a b"),
            ("http://h/a%2Fb", "b"),
            ("http://h/a%zz", "__unnamed__"),
            ("http://h/a\0b", "__unnamed__"),
        ] {
            assert_eq!(url_file_name(url), name);
        }
    }
}
