//! `-f URL`: a Dockerfile that is downloaded by the command line itself.

use crate::error::{CliError, Result};

/// Longest Dockerfile that is taken from a URL, in bytes.
const LONGEST: usize = 2 << 20;

/// Whether `-f` names something to download.
pub fn is_url(file: &str) -> bool {
    file.starts_with("http://") || file.starts_with("https://")
}

/// Downloads a Dockerfile.
pub async fn download(url: &str) -> Result<Vec<u8>> {
    let fault = |why: String| CliError::Usage(format!("failed to read dockerfile from {url}: {why}"));
    let client = cooper_registry::http_client_builder().and_then(|builder| {
        let agent = concat!("cooper/", env!("CARGO_PKG_VERSION"));
        builder.user_agent(agent).build().map_err(cooper_registry::Error::Setup)
    });
    let client = client.map_err(|error| fault(error.to_string()))?;
    let mut response = client.get(url).send().await.map_err(|error| fault(innermost(&error)))?;
    if !response.status().is_success() {
        return Err(fault(format!("the server answers {}", response.status())));
    }
    let mut text = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| fault(innermost(&error)))? {
        text.extend_from_slice(&chunk);
        if text.len() > LONGEST {
            return Err(fault(format!("it is larger than the {} MiB that a Dockerfile may have", LONGEST >> 20)));
        }
    }
    Ok(text)
}

/// What is really wrong: the errors around it say only that something is.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cooper_testkit::http::{Answer, Request, Server};
    use std::io::Write as _;

    #[tokio::test]
    async fn downloads_are_limited_and_say_what_is_wrong() {
        let server = Server::start(|mut stream| {
            let Ok(Some(request)) = Request::read(&stream) else { return };
            let answer = match request.path() {
                "/D" => Answer::new(200, "FROM a\n"),
                "/large" => Answer::new(200, vec![b'#'; LONGEST + 1]),
                _ => Answer::new(404, ""),
            };
            let _ = stream.write_all(&answer.bytes("GET"));
        });
        let url = |path: &str| format!("http://127.0.0.1:{}/{path}", server.port());
        assert!(is_url(&url("D")) && !is_url("http") && !is_url("git://h/D"));
        assert_eq!(download(&url("D")).await.unwrap(), b"FROM a\n");
        let refused = async |path: &str| {
            let message = download(&url(path)).await.unwrap_err().to_string();
            message.replace(&url(path), "URL")
        };
        assert_eq!(refused("none").await, "failed to read dockerfile from URL: the server answers 404 Not Found");
        let large = "failed to read dockerfile from URL: it is larger than the 2 MiB that a Dockerfile may have";
        assert_eq!(refused("large").await, large);
    }
}
