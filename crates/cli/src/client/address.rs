//! Notations of a daemon's address, and the commands behind those that go through another program.

use std::path::PathBuf;

use url::Url;

/// Where a daemon is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `unix://PATH`.
    Unix(PathBuf),
    /// `tcp://HOST:PORT`.
    Tcp {
        /// Host, without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// A program whose standard streams are the connection.
    Command(Vec<String>),
}

impl Address {
    /// Reads an address as `--addr` and the environment carry it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.is_empty() { Err("it names no path".into()) } else { Ok(Self::Unix(path.into())) };
        }
        if !text.contains("://") {
            return Err(format!("it lacks a protocol, you meant unix://{text} ?"));
        }
        let url = Url::parse(text).map_err(|error| error.to_string())?;
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        if host.is_empty() {
            return Err("it names no host".into());
        }
        match url.scheme() {
            "tcp" => Ok(Self::Tcp { port: url.port().ok_or("it names no port")?, host }),
            "docker-container" => {
                let context = query(&url, "context").map(|context| format!("--context={context}"));
                Ok(command("docker", context.into_iter().chain(exec(&host))))
            }
            "podman-container" => Ok(command("podman", exec(&host))),
            "nerdctl-container" => {
                let namespace = query(&url, "namespace").map(|name| ["--namespace".to_owned(), name]);
                let mut words = vec!["exec".to_owned()];
                words.extend(namespace.into_iter().flatten());
                words.extend(exec(&host).skip(1));
                Ok(command("nerdctl", words))
            }
            "kube-pod" => kube_pod(&url, host),
            "ssh" => ssh(&url, &host),
            scheme => Err(format!(
                "protocol {scheme} is not known, expected unix, tcp, ssh, docker-container, podman-container, \
                 nerdctl-container or kube-pod"
            )),
        }
    }
}

fn command(program: &str, words: impl IntoIterator<Item = String>) -> Address {
    Address::Command(std::iter::once(program.to_owned()).chain(words).collect())
}

fn exec(container: &str) -> impl Iterator<Item = String> {
    ["exec", "-i", container, "buildctl", "dial-stdio"].map(str::to_owned).into_iter()
}

fn query(url: &Url, name: &str) -> Option<String> {
    url.query_pairs().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.into_owned())
}

fn kube_pod(url: &Url, pod: String) -> Result<Address, String> {
    let namespace = query(url, "namespace").unwrap_or_default();
    let container = query(url, "container").unwrap_or_default();
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    for (what, name) in [("pod", &pod), ("namespace", &namespace), ("container", &container)] {
        if !name.chars().all(allowed) {
            return Err(format!("unsupported {what} name: {name:?}"));
        }
    }
    let context = query(url, "context").unwrap_or_default();
    let words = [
        format!("--context={context}"),
        format!("--namespace={namespace}"),
        "exec".into(),
        format!("--container={container}"),
        "-i".into(),
        pod,
    ];
    Ok(command("kubectl", words.into_iter().chain(["--", "buildctl", "dial-stdio"].map(str::to_owned))))
}

fn ssh(url: &Url, host: &str) -> Result<Address, String> {
    if url.password().is_some() {
        return Err("plain-text password is not supported".into());
    }
    if let Some(query) = url.query() {
        return Err(format!("extra query after the host: {query:?}"));
    }
    if let Some(fragment) = url.fragment() {
        return Err(format!("extra fragment after the host: {fragment:?}"));
    }
    let mut words: Vec<String> = Vec::new();
    if !url.username().is_empty() {
        words.extend(["-l".into(), url.username().into()]);
    }
    if let Some(port) = url.port() {
        words.extend(["-p".into(), port.to_string()]);
    }
    words.extend(["--".into(), host.to_owned(), "buildctl".into()]);
    if !matches!(url.path(), "" | "/") {
        words.extend(["--addr".into(), format!("unix://{}", url.path())]);
    }
    words.push("dial-stdio".into());
    Ok(command("ssh", words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notations() {
        let shown = |text| match Address::parse(text) {
            Ok(Address::Unix(path)) => format!("unix {}", path.display()),
            Ok(Address::Tcp { host, port }) => format!("tcp {host} {port}"),
            Ok(Address::Command(words)) => words.join(" "),
            Err(error) => format!("! {error}"),
        };
        for (text, expected) in [
            ("unix:///run/b.sock", "unix /run/b.sock"),
            ("tcp://a:1234", "tcp a 1234"),
            ("tcp://[::1]:1234", "tcp ::1 1234"),
            ("docker-container://bk", "docker exec -i bk buildctl dial-stdio"),
            ("docker-container://bk?context=c", "docker --context=c exec -i bk buildctl dial-stdio"),
            ("podman-container://bk", "podman exec -i bk buildctl dial-stdio"),
            ("nerdctl-container://bk?namespace=n", "nerdctl exec --namespace n -i bk buildctl dial-stdio"),
            (
                "kube-pod://p?namespace=n&container=c&context=x",
                "kubectl --context=x --namespace=n exec --container=c -i p -- buildctl dial-stdio",
            ),
            ("kube-pod://bad_name", "! unsupported pod name: \"bad_name\""),
            ("ssh://me@h:22/run/s.sock", "ssh -l me -p 22 -- h buildctl --addr unix:///run/s.sock dial-stdio"),
            ("ssh://h", "ssh -- h buildctl dial-stdio"),
            ("ssh://me:pw@h", "! plain-text password is not supported"),
            ("ssh://h?x", "! extra query after the host: \"x\""),
            ("ssh://h#x", "! extra fragment after the host: \"x\""),
            ("docker-container://", "! it names no host"),
            ("/run/b.sock", "! it lacks a protocol, you meant unix:///run/b.sock ?"),
            ("tcp://a", "! it names no port"),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }
}
