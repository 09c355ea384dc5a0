//! The build context: a directory of the client, a git repository, something behind a URL, or another build's result.

use super::options::{Request, invalid};
use cooper_engine::{Bridge, BuildError, Ref};
use cooper_llb::{Action, Copy, Git, GitRef, Http, Meta, Output, file, path, pb};

/// The client's name for the build context, and the option with its address.
const CONTEXT: &str = "context";
/// The client's name for the directory with the Dockerfile.
const DOCKERFILE: &str = "dockerfile";
/// The name under which something behind a URL is stored.
const DOWNLOAD: &str = "context";
/// So much of a download tells an archive from a Dockerfile, in bytes: a tar header and then some.
const SNIFFED: u64 = 1024;

/// Where the files of the build come from.
#[derive(Debug)]
pub struct MainContext {
    /// The files; none: a directory of the client.
    pub files: Option<Output>,
    /// The client's name for that directory.
    pub local: String,
    /// The source with the Dockerfile.
    pub dockerfile: DockerfileSource,
    /// Path of the Dockerfile in its source.
    pub filename: String,
    /// What was asked of the engine, for whoever wants its time.
    pub source: Option<pb::SourceOp>,
    /// Whether the files come out of an archive.
    pub archive: bool,
}

/// Where the Dockerfile is.
#[derive(Debug)]
pub enum DockerfileSource {
    /// In a directory of the client, by the client's name for it.
    Local(String),
    /// Somewhere else.
    Output(Output),
}

impl MainContext {
    /// Finds out what the build context is. Downloads it when it is behind a URL.
    pub async fn open(bridge: &Bridge, request: &Request) -> Result<Self, BuildError> {
        let key = request.text("contextkey", CONTEXT);
        let address = request.opt(key);
        let local_dockerfile = request.opts.get("dockerfilekey").cloned();
        let mut context = Self {
            files: None,
            local: CONTEXT.to_owned(),
            dockerfile: DockerfileSource::Local(local_dockerfile.clone().unwrap_or_else(|| DOCKERFILE.to_owned())),
            filename: request.text("filename", "Dockerfile").to_owned(),
            source: None,
            archive: false,
        };
        let keep = request.build_arg("BUILDKIT_CONTEXT_KEEP_GIT_DIR").and_then(cooper_llb::git_url::parse_bool);
        let dated = request.build_arg("SOURCE_DATE_EPOCH").is_some_and(|v| !v.is_empty());
        let mut dockerfile = None;
        if let Some(repository) = git(address, keep == Some(true), dated)? {
            context.source = repository.source();
            dockerfile = Some(repository.clone());
            context.files = Some(repository);
        } else if is_url(address) {
            let downloaded = context.download(bridge, address).await?;
            dockerfile = Some(downloaded);
        } else {
            let inputs = request.inputs()?;
            if local_dockerfile.is_none()
                && let Some(definition) = inputs.get(DOCKERFILE)
            {
                dockerfile = Some(Output::from_definition(definition.clone())?);
            }
            if let Some(definition) = inputs.get(CONTEXT) {
                context.files = Some(Output::from_definition(definition.clone())?);
            }
        }
        // A directory with the Dockerfile that is named outright counts before what comes with the context.
        if local_dockerfile.is_none()
            && let Some(output) = dockerfile
        {
            context.dockerfile = DockerfileSource::Output(output);
        }
        if let Some(subdir) = request.opts.get("contextsubdir") {
            context.files = context.files.map(|files| directory(files, subdir));
        }
        Ok(context)
    }

    async fn download(&mut self, bridge: &Bridge, url: &str) -> Result<Output, BuildError> {
        let http = Http { filename: Some(DOWNLOAD.to_owned()), ..Http::default() };
        let download = http.output(url, Meta::named("[internal] load remote build context"));
        self.source = download.source();
        let doing = |e: BuildError| e.context("failed to read downloaded context");
        let unpacked = unpacked(bridge, &download, DOWNLOAD).await.map_err(doing)?;
        self.archive = unpacked.is_some();
        let files = unpacked.unwrap_or_else(|| {
            DOWNLOAD.clone_into(&mut self.filename);
            download
        });
        self.files = Some(files.clone());
        Ok(files)
    }
}

/// What is in the archive `name` of a directory; `None` when it is none.
pub async fn unpacked(bridge: &Bridge, directory: &Output, name: &str) -> Result<Option<Output>, BuildError> {
    let start = load(bridge, directory).await?.read_range(name, Some((0, SNIFFED))).await?;
    if !is_archive(&start) {
        return Ok(None);
    }
    let copy = Copy {
        source: directory.clone(),
        src: format!("/{name}"),
        dest: "/".to_owned(),
        unpack: true,
        ..Copy::default()
    };
    Ok(Some(file(&Output::scratch(), vec![Action::Copy(Box::new(copy))], Meta::default())))
}

/// Makes a source part of the build.
pub async fn load(bridge: &Bridge, output: &Output) -> Result<Ref, BuildError> {
    let empty = || invalid("invalid nil input definition to definition op".to_owned());
    bridge.load(output.marshal()?).await?.ok_or_else(empty)
}

/// Whether an address is one that is downloaded from, unless it is a git repository's.
pub fn is_url(address: &str) -> bool {
    address.starts_with("http://") || address.starts_with("https://")
}

/// The files of a git repository; `None` when the address is none of a repository.
pub fn git(address: &str, keep_git_dir: bool, times_of_commit: bool) -> Result<Option<Output>, BuildError> {
    let parsed = match GitRef::parse(address) {
        Ok(parsed) => parsed,
        Err(error) if error.is_git() => return Err(invalid(error.to_string())),
        Err(_) => return Ok(None),
    };
    let mut source: Git = parsed.source();
    source.keep_git_dir |= keep_git_dir;
    if times_of_commit && source.mtime.is_empty() {
        "commit".clone_into(&mut source.mtime);
    }
    let meta = Meta::named(format!("[internal] load git source {address}"));
    Ok(Some(source.output(&parsed.remote, meta)?))
}

/// What is in a directory of `files`, as a tree of its own.
fn directory(files: Output, subdir: &str) -> Output {
    let copy = Copy {
        source: files,
        src: path::join("/", subdir),
        dest: "/".to_owned(),
        dir_copy_contents: true,
        ..Copy::default()
    };
    file(&Output::scratch(), vec![Action::Copy(Box::new(copy))], Meta::default())
}

/// The beginnings of compressed files: bzip2, gzip, xz.
const COMPRESSED: [&[u8]; 3] = [b"BZh", &[0x1f, 0x8b, 0x08], &[0xfd, b'7', b'z', b'X', b'Z', 0x00]];

/// Whether a file that starts so is an archive.
fn is_archive(start: &[u8]) -> bool {
    COMPRESSED.iter().any(|magic| start.starts_with(magic)) || is_tar(start)
}

/// A tar header carries a sum of its bytes, its own field counted as blanks.
fn is_tar(start: &[u8]) -> bool {
    const HEADER: usize = 512;
    const SUM: std::ops::Range<usize> = 148..156;
    let Some(header) = start.get(..HEADER) else { return false };
    let digits: String = header[SUM].iter().map(|b| char::from(*b)).filter(char::is_ascii_digit).collect();
    let Ok(wanted) = u32::from_str_radix(&digits, 8) else { return false };
    let counted = |(i, b): (usize, &u8)| if SUM.contains(&i) { u32::from(b' ') } else { u32::from(*b) };
    header.iter().enumerate().map(counted).sum::<u32>() == wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_told_by_their_start() {
        let mut header = [0u8; 512];
        header[..10].copy_from_slice(b"Dockerfile");
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum::<u32>() + 8 * u32::from(b' ');
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let mut broken = header;
        broken[0] = b'd';
        for (start, archive) in [
            (&b"FROM scratch\n"[..], false),
            (b"", false),
            (b"BZh91AY", true),
            (&[0x1f, 0x8b, 0x08, 0x00], true),
            (&[0x1f, 0x8b], false),
            (&[0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00], true),
            (&header, true),
            (&broken, false),
            (&[0; 512], false),
        ] {
            assert_eq!(is_archive(start), archive, "{start:?}");
        }
    }

    #[test]
    fn repositories_are_told_from_downloads() {
        let source = |address: &str| git(address, true, true).unwrap().and_then(|output| output.source());
        let found = source("https://h/a.git?tag=v1&subdir=d").unwrap();
        assert_eq!(found.identifier, "git://h/a.git#refs/tags/v1:d");
        assert_eq!(found.attrs["git.keepgitdir"], "true");
        assert_eq!(found.attrs["git.mtime"], "commit");
        assert_eq!(source("https://h/a.git?mtime=checkout").unwrap().attrs["git.mtime"], "checkout");
        assert_eq!(source("https://h/a.tar.gz"), None);
        assert_eq!(source(""), None);
        assert_eq!(git("https://h/a.git?what=1", false, false).unwrap_err().message, "unexpected query \"what\"");
    }
}
