//! Checks that a client still answers.

use crate::{Error, connection::origin, session::Session};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tonic::Status;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

/// How often, how patiently, and how many failures in a row are too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Policy {
    interval: Duration,
    timeout: Duration,
    failures: u32,
}

impl Policy {
    /// The default is patient on purpose: a client that sends a large file over a slow line answers late.
    fn of(custom: Option<Duration>) -> Self {
        match custom {
            // Shorter would cut off clients on slow machines.
            Some(time) => {
                let time = time.max(Duration::from_secs(1));
                Self { interval: time, timeout: time, failures: 1 }
            }
            None => Self { interval: Duration::from_secs(5), timeout: Duration::from_secs(15), failures: 2 },
        }
    }
}

/// Runs for as long as the client answers; returns why it is given up.
pub(crate) async fn watch_health(session: &Session) -> Error {
    let policy = Policy::of(session.health_interval());
    let mut client = HealthClient::with_origin(session.channel(), origin());
    let mut ticks = interval(policy.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await; // the first comes at once
    let (mut failures, mut last) = (0, Duration::ZERO);
    loop {
        ticks.tick().await;
        let started = Instant::now();
        let patience = policy.timeout.max(last.mul_f64(1.5));
        let outcome = timeout(patience, client.check(HealthCheckRequest::default())).await;
        last = started.elapsed();
        let status = match outcome {
            Ok(Ok(_)) => {
                failures = 0;
                continue;
            }
            Ok(Err(status)) => status,
            Err(_) => Status::deadline_exceeded("no answer to the health check"),
        };
        failures += 1;
        tracing::warn!(session = session.id(), %status, failures, "session health check failed");
        if failures >= policy.failures {
            return Error::Unhealthy(Box::new(status));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies() {
        let ms = Duration::from_millis;
        for (custom, want) in
            [(None, (5000, 15000, 2)), (Some(ms(3)), (1000, 1000, 1)), (Some(ms(2500)), (2500, 2500, 1))]
        {
            let Policy { interval, timeout, failures } = Policy::of(custom);
            assert_eq!((interval, timeout, failures), (ms(want.0), ms(want.1), want.2));
        }
    }
}
