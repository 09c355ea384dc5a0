//! Settings that are understood and change nothing here. Whoever writes them should hear it.

use super::DaemonConfig;

/// One sentence per setting of `config`, as written, that has no effect.
pub fn unheeded(config: &DaemonConfig) -> Vec<String> {
    let oci = &config.worker.oci;
    let table = [
        (
            !oci.proxy_snapshotter_path.as_os_str().is_empty(),
            "worker.oci.proxySnapshotterPath",
            "snapshots are kept by the built-in snapshotters alone",
        ),
        (
            !oci.stargz_snapshotter.is_empty(),
            "worker.oci.stargzSnapshotter",
            "layers are fetched when they are needed, whatever their format",
        ),
        (
            oci.no_process_sandbox,
            "worker.oci.noProcessSandbox",
            "steps keep a process namespace of their own; `cooper doctor` says what there is",
        ),
        (
            !config.grpc.security_descriptor.is_empty(),
            "grpc.securityDescriptor",
            "it is about another operating system's sockets; use grpc.uid and grpc.gid",
        ),
        (
            config.system.platforms_cache_max_age.is_some(),
            "system.platformsCacheMaxAge",
            "platforms are found out once, when the daemon starts",
        ),
    ];
    let told = table.into_iter().filter(|(set, ..)| *set);
    told.map(|(_, key, why)| format!("{key} has no effect: {why}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn settings_without_effect_are_told() {
        for (text, expected) in [
            ("", None),
            ("[worker.oci]\nsnapshotter = \"native\"", None),
            ("[worker.oci]\nproxySnapshotterPath = \"/s\"", Some("worker.oci.proxySnapshotterPath")),
            ("[worker.oci.stargzSnapshotter]\nnoprefetch = true", Some("worker.oci.stargzSnapshotter")),
            ("[worker.oci]\nnoProcessSandbox = true", Some("worker.oci.noProcessSandbox")),
            ("[grpc]\nsecurityDescriptor = \"D:\"", Some("grpc.securityDescriptor")),
            ("[otel]\nsocketPath = \"/o\"", None),
            ("[system]\nplatformsCacheMaxAge = \"1h\"", Some("system.platformsCacheMaxAge")),
        ] {
            let told = unheeded(&super::super::parse(text, Path::new("f")).unwrap().config);
            assert_eq!(told.first().and_then(|t| t.split(' ').next()), expected, "{text}");
        }
    }
}
