//! The policies of a build applied to its definitions and questions: static rules first, then the client's session.

use crate::{
    build_error::{BuildError, Detail, FailureClass},
    domain::{BuildJob, StepError},
    gateway::bridge::Bridge,
    policy::rules::{self, PolicyError, replace_sources},
    worker::{SESSION_WAIT, Worker},
};
use cooper_llb::{git_url::GitUrl, pb};
use cooper_wire::{
    gateway::{ResolveSourceMetaRequest, ResolveSourceMetaResponse},
    policysession::{CheckPolicyRequest, DecisionResponse, check_policy_response::Result as Verdict},
    sourcepolicy::{Policy, PolicyAction},
};
use prost::Message as _;
use serde_json::json;
use std::collections::HashMap;

/// Most questions to a client's policy about one source.
const MAX_QUESTIONS: usize = 10;
/// The type under which clients look for the reasons of a denial.
const DECISION: &str = "github.com/moby/buildkit/policysession.DecisionResponse+json";

impl From<PolicyError> for BuildError {
    fn from(error: PolicyError) -> Self {
        Self::refused(error.to_string())
    }
}

impl Bridge {
    /// Whether anything governs the sources of this build.
    fn is_governed(&self, more: &[Policy]) -> bool {
        let own = &self.job().policy;
        !own.session.is_empty() || own.rules.iter().chain(more).any(|p| !p.rules.is_empty())
    }

    /// A definition in which every source is one that the build may use. `more` holds in addition to the build's rules.
    pub(crate) async fn governed(
        &self,
        mut definition: pb::Definition,
        more: &[Policy],
    ) -> Result<pb::Definition, BuildError> {
        rules::validate(more)?;
        if !self.is_governed(more) {
            return Ok(definition);
        }
        let sources = definition.def.iter().enumerate().filter_map(|(i, raw)| {
            // What does not decode is refused when the definition is loaded.
            let op = pb::Op::decode(raw.as_slice()).ok()?;
            match op.op {
                Some(pb::op::Op::Source(source)) => Some((i, source, op.platform)),
                _ => None,
            }
        });
        let checks = sources.map(|(i, source, platform)| async move {
            let mut checked = source.clone();
            self.check_source(&mut checked, platform, more).await?;
            Ok::<_, BuildError>((checked != source).then_some((i, checked)))
        });
        let checked = futures::future::try_join_all(checks)
            .await
            .map_err(|e| e.context("failed to load LLB: error evaluating the source policy"))?;
        let changed: HashMap<usize, pb::SourceOp> = checked.into_iter().flatten().collect();
        if !changed.is_empty() {
            replace_sources(&mut definition, &changed);
        }
        Ok(definition)
    }

    /// Applies static rules and the client's policy to a source.
    pub(crate) async fn check_source(
        &self,
        source: &mut pb::SourceOp,
        platform: Option<pb::Platform>,
        more: &[Policy],
    ) -> Result<(), BuildError> {
        if !self.is_governed(more) {
            return Ok(());
        }
        let mut questions = 0..MAX_QUESTIONS;
        self.check_rules(source, more)?;
        let session = &self.job().policy.session;
        if session.is_empty() {
            return Ok(());
        }
        let session = self.worker().sessions.get(session, SESSION_WAIT).await.map_err(StepError::from)?;
        let mut known = ResolveSourceMetaResponse { source: Some(source.clone()), ..Default::default() };
        loop {
            if questions.next().is_none() {
                return Err(BuildError::refused("too many policy requests"));
            }
            let request =
                CheckPolicyRequest { platform: platform.clone(), source: Some(known.clone()), ..Default::default() };
            let answer = session.check_policy(request).await.map_err(StepError::from)?;
            match answer.result {
                Some(Verdict::Request(question)) => known = self.answer(source, question).await?,
                Some(Verdict::Decision(decision)) => {
                    if !decide(source, decision)? {
                        return Ok(());
                    }
                    // Another source now: rules and policy see it anew.
                    self.check_rules(source, more)?;
                    known = ResolveSourceMetaResponse { source: Some(source.clone()), ..Default::default() };
                }
                None => return Err(BuildError::refused("no decision in policy response")),
            }
        }
    }

    /// Applies static rules to a source, by the canonical form of its name.
    pub(crate) fn check_rules(&self, source: &mut pb::SourceOp, more: &[Policy]) -> Result<(), BuildError> {
        canonicalize(source);
        let own = &self.job().policy.rules;
        let all: Vec<Policy> = own.iter().chain(more).cloned().collect();
        rules::evaluate(&all, source)?;
        Ok(())
    }

    /// What a policy wants to know before it decides.
    async fn answer(
        &self,
        source: &pb::SourceOp,
        question: ResolveSourceMetaRequest,
    ) -> Result<ResolveSourceMetaResponse, BuildError> {
        let asked = question.source.clone().unwrap_or_default();
        if asked.identifier != source.identifier {
            return Err(BuildError::refused(format!(
                "policy requested different source identifier: {:?} != {:?}",
                asked.identifier, source.identifier
            )));
        }
        if asked.attrs != source.attrs {
            return Err(BuildError::refused("policy requested different source attrs"));
        }
        // Boxed: answering may end in a check again, of rules alone.
        let answer = Box::pin(self.source_meta(question, false)).await;
        answer.map_err(|e| e.context("error resolving source metadata from policy request"))
    }
}

/// The URL that a step may fetch when it asks for `url`: the same, or the one that a rule puts in its place.
pub(crate) async fn check_url(worker: &Worker, job: &BuildJob, url: &str) -> Result<String, BuildError> {
    let policy = &job.policy;
    let mut source = pb::SourceOp { identifier: url.to_owned(), attrs: std::collections::BTreeMap::default() };
    let rules = |source: &mut pb::SourceOp| rules::evaluate(&policy.rules, source);
    rules(&mut source)?;
    if policy.session.is_empty() {
        return Ok(source.identifier);
    }
    let session = worker.sessions.get(&policy.session, SESSION_WAIT).await.map_err(StepError::from)?;
    for _ in 0..MAX_QUESTIONS {
        let known = ResolveSourceMetaResponse { source: Some(source.clone()), ..Default::default() };
        let request = CheckPolicyRequest { source: Some(known), ..Default::default() };
        match session.check_policy(request).await.map_err(StepError::from)?.result {
            Some(Verdict::Decision(decision)) => {
                if !decide(&mut source, decision)? {
                    return Ok(source.identifier);
                }
                rules(&mut source)?;
            }
            Some(Verdict::Request(_)) => {
                return Err(BuildError::refused(format!("nothing more is known of {url:?} before it is fetched")));
            }
            None => return Err(BuildError::refused("no decision in policy response")),
        }
    }
    Err(BuildError::refused("too many policy requests"))
}

/// Follows a decision. Returns whether the source is to be looked at again.
fn decide(source: &mut pb::SourceOp, decision: DecisionResponse) -> Result<bool, BuildError> {
    match PolicyAction::try_from(decision.action) {
        Ok(PolicyAction::Allow) => Ok(false),
        Ok(PolicyAction::Convert) => {
            *source = decision.update.ok_or_else(|| BuildError::refused("convert action requires updated source"))?;
            Ok(true)
        }
        other => {
            let action = other.map_or_else(|e| e.0.to_string(), |a| a.as_str_name().to_owned());
            let message = format!("source {:?} not allowed by policy: action {action}", source.identifier);
            let mut error = BuildError::new(FailureClass::Unknown, message);
            if !decision.deny_messages.is_empty() {
                let messages: Vec<_> = decision.deny_messages.iter().map(|m| json!({"message": m.message})).collect();
                let value = json!({"action": PolicyAction::Deny as i32, "denyMessages": messages});
                error.details.push(Detail { type_url: DECISION.to_owned(), value: value.to_string().into_bytes() });
            }
            Err(error)
        }
    }
}

/// Names that mean the same become equal: rules must not be evaded by spelling.
fn canonicalize(source: &mut pb::SourceOp) {
    let Some(rest) = source.identifier.strip_prefix("git://") else { return };
    let address = if GitUrl::is_transport(rest) { rest.to_owned() } else { format!("https://{rest}") };
    let Ok(url) = GitUrl::parse(&address) else { return };
    let remote = match source.attrs.get("git.fullurl") {
        Some(full) if GitUrl::is_transport(full) => GitUrl::parse(full).ok(),
        Some(full) => GitUrl::parse(&format!("https://{full}")).ok(),
        None => None,
    };
    let (host, path) = remote.as_ref().map_or((&url.host, &url.path), |r| (&r.host, &r.path));
    let mut name = format!("git://{host}/{}", path.trim_start_matches('/'));
    if !url.reference.is_empty() || !url.subdir.is_empty() {
        name = format!("{name}#{}", url.reference);
        if !url.subdir.is_empty() {
            name = format!("{name}:{}", url.subdir);
        }
    }
    source.identifier = name;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_addresses_have_one_spelling() {
        for (identifier, full, expected) in [
            (
                "git://github.com/user/repo.git#main:../absolute/path",
                "",
                "git://github.com/user/repo.git#main:absolute/path",
            ),
            ("git://github.com/user/repo.git", "", "git://github.com/user/repo.git"),
            ("git://127.0.0.1:80/.git#v1", "http://127.0.0.1:80/.git", "git://127.0.0.1:80/.git#v1"),
            ("git://git@github.com:user/repo.git#:sub", "", "git://github.com/user/repo.git#:sub"),
            ("https://a/../b", "", "https://a/../b"),
        ] {
            let attrs = if full.is_empty() { vec![] } else { vec![("git.fullurl".to_owned(), full.to_owned())] };
            let mut source = pb::SourceOp { identifier: identifier.to_owned(), attrs: attrs.into_iter().collect() };
            canonicalize(&mut source);
            assert_eq!(source.identifier, expected);
        }
    }
}
