//! Shell patterns in `${v#p}`, `${v%p}` and `${v/p/r}`: `*`, `?`, and `\` before `*`, `?`, `\`, `}` or `/`.

use super::ExpandReason;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    /// `*`: any characters but line feeds.
    Any,
    /// `?`: one character that is not a line feed.
    One,
    Char(char),
}

/// A parsed pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(Vec<Token>);

impl Pattern {
    pub(super) fn parse(text: &str) -> Result<Self, ExpandReason> {
        let mut tokens = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' => Token::Any,
                '?' => Token::One,
                '\\' => match chars.next() {
                    Some(escaped @ ('*' | '?' | '\\' | '}' | '/')) => Token::Char(escaped),
                    other => {
                        let escape = other.unwrap_or(char::REPLACEMENT_CHARACTER);
                        return Err(ExpandReason::PatternEscape { pattern: text.to_owned(), escape });
                    }
                },
                c => Token::Char(c),
            });
        }
        Ok(Self(tokens))
    }

    /// Lengths in characters of the prefixes of `value` that the pattern matches: the shortest and the longest.
    fn prefix_lengths(tokens: impl Iterator<Item = Token>, value: &[char]) -> Option<(usize, usize)> {
        // `at[i]`: the tokens so far can match exactly the first `i` characters.
        let mut at = vec![false; value.len() + 1];
        at[0] = true;
        for token in tokens {
            let mut next = vec![false; value.len() + 1];
            for i in 0..=value.len() {
                let takes_previous = i > 0
                    && match token {
                        Token::Any => next[i - 1] && value[i - 1] != '\n',
                        Token::One => at[i - 1] && value[i - 1] != '\n',
                        Token::Char(c) => at[i - 1] && value[i - 1] == c,
                    };
                next[i] = takes_previous || (token == Token::Any && at[i]);
            }
            at = next;
        }
        Some((at.iter().position(|hit| *hit)?, at.iter().rposition(|hit| *hit)?))
    }

    /// Length of the longest prefix of `value` that matches. Quick where the pattern is, as it mostly is, plain text.
    fn longest_at(&self, value: &[char]) -> Option<usize> {
        let tokens = &self.0;
        let fits = |(token, c): (&Token, &char)| match token {
            Token::Char(wanted) => wanted == c,
            Token::One | Token::Any => *c != '\n',
        };
        let head = tokens.iter().position(|token| *token == Token::Any).unwrap_or(tokens.len());
        if value.len() < head || !tokens[..head].iter().zip(value).all(fits) {
            return None;
        }
        match &tokens[head..] {
            [] => Some(head),
            rest => Self::prefix_lengths(rest.iter().copied(), &value[head..]).map(|(_, long)| head + long),
        }
    }

    /// The value without the shortest or longest prefix that matches.
    pub(super) fn trim_prefix<'v>(&self, value: &'v str, longest: bool) -> &'v str {
        let chars: Vec<char> = value.chars().collect();
        let Some((short, long)) = Self::prefix_lengths(self.0.iter().copied(), &chars) else { return value };
        let cut = if longest { long } else { short };
        &value[chars[..cut].iter().map(|c| c.len_utf8()).sum()..]
    }

    /// The value without the shortest or longest suffix that matches.
    pub(super) fn trim_suffix<'v>(&self, value: &'v str, longest: bool) -> &'v str {
        let reversed: Vec<char> = value.chars().rev().collect();
        let Some((short, long)) = Self::prefix_lengths(self.0.iter().rev().copied(), &reversed) else { return value };
        let cut = if longest { long } else { short };
        &value[..value.len() - reversed[..cut].iter().map(|c| c.len_utf8()).sum::<usize>()]
    }

    /// The value with the first, or every, longest match replaced.
    pub(super) fn replace(&self, value: &str, replacement: &str, all: bool) -> String {
        let chars: Vec<char> = value.chars().collect();
        let mut out = String::with_capacity(value.len());
        let (mut at, mut last_end) = (0, 0);
        while at <= chars.len() {
            let found = self.longest_at(&chars[at..]).map(|len| at + len);
            match found {
                // An empty match right behind the last one is none.
                Some(end) if end > last_end || at == 0 => {
                    out.push_str(replacement);
                    last_end = end;
                    if !all {
                        out.extend(&chars[end..]);
                        return out;
                    }
                    if end > at {
                        at = end;
                        continue;
                    }
                }
                _ => {}
            }
            out.extend(chars.get(at));
            at += 1;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_that_patterns_know() {
        for bad in [r"\", r"\x", r"\\\"] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Pattern::parse(r"\}\/").unwrap(), Pattern(vec![Token::Char('}'), Token::Char('/')]));
    }

    #[test]
    fn replaces() {
        let check = |pattern: &str, value: &str, all, expected: &str| {
            assert_eq!(Pattern::parse(pattern).unwrap().replace(value, "-", all), expected, "{pattern} in {value}");
        };
        check("", "ab", false, "-ab");
        check("", "ab", true, "-a-b-");
        check("a*", "xaab", true, "x-");
        check("?", "äb\n", true, "--\n");
        check("b", "abcb", true, "a-c-");
        check("b", "abcb", false, "a-cb");
        check("z", "abc", true, "abc");
    }
}
