//! Conditions on build records: `status=error`, `repository~=example`, `startedAt>24h`, `duration>=90s`.

use super::BuildRecord;
use std::time::{Duration, SystemTime};

/// A filter that makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("parse error in history filter {filter:?}: {reason}")]
pub struct HistoryFilterError {
    filter: String,
    reason: String,
}

/// Alternatives, each of conditions that must all hold.
pub struct Filters(Vec<Vec<Condition>>);

enum Condition {
    Text { field: TextField, test: Test },
    Time { field: TimeField, comparison: Comparison, than: SystemTime },
    Lasted { comparison: Comparison, than: Duration },
}

#[derive(Clone, Copy)]
enum TextField {
    Ref,
    Status,
    Repository,
}

#[derive(Clone, Copy)]
enum TimeField {
    Started,
    Completed,
}

enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(regex::Regex),
}

#[derive(Clone, Copy)]
enum Comparison {
    AtLeast,
    AtMost,
    More,
    Less,
}

impl Comparison {
    fn holds<T: Ord>(self, value: &T, than: &T) -> bool {
        match self {
            Self::AtLeast => value >= than,
            Self::AtMost => value <= than,
            Self::More => value > than,
            Self::Less => value < than,
        }
    }
}

impl Filters {
    /// Reads what a client sent.
    pub fn parse(filters: &[String]) -> Result<Self, HistoryFilterError> {
        let alternative = |filter: &String| {
            let fail = |reason| HistoryFilterError { filter: filter.clone(), reason };
            let parts = split(filter).map_err(fail)?;
            parts.iter().map(|p| Condition::parse(p)).collect::<Result<Vec<_>, _>>().map_err(fail)
        };
        Ok(Self(filters.iter().map(alternative).collect::<Result<_, _>>()?))
    }

    /// Whether a record is to be shown.
    pub fn matches(&self, record: &BuildRecord) -> bool {
        self.0.is_empty() || self.0.iter().any(|all| all.iter().all(|c| c.holds(record)))
    }
}

/// Splits at commas outside double quotes; a quoted part may hold commas, and quotes twice.
fn split(line: &str) -> Result<Vec<String>, String> {
    let mut parts = vec![String::new()];
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        let last = parts.len() - 1;
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                parts[last].push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => parts.push(String::new()),
            c => parts[last].push(c),
        }
    }
    if quoted {
        return Err("a quote is not closed".to_owned());
    }
    Ok(parts.into_iter().map(|p| p.trim().to_owned()).filter(|p| !p.is_empty()).collect())
}

impl Condition {
    fn parse(part: &str) -> Result<Self, String> {
        let end = part.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(part.len());
        let (field, rest) = part.split_at(end);
        match field {
            "startedAt" => Self::time(TimeField::Started, rest),
            "completedAt" => Self::time(TimeField::Completed, rest),
            "duration" => {
                let (comparison, value) = comparison(rest)?;
                let than = duration(value).ok_or_else(|| format!("{value:?} is no duration, such as 1m30s"))?;
                Ok(Self::Lasted { comparison, than })
            }
            "ref" => Self::text(TextField::Ref, rest),
            "status" => Self::text(TextField::Status, rest),
            "repository" => Self::text(TextField::Repository, rest),
            _ => Err(format!(
                "unknown field {field:?}; known are ref, status, repository, startedAt, completedAt, duration"
            )),
        }
    }

    fn time(field: TimeField, rest: &str) -> Result<Self, String> {
        let (comparison, value) = comparison(rest)?;
        let than = if let Some(ago) = duration(value) {
            SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH)
        } else {
            let at: jiff::Timestamp =
                value.parse().map_err(|_| format!("{value:?} is neither a duration nor a time (RFC 3339)"))?;
            at.into()
        };
        Ok(Self::Time { field, comparison, than })
    }

    fn text(field: TextField, rest: &str) -> Result<Self, String> {
        let test = if rest.is_empty() {
            Test::Present
        } else if let Some(pattern) = rest.strip_prefix("~=") {
            Test::Matches(regex::Regex::new(pattern).map_err(|e| e.to_string())?)
        } else if let Some(value) = rest.strip_prefix("!=") {
            Test::NotEqual(value.to_owned())
        } else if let Some(value) = rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')) {
            Test::Equal(value.to_owned())
        } else {
            return Err(format!("{rest:?} is no comparison; expected =, != or ~="));
        };
        Ok(Self::Text { field, test })
    }

    fn holds(&self, record: &BuildRecord) -> bool {
        match self {
            Self::Text { field, test } => {
                let value = field.of(record);
                match test {
                    Test::Present => value.is_some(),
                    Test::Equal(want) => value.as_deref() == Some(want),
                    Test::NotEqual(want) => value.as_deref() != Some(want),
                    Test::Matches(pattern) => value.is_some_and(|v| pattern.is_match(&v)),
                }
            }
            Self::Time { field, comparison, than } => {
                let value = match field {
                    TimeField::Started => Some(record.created),
                    TimeField::Completed => record.completed,
                };
                comparison.holds(&value.unwrap_or(SystemTime::UNIX_EPOCH), than)
            }
            Self::Lasted { comparison, than } => {
                let lasted = record.completed.and_then(|end| end.duration_since(record.created).ok());
                comparison.holds(&lasted.unwrap_or_default(), than)
            }
        }
    }
}

impl TextField {
    fn of(self, record: &BuildRecord) -> Option<String> {
        match self {
            Self::Ref => Some(record.id.clone()),
            Self::Status => Some(status(record).to_owned()),
            Self::Repository => record.attrs.get("vcs:source").cloned().or_else(|| {
                let context = record.attrs.get("context")?;
                cooper_llb::GitUrl::parse(context).ok().map(|url| url.remote)
            }),
        }
    }
}

fn status(record: &BuildRecord) -> &'static str {
    match (&record.completed, &record.error) {
        (None, _) => "running",
        (Some(_), None) => "completed",
        (Some(_), Some(error)) if error.message.contains("context canceled") => "canceled",
        (Some(_), Some(_)) => "error",
    }
}

fn comparison(rest: &str) -> Result<(Comparison, &str), String> {
    let known =
        [(">=", Comparison::AtLeast), ("<=", Comparison::AtMost), (">", Comparison::More), ("<", Comparison::Less)];
    let found = known.into_iter().find_map(|(sign, c)| rest.strip_prefix(sign).map(|value| (c, value)));
    found.ok_or_else(|| format!("{rest:?} is no comparison; expected >, >=, < or <="))
}

/// A duration as in `1h2m3.5s` or `300ms`.
fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut sum = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, unit) = rest.split_at(digits);
        let end = unit.find(|c: char| c.is_ascii_digit()).unwrap_or(unit.len());
        let seconds = match &unit[..end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        sum += number.parse::<f64>().ok()? * seconds;
        rest = &unit[end..];
    }
    (!text.is_empty()).then(|| Duration::try_from_secs_f64(sum).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::BuildRequest;

    fn records() -> Vec<BuildRecord> {
        let record = |id: &str, attr: (&str, &str), hours_ago: u64, minutes: Option<u64>| {
            let mut record = BuildRecord::begin(&BuildRequest { id: id.to_owned(), ..BuildRequest::default() });
            record.attrs.insert(attr.0.to_owned(), attr.1.to_owned());
            record.created = SystemTime::now() - Duration::from_secs(hours_ago * 3600);
            record.completed = minutes.map(|m| record.created + Duration::from_secs(m * 60));
            record
        };
        vec![
            record("alpha1", ("x", ""), 24, Some(1)),
            record("beta2", ("context", "https://example.com/user/repo.git#1234567"), 23, None),
            record("alpha3", ("vcs:source", "inside"), 22, Some(10)),
        ]
    }

    #[test]
    fn filters_select_records() {
        let records = records();
        for (filter, expected) in [
            ("ref==alpha", ""),
            ("ref~=alpha", "alpha1 alpha3"),
            ("repository!=inside", "alpha1 beta2"),
            ("repository=https://example.com/user/repo.git", "beta2"),
            ("repository", "beta2 alpha3"),
            ("repository!=inside,ref~=alpha", "alpha1"),
            ("\"status=running\"", "beta2"),
            ("completedAt>23h", "alpha3"),
            ("startedAt<23h30m", "alpha1"),
            ("duration>=10m", "alpha3"),
            ("duration<2m,status=completed", "alpha1"),
            ("startedAt>2020-01-01T00:00:00Z", "alpha1 beta2 alpha3"),
        ] {
            let filters = Filters::parse(&[filter.to_owned()]).unwrap();
            let found: Vec<&str> = records.iter().filter(|r| filters.matches(r)).map(|r| r.id.as_str()).collect();
            assert_eq!(found.join(" "), expected, "{filter}");
        }
    }

    #[test]
    fn bad_filters_say_why() {
        let errors = ["ref+x", "colour=red", "duration>red", "startedAt=1h", "\"ref"];
        let errors = errors.map(|f| Filters::parse(&[f.to_owned()]).err().unwrap().to_string());
        insta::assert_snapshot!(errors.join("\n"), @r#"
        parse error in history filter "ref+x": "+x" is no comparison; expected =, != or ~=
        parse error in history filter "colour=red": unknown field "colour"; known are ref, status, repository, startedAt, completedAt, duration
        parse error in history filter "duration>red": "red" is no duration, such as 1m30s
        parse error in history filter "startedAt=1h": "=1h" is no comparison; expected >, >=, < or <=
        parse error in history filter "\"ref": a quote is not closed
        "#);
    }
}
