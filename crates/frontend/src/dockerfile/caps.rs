//! What clients ask frontends to be able to.

use cooper_engine::{BuildError, Detail, FailureClass};
use std::collections::BTreeMap;

/// What this frontend is able to.
const ENABLED: [&str; 4] = [
    "moby.buildkit.frontend.inputs",
    "moby.buildkit.frontend.subrequests",
    "moby.buildkit.frontend.contexts",
    "moby.buildkit.frontend.gitquerystring",
];

/// Something that a client asks for and that this frontend does not have.
#[derive(Debug, PartialEq, Eq)]
pub struct Unknown {
    /// Its name.
    pub name: String,
    /// Whether another frontend, which the file asks for, may have it.
    pub may_forward: bool,
}

impl Unknown {
    /// The error that clients know.
    pub fn error(&self) -> BuildError {
        let message = format!("unsupported frontend capability {}", self.name);
        named_error(message, "FrontendCap", &self.name)
    }
}

/// A refusal whose detail says what by its name alone.
pub fn named_error(message: String, kind: &str, name: &str) -> BuildError {
    let detail = Detail {
        type_url: format!("github.com/moby/buildkit/errdefs.{kind}+json"),
        value: serde_json::json!({"name": name}).to_string().into_bytes(),
    };
    BuildError { details: vec![detail], ..BuildError::new(FailureClass::Unimplemented, message) }
}

/// Compares what the option `frontend.caps` asks for with what is there: names, each perhaps with `+forward`.
pub fn check(opts: &BTreeMap<String, String>) -> Result<(), Unknown> {
    let asked = opts.get("frontend.caps").map_or("", String::as_str);
    let mut missing: Option<Unknown> = None;
    for cap in asked.split(',').filter(|cap| !cap.is_empty()) {
        let (name, flags) = cap.split_once('+').unwrap_or((cap, ""));
        if ENABLED.contains(&name) {
            continue;
        }
        let may_forward = flags.split('+').any(|flag| flag == "forward");
        let known = missing.take();
        let worse = known.as_ref().is_none_or(|known| known.may_forward);
        missing = if worse { Some(Unknown { name: name.to_owned(), may_forward }) } else { known };
    }
    missing.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities() {
        let check = |caps: &str| {
            let opts = BTreeMap::from([("frontend.caps".to_owned(), caps.to_owned())]);
            check(&opts).err().map(|unknown| (unknown.name, unknown.may_forward))
        };
        assert_eq!(check(""), None);
        assert_eq!(check("moby.buildkit.frontend.contexts+forward,moby.buildkit.frontend.inputs"), None);
        assert_eq!(check("a+forward"), Some(("a".to_owned(), true)));
        assert_eq!(check("a+forward,b"), Some(("b".to_owned(), false)));
        assert_eq!(check("b,a+forward"), Some(("b".to_owned(), false)));
        let error = Unknown { name: "a".to_owned(), may_forward: false }.error();
        assert_eq!(error.class, FailureClass::Unimplemented);
        assert_eq!(error.details[0].value, br#"{"name":"a"}"#);
    }
}
