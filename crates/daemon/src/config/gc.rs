//! From the garbage-collection keys to the policies that the engine runs.

use cooper_engine::GcPolicy;
use std::time::Duration;

use super::{DiskSpace, GcConfig, GcPolicyConfig, GoDuration};

/// Size of the file system under the state directory, in bytes; zero when unknown.
#[derive(Debug, Clone, Copy, Default)]
pub struct DiskStat {
    /// The whole file system.
    pub total: i64,
}

impl DiskStat {
    /// Asks the kernel. An unreadable path gives zeros, for which limits fall back to fixed sizes.
    pub fn of(path: &std::path::Path) -> Self {
        let total = rustix::fs::statvfs(path).map_or(0, |stat| stat.f_blocks.saturating_mul(stat.f_frsize));
        Self { total: i64::try_from(total).unwrap_or(i64::MAX) }
    }
}

const GB: i64 = 1_000_000_000;
/// What a percentage of an unknown disk counts for.
const UNKNOWN_DISK_SHARE: i64 = 2 * GB;

impl DiskSpace {
    /// Bytes on a disk of this size. Percentages are rounded up to whole gigabytes.
    pub fn on(self, disk: DiskStat) -> i64 {
        match self {
            Self::Unset | Self::Percent(0) => 0,
            Self::Bytes(bytes) => bytes,
            Self::Percent(_) if disk.total == 0 => UNKNOWN_DISK_SHARE,
            Self::Percent(percent) => {
                let share = i128::from(disk.total) * i128::from(percent) / 100;
                i64::try_from((share >> 30) + 1).unwrap_or(i64::MAX / GB).saturating_mul(GB)
            }
        }
    }

    fn or(self, other: Self) -> Self {
        if self == Self::Unset { other } else { self }
    }
}

struct Caps {
    reserved: DiskSpace,
    max_used: DiskSpace,
    min_free: DiskSpace,
}

impl Caps {
    fn of(config: &GcConfig, disk: DiskStat) -> Self {
        let caps =
            Self { reserved: config.reserved_space, max_used: config.max_used_space, min_free: config.min_free_space };
        if !caps.unset() {
            return caps;
        }
        let caps = Self { reserved: config.keep_storage, ..caps };
        if caps.unset() { Self::detected(disk) } else { caps }
    }

    fn unset(&self) -> bool {
        [self.reserved, self.max_used, self.min_free] == [DiskSpace::Unset; 3]
    }

    /// A tenth of the disk but at most 10 GB reserved; 80 % but at most 100 GB used; 20 % kept free.
    fn detected(disk: DiskStat) -> Self {
        let capped = |percent, bytes| {
            let share = DiskSpace::Percent(percent);
            if share.on(disk) > bytes { DiskSpace::Bytes(bytes) } else { share }
        };
        Self { reserved: capped(10, 10 * GB), max_used: capped(80, 100 * GB), min_free: DiskSpace::Percent(20) }
    }
}

/// The policies to run, in order; none when collection is switched off.
pub fn gc_policies(config: &GcConfig, disk: DiskStat) -> Vec<GcPolicy> {
    if config.gc == Some(false) {
        return Vec::new();
    }
    let defaults;
    let policies = if config.policies.is_empty() {
        defaults = default_policies(&Caps::of(config, disk));
        &defaults[..]
    } else {
        &config.policies
    };
    let resolve = |policy: &GcPolicyConfig| GcPolicy {
        all: policy.all,
        filters: policy.filters.clone(),
        keep_duration: policy.keep_duration.0,
        reserved_space: policy.reserved_space.or(policy.keep_bytes).on(disk),
        max_used_space: policy.max_used_space.on(disk),
        min_free_space: policy.min_free_space.on(disk),
    };
    policies.iter().map(resolve).collect()
}

const HOUR: u64 = 3600;

fn default_policies(caps: &Caps) -> [GcPolicyConfig; 4] {
    let under_caps = GcPolicyConfig {
        reserved_space: caps.reserved,
        max_used_space: caps.max_used,
        min_free_space: caps.min_free,
        ..GcPolicyConfig::default()
    };
    [
        // What is cheapest to make again goes first: unused for two days and above 512 MB.
        GcPolicyConfig {
            filters: ["source.local", "exec.cachemount", "source.git.checkout"]
                .map(|kind| format!("type=={kind}"))
                .to_vec(),
            keep_duration: GoDuration(Duration::from_secs(48 * HOUR)),
            max_used_space: DiskSpace::Bytes(512_000_000),
            ..GcPolicyConfig::default()
        },
        // Whatever nobody used for sixty days.
        GcPolicyConfig { keep_duration: GoDuration(Duration::from_secs(60 * 24 * HOUR)), ..under_caps.clone() },
        // Then anything that no image shares, then everything.
        under_caps.clone(),
        GcPolicyConfig { all: true, ..under_caps },
    ]
}
