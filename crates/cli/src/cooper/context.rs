//! The main build context and the Dockerfile, from what the command line says.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Read};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::named_context::is_remote;
use crate::client::session::Upload;
use crate::error::{CliError, Result};

/// Locals and options of a context; temporary directories live as long as it does.
#[derive(Debug, Default)]
pub struct Context {
    /// `context` and `dockerfile`.
    pub locals: BTreeMap<String, PathBuf>,
    /// `filename`, `context`, …
    pub attrs: BTreeMap<String, String>,
    /// A tar from standard input.
    pub upload: Option<Upload>,
    temporary: Vec<TempDir>,
}

/// Standard input: something to read, unless a person sits there.
pub enum Input<R> {
    /// A terminal.
    Terminal,
    /// A file or pipe.
    Piped(R),
}

/// The process's standard input.
pub fn stdin() -> Input<std::io::Stdin> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() { Input::Terminal } else { Input::Piped(stdin) }
}

/// Which Dockerfile.
pub enum File<'a> {
    /// The usual one.
    Usual,
    /// That of a name; `-` is standard input.
    Named(&'a str),
    /// One whose text was fetched.
    Text(Vec<u8>),
}

/// Reads the context argument and `-f`. Standard input is only touched when one of them is `-`.
pub fn resolve(argument: &str, file: File<'_>, stdin: Input<impl Read>) -> Result<Context> {
    let mut context = Context::default();
    if argument == "-" {
        context.take_stdin(file, stdin)?;
    } else if is_remote(argument) {
        context.attrs.insert("context".into(), argument.into());
        match file {
            File::Named("-") => context.dockerfile_beside(&read_dockerfile(stdin)?)?,
            File::Text(text) => context.dockerfile_beside(&text)?,
            File::Named(name) => drop(context.attrs.insert("filename".into(), name.into())),
            File::Usual => {}
        }
    } else {
        context.directory(argument, file, stdin)?;
    }
    Ok(context)
}

impl<R: Read> Input<R> {
    fn piped(self) -> Result<R> {
        match self {
            Self::Piped(reader) => Ok(reader),
            Self::Terminal => {
                Err(CliError::Usage("- reads standard input, which is a terminal; pipe something to it".into()))
            }
        }
    }
}

fn read_dockerfile(stdin: Input<impl Read>) -> Result<Vec<u8>> {
    let mut stdin = stdin.piped()?;
    let mut text = Vec::new();
    stdin.read_to_end(&mut text).map_err(CliError::io("cannot read standard input"))?;
    Ok(text)
}

/// As much as is needed to tell a tar from a Dockerfile.
const PROBE: u64 = 512;

/// Beginnings of compressed archives; a plain tar has its magic at an offset.
const MAGIC: [&[u8]; 4] = [b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"];

fn is_archive(head: &[u8]) -> bool {
    MAGIC.iter().any(|magic| head.starts_with(magic)) || head.get(257..262) == Some(b"ustar")
}

impl Context {
    fn directory(&mut self, argument: &str, file: File<'_>, stdin: Input<impl Read>) -> Result<()> {
        let dir = PathBuf::from(argument);
        let metadata = std::fs::metadata(&dir)
            .map_err(|error| CliError::Usage(format!("unable to prepare context: path {argument:?}: {error}")))?;
        if !metadata.is_dir() {
            return Err(CliError::Usage(format!("unable to prepare context: {argument:?} is not a directory")));
        }
        match file {
            File::Named("-") => self.dockerfile_text(&read_dockerfile(stdin)?)?,
            File::Text(text) => self.dockerfile_text(&text)?,
            File::Named(name) => {
                let path = Path::new(name);
                check_dockerfile(path)?;
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                let base = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                self.locals.insert("dockerfile".into(), parent.unwrap_or(Path::new(".")).to_owned());
                self.attrs.insert("filename".into(), base);
            }
            File::Usual => {
                // The frontend falls back to the lower-case name by itself.
                if !dir.join("dockerfile").is_file() {
                    check_dockerfile(&dir.join("Dockerfile"))?;
                }
                self.locals.insert("dockerfile".into(), dir.clone());
            }
        }
        self.locals.insert("context".into(), dir);
        Ok(())
    }

    fn take_stdin(&mut self, file: File<'_>, stdin: Input<impl Read>) -> Result<()> {
        if matches!(file, File::Named("-")) {
            return Err(CliError::Usage(
                "invalid argument: can't use stdin for both build context and dockerfile".into(),
            ));
        }
        let mut stdin = stdin.piped()?;
        let mut head = Vec::new();
        stdin.by_ref().take(PROBE).read_to_end(&mut head).map_err(CliError::io("cannot read standard input"))?;
        if head.is_empty() {
            return Err(CliError::Usage("standard input is empty, expected a tar or a Dockerfile".into()));
        }
        if is_archive(&head) {
            self.upload = Some(Upload { head });
            match file {
                File::Usual => {}
                File::Named(name) => drop(self.attrs.insert("filename".into(), name.into())),
                File::Text(text) => self.dockerfile_beside(&text)?,
            }
            return Ok(());
        }
        if !matches!(file, File::Usual) {
            return Err(CliError::Usage(
                "ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles".into(),
            ));
        }
        stdin.read_to_end(&mut head).map_err(CliError::io("cannot read standard input"))?;
        self.dockerfile_text(&head)?;
        let empty = self.temporary_dir()?;
        self.locals.insert("context".into(), empty);
        Ok(())
    }

    fn dockerfile_text(&mut self, text: &[u8]) -> Result<()> {
        let dir = self.temporary_dir()?;
        std::fs::write(dir.join("Dockerfile"), text).map_err(CliError::file("cannot write", dir.join("Dockerfile")))?;
        self.locals.insert("dockerfile".into(), dir);
        self.attrs.insert("filename".into(), "Dockerfile".into());
        Ok(())
    }

    /// The text counts before what the context has.
    fn dockerfile_beside(&mut self, text: &[u8]) -> Result<()> {
        self.dockerfile_text(text)?;
        self.attrs.insert("dockerfilekey".into(), "dockerfile".into());
        Ok(())
    }

    /// The same for the same directory, so that the daemon sends for changed files only. Empty when the context is
    /// not a directory of the user's.
    pub fn shared_key(&self) -> String {
        let dir = self.locals.get("context").filter(|_| self.temporary.len() < 2 && self.upload.is_none());
        let path = dir.and_then(|dir| std::fs::canonicalize(dir).ok());
        path.map_or_else(String::new, |path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let digest = cooper_oci::Digest::of(path.as_os_str().as_encoded_bytes());
            format!("{name}:{}", digest.hex())
        })
    }

    fn temporary_dir(&mut self) -> Result<PathBuf> {
        let dir = TempDir::with_prefix("cooper-").map_err(CliError::io("cannot create a temporary directory"))?;
        let path = dir.path().to_owned();
        self.temporary.push(dir);
        Ok(path)
    }
}

fn check_dockerfile(path: &Path) -> Result<()> {
    let fault = |cause: String| CliError::Usage(format!("failed to read dockerfile: {}: {cause}", path.display()));
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Err(fault("it is a directory".into())),
        Ok(_) => Ok(()),
        Err(error) => Err(fault(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(argument: &str, file: Option<&str>, stdin: &'static [u8]) -> String {
        let file = match file {
            None => File::Usual,
            Some(url) if url.starts_with("http") => File::Text(b"FROM b".to_vec()),
            Some(name) => File::Named(name),
        };
        match resolve(argument, file, Input::Piped(stdin)) {
            Err(error) => format!("! {error}"),
            Ok(context) => {
                let locals = context.locals.iter().map(|(k, v)| format!("{k}={}", v.display()));
                let attrs = context.attrs.iter().map(|(k, v)| format!("{k}:{v}"));
                let upload = context.upload.iter().map(|upload| format!("upload {} bytes", upload.head.len()));
                let text = locals.chain(attrs).chain(upload).collect::<Vec<_>>().join(" ");
                let temporary = context.temporary.iter().map(|dir| dir.path().display().to_string());
                temporary.fold(text, |text, dir| text.replace(&dir, "TMP"))
            }
        }
    }

    #[test]
    fn directories_urls_and_standard_input() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        let named = format!("{path}/other.Dockerfile");
        assert!(shown(path, None, b"").contains("failed to read dockerfile"));
        std::fs::write(dir.path().join("Dockerfile"), "FROM scratch").unwrap();
        std::fs::write(&named, "FROM scratch").unwrap();
        let gzip: &[u8] = b"\x1f\x8b\x08rest";
        for (argument, file, stdin, expected) in [
            (path, None, &b""[..], format!("context={path} dockerfile={path}")),
            (path, Some(named.as_str()), b"", format!("context={path} dockerfile={path} filename:other.Dockerfile")),
            (path, Some("-"), b"FROM a", format!("context={path} dockerfile=TMP filename:Dockerfile")),
            ("https://h/r.git#main", None, b"", "context:https://h/r.git#main".into()),
            ("https://h/r.git", Some("sub/D"), b"", "context:https://h/r.git filename:sub/D".into()),
            (
                "git@h:r.git",
                Some("-"),
                b"FROM a",
                "dockerfile=TMP context:git@h:r.git dockerfilekey:dockerfile filename:Dockerfile".into(),
            ),
            (path, Some("http://h/D"), b"", format!("context={path} dockerfile=TMP filename:Dockerfile")),
            (
                "https://h/r.git",
                Some("http://h/D"),
                b"",
                "dockerfile=TMP context:https://h/r.git dockerfilekey:dockerfile filename:Dockerfile".into(),
            ),
            (
                "-",
                Some("http://h/D"),
                gzip,
                "dockerfile=TMP dockerfilekey:dockerfile filename:Dockerfile upload 7 bytes".into(),
            ),
            ("-", None, b"FROM a\n", "context=TMP dockerfile=TMP filename:Dockerfile".into()),
            ("-", None, gzip, "upload 7 bytes".into()),
            ("-", Some("sub/D"), gzip, "filename:sub/D upload 7 bytes".into()),
            ("-", Some("-"), b"x", "! invalid argument: can't use stdin for both build context and dockerfile".into()),
            ("-", None, b"", "! standard input is empty, expected a tar or a Dockerfile".into()),
            (
                "-",
                Some("D"),
                b"FROM a",
                "! ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles".into(),
            ),
            (&named, None, b"", format!("! unable to prepare context: {named:?} is not a directory")),
        ] {
            assert_eq!(shown(argument, file, stdin), expected, "{argument} {file:?}");
        }
    }
}
