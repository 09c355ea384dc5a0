//! The rules of lint: each with a file that breaks it.

use super::{options, warnings};
use cooper_dockerfile::lint::{RULES, judge};
use cooper_dockerfile::{Source, lint};
use std::collections::BTreeSet;
use std::sync::Arc;

const FILES: &[&str] = &[
    "FROM scratch AS Build\n",
    "FROM scratch as build\n",
    "FROM scratch\nENV A=1 \\\n\n B=2\n",
    "from scratch\nENV A=1\nenv B=2\n",
    "FROM scratch AS a\nFROM scratch AS a\n",
    "FROM scratch AS context\n",
    "FROM scratch\nCMD a b\n",
    "FROM scratch\nMAINTAINER me\n",
    "FROM a:${TAGG:-1}\n",
    "FROM scratch\nWORKDIR a\n",
    "FROM scratch\nENV A=$NOPE B=${PAHT}\n",
    "FROM scratch\nCMD [\"a\"]\nCMD [\"b\"]\n",
    "FROM scratch\nENV A 1\nLABEL b c\n",
    "FROM --platform=$TARGETPLATFORM a\n",
    "FROM scratch\nARG PASSWORD\nENV API_KEY=1 PUBLIC_KEY=2 KEY_FILE=3\n",
    "ARG A\nFROM a:$A\n",
    "FROM --platform=linux/amd64 a\n",
    "# check=experimental=all\n# nope desc\nFROM scratch AS x\n",
    "FROM scratch\nEXPOSE 80/TCP\n",
    "FROM scratch\nEXPOSE 127.0.0.1:80:80\n",
];

#[test]
fn rules() {
    let told = |file: &&str| warnings(file).lines().map(|line| format!("  {line}\n")).collect::<String>();
    let all: String = FILES.iter().map(|file| format!("{}\n{}", super::shown(file), told(file))).collect();
    insta::assert_snapshot!(all, @r#"
        FROM scratch AS Build\n
          StageNameCasing: Stage name 'Build' should be lowercase (line 1)
        FROM scratch as build\n
          FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 1)
        FROM scratch\nENV A=1 \\n\n B=2\n
          NoEmptyContinuation: Empty continuation line (line 4)
        from scratch\nENV A=1\nenv B=2\n
          ConsistentInstructionCasing: Command 'ENV' should match the case of the command majority (lowercase) (line 2)
        FROM scratch AS a\nFROM scratch AS a\n
          DuplicateStageName: Duplicate stage name "a", stage names should be unique (line 2)
        FROM scratch AS context\n
          ReservedStageName: Stage name should not use the same name as reserved stage "context" (line 1)
        FROM scratch\nCMD a b\n
          JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals (line 2)
        FROM scratch\nMAINTAINER me\n
          MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 2)
        FROM a:${TAGG:-1}\n
          UndefinedArgInFrom: FROM argument 'TAGG' is not declared (line 1)
        FROM scratch\nWORKDIR a\n
          WorkdirRelativePath: Relative workdir "a" can have unexpected results if the base image changes (line 2)
        FROM scratch\nENV A=$NOPE B=${PAHT}\n
          UndefinedVar: Usage of undefined variable '$NOPE' (line 2)
          UndefinedVar: Usage of undefined variable '$PAHT' (did you mean $PATH?) (line 2)
        FROM scratch\nCMD ["a"]\nCMD ["b"]\n
          MultipleInstructionsDisallowed: Multiple CMD instructions should not be used in the same stage because only the last one will be used (line 2)
        FROM scratch\nENV A 1\nLABEL b c\n
          LegacyKeyValueFormat: "ENV key=value" should be used instead of legacy "ENV key value" format (line 2)
          LegacyKeyValueFormat: "LABEL key=value" should be used instead of legacy "LABEL key value" format (line 3)
        FROM --platform=$TARGETPLATFORM a\n
          RedundantTargetPlatform: Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior (line 1)
        FROM scratch\nARG PASSWORD\nENV API_KEY=1 PUBLIC_KEY=2 KEY_FILE=3\n
          SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ARG "PASSWORD") (line 2)
          SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ENV "API_KEY") (line 3)
        ARG A\nFROM a:$A\n
          InvalidDefaultArgInFrom: Default value for ARG a:$A results in empty or invalid base image name (line 2)
          error: failed to parse stage name "a:": invalid reference format: "a:": invalid tag ""
        FROM --platform=linux/amd64 a\n
          FromPlatformFlagConstDisallowed: FROM --platform flag should not use constant value "linux/amd64" (line 1)
        # check=experimental=all\n# nope desc\nFROM scratch AS x\n
          InvalidDefinitionDescription: Comment for FROM should follow the format: `# x <description>` (line 3)
        FROM scratch\nEXPOSE 80/TCP\n
          ExposeProtoCasing: Defined protocol '80/TCP' in EXPOSE instruction should be lowercase (line 2)
        FROM scratch\nEXPOSE 127.0.0.1:80:80\n
          ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, found '127.0.0.1:80:80' (line 2)
    "#);
}

/// These need to know about base images and ignore files; lowering's own tests have them.
const NOT_ALONE: [&str; 2] = ["InvalidBaseImagePlatform", "CopyIgnoredFile"];

#[test]
fn every_rule_has_a_file() {
    let found: BTreeSet<&str> = FILES
        .iter()
        .flat_map(|text| {
            let verdict =
                judge(&Arc::new(Source::new("Dockerfile", *text)), &options()).expect("the options make sense");
            verdict.warnings.into_iter().map(|warning| warning.rule.name).collect::<Vec<_>>()
        })
        .chain(NOT_ALONE)
        .collect();
    assert_eq!(found, RULES.iter().map(|rule| rule.name).collect());
    assert_eq!(RULES.len(), 22);
}

#[test]
fn repairs() {
    let repaired = |text: &&str| {
        let verdict = judge(&Arc::new(Source::new("Dockerfile", *text)), &options()).expect("the options make sense");
        let fixed = lint::apply_fixes(text, verdict.warnings.iter().filter_map(|warning| warning.fix.as_ref()));
        format!("{} => {}\n", super::shown(text), super::shown(&fixed.text))
    };
    insta::assert_snapshot!(FILES.iter().map(repaired).collect::<String>(), @r#"
        FROM scratch AS Build\n => FROM scratch AS build\n
        FROM scratch as build\n => FROM scratch AS build\n
        FROM scratch\nENV A=1 \\n\n B=2\n => FROM scratch\nENV A=1 \\n B=2\n
        from scratch\nENV A=1\nenv B=2\n => from scratch\nenv A=1\nenv B=2\n
        FROM scratch AS a\nFROM scratch AS a\n => FROM scratch AS a\nFROM scratch AS a\n
        FROM scratch AS context\n => FROM scratch AS context\n
        FROM scratch\nCMD a b\n => FROM scratch\nCMD ["a", "b"]\n
        FROM scratch\nMAINTAINER me\n => FROM scratch\nLABEL org.opencontainers.image.authors="me"\n
        FROM a:${TAGG:-1}\n => FROM a:${TAGG:-1}\n
        FROM scratch\nWORKDIR a\n => FROM scratch\nWORKDIR a\n
        FROM scratch\nENV A=$NOPE B=${PAHT}\n => FROM scratch\nENV A=$NOPE B=${PATH}\n
        FROM scratch\nCMD ["a"]\nCMD ["b"]\n => FROM scratch\nCMD ["b"]\n
        FROM scratch\nENV A 1\nLABEL b c\n => FROM scratch\nENV A=1\nLABEL b=c\n
        FROM --platform=$TARGETPLATFORM a\n => FROM a\n
        FROM scratch\nARG PASSWORD\nENV API_KEY=1 PUBLIC_KEY=2 KEY_FILE=3\n => FROM scratch\nARG PASSWORD\nENV API_KEY=1 PUBLIC_KEY=2 KEY_FILE=3\n
        ARG A\nFROM a:$A\n => ARG A\nFROM a:$A\n
        FROM --platform=linux/amd64 a\n => FROM --platform=linux/amd64 a\n
        # check=experimental=all\n# nope desc\nFROM scratch AS x\n => # check=experimental=all\n# nope desc\nFROM scratch AS x\n
        FROM scratch\nEXPOSE 80/TCP\n => FROM scratch\nEXPOSE 80/tcp\n
        FROM scratch\nEXPOSE 127.0.0.1:80:80\n => FROM scratch\nEXPOSE 80\n
    "#);
}

/// Triggers belong to what is built on a stage: they are judged where the target has them.
#[test]
fn triggers_are_judged_in_the_target_only() {
    const BASE: &str = "FROM scratch AS base\nONBUILD ENV A=$NOPE\nFROM base AS child\n";
    let other = format!("{BASE}FROM scratch\n");
    insta::assert_snapshot!(super::warnings(BASE), @"UndefinedVar: Usage of undefined variable '$NOPE' (line 3)");
    insta::assert_snapshot!(super::warnings(&other), @"");
}
