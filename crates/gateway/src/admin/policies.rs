//! `/admin/v1/policies`: the bundles of the platform, of plans and of tenants. A bundle is unpacked, verified, compiled and
//! tested before anything of it is kept; a bad one changes nothing.

use std::sync::Arc;

use axum::Json;
use axum::response::IntoResponse;
use bytes::Bytes;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use tokio::sync::{Mutex, MutexGuard};
use tollgate_admission::Principal;
use tollgate_client::{DecisionQuery, List, Policy, PolicyDecision, PolicyOf, Whose};
use tollgate_guard::Act;
use tollgate_policy::Law;
use tollgate_store::store::prepare;
use tollgate_types::directory::{Change, Directory, PolicySet};
use tollgate_types::{PlanId, Refusal, RequestId, Scope, Timestamp, hex};

use super::budgets::{named, scope};
use super::caller::{Caller, Thing};
use super::durable::aside;
use super::extract::{Asked, optional_id};
use super::refused::{Refusals, Refused};
use crate::app::App;
use crate::decisions::{Judgement, KEPT};
use crate::digest::sha256;
use crate::laws;

/// Largest archive of a bundle.
pub const ARCHIVE_BYTES_MAX: usize = 4 << 20;
/// Decisions that are listed where nobody says how many.
const DECISIONS_USUAL: usize = 100;
/// Held from looking at the bundles in force until the new ones are: two pushes at once would lose one.
static PUSHING: Mutex<()> = Mutex::const_new(());

/// List the policy bundles in force
#[utoipa::path(get, path = "/admin/v1/policies", operation_id = "list_policies", tag = "policies",
    responses((status = 200, description = "Bundles: the platform's, plans', tenants'", body = List<Policy>), Refusals))]
pub async fn list(caller: Caller) -> Result<Json<List<Policy>>, Refused> {
    let app = caller.may(Act::ListPolicies, &Thing::Platform).await?;
    let data = app.books.with_directory(|directory| {
        directory.policies.keys().filter_map(|scope| shown(&app, directory, scope)).collect()
    });
    Ok(Json(List { data }))
}

/// Put a policy bundle into force
#[utoipa::path(put, path = "/admin/v1/policies", operation_id = "push_policy", tag = "policies", params(PolicyOf),
    request_body(content = Vec<u8>, content_type = "application/gzip", description = "A bundle, as `opa build` writes it, see docs/policy.md"),
    responses((status = 201, description = "In force", body = Policy), Refusals))]
pub async fn push(
    caller: Caller,
    Asked(of): Asked<PolicyOf>,
    archive: Bytes,
) -> Result<(StatusCode, Json<Policy>), Refused> {
    let of = whose(of);
    let app = caller.may(Act::PushPolicy, &Thing::named(&of)?).await?;
    let scope = scope(&app, &of)?;
    let (key, bytes) = (app.policy_key.clone(), archive.clone());
    let made = aside(move || laws::tested(&bytes, key.as_ref())).await?;
    let law = made.map_err(|problem| Refused::invalid(problem, None))?;
    let digest = sha256(&[&archive]);
    let one_at_a_time = PUSHING.lock().await;
    // Named by what it is: if it is never used, it does no harm.
    let file = laws::file(&app.dir, &digest);
    let not_kept = |error| Refused::internal("the policy cannot be kept", &error);
    aside(move || prepare(&file, &archive).and_then(|prepared| prepared.confirm())).await?.map_err(not_kept)?;
    let policy = set(&app, one_at_a_time, scope, Some((digest, law))).await?;
    policy.map(|policy| (StatusCode::CREATED, Json(policy))).ok_or_else(gone)
}

/// Put the bundle before the one in force into force again
#[utoipa::path(post, path = "/admin/v1/policies/rollback", operation_id = "roll_policy_back", tag = "policies", params(PolicyOf),
    responses((status = 200, description = "In force again", body = Policy), Refusals))]
pub async fn roll_back(caller: Caller, Asked(of): Asked<PolicyOf>) -> Result<Json<Policy>, Refused> {
    let of = whose(of);
    let app = caller.may(Act::RollPolicyBack, &Thing::named(&of)?).await?;
    let scope = scope(&app, &of)?;
    let one_at_a_time = PUSHING.lock().await;
    let before = app.books.with_directory(|directory| earlier(directory, &scope).last().copied());
    let digest = before.ok_or_else(|| Refused::not_found("there is no bundle before this one"))?;
    let dir = app.dir.clone();
    // It was verified and tested when it was pushed.
    let law = aside(move || laws::kept(&dir, &digest)).await?;
    let law = law.map_err(|problem| Refused::internal("the bundle before this one cannot be read", &problem))?;
    set(&app, one_at_a_time, scope, Some((digest, law))).await?.map(Json).ok_or_else(gone)
}

/// Take the say of the platform, a plan or a tenant away
#[utoipa::path(delete, path = "/admin/v1/policies", operation_id = "remove_policy", tag = "policies", params(PolicyOf),
    responses((status = 204, description = "Removed"), Refusals))]
pub async fn remove(caller: Caller, Asked(of): Asked<PolicyOf>) -> Result<StatusCode, Refused> {
    let of = whose(of);
    let app = caller.may(Act::RemovePolicy, &Thing::named(&of)?).await?;
    let scope = scope(&app, &of)?;
    let one_at_a_time = PUSHING.lock().await;
    if app.books.with_directory(|directory| directory.policy(&scope)).is_none() {
        return Err(Refused::not_found("there is no such policy"));
    }
    set(&app, one_at_a_time, scope, None).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The archive of the bundle that is in force
#[utoipa::path(get, path = "/admin/v1/policies/bundle", operation_id = "show_policy_bundle", tag = "policies", params(PolicyOf),
    responses((status = 200, description = "As it was pushed", body = Vec<u8>, content_type = "application/gzip"), Refusals))]
pub async fn bundle(caller: Caller, Asked(of): Asked<PolicyOf>) -> Result<impl IntoResponse, Refused> {
    let of = whose(of);
    let app = caller.may(Act::ShowPolicyBundle, &Thing::named(&of)?).await?;
    let scope = scope(&app, &of)?;
    let digest = app.books.with_directory(|directory| directory.policy(&scope));
    let digest = digest.ok_or_else(|| Refused::not_found("there is no such policy"))?;
    let file = laws::file(&app.dir, &digest);
    let read = aside(move || std::fs::read(file)).await?;
    let archive = read.map_err(|error| Refused::internal("the policy cannot be read", &error))?;
    Ok(([(CONTENT_TYPE, "application/gzip")], archive))
}

/// What the policies said of the last requests, the newest first
///
/// Of the last few thousand, in memory only; without prompts.
#[utoipa::path(get, path = "/admin/v1/policies/decisions", operation_id = "list_policy_decisions", tag = "policies", params(DecisionQuery),
    responses((status = 200, description = "Decisions", body = List<PolicyDecision>), Refusals))]
pub async fn decisions(caller: Caller, Asked(of): Asked<DecisionQuery>) -> Result<Json<List<PolicyDecision>>, Refused> {
    let app = caller.may(Act::ListPolicyDecisions, &Thing::of(of.tenant.as_ref())?).await?;
    optional_id::<PlanId>("plan", of.plan.as_ref())?;
    optional_id::<RequestId>("request_id", of.request_id.as_ref())?;
    let limit = of.limit.unwrap_or(DECISIONS_USUAL);
    if limit > KEPT {
        return Err(Refused::field("limit", format!("at most {KEPT}")));
    }
    let is = |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
    let wanted = |one: &Judgement| {
        let Principal { tenant, plan, .. } = &*one.principal;
        is(&of.tenant, tenant.as_str()) && is(&of.plan, plan.id.as_str()) && is(&of.request_id, &one.id.to_string())
    };
    let data = app.decisions.last(wanted, limit).iter().map(said).collect();
    Ok(Json(List { data }))
}

fn said(one: &Judgement) -> PolicyDecision {
    let (reason, layer) = match &one.refusal {
        Some(Refusal::PolicyDenied { reason, layer }) => (Some(reason.clone()), *layer),
        _ => (None, None),
    };
    PolicyDecision {
        request_id: one.id.to_string(),
        at: one.at.to_string(),
        tenant: one.principal.tenant.to_string(),
        plan: one.principal.plan.id.to_string(),
        allowed: reason.is_none(),
        layer: layer.map(str::to_owned),
        reason,
        input: one.input(),
    }
}

/// Notes which bundle is in force, and once that is durable, judges by it.
async fn set(
    app: &Arc<App>,
    one_at_a_time: MutexGuard<'static, ()>,
    scope: Scope,
    to: Option<([u8; 32], Law)>,
) -> Result<Option<Policy>, Refused> {
    let sha256 = to.as_ref().map(|(digest, _)| *digest);
    let change = Change::PolicySet { scope: scope.clone(), sha256, at: app.clock().now() };
    // Whoever sent it may leave meanwhile: what is noted is put in force all the same, and the next one waits for that.
    let app = Arc::clone(app);
    let setting = tokio::spawn(async move {
        let set = noted_and_published(app, scope, to, change).await;
        drop(one_at_a_time);
        set
    });
    setting.await.map_err(|error| Refused::internal("the work broke off", &error))?
}

async fn noted_and_published(
    app: Arc<App>,
    scope: Scope,
    to: Option<([u8; 32], Law)>,
    change: Change,
) -> Result<Option<Policy>, Refused> {
    let position = app.books.change(change)?;
    app.journal.durable(position).await?;
    let publish = move || {
        app.books.with_directory(|directory| {
            app.admission.publish_laws(directory, &laws::in_force(directory, &app.admission.laws(), to));
            shown(&app, directory, &scope)
        })
    };
    aside(publish).await
}

fn gone() -> Refused {
    Refused::conflict("the policy was set again meanwhile")
}

fn whose(of: PolicyOf) -> Whose {
    Whose { tenant: of.tenant, plan: of.plan, platform: of.platform, ..Whose::default() }
}

/// The bundles that a layer can be rolled back to, the nearest last: what was in force before this one, each once.
fn earlier(directory: &Directory, scope: &Scope) -> Vec<[u8; 32]> {
    let mut seen: Vec<[u8; 32]> = Vec::new();
    for PolicySet { sha256, .. } in directory.policies.get(scope).into_iter().flatten() {
        if let Some(digest) = sha256 {
            // One that was rolled back to stands where it first stood: what came after it lies ahead.
            match seen.iter().position(|known| known == digest) {
                Some(place) => seen.truncate(place + 1),
                None => seen.push(*digest),
            }
        }
    }
    if directory.policy(scope).is_some() {
        seen.pop();
    }
    seen
}

fn shown(app: &App, directory: &Directory, scope: &Scope) -> Option<Policy> {
    let digest = directory.policy(scope)?;
    let at = directory.policies.get(scope)?.last().map_or(Timestamp(0), |set| set.at);
    let law = app.admission.laws().get(&digest).cloned();
    let (kind, Whose { tenant, plan, .. }) = named(scope);
    Some(Policy {
        layer: kind.name().to_owned(),
        tenant,
        plan,
        revision: law.as_ref().map(|law| law.revision.clone()).unwrap_or_default(),
        sha256: hex(&digest),
        fingerprint: law.as_ref().map(|law| law.fingerprint.to_string()).unwrap_or_default(),
        reads: law.map(|law| law.fields.iter().map(ToString::to_string).collect()).unwrap_or_default(),
        set_at: at.to_string(),
        earlier: earlier(directory, scope).len() as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_can_go_back_step_by_step_and_forward_by_pushing_again() {
        let mut directory = Directory::default();
        let mut set = |digest: Option<u8>| {
            let sha256 = digest.map(|byte| [byte; 32]);
            directory.apply(Change::PolicySet { scope: Scope::Platform, sha256, at: Timestamp(0) });
            earlier(&directory, &Scope::Platform).iter().map(|digest| digest[0]).collect::<Vec<_>>()
        };
        assert_eq!(set(Some(1)), [0_u8; 0]);
        assert_eq!(set(Some(2)), [1]);
        assert_eq!(set(Some(3)), [1, 2]);
        assert_eq!(set(Some(2)), [1], "rolled back");
        assert_eq!(set(Some(1)), [0_u8; 0], "and again");
        assert_eq!(set(None), [1], "what was taken away can come back");
        assert_eq!(set(Some(4)), [1]);
    }
}
