//! How long to wait before another attempt.

use http::{HeaderMap, header::RETRY_AFTER};
use std::time::{Duration, SystemTime};

/// Exponential backoff with jitter, bounded in attempts and in time.
#[derive(Debug, Clone)]
pub struct Backoff {
    /// Attempts in all, the first included. An attempt that makes progress starts the count anew.
    pub attempts: u32,
    /// Pause before the second attempt; doubled before each further one.
    pub first: Duration,
    /// Longest pause, what a server asks for in `Retry-After` included.
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { attempts: 5, first: Duration::from_millis(250), longest: Duration::from_secs(30) }
    }
}

impl Backoff {
    /// The pause after `failures` failures in a row, `None` when it is time to give up. `asked` is the server's wish.
    pub fn pause(&self, failures: u32, asked: Option<Duration>) -> Option<Duration> {
        if failures >= self.attempts {
            return None;
        }
        if let Some(asked) = asked {
            return Some(asked.min(self.longest));
        }
        let exponential = self.first.saturating_mul(1 << (failures.saturating_sub(1)).min(16));
        // Half fixed, half random: clients that failed together come back apart.
        Some(exponential.min(self.longest).mul_f64(0.5 + 0.5 * rand::random::<f64>()))
    }
}

/// `Retry-After` in seconds or as an HTTP date (RFC 9110, section 10.2.3).
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?;
    let until = SystemTime::from(date.timestamp());
    Some(until.duration_since(SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let backoff = Backoff { attempts: 4, first: Duration::from_secs(1), longest: Duration::from_secs(3) };
        for (failures, from, to) in [(1, 500, 1000), (2, 1000, 2000), (3, 1500, 3000)] {
            let pause = backoff.pause(failures, None).unwrap().as_millis();
            assert!((from..=to).contains(&pause), "{failures}: {pause}");
        }
        assert_eq!(backoff.pause(4, None), None);
        assert_eq!(backoff.pause(1, Some(Duration::from_secs(2))), Some(Duration::from_secs(2)));
        assert_eq!(backoff.pause(1, Some(Duration::from_secs(999))), Some(Duration::from_secs(3)));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let of = |text: &str| retry_after(&HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]));
        assert_eq!(of("7"), Some(Duration::from_secs(7)));
        assert_eq!(of("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert!(of("Wed, 21 Oct 2099 07:28:00 GMT").unwrap() > Duration::from_secs(86400));
        assert_eq!(of("soon"), None);
    }
}
