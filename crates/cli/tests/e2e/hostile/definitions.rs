//! Graphs that cannot be built, or that reach for what is not theirs.

use cooper_llb::OpDigest;
use cooper_testkit::image;
use cooper_wire::pb::{self, file_action::Action, op::Op};
use prost::Message as _;

use super::Site;

fn raw(inputs: &[(&str, i64)], op: Option<Op>) -> Vec<u8> {
    let inputs = inputs.iter().map(|(digest, index)| pb::Input { digest: (*digest).to_owned(), index: *index });
    pb::Op { inputs: inputs.collect(), op, ..pb::Op::default() }.encode_to_vec()
}

fn digest(raw: &[u8]) -> String {
    OpDigest::of(raw).to_string()
}

/// The ops, and one that asks for the first output of the last of them.
fn of(mut ops: Vec<Vec<u8>>) -> pb::Definition {
    let root = raw(&[(&digest(ops.last().expect("an op")), 0)], None);
    ops.push(root);
    pb::Definition { def: ops, ..pb::Definition::default() }
}

fn source(identifier: &str) -> pb::Definition {
    of(vec![raw(&[], Some(Op::Source(pb::SourceOp { identifier: identifier.into(), ..pb::SourceOp::default() })))])
}

fn files(actions: Vec<Action>) -> pb::Definition {
    let count = actions.len() as i64;
    let actions = actions.into_iter().zip(0..).map(|(action, i)| pb::FileAction {
        input: i - 1,
        secondary_input: -1,
        output: if i + 1 == count { 0 } else { -1 },
        action: Some(action),
    });
    of(vec![raw(&[], Some(Op::File(pb::FileOp { actions: actions.collect() })))])
}

fn mkdir(path: &str) -> Action {
    Action::Mkdir(pb::FileActionMkDir { path: path.into(), mode: 0o755, timestamp: -1, ..Default::default() })
}

fn mkfile(path: &str) -> pb::FileActionMkFile {
    pb::FileActionMkFile { path: path.into(), mode: 0o644, timestamp: -1, ..Default::default() }
}

fn copy(src: &str, dest: &str) -> Action {
    Action::Copy(pb::FileActionCopy {
        src: src.into(),
        dest: dest.into(),
        timestamp: -1,
        mode: -1,
        ..Default::default()
    })
}

/// A step on a root that holds a static busybox, changed by `spoil`.
fn step(spoil: impl FnOnce(&mut pb::ExecOp)) -> pb::Definition {
    let data = std::fs::read(image::busybox_binary()).expect("busybox");
    let file = Action::Mkfile(pb::FileActionMkFile { mode: 0o755, data, ..mkfile("/busybox") });
    let action = pb::FileAction { input: -1, secondary_input: -1, output: 0, action: Some(file) };
    let base = raw(&[], Some(Op::File(pb::FileOp { actions: vec![action] })));
    let words = ["/busybox", "true"].map(str::to_owned).to_vec();
    let mut exec = pb::ExecOp {
        meta: Some(pb::Meta { args: words, cwd: "/".into(), ..pb::Meta::default() }),
        mounts: vec![pb::Mount { dest: "/".into(), ..pb::Mount::default() }],
        ..pb::ExecOp::default()
    };
    spoil(&mut exec);
    let exec = raw(&[(&digest(&base), 0)], Some(Op::Exec(exec)));
    of(vec![base, exec])
}

fn meta(spoil: impl FnOnce(&mut pb::Meta)) -> pb::Definition {
    step(|exec| spoil(exec.meta.as_mut().expect("meta")))
}

fn mount(mount: pb::Mount) -> pb::Definition {
    step(|exec| exec.mounts.push(pb::Mount { input: -1, output: -1, ..mount }))
}

/// Graphs, and a part of what is said about them.
fn cases() -> Vec<(&'static str, pb::Definition, &'static str)> {
    let scratch = || raw(&[], Some(Op::Source(pb::SourceOp { identifier: "local://x".into(), ..Default::default() })));
    let known = scratch();
    let wanting = |input: &str, index: i64| of(vec![scratch(), raw(&[(input, index)], Some(merge(2)))]);
    let with_caps = |cap: &str| {
        let mut definition = source("local://x");
        let caps = [(cap.to_owned(), true)].into();
        let digest = digest(&definition.def[0]);
        definition.metadata.insert(digest, pb::OpMetadata { caps, ..pb::OpMetadata::default() });
        definition
    };
    let mut misplaced = source("local://x");
    let location = pb::Location { source_index: 7, ranges: Vec::new() };
    let locations = [(digest(&misplaced.def[0]), pb::Locations { locations: vec![location] })].into();
    misplaced.source = Some(pb::Source { locations, infos: Vec::new() });
    vec![
        ("noise", pb::Definition { def: vec![vec![0xff; 40]], ..Default::default() }, "failed to parse llb"),
        ("half an op", of(vec![known[..known.len() - 1].to_vec()]), "failed to parse llb"),
        ("no root", pb::Definition { def: vec![scratch()], ..Default::default() }, "no inputs on last vertex"),
        ("nothing known", of(vec![raw(&[], None)]), "unknown kind"),
        ("missing vertex", wanting(&digest(b"gone"), 0), "missing input digest"),
        ("wrong digest", wanting("sha256:zz", 0), "missing input digest"),
        ("empty digest", wanting("", 0), "missing input digest"),
        ("output too high", wanting(&digest(&known), 5), "has no output 5"),
        ("output below zero", wanting(&digest(&known), -1), "out of range"),
        ("output at the end", wanting(&digest(&known), i64::MAX), "out of range"),
        ("unknown capability", with_caps("exec.teleport"), "requested capability exec.teleport"),
        ("misplaced source", misplaced, "failed to find source map"),
        // Sources
        ("no scheme", source("nothing"), "nothing"),
        ("unknown scheme", source("nosuch://x"), "nosuch"),
        ("no image", source("docker-image://"), ""),
        ("image by a wrong digest", source("docker-image://a@sha256:zz"), ""),
        ("a directory without a session", source("local://context"), "no active session"),
        ("a layout without a session", source("oci-layout://a/b@sha256:00"), ""),
        ("git with options", source("git://-oProxyCommand=touch /tmp/cooper-escaped/x"), ""),
        ("git file", source("git:///etc"), ""),
        ("nobody listens", source("http://127.0.0.1:1/x"), "Connection refused"),
        // Files
        ("mkdir outside", files(vec![mkdir("../../../cooper-escaped")]), ""),
        ("mkdir zero", files(vec![mkdir("/a\0b")]), ""),
        ("mkdir deep", files(vec![mkdir(&"/a".repeat(3000))]), ""),
        ("mkdir long", files(vec![mkdir(&format!("/{}", "a".repeat(300)))]), "too long"),
        ("file on root", files(vec![Action::Mkfile(mkfile("/"))]), ""),
        ("copy outside", files(vec![mkdir("/a"), copy("../../../../etc/passwd", "/a/")]), "no such file"),
        ("copy pattern", files(vec![mkdir("/a"), copy("[", "/a/")]), ""),
        ("copy nothing", files(vec![copy("", "")]), ""),
        (
            "odd times",
            files(vec![Action::Mkfile(pb::FileActionMkFile { timestamp: i64::MIN, mode: i32::MIN, ..mkfile("/f") })]),
            "",
        ),
        (
            "odd owner",
            files(vec![Action::Mkfile(pb::FileActionMkFile {
                owner: Some(named_owner("nobody-here")),
                ..mkfile("/f")
            })]),
            "invalid user index: -1",
        ),
        // Steps
        ("zero in arguments", meta(|m| m.args.push("a\0b".into())), ""),
        ("zero in the environment", meta(|m| m.env.push("A=a\0b".into())), ""),
        ("a variable without a name", meta(|m| m.env.extend([String::new(), "=".into(), "x".into()])), ""),
        ("a relative directory", meta(|m| m.cwd = "x/../../..".into()), ""),
        ("an unknown user", meta(|m| m.user = "nobody-here:9999999999".into()), ""),
        ("a long host name", meta(|m| m.hostname = "h".repeat(300)), ""),
        ("a group outside", meta(|m| m.cgroup_parent = "/../../../../etc".into()), ""),
        ("an unknown limit", meta(|m| m.ulimit.push(pb::Ulimit { name: "x".into(), soft: 1, hard: 1 })), ""),
        ("a limit upside down", meta(|m| m.ulimit.push(pb::Ulimit { name: "nofile".into(), soft: 9, hard: 1 })), ""),
        ("an odd host", meta(|m| m.extra_hosts.push(pb::HostIp { host: "a b\nc".into(), ip: "x".into() })), ""),
        ("too many arguments", meta(|m| m.args.push("a".repeat(3 << 20))), ""),
        ("an unknown network", step(|exec| exec.network = 77), "network mode 77"),
        ("an unknown security", step(|exec| exec.security = 77), "security mode 77"),
        ("no right to be insecure", step(|exec| exec.security = 1), "security.insecure is not allowed"),
        ("no right to the host", step(|exec| exec.network = 1), "network.host is not allowed"),
        ("an unknown mount", mount(pb::Mount { mount_type: 77, dest: "/m".into(), ..Default::default() }), "type 77"),
        ("a mount outside", mount(pb::Mount { dest: "../../etc".into(), ..Default::default() }), ""),
        (
            "a mount of outside",
            mount(pb::Mount { dest: "/m".into(), selector: "../../etc".into(), ..Default::default() }),
            "",
        ),
        (
            "less than no memory",
            mount(pb::Mount {
                dest: "/m".into(),
                mount_type: pb::MountType::Tmpfs as i32,
                tmpfs_opt: Some(pb::TmpfsOpt { size: i64::MIN }),
                ..Default::default()
            }),
            "",
        ),
        (
            "a cache outside",
            mount(pb::Mount {
                dest: "/m".into(),
                mount_type: pb::MountType::Cache as i32,
                cache_opt: Some(pb::CacheOpt { id: "../../../cooper-escaped".into(), sharing: 77 }),
                ..Default::default()
            }),
            "",
        ),
        (
            "a secret of nobody",
            mount(pb::Mount {
                dest: "/m".into(),
                mount_type: pb::MountType::Secret as i32,
                secret_opt: Some(pb::SecretOpt { id: "s".into(), ..Default::default() }),
                ..Default::default()
            }),
            "",
        ),
        (
            "an agent of nobody",
            mount(pb::Mount {
                dest: "/m".into(),
                mount_type: pb::MountType::Ssh as i32,
                ssh_opt: Some(pb::SshOpt { id: "s".into(), ..Default::default() }),
                ..Default::default()
            }),
            "",
        ),
        ("a result of nobody", mount(pb::Mount { dest: "/m".into(), result_id: "x".into(), ..Default::default() }), ""),
    ]
}

fn merge(inputs: i64) -> Op {
    // The same input each time.
    Op::Merge(pb::MergeOp { inputs: (0..inputs).map(|_| pb::MergeInput { input: 0 }).collect() })
}

fn named_owner(name: &str) -> pb::ChownOpt {
    let named = pb::NamedUserOpt { name: name.into(), input: -1 };
    let user = Some(pb::UserOpt { user: Some(pb::user_opt::User::ByName(named)) });
    pb::ChownOpt { user: user.clone(), group: user }
}

/// Cases that come to a good end, since nothing that they ask for is dangerous.
const HARMLESS: &[&str] = &[
    "mkdir outside",
    "copy nothing",
    "odd times",
    "a variable without a name",
    "a group outside",
    "a mount outside",
    "less than no memory",
    "a cache outside",
    "a result of nobody",
];

#[tokio::test(flavor = "multi_thread")]
async fn definitions() {
    let site = Site::new();
    site.survives(async |site: &Site| {
        let mut built = Vec::new();
        for (name, definition, expected) in cases() {
            let request = cooper_wire::control::SolveRequest { definition: Some(definition), ..site.request() };
            match site.solve(request).await {
                Ok(()) => built.push(name),
                Err(status) => {
                    let said = status.message();
                    assert!(said.contains(expected), "{name}: {said}");
                    assert!(status.code() != tonic::Code::Internal, "{name}: {status:?}");
                }
            }
        }
        assert_eq!(built, HARMLESS);
    })
    .await;
    assert!(!std::path::Path::new("/cooper-escaped").exists() && !std::path::Path::new("/tmp/cooper-escaped").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn gigantic_messages() {
    let site = Site::new();
    site.survives(async |site: &Site| {
        for definition in [
            // More than a message may have.
            pb::Definition { def: vec![vec![0; 20 << 20]], ..Default::default() },
            // As much as it may have.
            pb::Definition { def: vec![vec![8; 15 << 20]], ..Default::default() },
            pb::Definition { def: vec![Vec::new(); 200_000], ..Default::default() },
        ] {
            let request = cooper_wire::control::SolveRequest { definition: Some(definition), ..site.request() };
            let refused = site.solve(request).await.expect_err("refused");
            assert!([tonic::Code::OutOfRange, tonic::Code::InvalidArgument].contains(&refused.code()), "{refused:?}");
        }
    })
    .await;
}
