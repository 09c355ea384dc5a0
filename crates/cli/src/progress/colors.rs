//! Colours of the live display: `NO_COLOR` switches them off, `BUILDKIT_COLORS` changes them.

use crate::csv;

/// Escape sequences that begin a colour; empty ones print nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Palette {
    /// Completed steps.
    pub run: String,
    /// Cancelled steps, and warnings under a step.
    pub cancel: String,
    /// Warnings.
    pub warning: String,
    /// Failed steps.
    pub error: String,
    /// Output of running steps.
    pub faint: String,
}

const NAMES: [&str; 8] = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];

impl Palette {
    /// No colour at all.
    pub fn none() -> Self {
        let none = String::new;
        Self { run: none(), cancel: none(), warning: none(), error: none(), faint: none() }
    }

    /// The user's choice: `BUILDKIT_COLORS=run=green:error=1,2,3`. What cannot be read is left as it is.
    pub fn from_env(env: impl Fn(&str) -> Option<String>) -> Self {
        if env("NO_COLOR").is_some_and(|value| !value.is_empty()) {
            return Self::none();
        }
        let named = |name| foreground(name).unwrap_or_default();
        let mut palette = Self {
            run: named("blue"),
            cancel: named("yellow"),
            warning: named("yellow"),
            error: named("red"),
            faint: "\x1b[2m".into(),
        };
        let wishes = env("BUILDKIT_COLORS").and_then(|text| csv::fields_separated_by(&text, ':').ok());
        for wish in wishes.unwrap_or_default() {
            let Some((role, color)) = wish.split_once('=') else { continue };
            let Some(sequence) = foreground(&color.to_ascii_lowercase()).or_else(|| rgb(color)) else { continue };
            match role.to_ascii_lowercase().as_str() {
                "run" => palette.run = sequence,
                "cancel" => palette.cancel = sequence,
                "warning" => palette.warning = sequence,
                "error" => palette.error = sequence,
                _ => {}
            }
        }
        palette
    }
}

fn foreground(name: &str) -> Option<String> {
    if name == "default" {
        return Some("\x1b[39m".into());
    }
    let (base, name) = name.strip_prefix("light-").map_or((30, name), |name| (90, name));
    let index = NAMES.iter().position(|known| *known == name)?;
    Some(format!("\x1b[{}m", base + index))
}

fn rgb(text: &str) -> Option<String> {
    let parts: Option<Vec<u8>> = text.split(',').map(|part| part.parse().ok()).collect();
    match parts?[..] {
        [r, g, b] => Some(format!("\x1b[38;2;{r};{g};{b}m")),
        _ => None,
    }
}
