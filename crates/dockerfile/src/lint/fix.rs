//! Repairs: changes of a file's text that a warning offers.

use crate::source::Span;

/// A replacement of a stretch of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// What goes.
    pub span: Span,
    /// What comes.
    pub text: String,
}

impl Edit {
    /// Replaces `span` by `text`.
    pub fn replace(span: Span, text: impl Into<String>) -> Self {
        Self { span, text: text.into() }
    }

    /// Removes `span`.
    pub fn remove(span: Span) -> Self {
        Self::replace(span, "")
    }
}

/// A repair: edits that make sense only together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fix {
    /// What it does, in the imperative.
    pub title: String,
    /// The edits.
    pub edits: Vec<Edit>,
}

/// The outcome of [`apply_fixes`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed {
    /// The new text.
    pub text: String,
    /// How many repairs were made.
    pub applied: usize,
    /// How many were left because they touch what another one changed; another round of lint finds them again.
    pub conflicting: usize,
}

/// Makes repairs in the order given. One that overlaps an earlier one is left out whole; one that equals an earlier
/// one counts as made.
pub fn apply_fixes<'f>(text: &str, fixes: impl IntoIterator<Item = &'f Fix>) -> Fixed {
    let mut edits: Vec<&Edit> = Vec::new();
    let (mut applied, mut conflicting) = (0, 0);
    for fix in fixes {
        let fits = |edit: &Edit| text.get(edit.span.start..edit.span.end).is_some();
        let clear = |edit: &Edit| edits.iter().all(|other| !overlap(other.span, edit.span));
        if fix.edits.iter().all(|edit| edits.contains(&edit)) {
            applied += 1;
        } else if fix.edits.iter().all(|edit| fits(edit) && clear(edit)) {
            edits.extend(&fix.edits);
            applied += 1;
        } else {
            conflicting += 1;
        }
    }
    edits.sort_by_key(|edit| edit.span);
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for edit in edits {
        // Edits of one repair that overlap are a mistake; the later one is dropped rather than the text torn.
        if edit.span.start >= at {
            out.push_str(&text[at..edit.span.start]);
            out.push_str(&edit.text);
            at = edit.span.end;
        }
    }
    out.push_str(&text[at..]);
    Fixed { text: out, applied, conflicting }
}

fn overlap(a: Span, b: Span) -> bool {
    a.start < b.end && b.start < a.end || a.start == b.start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_repairs_wait_for_the_next_round() {
        let fix = |edits: &[(usize, usize, &str)]| Fix {
            title: String::new(),
            edits: edits.iter().map(|&(start, end, text)| Edit::replace(Span::new(start, end), text)).collect(),
        };
        let fixes = [fix(&[(6, 7, "X"), (0, 1, "Y")]), fix(&[(5, 8, "")]), fix(&[(3, 3, "+")]), fix(&[(6, 7, "X")])];
        let fixed = apply_fixes("abcdefgh", &fixes);
        assert_eq!(fixed, Fixed { text: "Ybc+defXh".to_owned(), applied: 3, conflicting: 1 });
        assert_eq!(apply_fixes("é", &[fix(&[(1, 2, "")])]).conflicting, 1);
    }
}
