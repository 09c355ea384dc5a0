use super::*;
use crate::{CapSet, dump, json};

fn platform() -> Platform {
    Platform::new("linux", "amd64", "")
}

fn image() -> Output {
    let meta = Meta::named("base").on(&platform());
    Image::default().output(&"docker.io/library/busybox".parse().unwrap(), meta)
}

/// The dump of a definition that the decoder takes as well.
fn check(output: &Output) -> String {
    let definition = output.marshal().unwrap();
    if !output.is_scratch() {
        let graph = Graph::decode(definition.clone(), &CapSet::llb()).unwrap();
        assert_eq!(dump(&graph.output().marshal().unwrap()), dump(&definition), "a round trip changes nothing");
    }
    dump(&definition)
}

fn caps(output: &Output) -> String {
    let caps: std::collections::BTreeSet<_> =
        output.marshal().unwrap().metadata.into_values().flat_map(|m| m.caps.into_keys()).collect();
    caps.into_iter().collect::<Vec<_>>().join(" ")
}

fn exec(args: &[&str]) -> Exec {
    Exec {
        root: image(),
        args: args.iter().map(|a| (*a).to_owned()).collect(),
        cwd: "/".to_owned(),
        env: vec!["PATH=/bin".to_owned()],
        ..Exec::default()
    }
}

#[test]
fn scratch_is_the_empty_definition() {
    assert_eq!(check(&Output::scratch()), "=> scratch\n");
    assert!(Output::from_definition(pb::Definition::default()).unwrap().is_scratch());
    assert!(merge([Output::scratch(), Output::scratch()], Meta::default()).is_scratch());
}

#[test]
fn execs_sort_mounts_and_number_outputs() {
    let mount = |target: &str, kind| Mount { target: target.to_owned(), kind, ..Mount::default() };
    let outputs = Exec {
        mounts: vec![
            Mount { source: image(), selector: "/sub".to_owned(), ..mount("/z", MountKind::Bind) },
            Mount { source: image(), readonly: true, ..mount("/ro", MountKind::Bind) },
            mount("/cache", MountKind::Cache { id: "id".to_owned(), sharing: pb::CacheSharingOpt::Locked }),
            mount("/dev/shm", MountKind::Tmpfs { size: 64 }),
            Mount { source: image(), ..mount("/rw", MountKind::Discard) },
        ],
        secrets: vec![Secret {
            id: "s".to_owned(),
            target: Some("/run/s".to_owned()),
            env: Some("S".to_owned()),
            mode: 0o400,
            ..Secret::default()
        }],
        ssh: vec![Ssh { mode: 0o600, optional: true, ..Ssh::default() }],
        network: pb::NetMode::Host,
        security: pb::SecurityMode::Insecure,
        user: "me".to_owned(),
        ..exec(&["run"])
    }
    .outputs(Meta::named("run").on(&platform()))
    .unwrap();
    assert!(outputs.mounts[2].is_none() && outputs.mounts[3].is_none() && outputs.mounts[4].is_none());
    let both = merge([outputs.root.clone(), outputs.mounts[0].clone().unwrap()], Meta::default());
    insta::assert_snapshot!(check(&both), @r#"
    #0 source docker-image://docker.io/library/busybox:latest (linux/amd64)
       name "base"
    #1 exec ["run"] (linux/amd64)
       env ["PATH=/bin", "SSH_AUTH_SOCK=/run/buildkit/ssh_agent.0"] cwd /
       user me, network HOST, security INSECURE
       secret s as $S
       mount / bind #0 -> 0
       mount /cache cache scratch id=id locked
       mount /dev/shm tmpfs scratch size=64
       mount /ro bind #0 ro
       mount /rw bind #0
       mount /z bind #0[/sub] -> 1
       mount /run/s secret "s" 0:0 0400
       mount /run/buildkit/ssh_agent.0 ssh "" 0:0 0600 optional
       name "run"
    #2 merge #1 #1.1
    => #2
    "#);
    insta::assert_snapshot!(caps(&outputs.root), @"
    constraints exec.meta.base exec.meta.network exec.meta.security exec.meta.setsdefaultpath exec.mount.bind exec.mount.cache exec.mount.cache.sharing exec.mount.secret exec.mount.selector exec.mount.ssh exec.mount.tmpfs exec.mount.tmpfs.size exec.secretenv meta.description platform source.image
    ");
    assert_eq!(outputs.mounts[1].as_ref().unwrap().source(), image().source());
}

#[test]
fn execs_need_a_program_and_a_directory() {
    let no_args = Exec { args: vec![], ..exec(&[]) }.outputs(Meta::default()).unwrap_err();
    let no_cwd = Exec { cwd: String::new(), ..exec(&["x"]) }.outputs(Meta::default()).unwrap_err();
    insta::assert_snapshot!(format!("{no_args}\n{no_cwd}"), @"
    failed to marshal LLB definition: arguments are required (exec op)
    failed to marshal LLB definition: working directory is required (exec op)
    ");
}

#[test]
fn file_actions_follow_one_another() {
    let copy = Copy {
        source: image(),
        src: "/a".to_owned(),
        dest: "/b/".to_owned(),
        owner: Some(Owner::parse("me:7")),
        mode: Some(Chmod::Symbolic("u=rwX".to_owned())),
        exclude_patterns: vec!["*.o".to_owned()],
        ..Copy::default()
    };
    let actions = vec![
        Action::Mkdir(Mkdir { path: "/d".to_owned(), mode: 0o1755, make_parents: true, ..Mkdir::default() }),
        Action::Copy(Box::new(copy)),
        Action::Mkfile(Mkfile { path: "/f".to_owned(), mode: 0o644, data: b"x".to_vec(), ..Mkfile::default() }),
        Action::Symlink(Symlink { oldpath: "f".to_owned(), newpath: "/l".to_owned(), ..Symlink::default() }),
        Action::Rm(Rm { path: "/g*".to_owned(), allow_wildcard: true, ..Rm::default() }),
    ];
    let output = file(&image(), actions, Meta::default());
    insta::assert_snapshot!(check(&output), @r#"
    #0 source docker-image://docker.io/library/busybox:latest (linux/amd64)
       name "base"
    #1 file #0 mkdir /d 0755 parents
       file @0 copy #0[/a] /b/ owner=me@#0:7 mode=u=rwX exclude=["*.o"]
       file @1 mkfile /f 0644 "x"
       file @2 symlink /l -> f
       file @3 rm /g* wildcard
    => #1
    "#);
    insta::assert_snapshot!(caps(&output), @"
    constraints file.base file.copy.includeexcludepatterns file.rm.wildcard file.symlink.create meta.description platform source.image
    ");
}

#[test]
fn sources_carry_their_attributes() {
    let checksum = cooper_oci::Digest::of("x");
    let image = Image {
        resolve_mode: "pull".to_owned(),
        record_type: "internal".to_owned(),
        layer_limit: Some(1),
        checksum: Some(checksum.clone()),
    };
    let local = Local {
        session: Some("s1".to_owned()),
        exclude_patterns: vec!["*.log".to_owned()],
        follow_paths: vec!["a".to_owned(), "b\"&".to_owned()],
        shared_key_hint: "context".to_owned(),
        differ: Some("none".to_owned()),
        ..Local::default()
    };
    let http = Http {
        checksum: Some(checksum.clone()),
        filename: Some("f".to_owned()),
        perm: Some(0o644),
        uid: 1,
        ..Http::default()
    };
    let git = Git { reference: "v1".to_owned(), subdir: "d".to_owned(), keep_git_dir: true, ..Git::default() };
    let pinned: cooper_oci::ImageRef = format!("h.io/x@{checksum}").parse().unwrap();
    let layout = OciLayout { session: Some("s".to_owned()), store: Some("st".to_owned()), layer_limit: None };
    let meta = || Meta::default().on(&platform());
    let all = merge(
        [
            image.output(&"a/b:c".parse().unwrap(), meta()),
            local.output("ctx", meta()),
            http.output("https://h/f", meta()),
            git.output("git@h.io:a/b.git", meta()).unwrap(),
            layout.clone().output(&pinned, meta()),
            image_blob(&pinned, Some(layout), Some("bundle".to_owned()), None, meta()).unwrap(),
        ],
        Meta::default(),
    );
    insta::assert_snapshot!(check(&all), @r#"
    #0 source docker-image://docker.io/a/b:c (linux/amd64)
       image.checksum=sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881
       image.layerlimit=1
       image.recordtype=internal
       image.resolvemode=pull
    #1 source local://ctx
       local.differ=none
       local.excludepatterns=["*.log"]
       local.followpaths=["a","b\"\u0026"]
       local.session=s1
       local.sharedkeyhint=context
    #2 source https://h/f
       http.checksum=sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881
       http.filename=f
       http.perm=0644
       http.uid=1
    #3 source git://h.io/a/b.git#v1:d
       git.authheadersecret=GIT_AUTH_HEADER
       git.authtokensecret=GIT_AUTH_TOKEN
       git.fullurl=git@h.io:a/b.git
       git.keepgitdir=true
       git.mountsshsock=default
    #4 source oci-layout://h.io/x@sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881 (linux/amd64)
       oci.session=s
       oci.store=st
    #5 source oci-layout+blob://h.io/x@sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881
       http.filename=bundle
       oci.session=s
       oci.store=st
    #6 merge #0 #1 #2 #3 #4 #5
    => #6
    "#);
    insta::assert_snapshot!(caps(&all), @"
    constraints mergeop platform soruce.http.uidgid source.git source.git.fullurl source.git.keepgitdir source.git.knownsshhosts source.git.mountsshsock source.http source.http.checksum source.http.perm source.image source.image.checksum source.image.layerlimit source.image.resolvemode source.imageblob source.local source.local.excludepatterns source.local.followpaths source.local.sessionid source.local.sharedkeyhint source.ocilayout
    ");
}

#[test]
fn equal_ops_are_one_op_with_what_both_asked_for() {
    let a = file(&Output::scratch(), vec![Action::Rm(Rm::default())], Meta::named("a").ignoring_cache(true));
    let b = file(&Output::scratch(), vec![Action::Rm(Rm::default())], Meta::default().describe("k", "v"));
    insta::assert_snapshot!(check(&merge([a, b], Meta::default())), @r#"
    #0 file scratch rm 
       name "a"
       k "v"
       ignore cache
    #1 merge #0 #0
    => #1
    "#);
}

#[test]
fn a_deferred_source_is_filled_in_later() {
    let (context, deferred) = Output::deferred();
    let copy = Copy { source: context, src: "/".to_owned(), dest: "/".to_owned(), ..Copy::default() };
    let output = file(&Output::scratch(), vec![Action::Copy(Box::new(copy))], Meta::default());
    assert!(matches!(output.marshal(), Err(Error::Deferred)));
    deferred.set(Local { session: Some("s".to_owned()), ..Local::default() }.output("context", Meta::default()));
    insta::assert_snapshot!(check(&output), @"
    #0 source local://context
       local.session=s
    #1 file scratch copy #0[/] /
    => #1
    ");
}

#[test]
fn sources_of_ops_are_listed_once() {
    let map = |name: &str| {
        Arc::new(SourceMap { filename: name.to_owned(), language: "Dockerfile".to_owned(), ..SourceMap::default() })
    };
    let range = |line| {
        let at = Some(pb::Position { line, character: 0 });
        vec![pb::Range { start: at, end: at }]
    };
    let a = file(&image(), vec![Action::Rm(Rm::default())], Meta::default().at(&map("Dockerfile"), range(1)));
    let b = file(&a, vec![Action::Rm(Rm::default())], Meta::default().at(&map("Dockerfile"), range(2)));
    let c = file(&b, vec![Action::Rm(Rm::default())], Meta::default().at(&map("other"), range(3)));
    let definition = c.marshal().unwrap();
    assert_eq!(definition.source.unwrap().infos.len(), 2);
    insta::assert_snapshot!(check(&c), @r#"
    #0 source docker-image://docker.io/library/busybox:latest (linux/amd64)
       name "base"
    #1 file #0 rm 
       at Dockerfile:1
    #2 file #1 rm 
       at Dockerfile:2
    #3 file #2 rm 
       at other:3
    => #3
    "#);
}

#[test]
fn a_source_that_went_through_a_client_is_the_same_source() {
    let from = |definition: pb::Definition| {
        let (filename, data) = ("Dockerfile".to_owned(), b"FROM a".to_vec());
        let map = SourceMap { filename, data, definition: Some(definition), ..SourceMap::default() };
        Arc::new(map)
    };
    let place = image().marshal().unwrap();
    let mut retold = place.clone();
    retold.metadata.clear();
    let mut elsewhere = place.clone();
    elsewhere.def.pop();
    let infos = |second: pb::Definition| {
        let a = file(&image(), vec![Action::Rm(Rm::default())], Meta::default().at(&from(place.clone()), Vec::new()));
        let b = file(&a, vec![Action::Rm(Rm::default())], Meta::default().at(&from(second), Vec::new()));
        b.marshal().unwrap().source.unwrap().infos.len()
    };
    assert_eq!((infos(retold), infos(elsewhere)), (1, 2));
}

#[test]
fn diffs_groups_and_nested_builds() {
    let changed = exec(&["x"]).outputs(Meta::default().on(&platform())).unwrap().root;
    let delta = diff(&image(), &changed, Meta::default());
    assert_eq!(diff(&Output::scratch(), &changed, Meta::default()).digest().unwrap(), changed.digest().unwrap());
    let members = [(delta, true), (image(), false), (Output::scratch(), true), (changed, true)];
    let group = passthrough("group", members, Meta::default()).unwrap();
    assert_eq!(group.len(), 2);
    let nested = Build {
        builder: Some(group[1].clone()),
        inputs: [("in".to_owned(), image())].into(),
        filename: Some("llb.pb".to_owned()),
        definition: None,
    }
    .output(Meta::default().on(&platform()));
    insta::assert_snapshot!(check(&nested), @r#"
    #0 source docker-image://docker.io/library/busybox:latest (linux/amd64)
       name "base"
    #1 exec ["x"] (linux/amd64)
       env ["PATH=/bin"] cwd /
       mount / bind #0 -> 0
    #2 diff #0 #1
    #3 passthrough group #2 #0 #1 -> #2 #1
    #4 build #3.1 (linux/amd64)
       input in #0
       llbbuild.filename=llb.pb
    => #4
    "#);
}

#[test]
fn json_follows_the_tools() {
    let output = file(&image(), vec![Action::Rm(Rm { path: "/x".to_owned(), ..Rm::default() })], Meta::named("n"));
    let definition = output.marshal().unwrap();
    let entries = json::dump_llb(&definition).unwrap();
    insta::assert_snapshot!(entries[1]["Op"]["Op"].to_string(), @r#"{"file":{"actions":[{"rm":{"path":"/x"},"secondaryInput":-1}]}}"#);
    insta::assert_snapshot!(entries[1]["OpMetadata"].to_string(), @r#"{"caps":{"file.base":true},"description":{"llb.customname":"n"}}"#);
    let converted = json::definition(&definition).unwrap();
    let op = &converted["def"][definition.metadata.keys().next().unwrap()];
    assert!(op.is_object());
    assert!(converted["source"].is_object());
}

/// Clients encode the op of an error anew, with what kind of op it is behind all else, and look for the digest.
#[test]
fn the_kind_of_an_op_is_written_last() {
    use prost::encoding::{DecodeContext, decode_key, skip_field};
    let definition = exec(&["x"]).outputs(Meta::default()).unwrap().root.marshal().unwrap();
    let mut kinds = 0;
    for raw in &definition.def {
        let (mut rest, mut fields) = (raw.as_slice(), Vec::new());
        while !rest.is_empty() {
            let (field, wire) = decode_key(&mut rest).unwrap();
            skip_field(wire, field, &mut rest, DecodeContext::default()).unwrap();
            fields.push(field);
        }
        let kind = fields.iter().position(|field| (2..=8).contains(field));
        kinds += usize::from(kind.is_some());
        assert!(kind.is_none_or(|at| at + 1 == fields.len()), "{fields:?}");
    }
    assert!(kinds > 0);
}
