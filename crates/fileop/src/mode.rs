//! Permissions as `chmod` takes them: octal, or symbolic clauses such as `u=rwX,go=rX`.

const ALL: u32 = 0o6777;
const STICKY: u32 = 0o1000;
const EXECUTE: u32 = 0o111;

/// Malformed permissions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid mode {mode:?}: {reason}")]
pub struct ModeSyntax {
    mode: String,
    reason: &'static str,
}

/// A parsed change of permissions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModeSet(Vec<Step>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Clear(u32),
    Set(u32),
    /// `X`: set when any execute bit was set before, or on a directory.
    SetIfExecutable(u32),
    /// `g=u` and its kind: the bits of one class for others.
    FromClass {
        shift: u32,
        op: u8,
        who: u32,
    },
}

impl ModeSet {
    /// Reads `text`.
    ///
    /// # Errors
    /// [`ModeSyntax`] for anything that `chmod` would not take.
    pub fn parse(text: &str) -> Result<Self, ModeSyntax> {
        let fail = |reason| ModeSyntax { mode: text.to_owned(), reason };
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            return match u32::from_str_radix(text, 8) {
                Ok(bits) if bits <= 0o7777 => Ok(Self(vec![Step::Clear(0o7777), Step::Set(bits)])),
                _ => Err(fail("expected octal digits, 7777 at most")),
            };
        }
        let mut steps = Vec::new();
        for clause in text.split(',') {
            parse_clause(clause.as_bytes(), &mut steps).map_err(fail)?;
        }
        Ok(Self(steps))
    }

    /// The permissions (0o7777) that `mode` (type bits included) becomes.
    pub fn apply(&self, mode: u32) -> u32 {
        let before = mode & 0o7777;
        let executable = before & EXECUTE != 0 || mode & 0o170_000 == 0o040_000;
        self.0.iter().fold(before, |mode, step| match *step {
            Step::Clear(bits) => mode & !bits,
            Step::Set(bits) => mode | bits,
            Step::SetIfExecutable(bits) if executable => mode | bits,
            Step::SetIfExecutable(_) => mode,
            Step::FromClass { shift, op, who } => {
                let value = (((mode >> shift) & 7) * 0o111) & who;
                match op {
                    b'+' => mode | value,
                    b'-' => mode & !value,
                    _ => mode & !(who & 0o777) | value,
                }
            }
        })
    }
}

/// `[ugoa]* ([-+=] [rwxXst]* | [ugo])+`
fn parse_clause(clause: &[u8], steps: &mut Vec<Step>) -> Result<(), &'static str> {
    let start = clause.iter().position(|b| !b"ugoa".contains(b)).ok_or("expected one of + - = behind the class")?;
    let who = clause[..start].iter().fold(0, |who, b| {
        who | match b {
            b'u' => 0o4700,
            b'g' => 0o2070,
            b'o' => 0o007,
            _ => ALL,
        }
    });
    let who = if who == 0 { ALL } else { who };
    let mut rest = &clause[start..];
    while let [op, tail @ ..] = rest {
        if !b"+-=".contains(op) {
            return Err("expected one of + - =, or permissions out of r w x X s t u g o");
        }
        let end = tail.iter().position(|b| b"+-=".contains(b)).unwrap_or(tail.len());
        parse_permissions(*op, who, &tail[..end], steps)?;
        rest = &tail[end..];
    }
    Ok(())
}

fn parse_permissions(op: u8, who: u32, permissions: &[u8], steps: &mut Vec<Step>) -> Result<(), &'static str> {
    let (mut bits, mut conditional) = (0, 0);
    let mut classes = Vec::new();
    for b in permissions {
        match b {
            b'r' => bits |= who & 0o444,
            b'w' => bits |= who & 0o222,
            b'x' => bits |= who & EXECUTE,
            b'X' if op == b'-' => bits |= who & EXECUTE,
            b'X' => conditional |= who & EXECUTE,
            b's' => bits |= who & 0o6000,
            // For others alone the sticky bit means nothing.
            b't' if who != 0o007 => bits |= STICKY,
            b't' => {}
            b'u' => classes.push(6),
            b'g' => classes.push(3),
            b'o' => classes.push(0),
            _ => return Err("expected permissions out of r w x X s t u g o"),
        }
    }
    let by_class = classes.iter().map(|shift| Step::FromClass { shift: *shift, op, who });
    match op {
        b'=' if classes.is_empty() => steps.push(Step::Clear(who | bits & STICKY)),
        _ => {}
    }
    steps.extend(by_class);
    match op {
        b'-' => steps.push(Step::Clear(bits)),
        _ => steps.extend([Step::Set(bits), Step::SetIfExecutable(conditional)]),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIR: u32 = 0o040_000;

    #[test]
    fn changes_permissions_as_chmod_does() {
        for (text, before, after) in [
            ("755", 0o644, 0o755),
            ("04711", 0o644, 0o4711),
            ("u=rwX,go=rX", 0o600, 0o644),
            ("u=rwX,go=rX", 0o700, 0o755),
            ("u=rwX,go=rX", DIR | 0o600, 0o755),
            ("a+x", 0o644, 0o755),
            ("+x", 0o644, 0o755),
            ("go-w", 0o666, 0o644),
            ("go=", 0o777, 0o700),
            ("=", 0o777, 0),
            ("u=rwx,go=u-w", 0o600, 0o755),
            ("g=u", 0o750, 0o770),
            ("o=g,u+w", 0o450, 0o655),
            ("u+s", 0o755, 0o4755),
            ("g+s", 0o755, 0o2755),
            ("+t", 0o777, 0o1777),
            ("o+t", 0o777, 0o777),
            ("u=rw", 0o4755, 0o655),
            ("a-X", 0o755, 0o644),
            ("u+x,g+X", 0o600, 0o700),
            ("u-w+x", 0o600, 0o500),
        ] {
            let set = ModeSet::parse(text).unwrap();
            assert_eq!(format!("{:o}", set.apply(before)), format!("{after:o}"), "{text} on {before:o}");
        }
    }

    #[test]
    fn refuses_what_chmod_refuses() {
        for bad in ["", "u", "8", "17777", "u=q", "rw", "u=rw,", ",u=rw", "u rw"] {
            assert!(ModeSet::parse(bad).is_err(), "{bad:?}");
        }
    }
}
