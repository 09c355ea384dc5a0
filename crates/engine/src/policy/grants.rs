//! What a build asks to be allowed, and which devices that makes available to its steps.

use crate::build_error::BuildError;
use cooper_cdi::Registry;
use cooper_llb::pb;
use std::collections::{BTreeMap, BTreeSet};

/// The entitlements of a build.
#[derive(Debug, Clone, Default)]
pub struct Grants {
    names: BTreeSet<String>,
    /// Every device.
    all_devices: bool,
    /// Devices by what steps call them; the value is the real name, where that is another.
    devices: BTreeMap<String, Option<String>>,
}

impl Grants {
    /// The entitlement to use devices of the machine.
    pub const DEVICE: &str = "device";

    /// From entitlements as clients write them: a name, or `device=NAME[,alias=OTHER]`.
    ///
    /// # Errors
    /// A device is given in another form.
    pub fn parse<'a>(entitlements: impl IntoIterator<Item = &'a String>) -> Result<Self, BuildError> {
        let mut grants = Self::default();
        for entitlement in entitlements {
            let (name, rest) = entitlement.split_once('=').map_or((&**entitlement, None), |(n, r)| (n, Some(r)));
            if name != Self::DEVICE {
                grants.names.insert(entitlement.clone());
                continue;
            }
            grants.names.insert(name.to_owned());
            match rest.filter(|rest| !rest.is_empty()) {
                None => grants.all_devices = true,
                Some(rest) => grants.add_device(rest)?,
            }
        }
        Ok(grants)
    }

    fn add_device(&mut self, text: &str) -> Result<(), BuildError> {
        let mut fields = text.split(',');
        let device = fields.next().unwrap_or_default();
        let mut alias = None;
        for field in fields {
            match field.split_once('=') {
                Some(("alias", name)) if !name.is_empty() => alias = Some(name),
                Some((key, _)) if key != "alias" => {
                    return Err(BuildError::refused(format!("unknown device config key {key:?}")));
                }
                _ => return Err(BuildError::refused(format!("invalid device config {field:?}"))),
            }
        }
        match alias {
            Some(alias) => self.devices.insert(alias.to_owned(), Some(device.to_owned())),
            None => self.devices.insert(device.to_owned(), None),
        };
        Ok(())
    }

    /// Names of entitlements, each once.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// Whether an entitlement other than for devices was asked for.
    pub fn contains(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// The full names of the devices that a step asks for.
    ///
    /// # Errors
    /// A device isn't there, or the step may not have it.
    pub fn devices(&self, requested: &[pb::CdiDevice], registry: Option<&Registry>) -> Result<Vec<String>, String> {
        let mut names: Vec<String> = Vec::new();
        let mut add = |name: String| {
            if !names.contains(&name) {
                names.push(name);
            }
        };
        let Some(registry) = registry else {
            return match requested.iter().find(|d| !d.optional) {
                Some(device) => Err(format!("device {} is requested, but devices are switched off", device.name)),
                None => Ok(names),
            };
        };
        let find = |name: &str, optional| registry.find(name, optional).map_err(|e| e.to_string());
        let granted: BTreeSet<String> = self
            .devices
            .keys()
            .map(|name| find(name, true))
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .flatten()
            .map(|device| device.name)
            .collect();
        let mut forbidden = Vec::new();
        for request in requested {
            if let Some(Some(real)) = self.devices.get(&request.name) {
                find(real, request.optional)?.into_iter().for_each(|device| add(device.name));
                continue;
            }
            for device in find(&request.name, request.optional)? {
                if self.all_devices || device.auto_allow || granted.contains(&device.name) {
                    add(device.name);
                } else {
                    forbidden.push(device.name);
                }
            }
        }
        match forbidden.as_slice() {
            [] => Ok(names),
            [one] => Err(format!("device {one} is requested by the build but not allowed")),
            several => Err(format!("devices {} are requested by the build but not allowed", several.join(", "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(list: &[&str]) -> Grants {
        Grants::parse(&list.iter().map(|e| (*e).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    /// Grants of a build, the device that a step asks for, and what it gets.
    type Case<'a> = (&'a [&'a str], &'a str, Result<&'a [&'a str], &'a str>);

    #[test]
    fn devices_need_a_grant() {
        let dir = tempfile::tempdir().unwrap();
        let spec = r#"{"cdiVersion":"0.6.0","kind":"v.com/d","devices":[{"name":"a"},{"name":"b"},
            {"name":"c","annotations":{"org.mobyproject.buildkit.device.autoallow":"true"}}]}"#;
        std::fs::write(dir.path().join("v.json"), spec).unwrap();
        let registry = Registry::new(vec![dir.path().to_owned()], Vec::new());
        let all = "devices v.com/d=a, v.com/d=b are requested by the build but not allowed";
        let two = "device v.com/d=b is requested by the build but not allowed";
        let cases: [Case; 12] = [
            (&[], "v.com/d=c", Ok(&["c"])),
            (&[], "v.com/d=a", Err("device v.com/d=a is requested by the build but not allowed")),
            (&[], "v.com/d=*", Err(all)),
            (&["device"], "v.com/d=*", Ok(&["a", "b", "c"])),
            (&["device=v.com/d"], "v.com/d=a", Ok(&["a"])),
            (&["device=v.com/d"], "v.com/d=b", Err("device v.com/d=b is requested by the build but not allowed")),
            // A kind means its first device here as it does in a step, as clients of the protocol know it.
            (&["device=v.com/d"], "v.com/d=*", Err(two)),
            (&["device=v.com/d=*"], "v.com/d=*", Ok(&["a", "b", "c"])),
            (&["device=v.com/d=a", "device=v.com/d=b"], "v.com/d=*", Ok(&["a", "b", "c"])),
            (&["device=v.com/d=a", "device"], "v.com/d=b", Ok(&["b"])),
            (&["device=v.com/d=b,alias=gpu"], "gpu", Ok(&["b"])),
            (&["device"], "x.com/d=1", Err(r#"required device "x.com/d=1" is not registered"#)),
        ];
        for (list, name, expected) in cases {
            let request = [pb::CdiDevice { name: name.to_owned(), optional: false }];
            let found = grants(list).devices(&request, Some(&registry));
            let full = |names: &[&str]| names.iter().map(|n| format!("v.com/d={n}")).collect::<Vec<_>>();
            assert_eq!(found, expected.map(full).map_err(str::to_owned), "{list:?} {name}");
        }
        let optional = [pb::CdiDevice { name: "x.com/d=1".to_owned(), optional: true }];
        assert_eq!(grants(&[]).devices(&optional, Some(&registry)), Ok(Vec::new()));
        assert_eq!(grants(&[]).devices(&optional, None), Ok(Vec::new()));
    }

    #[test]
    fn entitlements_are_read() {
        let list = grants(&["network.host", "device=a", "device=b,alias=c"]);
        assert_eq!(list.names().collect::<Vec<_>>(), ["device", "network.host"]);
        assert!(Grants::parse(&["device=a,colour=red".to_owned()]).is_err());
    }
}
