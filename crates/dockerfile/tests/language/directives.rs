//! Parser directives.

use super::{files_table, warnings};
use cooper_dockerfile::parser::{detect_check, detect_syntax};

#[test]
fn escape() {
    insta::assert_snapshot!(files_table(&[
        "# escape=`\nFROM scratch\nCMD a `\n b\n",
        "# EsCaPe = `\nFROM scratch\nCMD a `\n b\n",
        "# escape=x\nFROM scratch\n",
        "#escape = `\n# escape=`\nFROM scratch\n",
        "# foo\n# escape=`\nFROM scratch\nCMD a `\n",
        "\n# escape=`\nFROM scratch\nCMD a\\\n b\n",
        "#syntaxx=foo\n# escape=`\nFROM scratch\nCMD a `\n",
    ]), @r#"
        # escape=`\nFROM scratch\nCMD a `\n b\n => {"ArgsEscaped":true,"Cmd":["/bin/sh","-c","a  b"]} CMD ["/bin/sh" "-c" "a  b"]
        # EsCaPe = `\nFROM scratch\nCMD a `\n b\n => {"ArgsEscaped":true,"Cmd":["/bin/sh","-c","a  b"]} CMD ["/bin/sh" "-c" "a  b"]
        # escape=x\nFROM scratch\n => error: invalid escape token 'x' does not match ` or \
        #escape = `\n# escape=`\nFROM scratch\n => error: only one escape parser directive can be used
        # foo\n# escape=`\nFROM scratch\nCMD a `\n => {"ArgsEscaped":true,"Cmd":["/bin/sh","-c","a `"]} CMD ["/bin/sh" "-c" "a `"]
        \n# escape=`\nFROM scratch\nCMD a\\n b\n => {"ArgsEscaped":true,"Cmd":["/bin/sh","-c","a b"]} CMD ["/bin/sh" "-c" "a b"]
        #syntaxx=foo\n# escape=`\nFROM scratch\nCMD a `\n => {"ArgsEscaped":true,"Cmd":["/bin/sh","-c","a `"]} CMD ["/bin/sh" "-c" "a `"]
    "#);
}

#[test]
fn syntax_and_check_in_all_positions() {
    let found = |text: &str| {
        let syntax = detect_syntax(text).map(|s| format!("{} ({}) line {}", s.image, s.cmdline, s.line));
        format!("{:?} {:?}", syntax, detect_check(text))
    };
    let rows = [
        "# syntax=a/b:1 --x\n# check=skip=all;error=true why\nFROM c\n",
        "#!/bin/sh\n#SYNTAX = a\n",
        "// syntax=a\n",
        "{\"syntax\": \"a\", \"other\": [1]}",
        "\u{feff}# escape=`\r\n# syntax=a\r\n",
        "FROM c\n# syntax=a\n",
        "# comment\n# check=skip=all\n",
    ];
    let all: String = rows.iter().map(|row| format!("{} => {}\n", super::shown(row), found(row))).collect();
    insta::assert_snapshot!(all, @r#"
        # syntax=a/b:1 --x\n# check=skip=all;error=true why\nFROM c\n => Some("a/b:1 (a/b:1 --x) line 1") Some("skip=all;error=true")
        #!/bin/sh\n#SYNTAX = a\n => Some("a (a) line 2") None
        // syntax=a\n => Some("a (a) line 1") None
        {"syntax": "a", "other": [1]} => Some("a (a) line 1") None
        \ufeff# escape=`\r\n# syntax=a\r\n => Some("a (a) line 2") None
        FROM c\n# syntax=a\n => None None
        # comment\n# check=skip=all\n => None None
    "#);
}

#[test]
fn checks_of_a_file_and_of_an_instruction() {
    let file = |head: &str| warnings(&format!("{head}FROM scratch as A\nWORKDIR x\n"));
    let all: String = [
        "",
        "# check=skip=all\n",
        "# check=skip=FromAsCasing\n",
        "# check=skip=FromAsCasing,StageNameCasing\n",
        "# check=skip=fromascasing\n",
        "# check=skip=WorkdirRelativePath;error=true;experimental=all\n",
        "# check=error=maybe\n",
        "# check=skp=all\n",
        "# check=skip\n",
    ]
    .iter()
    .map(|head| format!("{}=> {}\n", super::shown(head), file(head).replace('\n', " | ")))
    .collect();
    insta::assert_snapshot!(all, @r#"
        => StageNameCasing: Stage name 'A' should be lowercase (line 1) | FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 1) | WorkdirRelativePath: Relative workdir "x" can have unexpected results if the base image changes (line 2) | 
        # check=skip=all\n=> 
        # check=skip=FromAsCasing\n=> StageNameCasing: Stage name 'A' should be lowercase (line 2) | WorkdirRelativePath: Relative workdir "x" can have unexpected results if the base image changes (line 3) | 
        # check=skip=FromAsCasing,StageNameCasing\n=> WorkdirRelativePath: Relative workdir "x" can have unexpected results if the base image changes (line 3) | 
        # check=skip=fromascasing\n=> StageNameCasing: Stage name 'A' should be lowercase (line 2) | FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 2) | WorkdirRelativePath: Relative workdir "x" can have unexpected results if the base image changes (line 3) | 
        # check=skip=WorkdirRelativePath;error=true;experimental=all\n=> StageNameCasing: Stage name 'A' should be lowercase (line 2) | FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 2) | 
        # check=error=maybe\n=> error: failed to parse check options: failed to parse check option "error=maybe": strconv.ParseBool: parsing "maybe": invalid syntax | 
        # check=skp=all\n=> error: failed to parse check options: invalid check option "skp" (did you mean skip?) | 
        # check=skip\n=> error: failed to parse check options: invalid check option "skip" |
    "#);
    insta::assert_snapshot!(warnings(
        "FROM scratch\n# check=skip=WorkdirRelativePath\nWORKDIR a\n# check=skip=all\nMAINTAINER x\nMAINTAINER y\n"
    ), @"
        MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 6)
    ");
}
