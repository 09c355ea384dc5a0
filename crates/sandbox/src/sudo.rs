//! Whether a step may become root by a program that it runs. At the level of a changed root that, and answers for `/proc`
//! (`lent`), exclude each other: a filter can be had without privilege only by who can gain none from then on.

use cooper_rooted::Root;
use std::path::{Path, PathBuf};

/// Programs that make root of others.
const PROGRAMS: [&str; 3] = ["usr/bin/sudo", "usr/bin/doas", "usr/local/bin/sudo"];

/// Where the rules for them are; of a directory, its files.
const RULES: [&str; 5] = ["etc/sudoers", "etc/sudoers.d", "etc/doas.conf", "etc/doas.d", "usr/local/etc/sudoers"];

/// What rules say of those who need no password: nobody is there to type one.
const WITHOUT_PASSWORD: [&str; 3] = ["NOPASSWD", "!authenticate", "nopass"];

/// Longer rules are not read.
const LIMIT: u64 = 1 << 20;

/// Whether some user of a root may become its root by running a program, without a password. Rules that cannot be read may say
/// so.
pub(crate) fn is_open_to_some(root: &Root) -> bool {
    let there = |path: &&str| !matches!(root.try_stat(path), Ok(None));
    PROGRAMS.iter().any(there)
        && RULES.iter().flat_map(|place| files(root, Path::new(place))).any(|file| says_so(root, &file))
}

fn files(root: &Root, place: &Path) -> Vec<PathBuf> {
    match root.try_stat(place) {
        Ok(Some(stat)) if stat.is_dir() => {
            root.read_dir(place).into_iter().flatten().map(|entry| place.join(entry.name)).collect()
        }
        Ok(None) => Vec::new(),
        _ => vec![place.to_owned()],
    }
}

fn says_so(root: &Root, file: &Path) -> bool {
    let Ok(text) = root.read(file, LIMIT) else { return true };
    String::from_utf8_lossy(&text)
        .lines()
        .map(str::trim)
        // Rules may be elsewhere, too: those of `#includedir /etc/sudoers.d` are looked at.
        .filter_map(|line| match line.strip_prefix('#').or_else(|| line.strip_prefix('@')) {
            Some(order) => order.strip_prefix("include").map(|_| line),
            None => Some(line),
        })
        .any(|line| match line.get(1..).and_then(|order| order.strip_prefix("include")) {
            Some(place) => place.strip_prefix("dir").map(str::trim) != Some("/etc/sudoers.d"),
            None => WITHOUT_PASSWORD.iter().any(|word| line.contains(word)),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn only_rules_without_a_password_count() {
        let sudoers =
            "# NOPASSWD: is for the brave\nroot ALL=(ALL:ALL) ALL\n%sudo ALL=(ALL) ALL\n@includedir /etc/sudoers.d\n";
        let files: [(&[(&str, &str)], bool); 9] = [
            (&[], false),
            (&[("etc/sudoers", "a ALL=(ALL) NOPASSWD: ALL\n")], false),
            (&[("usr/bin/sudo", "")], false),
            (&[("usr/bin/sudo", ""), ("etc/sudoers", sudoers)], false),
            (&[("usr/bin/sudo", ""), ("etc/sudoers", "a ALL=(ALL) NOPASSWD: ALL\n")], true),
            (&[("usr/bin/sudo", ""), ("etc/sudoers", sudoers), ("etc/sudoers.d/a", "a ALL=(ALL) NOPASSWD:ALL")], true),
            (&[("usr/bin/sudo", ""), ("etc/sudoers", "Defaults !authenticate")], true),
            (&[("usr/bin/sudo", ""), ("etc/sudoers", "#include /etc/more\n")], true),
            (&[("usr/bin/doas", ""), ("etc/doas.conf", "permit nopass a\n")], true),
        ];
        for (files, expected) in files {
            let dir = tempfile::tempdir().unwrap();
            for (path, content) in files {
                fs::create_dir_all(dir.path().join(path).parent().unwrap()).unwrap();
                fs::write(dir.path().join(path), content).unwrap();
            }
            assert_eq!(is_open_to_some(&Root::open(dir.path()).unwrap()), expected, "{files:?}");
        }
    }
}
