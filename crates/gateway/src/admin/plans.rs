//! `/admin/v1/plans`.

use axum::Json;
use tollgate_client::{List, Plan, PlanSettings, Tariff, TightBudget};
use tollgate_guard::Act;
use tollgate_types::access::{Oversight, OversightSet};
use tollgate_types::directory::{self, Change, Directory};
use tollgate_types::{PicoUsd, PlanId};

use super::approvals;
use super::caller::{Caller, Thing};
use super::durable::change;
use super::extract::{Body, Id, limits};
use super::refused::{Refusals, Refused};
use super::tariffs;

/// A tenant that has a thousand times as much as another is the most that makes sense.
const SHARE_MAX: u32 = 1_000;

/// Create a plan or replace the whole of it: what is left out goes back to its default
#[utoipa::path(put, path = "/admin/v1/plans/{id}", operation_id = "set_plan", tag = "plans", request_body = PlanSettings,
    params(("id" = String, Path, example = "standard")),
    responses((status = 200, description = "The plan as it is now", body = Plan), Refusals))]
pub async fn set(
    caller: Caller,
    Id(id): Id<PlanId>,
    Body(settings): Body<PlanSettings>,
) -> Result<Json<Plan>, Refused> {
    let app = caller.may(Act::SetPlan, &Thing::Platform).await?;
    let plan = read(id, &settings)?;
    if settings.audit_days == Some(0) {
        return Err(Refused::field("audit_days", "must be at least 1"));
    }
    let share = settings.share.unwrap_or(1);
    if !(1..=SHARE_MAX).contains(&share) {
        return Err(Refused::field("share", format!("must be from 1 to {SHARE_MAX}")));
    }
    let oversight = Oversight { second_human: settings.second_human, audit_days: settings.audit_days };
    let _one_at_a_time = approvals::ONE_AT_A_TIME.lock().await;
    let (before, known, share_before) = app.books.with_directory(|directory| {
        (oversight_of(directory, &plan.id), directory.plans.get(&plan.id).cloned(), directory.share_of(&plan.id))
    });
    // What is charged, what is held, and for how long it is told, decide what a cap is worth.
    if before.second_human && (known.as_ref() != Some(&plan) || before != oversight) {
        let terms = serde_json::to_string(&settings).unwrap_or_default();
        let what = format!("set the terms of plan {}, which is watched by two, to {terms}", plan.id);
        approvals::agreed(&caller, Act::SetPlan, &Thing::Platform, &what).await?;
    }
    let set = (before != oversight).then(|| Change::OversightSet(OversightSet { plan: plan.id.clone(), oversight }));
    let shared = (share_before != share).then(|| Change::ShareSet { plan: plan.id.clone(), share });
    change(&app, std::iter::once(Change::PlanSet(plan.clone())).chain(set).chain(shared)).await?;
    Ok(Json(shown(&plan, oversight, share)))
}

/// List all plans
#[utoipa::path(get, path = "/admin/v1/plans", operation_id = "list_plans", tag = "plans",
    responses((status = 200, description = "All plans, by id", body = List<Plan>), Refusals))]
pub async fn list(caller: Caller) -> Result<Json<List<Plan>>, Refused> {
    let app = caller.may(Act::ListPlans, &Thing::Platform).await?;
    let data = app.books.with_directory(|directory| {
        directory
            .plans
            .values()
            .map(|plan| shown(plan, oversight_of(directory, &plan.id), directory.share_of(&plan.id)))
            .collect()
    });
    Ok(Json(List { data }))
}

fn oversight_of(directory: &Directory, plan: &PlanId) -> Oversight {
    directory.oversight.get(plan).copied().unwrap_or_default()
}

fn read(id: PlanId, settings: &PlanSettings) -> Result<directory::Plan, Refused> {
    let tariff = Tariff {
        markup_percent: settings.markup_percent.clone(),
        included_usd: settings.included_usd.clone(),
        markup_tiers: settings.markup_tiers.clone(),
        monthly_minimum_usd: settings.monthly_minimum_usd.clone(),
    };
    Ok(directory::Plan {
        id,
        tariff: tariffs::read(&tariff)?,
        tight_budget: match settings.tight_budget {
            Some(TightBudget::Clamp) => directory::TightBudget::Clamp,
            Some(TightBudget::Refuse) | None => directory::TightBudget::Refuse,
        },
        key_limits: limits(settings.requests_per_minute, settings.tokens_per_minute, settings.parallel_requests)?,
        unpriced_hold: hold("unpriced_hold_usd", settings.unpriced_hold_usd.as_deref())?,
        unbounded_hold: hold("unbounded_hold_usd", settings.unbounded_hold_usd.as_deref())?,
    })
}

fn hold(param: &'static str, usd: Option<&str>) -> Result<Option<PicoUsd>, Refused> {
    usd.map(PicoUsd::parse_usd).transpose().map_err(|error| Refused::field(param, error))
}

fn shown(plan: &directory::Plan, oversight: Oversight, share: u32) -> Plan {
    let directory::Tariff { markup_bps, included, tiers, monthly_minimum } = &plan.tariff;
    Plan {
        id: plan.id.to_string(),
        markup_percent: tariffs::percent(*markup_bps),
        included_usd: included.to_string(),
        markup_tiers: tiers.iter().map(tariffs::tier).collect(),
        monthly_minimum_usd: monthly_minimum.to_string(),
        tight_budget: match plan.tight_budget {
            directory::TightBudget::Refuse => TightBudget::Refuse,
            directory::TightBudget::Clamp => TightBudget::Clamp,
        },
        requests_per_minute: plan.key_limits.requests_per_minute,
        tokens_per_minute: plan.key_limits.tokens_per_minute,
        parallel_requests: plan.key_limits.parallel_requests,
        unpriced_hold_usd: plan.unpriced_hold.map(|hold| hold.to_string()),
        unbounded_hold_usd: plan.unbounded_hold.map(|hold| hold.to_string()),
        second_human: oversight.second_human,
        audit_days: oversight.audit_days,
        share,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_shown_as_it_is_read() {
        let settings = PlanSettings {
            markup_percent: Some("2.05".into()),
            tight_budget: Some(TightBudget::Clamp),
            unpriced_hold_usd: Some("0.1".into()),
            ..PlanSettings::default()
        };
        let plan = shown(&read("p".parse().expect("a slug"), &settings).expect("fine"), Oversight::default(), 1);
        assert_eq!((plan.markup_percent.as_str(), plan.unpriced_hold_usd.as_deref()), ("2.05", Some("0.10")));
        assert_eq!(plan.tight_budget, TightBudget::Clamp);
    }
}
