//! `/admin/v1/approvals`: what needs a second human. Whoever asks for it is told the number of an approval; a human who may
//! do the same, and is somebody else, agrees; then the very same request is done, once.

use std::time::Duration;

use axum::Json;
use tokio::sync::Mutex;
use tollgate_client::{Approval, ApprovalState, Decision, List, Somebody};
use tollgate_guard::Act;
use tollgate_types::access::{self, Actor, Decided};
use tollgate_types::directory::Change;
use tollgate_types::{KeyId, Timestamp};

use super::caller::{Caller, Thing};
use super::durable::change;
use super::extract::{Asked, Body, Id, id, secret_text};
use super::projects::Of;
use super::refused::{Refusals, Refused};

/// An approval is of no use any more after this.
const GOOD_FOR: Duration = Duration::from_secs(24 * 3_600);
/// So many of one person's wait at a time.
const OPEN_MAX: usize = 20;
/// Longest description of what is asked for, in bytes: whoever decides reads all of it.
const WHAT_BYTES_MAX: usize = 4_000;
/// Held from looking at what is in force until it is changed: nobody raises a cap step by step, or lifts the rule in between,
/// past who looks.
pub static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
/// Bytes of randomness in an approval's number: not to be met twice.
const ID_BYTES: usize = 8;

/// List what waits for a second human, or waited, the latest first
#[utoipa::path(get, path = "/admin/v1/approvals", operation_id = "list_approvals", tag = "approvals", params(Of),
    responses((status = 200, description = "Approvals: a tenant's, or without a tenant everybody's", body = List<Approval>), Refusals))]
pub async fn list(caller: Caller, Asked(of): Asked<Of>) -> Result<Json<List<Approval>>, Refused> {
    let app = caller.may(Act::ListApprovals, &of.thing()?).await?;
    let tenant = of.tenant(&app)?;
    let now = app.clock().now();
    let mut approvals: Vec<_> = app.books.with_directory(|directory| {
        let wanted = |approval: &&access::Approval| tenant.is_none() || approval.tenant == tenant;
        directory.approvals.values().filter(wanted).cloned().collect()
    });
    approvals.sort_by_key(|approval| std::cmp::Reverse(approval.asked_at));
    Ok(Json(List { data: approvals.iter().map(|approval| shown(approval, now)).collect() }))
}

/// Approve or reject something: a human who may do it, and did not ask for it
#[utoipa::path(post, path = "/admin/v1/approvals/{id}", operation_id = "decide_approval", tag = "approvals",
    params(("id" = String, Path, example = "a3f9c1d2e4a5b6078")), request_body = Decision,
    responses((status = 200, description = "The approval as it is now", body = Approval), Refusals))]
pub async fn decide(
    caller: Caller,
    Id(id): Id<KeyId>,
    Body(Decision { approve }): Body<Decision>,
) -> Result<Json<Approval>, Refused> {
    let found = |app: &crate::app::App| app.books.with_directory(|directory| directory.approval(&id).cloned());
    let approval = found(&caller.before_it_is_known_whose())?;
    let (thing, asked_for) = (thing_of(&approval), act_named(&approval.act)?);
    let app = match asked_for {
        Act::BreakGlass => caller.may(Act::DecideBreakGlass, &thing).await?,
        _ => {
            let app = caller.may(Act::DecideApproval, &thing).await?;
            // Whoever could not do it cannot let others do it.
            caller.is_allowed(asked_for, &thing)?;
            app
        }
    };
    if approval.asked_by.is_same_human(caller.actor()) {
        return Err(Refused::own_approval());
    }
    let now = app.clock().now();
    match state(&approval, now) {
        ApprovalState::Pending => {}
        other => return Err(Refused::conflict(format!("the approval {id} is {} already", other.name()))),
    }
    let decided = Box::new(Decided { by: caller.actor().clone(), at: now, approved: approve });
    change(&app, [Change::ApprovalDecided { id: id.clone(), decided }]).await?;
    Ok(Json(shown(&found(&app)?, now)))
}

/// Goes on only with a second human's approval, which is then used up. Gives back its number. The first is a human, too: whoever
/// has a machine's key may be the one who then agrees.
///
/// Without one, or with one that nobody has decided on, the refusal says what to do.
pub async fn agreed(caller: &Caller, act: Act, thing: &Thing, what: &str) -> Result<KeyId, Refused> {
    if !caller.actor().is_human() {
        return Err(Refused::not_for_machines(what));
    }
    let app = caller.before_it_is_known_whose();
    let asked = caller.asked();
    let now = app.clock().now();
    let Some(number) = &asked.approval else {
        return Err(ask(caller, act, thing, what).await?);
    };
    let approval = app.books.with_directory(|directory| directory.approval(number).cloned())?;
    let is_this = approval.request == asked.digest
        && *approval.act == *act.name()
        && is_same(&approval.asked_by, caller.actor())
        && thing.tenant() == approval.tenant.as_ref();
    if !is_this {
        return Err(Refused::conflict(format!("the approval {number} is of another request, or somebody else's")));
    }
    match state(&approval, now) {
        ApprovalState::Approved => {}
        ApprovalState::Pending => return Err(Refused::approval_pending(number, what)),
        other => return Err(Refused::conflict(format!("the approval {number} is {}", other.name()))),
    }
    // Of two that come at once the journal takes one.
    change(&app, [Change::ApprovalUsed { id: number.clone(), at: now }]).await?;
    caller.is_approved(number);
    Ok(number.clone())
}

/// Asks for an approval, or finds the one that was asked for already.
async fn ask(caller: &Caller, act: Act, thing: &Thing, what: &str) -> Result<Refused, Refused> {
    let app = caller.before_it_is_known_whose();
    let (asked, now) = (caller.asked(), app.clock().now());
    if what.len() > WHAT_BYTES_MAX {
        return Err(Refused::invalid("that is too much for a second human to read: ask for less at a time", None));
    }
    let (earlier, open) = app.books.with_directory(|directory| {
        let waits = |approval: &&access::Approval| {
            is_same(&approval.asked_by, caller.actor()) && state(approval, now) == ApprovalState::Pending
        };
        let mut waiting = directory.approvals.values().filter(waits);
        let open = waiting.clone().count();
        let earlier = waiting.find(|approval| approval.request == asked.digest).map(|approval| approval.id.clone());
        (earlier, open)
    });
    if let Some(number) = earlier {
        return Ok(Refused::approval_pending(&number, what));
    }
    if open >= OPEN_MAX {
        return Err(Refused::conflict(format!("{open} things that you asked for wait for a second human already")));
    }
    let number: KeyId = id("id", &format!("a{}", secret_text::<ID_BYTES>()?))?;
    let approval = access::Approval {
        id: number.clone(),
        act: act.name().into(),
        request: asked.digest,
        what: what.into(),
        tenant: thing.tenant().cloned(),
        part: thing.is_part(),
        asked_by: caller.actor().clone(),
        asked_at: now,
        expires_at: now.plus(GOOD_FOR),
        decided: None,
        used_at: None,
    };
    change(&app, [Change::ApprovalAsked(Box::new(approval))]).await?;
    tracing::info!(approval = %number, act = act.name(), "something waits for a second human");
    Ok(Refused::approval_pending(&number, what))
}

fn is_same(one: &Actor, other: &Actor) -> bool {
    one.is_same_human(other) || !one.is_human() && one == other
}

fn thing_of(approval: &access::Approval) -> Thing {
    match &approval.tenant {
        None => Thing::Platform,
        Some(tenant) => {
            Thing::Told { tenant: tenant.clone(), what: "approval", name: approval.id.to_string(), part: approval.part }
        }
    }
}

fn act_named(name: &str) -> Result<Act, Refused> {
    let known = Act::ALL.iter().copied().find(|act| act.name() == name);
    known.ok_or_else(|| Refused::conflict(format!("the approval is of '{name}', which this version does not know")))
}

fn state(approval: &access::Approval, now: Timestamp) -> ApprovalState {
    match &approval.decided {
        _ if approval.used_at.is_some() => ApprovalState::Used,
        Some(decided) if !decided.approved => ApprovalState::Rejected,
        _ if approval.expires_at <= now => ApprovalState::Expired,
        Some(_) => ApprovalState::Approved,
        None => ApprovalState::Pending,
    }
}

pub fn somebody(actor: &Actor) -> Somebody {
    let name = match actor {
        Actor::Person(person) => Some(person.name.to_string()),
        _ => None,
    };
    Somebody { actor: actor.to_string(), name }
}

fn shown(approval: &access::Approval, now: Timestamp) -> Approval {
    let decided = approval.decided.as_ref();
    Approval {
        id: approval.id.to_string(),
        state: state(approval, now),
        act: approval.act.to_string(),
        what: approval.what.to_string(),
        tenant: approval.tenant.as_ref().map(ToString::to_string),
        asked_by: somebody(&approval.asked_by),
        asked_at: approval.asked_at.to_string(),
        expires_at: approval.expires_at.to_string(),
        decided_by: decided.map(|decided| somebody(&decided.by)),
        decided_at: decided.map(|decided| decided.at.to_string()),
        used_at: approval.used_at.map(|at| at.to_string()),
    }
}
