//! Resource limits of a process by the names that people give them.

use crate::error::{Error, Result};
use crate::spec::Ulimit;
use rustix::process::{Resource, Rlimit};

/// Names as in `docker run --ulimit`.
const NAMES: [(&str, Resource); 15] = [
    ("core", Resource::Core),
    ("cpu", Resource::Cpu),
    ("data", Resource::Data),
    ("fsize", Resource::Fsize),
    ("locks", Resource::Locks),
    ("memlock", Resource::Memlock),
    ("msgqueue", Resource::Msgqueue),
    ("nice", Resource::Nice),
    ("nofile", Resource::Nofile),
    ("nproc", Resource::Nproc),
    ("rss", Resource::Rss),
    ("rtprio", Resource::Rtprio),
    ("rttime", Resource::Rttime),
    ("sigpending", Resource::Sigpending),
    ("stack", Resource::Stack),
];

/// What setrlimit(2) takes.
pub(crate) fn parse(limit: &Ulimit) -> Result<(Resource, Rlimit)> {
    let known = NAMES.iter().find(|(name, _)| *name == limit.name);
    let Some((_, resource)) = known else {
        let names = NAMES.map(|(name, _)| name).join(", ");
        return Err(Error::Invalid(format!("unknown ulimit {:?}: expected one of {names}", limit.name)));
    };
    let value = |v: i64| u64::try_from(v).ok();
    let rlimit = Rlimit { current: value(limit.soft), maximum: value(limit.hard) };
    let above = match (rlimit.current, rlimit.maximum) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(soft), Some(hard)) => soft > hard,
    };
    if above {
        return Err(Error::Invalid(format!(
            "ulimit {}: the soft limit ({}) is above the hard one ({})",
            limit.name, limit.soft, limit.hard
        )));
    }
    Ok((*resource, rlimit))
}

/// The name in configurations of containers, such as `RLIMIT_NOFILE`.
pub(crate) fn configured_name(limit: &Ulimit) -> String {
    format!("RLIMIT_{}", limit.name.to_ascii_uppercase())
}

/// Why setting a limit was refused, in words.
pub(crate) fn describe(resource: Resource, wanted: Rlimit) -> String {
    let name = NAMES.iter().find(|(_, r)| *r == resource).map_or("?", |(name, _)| name);
    let text = |v: Option<u64>| v.map_or_else(|| "unlimited".to_owned(), |v| v.to_string());
    let own = rustix::process::getrlimit(resource).maximum;
    format!(
        "set ulimit {name}={}:{} (the builder's own hard limit is {}; raising it takes CAP_SYS_RESOURCE)",
        text(wanted.current),
        text(wanted.maximum),
        text(own)
    )
}
