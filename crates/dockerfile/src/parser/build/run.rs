//! `RUN`

use super::copy::list;
use super::simple::command_line;
use super::{Fault, Request};
use crate::diagnostic::{Problem, nearest};
use crate::instruction::{Device, MountSpec, NetworkMode, Run, SecurityMode};
use crate::source::{Span, Word};
use crate::value::{csv_fields, parse_bool};

pub(super) fn run(request: Request<'_>) -> Result<Run, Fault> {
    request.check_flags()?;
    let end = Span::new(request.head.span.end, request.head.span.end);
    let Request { head, args, heredocs, .. } = request;
    let command = command_line(args, end);
    let devices = list(&head, "device").into_iter().map(device).collect::<Result<_, _>>()?;
    let mounts = list(&head, "mount").into_iter().map(mount).collect::<Result<_, _>>()?;
    let network = match head.flag("network").and_then(|flag| flag.value.as_ref()) {
        None => NetworkMode::default(),
        Some(value) => match value.text.as_str() {
            "default" => NetworkMode::Default,
            "none" => NetworkMode::None,
            "host" => NetworkMode::Host,
            other => {
                let problem = Problem::NetworkMode(other.to_owned());
                let suggestion = nearest(other, ["default", "none", "host"], false);
                return Err(Fault { problem, span: value.span, suggestion });
            }
        },
    };
    let security = match head.flag("security").and_then(|flag| flag.value.as_ref()) {
        None => SecurityMode::default(),
        Some(value) => match value.text.as_str() {
            "sandbox" => SecurityMode::Sandbox,
            "insecure" => SecurityMode::Insecure,
            other => {
                let problem = Problem::SecurityMode(other.to_owned());
                let suggestion = nearest(other, ["sandbox", "insecure"], false);
                return Err(Fault { problem, span: value.span, suggestion });
            }
        },
    };
    Ok(Run { head, command, heredocs, mounts, network, security, devices })
}

fn mount(value: Word) -> Result<MountSpec, Fault> {
    MountSpec::parse(value).map_err(|boxed| {
        let (problem, span) = *boxed;
        Fault::at(problem, span)
    })
}

/// `name[,required]`, where a name may be given as `name=…`, and `required` as `required=bool`.
fn device(word: Word) -> Result<Device, Fault> {
    let fault = |problem| Fault::at(problem, word.span);
    let fields = csv_fields(&word.text).map_err(|reason| fault(Problem::Csv { what: "devices", reason }))?;
    let (mut name, mut required) = (String::new(), false);
    for field in fields {
        let field = field.text;
        let pair = field.split_once('=').map(|(key, value)| (key.to_lowercase(), value));
        match &pair {
            None if field.eq_ignore_ascii_case("required") => required = true,
            None if name.is_empty() => name = field,
            None => return Err(fault(Problem::FieldWithoutValue(field))),
            Some((key, value)) if key == "name" => {
                if !name.is_empty() {
                    return Err(fault(Problem::DeviceNamedTwice(name)));
                }
                (*value).clone_into(&mut name);
            }
            Some((key, value)) if key == "required" => {
                let invalid = || fault(Problem::InvalidValue { key: key.clone(), value: (*value).to_owned() });
                required = parse_bool(value).ok_or_else(invalid)?;
            }
            Some(_) if name.is_empty() => name.clone_from(&field),
            Some((key, _)) => {
                let suggestion = nearest(key, ["name", "required"], false);
                let problem = Problem::UnexpectedKey { key: key.clone(), field: field.clone() };
                return Err(Fault { problem, span: word.span, suggestion });
            }
        }
    }
    Ok(Device { name, required, word })
}
