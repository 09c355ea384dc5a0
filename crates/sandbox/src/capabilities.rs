//! Which capabilities a build step has.

use crate::error::{Error, Result};
use rustix::thread::CapabilitySet;
use std::fs;

/// The field's default set.
pub(crate) const DEFAULT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// The number of the kernel's last capability.
pub(crate) fn last() -> u32 {
    let text = fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap_or_default();
    // CAP_CHECKPOINT_RESTORE, the last one for years.
    text.trim().parse().unwrap_or(40)
}

/// What this process may hand on.
pub(crate) fn own() -> Result<CapabilitySet> {
    let own = rustix::thread::capabilities(None).map_err(|e| Error::setup("read capabilities")(e.into()))?;
    Ok(own.permitted)
}

/// Their names in configurations, such as `CAP_CHOWN`. Those without a name here are left out.
pub(crate) fn names(set: CapabilitySet) -> Vec<String> {
    set.iter_names().map(|(name, _)| format!("CAP_{name}")).collect()
}
