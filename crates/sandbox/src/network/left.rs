//! Gives back what a builder that was killed had taken of the network: its namespaces are gone with it, but not what plug-ins
//! keep elsewhere.

use super::NetworkNamespace;
use super::cni::{Attachment, INTERFACE, Network as Plugins};
use super::pool::BRIDGE;
use crate::error::Result;
use crate::raw;
use serde_json::Value;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

/// Has the plug-ins that are noted give back what they gave, with the configuration of then, and with the bridge if nobody
/// wants it. Blocking.
pub(super) fn give_back(records: &Path, with_bridge: bool) {
    for entry in fs::read_dir(records).into_iter().flatten().flatten() {
        let Ok(id) = entry.file_name().into_string() else { continue };
        if id == BRIDGE {
            continue;
        }
        let text = fs::read(entry.path()).unwrap_or_default();
        match disconnect(&id, serde_json::from_slice(&text).unwrap_or(Value::Null)) {
            Ok(()) => {
                let _ = fs::remove_file(entry.path()); // one that stays costs the next start a call
            }
            Err(error) => tracing::warn!(%error, id, "cannot give back what an earlier builder took of the network"),
        }
    }
    if with_bridge && let Ok(name) = fs::read_to_string(records.join(BRIDGE)) {
        remove_bridge(records, &name);
    }
}

/// Removes a bridge that was made for builds, unless somebody else is connected to it by now.
pub(super) fn remove_bridge(records: &Path, name: &str) {
    let interface = Path::new("/sys/class/net").join(name);
    if fs::read_dir(interface.join("brif")).is_ok_and(|mut ports| ports.next().is_some()) {
        return;
    }
    match raw::remove_bridge(name) {
        Err(error) if interface.exists() => {
            tracing::warn!(%error, name, "cannot remove the bridge; the next builder takes it over");
        }
        _ => {
            let _ = fs::remove_file(records.join(BRIDGE)); // of a bridge that is gone it says nothing
        }
    }
}

fn disconnect(id: &str, mut note: Value) -> Result<()> {
    // A note that was cut short is one of nothing.
    let Some(plugins) = note.get_mut("network").map(Value::take).and_then(Plugins::noted) else { return Ok(()) };
    // Plug-ins find packet filter rules by the addresses in the namespace. One that looks alike will do.
    let double = addresses(&note["result"]).and_then(|addresses| {
        let double = || -> io::Result<NetworkNamespace> {
            let namespace = NetworkNamespace::new().map_err(io::Error::other)?;
            namespace.within(|| {
                raw::add_bridge(INTERFACE)?;
                addresses.iter().try_for_each(|(address, prefix)| raw::set_address(INTERFACE, *address, *prefix))
            })?;
            Ok(namespace)
        };
        double().inspect_err(|error| tracing::warn!(%error, id, "packet filter rules of a builder may stay")).ok()
    });
    let path = double.as_ref().map(NetworkNamespace::path).unwrap_or_default();
    let from = Attachment { id, namespace: &path, hostname: note["hostname"].as_str() };
    plugins.del(&from, &note["result"])
}

/// The addresses that plug-ins gave; none when they did not come to give any.
fn addresses(result: &Value) -> Option<Vec<(IpAddr, u32)>> {
    let address = |ip: &Value| {
        // From version 0.3 on; before, there was one of each kind.
        let (address, prefix) = ip["address"].as_str()?.split_once('/')?;
        Some((address.parse().ok()?, prefix.parse().ok()?))
    };
    let list: Vec<_> = result["ips"].as_array()?.iter().filter_map(address).collect();
    (!list.is_empty()).then_some(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn plug_ins_of_then_find_the_addresses_of_then() {
        let dir = tempfile::tempdir().unwrap();
        let (records, log) = (dir.path().join("records"), dir.path().join("log"));
        fs::create_dir(&records).unwrap();
        let plugin = dir.path().join("noting");
        let script = format!(
            "#!/bin/sh\ncat > /dev/null\necho \"$CNI_COMMAND $CNI_CONTAINERID\" >> {log}\n\
             nsenter --net=$CNI_NETNS ip -o addr show dev eth0 | tr -s ' ' | cut -d' ' -f 3,4 >> {log}\n",
            log = log.display()
        );
        fs::write(&plugin, script).unwrap();
        fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
        let network = Plugins::parse(json!({"name": "n", "type": "noting"}), vec![dir.path().to_owned()]).unwrap();
        let result = json!({"ips": [{"address": "10.9.8.7/16"}, {"address": "fd00::5/64"}]});
        let note = json!({"hostname": null, "result": result, "network": network.note()});
        fs::write(records.join("one"), note.to_string()).unwrap();
        fs::write(records.join("cut"), "{").unwrap();
        give_back(&records, true);
        assert_eq!(fs::read_to_string(&log).unwrap(), "DEL one\ninet 10.9.8.7/16\ninet6 fd00::5/64\n");
        assert_eq!(fs::read_dir(&records).unwrap().count(), 0);
    }
}
