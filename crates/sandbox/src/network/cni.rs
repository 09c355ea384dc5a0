//! Calls plug-ins of the Container Network Interface (specification 0.3 to 1.1): programs that get a configuration on
//! standard input and parameters in their environment.

use crate::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The interface inside.
pub(super) const INTERFACE: &str = "eth0";

/// Plug-ins to call in order, and where they are.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    name: String,
    version: String,
    plugins: Vec<Value>,
    dirs: Vec<PathBuf>,
}

/// What a plug-in is called for.
pub(crate) struct Attachment<'a> {
    /// Names what is attached, on this machine.
    pub(crate) id: &'a str,
    /// Empty when the namespace is gone already.
    pub(crate) namespace: &'a Path,
    /// The host name, for plug-ins that make names known.
    pub(crate) hostname: Option<&'a str>,
}

impl Network {
    /// Reads a configuration file.
    pub(crate) fn load(file: &Path, dir: &Path) -> Result<Self> {
        let text =
            std::fs::read(file).map_err(Error::setup(format!("read the CNI configuration {}", file.display())))?;
        let bad = |why: String| Error::Invalid(format!("CNI configuration {}: {why}", file.display()));
        let value: Value = serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))?;
        Self::parse(value, vec![dir.to_owned()]).map_err(bad)
    }

    /// From a list, or from the configuration of a single plug-in.
    pub(crate) fn parse(value: Value, dirs: Vec<PathBuf>) -> Result<Self, String> {
        let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        let name = text("name").filter(|n| !n.is_empty()).ok_or("it has no name")?;
        let version = text("cniVersion").unwrap_or_else(|| "0.2.0".into());
        let plugins = match value.get("plugins") {
            Some(Value::Array(list)) => list.clone(),
            Some(_) => return Err("plugins is not a list".into()),
            None => vec![value],
        };
        let typed =
            |p: &Value| p.get("type").and_then(Value::as_str).is_some_and(|t| !t.is_empty() && !t.contains('/'));
        if plugins.is_empty() || !plugins.iter().all(typed) {
            return Err("it names no plug-in, or one without a type".into());
        }
        Ok(Self { name, version, plugins, dirs })
    }

    /// What a later builder needs to call the same plug-ins.
    pub(crate) fn note(&self) -> Value {
        json!({"name": self.name, "cniVersion": self.version, "plugins": self.plugins, "dirs": self.dirs})
    }

    /// From a note.
    pub(crate) fn noted(mut note: Value) -> Option<Self> {
        let dirs = serde_json::from_value(note.get_mut("dirs")?.take()).ok()?;
        Self::parse(note, dirs).ok()
    }

    /// Whether every plug-in is there.
    pub(crate) fn check(&self) -> Result<()> {
        for plugin in &self.plugins {
            self.program(kind(plugin))?;
            if let Some(ipam) = plugin.pointer("/ipam/type").and_then(Value::as_str) {
                self.program(ipam)?;
            }
        }
        Ok(())
    }

    fn program(&self, name: &str) -> Result<PathBuf> {
        let found = self.dirs.iter().map(|dir| dir.join(name)).find(|path| path.is_file());
        found.ok_or_else(|| {
            let dirs: Vec<_> = self.dirs.iter().map(|d| d.display().to_string()).collect();
            Error::Invalid(format!(
                "CNI plug-in {name:?} is not in {} (package containernetworking-plugins?)",
                dirs.join(", ")
            ))
        })
    }

    /// Connects a namespace; the plug-ins' result. What was done before a failure is undone.
    pub(crate) fn add(&self, to: &Attachment<'_>) -> Result<Value> {
        let mut result = Value::Null;
        for plugin in &self.plugins {
            match self.call("ADD", plugin, &result, to) {
                Ok(Value::Null) => {}
                Ok(next) => result = next,
                Err(error) => {
                    if let Err(error) = self.del(to, &result) {
                        tracing::warn!(%error, "a network connection that failed could not be undone");
                    }
                    return Err(error);
                }
            }
        }
        Ok(result)
    }

    /// Gives back what was taken for a namespace. Doing it twice is no error.
    pub(crate) fn del(&self, from: &Attachment<'_>, result: &Value) -> Result<()> {
        let mut outcome = Ok(());
        for plugin in self.plugins.iter().rev() {
            // One that fails must not keep the others from giving back.
            outcome = outcome.and(self.call("DEL", plugin, result, from).map(drop));
        }
        outcome
    }

    fn call(&self, command: &str, plugin: &Value, previous: &Value, of: &Attachment<'_>) -> Result<Value> {
        let kind = kind(plugin);
        let program = self.program(kind)?;
        let mut config = plugin.as_object().cloned().unwrap_or_default();
        config.insert("name".into(), self.name.clone().into());
        config.insert("cniVersion".into(), self.version.clone().into());
        if !previous.is_null() {
            config.insert("prevResult".into(), previous.clone());
        }
        let failed = |source: io::Error| Error::Setup { step: format!("CNI plug-in {kind}, {command}"), source };
        let output = self.run(&program, command, config, of).map_err(failed)?;
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        if output.status.success() {
            return Ok(answer);
        }
        let said = ["msg", "details"].iter().filter_map(|key| answer.get(*key)?.as_str()).filter(|t| !t.is_empty());
        let mut said = said.collect::<Vec<_>>().join(": ");
        if said.is_empty() {
            said = format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        Err(failed(io::Error::other(said)))
    }

    fn run(
        &self,
        program: &Path,
        command: &str,
        config: Map<String, Value>,
        of: &Attachment<'_>,
    ) -> io::Result<std::process::Output> {
        // The key by which plug-ins that serve names (dnsname) learn them.
        let pod = of.hostname.map(|name| format!(";K8S_POD_NAME={name}")).unwrap_or_default();
        let args = format!("IgnoreUnknown=1{pod}");
        let path = std::env::join_paths(&self.dirs).map_err(io::Error::other)?;
        let mut child = Command::new(program)
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", of.id)
            .env("CNI_NETNS", of.namespace)
            .env("CNI_IFNAME", INTERFACE)
            .env("CNI_ARGS", args)
            .env("CNI_PATH", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A plug-in that does not read its configuration says why itself.
            let _ = stdin.write_all(Value::Object(config).to_string().as_bytes());
        }
        child.wait_with_output()
    }
}

fn kind(plugin: &Value) -> &str {
    plugin.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// The network of a bridge: addresses from a subnet, the way out through the host's address, no way in but from the bridge.
pub(crate) fn bridge(name: &str, subnet: &str, dir: &Path) -> Result<Network> {
    let (names, dirs) =
        bundled().unwrap_or_else(|| (["bridge", "host-local", "firewall"].map(str::to_owned), vec![dir.to_owned()]));
    let [bridge, addresses, firewall] = names;
    let list = json!({
        "cniVersion": "1.0.0",
        "name": "buildkit",
        "plugins": [
            {
                "type": bridge,
                "bridge": name,
                "isDefaultGateway": true,
                "ipMasq": true,
                "ipam": {"type": addresses, "ranges": [[{"subnet": subnet}]]},
            },
            {"type": firewall, "ingressPolicy": "same-bridge"},
        ],
    });
    Network::parse(list, dirs).map_err(|why| Error::Invalid(format!("the bridge network: {why}")))
}

/// Plug-ins under the names that the field's images carry them by.
fn bundled() -> Option<([String; 3], Vec<PathBuf>)> {
    let path = std::env::var_os("PATH")?;
    let mut dirs = Vec::new();
    let names = ["bridge", "host-local", "firewall"].map(|plugin| {
        let name = format!("buildkit-cni-{plugin}");
        let dir = std::env::split_paths(&path).find(|dir| dir.join(&name).is_file());
        dir.map(|dir| {
            if !dirs.contains(&dir) {
                dirs.push(dir);
            }
            name
        })
    });
    let [Some(bridge), Some(addresses), Some(firewall)] = names else { return None };
    Some(([bridge, addresses, firewall], dirs))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn configurations() {
        let parse = |text: &str| Network::parse(serde_json::from_str(text).unwrap(), Vec::new());
        let one = parse(r#"{"name":"n","type":"ptp","cniVersion":"0.4.0"}"#).unwrap();
        assert_eq!((one.name.as_str(), one.plugins.len()), ("n", 1));
        let two = parse(r#"{"name":"n","plugins":[{"type":"a"},{"type":"b"}]}"#).unwrap();
        assert_eq!(two.plugins.len(), 2);
        for bad in ["{}", r#"{"name":"n"}"#, r#"{"name":"n","plugins":[]}"#, r#"{"name":"n","type":"../x"}"#] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    /// A plug-in that notes how it is called and answers what its configuration says.
    #[test]
    fn plug_ins_are_called_in_order_and_back() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        for (name, answer) in [("first", r#"{"ips":["a"]}"#), ("second", r#"{"ips":["b"]}"#)] {
            let script = format!(
                "#!/bin/sh\necho \"{name} $CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $CNI_ARGS $(cat)\" >> {}\necho '{answer}'\n",
                log.display()
            );
            let path = dir.path().join(name);
            std::fs::write(&path, script).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let list = json!({"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "first"}, {"type": "second"}]});
        let network = Network::parse(list, vec![dir.path().to_owned()]).unwrap();
        network.check().unwrap();
        let to = Attachment { id: "x", namespace: Path::new("/ns"), hostname: Some("h") };
        let result = network.add(&to).unwrap();
        network.del(&to, &result).unwrap();
        let args = "IgnoreUnknown=1;K8S_POD_NAME=h";
        let expected = [
            format!(r#"first ADD x eth0 {args} {{"cniVersion":"1.0.0","name":"n","type":"first"}}"#),
            format!(
                r#"second ADD x eth0 {args} {{"cniVersion":"1.0.0","name":"n","prevResult":{{"ips":["a"]}},"type":"second"}}"#
            ),
            format!(
                r#"second DEL x eth0 {args} {{"cniVersion":"1.0.0","name":"n","prevResult":{{"ips":["b"]}},"type":"second"}}"#
            ),
            format!(
                r#"first DEL x eth0 {args} {{"cniVersion":"1.0.0","name":"n","prevResult":{{"ips":["b"]}},"type":"first"}}"#
            ),
        ];
        let said = std::fs::read_to_string(&log).unwrap();
        assert_eq!(said.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn failures_say_what_the_plug_in_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p");
        std::fs::write(&path, "#!/bin/sh\necho '{\"code\":7,\"msg\":\"no\",\"details\":\"room\"}'\nexit 1\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let network = Network::parse(json!({"name": "n", "type": "p"}), vec![dir.path().to_owned()]).unwrap();
        let error = network.add(&Attachment { id: "x", namespace: Path::new(""), hostname: None }).unwrap_err();
        assert_eq!(error.to_string(), "CNI plug-in p, ADD: no: room");
        let missing = Network::parse(json!({"name": "n", "type": "q"}), vec![dir.path().to_owned()]).unwrap();
        assert!(missing.check().unwrap_err().to_string().starts_with("CNI plug-in \"q\" is not in "));
    }
}
