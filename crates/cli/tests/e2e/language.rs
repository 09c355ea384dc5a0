//! Dockerfile features whose effect needs the whole program.

use cooper_testkit::outcome;

use crate::{local, read, workshop};

/// Builds with flags, and reads `/out` of the result.
#[track_caller]
fn built(lines: &str, files: &[(&str, &str)], flags: &[&str]) -> String {
    let shop = workshop();
    let dockerfile = format!("{}{lines}", cooper_testkit::workshop::BUSYBOX);
    let context = shop.context(&[&[("Dockerfile", dockerfile.as_str())], files].concat());
    let mut build = shop.build(&context);
    outcome(build.args(flags).arg("-o").arg(local(&shop.path("out"))).current_dir(&context)).ok();
    read(shop.path("out/out"))
}

/// Lines, files of the context, flags, and what is in `/out` then.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str], &'a str);

#[test]
fn results_of_builds() {
    let cases: &[Case<'_>] = &[
        ("FROM base AS one\nRUN echo 1 > /out\nFROM base\nRUN echo 2 > /out\n", &[], &["--target", "one"], "1\n"),
        ("ARG A=no\nRUN echo $A $B > /out\n", &[], &["--build-arg", "A=yes", "--build-arg", "B=b"], "yes\n"),
        ("ENV P=/a\nWORKDIR $P\nWORKDIR b\nRUN pwd > /out\n", &[], &[], "/a/b\n"),
        ("SHELL [\"/bin/sh\", \"-ec\"]\nRUN false || echo e > /out\n", &[], &[], "e\n"),
        (
            "COPY . /c\nRUN cd /c && find . -type f | sort | tr '\\n' ' ' > /out\n",
            &[("a/x.md", ""), ("a/keep.md", ""), ("b", ""), (".dockerignore", "**/*.md\n!a/keep.md\n")],
            &[],
            "./.dockerignore ./Dockerfile ./a/keep.md ./b ./busybox ",
        ),
        ("COPY --chown=5:6 --chmod=640 f /f\nRUN stat -c '%u:%g %a' /f > /out\n", &[("f", "x")], &[], "5:6 640\n"),
        (
            "RUN --mount=type=secret,id=s cat /run/secrets/s > /out\n",
            &[("s.txt", "hush")],
            &["--secret", "id=s,src=s.txt"],
            "hush",
        ),
        (
            "RUN --mount=type=secret,id=s,env=S printf %s \"$S\" > /out\n",
            &[("s.txt", "hush")],
            &["--secret", "id=s,src=s.txt"],
            "hush",
        ),
        ("RUN --mount=type=bind,source=f,target=/m cat /m > /out\n", &[("f", "bound")], &[], "bound"),
        ("RUN --mount=type=tmpfs,target=/t stat -f -c %T /t > /out\n", &[], &[], "tmpfs\n"),
        ("RUN --mount=type=tmpfs,target=/a/../t/ stat -f -c %T /t > /out\n", &[], &[], "tmpfs\n"),
        ("RUN --network=none ls /sys/class/net > /out\n", &[], &[], "lo\n"),
        ("RUN hostname > /out\n", &[], &["--build-arg", "BUILDKIT_SANDBOX_HOSTNAME=cask"], "cask\n"),
        (
            "RUN grep -w there /etc/hosts | tr '\\t' ' ' > /out\n",
            &[],
            &["--add-host", "there:10.1.2.3"],
            "10.1.2.3 there\n",
        ),
        ("RUN ulimit -n > /out\n", &[], &["--ulimit", "nofile=123:456"], "123\n"),
        ("RUN echo $$ > /out\n", &[], &[], "1\n"),
        (
            "USER 12:34\nRUN echo $(id -u):$(id -g) > /tmp/../out || true\nUSER 0\nRUN echo back > /out\n",
            &[],
            &[],
            "back\n",
        ),
    ];
    for (lines, files, flags, expected) in cases {
        assert_eq!(&built(lines, files, flags), expected, "{lines}");
    }
}

#[test]
fn cache_mounts_last_and_stay_out_of_images() {
    let shop = workshop();
    let context = shop.dockerfile(
        "ARG N\nRUN --mount=type=cache,target=/c echo $N >> /c/log && cp /c/log /out && ls /c > /seen\nRUN ls / | grep -cx c > /left || true\n",
    );
    for (number, expected) in [("1", "1\n"), ("2", "1\n2\n")] {
        let mut build = shop.build(&context);
        outcome(build.args(["--build-arg", &format!("N={number}"), "-o"]).arg(local(&shop.path("out")))).ok();
        assert_eq!(read(shop.path("out/out")), expected);
        assert_eq!(read(shop.path("out/left")), "0\n", "the place of the mount is no part of the image");
    }
}

/// Neither a step that has a locked cache in two places waits for itself, nor do two steps that name the same caches in
/// opposite order wait for each other.
#[test]
fn locked_cache_mounts_make_no_circles() {
    let shop = workshop();
    let cache = |id: &str, at: &str| format!("--mount=type=cache,id={id},target={at},sharing=locked");
    let (x, y) = (|at| cache("x", at), |at| cache("y", at));
    let context = shop.dockerfile(&format!(
        "RUN {} {} touch /1/f && ls /2 > /seen\n\
         FROM base AS b\nRUN {} {} sleep 0.3 && echo b > /b\n\
         FROM base AS c\nRUN {} {} sleep 0.3 && echo c > /c\n\
         FROM base\nCOPY --from=b /b /\nCOPY --from=c /c /\nCOPY --from=base /seen /\n",
        x("/1"),
        x("/2"),
        x("/1"),
        y("/2"),
        y("/1"),
        x("/2"),
    ));
    outcome(shop.build(&context).arg("-o").arg(local(&shop.path("out")))).ok();
    assert_eq!(["b", "c", "seen"].map(|f| read(shop.path(&format!("out/{f}")))), ["b\n", "c\n", "f\n"]);
}

#[test]
fn secrets_are_neither_stored_nor_part_of_the_cache_key() {
    let shop = workshop();
    let context = shop.dockerfile("RUN --mount=type=secret,id=s wc -c < /run/secrets/s > /out\n");
    let secret = shop.path("secret");
    std::fs::write(&secret, "a-word-that-must-not-be-found").unwrap();
    let mut build = shop.build(&context);
    outcome(build.arg("--secret").arg(format!("id=s,src={}", secret.display()))).ok();
    std::fs::write(&secret, "another").unwrap();
    let mut build = shop.build(&context);
    build.arg("--secret").arg(format!("id=s,src={}", secret.display()));
    outcome(build.arg("-o").arg(local(&shop.path("out")))).ok();
    assert_eq!(read(shop.path("out/out")), "29\n", "the step was cached");
    let mut search = std::process::Command::new("grep");
    let found = outcome(search.args(["-r", "-l", "a-word-that-must-not-be-found"]).arg(shop.path("state")));
    assert_eq!(found.text(), "");
}
