//! Rules about sources: which a build may use, and what is used in their place. Pure; asking a client's own policy
//! is the bridge's part.

use cooper_llb::pb;
use cooper_oci::Digest;
use cooper_wire::sourcepolicy::{AttrConstraint, AttrMatch, MatchType, Policy, PolicyAction, Rule, Selector};
use prost::{
    Message as _,
    encoding::{DecodeContext, WireType, decode_key, encode_key, encode_varint, skip_field},
};
use regex::Regex;
use std::collections::HashMap;

/// Most conversions of one source before its rules count as a loop.
const MAX_CONVERSIONS: usize = 20;

/// What governs the sources of a build.
#[derive(Debug, Clone, Default)]
pub struct SourcePolicy {
    /// Rules that came with the build.
    pub rules: Vec<Policy>,
    /// The session that decides about each source; empty for none.
    pub session: String,
}

impl SourcePolicy {
    /// Refuses rules that say too little.
    pub fn validate(&self) -> Result<(), PolicyError> {
        validate(&self.rules)
    }
}

/// Why a source cannot be used, or a rule not be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// A rule forbids it.
    #[error("source {0:?} denied by policy: source denied by policy")]
    Denied(String),
    /// The rules convert in circles.
    #[error("too many mutations on a single source: too many operations")]
    Loop,
    /// A rule without selector.
    #[error("invalid nil selector in policy")]
    NoSelector,
    /// A rule whose action this version does not know.
    #[error("source policy: rule {action} {selector}: unknown type {source_name:?}")]
    Action {
        /// The action's number.
        action: i32,
        /// The rule's selector.
        selector: String,
        /// The source that it selects.
        source_name: String,
    },
    /// A selector that cannot be compared with a source.
    #[error("error matching source policy: {0}")]
    Match(String),
    /// A conversion into nothing.
    #[error("error mutating source policy: missing destination for convert rule")]
    NoDestination,
}

/// Refuses rules that say too little.
pub fn validate(policies: &[Policy]) -> Result<(), PolicyError> {
    let incomplete = policies.iter().flat_map(|p| &p.rules).any(|rule| rule.selector.is_none());
    if incomplete { Err(PolicyError::NoSelector) } else { Ok(()) }
}

/// Applies `policies` to a source. Returns whether it is another one now.
///
/// Within a policy the last ALLOW or DENY that matches wins, and the first CONVERT that changes something starts the
/// evaluation over with the new source.
pub fn evaluate(policies: &[Policy], source: &mut pb::SourceOp) -> Result<bool, PolicyError> {
    validate(policies)?;
    let mut changed = false;
    for _ in 0..=MAX_CONVERSIONS {
        if !one_round(policies, source)? {
            return Ok(changed);
        }
        changed = true;
    }
    Err(PolicyError::Loop)
}

fn one_round(policies: &[Policy], source: &mut pb::SourceOp) -> Result<bool, PolicyError> {
    for policy in policies {
        let mut denied = false;
        for rule in &policy.rules {
            let Some(selector) = &rule.selector else { return Err(PolicyError::NoSelector) };
            if !selects(selector, source).map_err(PolicyError::Match)? {
                continue;
            }
            match PolicyAction::try_from(rule.action) {
                Ok(PolicyAction::Allow) => denied = false,
                Ok(PolicyAction::Deny) => denied = true,
                Ok(PolicyAction::Convert) => {
                    if convert(rule, selector, source)? {
                        return Ok(true);
                    }
                }
                Err(_) => {
                    return Err(PolicyError::Action {
                        action: rule.action,
                        selector: selector.identifier.clone(),
                        source_name: source.identifier.clone(),
                    });
                }
            }
        }
        if denied {
            return Err(PolicyError::Denied(source.identifier.clone()));
        }
    }
    Ok(false)
}

fn selects(selector: &Selector, source: &pb::SourceOp) -> Result<bool, String> {
    for constraint in &selector.constraints {
        if !holds(constraint, source)? {
            return Ok(false);
        }
    }
    if selector.identifier == source.identifier {
        return Ok(true);
    }
    Ok(pattern(selector)?.is_some_and(|p| p.is_match(&source.identifier)))
}

fn holds(constraint: &AttrConstraint, source: &pb::SourceOp) -> Result<bool, String> {
    let AttrConstraint { key, value, condition } = constraint;
    // An attribute that is not there is an empty one.
    let actual = source.attrs.get(key).map_or("", String::as_str);
    match AttrMatch::try_from(*condition) {
        Ok(AttrMatch::Equal) => Ok(actual == value),
        Ok(AttrMatch::Notequal) => Ok(actual != value),
        Ok(AttrMatch::Matches) => {
            let regex = Regex::new(value).map_err(|e| format!("invalid regex {value:?}: {e}"))?;
            Ok(regex.is_match(actual))
        }
        Err(_) => Err(format!("unknown attr condition: {condition}")),
    }
}

/// What a selector matches beside its literal self.
fn pattern(selector: &Selector) -> Result<Option<Regex>, String> {
    let text = &selector.identifier;
    let expression = match MatchType::try_from(selector.match_type) {
        Ok(MatchType::Exact) => return Ok(None),
        Ok(MatchType::Regex) => text.clone(),
        Ok(MatchType::Wildcard) if text.contains("**") => {
            return Err(format!("failed to translate wildcard {text:?} to regexp: invalid wildcard: \"**\""));
        }
        Ok(MatchType::Wildcard) => {
            let parts: Vec<String> = text.split('*').map(regex::escape).collect();
            format!("^{}$", parts.join("(.*)"))
        }
        Err(_) => return Err(format!("unknown match type: {}", selector.match_type)),
    };
    Regex::new(&expression).map(Some).map_err(|e| format!("invalid pattern {text:?}: {e}"))
}

fn convert(rule: &Rule, selector: &Selector, source: &mut pb::SourceOp) -> Result<bool, PolicyError> {
    let updates = rule.updates.as_ref().ok_or(PolicyError::NoDestination)?;
    let template = if updates.identifier.is_empty() { &selector.identifier } else { &updates.identifier };
    let identifier = &source.identifier;
    let target = match (pattern(selector).map_err(PolicyError::Match)?, selector.match_type()) {
        (None, _) => template.clone(),
        (Some(pattern), MatchType::Regex) => pattern.replace_all(identifier, template.as_str()).into_owned(),
        (Some(pattern), _) => match pattern.captures(identifier) {
            Some(captures) => {
                let mut text = String::new();
                captures.expand(template, &mut text);
                text
            }
            None => identifier.clone(),
        },
    };
    let mut changed = false;
    if !target.is_empty() && target != *identifier {
        source.identifier = target;
        changed = true;
    }
    for (key, value) in &updates.attrs {
        if source.attrs.get(key) != Some(value) {
            source.attrs.insert(key.clone(), value.clone());
            changed = true;
        }
    }
    Ok(changed)
}

/// Puts other sources into a definition, by their positions in it. Every op above them gets a new identity, under
/// which its metadata and places in source files follow.
pub fn replace_sources(definition: &mut pb::Definition, sources: &HashMap<usize, pb::SourceOp>) {
    let names: Vec<String> = definition.def.iter().map(|raw| Digest::of(raw).to_string()).collect();
    let positions: HashMap<&str, usize> = names.iter().enumerate().map(|(i, name)| (name.as_str(), i)).collect();
    let inputs: Vec<Vec<pb::Input>> = definition
        .def
        .iter()
        .map(|raw| pb::Op::decode(raw.as_slice()).map(|op| op.inputs).unwrap_or_default())
        .collect();
    let mut renamed: Vec<Option<String>> = vec![None; names.len()];
    // Ops come after their inputs as a rule, but need not; an op is taken up again when its inputs are done.
    let mut pending: Vec<(usize, bool)> = (0..names.len()).rev().map(|i| (i, false)).collect();
    while let Some((i, ready)) = pending.pop() {
        if renamed[i].is_some() {
            continue;
        }
        if !ready {
            pending.push((i, true));
            let below = inputs[i].iter().filter_map(|input| positions.get(input.digest.as_str()));
            pending.extend(below.filter(|at| renamed[**at].is_none()).map(|at| (*at, false)));
            continue;
        }
        let new_inputs = inputs[i].iter().map(|input| {
            let renamed = positions.get(input.digest.as_str()).and_then(|at| renamed[*at].clone());
            pb::Input { digest: renamed.unwrap_or_else(|| input.digest.clone()), ..input.clone() }
        });
        let new_inputs: Vec<pb::Input> = new_inputs.collect();
        if new_inputs == inputs[i] && !sources.contains_key(&i) {
            renamed[i] = Some(names[i].clone());
            continue;
        }
        if let Some(raw) = rewrite(&definition.def[i], &new_inputs, sources.get(&i)) {
            definition.def[i] = raw;
        }
        renamed[i] = Some(Digest::of(&definition.def[i]).to_string());
    }
    let new_name = |name: String| positions.get(name.as_str()).and_then(|at| renamed[*at].clone()).unwrap_or(name);
    definition.metadata = std::mem::take(&mut definition.metadata).into_iter().map(|(k, v)| (new_name(k), v)).collect();
    if let Some(source) = &mut definition.source {
        source.locations = std::mem::take(&mut source.locations).into_iter().map(|(k, v)| (new_name(k), v)).collect();
    }
}

/// Field numbers of an op.
const INPUTS: u32 = 1;
const SOURCE: u32 = 3;

/// An encoded op with other inputs and another source; every other byte stays, known or not.
fn rewrite(raw: &[u8], inputs: &[pb::Input], source: Option<&pb::SourceOp>) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(raw.len() + 128);
    let put = |out: &mut Vec<u8>, tag: u32, body: Vec<u8>| {
        encode_key(tag, WireType::LengthDelimited, out);
        encode_varint(body.len() as u64, out);
        out.extend_from_slice(&body);
    };
    for input in inputs {
        put(&mut out, INPUTS, input.encode_to_vec());
    }
    let mut rest = raw;
    while !rest.is_empty() {
        let field = rest;
        let (tag, wire_type) = decode_key(&mut rest).ok()?;
        skip_field(wire_type, tag, &mut rest, DecodeContext::default()).ok()?;
        match (tag, source) {
            (INPUTS, _) => {}
            (SOURCE, Some(source)) => put(&mut out, SOURCE, source.encode_to_vec()),
            _ => out.extend_from_slice(&field[..field.len() - rest.len()]),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cooper_wire::sourcepolicy::Update;
    use std::collections::BTreeMap;

    fn attrs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn rule(action: PolicyAction, kind: MatchType, selector: &str, to: &str) -> Rule {
        let update = Update { identifier: to.to_owned(), ..Update::default() };
        Rule {
            action: action.into(),
            selector: Some(Selector { identifier: selector.to_owned(), match_type: kind.into(), constraints: vec![] }),
            updates: (action == PolicyAction::Convert).then_some(update),
        }
    }

    /// Rules as lines `ACTION kind selector [-> target]`; the outcome for `identifier`.
    fn check(rules: &[&str], identifier: &str) -> String {
        let rules = rules.iter().map(|line| {
            let (line, to) = line.split_once(" -> ").unwrap_or((line, ""));
            let words: Vec<&str> = line.split(' ').collect();
            let action = match words[0] {
                "allow" => PolicyAction::Allow,
                "deny" => PolicyAction::Deny,
                _ => PolicyAction::Convert,
            };
            let kind = match words[1] {
                "exact" => MatchType::Exact,
                "regex" => MatchType::Regex,
                _ => MatchType::Wildcard,
            };
            rule(action, kind, words[2], to)
        });
        let policy = Policy { version: 1, rules: rules.collect() };
        let mut source = pb::SourceOp { identifier: identifier.to_owned(), ..pb::SourceOp::default() };
        match evaluate(&[policy], &mut source) {
            Ok(false) => "same".to_owned(),
            Ok(true) => source.identifier,
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn rules_allow_deny_and_convert() {
        let denied = |name: &str| format!("source {name:?} denied by policy: source denied by policy");
        let image = "docker-image://docker.io/library/golang:1.19";
        for (rules, identifier, expected) in [
            (&[][..], image, "same".to_owned()),
            (&["deny wildcard *"], image, denied(image)),
            (&["deny wildcard *", "allow wildcard docker-image://*"], image, "same".to_owned()),
            (&["allow wildcard docker-image://*", "deny wildcard *"], image, denied(image)),
            (&["deny exact docker-image://*"], image, "same".to_owned()),
            (&["deny wildcard docker-image://docker.io/library/*:1.1*"], image, denied(image)),
            (&["deny wildcard library"], image, "same".to_owned()),
            (&["deny regex library"], image, denied(image)),
            (
                &["convert wildcard docker-image://docker.io/library/golang:* -> docker-image://x/golang:${1}-alpine"],
                image,
                "docker-image://x/golang:1.19-alpine".to_owned(),
            ),
            (&["convert regex docker.io/library/(go.*):.* -> mirror/$1:2"], image, "docker-image://mirror/golang:2".into()),
            (&["convert exact https://a -> https://b", "convert exact https://b -> https://c"], "https://a", "https://c".into()),
            (&["convert exact https://a -> https://b", "deny exact https://b"], "https://a", denied("https://b")),
            (&["convert exact https://a -> https://a"], "https://a", "same".to_owned()),
            (
                &["convert exact https://a -> https://b", "convert exact https://b -> https://a"],
                "https://a",
                "too many mutations on a single source: too many operations".to_owned(),
            ),
            (
                &["deny wildcard a**"],
                "https://a",
                "error matching source policy: failed to translate wildcard \"a**\" to regexp: invalid wildcard: \"**\"".into(),
            ),
        ] {
            assert_eq!(check(rules, identifier), expected, "{rules:?}");
        }
    }

    #[test]
    fn incomplete_rules_are_refused() {
        let complete = rule(PolicyAction::Convert, MatchType::Wildcard, "https://a", "x");
        for (rule, expected) in [
            (Rule { selector: None, ..complete.clone() }, "invalid nil selector in policy"),
            (Rule { updates: None, ..complete.clone() }, "missing destination for convert rule"),
            (Rule { action: 9000, ..complete.clone() }, "unknown type"),
        ] {
            let policy = Policy { version: 1, rules: vec![rule] };
            let mut source = pb::SourceOp { identifier: "https://a".into(), ..pb::SourceOp::default() };
            let error = evaluate(&[policy], &mut source).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn constraints_look_at_attributes() {
        let constrained = |key: &str, value: &str, condition: AttrMatch| {
            let mut rule = rule(PolicyAction::Deny, MatchType::Wildcard, "https://*", "");
            let constraint = AttrConstraint { key: key.into(), value: value.into(), condition: condition.into() };
            rule.selector.as_mut().unwrap().constraints.push(constraint);
            Policy { version: 1, rules: vec![rule] }
        };
        for (key, value, condition, denied) in [
            ("http.perm", "0644", AttrMatch::Equal, true),
            ("http.perm", "0600", AttrMatch::Equal, false),
            ("http.perm", "0600", AttrMatch::Notequal, true),
            ("http.perm", "^06", AttrMatch::Matches, true),
            ("http.uid", "", AttrMatch::Equal, true),
            ("http.uid", "^[0-9]+$", AttrMatch::Matches, false),
        ] {
            let mut source = pb::SourceOp { identifier: "https://a".into(), attrs: attrs(&[("http.perm", "0644")]) };
            let outcome = evaluate(&[constrained(key, value, condition)], &mut source);
            assert_eq!(outcome.is_err(), denied, "{key} {value} {condition:?}");
        }
        let mut pin = rule(PolicyAction::Convert, MatchType::Exact, "https://a", "");
        pin.updates.as_mut().unwrap().attrs = attrs(&[("http.checksum", "sha256:x")]);
        let mut source = pb::SourceOp { identifier: "https://a".into(), ..pb::SourceOp::default() };
        assert_eq!(evaluate(&[Policy { version: 1, rules: vec![pin] }], &mut source), Ok(true));
        assert_eq!((source.identifier.as_str(), source.attrs["http.checksum"].as_str()), ("https://a", "sha256:x"));
    }

    #[test]
    fn ops_above_a_replaced_source_follow() {
        let op = |inputs: &[&Vec<u8>], kind: Option<pb::op::Op>| {
            let inputs = inputs.iter().map(|raw| pb::Input { digest: Digest::of(raw).to_string(), index: 0 });
            pb::Op { inputs: inputs.collect(), op: kind, ..pb::Op::default() }.encode_to_vec()
        };
        let source = |id: &str| pb::SourceOp { identifier: id.to_owned(), ..pb::SourceOp::default() };
        let a = op(&[], Some(pb::op::Op::Source(source("https://a"))));
        let other = op(&[], Some(pb::op::Op::Source(source("https://other"))));
        let mut merge = op(&[&a, &other], Some(pb::op::Op::Merge(pb::MergeOp::default())));
        // A field from the future.
        merge.extend([0xfa, 0x07, 0x01, 0x2a]);
        let root = op(&[&merge], None);
        let name = |raw: &[u8]| Digest::of(raw).to_string();
        let metadata = [(name(&merge), pb::OpMetadata { ignore_cache: true, ..pb::OpMetadata::default() })];
        let mut definition = pb::Definition {
            // Out of order on purpose.
            def: vec![merge.clone(), a, other.clone(), root],
            metadata: metadata.into_iter().collect(),
            source: None,
        };
        replace_sources(&mut definition, &HashMap::from([(1, source("https://b"))]));
        let [merge, a, kept, root] = &definition.def[..] else { panic!("four ops") };
        let inputs = |raw: &Vec<u8>| -> Vec<String> {
            pb::Op::decode(raw.as_slice()).unwrap().inputs.into_iter().map(|i| i.digest).collect()
        };
        assert_eq!(*kept, other);
        assert_eq!(pb::Op::decode(a.as_slice()).unwrap().op, Some(pb::op::Op::Source(source("https://b"))));
        assert_eq!(inputs(merge), [name(a), name(kept)]);
        assert_eq!(inputs(root), [name(merge)]);
        assert!(merge.ends_with(&[0xfa, 0x07, 0x01, 0x2a]), "unknown fields stay");
        assert!(definition.metadata[&name(merge)].ignore_cache);
    }
}
