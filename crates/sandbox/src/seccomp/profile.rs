//! The filter as a runtime program is told of it: names and conditions of the same table (OCI runtime specification,
//! `config-linux`, Seccomp).

use super::{Arch, CLONE_NEW, PERSONALITIES, REFUSED_FAMILIES, table};
use serde_json::{Value, json};

/// Families of sockets are small numbers; none of this or above exists (`AF_MAX` of Linux 6 is 46).
const FAMILIES: u32 = 64;
/// What the kernel looks at of an argument that is an `int`.
const LOWER_HALF: u64 = 0xffff_ffff;

/// The profile for this machine.
pub(crate) fn profile() -> Value {
    let known = |numbers: &[u32; 4]| Arch::HERE.iter().any(|arch| numbers[*arch as usize] != table::ABSENT);
    let names = table::ALLOWED.iter().filter(|(_, numbers)| known(numbers)).map(|(name, _)| *name);
    let (conditional, plain): (Vec<_>, Vec<_>) = names.partition(|name| !conditions(name).is_empty());
    let plain: Vec<_> = plain.into_iter().filter(|name| *name != "clone3").collect();
    let mut calls = vec![json!({"names": plain, "action": "SCMP_ACT_ALLOW"})];
    for name in conditional {
        // A call is allowed when one of its rules fits.
        let rules = conditions(name).into_iter();
        calls.extend(rules.map(|arg| json!({"names": [name], "action": "SCMP_ACT_ALLOW", "args": [arg]})));
    }
    calls.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS}));
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": libc::EPERM,
        "architectures": Arch::HERE.map(Arch::profile_name),
        "syscalls": calls,
    })
}

/// Conditions on the first argument, one of which must hold; none for a call that is allowed with any.
fn conditions(name: &str) -> Vec<Value> {
    let masked =
        |mask: u64, value: u32| json!({"index": 0, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"});
    match name {
        "clone" => vec![masked(CLONE_NEW.into(), 0)],
        // One by one: comparisons would look at the upper half of the argument, which the kernel doesn't.
        "socket" => {
            let allowed = (0..FAMILIES).filter(|family| !REFUSED_FAMILIES.contains(family));
            allowed.map(|family| masked(LOWER_HALF, family)).collect()
        }
        "personality" => PERSONALITIES.map(|value| masked(LOWER_HALF, value)).to_vec(),
        _ => Vec::new(),
    }
}

impl Arch {
    fn profile_name(self) -> &'static str {
        match self {
            Self::X86_64 => "SCMP_ARCH_X86_64",
            Self::X86 => "SCMP_ARCH_X86",
            Self::Aarch64 => "SCMP_ARCH_AARCH64",
            Self::Arm => "SCMP_ARCH_ARM",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_call_of_the_table_is_in_the_profile_once_or_under_conditions() {
        let profile = profile();
        let rules = profile["syscalls"].as_array().unwrap();
        let names = |rule: &Value| {
            rule["names"].as_array().unwrap().iter().map(|n| n.as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let plain: Vec<String> = names(&rules[0]);
        let told: BTreeSet<String> = rules.iter().flat_map(names).collect();
        let here = |numbers: &[u32; 4]| Arch::HERE.iter().any(|arch| numbers[*arch as usize] != table::ABSENT);
        let listed: BTreeSet<String> =
            table::ALLOWED.iter().filter(|(_, numbers)| here(numbers)).map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(told, listed);
        for name in ["clone", "clone3", "personality", "socket"] {
            assert!(!plain.iter().any(|p| p == name), "{name} is allowed under conditions only");
        }
        let families: Vec<_> = rules
            .iter()
            .filter(|r| r["names"][0] == "socket")
            .map(|r| r["args"][0]["valueTwo"].as_u64().unwrap())
            .collect();
        assert!(families.contains(&2) && !families.contains(&38) && !families.contains(&40), "{families:?}");
    }
}
