//! The scanner behind [`super::Expander`]: one pass over the characters, recursive only for words inside `${…}`.

use super::{ExpandReason, Expanded, Expander, Variables, pattern::Pattern};

/// How deep `${a:-${b:-…}}` may nest before the scanner gives up rather than exhaust its stack.
const MAX_DEPTH: usize = 200;

/// Expands `text`; the second result is the text split into words.
pub(super) fn run<V: Variables>(rules: Expander, text: &str, env: &V) -> Result<(Expanded, Vec<String>), ExpandReason> {
    let mut scan = Scan { rules, rest: text, env, found: Expanded::default(), depth: 0 };
    let out = scan.until(None, rules.keep_escapes)?;
    scan.found.text = out.text;
    Ok((scan.found, out.words.finish()))
}

struct Scan<'a, V> {
    rules: Expander,
    rest: &'a str,
    env: &'a V,
    found: Expanded,
    depth: usize,
}

/// Text produced so far, whole and as words.
#[derive(Default)]
struct Output {
    text: String,
    words: Words,
}

#[derive(Default)]
struct Words {
    done: Vec<String>,
    current: String,
}

impl Words {
    /// Adds characters among which white space separates words.
    fn add_splitting(&mut self, text: &str) {
        for c in text.chars() {
            if c.is_whitespace() { self.end_word() } else { self.current.push(c) }
        }
    }

    fn end_word(&mut self) {
        if !self.current.is_empty() {
            self.done.push(std::mem::take(&mut self.current));
        }
    }

    fn finish(mut self) -> Vec<String> {
        self.end_word();
        self.done
    }
}

impl<V: Variables> Scan<'_, V> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let c = chars.next();
        self.rest = chars.as_str();
        c
    }

    fn skip_if(&mut self, wanted: char) -> bool {
        match self.rest.strip_prefix(wanted) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Scans up to and including `stop`, or to the end if there is none to stop at.
    /// The caller gives the error for a missing `stop`: here it is `None`.
    fn until_stop(&mut self, stop: char, keep_escapes: bool) -> Result<Option<String>, ExpandReason> {
        match self.until(Some(stop), keep_escapes) {
            Ok(out) => Ok(Some(out.text)),
            // Whatever went wrong, at the end of the text the missing terminator is the better thing to name.
            Err(_) if self.rest.is_empty() => Ok(None),
            Err(reason) => Err(reason),
        }
    }

    fn until(&mut self, stop: Option<char>, keep_escapes: bool) -> Result<Output, ExpandReason> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(ExpandReason::TooDeep(MAX_DEPTH));
        }
        let mut out = Output::default();
        while let Some(c) = self.peek() {
            if Some(c) == stop {
                self.next();
                self.depth -= 1;
                return Ok(out);
            }
            match c {
                '$' => {
                    let value = self.dollar()?;
                    out.text.push_str(&value);
                    out.words.add_splitting(&value);
                }
                '\'' | '"' if !self.rules.ignore_quotes => {
                    let before = out.text.len();
                    if c == '"' {
                        self.double_quoted(&mut out.text, keep_escapes)?;
                    } else {
                        self.single_quoted(&mut out.text)?;
                    }
                    out.words.current.push_str(&out.text[before..]);
                }
                '<' => {
                    let before = out.text.len();
                    self.heredoc_marker(&mut out.text);
                    out.words.current.push_str(&out.text[before..]);
                }
                _ => self.plain(&mut out, keep_escapes),
            }
        }
        self.depth -= 1;
        if stop.is_some() { Err(ExpandReason::MissingBrace) } else { Ok(out) }
    }

    fn plain(&mut self, out: &mut Output, keep_escapes: bool) {
        let Some(c) = self.next() else { return };
        if c != self.rules.escape {
            out.text.push(c);
            out.words.add_splitting(c.encode_utf8(&mut [0; 4]));
            return;
        }
        if keep_escapes {
            out.text.push(c);
            out.words.current.push(c);
        }
        // An escape at the very end escapes nothing.
        if let Some(escaped) = self.next() {
            out.text.push(escaped);
            out.words.current.push(escaped);
        }
    }

    /// `<<` keeps white space after it in the same word, so that `<< EOF` is seen as one heredoc.
    fn heredoc_marker(&mut self, text: &mut String) {
        self.next();
        text.push('<');
        if self.skip_if('<') {
            text.push('<');
            while let Some(space @ ('\t' | '\r' | ' ')) = self.peek() {
                self.next();
                text.push(space);
            }
        }
    }

    fn single_quoted(&mut self, text: &mut String) -> Result<(), ExpandReason> {
        self.next();
        let end = self.rest.find('\'');
        let Some(end) = end else {
            self.rest = "";
            return Err(ExpandReason::SingleQuote);
        };
        let quote = if self.rules.keep_quotes { "'" } else { "" };
        text.push_str(quote);
        text.push_str(&self.rest[..end]);
        text.push_str(quote);
        self.rest = &self.rest[end + 1..];
        Ok(())
    }

    fn double_quoted(&mut self, text: &mut String, keep_escapes: bool) -> Result<(), ExpandReason> {
        self.next();
        if self.rules.keep_quotes {
            text.push('"');
        }
        loop {
            match self.peek() {
                None => return Err(ExpandReason::DoubleQuote),
                Some('"') => {
                    self.next();
                    if self.rules.keep_quotes {
                        text.push('"');
                    }
                    return Ok(());
                }
                Some('$') => text.push_str(&self.dollar()?),
                Some(c) => {
                    self.next();
                    let special = |next: char| next == '"' || next == '$' || next == self.rules.escape;
                    match self.peek() {
                        // Inside double quotes only a quote, a dollar and the escape itself can be escaped.
                        Some(next) if c == self.rules.escape && special(next) => {
                            if keep_escapes {
                                text.push(c);
                            }
                            text.push(next);
                            self.next();
                        }
                        None if c == self.rules.escape => {}
                        _ => text.push(c),
                    }
                }
            }
        }
    }

    fn look_up(&mut self, name: &str) -> Option<String> {
        let value = self.env.get(name);
        let list = if value.is_some() { &mut self.found.matched } else { &mut self.found.unmatched };
        if !list.contains(name) {
            list.insert(name.to_owned());
        }
        value.map(str::to_owned)
    }

    /// A name: letters, digits and `_`; or digits alone if it starts with one; or one special parameter.
    fn name(&mut self) -> String {
        let len = match self.peek() {
            Some(c) if c.is_ascii_digit() => self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len()),
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => 1,
            _ => self.rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(self.rest.len()),
        };
        let (name, rest) = self.rest.split_at(len);
        let name = name.to_owned();
        self.rest = rest;
        name
    }

    fn dollar(&mut self) -> Result<String, ExpandReason> {
        self.next();
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            let value = self.look_up(&name);
            return Ok(match value {
                None if self.rules.keep_unset => format!("${name}"),
                value => value.unwrap_or_default(),
            });
        }
        self.next();
        match self.peek() {
            None => return Err(ExpandReason::MissingBrace),
            Some('{' | '}' | ':') => return Err(ExpandReason::BadSubstitution),
            Some(_) => {}
        }
        let name = self.name();
        match self.next() {
            Some('}') => {
                let value = self.look_up(&name);
                Ok(match value {
                    None if self.rules.keep_unset => format!("${{{name}}}"),
                    value => value.unwrap_or_default(),
                })
            }
            Some(':') => {
                let modifier = self.next();
                self.modified(&name, modifier, true)
            }
            Some('/') => self.replaced(&name),
            modifier @ Some('+' | '-' | '?' | '#' | '%') => self.modified(&name, modifier, false),
            other => Err(unsupported("", other)),
        }
    }

    /// `${name<modifier>word}`, with `empty_is_unset` for the forms with a colon.
    fn modified(&mut self, name: &str, modifier: Option<char>, empty_is_unset: bool) -> Result<String, ExpandReason> {
        let colon = if empty_is_unset { ":" } else { "" };
        let trims = matches!(modifier, Some('#' | '%'));
        if trims && empty_is_unset {
            return Err(unsupported(colon, modifier));
        }
        let word = self.until_stop('}', trims)?.ok_or(ExpandReason::MissingBrace)?;
        let value = self.look_up(name);
        if value.is_none() && self.rules.keep_unset {
            let modifier = modifier.map(String::from).unwrap_or_default();
            return Ok(format!("${{{name}{colon}{modifier}{word}}}"));
        }
        let usable = value.as_deref().filter(|v| !(empty_is_unset && v.is_empty()));
        match modifier {
            Some('-') => Ok(usable.unwrap_or(&word).to_owned()),
            Some('+') => Ok(if usable.is_some() { word } else { String::new() }),
            Some('?') => match usable {
                Some(value) => Ok(value.to_owned()),
                None => Err(ExpandReason::Required {
                    name: name.to_owned(),
                    message: required_message(word, value.is_some()),
                }),
            },
            Some(sign @ ('#' | '%')) => {
                let longest = word.starts_with(sign);
                let pattern = Pattern::parse(if longest { &word[1..] } else { &word })?;
                let value = value.unwrap_or_default();
                let trimmed = if sign == '#' {
                    pattern.trim_prefix(&value, longest)
                } else {
                    pattern.trim_suffix(&value, longest)
                };
                Ok(trimmed.to_owned())
            }
            other => Err(unsupported(colon, other)),
        }
    }

    /// `${name/pattern/replacement}` and, with a second slash in front, every match.
    fn replaced(&mut self, name: &str) -> Result<String, ExpandReason> {
        let all = self.skip_if('/');
        let pattern = self.until_stop('/', true)?.ok_or(ExpandReason::MissingSlash)?;
        let replacement = self.until_stop('}', true)?.ok_or(ExpandReason::MissingBrace)?;
        let value = self.look_up(name);
        if value.is_none() && self.rules.keep_unset {
            let slash = if all { "//" } else { "/" };
            return Ok(format!("${{{name}{slash}{pattern}/{replacement}}}"));
        }
        let parsed = Pattern::parse(&pattern)?;
        Ok(parsed.replace(&value.unwrap_or_default(), &replacement, all))
    }
}

fn required_message(word: String, is_set: bool) -> String {
    match (word.is_empty(), is_set) {
        (false, _) => word,
        (true, true) => "is not allowed to be empty".to_owned(),
        (true, false) => "is not allowed to be unset".to_owned(),
    }
}

fn unsupported(colon: &str, modifier: Option<char>) -> ExpandReason {
    ExpandReason::Modifier(format!("{colon}{}", modifier.unwrap_or(char::REPLACEMENT_CHARACTER)))
}
