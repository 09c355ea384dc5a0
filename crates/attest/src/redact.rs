//! Addresses without credentials.

const MASK: &str = "xxxxx";

/// The address with user and password masked; what is no URL stays as it is.
pub fn redact(address: &str) -> String {
    let masked = || {
        let (scheme, rest) = address.split_once("://")?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        let (user, host) = authority.rsplit_once('@')?;
        let user = match user.split_once(':') {
            Some(("", _)) => format!(":{MASK}"),
            Some(_) => format!("{MASK}:{MASK}"),
            None if user.is_empty() => return None,
            None => MASK.to_owned(),
        };
        Some(format!("{scheme}://{user}@{host}{rest}"))
    };
    masked().unwrap_or_else(|| address.to_owned())
}

#[cfg(test)]
mod tests {
    use super::redact;

    #[test]
    fn credentials_are_masked() {
        for (address, want) in [
            ("https://user:pass@host/a.git#x:y", "https://xxxxx:xxxxx@host/a.git#x:y"),
            ("https://user@host/a", "https://xxxxx@host/a"),
            ("https://:pass@host", "https://:xxxxx@host"),
            ("https://host/a@b", "https://host/a@b"),
            ("git@host:a.git", "git@host:a.git"),
            ("plain", "plain"),
        ] {
            assert_eq!(redact(address), want);
        }
    }
}
