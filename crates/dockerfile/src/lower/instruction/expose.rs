//! `EXPOSE`: ports that the image listens on.

use super::{Error, StageRun};
use crate::instruction::Expose;
use crate::lower::findings::FindingKind;
use crate::lower::{Cause, naming};
use cooper_oci::Empty;
use std::net::IpAddr;

pub(in crate::lower) fn lower(run: &mut StageRun<'_>, expose: &Expose) -> Result<(), Error> {
    let mut ports = Vec::new();
    for word in &expose.ports {
        for port in run.shared.rules.process_words(&word.text, &run.state.env)? {
            ports.extend(parse(run, &port)?);
        }
    }
    run.commit(format!("EXPOSE {}", naming::list(&ports)), false, false);
    run.state.image.config.exposed_ports.extend(ports.into_iter().map(|port| (port, Empty {})));
    Ok(())
}

/// The ports of `[[ip:]host:]container[/protocol]`, where a port may be a range. Only the container's count.
fn parse(run: &mut StageRun<'_>, text: &str) -> Result<Vec<String>, Cause> {
    let invalid = |reason: String| Cause::Port { port: text.to_owned(), reason };
    let (outer, container) = text.rsplit_once(':').unwrap_or(("", text));
    let (ip, host) = outer.rsplit_once(':').unwrap_or(("", outer));
    let (container, protocol) = container.split_once('/').unwrap_or((container, ""));
    if container.is_empty() {
        return Err(invalid("no port specified".to_owned()));
    }
    let lower = protocol.to_lowercase();
    let lower = match lower.as_str() {
        "" => "tcp",
        known @ ("tcp" | "udp" | "sctp") => known,
        _ => return Err(invalid(format!("invalid proto: {protocol}"))),
    };
    if protocol != protocol.to_lowercase() {
        run.find(FindingKind::ExposeProtoCasing { port: text.to_owned() });
    }
    if !(ip.is_empty() && host.is_empty()) {
        run.find(FindingKind::ExposeInvalidFormat { port: text.to_owned() });
    }
    let bare = ip.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(ip);
    if !bare.is_empty() && bare.parse::<IpAddr>().is_err() {
        return Err(Cause::PortPart(format!("invalid IP address: {bare}")));
    }
    let (first, last) =
        range(container).ok_or_else(|| Cause::PortPart(format!("invalid containerPort: {container}")))?;
    if !host.is_empty() {
        let (from, to) = range(host).ok_or_else(|| Cause::PortPart(format!("invalid hostPort: {host}")))?;
        // A range of host ports may stand for one container port, to be chosen from.
        if last - first != to - from && first != last {
            return Err(Cause::PortPart(format!(
                "invalid ranges specified for container and host Ports: {container} and {host}"
            )));
        }
    }
    Ok((first..=last).map(|port| format!("{port}/{lower}")).collect())
}

/// `8000` or `8000-9000`.
fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}
