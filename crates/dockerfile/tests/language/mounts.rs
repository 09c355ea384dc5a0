//! `RUN`: forms, mounts, network, devices.

use super::{graph, table};

#[test]
fn mounts_that_are_refused() {
    insta::assert_snapshot!(table(&[
        "RUN --mount true",
        "RUN --mount= true",
        "RUN --mount=target=/ ls",
        "RUN --mount=target=/a/.. ls",
        "RUN --mount=type=foo,target=/m true",
        "RUN --mount=type=cach,target=/m true",
        "RUN --mount=from=$X,target=/m true",
        "RUN --mount=type=cache true",
        "RUN --mount=type=cache,target=/c,sharing=lockd true",
        "RUN --mount=type=cache,target=/c,mode=9 true",
        "RUN --mount=type=cache,target=/c,uid=a true",
        "RUN --mount=type=tmpfs,target=/t,size=x true",
        "RUN --mount=type=tmpfs,target=/t,mode=1 true",
        "RUN --mount=type=bind,target=/t,uid=1 true",
        "RUN --mount=type=bind,target=/t,sharing=shared true",
        "RUN --mount=type=bind,target=/t,required true",
        "RUN --mount=type=bind,target=/t,size=1 true",
        "RUN --mount=type=bind,targt=/t true",
        "RUN --mount=type=bind,target=/t,ro=x true",
        "RUN --mount=type=bind,target true",
        "RUN --mount=type=bind,target=/t\" ls",
        "RUN --mount=type=secret true",
        "RUN --mount=type=secret,id=s,source=t true",
        "RUN --mount=type=secret,id=s,sharing=shared true",
        "RUN --mount=type=secret,id=s,required=maybe true",
        "RUN --mount=type=ssh,sharing=private true",
    ]), @r#"
        RUN --mount true => error: dockerfile parse error on line 2: missing a value on flag: --mount
        RUN --mount= true => error: dockerfile parse error on line 2: failed to parse csv mounts: EOF
        RUN --mount=target=/ ls => error: invalid mount target "/"
        RUN --mount=target=/a/.. ls => error: invalid mount target "/a/.."
        RUN --mount=type=foo,target=/m true => error: unsupported mount type "foo"
        RUN --mount=type=cach,target=/m true => error: unsupported mount type "cach" (did you mean cache?)
        RUN --mount=from=$X,target=/m true => error: dockerfile parse error on line 2: 'from' doesn't support variable expansion, define alias stage instead
        RUN --mount=type=cache true => error: invalid mount target "/"
        RUN --mount=type=cache,target=/c,sharing=lockd true => error: unsupported sharing value "lockd" (did you mean locked?)
        RUN --mount=type=cache,target=/c,mode=9 true => error: invalid value 9 for mode
        RUN --mount=type=cache,target=/c,uid=a true => error: invalid value a for uid
        RUN --mount=type=tmpfs,target=/t,size=x true => error: invalid value for size: x
        RUN --mount=type=tmpfs,target=/t,mode=1 true => error: mode not allowed for "tmpfs" type mounts
        RUN --mount=type=bind,target=/t,uid=1 true => error: uid not allowed for "bind" type mounts
        RUN --mount=type=bind,target=/t,sharing=shared true => error: invalid cache sharing set for bind mount
        RUN --mount=type=bind,target=/t,required true => error: unexpected key 'required' for mount type 'bind'
        RUN --mount=type=bind,target=/t,size=1 true => error: unexpected key 'size' for mount type 'bind'
        RUN --mount=type=bind,targt=/t true => error: unexpected key 'targt' in 'targt=/t' (did you mean target?)
        RUN --mount=type=bind,target=/t,ro=x true => error: invalid value for ro: x
        RUN --mount=type=bind,target true => error: invalid field 'target' must be a key=value pair
        RUN --mount=type=bind,target=/t" ls => {} RUN /bin/sh -c  # buildkit
        RUN --mount=type=secret true => error: invalid secret mount. one of source, target required
        RUN --mount=type=secret,id=s,source=t true => error: both source and id can't be set
        RUN --mount=type=secret,id=s,sharing=shared true => error: secret mount should not define sharing
        RUN --mount=type=secret,id=s,required=maybe true => error: invalid value for required: maybe
        RUN --mount=type=ssh,sharing=private true => error: invalid cache sharing set for ssh mount
    "#);
}

#[test]
fn mounts_in_the_graph() {
    insta::assert_snapshot!(graph(
        "ARG D=/data\nWORKDIR /w\nRUN --mount=target=rel \
         --mount=type=bind,from=alpine,source=/etc,target=$D,rw \
         --mount=type=cache,target=/c,id=n,sharing=locked,mode=0777,uid=5,gid=6 \
         --mount=type=cache,target=/seed,from=alpine,source=/lib \
         --mount=type=tmpfs,target=/t,size=1m \
         --mount=type=secret,id=s,env=S,required \
         --mount=type=secret,target=/k/b.key,mode=0444,uid=7,gid=8 \
         --mount=type=ssh --mount=type=ssh,id=x,target=/a.sock \
         --network=none --security=insecure --device=vendor.com/class=dev,required echo $S $D"
    ), @r#"
        #0 file scratch mkdir /w 0755 parents
           name "[stage-0 1/2] WORKDIR /w"
           at Dockerfile:3
        #1 file scratch mkdir /cache 0777 owner=5:6
           name "[internal] setting cache mount permissions"
        #2 source docker-image://docker.io/library/alpine:latest (linux/amd64)
           name "FROM docker.io/library/alpine:latest"
           command ""
           at Dockerfile:4
        #3 source local://context
           local.sharedkeyhint=context
           local.unique=
           name "[internal] load build context"
        #4 exec ["/bin/sh", "-c", "echo $S $D"] (linux/amd64)
           env ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "D=/data", "SSH_AUTH_SOCK=/run/buildkit/ssh_agent.0"] cwd /w
           network NONE, security INSECURE, device vendor.com/class=dev
           secret s as $S
           mount / bind #0 -> 0
           mount /c cache #1[/cache] id=/n locked
           mount /data bind #2[/etc]
           mount /seed cache #2[/lib] id=//seed shared
           mount /t tmpfs scratch size=1048576
           mount /w/rel bind #3 ro
           mount /k/b.key secret "b.key" 7:8 0444 optional
           mount /run/buildkit/ssh_agent.0 ssh "" 0:0 0600 optional
           mount /a.sock ssh "x" 0:0 0600 optional
           name "[stage-0 2/2] RUN --mount=target=rel --mount=type=bind,from=alpine,source=/etc,target=/data,rw --mount=type=cache,target=/c,id=n,sharing=locked,mode=0777,uid=5,gid=6 --mount=type=cache,target=/seed,from=alpine,source=/lib --mount=type=tmpfs,target=/t,size=1m --mount=type=secret,id=s,env=S,required --mount=type=secret,target=/k/b.key,mode=0444,uid=7,gid=8 --mount=type=ssh --mount=type=ssh,id=x,target=/a.sock --network=none --security=insecure --device=vendor.com/class=dev,required echo **** /data"
           command "RUN --mount=target=rel --mount=type=bind,from=alpine,source=/etc,target=$D,rw --mount=type=cache,target=/c,id=n,sharing=locked,mode=0777,uid=5,gid=6 --mount=type=cache,target=/seed,from=alpine,source=/lib --mount=type=tmpfs,target=/t,size=1m --mount=type=secret,id=s,env=S,required --mount=type=secret,target=/k/b.key,mode=0444,uid=7,gid=8 --mount=type=ssh --mount=type=ssh,id=x,target=/a.sock --network=none --security=insecure --device=vendor.com/class=dev,required echo $S $D"
           at Dockerfile:4
        => #4
    "#);
}

#[test]
fn absolute_targets_stay_as_they_are_written() {
    let targets = |lines: &str| {
        let graph = graph(lines);
        let of_mounts = |line: &&str| line.trim_start().starts_with("mount ");
        graph.lines().filter(of_mounts).map(|line| format!("{}\n", line.trim_start())).collect::<String>()
    };
    insta::assert_snapshot!(targets(
        "WORKDIR /w\nRUN --mount=type=cache,target=/c/ --mount=target=./r/ --mount=type=tmpfs,target=/a/../t true"
    ), @r#"
        mount / bind #0 -> 0
        mount /a/../t tmpfs scratch
        mount /c/ cache scratch id=//c shared
        mount /w/r bind #1 ro
    "#);
}
