//! What progress and history show.

use crate::expand::{Env, Expander, Variables};
use cooper_oci::Platform;
use std::fmt::Write as _;

/// `os/architecture[/variant]`, without the system's version.
pub(super) fn short_platform(platform: &Platform) -> String {
    Platform { os_version: String::new(), os_features: Vec::new(), ..platform.clone() }.to_string()
}

/// As [`short_platform`], with the system's version and features.
pub(super) fn full_platform(platform: &Platform) -> String {
    if platform.os_features.is_empty() {
        return platform.to_string();
    }
    let version = format!("{}+{}", platform.os_version, platform.os_features.join("+"));
    Platform { os_version: version, ..platform.clone() }.to_string()
}

/// Counts the steps of a stage in `[stage 2/5]`.
#[derive(Debug, Clone, Default)]
pub(super) struct Steps {
    /// Name of the stage, empty when there is only one.
    pub(super) stage: String,
    pub(super) done: usize,
    pub(super) total: usize,
    /// The platform is told as well.
    pub(super) with_platform: bool,
}

impl Steps {
    /// `[linux/amd64 stage 2/5] text` for the next step.
    pub(super) fn next(&mut self, text: &str, onbuild: bool, platform: &Platform, env: &Env) -> String {
        if self.total == 0 {
            return text.to_owned();
        }
        self.done += 1;
        self.same(text, onbuild, platform, env)
    }

    /// As [`Steps::next`] for a further op of the same step.
    pub(super) fn same(&self, text: &str, onbuild: bool, platform: &Platform, env: &Env) -> String {
        if self.total == 0 {
            return text.to_owned();
        }
        let mut out = String::from("[");
        if self.with_platform {
            out.push_str(&full_platform(platform));
            out.push_str(&cross_target(platform, env));
            out.push(' ');
        }
        if !self.stage.is_empty() {
            out.push_str(&self.stage);
            out.push(' ');
        }
        let width = self.total.to_string().len();
        let onbuild = if onbuild { "ONBUILD " } else { "" };
        let _ = write!(out, "{:>width$}/{}] {onbuild}{text}", self.done, self.total);
        out
    }
}

/// `->arm64` when a stage that runs on `base` declares that it builds for something else.
fn cross_target(base: &Platform, env: &Env) -> String {
    let get = |name: &str| env.get(name).unwrap_or_default().to_owned();
    let declared = env.get("TARGETPLATFORM").and_then(|text| text.parse::<Platform>().ok());
    let parts = ["TARGETOS", "TARGETARCH", "TARGETVARIANT"];
    let target = match declared {
        Some(platform) => platform,
        None if parts.iter().any(|name| env.contains(name)) => {
            Platform { os: get(parts[0]), architecture: get(parts[1]), variant: get(parts[2]), ..Platform::default() }
        }
        None => return String::new(),
    };
    let or = |text: String, other: &str| if text.is_empty() { other.to_owned() } else { text };
    let target = Platform {
        os: or(target.os.clone(), &base.os),
        architecture: or(target.architecture.clone(), &base.architecture),
        ..target
    }
    .normalized();
    if target.os != base.os {
        format!("->{}", full_platform(&target))
    } else if target.architecture != base.architecture {
        let variant = if target.variant.is_empty() { String::new() } else { format!("/{}", target.variant) };
        format!("->{}{variant}", target.architecture)
    } else {
        String::new()
    }
}

/// A command for showing, variables filled in as far as possible, its first word in upper case.
pub(super) fn shown(rules: Expander, command: &str, env: &impl Variables) -> String {
    let text = rules.process_word(command, env).unwrap_or_else(|_| command.to_owned());
    match text.split_once(' ') {
        Some((keyword, rest)) => format!("{} {rest}", keyword.to_uppercase()),
        None => text.to_uppercase(),
    }
}

/// What steps are shown with. Shells of Windows have variables of their own, by which those of the build are not meant
/// only because case does not matter.
pub(super) struct AsWritten<'e>(pub(super) &'e Env);

impl Variables for AsWritten<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get_as_written(name)
    }
}

/// `[a b]`, as histories have always shown lists.
pub(super) fn list<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| item.as_ref().to_owned()).collect();
    format!("[{}]", items.join(" "))
}

/// `["a" "b"]`, as histories have always shown commands.
pub(super) fn quoted_list<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> String {
    list(items.into_iter().map(|item| crate::value::quoted(item.as_ref())))
}

/// The first line of a text, with dots when there are more.
pub(super) fn summary(text: &str) -> String {
    let mut lines = text.trim().lines();
    let first = lines.next().unwrap_or_default();
    if lines.next().is_some() { format!("{first}...") } else { first.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_numbered_within_their_stage() {
        let arm = Platform::new("linux", "arm64", "");
        let env = |list: &[&str]| Env::from_list(list);
        let mut steps = Steps { stage: "build".to_owned(), total: 12, ..Steps::default() };
        assert_eq!(steps.next("RUN x", false, &arm, &env(&[])), "[build  1/12] RUN x");
        assert_eq!(steps.next("RUN x", true, &arm, &env(&[])), "[build  2/12] ONBUILD RUN x");
        steps.with_platform = true;
        let name = |list: &[&str]| steps.same("x", false, &arm, &env(list));
        assert_eq!(name(&[]), "[linux/arm64 build  2/12] x");
        assert_eq!(name(&["TARGETPLATFORM=linux/amd64"]), "[linux/arm64->amd64 build  2/12] x");
        assert_eq!(name(&["TARGETARCH=arm", "TARGETVARIANT=v6"]), "[linux/arm64->arm/v6 build  2/12] x");
        assert_eq!(name(&["TARGETOS=windows"]), "[linux/arm64->windows/arm64 build  2/12] x");
        assert_eq!(name(&["TARGETPLATFORM=linux/arm64"]), "[linux/arm64 build  2/12] x");
    }
}
