//! Which platforms' programs this machine runs by itself.

use cooper_oci::Platform;

/// The machine's own platform, and those that its processor includes.
pub fn platforms() -> Vec<Platform> {
    let host = Platform::host();
    let mut platforms = vec![host.clone()];
    if host.architecture == "amd64" {
        platforms.extend(levels().into_iter().map(|level| Platform { variant: level.to_owned(), ..host.clone() }));
        platforms.push(Platform::new("linux", "386", ""));
    }
    platforms
}

/// The levels of x86-64 above the first that the processor has: each is the one before and more.
#[cfg(target_arch = "x86_64")]
fn levels() -> Vec<&'static str> {
    use std::arch::is_x86_feature_detected as has;
    let levels = [
        (
            "v2",
            has!("cmpxchg16b") && has!("popcnt") && has!("sse3") && has!("ssse3") && has!("sse4.1") && has!("sse4.2"),
        ),
        (
            "v3",
            has!("avx")
                && has!("avx2")
                && has!("bmi1")
                && has!("bmi2")
                && has!("f16c")
                && has!("fma")
                && has!("lzcnt")
                && has!("movbe"),
        ),
        ("v4", has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq") && has!("avx512vl")),
    ];
    levels.into_iter().take_while(|(_, there)| *there).map(|(level, _)| level).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn levels() -> Vec<&'static str> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_those_that_the_kernel_tells() {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let flags = info.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
        let flag = |name: &str| flags.split_whitespace().any(|f| f == name);
        for (level, telling) in [("v2", "sse4_2"), ("v3", "avx2"), ("v4", "avx512vl")] {
            assert_eq!(levels().contains(&level), flag(telling), "{level}");
        }
    }
}
