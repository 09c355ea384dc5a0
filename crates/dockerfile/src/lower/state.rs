//! What a stage has come to: files, environment, image config.

use crate::expand::Env;
use cooper_llb::{Output, default_path};
use cooper_oci::{ContainerConfig, History, ImageConfig, Platform};

/// The comment of history entries, by which tools know where an image comes from.
const HISTORY_COMMENT: &str = "buildkit.dockerfile.v0";

/// The state of a stage between two instructions. A stage on top of another starts with a copy of its last one.
#[derive(Debug, Clone)]
pub(super) struct StageState {
    pub(super) output: Output,
    /// Variables and arguments, the one set last at the end.
    pub(super) env: Env,
    /// Working directory with slashes.
    pub(super) dir: String,
    pub(super) user: String,
    pub(super) image: ImageConfig,
    /// The base image as it was, if there is one.
    pub(super) base_image: Option<ImageConfig>,
    pub(super) platform: Platform,
    /// Declared arguments with their values, oldest first.
    pub(super) args: Vec<(String, Option<String>)>,
    /// Whether a `WORKDIR` of this file was seen.
    pub(super) workdir_set: bool,
}

impl StageState {
    /// Nothing but a platform.
    pub(super) fn scratch(platform: &Platform) -> Self {
        Self::new(Output::scratch(), empty_image(platform), None, platform.clone())
    }

    /// Files with a config.
    pub(super) fn new(output: Output, image: ImageConfig, base_image: Option<ImageConfig>, platform: Platform) -> Self {
        let env = if platform.os == "windows" { Env::ignoring_case() } else { Env::new() };
        let (dir, user) = ("/".to_owned(), String::new());
        Self { output, env, dir, user, image, base_image, platform, args: Vec::new(), workdir_set: false }
    }

    /// What the stage starts with that is built on this one. Triggers are not inherited.
    pub(super) fn child(&self) -> Self {
        let mut child = self.clone();
        child.image.config.on_build.clear();
        child
    }

    /// Sets a variable for later steps.
    pub(super) fn set_env(&mut self, name: &str, value: &str) {
        self.env.remove(name);
        self.env.set(name, value);
    }

    /// Brings the environment up to the image's config, as every stage does at its start.
    pub(super) fn adopt_config(&mut self) {
        let config = &mut self.image.config;
        let named = |entry: &String| entry.split('=').next().is_some_and(|name| name == "PATH");
        // Windows sets a path of its own.
        if self.platform.os != "windows" && !config.env.iter().any(named) {
            config.env.push(format!("PATH={}", default_path(&self.platform.os)));
        }
        for entry in self.image.config.env.clone() {
            let (name, value) = entry.split_once('=').unwrap_or((&entry, ""));
            self.set_env(name, value);
        }
        if !self.image.config.user.is_empty() {
            self.user.clone_from(&self.image.config.user);
        }
    }

    /// Sets a variable of the image; one that exists keeps its place.
    pub(super) fn set_config_env(&mut self, name: &str, value: &str) {
        let windows = self.platform.os == "windows";
        let same = |entry: &&mut String| {
            let existing = entry.split('=').next().unwrap_or_default();
            existing == name || windows && existing.eq_ignore_ascii_case(name)
        };
        let entry = format!("{name}={value}");
        match self.image.config.env.iter_mut().find(same) {
            Some(existing) => *existing = entry,
            None => self.image.config.env.push(entry),
        }
    }

    /// Adds a line to the history.
    pub(super) fn commit(&mut self, created_by: String, layer: bool, epoch: Option<i64>) {
        self.image.history.push(History {
            created: epoch.map(rfc3339),
            created_by,
            comment: HISTORY_COMMENT.to_owned(),
            empty_layer: !layer,
            ..History::default()
        });
    }
}

/// The config of an image without layers.
fn empty_image(platform: &Platform) -> ImageConfig {
    let mut config = ContainerConfig { working_dir: "/".to_owned(), ..ContainerConfig::default() };
    if platform.os != "windows" {
        config.env = vec![format!("PATH={}", default_path(&platform.os))];
    }
    ImageConfig { platform: platform.clone(), config, ..ImageConfig::default() }
}

/// A time in seconds since 1970 as image documents write it, in UTC.
pub(super) fn rfc3339(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // The civil calendar from a count of days, in 400-year eras that begin on 1 March of year 0.
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (-1, "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }

    #[test]
    fn config_variables_keep_their_place() {
        let mut state = StageState::scratch(&Platform::new("linux", "amd64", ""));
        state.set_config_env("A", "1");
        state.set_config_env("PATH", "/bin");
        state.set_config_env("A", "2");
        assert_eq!(state.image.config.env, ["PATH=/bin", "A=2"]);
    }
}
