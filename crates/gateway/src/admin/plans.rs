//! `/admin/v1/plans`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use tollgate_client::{List, Plan, PlanSettings, TightBudget};
use tollgate_types::directory::{self, Change, Limits, Tariff};
use tollgate_types::{PicoUsd, PlanId};

use super::durable::change;
use super::extract::{Body, Id, at_least_one};
use super::refused::{Refusals, Refused};
use crate::app::App;

/// Ten thousand percent: above it somebody mistook basis points for percent.
const MARKUP_BPS_MAX: u64 = 1_000_000;

/// Create a plan or replace the whole of it: what is left out goes back to its default
#[utoipa::path(put, path = "/admin/v1/plans/{id}", operation_id = "set_plan", tag = "plans", request_body = PlanSettings,
    params(("id" = String, Path, example = "standard")),
    responses((status = 200, description = "The plan as it is now", body = Plan), Refusals))]
pub async fn set(
    State(app): State<Arc<App>>,
    Id(id): Id<PlanId>,
    Body(settings): Body<PlanSettings>,
) -> Result<Json<Plan>, Refused> {
    let plan = read(id, &settings)?;
    change(&app, [Change::PlanSet(plan.clone())]).await?;
    Ok(Json(shown(&plan)))
}

/// List all plans
#[utoipa::path(get, path = "/admin/v1/plans", operation_id = "list_plans", tag = "plans",
    responses((status = 200, description = "All plans, by id", body = List<Plan>), Refusals))]
pub async fn list(State(app): State<Arc<App>>) -> Json<List<Plan>> {
    Json(List { data: app.books.with_directory(|directory| directory.plans.values().map(shown).collect()) })
}

fn read(id: PlanId, settings: &PlanSettings) -> Result<directory::Plan, Refused> {
    let unpriced_hold = settings.unpriced_hold_usd.as_deref().map(PicoUsd::parse_usd).transpose();
    Ok(directory::Plan {
        id,
        tariff: Tariff {
            markup_bps: settings.markup_percent.as_deref().map_or(Ok(0), markup_bps)?,
            ..Tariff::default()
        },
        tight_budget: match settings.tight_budget {
            Some(TightBudget::Clamp) => directory::TightBudget::Clamp,
            Some(TightBudget::Refuse) | None => directory::TightBudget::Refuse,
        },
        key_limits: Limits {
            requests_per_minute: at_least_one("requests_per_minute", settings.requests_per_minute)?,
            tokens_per_minute: at_least_one("tokens_per_minute", settings.tokens_per_minute)?,
            parallel_requests: at_least_one("parallel_requests", settings.parallel_requests)?,
        },
        unpriced_hold: unpriced_hold.map_err(|error| Refused::field("unpriced_hold_usd", error))?,
        unbounded_hold: None,
    })
}

/// A decimal percentage in hundredths of a percent, exactly.
fn markup_bps(percent: &str) -> Result<u32, Refused> {
    /// A percent read as dollars is 1e12 picodollars, and a hundred basis points.
    const PICO_PER_BPS: u64 = 10_000_000_000;
    let wrong = || {
        Refused::field(
            "markup_percent",
            "a decimal from 0 to 10000 with at most two digits after the point, such as \"20.5\"",
        )
    };
    let PicoUsd(pico) = PicoUsd::parse_usd(percent).map_err(|_| wrong())?;
    let bps = pico / PICO_PER_BPS;
    if pico % PICO_PER_BPS != 0 || bps > MARKUP_BPS_MAX {
        return Err(wrong());
    }
    u32::try_from(bps).map_err(|_| wrong())
}

fn shown(plan: &directory::Plan) -> Plan {
    Plan {
        id: plan.id.to_string(),
        markup_percent: format!("{}.{:02}", plan.tariff.markup_bps / 100, plan.tariff.markup_bps % 100),
        tight_budget: match plan.tight_budget {
            directory::TightBudget::Refuse => TightBudget::Refuse,
            directory::TightBudget::Clamp => TightBudget::Clamp,
        },
        requests_per_minute: plan.key_limits.requests_per_minute,
        tokens_per_minute: plan.key_limits.tokens_per_minute,
        parallel_requests: plan.key_limits.parallel_requests,
        unpriced_hold_usd: plan.unpriced_hold.map(|hold| hold.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentage_is_read_exactly_or_not_at_all() {
        for (text, bps) in [("0", 0), ("20", 2000), ("20.0", 2000), ("0.01", 1), ("10000", 1_000_000)] {
            assert_eq!(markup_bps(text).expect(text), bps);
        }
        for bad in ["", "-1", "0.001", "20%", "10000.01", "1e2", "99999999999999"] {
            assert!(markup_bps(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_plan_is_shown_as_it_is_read() {
        let settings = PlanSettings {
            markup_percent: Some("2.05".into()),
            tight_budget: Some(TightBudget::Clamp),
            unpriced_hold_usd: Some("0.1".into()),
            ..PlanSettings::default()
        };
        let plan = shown(&read("p".parse().expect("a slug"), &settings).expect("fine"));
        assert_eq!((plan.markup_percent.as_str(), plan.unpriced_hold_usd.as_deref()), ("2.05", Some("0.10")));
        assert_eq!(plan.tight_budget, TightBudget::Clamp);
    }
}
