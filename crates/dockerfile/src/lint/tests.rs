//! Files, what lint says of them, and what the repairs make of them.

use super::*;
use crate::lower::{ContextRequest, ImageMeta, ImageRequest, MetaResolver, NamedContext, Options, ResolveError, lower};
use crate::parser::parse;
use futures::executor::block_on;
use std::sync::Arc;

/// Every image exists and is empty.
struct AnyImage;

impl MetaResolver for AnyImage {
    async fn context(&self, _: ContextRequest) -> Result<NamedContext, ResolveError> {
        Err("there are no contexts".into())
    }

    async fn image(&self, request: ImageRequest) -> Result<ImageMeta, ResolveError> {
        let config = br#"{"os":"linux","architecture":"amd64","config":{"Env":["PATH=/bin"]}}"#;
        Ok(ImageMeta { reference: request.reference, digest: None, config: config.to_vec() })
    }
}

fn warnings(text: &str, argument: Option<&str>) -> (Linter, String) {
    let source = Arc::new(Source::new("Dockerfile", text));
    let parsed = parse(Arc::clone(&source));
    let mut linter = Linter::new(Config::of_file(text, argument).unwrap());
    linter.check_syntax(&parsed);
    let mut out = String::new();
    match parsed.into_result() {
        Ok(dockerfile) => {
            let platform = Some("linux/amd64".parse().unwrap());
            let options = Options { all_stages: true, target_platform: platform, ..Options::default() };
            match block_on(lower(&dockerfile, &options, &AnyImage)) {
                Ok(lowered) => lowered.findings.iter().for_each(|finding| linter.add(&dockerfile, finding)),
                Err(error) => out = format!("error: {error}\n"),
            }
        }
        Err(errors) => out = format!("error: {errors}\n"),
    }
    let mut list: Vec<&Warning> = linter.warnings().iter().collect();
    list.sort_by_key(|warning| warning.line());
    let list: String = list.iter().fold(String::new(), |mut list, warning| {
        let place = source.slice(warning.span);
        let fix = warning.fix.as_ref().map(|fix| format!(" => {}", fix.title)).unwrap_or_default();
        let _ = writeln!(list, "{} | {place}{fix}", warning.short());
        list
    });
    (linter, list + &out)
}

/// Dockerfile to warnings.
fn check(text: &str) -> String {
    warnings(text, None).1
}

/// Dockerfile to Dockerfile with every repair made.
fn fixed(text: &str) -> String {
    let linter = warnings(text, None).0;
    apply_fixes(text, linter.warnings().iter().filter_map(|warning| warning.fix.as_ref())).text
}

#[test]
fn names_and_cases() {
    let text =
        "FROM scratch AS BadName\nFrom scratch as base\nfrom scratch AS context\nFROM scratch AS base\ncopy a b\n";
    insta::assert_snapshot!(check(text), @r#"
    StageNameCasing: Stage name 'BadName' should be lowercase (line 1) | BadName => write badname
    ConsistentInstructionCasing: Command 'From' should match the case of the command majority (uppercase) (line 2) | From => write FROM
    FromAsCasing: 'AS' and 'from' keywords' casing do not match (line 3) | AS => write as
    ReservedStageName: Stage name should not use the same name as reserved stage "context" (line 3) | context
    ConsistentInstructionCasing: Command 'from' should match the case of the command majority (uppercase) (line 3) | from => write FROM
    DuplicateStageName: Duplicate stage name "base", stage names should be unique (line 4) | base
    ConsistentInstructionCasing: Command 'copy' should match the case of the command majority (uppercase) (line 5) | copy => write COPY
    "#);
    insta::assert_snapshot!(fixed(text), @"
    FROM scratch AS badname
    FROM scratch as base
    FROM scratch as context
    FROM scratch AS base
    COPY a b
    ");
    insta::assert_snapshot!(fixed("from a AS b\nrun x\nRUN y\n"), @"
    from a as b
    run x
    run y
    ");
}

#[test]
fn continuations() {
    let text = "FROM scratch\nCOPY a \\\n\n  \n  /b\nLABEL a=b\n";
    insta::assert_snapshot!(check(text), @"
    NoEmptyContinuation: Empty continuation line (line 5) | 
     => remove the empty lines
    ");
    insta::assert_snapshot!(fixed(text), @r"
    FROM scratch
    COPY a \
      /b
    LABEL a=b
    ");
}

#[test]
fn old_forms() {
    let text = r#"FROM scratch
MAINTAINER Me "$1" <me@x>
ENV a b
ENV c d  e
LABEL f "g h"
CMD top -b
ENTRYPOINT exec /bin/app --flag=x
SHELL ["sh"]
CMD a | b
"#;
    insta::assert_snapshot!(check(text), @r#"
    MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 2) | MAINTAINER => use a label
    LegacyKeyValueFormat: "ENV key=value" should be used instead of legacy "ENV key value" format (line 3) | a b => write key=value
    LegacyKeyValueFormat: "ENV key=value" should be used instead of legacy "ENV key value" format (line 4) | c d  e => write key=value
    LegacyKeyValueFormat: "LABEL key=value" should be used instead of legacy "LABEL key value" format (line 5) | f "g h"
    JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals (line 6) | top -b => write a JSON array
    MultipleInstructionsDisallowed: Multiple CMD instructions should not be used in the same stage because only the last one will be used (line 6) | CMD top -b => remove the instruction
    JSONArgsRecommended: JSON arguments recommended for ENTRYPOINT to prevent unintended behavior related to OS signals (line 7) | exec /bin/app --flag=x => write a JSON array
    "#);
    insta::assert_snapshot!(fixed(text), @r#"
    FROM scratch
    LABEL org.opencontainers.image.authors="Me \"\$1\" <me@x>"
    ENV a=b
    ENV c="d  e"
    LABEL f "g h"
    CMD ["top", "-b"]
    ENTRYPOINT ["/bin/app", "--flag=x"]
    SHELL ["sh"]
    CMD a | b
    "#);
    insta::assert_snapshot!(fixed("FROM scratch\nENTRYPOINT cd / && x\n"), @"
    FROM scratch
    ENTRYPOINT cd / && x
    ");
    insta::assert_snapshot!(fixed("FROM scratch\nCMD a\n# kept\nCMD b\\\n c\n\nHEALTHCHECK NONE\nHEALTHCHECK CMD x\n"), @r#"
    FROM scratch
    CMD ["a"]
    # kept
    CMD b\
     c

    HEALTHCHECK CMD x
    "#);
}

#[test]
fn variables_and_platforms() {
    let text = r"ARG BASE=alpine
FROM --platform=$TARGETPLATFORM alpine${BSAE} AS a
FROM --platform=linux/amd64 alpine
ARG NAME
ENV X=$NAM-${NAM:-y}-\$NAM SECRET_KEY=1
RUN --mount=type=cache,target=/$NAM echo $NAM
COPY <<EOF /x
$NAM
EOF
WORKDIR rel
EXPOSE 80/TCP 127.0.0.1:81:81/udp
";
    insta::assert_snapshot!(check(text), @r#"
    error: invalid mount target "/"
    "#);
    insta::assert_snapshot!(fixed(text), @r"
    ARG BASE=alpine
    FROM --platform=$TARGETPLATFORM alpine${BSAE} AS a
    FROM --platform=linux/amd64 alpine
    ARG NAME
    ENV X=$NAM-${NAM:-y}-\$NAM SECRET_KEY=1
    RUN --mount=type=cache,target=/$NAM echo $NAM
    COPY <<EOF /x
    $NAM
    EOF
    WORKDIR rel
    EXPOSE 80/TCP 127.0.0.1:81:81/udp
    ");
}

#[test]
fn descriptions() {
    let text = "# check=experimental=InvalidDefinitionDescription\n# bar this is the bar\nARG foo=bar\n# base ok\nFROM scratch AS base\n# bad\nARG a b\n# fine\n#\nARG c\n";
    insta::assert_snapshot!(check(text), @"
    InvalidDefinitionDescription: Comment for ARG should follow the format: `# foo <description>` (line 3) | # bar this is the bar
    InvalidDefinitionDescription: Comment for ARG should follow the format: `# <arg_key> <description>` (line 7) | # bad
    ");
    assert_eq!(check(&text[text.find('\n').unwrap() + 1..]), "");
}

#[test]
fn options() {
    let body = "FROM scratch as Base\n# check=skip=MaintainerDeprecated // known\nMAINTAINER x\n# check=skip=all\nENV a b\nENV password=x\n";
    insta::assert_snapshot!(check(body), @r#"
    StageNameCasing: Stage name 'Base' should be lowercase (line 1) | Base => write base
    FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 1) | as => write AS
    SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ENV "password") (line 6) | password
    "#);
    assert_eq!(check(&format!("# check=skip=all;error=true\n{body}")), "");
    insta::assert_snapshot!(check(&format!("# check=skip=StageNameCasing,SecretsUsedInArgOrEnv\n{body}")), @"
    FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 2) | as => write AS
    ");
    let (linter, _) = warnings(body, Some("skip=FromAsCasing;error=true"));
    assert_eq!(
        linter.error().unwrap().to_string(),
        "lint violation found for rules: StageNameCasing, SecretsUsedInArgOrEnv"
    );
    assert_eq!(warnings(body, None).0.error(), None);
}

#[test]
fn warnings_before_an_error() {
    insta::assert_snapshot!(check("FROM scratch AS BadStageName\nMAINTAINER me\nBADCMD\nMAINTAINER you\n"), @"
    StageNameCasing: Stage name 'BadStageName' should be lowercase (line 1) | BadStageName => write badstagename
    MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 2) | MAINTAINER => use a label
    error: dockerfile parse error on line 3: unknown instruction: BADCMD
    ");
    insta::assert_snapshot!(check("FROM scratch AS BadStageName\nENV a\n"), @"
    error: ENV must have two arguments
    ");
}

#[test]
fn rendering() {
    let linter = warnings("FROM scratch\nMAINTAINER me\n", None).0;
    let source = Source::new("Dockerfile", "FROM scratch\nMAINTAINER me\n");
    insta::assert_snapshot!(linter.warnings()[0].render(&source), @"

    WARNING: MaintainerDeprecated - https://docs.docker.com/go/dockerfile/rule/maintainer-deprecated/
    Maintainer instruction is deprecated in favor of using label
    Dockerfile:2
    --------------------
       1 |     FROM scratch
       2 | >>> MAINTAINER me
       3 |     
    --------------------
    ");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    /// Whatever is linted, repairs fit the text, and a repaired file that could be built still can.
    #[test]
    fn repairs_keep_files_readable(lines in proptest::collection::vec(proptest::sample::select(LINES), 0..12)) {
        let text = format!("FROM alpine as Base\n{}", lines.concat());
        let (linter, before) = warnings(&text, None);
        let done = apply_fixes(&text, linter.warnings().iter().filter_map(|warning| warning.fix.as_ref()));
        let after = warnings(&done.text, None).1;
        proptest::prop_assert!(before.contains("error:") || !after.contains("error:"), "{}\n{after}", done.text);
    }
}

const LINES: &[&str] = &[
    "MAINTAINER a \"b\" $c\n",
    "env a b\n",
    "ENV A b \\\n\n c\n",
    "Label x \"y z\"\n",
    "CMD a b\n",
    "CMD [\"x\"]\n",
    "ENTRYPOINT sh -c 'x'\n",
    "HEALTHCHECK CMD a\n",
    "HEALTHCHECK \\\n\n  NONE\n",
    "EXPOSE 1/TCP \\\n 2:2/Udp\n",
    "FROM --platform=$TARGETPLATFORM base AS X\n",
    "ARG PATHS=1\n",
    "WORKDIR $PATHZ/${PTH}\n",
    "RUN --mount=target=/$PTH echo $PTH\n",
    "COPY <<E $PTH/\n$PTH\nE\n",
    "# check=skip=all\n",
    "# c\n",
];
