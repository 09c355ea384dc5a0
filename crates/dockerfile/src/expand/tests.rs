//! Expansion, as tables of word and result.

use super::*;

fn env(list: &[&str]) -> Env {
    Env::from_list(list)
}

fn check(word: &str, list: &[&str], expected: &str) {
    match Expander::default().process_word_with_matches(word, &env(list)) {
        Ok(done) => assert_eq!(done.text, expected, "{word}"),
        Err(error) => panic!("{word}: {error}"),
    }
}

fn check_error(word: &str, list: &[&str], expected: &str) {
    match Expander::default().process_word_with_matches(word, &env(list)) {
        Ok(done) => panic!("{word} gave {:?}", done.text),
        Err(error) => assert_eq!(error.reason.to_string(), expected, "{word}"),
    }
}

const HOME: &[&str] = &["PWD=/home", "SHELL=bash", "LANGUAGE=한국어", "NULL="];

#[test]
fn quotes_and_escapes() {
    for (word, expected) in [
        ("he'll'o", "hello"),
        (r"he\'llo", "he'llo"),
        (r"abc\tdef", "abctdef"),
        (r#""abc\tdef""#, r"abc\tdef"),
        (r#""abc\\tdef""#, r"abc\tdef"),
        (r"'abc\tdef'", r"abc\tdef"),
        (r"hello\", "hello"),
        (r"hello\\", r"hello\"),
        (r#""hel'lo""#, "hel'lo"),
        (r"'hello\'", r"hello\"),
        (r#""''""#, "''"),
        (r"안녕\t하세요", "안녕t하세요"),
        (r"he\$PWD", "he$PWD"),
        (r"he\\$PWD", r"he\/home"),
        (r#""he\$PWD""#, "he$PWD"),
        (r"'\$PWD'", r"\$PWD"),
        (r#""he'$PWD'""#, "he'/home'"),
        (r"he\${}xx", "he${}xx"),
    ] {
        check(word, HOME, expected);
    }
    check_error("he'llo", HOME, "unexpected end of statement while looking for matching single-quote");
    check_error(r"he\\'llo", HOME, "unexpected end of statement while looking for matching single-quote");
    check_error(r#""hello\""#, HOME, "unexpected end of statement while looking for matching double-quote");
}

#[test]
fn names() {
    for (word, expected) in [
        ("he$1x", "hex"),
        ("he$.x", "he$.x"),
        ("he$pwd.", "he."),
        ("안녕$LANGUAGE", "안녕한국어"),
        ("$999aaa", "aaa"),
        ("$@@@", "@@"),
        ("$@aaa", "aaa"),
        ("$$", ""),
        ("${!:-bbb}", "bbb"),
        ("${#}", ""),
        ("${0:-bbb}", "bbb"),
        ("$", "$"),
    ] {
        check(word, HOME, expected);
    }
}

#[test]
fn modifiers() {
    for (word, expected) in [
        ("${aaa}}", "}"),
        ("he${XXX:-000}xx", "he000xx"),
        ("he${PWD:-000}xx", "he/homexx"),
        ("he${XXX:-${YYY:-yyy}}xx", "heyyyxx"),
        ("he${NULL?}", "he"),
        ("he${PWD:?}", "he/home"),
        ("he${XXX:+${PWD}}xx", "hexx"),
        ("he${PWD:+${SHELL}}xx", "hebashxx"),
        ("he${PWD:+${PWD}:}xx", "he/home:xx"),
        (r"he${XXX:-\${PWD}z}xx", "he${PWDz}xx"),
        ("${aaa:-bbb {foo}", "bbb {foo"),
        ("${NULL-x}${NULL:-y}${NULL+z}${NULL:+w}", "yz"),
    ] {
        check(word, HOME, expected);
    }
    for (word, reason) in [
        ("${}", "syntax error: bad substitution"),
        ("${:}", "syntax error: bad substitution"),
        ("${{aaa}", "syntax error: bad substitution"),
        ("${", "syntax error: missing '}'"),
        ("he${.}", "unsupported modifier (.) in substitution"),
        ("he${XXX:YYY}", "unsupported modifier (:Y) in substitution"),
        ("he${PWD", "unsupported modifier (\u{fffd}) in substitution"),
        ("he${PWD:=000}xx", "unsupported modifier (:=) in substitution"),
        ("${PWD=x}", "unsupported modifier (=) in substitution"),
        ("${aaa:-bbb", "syntax error: missing '}'"),
        ("${aaa:-bbb ${foo}", "syntax error: missing '}'"),
        ("${PWD:#}", "unsupported modifier (:#) in substitution"),
        ("${PWD:%%}", "unsupported modifier (:%) in substitution"),
        ("he${XXX?}", "XXX: is not allowed to be unset"),
        ("he${XXX:?}", "XXX: is not allowed to be unset"),
        ("he${NULL:?}", "NULL: is not allowed to be empty"),
        ("${XXX:?message here$PWD}", "XXX: message here/home"),
    ] {
        check_error(word, HOME, reason);
    }
}

#[test]
fn trimming_and_replacing() {
    for (word, list, expected) in [
        (r"${V#()[]{\}^$.\*\?|\\}", &[r"V=()[]{}^$.*?|\x"][..], "x"),
        (r"${V%%\**}", &["V=xx**"], "xx"),
        ("${V#*x*y}", &["V=xxyy"], "y"),
        ("${V#*}", &["V=xxyy"], "xxyy"),
        ("${V##*x}", &["V=xxyy"], "yy"),
        ("${V#$B}", &["V=xxyy", "B=x"], "xyy"),
        (r"${V#?\?}", &["V=???y"], "?y"),
        ("${V%x}", &["V=xxyy"], "xxyy"),
        ("${V%y*}", &["V=xxyy"], "xxy"),
        (r"${V%%\**\*}", &["V=a***yy*"], "a"),
        ("${V/$N/.} - ${V//$N/.}", &["V=/foo*/*/*.txt", r"N=\*/"], "/foo.*/*.txt - /foo..*.txt"),
        ("${V/$N/} - ${V//$N/}", &["V=/tmp/tmp/bar.txt", "N=/tmp"], "/tmp/bar.txt - /bar.txt"),
        ("${V/$N/$R}", &["V=http://google.de", "N=http://", "R=https://"], "https://google.de"),
        (r"${V//\//\/}", &["V=/tmp/foo.txt"], r"\/tmp\/foo.txt"),
        ("${V/$B/ww}", &["V=xxyy", "B="], "wwxxyy"),
        ("${V///}", &["V=xxyy"], "xxyy"),
        ("${V///}", &[], ""),
        ("${V//x/$B}", &["V=axa", "B=$1"], "a$1a"),
    ] {
        check(word, list, expected);
    }
    check_error("${V//ww}", &["V=x"], "syntax error: missing '/' in ${}");
    check_error("${V//}", &["V=x"], "syntax error: missing '/' in ${}");
    check_error("${V/a/b", &["V=x"], "syntax error: missing '}'");
    check_error(r"${V#\x}", &["V=x"], r"invalid pattern (\x) in substitution: invalid escape '\x'");
}

#[test]
fn splitting() {
    let check = |text: &str, list: &[&str], expected: &[&str]| {
        assert_eq!(Expander::default().process_words(text, &env(list)).unwrap(), expected, "{text}");
    };
    let spaced = &["S=abc  def", "L=  ab c", "T=ab c   "];
    check("hello${S}bye", spaced, &["helloabc", "defbye"]);
    check(r#"hello "${S}"bye"#, spaced, &["hello", "abc  defbye"]);
    check("hello${L}def", spaced, &["hello", "ab", "cdef"]);
    check("hello${T}d", spaced, &["helloab", "c", "d"]);
    check(r#"hello" there  ""#, spaced, &["hello there  "]);
    check(r"hello\ there", spaced, &["hello there"]);
    check(r"hello'$there'", spaced, &["hello$there"]);
    check("foo${X:-bar}", spaced, &["foobar"]);
    check("  '' \"\" ", spaced, &[]);
    check("a << EOF b", spaced, &["a", "<< EOF", "b"]);
    assert!(Expander::default().process_words(r#"hello" there"#, &()).is_err());
}

#[test]
fn reports_what_was_used() {
    let done = Expander::default()
        .process_word_with_matches("${FOO:-aaa} ${BAR:+$FOO} ${BAZ-ccc}", &env(&["FOO=x", "BAR="]))
        .unwrap();
    assert_eq!(done.text, "x  ccc");
    assert_eq!(Vec::from_iter(done.matched), ["BAR", "FOO"]);
    assert_eq!(Vec::from_iter(done.unmatched), ["BAZ"]);
}

#[test]
fn modes() {
    let list = env(&["A=1"]);
    let display = Expander::for_display('\\');
    assert_eq!(
        display.process_word("x '$A' \"$A\" $B ${B:-z} ${B//a/b}", &list).unwrap(),
        "x '$A' \"1\" $B ${B:-z} ${B//a/b}"
    );
    let heredoc = Expander::for_heredoc();
    assert_eq!(heredoc.process_word("'$A' \"$A\" \\$A it's", &list).unwrap(), "'1' \"1\" $A it's");
    let backtick = Expander::new('`');
    assert_eq!(backtick.process_word(r"C:\dir`$A\$A", &list).unwrap(), r"C:\dir$A\1");
}

#[test]
fn windows_names_ignore_case() {
    let mut list = Env::ignoring_case();
    list.set("Path", "C:\\");
    list.set("PATH", "D:\\");
    assert_eq!(Expander::new('`').process_word("$path", &list).unwrap(), "D:\\");
    assert_eq!(list.to_list(), ["Path=D:\\"]);
    assert!(list.remove("pAtH") && list.is_empty());
}

#[test]
fn nesting_is_bounded() {
    let word = "${a:-".repeat(100_000);
    assert!(Expander::default().process_word(&word, &()).is_err());
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn expanding_is_total(word in "([$}{a/#%:?*+=<\\\\\"' \n-]|\\$\\{|é|\\PC){0,30}", value in "\\PC{0,12}") {
        let mut list = Env::new();
        list.set("a", &value);
        for rules in [Expander::default(), Expander::for_display('`'), Expander::for_heredoc()] {
            let _ = rules.process_words(&word, &list);
            if let Ok(done) = rules.process_word_with_matches(&word, &list) {
                proptest::prop_assert_eq!(rules.process_word(&word, &list).unwrap(), done.text);
            }
        }
    }

    #[test]
    fn text_without_specials_stays(word in "[a-zA-Z0-9_ /.:=-]{0,40}") {
        proptest::prop_assert_eq!(Expander::default().process_word(&word, &()).unwrap(), word);
    }
}
