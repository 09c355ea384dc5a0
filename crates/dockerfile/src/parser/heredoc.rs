//! Here-documents: finding their words in an instruction, reading their bodies.

use super::lines::Lines;
use crate::diagnostic::Problem;
use crate::expand::Expander;
use crate::instruction::Heredoc;
use crate::source::Span;

/// A word such as `<<EOF`, `3<<-'EOF'`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HeredocWord {
    pub name: String,
    pub fd: u32,
    pub strip_tabs: bool,
    pub expand: bool,
}

/// The heredoc words of an instruction's text, in order. A text that does not lex has none.
pub(super) fn words(text: &str) -> Result<Vec<HeredocWord>, Problem> {
    if !text.contains("<<") {
        return Ok(Vec::new());
    }
    let lexer = Expander { keep_quotes: true, keep_escapes: true, keep_unset: true, ..Expander::new('\\') };
    let words = lexer.process_words(text, &()).unwrap_or_default();
    words.iter().filter_map(|word| parse_word(word).transpose()).collect()
}

/// Reads a word as a heredoc's; `None` if it is something else.
pub(super) fn parse_word(word: &str) -> Result<Option<HeredocWord>, Problem> {
    let marker = word.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = &word[..word.len() - marker.len()];
    let Some(rest) = marker.strip_prefix("<<") else { return Ok(None) };
    let (strip_tabs, rest) = rest.strip_prefix('-').map_or((false, rest), |rest| (true, rest));
    let rest = rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0c']);
    if rest.is_empty() || rest.contains('<') {
        return Ok(None);
    }
    let bare = Expander { keep_unset: true, ..Expander::new('\\') };
    let words = bare.process_words(rest, &())?;
    let [name] = words.as_slice() else { return Ok(None) };
    // A quote that goes away in reading was quoting; one that stays was escaped, and so part of the name.
    let raw = Expander { keep_quotes: true, ..bare }.process_words(rest, &())?.concat();
    let quotes = |text: &str| text.matches(['"', '\'']).count();
    let fd = if digits.is_empty() { 0 } else { digits.parse().unwrap_or(u32::MAX) };
    Ok(Some(HeredocWord { name: name.clone(), fd, strip_tabs, expand: quotes(name) == quotes(&raw) }))
}

/// Whether a text is one heredoc word and nothing else.
pub(crate) fn is_heredoc(text: &str) -> Result<bool, Problem> {
    parse_word(text).map(|word| word.is_some())
}

/// Reads the bodies that belong to `words`. If one does not end, it is named.
pub(super) fn read(words: Vec<HeredocWord>, lines: &mut Lines<'_>) -> Result<Vec<Heredoc>, String> {
    words.into_iter().map(|word| read_one(word, lines)).collect()
}

fn read_one(word: HeredocWord, lines: &mut Lines<'_>) -> Result<Heredoc, String> {
    let HeredocWord { name, fd, strip_tabs, expand } = word;
    let mut content = String::new();
    let mut start = None;
    for raw in lines.by_ref() {
        let start = *start.get_or_insert(raw.start);
        let text = raw.text();
        let indent = if strip_tabs { text.len() - text.trim_start_matches('\t').len() } else { 0 };
        if text[indent..] == name {
            let terminator = Span::new(raw.start + indent, raw.start + text.len());
            let body = Span::new(start, raw.start);
            return Ok(Heredoc { name, fd, strip_tabs, expand, content, body, terminator });
        }
        content.push_str(raw.raw);
    }
    Err(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heredoc_words() {
        let check = |word: &str, expected: Option<(&str, u32, bool, bool)>| {
            let found = parse_word(word).unwrap();
            let found = found.as_ref().map(|w| (w.name.as_str(), w.fd, w.strip_tabs, w.expand));
            assert_eq!(found, expected, "{word}");
        };
        check("<<EOF", Some(("EOF", 0, false, true)));
        check("3<<-EOF", Some(("EOF", 3, true, true)));
        check("<<'EOF'", Some(("EOF", 0, false, false)));
        check("<<EO\"F\"", Some(("EOF", 0, false, false)));
        check("<<- EOF", Some(("EOF", 0, true, true)));
        check(r"<<eo\'f", Some(("eo'f", 0, false, true)));
        check(r"<<'e'o\'f", Some(("eo'f", 0, false, false)));
        check("<<'one two'", Some(("one two", 0, false, false)));
        check("<<$EOF", Some(("$EOF", 0, false, true)));
        for none in ["", "EOF", "<<", "<<-", "<EOF", "<<<EOF", "<<EOF sh"] {
            check(none, None);
        }
        for bad in ["<<'EOF", "<<\"EOF", "<<EOF'"] {
            assert!(parse_word(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn heredoc_words_in_a_line() {
        let check = |line: &str, expected: &[&str]| {
            let names: Vec<_> = words(line).unwrap().into_iter().map(|w| w.name).collect();
            assert_eq!(names, expected, "{line}");
        };
        check("RUN <<EOF <<EOF2", &["EOF", "EOF2"]);
        check("RUN << -EOF", &["-EOF"]);
        check("RUN <<  EOF  > foo", &["EOF"]);
        check("RUN <<- EOF", &[]);
        check(r#"RUN "<<EOF""#, &[]);
        check("RUN echo it's <<EOF", &[]);
    }
}
