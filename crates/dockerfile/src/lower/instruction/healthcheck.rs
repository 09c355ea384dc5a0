//! `HEALTHCHECK`: the probe of containers.

use super::{Error, StageRun, cmd};
use crate::instruction;
use crate::lower::naming;
use cooper_oci::Healthcheck;

pub(in crate::lower) fn lower(run: &mut StageRun<'_>, check: &instruction::Healthcheck) -> Result<(), Error> {
    let ranges = run.ranges.clone();
    if let Some(earlier) = run.last_healthcheck.replace(ranges) {
        cmd::overridden(run, earlier, "HEALTHCHECK");
    }
    let test = check.test.config();
    let history = format!(
        "HEALTHCHECK {{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        naming::list(&test),
        check.interval,
        check.timeout,
        check.start_period,
        check.start_interval,
        check.retries
    );
    run.state.image.config.healthcheck = Some(Healthcheck {
        test,
        interval: check.interval.nanos(),
        timeout: check.timeout.nanos(),
        start_period: check.start_period.nanos(),
        start_interval: check.start_interval.nanos(),
        retries: i64::from(check.retries),
    });
    run.commit(history, false, false);
    Ok(())
}
