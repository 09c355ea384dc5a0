//! The texts of `/etc/hosts` and `/etc/resolv.conf`.

use crate::spec::{DnsConfig, Host, Network};
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

/// Where systemd-resolved keeps the servers that it asks itself; `/etc/resolv.conf` then only names its local stub.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// What is asked when the host names no server that is reachable from inside.
const FALLBACK: [&str; 2] = ["8.8.8.8", "8.8.4.4"];
const FALLBACK_V6: [&str; 2] = ["2001:4860:4860::8888", "2001:4860:4860::8844"];

/// `/etc/hosts`: the local names, the container's own, the additional ones.
pub(crate) fn hosts(hostname: &str, extra: &[Host]) -> String {
    let mut text = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for Host { ip, name } in extra {
        let _ = writeln!(text, "{ip}\t{name}");
    }
    text
}

/// `/etc/resolv.conf`: the host's, changed as `dns` says.
pub(crate) fn resolv_conf(dns: Option<&DnsConfig>, network: &Network) -> String {
    let read = |path: &str| fs::read_to_string(Path::new(path)).unwrap_or_default();
    let own = read("/etc/resolv.conf");
    let host = if *network != Network::Host && only_stub(&own) { read(RESOLVED) } else { own };
    render(&host, dns, *network == Network::Host)
}

/// Whether systemd-resolved's stub is the one server.
fn only_stub(text: &str) -> bool {
    let mut servers = values(text, "nameserver");
    servers.next() == Some("127.0.0.53") && servers.next().is_none()
}

fn values<'a>(text: &'a str, keyword: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |line| {
        let (key, value) = line.trim().split_once(char::is_whitespace)?;
        (key == keyword).then(|| value.trim())
    })
}

fn render(host: &str, dns: Option<&DnsConfig>, host_network: bool) -> String {
    if host_network && dns.is_none() && values(host, "nameserver").next().is_some() {
        return host.to_owned();
    }
    let none = DnsConfig::default();
    let dns = dns.unwrap_or(&none);
    let mut servers: Vec<&str> = if dns.nameservers.is_empty() {
        values(host, "nameserver").filter(|s| host_network || !is_local(s)).collect()
    } else {
        dns.nameservers.iter().map(String::as_str).collect()
    };
    if servers.is_empty() {
        servers.extend(FALLBACK);
        servers.extend(FALLBACK_V6);
    }
    let list = |own: &[String], keyword: &str| {
        if own.is_empty() {
            values(host, keyword).last().unwrap_or_default().split_whitespace().map(str::to_owned).collect()
        } else {
            own.to_vec()
        }
    };
    let mut text = String::new();
    let search: Vec<String> = list(&dns.search_domains, "search");
    if !search.is_empty() && search != ["."] {
        let _ = writeln!(text, "search {}", search.join(" "));
    }
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    let options: Vec<String> = list(&dns.options, "options");
    if !options.is_empty() {
        let _ = writeln!(text, "options {}", options.join(" "));
    }
    text
}

/// Whether a server is only reachable in the host's own network.
fn is_local(server: &str) -> bool {
    let address = server.split('%').next().unwrap_or(server);
    address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(host: &str, dns: Option<DnsConfig>, host_network: bool, expected: &str) {
        assert_eq!(render(host, dns.as_ref(), host_network), expected, "{host:?} {dns:?} {host_network}");
    }

    #[test]
    fn name_servers() {
        let fallback = "nameserver 8.8.8.8\nnameserver 8.8.4.4\n\
                        nameserver 2001:4860:4860::8888\nnameserver 2001:4860:4860::8844\n";
        check("nameserver 10.0.0.1\n", None, false, "nameserver 10.0.0.1\n");
        check("nameserver 127.0.0.1\nnameserver 10.0.0.1\n", None, false, "nameserver 10.0.0.1\n");
        check("nameserver 127.0.0.1\n# kept\n", None, true, "nameserver 127.0.0.1\n# kept\n");
        check("nameserver ::1\n", None, false, fallback);
        check("", None, true, fallback);
        check(
            "search a b\noptions ndots:2\nnameserver 10.0.0.1\n",
            None,
            false,
            "search a b\nnameserver 10.0.0.1\noptions ndots:2\n",
        );
        let dns = DnsConfig {
            nameservers: vec!["1.1.1.1".into()],
            search_domains: vec!["x".into()],
            options: vec!["edns0".into()],
        };
        check("nameserver 10.0.0.1\nsearch y\n", Some(dns), true, "search x\nnameserver 1.1.1.1\noptions edns0\n");
    }

    #[test]
    fn host_names() {
        let extra = [Host { ip: "10.1.2.3".parse().unwrap(), name: "db".into() }];
        let text = hosts("box", &extra);
        assert_eq!(text, "127.0.0.1\tlocalhost box\n::1\tlocalhost ip6-localhost ip6-loopback\n10.1.2.3\tdb\n");
    }

    #[test]
    fn the_stub_of_systemd_is_recognised() {
        assert!(only_stub("nameserver 127.0.0.53\noptions edns0\n"));
        assert!(!only_stub("nameserver 127.0.0.53\nnameserver 1.1.1.1\n"));
        assert!(!only_stub(""));
    }
}
