//! Ruby: what bundler locks and what is installed.

use super::{add, text};
use crate::{Package, PackageUrl, scan::Scanner};

/// The lines `    name (version)` of the sections with a source.
pub fn lock(scanner: &mut Scanner, path: &str) {
    let Some(lock) = text(scanner, path) else { return };
    let mut in_specs = false;
    for line in lock.lines() {
        if !line.starts_with(' ') {
            in_specs = false;
        } else if line == "  specs:" {
            in_specs = true;
        } else if in_specs
            && let Some(line) = line.strip_prefix("    ").filter(|rest| !rest.starts_with(' '))
            && let Some((name, version)) = line.split_once(" (")
        {
            // A version may be followed by the platform, from the first letter after a dash.
            let version = version.trim_end_matches(')');
            let version = version.split_once('-').map_or(version, |(version, _)| version);
            add(scanner, path, "gem", name, version);
        }
    }
}

/// The specification of an installed gem, which the tool has written: assignments of strings.
pub fn specification(scanner: &mut Scanner, path: &str) {
    if !path.contains("/specifications/") {
        return;
    }
    let Some(spec) = text(scanner, path) else { return };
    let quoted = |rest: &str| -> Vec<String> { rest.split('"').skip(1).step_by(2).map(ToOwned::to_owned).collect() };
    let strings = |key: &str| {
        let line = spec.lines().find_map(|l| l.trim().strip_prefix("s.")?.strip_prefix(key)?.trim().strip_prefix('='));
        line.map(quoted).unwrap_or_default()
    };
    let first = |key: &str| strings(key).into_iter().next().unwrap_or_default();
    let (name, version) = (first("name"), first("version"));
    if !name.is_empty() && !version.is_empty() {
        let mut package = Package::new(PackageUrl::new("gem", "", &name, &version)).licensed(strings("licenses"));
        package.homepage = Some(first("homepage")).filter(|h| !h.is_empty());
        scanner.add(package, [path.to_owned()]);
    }
}

#[cfg(test)]
mod tests {
    use crate::scan::tests::check;

    #[test]
    fn files() {
        let lock = "GEM\n  remote: https://rubygems.org/\n  specs:\n    rack (3.0.9)\n    rails (7.1.3)\n      rack (>= 2)\n    \
                    nokogiri (1.16.2-x86_64-linux)\n\nPLATFORMS\n  ruby\n\nDEPENDENCIES\n  rails (~> 7)\n";
        let spec = "Gem::Specification.new do |s|\n  s.name = \"rake\".freeze\n  s.version = \"13.1.0\"\n  \
                    s.licenses = [\"MIT\".freeze]\n  s.homepage = \"https://x\".freeze\nend\n";
        insta::assert_snapshot!(
            check([("Gemfile.lock", lock), ("usr/lib/ruby/gems/3.2.0/specifications/rake-13.1.0.gemspec", spec)]), @"
        pkg:gem/nokogiri@1.16.2 /Gemfile.lock
        pkg:gem/rack@3.0.9 /Gemfile.lock
        pkg:gem/rails@7.1.3 /Gemfile.lock
        pkg:gem/rake@13.1.0 [MIT] /usr/lib/ruby/gems/3.2.0/specifications/rake-13.1.0.gemspec
        ");
    }
}
