use prost::Message as _;
use tonic::Code;

use super::*;
use crate::program::Program;

const DOCKERFILE: &str = "FROM busybox\nWORKDIR /a\nCOPY . .\nRUN false\nRUN true\nCMD [\"sh\"]\n";

fn status(code: Code, message: &str, details: &[(&str, String)]) -> tonic::Status {
    let details = details
        .iter()
        .map(|(name, json)| prost_types::Any {
            type_url: format!("github.com/moby/buildkit/{name}+json"),
            value: json.clone().into_bytes(),
        })
        .collect();
    let bytes = cooper_wire::rpc::Status { code: code as i32, message: message.into(), details }.encode_to_vec();
    tonic::Status::with_details(code, message, bytes.into())
}

fn source(ranges: &[(usize, usize)]) -> (&'static str, String) {
    use base64::Engine as _;
    let data = base64::engine::general_purpose::STANDARD.encode(DOCKERFILE);
    let ranges: Vec<_> =
        ranges.iter().map(|(s, e)| serde_json::json!({"start": {"line": s}, "end": {"line": e}})).collect();
    (
        "errdefs.Source",
        serde_json::json!({"info": {"filename": "Dockerfile", "data": data}, "ranges": ranges}).to_string(),
    )
}

fn shown(status: tonic::Status, program: Program) -> String {
    report(&CliError::rpc("failed to solve")(status), program)
}

#[test]
fn failing_step_shows_its_line() {
    let details = [source(&[(4, 4)]), ("gatewayapi.ExitMessage", r#"{"Code":127}"#.into())];
    let message = "process \"/bin/sh -c false\" did not complete successfully: exit code: 127";
    insta::assert_snapshot!(shown(status(Code::Unknown, message, &details), Program::Buildctl), @r#"
    Dockerfile:4
    --------------------
       2 |     WORKDIR /a
       3 |     COPY . .
       4 | >>> RUN false
       5 |     RUN true
       6 |     CMD ["sh"]
    --------------------
    error: failed to solve: process "/bin/sh -c false" did not complete successfully: exit code: 127
    "#);
    insta::assert_snapshot!(shown(status(Code::Unknown, message, &details), Program::Cooper), @r#"
    Dockerfile:4
    --------------------
       2 |     WORKDIR /a
       3 |     COPY . .
       4 | >>> RUN false
       5 |     RUN true
       6 |     CMD ["sh"]
    --------------------
    ERROR: failed to solve: process "/bin/sh -c false" did not complete successfully: exit code: 127
    hint: the command was not found in the image; check its spelling, PATH, and that the base image contains it
    "#);
}

#[test]
fn several_ranges_and_odd_places() {
    insta::assert_snapshot!(shown(status(Code::Unknown, "x", &[source(&[(1, 1), (3, 4)])]), Program::Buildctl), @r"
    Dockerfile:1
    --------------------
       1 | >>> FROM busybox
       2 |     WORKDIR /a
       3 | >>> COPY . .
       4 | >>> RUN false
       5 |     RUN true
    --------------------
    error: failed to solve: x
    ");
    for ranges in [&[][..], &[(0, 0)], &[(99, 99)]] {
        let text = shown(status(Code::Unknown, "x", &[source(ranges)]), Program::Buildctl);
        assert_eq!(text, "error: failed to solve: x\n", "{ranges:?} has no excerpt");
    }
    let broken = [("errdefs.Source", "not json".to_owned()), ("unknown.Detail", "{}".to_owned())];
    assert_eq!(shown(status(Code::Unknown, "x", &broken), Program::Buildctl), "error: failed to solve: x\n");
}

#[test]
fn codes_denials_and_missing_things() {
    let deny = ("policysession.DecisionResponse", r#"{"action":1,"denyMessages":[{"message":"no"},{}]}"#.to_owned());
    insta::assert_snapshot!(shown(status(Code::InvalidArgument, "source denied", &[deny]), Program::Buildctl), @r"
    policy deny: no
    error: failed to solve: InvalidArgument: source denied
    ");
    let cap = ("errdefs.FrontendCap", r#"{"name":"moby.buildkit.frontend.contexts"}"#.to_owned());
    insta::assert_snapshot!(shown(status(Code::Unimplemented, "unsupported", &[cap]), Program::Cooper), @r"
    ERROR: failed to solve: Unimplemented: unsupported
    hint: the frontend lacks moby.buildkit.frontend.contexts; a newer one may have it
    ");
}

#[test]
fn other_ends() {
    let connect = CliError::Connect { address: "unix:///x.sock".into(), cause: "No such file or directory".into() };
    insta::assert_snapshot!(report(&connect, Program::Buildctl), @r#"error: failed to dial "unix:///x.sock": No such file or directory"#);
    assert_eq!(report(&CliError::Exit(3), Program::Cooper), "");
    assert_eq!(report(&CliError::BrokenPipe, Program::Cooper), "");
    assert_eq!((connect.exit_code(), CliError::Exit(3).exit_code()), (1, 3));
}
