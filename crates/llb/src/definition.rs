//! Names and small conversions that both sides of a definition share.

use crate::pb;
use cooper_oci::Platform;

/// Takes out of a definition, and of those within it, what says nothing: metadata and locations without any field.
///
/// In a map such a message is sent as a key without a value, which clients in Go read as a null pointer and fail on.
/// Definitions that go to clients must have passed here.
pub fn without_empty_entries(definition: &mut pb::Definition) {
    definition.metadata.retain(|_, metadata| *metadata != pb::OpMetadata::default());
    if let Some(source) = &mut definition.source {
        source.locations.retain(|_, found| !found.locations.is_empty());
        source.infos.iter_mut().filter_map(|info| info.definition.as_mut()).for_each(without_empty_entries);
    }
}

/// The search path given to Linux steps that have none.
pub const DEFAULT_PATH_UNIX: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The search path given to Windows steps that have none.
pub const DEFAULT_PATH_WINDOWS: &str =
    "c:\\Windows\\System32;c:\\Windows;C:\\Windows\\System32\\WindowsPowerShell\\v1.0";

/// The default search path of an operating system.
pub fn default_path(os: &str) -> &'static str {
    if os == "windows" { DEFAULT_PATH_WINDOWS } else { DEFAULT_PATH_UNIX }
}

/// The protocol's form of a platform.
pub fn platform_to_pb(platform: &Platform) -> pb::Platform {
    pb::Platform {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
        os_version: platform.os_version.clone(),
        os_features: platform.os_features.clone(),
    }
}

/// The platform of a message.
pub fn platform_from_pb(platform: &pb::Platform) -> Platform {
    Platform {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
        os_version: platform.os_version.clone(),
        os_features: platform.os_features.clone(),
    }
}

/// Attribute names of source and build ops.
#[allow(missing_docs)] // the names are the documentation; FEATURES of each are with the source that reads them
pub mod attrs {
    pub const GIT_KEEP_DIR: &str = "git.keepgitdir";
    pub const GIT_FULL_URL: &str = "git.fullurl";
    pub const GIT_AUTH_HEADER_SECRET: &str = "git.authheadersecret";
    pub const GIT_AUTH_TOKEN_SECRET: &str = "git.authtokensecret";
    pub const GIT_KNOWN_SSH_HOSTS: &str = "git.knownsshhosts";
    pub const GIT_MOUNT_SSH_SOCK: &str = "git.mountsshsock";
    pub const GIT_CHECKSUM: &str = "git.checksum";
    pub const GIT_SKIP_SUBMODULES: &str = "git.skipsubmodules";
    pub const GIT_MTIME: &str = "git.mtime";
    pub const GIT_FETCH_BY_COMMIT: &str = "git.fetchbycommit";
    pub const GIT_BUNDLE: &str = "git.bundle";
    pub const GIT_CHECKOUT_BUNDLE: &str = "git.checkoutbundle";
    pub const GIT_SIG_PUBKEY: &str = "git.sig.pubkey";
    pub const GIT_SIG_REJECT_EXPIRED: &str = "git.sig.rejectexpired";
    pub const GIT_SIG_REQUIRE_SIGNED_TAG: &str = "git.sig.requiresignedtag";
    pub const GIT_SIG_IGNORE_SIGNED_TAG: &str = "git.sig.ignoresignedtag";

    pub const LOCAL_SESSION: &str = "local.session";
    pub const LOCAL_UNIQUE: &str = "local.unique";
    pub const LOCAL_INCLUDE_PATTERNS: &str = "local.includepattern";
    pub const LOCAL_FOLLOW_PATHS: &str = "local.followpaths";
    pub const LOCAL_EXCLUDE_PATTERNS: &str = "local.excludepatterns";
    pub const LOCAL_SHARED_KEY_HINT: &str = "local.sharedkeyhint";
    pub const LOCAL_DIFFER: &str = "local.differ";
    pub const LOCAL_METADATA_TRANSFER: &str = "local.metadatatransfer";
    pub const LOCAL_METADATA_TRANSFER_EXCLUDE: &str = "local.metadatatransferexclude";

    pub const HTTP_CHECKSUM: &str = "http.checksum";
    pub const HTTP_FILENAME: &str = "http.filename";
    pub const HTTP_PERM: &str = "http.perm";
    pub const HTTP_UID: &str = "http.uid";
    pub const HTTP_GID: &str = "http.gid";
    pub const HTTP_AUTH_HEADER_SECRET: &str = "http.authheadersecret";
    pub const HTTP_HEADER_PREFIX: &str = "http.header.";
    pub const HTTP_SIG_PUBKEY: &str = "http.sig.pubkey";
    pub const HTTP_SIG_SIGNATURE: &str = "http.sig.signature";

    pub const IMAGE_RESOLVE_MODE: &str = "image.resolvemode";
    pub const IMAGE_RECORD_TYPE: &str = "image.recordtype";
    pub const IMAGE_LAYER_LIMIT: &str = "image.layerlimit";
    pub const IMAGE_CHECKSUM: &str = "image.checksum";

    pub const OCI_SESSION: &str = "oci.session";
    pub const OCI_STORE: &str = "oci.store";
    pub const OCI_LAYER_LIMIT: &str = "oci.layerlimit";

    pub const BUILD_FILENAME: &str = "llbbuild.filename";
    /// The file that a build op reads its definition from when no attribute says so.
    pub const BUILD_DEFAULT_FILENAME: &str = "buildkit.llb.definition";

    /// Description key: the name that progress shows.
    pub const CUSTOM_NAME: &str = "llb.customname";
    /// Description key: the Dockerfile instruction behind an op.
    pub const DOCKERFILE_COMMAND: &str = "com.docker.dockerfile.v1.command";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_without_content_do_not_travel() {
        let inner = pb::Definition {
            metadata: [("a".to_owned(), pb::OpMetadata::default())].into(),
            source: Some(pb::Source {
                locations: [("a".to_owned(), pb::Locations::default())].into(),
                infos: Vec::new(),
            }),
            ..pb::Definition::default()
        };
        let range = pb::Location { source_index: 0, ranges: Vec::new() };
        let named = pb::OpMetadata { ignore_cache: true, ..pb::OpMetadata::default() };
        let mut outer = pb::Definition {
            metadata: [("a".to_owned(), named), ("b".to_owned(), pb::OpMetadata::default())].into(),
            source: Some(pb::Source {
                locations: [
                    ("a".to_owned(), pb::Locations { locations: vec![range] }),
                    ("b".to_owned(), pb::Locations::default()),
                ]
                .into(),
                infos: vec![pb::SourceInfo { definition: Some(inner), ..pb::SourceInfo::default() }],
            }),
            ..pb::Definition::default()
        };
        without_empty_entries(&mut outer);
        let source = outer.source.unwrap();
        let inner = source.infos[0].definition.as_ref().unwrap();
        let counts = (outer.metadata.len(), source.locations.len(), inner.metadata.len());
        assert_eq!((counts, inner.source.as_ref().unwrap().locations.len()), ((1, 1, 0), 0));
    }
}
