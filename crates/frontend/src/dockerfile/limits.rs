//! Settings of steps that clients send as lists and numbers.

use cooper_llb::pb;
use std::collections::BTreeMap;

type Result<T> = std::result::Result<T, String>;

fn number<T: std::str::FromStr>(text: &str) -> Result<T> {
    text.parse().map_err(|_| format!("{text:?} is not a number"))
}

/// `host=address` pairs, separated by commas.
pub fn extra_hosts(list: &str) -> Result<Vec<pb::HostIp>> {
    let pair = |field: &str| {
        let field = field.to_lowercase();
        let (host, address) = field.split_once('=').ok_or_else(|| format!("invalid key-value pair {field}"))?;
        let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
        let ip: std::net::IpAddr = bare.parse().map_err(|_| format!("failed to parse IP {address}"))?;
        Ok(pb::HostIp { host: host.to_owned(), ip: ip.to_string() })
    };
    fields(list).map(pair).collect()
}

/// The size of `/dev/shm` in bytes.
pub fn shm_size(text: &str) -> Result<i64> {
    if text.is_empty() { Ok(0) } else { number(text) }
}

/// What `ulimit` knows.
const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// `name=soft[:hard]`, separated by commas.
pub fn ulimits(list: &str) -> Result<Vec<pb::Ulimit>> {
    let limit = |field: &str| {
        let (name, values) = field.split_once('=').ok_or_else(|| format!("invalid ulimit argument: {field}"))?;
        if !ULIMITS.contains(&name) {
            return Err(format!("invalid ulimit type: {name}"));
        }
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        let (soft, hard): (i64, i64) = (number(soft)?, number(hard)?);
        // -1 is no limit at all.
        if hard != -1 && (soft == -1 || soft > hard) {
            return Err(format!("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"));
        }
        Ok(pb::Ulimit { name: name.to_owned(), soft, hard })
    };
    fields(list).map(limit).collect()
}

fn fields(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').filter(|field| !field.is_empty())
}

/// The limits of control groups; none when no option sets one.
pub fn resources(opts: &BTreeMap<String, String>) -> Result<Option<pb::LinuxResources>> {
    let given = |key: &str| opts.get(key).filter(|v| !v.is_empty());
    let signed = |key: &str, fits: fn(i64) -> bool, rule: &str| match given(key) {
        None => Ok(0),
        Some(text) => match text.parse() {
            Ok(value) if fits(value) => Ok(value),
            Ok(_) => Err(format!("invalid {key} value: {text}: must be {rule}")),
            Err(_) => Err(format!("invalid {key} value: {text}: not a number")),
        },
    };
    let positive = |key: &str| signed(key, |n| n > 0, "> 0");
    let cpus = |key: &str| match given(key) {
        Some(set) if !is_cpu_set(set) => Err(format!("invalid {key} value: {set}: expected a list such as 0-2,7")),
        set => Ok(set.cloned().unwrap_or_default()),
    };
    let found = pb::LinuxResources {
        memory: positive("memory")?,
        memory_swap: signed("memswap", |n| n == -1 || n > 0, "-1 (unlimited) or > 0")?,
        cpu_shares: positive("cpushares")?.unsigned_abs(),
        cpu_period: positive("cpuperiod")?.unsigned_abs(),
        cpu_quota: positive("cpuquota")?,
        cpuset_cpus: cpus("cpusetcpus")?,
        cpuset_mems: cpus("cpusetmems")?,
    };
    Ok((found != pb::LinuxResources::default()).then_some(found))
}

/// Numbers and ranges of numbers, separated by commas.
fn is_cpu_set(text: &str) -> bool {
    text.split(',').all(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (first.parse::<u32>(), last.parse::<u32>()) {
            (Ok(first), Ok(last)) => first <= last,
            _ => false,
        }
    })
}
