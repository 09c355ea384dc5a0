//! The capabilities that are announced to clients, as data. Announcing one obliges the behaviour.

use cooper_wire::apicaps::ApiCap;
use std::collections::BTreeSet;

/// Capabilities of ops, sources, exporters and the control service.
pub const LLB: &[&str] = &[
    "source.image",
    "source.image.resolvemode",
    "source.image.layerlimit",
    "source.image.checksum",
    "source.local",
    "source.local.unique",
    "source.local.sessionid",
    "source.local.includepatterns",
    "source.local.followpaths",
    "source.local.excludepatterns",
    "source.local.sharedkeyhint",
    "source.local.differ",
    "source.local.metadatatransfer",
    "source.git",
    "source.git.keepgitdir",
    "source.git.fullurl",
    "source.git.httpauth",
    "source.git.knownsshhosts",
    "source.git.mountsshsock",
    "source.git.subdir",
    "source.git.checksum",
    "source.git.skipsubmodules",
    "source.git.signatureverify",
    "source.git.mtime",
    "source.git.fetchbycommit",
    "source.git.bundle",
    "source.git.checkoutbundle",
    "source.http",
    "source.http.auth",
    "source.http.checksum",
    "source.http.perm",
    "soruce.http.uidgid", // the protocol's spelling
    "source.http.header",
    "source.http.signatureverify",
    "source.imageblob",
    "source.ocilayout",
    "source.buildop.llbfilename",
    "exec.meta.base",
    "exec.meta.cgroup.parent",
    "exec.meta.network",
    "exec.meta.network.proxy",
    "exec.meta.proxyenv",
    "exec.meta.security",
    "exec.meta.security.devices.v1",
    "exec.meta.setsdefaultpath",
    "exec.meta.ulimit",
    "exec.meta.cdi",
    "exec.meta.linux.resources",
    "exec.mount.bind",
    "exec.mount.bind.readwrite-nooutput",
    "exec.mount.cache",
    "exec.mount.cache.sharing",
    "exec.mount.cache.content",
    "exec.mount.selector",
    "exec.mount.tmpfs",
    "exec.mount.tmpfs.size",
    "exec.mount.secret",
    "exec.mount.ssh",
    "exec.cgroup",
    "exec.secretenv",
    "exec.validexitcode",
    "file.base",
    "file.rm.wildcard",
    "file.copy.includeexcludepatterns",
    "file.copy.requiredpaths",
    "file.rm.nofollowsymlink",
    "file.copy.alwaysreplaceexistingdestpaths",
    "file.symlink.create",
    "constraints",
    "platform",
    "meta.ignorecache",
    "meta.description",
    "meta.exportcache",
    "cache.gha",
    "cache.s3",
    "cache.azblob",
    "mergeop",
    "diffop",
    "passthroughop",
    "exporter.image.annotations",
    "exporter.image.attestations",
    "exporter.sourcedateepoch",
    "exporter.multiple",
    "exporter.session",
    "source.policy",
    "source.policy.session",
    "gc.freespacefilter",
    "history.filter",
];

/// Known to clients and honoured, but by convention not announced: an op may ask for them all the same.
pub const LLB_SILENT: &[&str] = &["exec.meta.removemountstubs.recursive", "file.copy.modestring"];

/// Capabilities of the frontend gateway.
pub const GATEWAY: &[&str] = &[
    "solve.base",
    "solve.inlinereturn",
    "resolveimage",
    "resolveimage.resolvemode",
    "readfile",
    "return",
    "returnmap",
    "readdir",
    "statfile",
    "importcaches",
    "proto.refarray",
    "reference.output",
    "frontend.inputs",
    "gateway.solve.metadata",
    "gateway.exec",
    "gateway.exec.extrahosts",
    "gateway.exec.secretenv",
    "gateway.exec.signals",
    "gateway.exec.filesystem",
    "frontend.caps",
    "gateway.solve.evaluate",
    "gateway.evaluate",
    "gateway.warnings",
    "reference.attestations",
    "source.metaresolver",
    "source.metaresolver.image.attestations",
    "source.metaresolver.http.checksumrequest",
];

/// Capabilities that a frontend image may require (label or option `frontend.caps`); `+forward` may follow one.
pub const FRONTEND: &[&str] = &[
    "moby.buildkit.frontend.inputs",
    "moby.buildkit.frontend.subrequests",
    "moby.buildkit.frontend.contexts",
    "moby.buildkit.frontend.gitquerystring",
];

/// `ids` as the protocol announces them, all enabled.
pub fn announce(ids: &[&str]) -> Vec<ApiCap> {
    ids.iter().map(|id| ApiCap { id: (*id).to_owned(), enabled: true, ..ApiCap::default() }).collect()
}

/// A set of capability ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CapSet(BTreeSet<String>);

impl CapSet {
    /// Everything in [`LLB`] and [`LLB_SILENT`].
    pub fn llb() -> Self {
        LLB.iter().chain(LLB_SILENT).copied().collect()
    }

    /// Everything in [`GATEWAY`].
    pub fn gateway() -> Self {
        GATEWAY.iter().copied().collect()
    }

    /// What a peer announced: the ids that it has not disabled.
    pub fn announced(caps: &[ApiCap]) -> Self {
        Self(caps.iter().filter(|cap| cap.enabled).map(|cap| cap.id.clone()).collect())
    }

    /// Whether `id` is in the set.
    pub fn supports(&self, id: &str) -> bool {
        self.0.contains(id)
    }

    /// Takes `id` out, as a worker does that lacks a feature.
    #[must_use]
    pub fn without(mut self, id: &str) -> Self {
        self.0.remove(id);
        self
    }
}

impl<'a> FromIterator<&'a str> for CapSet {
    fn from_iter<I: IntoIterator<Item = &'a str>>(ids: I) -> Self {
        Self(ids.into_iter().map(ToOwned::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_announced_once_each() {
        for table in [LLB, GATEWAY, FRONTEND] {
            let unique: BTreeSet<_> = table.iter().collect();
            assert_eq!(unique.len(), table.len());
        }
        assert!(LLB_SILENT.iter().all(|id| !LLB.contains(id)));
    }

    #[test]
    fn disabled_caps_do_not_count() {
        let mut caps = announce(&["mergeop", "diffop"]);
        caps[1].enabled = false;
        let set = CapSet::announced(&caps);
        assert!(set.supports("mergeop") && !set.supports("diffop"));
    }
}
