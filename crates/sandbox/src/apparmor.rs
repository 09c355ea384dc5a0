//! Confinement by a profile of AppArmor, where the kernel has it.

use crate::error::{Error, Result};
use std::fs;
use std::path::Path;

/// `Y` where AppArmor is in force.
const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
/// The profiles that are loaded, a line each: `name (mode)`. Only readable where securityfs is mounted, and for those who may.
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";
/// Needs no loading: no confinement.
const UNCONFINED: &str = "unconfined";

/// Whether steps can be confined by a profile.
///
/// # Errors
/// The kernel has no AppArmor, or says that the profile isn't loaded: whoever asks for protection must not believe to have it.
pub(crate) fn check(profile: &str) -> Result<()> {
    check_at(profile, Path::new(ENABLED), Path::new(LOADED))
}

fn check_at(profile: &str, enabled: &Path, loaded: &Path) -> Result<()> {
    let refused = |why: String, todo: &str| {
        Err(Error::Invalid(format!("steps cannot be confined by the AppArmor profile {profile:?}: {why}; {todo}")))
    };
    if profile.contains(['\0', '\n']) {
        return refused("that is no name of a profile".into(), "give another");
    }
    if !fs::read_to_string(enabled).is_ok_and(|text| text.trim() == "Y") {
        return refused(
            format!("this kernel has no AppArmor ({} is not Y)", enabled.display()),
            "ask for no profile: steps have a system call filter, masked paths and the default capabilities in any case",
        );
    }
    let known = |list: String| list.lines().any(|line| line.rsplit_once(" (").is_some_and(|(name, _)| name == profile));
    if profile != UNCONFINED && fs::read_to_string(loaded).is_ok_and(|list| !known(list)) {
        return refused(
            format!("it is not loaded ({} does not list it)", loaded.display()),
            "load it with apparmor_parser, or ask for no profile",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With what the kernel says in two files; nothing where there is none.
    fn check(profile: &str, enabled: Option<&str>, loaded: Option<&str>) -> String {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: Option<&str>| {
            let path = dir.path().join(name);
            text.inspect(|text| fs::write(&path, text).unwrap());
            path
        };
        let outcome = check_at(profile, &file("enabled", enabled), &file("loaded", loaded));
        outcome.map_or_else(|e| e.to_string().replace(&format!("{}/", dir.path().display()), ""), |()| "fine".into())
    }

    #[test]
    fn profiles_are_refused_where_they_would_not_hold() {
        let loaded = Some("docker-default (enforce)\n/usr/bin/man (enforce)\nodd name (x) (complain)\n");
        assert_eq!(check("docker-default", Some("Y\n"), loaded), "fine");
        assert_eq!(check("odd name (x)", Some("Y\n"), loaded), "fine");
        assert_eq!(check("unconfined", Some("Y\n"), loaded), "fine");
        assert_eq!(check("docker-default", Some("Y\n"), None), "fine", "who may not look is told by the step");
        let none =
            "steps cannot be confined by the AppArmor profile \"p\": this kernel has no AppArmor (enabled is not Y); ";
        assert!(check("p", None, None).starts_with(none));
        assert!(check("p", Some("N\n"), loaded).starts_with(none));
        let missing = check("docker", Some("Y\n"), loaded);
        assert!(missing.contains("\"docker\": it is not loaded (loaded does not list it); load it"), "{missing}");
        assert!(check("a\nb", Some("Y\n"), None).contains("no name of a profile"));
    }
}
