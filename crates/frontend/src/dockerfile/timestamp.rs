//! When a source was last changed.

use super::context::{self, MainContext};
use cooper_engine::{Bridge, BuildError};
use cooper_llb::{Output, attrs, pb};
use cooper_rooted::{Kind, Root};
use cooper_wire::gateway::{ResolveSourceGitRequest, ResolveSourceMetaRequest};
use std::path::PathBuf;

const NANOS: i64 = 1_000_000_000;

/// The time of the build context, in seconds since 1970; a directory of the client has none.
pub async fn of_context(bridge: &Bridge, main: &MainContext, log_name: String) -> Result<Option<i64>, BuildError> {
    let Some(source) = &main.source else { return Ok(None) };
    let time = said_of_source(bridge, source.clone(), log_name).await?;
    match &main.files {
        Some(files) if time.is_none() && main.archive => newest_of(bridge, files).await,
        _ => Ok(time),
    }
}

/// The time of a commit or of a download, in seconds since 1970.
pub async fn of_source(bridge: &Bridge, source: &Output, log_name: String) -> Result<Option<i64>, BuildError> {
    let Some(op) = source.source() else { return Ok(None) };
    let http = context::is_url(&op.identifier);
    let name = op.attrs.get(attrs::HTTP_FILENAME).cloned();
    match (said_of_source(bridge, op, log_name).await?, name) {
        (None, Some(name)) if http => {
            let archive = context::unpacked(bridge, source, &name).await?;
            match archive {
                Some(files) => newest_of(bridge, &files).await,
                None => Ok(None),
            }
        }
        (time, _) => Ok(time),
    }
}

/// The server did not say: the newest file of the archive does.
async fn newest_of(bridge: &Bridge, files: &Output) -> Result<Option<i64>, BuildError> {
    let tree = context::load(bridge, files).await?.open().await?;
    let newest = tokio::task::spawn_blocking(move || newest_file(&tree.root()?)).await;
    newest.map_err(|e| BuildError::refused(format!("reading the times of an archive ended abnormally: {e}")))?
}

async fn said_of_source(bridge: &Bridge, source: pb::SourceOp, log_name: String) -> Result<Option<i64>, BuildError> {
    let request = ResolveSourceMetaRequest {
        git: source.identifier.starts_with("git://").then_some(ResolveSourceGitRequest { return_object: true }),
        source: Some(source),
        log_name,
        ..ResolveSourceMetaRequest::default()
    };
    let answer = Box::pin(bridge.resolve_source_meta(request)).await?;
    if let Some(git) = answer.git.filter(|git| !git.commit_object.is_empty()) {
        let time = committed(&git.commit_object);
        return time.map(Some).ok_or_else(|| BuildError::refused("a commit object names no time".to_owned()));
    }
    Ok(answer.http.and_then(|http| http.last_modified).map(|time| time.seconds))
}

/// The committer's time in a commit object: the last but one word of its line.
fn committed(object: &[u8]) -> Option<i64> {
    let head = object.split(|b| *b == b'\n').take_while(|line| !line.is_empty());
    let line = head.into_iter().find(|line| line.starts_with(b"committer "))?;
    let line = String::from_utf8_lossy(line);
    line.rsplit(' ').nth(1)?.parse().ok()
}

/// The time of the newest regular file. Blocks.
fn newest_file(root: &Root) -> Result<Option<i64>, BuildError> {
    let failed = |e: cooper_rooted::Error| BuildError::refused(format!("cannot read the times of an archive: {e}"));
    let mut newest = None;
    let mut open = vec![PathBuf::from("/")];
    while let Some(dir) = open.pop() {
        for entry in root.read_dir(&dir).map_err(failed)? {
            let path = dir.join(&entry.name);
            let found = root.lstat(&path).map_err(failed)?;
            match found.kind {
                Kind::Dir => open.push(path),
                Kind::File => newest = newest.max(Some(found.mtime.div_euclid(NANOS))),
                _ => {}
            }
        }
    }
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commit_times() {
        let object =
            b"tree 4b825dc\nauthor A <a@b> 1600000000 +0100\ncommitter C D <c@d> 1700000001 -0230\n\ncommitter x 1 +0";
        assert_eq!(committed(object), Some(1_700_000_001));
        assert_eq!(committed(b"tree 4b825dc\n\ncommitter C <c@d> 1 +0"), None);
        assert_eq!(committed(b""), None);
    }
}
