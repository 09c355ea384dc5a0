//! Source policies as JSON files.

use std::collections::BTreeMap;

use cooper_wire::sourcepolicy::{AttrConstraint, AttrMatch, MatchType, Policy, PolicyAction, Rule, Selector, Update};
use serde::Deserialize;

#[derive(Deserialize, Default)]
#[serde(default)]
struct PolicyJson {
    version: i64,
    rules: Vec<RuleJson>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RuleJson {
    action: EnumJson,
    selector: Option<SelectorJson>,
    updates: Option<UpdateJson>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct SelectorJson {
    identifier: String,
    #[serde(alias = "matchType")]
    match_type: EnumJson,
    constraints: Vec<ConstraintJson>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ConstraintJson {
    key: String,
    value: String,
    condition: EnumJson,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct UpdateJson {
    identifier: String,
    attrs: BTreeMap<String, String>,
}

/// Enumerations come by number or by name.
#[derive(Deserialize)]
#[serde(untagged)]
enum EnumJson {
    Number(i32),
    Name(String),
}

impl Default for EnumJson {
    fn default() -> Self {
        Self::Number(0)
    }
}

impl EnumJson {
    fn resolve(&self, what: &str, by_name: fn(&str) -> Option<i32>, known: fn(i32) -> bool) -> Result<i32, String> {
        match self {
            Self::Number(number) if known(*number) => Ok(*number),
            Self::Number(number) => Err(format!("invalid {what} value: {number}")),
            Self::Name(name) => by_name(name).ok_or_else(|| format!("invalid {what} value: {name:?}")),
        }
    }
}

/// Reads a policy.
pub fn parse(text: &[u8]) -> Result<Policy, String> {
    let json: PolicyJson = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let rules = json.rules.into_iter().map(rule).collect::<Result<_, _>>()?;
    Ok(Policy { version: json.version, rules })
}

fn rule(json: RuleJson) -> Result<Rule, String> {
    let action = json.action.resolve(
        "PolicyAction",
        |name| PolicyAction::from_str_name(name).map(Into::into),
        |number| PolicyAction::try_from(number).is_ok(),
    )?;
    Ok(Rule {
        action,
        selector: json.selector.map(selector).transpose()?,
        updates: json.updates.map(|update| Update { identifier: update.identifier, attrs: update.attrs }),
    })
}

fn selector(json: SelectorJson) -> Result<Selector, String> {
    let match_type = json.match_type.resolve(
        "MatchType",
        |name| MatchType::from_str_name(name).map(Into::into),
        |number| MatchType::try_from(number).is_ok(),
    )?;
    let constraint = |json: ConstraintJson| {
        let condition = json.condition.resolve(
            "AttrMatch",
            |name| AttrMatch::from_str_name(name).map(Into::into),
            |number| AttrMatch::try_from(number).is_ok(),
        )?;
        Ok::<_, String>(AttrConstraint { key: json.key, value: json.value, condition })
    };
    let constraints = json.constraints.into_iter().map(constraint).collect::<Result<_, _>>()?;
    Ok(Selector { identifier: json.identifier, match_type, constraints })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        let policy = parse(
            br#"{"version":1,"rules":[
              {"action":"CONVERT","selector":{"identifier":"docker-image://a","match_type":"EXACT",
               "constraints":[{"key":"k","value":"v","condition":1}]},"updates":{"identifier":"docker-image://b"}},
              {"action":1,"selector":{"identifier":"*"}}]}"#,
        )
        .unwrap();
        assert_eq!(policy.rules[0].action(), PolicyAction::Convert);
        let selector = policy.rules[0].selector.as_ref().unwrap();
        assert_eq!(
            (selector.match_type(), selector.constraints[0].condition()),
            (MatchType::Exact, AttrMatch::Notequal)
        );
        assert_eq!(policy.rules[1].action(), PolicyAction::Deny);
        assert_eq!(parse(br#"{"rules":[{"action":"MAYBE"}]}"#).unwrap_err(), "invalid PolicyAction value: \"MAYBE\"");
    }
}
