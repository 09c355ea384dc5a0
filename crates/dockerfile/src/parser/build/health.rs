//! `HEALTHCHECK`

use super::simple::command_line;
use super::{Args, Fault, Request};
use crate::diagnostic::Problem;
use crate::instruction::{Head, Healthcheck, HealthcheckTest};
use crate::parser::text::Part;
use crate::source::Word;
use crate::value::GoDuration;

/// Cuts off the first word.
pub(super) fn split(rest: Part<'_>) -> (Option<Word>, Part<'_>) {
    let text = rest.as_str();
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    let kind = (end > 0).then(|| rest.slice(0, end).word());
    (kind, rest.from(end).trim())
}

pub(super) fn healthcheck(request: Request<'_>) -> Result<Healthcheck, Fault> {
    let here = request.here();
    let checked = request.check_flags();
    let (kind, args) = match request.args {
        Args::Health(Some(kind), args) => (kind, *args),
        _ => return Err(Fault::at(Problem::AtLeastOneArgument("HEALTHCHECK"), here)),
    };
    let head = request.head;
    let command = command_line(args, kind.span);
    let upper = kind.text.to_uppercase();
    if upper == "NONE" {
        if !command.is_empty() {
            return Err(Fault::at(Problem::HealthcheckNoneArguments, kind.span));
        }
        let zero = GoDuration::default();
        return Ok(Healthcheck {
            head,
            test: HealthcheckTest::None,
            interval: zero,
            timeout: zero,
            start_period: zero,
            start_interval: zero,
            retries: 0,
        });
    }
    checked?;
    if upper != "CMD" {
        return Err(Fault::at(Problem::HealthcheckType(upper), kind.span));
    }
    if command.is_empty() {
        return Err(Fault::at(Problem::HealthcheckNoCommand, kind.span));
    }
    Ok(Healthcheck {
        test: HealthcheckTest::Cmd(command),
        interval: duration(&head, "interval")?,
        timeout: duration(&head, "timeout")?,
        start_period: duration(&head, "start-period")?,
        start_interval: duration(&head, "start-interval")?,
        retries: retries(&head)?,
        head,
    })
}

/// Anything shorter that is not zero is refused.
const SHORTEST: GoDuration = GoDuration::from_nanos(1_000_000);

fn duration(head: &Head, name: &str) -> Result<GoDuration, Fault> {
    let Some(value) = super::copy::text(head, name) else { return Ok(GoDuration::default()) };
    let duration = GoDuration::parse(&value.text).map_err(|e| Fault::at(Problem::Duration(e), value.span))?;
    if !duration.is_zero() && duration < SHORTEST {
        return Err(Fault::at(Problem::IntervalTooShort(name.to_owned()), value.span));
    }
    Ok(duration)
}

fn retries(head: &Head) -> Result<u32, Fault> {
    let Some(value) = super::copy::text(head, "retries") else { return Ok(0) };
    let fault = |problem| Err(Fault::at(problem, value.span));
    match value.text.parse::<i128>() {
        Ok(number @ 0..=0x7fff_ffff) => Ok(number as u32),
        Ok(number @ -0x8000_0000..0) => fault(Problem::NegativeRetries(number as i64)),
        other => {
            let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            let digits = value.text.strip_prefix(['-', '+']).unwrap_or(&value.text);
            let reason = if other.is_ok() || is_number(digits) { "value out of range" } else { "invalid syntax" };
            fault(Problem::RetriesNumber { value: value.text.clone(), reason })
        }
    }
}
