//! Variables in words.

use super::outcome;

/// The values that an expression has in `LABEL v=`, or the error.
fn value(expression: &str) -> String {
    let text =
        format!("ARG E=\nARG S=abcabc P=/usr/local/lib.tar.gz U\nFROM scratch\nARG S P E U\nLABEL v={expression}\n");
    let told = outcome(&text);
    match told.strip_prefix("{\"Labels\":{\"v\":").and_then(|rest| rest.split_once("}}")) {
        Some((value, _)) => value.to_owned(),
        None => told,
    }
}

fn values(expressions: &[&str]) -> String {
    expressions.iter().map(|expression| format!("{expression} => {}\n", value(expression))).collect()
}

#[test]
fn forms() {
    insta::assert_snapshot!(values(&[
        "$S", "${S}", "${S:-x}", "${E:-x}", "${E-x}", "${U:-x}", "${U-x}", "${S:+y}", "${E:+y}", "${E+y}", "${U+y}",
        "${S:?e}", "${E:?}", "${U:?msg here}", "${U?}", "${S#a}", "${S#*c}", "${S##*c}", "${S%c}", "${S%b*}",
        "${S%%b*}", "${P##*/}", "${P%/*}", "${P%%.*}", "${S/b/X}", "${S//b/X}", "${S/#a/X}", "${S//?/.}", "${S/*/X}",
        "${S/x/}", "${S//b}", "${S/b}", "${P//\\//_}", "${S//a/${P##*.}}", "${S##a*b}", "${S%\\?}",
    ]), @r#"
        $S => "abcabc"
        ${S} => "abcabc"
        ${S:-x} => "abcabc"
        ${E:-x} => "x"
        ${E-x} => ""
        ${U:-x} => "x"
        ${U-x} => "x"
        ${S:+y} => "y"
        ${E:+y} => ""
        ${E+y} => "y"
        ${U+y} => ""
        ${S:?e} => "abcabc"
        ${E:?} => error: failed to process "${E:?}": E: is not allowed to be empty
        ${U:?msg here} => error: Syntax error - can't find = in "here}". Must be of the form: name=value
        ${U?} => error: failed to process "${U?}": U: is not allowed to be unset
        ${S#a} => "bcabc"
        ${S#*c} => "abc"
        ${S##*c} => ""
        ${S%c} => "abcab"
        ${S%b*} => "abca"
        ${S%%b*} => "a"
        ${P##*/} => "lib.tar.gz"
        ${P%/*} => "/usr/local"
        ${P%%.*} => "/usr/local/lib"
        ${S/b/X} => "aXcabc"
        ${S//b/X} => "aXcaXc"
        ${S/#a/X} => "abcabc"
        ${S//?/.} => "......"
        ${S/*/X} => "X"
        ${S/x/} => "abcabc"
        ${S//b} => error: failed to process "${S//b}": syntax error: missing '/' in ${}
        ${S/b} => error: failed to process "${S/b}": syntax error: missing '/' in ${}
        ${P//\//_} => "_usr_local_lib.tar.gz"
        ${S//a/${P##*.}} => "gzbcgzbc"
        ${S##a*b} => "c"
        ${S%\?} => "abcabc"
    "#);
}

#[test]
fn quotes_escapes_and_nesting() {
    insta::assert_snapshot!(values(&[
        "\\$S", "\"$S\"", "'$S'", "$$S", "$", "${U:-${S}}", "${U:-${E:-deep}}", "${U:-\"q q\"}", "${U:-'q $S'}",
        "x${S}y", "$Sx", "${S}$E${S}", "a\\ b", "a\\b", "\"a\\b\\\"c\"", "\"'\"", "'\"'", "a$", "\"a$\"", "\\\\$S",
    ]), @r#"
        \$S => "$S"
        "$S" => "abcabc"
        '$S' => "$S"
        $$S => "S"
        $ => "$"
        ${U:-${S}} => "abcabc"
        ${U:-${E:-deep}} => "deep"
        ${U:-"q q"} => "q q"
        ${U:-'q $S'} => "q $S"
        x${S}y => "xabcabcy"
        $Sx => ""
        ${S}$E${S} => "abcabcabcabc"
        a\ b => "a b"
        a\b => "ab"
        "a\b\"c" => "a\\b\"c"
        "'" => "'"
        '"' => "\""
        a$ => "a$"
        "a$" => "a$"
        \\$S => "\\abcabc"
    "#);
}

#[test]
fn names_and_what_is_no_form() {
    insta::assert_snapshot!(values(&[
        "$1", "${1}", "$@", "$*", "$#", "$?", "$-", "$!", "${@}", "$9a", "$ü", "~", "`id`", "$(id)", "{a,b}", "*",
        "${S:0:2}", "${!S}", "${#S}", "${S^^}", "${S,}", "${S", "${}", "${S:}", "${S:x}", "${U:=x}",
    ]), @r#"
        $1 => ""
        ${1} => ""
        $@ => ""
        $* => ""
        $# => ""
        $? => ""
        $- => ""
        $! => ""
        ${@} => ""
        $9a => "a"
        $ü => ""
        ~ => "~"
        `id` => "`id`"
        $(id) => "$(id)"
        {a,b} => "{a,b}"
        * => "*"
        ${S:0:2} => error: failed to process "${S:0:2}": unsupported modifier (:0) in substitution
        ${!S} => error: failed to process "${!S}": unsupported modifier (S) in substitution
        ${#S} => error: failed to process "${#S}": unsupported modifier (S) in substitution
        ${S^^} => error: failed to process "${S^^}": unsupported modifier (^) in substitution
        ${S,} => error: failed to process "${S,}": unsupported modifier (,) in substitution
        ${S => error: failed to process "${S": unsupported modifier (�) in substitution
        ${} => error: failed to process "${}": syntax error: bad substitution
        ${S:} => error: failed to process "${S:}": syntax error: missing '}'
        ${S:x} => error: failed to process "${S:x}": unsupported modifier (:x) in substitution
        ${U:=x} => error: failed to process "${U:=x}": unsupported modifier (:=) in substitution
    "#);
}
