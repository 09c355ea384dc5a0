//! Answers as clients see them.

use super::*;
use crate::Source;
use crate::lint::{Config, Linter};
use crate::lower::{Outline, OutlineArg, OutlineCache, OutlineSecret};
use crate::parser::parse;
use std::sync::Arc;

fn source() -> Arc<Source> {
    let text = "# build compiles\nFROM --platform=$BUILDPLATFORM alpine AS build\nMAINTAINER me\nFROM scratch\n";
    Arc::new(Source::new("Dockerfile", text))
}

#[test]
fn requests() {
    let answer = describe();
    insta::assert_snapshot!(answer.text, @"
    NAME                 VERSION DESCRIPTION
    outline              1.0.0   List all parameters current build target supports
    targets              1.0.0   List all targets current build supports
    subrequests.describe 1.0.0   List available subrequest types
    ");
    insta::assert_snapshot!(answer.json.lines().take(22).collect::<Vec<_>>().join("\n"), @r#"
    [
      {
        "name": "frontend.outline",
        "version": "1.0.0",
        "type": "rpc",
        "description": "List all parameters current build target supports",
        "opts": [
          {
            "name": "target",
            "description": "Target build stage"
          }
        ],
        "inputs": [],
        "metadata": [
          {
            "name": "result.json",
            "description": ""
          },
          {
            "name": "result.txt",
            "description": ""
          }
    "#);
}

#[test]
fn stages() {
    let file = parse(source()).into_result().unwrap();
    let answer = targets(&file);
    insta::assert_snapshot!(answer.text, @"
    TARGET    DESCRIPTION
    build     compiles
    (default)
    ");
    insta::assert_snapshot!(answer.json, @r#"
    {
      "targets": [
        {
          "name": "build",
          "description": "compiles",
          "base": "alpine",
          "platform": "$BUILDPLATFORM",
          "location": {
            "ranges": [
              {
                "start": {
                  "line": 2
                },
                "end": {
                  "line": 2
                }
              }
            ]
          }
        },
        {
          "default": true,
          "base": "scratch",
          "location": {
            "ranges": [
              {
                "start": {
                  "line": 4
                },
                "end": {
                  "line": 4
                }
              }
            ]
          }
        }
      ],
      "sources": [
        "IyBidWlsZCBjb21waWxlcwpGUk9NIC0tcGxhdGZvcm09JEJVSUxEUExBVEZPUk0gYWxwaW5lIEFTIGJ1aWxkCk1BSU5UQUlORVIgbWUKRlJPTSBzY3JhdGNoCg=="
      ]
    }
    "#);
    assert_eq!(answer.metadata().len(), 3);
}

#[test]
fn parameters() {
    let lines = |line| Range::lines(line, line);
    let secret = |name: &str, required| OutlineSecret { name: name.to_owned(), required, ranges: lines(3) };
    let found = Outline {
        name: Some("build".to_owned()),
        description: Some("compiles".to_owned()),
        args: vec![
            OutlineArg { name: "A".to_owned(), ranges: lines(2), ..OutlineArg::default() },
            OutlineArg {
                name: "VERSION".to_owned(),
                description: Some("of the thing".to_owned()),
                value: "1.2".to_owned(),
                ranges: lines(2),
            },
        ],
        secrets: vec![secret("token", true), secret("x", false)],
        ssh: vec![secret("default", false)],
        cache_mounts: vec![OutlineCache { id: "/root/.cache".to_owned(), ranges: lines(4) }],
    };
    let answer = outline(&Source::new("Dockerfile", "FROM x"), &found);
    insta::assert_snapshot!(answer.text, @"
    TARGET:      build
    DESCRIPTION: compiles

    BUILD ARG   VALUE   DESCRIPTION
    A                   
    VERSION     1.2     of the thing

    SECRET   REQUIRED
    token    true
    x        

    SSH       REQUIRED
    default
    ");
    insta::assert_snapshot!(answer.json, @r#"
    {
      "name": "build",
      "description": "compiles",
      "args": [
        {
          "name": "A",
          "location": {
            "ranges": [
              {
                "start": {
                  "line": 2
                },
                "end": {
                  "line": 2
                }
              }
            ]
          }
        },
        {
          "name": "VERSION",
          "description": "of the thing",
          "value": "1.2",
          "location": {
            "ranges": [
              {
                "start": {
                  "line": 2
                },
                "end": {
                  "line": 2
                }
              }
            ]
          }
        }
      ],
      "secrets": [
        {
          "name": "token",
          "required": true,
          "location": {
            "ranges": [
              {
                "start": {
                  "line": 3
                },
                "end": {
                  "line": 3
                }
              }
            ]
          }
        },
        {
          "name": "x",
          "location": {
            "ranges": [
              {
                "start": {
                  "line": 3
                },
                "end": {
                  "line": 3
                }
              }
            ]
          }
        }
      ],
      "ssh": [
        {
          "name": "default",
          "location": {
            "ranges": [
              {
                "start": {
                  "line": 3
                },
                "end": {
                  "line": 3
                }
              }
            ]
          }
        }
      ],
      "cache": [
        {
          "ID": "/root/.cache",
          "location": {
            "ranges": [
              {
                "start": {
                  "line": 4
                },
                "end": {
                  "line": 4
                }
              }
            ]
          }
        }
      ],
      "sources": [
        "RlJPTSB4"
      ]
    }
    "#);
    let nothing = outline(&Source::new("Dockerfile", "FROM x"), &Outline::default());
    assert_eq!(nothing.text, "");
}

#[test]
fn lint_results() {
    let source = source();
    let parsed = parse(Arc::clone(&source));
    let mut linter = Linter::new(Config::default());
    linter.check_syntax(&parsed);
    let error = Some(("broken".to_owned(), Range::lines(4, 4)));
    let results = LintAnswer::new(&source, linter.warnings(), error);
    let answer = results.answer();
    assert_eq!(answer.status, Some(1));
    insta::assert_snapshot!(answer.text, @"

    WARNING: MaintainerDeprecated - https://docs.docker.com/go/dockerfile/rule/maintainer-deprecated/
    Maintainer instruction is deprecated in favor of using label
    Dockerfile:3
    --------------------
       1 |     # build compiles
       2 |     FROM --platform=$BUILDPLATFORM alpine AS build
       3 | >>> MAINTAINER me
       4 |     FROM scratch
       5 |     
    --------------------
    ");
    insta::assert_snapshot!(answer.json, @r#"
    {
      "warnings": [
        {
          "ruleName": "MaintainerDeprecated",
          "description": "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
          "url": "https://docs.docker.com/go/dockerfile/rule/maintainer-deprecated/",
          "detail": "Maintainer instruction is deprecated in favor of using label",
          "location": {
            "ranges": [
              {
                "start": {
                  "line": 3
                },
                "end": {
                  "line": 3
                }
              }
            ]
          }
        }
      ],
      "sources": [
        {
          "filename": "Dockerfile",
          "data": "IyBidWlsZCBjb21waWxlcwpGUk9NIC0tcGxhdGZvcm09JEJVSUxEUExBVEZPUk0gYWxwaW5lIEFTIGJ1aWxkCk1BSU5UQUlORVIgbWUKRlJPTSBzY3JhdGNoCg==",
          "language": "Dockerfile"
        }
      ],
      "buildError": {
        "message": "broken",
        "location": {
          "ranges": [
            {
              "start": {
                "line": 4
              },
              "end": {
                "line": 4
              }
            }
          ]
        }
      }
    }
    "#);
    assert_eq!(LintAnswer::new(&source, &[], None).answer().status, Some(0));
}
