//! `/admin/v1/budgets`. A budget is named by whose money it is, its window and its basis.

use axum::Json;
use http::StatusCode;
use smallvec::SmallVec;
use tollgate_client::{Basis, Budget, BudgetAlert, BudgetScope, BudgetSelector, BudgetSetting, List, Whose, Window};
use tollgate_guard::Act;
use tollgate_ledger::{Alert, BudgetState, Cap, CapSet};
use tollgate_types::directory::Directory;
use tollgate_types::{EndUserId, KeyId, PicoSum, PlanId, ProjectId, Scope, TenantId, Timestamp};

use super::approvals;
use super::caller::{Caller, Thing};
use super::extract::{Asked, Body, id, optional_id};
use super::projects::Of;
use super::refused::{Refusals, Refused};
use crate::alerts;
use crate::app::App;

/// Thresholds of one budget at most.
const ALERTS_MAX: usize = 8;

/// Set a cap, or thresholds that only alert, for the narrowest that is named
#[utoipa::path(put, path = "/admin/v1/budgets", operation_id = "set_budget", tag = "budgets", request_body = BudgetSetting,
    responses((status = 200, description = "The budget as it stands now", body = Budget), Refusals))]
pub async fn set(caller: Caller, Body(setting): Body<BudgetSetting>) -> Result<Json<Budget>, Refused> {
    let thing = Thing::named(&setting.whose())?;
    let app = caller.may(Act::SetBudget, &thing).await?;
    let cap = setting.cap_usd.as_deref().map(PicoSum::parse_usd).transpose();
    let cap = cap.map_err(|error| Refused::field("cap_usd", error))?;
    let alerts = thresholds(&setting.alerts, cap)?;
    if cap.is_none() && alerts.is_empty() {
        return Err(Refused::field("cap_usd", "is missing: a budget has a cap, or 'alerts', or both"));
    }
    let which = Which::read(&app, &setting.whose(), setting.window, setting.basis)?;
    let _one_at_a_time = approvals::ONE_AT_A_TIME.lock().await;
    if let Some(what) = which.is_raised(&app, cap) {
        approvals::agreed(&caller, Act::SetBudget, &thing, &what).await?;
    }
    which.put(&app, cap, alerts).await?;
    let state = which.state(&app).ok_or_else(|| Refused::conflict("the budget was removed in the same moment"))?;
    Ok(Json(shown(&state)))
}

/// List budgets and where they stand
#[utoipa::path(get, path = "/admin/v1/budgets", operation_id = "list_budgets", tag = "budgets", params(Of),
    responses((status = 200, description = "Budgets: a tenant's own, its projects', its keys', its end users'; without a tenant everybody's", body = List<Budget>), Refusals))]
pub async fn list(caller: Caller, Asked(of): Asked<Of>) -> Result<Json<List<Budget>>, Refused> {
    let app = caller.may(Act::ListBudgets, &of.thing()?).await?;
    let tenant = of.tenant(&app)?;
    let budgets = app.books.budgets(|scope| tenant.is_none() || scope.tenant() == tenant.as_ref());
    Ok(Json(List { data: budgets.iter().map(shown).collect() }))
}

/// Remove a cap: what it counted is no longer limited by it
#[utoipa::path(delete, path = "/admin/v1/budgets", operation_id = "remove_budget", tag = "budgets", params(BudgetSelector),
    responses((status = 204, description = "Removed"), Refusals))]
pub async fn remove(caller: Caller, Asked(selected): Asked<BudgetSelector>) -> Result<StatusCode, Refused> {
    let thing = Thing::named(&selected.whose())?;
    let app = caller.may(Act::RemoveBudget, &thing).await?;
    let which = Which::read(&app, &selected.whose(), selected.window, selected.basis)?;
    if which.state(&app).is_none() {
        return Err(Refused::not_found("there is no such budget"));
    }
    let _one_at_a_time = approvals::ONE_AT_A_TIME.lock().await;
    if let Some(what) = which.is_raised(&app, None) {
        approvals::agreed(&caller, Act::RemoveBudget, &thing, &what).await?;
    }
    which.put(&app, None, SmallVec::new()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List the thresholds that were crossed last
///
/// Newest first, at most 1,000, since the gateway started.
#[utoipa::path(get, path = "/admin/v1/budgets/alerts", operation_id = "list_budget_alerts", tag = "budgets", params(Of),
    responses((status = 200, description = "Alerts: a tenant's own, its projects', its keys', its end users'; without a tenant everybody's", body = List<BudgetAlert>), Refusals))]
pub async fn alerts_list(caller: Caller, Asked(of): Asked<Of>) -> Result<Json<List<BudgetAlert>>, Refused> {
    let app = caller.may(Act::ListBudgetAlerts, &of.thing()?).await?;
    let tenant = of.tenant(&app)?;
    alerts::collect(&app);
    let newest = app.alerts.newest(|scope| tenant.is_none() || scope.tenant() == tenant.as_ref());
    Ok(Json(List { data: newest.iter().map(alert_shown).collect() }))
}

/// One budget, of somebody who exists.
struct Which {
    scope: Scope,
    window: tollgate_types::Window,
    basis: tollgate_types::Basis,
}

// === impl Which ===

impl Which {
    fn read(app: &App, whose: &Whose, of: Window, counted: Option<Basis>) -> Result<Self, Refused> {
        let scope = scope(app, whose)?;
        Ok(Self { scope, window: window(of), basis: basis(counted.unwrap_or(Basis::Cost)) })
    }

    /// What would be done, in words, if that leaves more to spend than now and is not for one person alone to do.
    fn is_raised(&self, app: &App, cap: Option<PicoSum>) -> Option<String> {
        let is_watched = app.books.with_directory(|directory| is_watched(directory, &self.scope));
        // What is in force without a cap of its own: the one that everybody of that kind has.
        let before = self.cap(app, &self.scope).or_else(|| self.cap(app, &self.pattern(app)?))?;
        let raised = cap.is_none_or(|cap| cap > before);
        let (scope, window, basis) = (in_words(&self.scope), self.window.name(), self.basis.name());
        let to = cap.map_or_else(|| "nothing that limits it".to_owned(), |cap| format!("{cap} US dollars"));
        (is_watched && raised)
            .then(|| format!("raise the cap on the {basis} of {scope} per {window} from {before} US dollars to {to}"))
    }

    fn cap(&self, app: &App, scope: &Scope) -> Option<PicoSum> {
        let budgets = app.books.budgets(|known| known == scope);
        let same = |state: &&BudgetState| (state.budget.window, state.budget.basis) == (self.window, self.basis);
        budgets.iter().find(same)?.budget.cap
    }

    /// Whose budget counts for this scope where it has none of its own.
    fn pattern(&self, app: &App) -> Option<Scope> {
        match &self.scope {
            Scope::Tenant(tenant) => {
                let plan =
                    app.books.with_directory(|directory| directory.tenant(tenant).ok().map(|it| it.plan.clone()));
                plan.map(Scope::EachTenant)
            }
            Scope::EndUser(tenant, _) => Some(Scope::EachEndUser(tenant.clone())),
            _ => None,
        }
    }

    async fn put(&self, app: &App, cap: Option<PicoSum>, alerts: SmallVec<[PicoSum; 2]>) -> Result<(), Refused> {
        let Self { scope, window, basis } = self;
        // The time is the books' own.
        let at = Timestamp::default();
        let set = CapSet { scope: scope.clone(), window: *window, basis: *basis, cap, alerts, at };
        let position = app.books.set_cap(set)?;
        Ok(app.journal.durable(position).await?)
    }

    fn state(&self, app: &App) -> Option<BudgetState> {
        let budgets = app.books.budgets(|scope| *scope == self.scope);
        budgets.into_iter().find(|state| (state.budget.window, state.budget.basis) == (self.window, self.basis))
    }
}

/// Whether raising a cap there needs a second human: as the plan says, and of what all share, as any plan does.
fn is_watched(directory: &Directory, scope: &Scope) -> bool {
    let on = |plan: &PlanId| directory.oversight.get(plan).is_some_and(|oversight| oversight.second_human);
    match scope {
        Scope::Platform => directory.oversight.values().any(|oversight| oversight.second_human),
        Scope::Plan(plan) | Scope::EachTenant(plan) => on(plan),
        Scope::Tenant(tenant)
        | Scope::Project(tenant, _)
        | Scope::Key(tenant, _)
        | Scope::EndUser(tenant, _)
        | Scope::EachEndUser(tenant) => directory.oversight_of(tenant).second_human,
    }
}

/// A scope in words.
fn in_words(scope: &Scope) -> String {
    match scope {
        Scope::Platform => "the platform".to_owned(),
        Scope::Plan(plan) => format!("plan {plan}"),
        Scope::EachTenant(plan) => format!("each tenant on plan {plan}"),
        Scope::Tenant(tenant) => format!("tenant {tenant}"),
        Scope::Project(tenant, project) => format!("project {project} of tenant {tenant}"),
        Scope::Key(tenant, key) => format!("key {key} of tenant {tenant}"),
        Scope::EndUser(tenant, user) => format!("end user {user} of tenant {tenant}"),
        Scope::EachEndUser(tenant) => format!("each end user of tenant {tenant}"),
    }
}

/// Thresholds in dollars, or in percent of the cap, in ascending order.
fn thresholds(given: &[String], cap: Option<PicoSum>) -> Result<SmallVec<[PicoSum; 2]>, Refused> {
    let wrong = |text: &str| {
        Refused::field(
            "alerts",
            format!("{text:?} is neither US dollars such as \"0.80\" nor a part of the cap such as \"80%\""),
        )
    };
    if given.len() > ALERTS_MAX {
        return Err(Refused::field("alerts", format!("at most {ALERTS_MAX} thresholds")));
    }
    let mut alerts = SmallVec::new();
    for text in given {
        let threshold = match text.strip_suffix('%') {
            None => PicoSum::parse_usd(text).map_err(|_| wrong(text))?,
            Some(percent) => {
                let percent = percent.trim().parse::<u32>().ok().filter(|percent| (1..=100).contains(percent));
                let cap = cap.ok_or_else(|| Refused::field("alerts", "a part of the cap needs 'cap_usd'"))?;
                let percent = i128::from(percent.ok_or_else(|| wrong(text))?);
                // Of the largest caps, the part is a little less than exact; none is ever reached.
                PicoSum(
                    cap.0.checked_mul(percent).map_or_else(|| cap.0 / 100 * percent, |hundredfold| hundredfold / 100),
                )
            }
        };
        alerts.push(threshold);
    }
    alerts.sort_unstable();
    alerts.dedup();
    Ok(alerts)
}

/// The scope that is named. What is named must fit together: else the caller means something else than would be done.
pub fn scope(app: &App, whose: &Whose) -> Result<Scope, Refused> {
    let Whose { tenant, project, key, end_user, plan, each, platform } = whose;
    let below = [project, key, end_user].into_iter().flatten().count();
    let named = match (tenant, plan, platform) {
        (None, None, true) if below == 0 && !each => Scope::Platform,
        (None, Some(plan), false) if below == 0 => {
            let plan: PlanId = id("plan", plan)?;
            if *each { Scope::EachTenant(plan) } else { Scope::Plan(plan) }
        }
        (Some(tenant), None, false) => return tenants_scope(app, &id("tenant", tenant)?, whose),
        _ => {
            let advice = "name a tenant (and below it a project, a key or an end user), or a plan, or the platform";
            return Err(Refused::field("tenant", advice));
        }
    };
    app.books.with_directory(|directory| directory.check_scope(&named))?;
    Ok(named)
}

fn tenants_scope(app: &App, tenant: &TenantId, whose: &Whose) -> Result<Scope, Refused> {
    let Whose { end_user, each, .. } = whose;
    let project: Option<ProjectId> = optional_id("project", whose.project.as_ref())?;
    let key: Option<KeyId> = optional_id("key", whose.key.as_ref())?;
    if (end_user.is_some() || *each) && (project.is_some() || key.is_some()) || end_user.is_some() && *each {
        return Err(Refused::field("end_user", "end users are the tenant's: name no project and no key beside them"));
    }
    app.books.with_directory(|directory| directory.tenant(tenant).map(|_| ()))?;
    if *each {
        return Ok(Scope::EachEndUser(tenant.clone()));
    }
    if let Some(name) = end_user {
        let id = name.parse::<EndUserId>().ok();
        let id = id.map_or_else(|| app.vault.end_user(tenant, name), Ok)?;
        return Ok(Scope::EndUser(tenant.clone(), id));
    }
    app.books.with_directory(|directory| part_of(directory, tenant, project, key))
}

/// The narrowest that is given. A project beside a key must be the key's own.
fn part_of(
    directory: &Directory,
    tenant: &TenantId,
    project: Option<ProjectId>,
    key: Option<KeyId>,
) -> Result<Scope, Refused> {
    if let Some(project) = &project {
        directory.project(tenant, project)?;
    }
    let Some(key) = key else {
        return Ok(match project {
            Some(project) => Scope::Project(tenant.clone(), project),
            None => Scope::Tenant(tenant.clone()),
        });
    };
    let found = directory.key(&key).ok().filter(|found| found.tenant == *tenant);
    let found = found.ok_or_else(|| Refused::not_found(format!("the tenant '{tenant}' has no key '{key}'")))?;
    match project {
        Some(project) if project != found.project => {
            Err(Refused::field("project", format!("the key '{key}' spends for the project '{}'", found.project)))
        }
        _ => Ok(Scope::Key(tenant.clone(), key)),
    }
}

fn shown(state: &BudgetState) -> Budget {
    let BudgetState { scope, budget: Cap { window, basis, cap, alerts }, sums, resets_at } = state;
    let (scope, Whose { tenant, project, key, end_user, plan, .. }) = named(scope);
    Budget {
        scope,
        tenant,
        plan,
        project,
        key,
        end_user,
        window: window_shown(*window),
        basis: basis_shown(*basis),
        cap_usd: cap.map(|cap| cap.to_string()),
        cap_picousd: cap.map(|cap| cap.0.to_string()),
        alerts_picousd: alerts.iter().map(|threshold| threshold.0.to_string()).collect(),
        posted_picousd: sums.posted.of(*basis).0.to_string(),
        bounded_picousd: sums.bounded.of(*basis).0.to_string(),
        pending_picousd: sums.pending.of(*basis).0.to_string(),
        indeterminate_picousd: sums.indeterminate.of(*basis).0.to_string(),
        remaining_picousd: cap.map(|cap| (cap.0 - sums.used(*basis).0).to_string()),
        resets_at: resets_at.map(|at| at.to_string()),
    }
}

fn alert_shown(alert: &Alert) -> BudgetAlert {
    let (scope, Whose { tenant, project, key, end_user, plan, .. }) = named(&alert.scope);
    BudgetAlert {
        scope,
        tenant,
        plan,
        project,
        key,
        end_user,
        window: window_shown(alert.window),
        basis: basis_shown(alert.basis),
        threshold_picousd: alert.threshold.0.to_string(),
        posted_picousd: alert.posted.0.to_string(),
        at: alert.at.to_string(),
    }
}

/// A scope as it is shown: its kind and its names.
pub fn named(scope: &Scope) -> (BudgetScope, Whose) {
    let mut whose = Whose { tenant: scope.tenant().map(ToString::to_string), ..Whose::default() };
    let kind = match scope {
        Scope::Platform => BudgetScope::Platform,
        Scope::Plan(plan) => {
            whose.plan = Some(plan.to_string());
            BudgetScope::Plan
        }
        Scope::EachTenant(plan) => {
            whose.plan = Some(plan.to_string());
            BudgetScope::EachTenant
        }
        Scope::Tenant(_) => BudgetScope::Tenant,
        Scope::Project(_, project) => {
            whose.project = Some(project.to_string());
            BudgetScope::Project
        }
        Scope::Key(_, key) => {
            whose.key = Some(key.to_string());
            BudgetScope::Key
        }
        Scope::EndUser(_, user) => {
            whose.end_user = Some(user.to_string());
            BudgetScope::EndUser
        }
        Scope::EachEndUser(_) => BudgetScope::EachEndUser,
    };
    (kind, whose)
}

fn window(window: Window) -> tollgate_types::Window {
    match window {
        Window::Request => tollgate_types::Window::Request,
        Window::Minute => tollgate_types::Window::Minute,
        Window::Hour => tollgate_types::Window::Hour,
        Window::Day => tollgate_types::Window::Day,
        Window::Week => tollgate_types::Window::Week,
        Window::Month => tollgate_types::Window::Month,
        Window::Lifetime => tollgate_types::Window::Lifetime,
        Window::RollingMinute => tollgate_types::Window::RollingMinute,
        Window::RollingHour => tollgate_types::Window::RollingHour,
        Window::RollingDay => tollgate_types::Window::RollingDay,
        Window::RollingWeek => tollgate_types::Window::RollingWeek,
        Window::RollingMonth => tollgate_types::Window::RollingMonth,
    }
}

fn window_shown(window: tollgate_types::Window) -> Window {
    match window {
        tollgate_types::Window::Request => Window::Request,
        tollgate_types::Window::Minute => Window::Minute,
        tollgate_types::Window::Hour => Window::Hour,
        tollgate_types::Window::Day => Window::Day,
        tollgate_types::Window::Week => Window::Week,
        tollgate_types::Window::Month => Window::Month,
        tollgate_types::Window::Lifetime => Window::Lifetime,
        tollgate_types::Window::RollingMinute => Window::RollingMinute,
        tollgate_types::Window::RollingHour => Window::RollingHour,
        tollgate_types::Window::RollingDay => Window::RollingDay,
        tollgate_types::Window::RollingWeek => Window::RollingWeek,
        tollgate_types::Window::RollingMonth => Window::RollingMonth,
    }
}

fn basis(basis: Basis) -> tollgate_types::Basis {
    match basis {
        Basis::Cost => tollgate_types::Basis::Cost,
        Basis::Charge => tollgate_types::Basis::Charge,
    }
}

fn basis_shown(basis: tollgate_types::Basis) -> Basis {
    match basis {
        tollgate_types::Basis::Cost => Basis::Cost,
        tollgate_types::Basis::Charge => Basis::Charge,
    }
}
