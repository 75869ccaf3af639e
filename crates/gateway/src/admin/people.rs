//! `/admin/v1/access`: who one is, who is signed in, and breaking the glass.

use std::time::Duration;

use axum::Json;
use tollgate_client::{BreakGlass, Grant, List, Me, Session, SessionsOf};
use tollgate_guard::Act;
use tollgate_types::access::Actor;

use super::approvals::{self, somebody};
use super::caller::{Caller, Thing};
use super::extract::{Asked, Body};
use super::refused::{Refusals, Refused};
use super::service_keys::role_shown;
use crate::access::{self, Found};

/// Longest emergency, in minutes.
const GLASS_MINUTES_MAX: u32 = 60;
/// Longest reason, in characters.
const REASON_CHARS_MAX: usize = 200;

/// Show who you are, as the gateway knows you
#[utoipa::path(get, path = "/admin/v1/access/me", operation_id = "show_me", tag = "access",
    responses((status = 200, description = "You", body = Me), Refusals))]
pub async fn me(caller: Caller) -> Result<Json<Me>, Refused> {
    caller.may(Act::ShowMe, &Thing::Shared).await?;
    let operator = caller.operator();
    Ok(Json(Me {
        who: somebody(&operator.actor),
        human: operator.actor.is_human(),
        grants: grants(&operator.grants),
        break_glass_until: operator.glass.as_ref().map(|(_, until)| until.to_string()),
    }))
}

/// Become a platform admin for an emergency: another human must agree, all you do is recorded, and it ends by itself
#[utoipa::path(post, path = "/admin/v1/access/break-glass", operation_id = "break_glass", tag = "access",
    request_body = BreakGlass, responses((status = 200, description = "You, as a platform admin", body = Me), Refusals))]
pub async fn break_glass(caller: Caller, Body(asked): Body<BreakGlass>) -> Result<Json<Me>, Refused> {
    let app = caller.may(Act::BreakGlass, &Thing::Platform).await?;
    let BreakGlass { reason, minutes } = asked;
    if !(1..=GLASS_MINUTES_MAX).contains(&minutes) {
        return Err(Refused::field("minutes", format!("must be from 1 to {GLASS_MINUTES_MAX}")));
    }
    let length = reason.trim().chars().count();
    if !(1..=REASON_CHARS_MAX).contains(&length) || reason.chars().any(char::is_control) {
        return Err(Refused::field("reason", format!("say why, in 1 to {REASON_CHARS_MAX} characters on one line")));
    }
    let session = caller.operator().session.ok_or_else(|| Refused::role("machine", Act::BreakGlass.name()))?;
    let what = format!("be a platform admin for {minutes} minutes, because: {}", reason.trim());
    let number = approvals::agreed(&caller, Act::BreakGlass, &Thing::Platform, &what).await?;
    let until = app.clock().now().plus(Duration::from_secs(u64::from(minutes) * 60));
    if !app.access.sessions.break_glass(session, number.clone(), until) {
        return Err(Refused::conflict("your session has ended; sign in and ask again"));
    }
    tracing::warn!(approval = %number, actor = %caller.actor(), %until, "the glass is broken: somebody is a platform admin");
    let mut all = vec![Grant { role: tollgate_client::Role::PlatformAdmin, tenant: None }];
    all.extend(grants(&caller.operator().grants));
    Ok(Json(Me { who: somebody(caller.actor()), human: true, grants: all, break_glass_until: Some(until.to_string()) }))
}

/// List who is signed in, the latest first
#[utoipa::path(get, path = "/admin/v1/access/sessions", operation_id = "list_sessions", tag = "access",
    responses((status = 200, description = "Sessions of people", body = List<Session>), Refusals))]
pub async fn sessions(caller: Caller) -> Result<Json<List<Session>>, Refused> {
    let app = caller.may(Act::ListSessions, &Thing::Platform).await?;
    Ok(Json(List { data: app.access.sessions.all(app.clock().now()).iter().map(shown).collect() }))
}

/// Sign somebody out, everywhere
#[utoipa::path(delete, path = "/admin/v1/access/sessions", operation_id = "end_sessions", tag = "access",
    params(SessionsOf), responses((status = 204, description = "They are signed out"), Refusals))]
pub async fn end(caller: Caller, Asked(of): Asked<SessionsOf>) -> Result<http::StatusCode, Refused> {
    let app = caller.may(Act::EndSessions, &Thing::Platform).await?;
    match app.access.sessions.end_all_of(&of.subject) {
        0 => Err(Refused::not_found("there is no session of that person")),
        _ => Ok(http::StatusCode::NO_CONTENT),
    }
}

fn grants(grants: &[access::Grant]) -> Vec<Grant> {
    let shown = |grant: &access::Grant| Grant {
        role: role_shown(grant.role),
        tenant: grant.tenant.as_ref().map(ToString::to_string),
    };
    grants.iter().map(shown).collect()
}

fn shown(found: &Found) -> Session {
    let name = |actor: &Actor| somebody(actor);
    Session {
        who: name(&found.operator.actor),
        grants: grants(&found.operator.grants),
        since: found.since.to_string(),
        last_used_at: found.last_used.to_string(),
        expires_at: found.expires_at.to_string(),
        break_glass_until: found.operator.glass.as_ref().map(|(_, until)| until.to_string()),
    }
}
