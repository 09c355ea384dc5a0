//! Licence names as people write them, and as SPDX does.

/// Identifiers of the SPDX list that packages use.
const IDS: &[&str] = &[
    "0BSD",
    "AFL-2.1",
    "AFL-3.0",
    "AGPL-3.0-only",
    "AGPL-3.0-or-later",
    "Apache-1.1",
    "Apache-2.0",
    "APSL-2.0",
    "Artistic-1.0",
    "Artistic-1.0-Perl",
    "Artistic-2.0",
    "BlueOak-1.0.0",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-2-Clause-Patent",
    "BSD-3-Clause",
    "BSD-3-Clause-Clear",
    "BSD-4-Clause",
    "BSD-4-Clause-UC",
    "BSL-1.0",
    "bzip2-1.0.6",
    "CC-BY-3.0",
    "CC-BY-4.0",
    "CC-BY-SA-3.0",
    "CC-BY-SA-4.0",
    "CC0-1.0",
    "CDDL-1.0",
    "CDDL-1.1",
    "CPL-1.0",
    "curl",
    "ECL-2.0",
    "EPL-1.0",
    "EPL-2.0",
    "EUPL-1.1",
    "EUPL-1.2",
    "FSFAP",
    "FSFUL",
    "FSFULLR",
    "FTL",
    "GFDL-1.1-only",
    "GFDL-1.1-or-later",
    "GFDL-1.2-only",
    "GFDL-1.2-or-later",
    "GFDL-1.3-only",
    "GFDL-1.3-or-later",
    "GPL-1.0-only",
    "GPL-1.0-or-later",
    "GPL-2.0-only",
    "GPL-2.0-or-later",
    "GPL-3.0-only",
    "GPL-3.0-or-later",
    "HPND",
    "ICU",
    "IJG",
    "ImageMagick",
    "Info-ZIP",
    "ISC",
    "JSON",
    "LGPL-2.0-only",
    "LGPL-2.0-or-later",
    "LGPL-2.1-only",
    "LGPL-2.1-or-later",
    "LGPL-3.0-only",
    "LGPL-3.0-or-later",
    "Libpng",
    "libtiff",
    "LPPL-1.3c",
    "MIT",
    "MIT-0",
    "MIT-CMU",
    "MPL-1.0",
    "MPL-1.1",
    "MPL-2.0",
    "MS-PL",
    "MS-RL",
    "MulanPSL-2.0",
    "NCSA",
    "NTP",
    "ODbL-1.0",
    "OFL-1.0",
    "OFL-1.1",
    "OLDAP-2.8",
    "OpenSSL",
    "PHP-3.0",
    "PHP-3.01",
    "PostgreSQL",
    "PSF-2.0",
    "Python-2.0",
    "Python-2.0.1",
    "QPL-1.0",
    "Ruby",
    "Sendmail",
    "SGI-B-2.0",
    "Sleepycat",
    "SMLNJ",
    "SSPL-1.0",
    "TCL",
    "Unicode-3.0",
    "Unicode-DFS-2015",
    "Unicode-DFS-2016",
    "Unlicense",
    "UPL-1.0",
    "Vim",
    "W3C",
    "WTFPL",
    "X11",
    "XFree86-1.1",
    "Zend-2.0",
    "Zlib",
    "ZPL-2.1",
];

/// Exceptions of the SPDX list.
const EXCEPTIONS: &[&str] = &[
    "Autoconf-exception-2.0",
    "Autoconf-exception-3.0",
    "Bison-exception-2.2",
    "Classpath-exception-2.0",
    "Font-exception-2.0",
    "GCC-exception-2.0",
    "GCC-exception-3.1",
    "Libtool-exception",
    "Linux-syscall-note",
    "LLVM-exception",
    "OpenJDK-assembly-exception-1.0",
    "openvpn-openssl-exception",
    "Qt-GPL-exception-1.0",
    "u-boot-exception-2.0",
    "Universal-FOSS-exception-1.0",
    "x11vnc-openssl-exception",
];

/// Other names of them, in lower case.
const NAMES: &[(&str, &str)] = &[
    ("expat", "MIT"),
    ("mit license", "MIT"),
    ("the mit license", "MIT"),
    ("mit/x11", "MIT"),
    ("apache", "Apache-2.0"),
    ("apache 2.0", "Apache-2.0"),
    ("apache 2", "Apache-2.0"),
    ("apache-2", "Apache-2.0"),
    ("asl 2.0", "Apache-2.0"),
    ("apache license 2.0", "Apache-2.0"),
    ("apache software license", "Apache-2.0"),
    ("apache license, version 2.0", "Apache-2.0"),
    ("the apache software license, version 2.0", "Apache-2.0"),
    ("bsd-2", "BSD-2-Clause"),
    ("bsd-3", "BSD-3-Clause"),
    ("bsd-3-clauses", "BSD-3-Clause"),
    ("bsd 3-clause", "BSD-3-Clause"),
    ("3-clause bsd", "BSD-3-Clause"),
    ("2-clause bsd", "BSD-2-Clause"),
    ("new bsd", "BSD-3-Clause"),
    ("bsd-4", "BSD-4-Clause"),
    ("isc license", "ISC"),
    ("iscl", "ISC"),
    ("cc0", "CC0-1.0"),
    ("psf", "PSF-2.0"),
    ("psfl", "PSF-2.0"),
    ("mpl-2", "MPL-2.0"),
    ("mplv2.0", "MPL-2.0"),
    ("artistic", "Artistic-1.0-Perl"),
    ("zlib/libpng", "Zlib"),
    ("boost", "BSL-1.0"),
];

/// The SPDX expression for a licence as declared; none when it has no place in the list.
pub fn expression(declared: &str) -> Option<String> {
    if let Some(id) = identifier(declared) {
        return Some(id);
    }
    // `a and (b or c)`, in any case; every name must be known.
    let spaced = declared.replace('(', " ( ").replace(')', " ) ");
    let mut out: Vec<String> = Vec::new();
    let mut operand = false;
    let mut depth = 0usize;
    let mut exception = false;
    for word in spaced.split_whitespace() {
        match word.to_ascii_lowercase().as_str() {
            op @ ("and" | "or") if operand => (operand, ()) = (false, out.push(op.to_uppercase())),
            "with" if operand => (operand, exception, ()) = (false, true, out.push("WITH".to_owned())),
            "(" if !operand && !exception => (depth, ()) = (depth + 1, out.push("(".to_owned())),
            ")" if operand && depth > 0 => (depth, ()) = (depth - 1, out.push(")".to_owned())),
            _ if operand => return None,
            _ if exception => {
                let known = EXCEPTIONS.iter().find(|e| e.eq_ignore_ascii_case(word))?;
                (operand, exception, ()) = (true, false, out.push((*known).to_owned()));
            }
            _ => (operand, ()) = (true, out.push(identifier(word)?)),
        }
    }
    (operand && depth == 0).then(|| out.join(" ").replace("( ", "(").replace(" )", ")"))
}

/// The name in expressions of a licence that SPDX does not know.
pub fn reference(declared: &str) -> String {
    let mut out = "LicenseRef-".to_owned();
    for c in declared.chars().take(64) {
        out.push(if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' });
    }
    if declared.chars().count() > 64 || declared.chars().any(|c| !(c.is_ascii_alphanumeric() || "-.".contains(c))) {
        // Texts that differ must not share a name.
        let digest = cooper_oci::Digest::of(declared);
        let hex = digest.as_str().rsplit(':').next().unwrap_or_default();
        out.push('-');
        out.push_str(&hex[..8]);
    }
    out
}

/// The identifier of one licence.
fn identifier(name: &str) -> Option<String> {
    let name = name.trim();
    if let Some(id) = IDS.iter().find(|id| id.eq_ignore_ascii_case(name)) {
        return Some((*id).to_owned());
    }
    let lower = name.to_ascii_lowercase();
    if let Some((_, id)) = NAMES.iter().find(|(known, _)| *known == lower) {
        return Some((*id).to_owned());
    }
    gnu(&lower)
}

/// GNU's licences with their version: `GPL-2+`, `LGPLv2.1`, `GPL-3.0`, `GFDL-1.3+`.
fn gnu(name: &str) -> Option<String> {
    let (family, rest) = [("lgpl", "LGPL"), ("agpl", "AGPL"), ("gfdl", "GFDL"), ("gpl", "GPL")]
        .into_iter()
        .find_map(|(prefix, family)| Some((family, name.strip_prefix(prefix)?)))?;
    let rest = rest.trim_start_matches(['-', 'v']);
    let (version, suffix) = match rest.strip_suffix('+') {
        Some(version) => (version, "or-later"),
        None => (rest, "only"),
    };
    let version = if version.len() == 1 { format!("{version}.0") } else { version.to_owned() };
    let id = format!("{family}-{version}-{suffix}");
    IDS.contains(&id.as_str()).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_expressions() {
        for (declared, expected) in [
            ("MIT", Some("MIT")),
            ("mit", Some("MIT")),
            ("Expat", Some("MIT")),
            ("GPL-2+", Some("GPL-2.0-or-later")),
            ("GPLv3", Some("GPL-3.0-only")),
            ("LGPL-2.1+", Some("LGPL-2.1-or-later")),
            ("GFDL-1.3", Some("GFDL-1.3-only")),
            ("MIT OR Apache-2.0", Some("MIT OR Apache-2.0")),
            ("(mit and BSD-3-Clause) or GPL-2", Some("(MIT AND BSD-3-Clause) OR GPL-2.0-only")),
            ("Apache-2.0 WITH LLVM-exception", Some("Apache-2.0 WITH LLVM-exception")),
            ("GPL-9", None),
            ("MIT OR", None),
            ("MIT MIT", None),
            ("(MIT", None),
            ("MIT WITH nothing", None),
            ("custom", None),
            ("", None),
        ] {
            assert_eq!(expression(declared).as_deref(), expected, "{declared}");
        }
    }

    #[test]
    fn references() {
        assert_eq!(reference("permissive.1"), "LicenseRef-permissive.1");
        assert_ne!(reference("a b"), reference("a_b"));
        assert!(reference("a b").starts_with("LicenseRef-a-b-"));
    }
}
