//! The tenants of a storm and their caps: who they are, and which cap of whom is to bind in which wave.
//!
//! Every budget is set once, far too wide to bind. A wave lowers those that it aims at to what they have used and some
//! room, and widens them again afterwards: so in each wave one kind of scope and one window decide, over all waves each
//! does, and no cap is ever lowered below what is used.

use std::sync::Arc;

use anyhow::{Context, Result};
use http::header::HeaderValue;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::admin::{Admin, Budget, BudgetSetting, Picousd, Whose};
use crate::http::bearer_value;

/// The windows of which one binds.
pub const WINDOWS: [&str; 5] = ["hour", "day", "week", "month", "lifetime"];
/// Their keys are refused, or shortened to what is left.
pub const PLANS: [(&str, &str); 2] = [("storm-refuse", "refuse"), ("storm-clamp", "clamp")];
/// One tenant in so many has the plan that clamps.
const CLAMPED: usize = 3;
/// What tenants are charged is not what their work costs.
const MARKUP_PERCENT: &str = "20";
/// No cap that binds is near it.
const WIDE: Picousd = Picousd(1_000_000_000_000_000);
/// No single request of a storm may cost so much.
const REQUEST_CAP: Picousd = Picousd(100_000_000_000);
const PROJECT: &str = "main";
const END_USERS: [&str; 2] = ["ann", "bob"];
/// Of a hundred requests of a tenant, those with its second key: each under an idempotency key, if the gateway knows such.
pub const REPEATS_PERCENT: u64 = 25;
/// Calls of the control plane at once.
const CALLS_MAX: usize = 16;
/// One room for all tenants together is so much smaller than all their own.
const SHARED_PART: i128 = 2;

/// The kinds of scope a request is held in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    Platform,
    Plan,
    Tenant,
    Project,
    Key,
    EndUser,
}

/// What binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Aim {
    pub part: Part,
    pub window: &'static str,
}

#[derive(Debug)]
pub struct Tenant {
    pub id: String,
    /// Which of [`PLANS`].
    pub plan: usize,
    pub plain: Key,
    /// For requests that are sent again, if any are.
    pub repeats: Key,
    pub end_users: [&'static str; 2],
}

#[derive(Debug)]
pub struct Key {
    pub id: String,
    pub authorization: HeaderValue,
}

/// A budget that may bind, and its part of the room in percent.
#[derive(Clone, Debug)]
struct Slot {
    whose: Whose,
    window: &'static str,
    basis: &'static str,
    room_percent: i128,
}

/// A budget that binds now.
#[derive(Clone, Debug)]
pub struct Binding {
    pub aim: Aim,
    pub basis: &'static str,
    /// The tenant's number; `None` if tenants share it.
    pub tenant: Option<usize>,
    pub room: i128,
    /// As it stood when it was set.
    pub before: Budget,
    setting: BudgetSetting,
}

/// What binds for whom in which wave, drawn once.
#[derive(Debug)]
pub struct Aims {
    own: Vec<Aim>,
    windows: [&'static str; 5],
}

/// What a wave is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wave {
    /// Each tenant has a cap of its own that binds. Counts such waves.
    Own(usize),
    /// The plans' caps bind.
    Plans,
    /// The platform's cap binds.
    Platform,
}

#[cfg(test)]
impl Binding {
    pub fn of_test(aim: Aim, room: i128, before: Budget) -> Self {
        let setting = BudgetSetting { whose: Whose::Platform, window: aim.window, basis: "cost", cap: WIDE };
        Self { aim, basis: "cost", tenant: None, room, before, setting }
    }
}

// === impl Aims ===

impl Aims {
    pub fn draw(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut own: Vec<Aim> = Part::OWN.iter().flat_map(|&part| WINDOWS.map(|window| Aim { part, window })).collect();
        own.shuffle(&mut rng);
        let mut windows = WINDOWS;
        windows.shuffle(&mut rng);
        Self { own, windows }
    }

    /// The same tenant has another each time, and all together go through all.
    fn own(&self, wave: usize, tenant: usize, tenants: usize) -> Aim {
        self.own[(wave * tenants + tenant) % self.own.len()]
    }
}

// === impl Part ===

impl Part {
    /// Those that each tenant has for itself.
    pub const OWN: [Self; 4] = [Self::Tenant, Self::Project, Self::Key, Self::EndUser];

    pub fn name(self) -> &'static str {
        match self {
            Self::Platform => "platform",
            Self::Plan => "plan",
            Self::Tenant => "tenant",
            Self::Project => "project",
            Self::Key => "key",
            Self::EndUser => "end user",
        }
    }
}

// === impl Wave ===

impl Wave {
    /// The order: every kind once, then the tenants' own again.
    pub fn numbered(number: usize) -> Self {
        match number {
            0 | 1 => Self::Own(number),
            2 => Self::Plans,
            3 => Self::Platform,
            later => Self::Own(later - 2),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Own(_) => "own caps",
            Self::Plans => "plans' caps",
            Self::Platform => "platform's cap",
        }
    }
}

// === setting up ===

/// Plans, tenants with their keys, and all budgets, wide.
pub async fn set_up(admin: &Admin, count: usize) -> Result<Vec<Tenant>> {
    for (plan, tight_budget) in PLANS {
        admin.set_plan(plan, json!({"tight_budget": tight_budget, "markup_percent": MARKUP_PERCENT})).await?;
    }
    let places = Arc::new(Semaphore::new(CALLS_MAX));
    let mut setting_up = JoinSet::new();
    for number in 0..count {
        let (admin, places) = (admin.clone(), Arc::clone(&places));
        setting_up.spawn(async move {
            let _place = places.acquire_owned().await.context("nobody closes the semaphore")?;
            let tenant = create(&admin, number).await.with_context(|| format!("setting up tenant {number}"))?;
            anyhow::Ok((number, tenant))
        });
    }
    let mut tenants = Vec::with_capacity(count);
    while let Some(ended) = setting_up.join_next().await {
        tenants.push(ended.context("setting up panicked")??);
    }
    tenants.sort_unstable_by_key(|(number, _)| *number);
    for part in [Part::Platform, Part::Plan] {
        for window in WINDOWS {
            for slot in shared_slots(Aim { part, window }) {
                admin.set_budget(&slot.setting(WIDE)).await?;
            }
        }
    }
    Ok(tenants.into_iter().map(|(_, tenant)| tenant).collect())
}

async fn create(admin: &Admin, number: usize) -> Result<Tenant> {
    let id = format!("storm-{number}");
    let plan = usize::from(number % CLAMPED == CLAMPED - 1);
    admin.create_tenant(&id, Some(PLANS[plan].0)).await?;
    admin.create_project(&id, PROJECT).await?;
    let (plain, repeats) = (create_key(admin, &id).await?, create_key(admin, &id).await?);
    let tenant = Tenant { id, plan, plain, repeats, end_users: END_USERS };
    for &part in &Part::OWN {
        for window in WINDOWS {
            for slot in tenant.slots(number, Aim { part, window }) {
                admin.set_budget(&slot.setting(WIDE)).await?;
            }
        }
    }
    for (window, cap) in [("request", REQUEST_CAP), ("rolling-day", WIDE)] {
        let whose = Whose::Tenant(tenant.id.clone());
        admin.set_budget(&BudgetSetting { whose, window, basis: "cost", cap }).await?;
    }
    Ok(tenant)
}

async fn create_key(admin: &Admin, tenant: &str) -> Result<Key> {
    let key = admin.create_key(tenant, PROJECT, json!({})).await?;
    Ok(Key { id: key.id, authorization: bearer_value(&key.key)? })
}

/// Lowers what the wave aims at to what is used and some room: `room` is that of a tenant, in picodollars.
pub async fn aim(
    admin: &Admin,
    aims: &Aims,
    wave: Wave,
    shared_wave: usize,
    tenants: &[&Tenant],
    room: i128,
) -> Result<Vec<Binding>> {
    let mut bindings = Vec::new();
    for (tenant, aim, slot, room) in targets(aims, wave, shared_wave, tenants, room) {
        // Set as wide as it is, it says where it stands: between two waves nothing changes that.
        let before = admin.set_budget(&slot.setting(WIDE)).await?;
        let cap = Picousd(before.taken() + room);
        let setting = slot.setting(cap);
        admin.set_budget(&setting).await?;
        bindings.push(Binding { aim, basis: slot.basis, tenant, room, before, setting });
    }
    Ok(bindings)
}

/// Whose budget is to bind, and with how much room.
fn targets(
    aims: &Aims,
    wave: Wave,
    shared_wave: usize,
    tenants: &[&Tenant],
    room: i128,
) -> Vec<(Option<usize>, Aim, Slot, i128)> {
    let part_of_room = |slot: &Slot, whole: i128| whole * slot.room_percent / 100;
    let window = aims.windows[shared_wave % aims.windows.len()];
    let mut targets = Vec::new();
    match wave {
        Wave::Own(wave) => {
            for (number, tenant) in tenants.iter().enumerate() {
                let aim = aims.own(wave, number, tenants.len());
                for slot in tenant.slots(number, aim) {
                    let room = part_of_room(&slot, room);
                    targets.push((Some(number), aim, slot, room));
                }
            }
        }
        Wave::Plans => {
            let aim = Aim { part: Part::Plan, window };
            for (plan, slot) in shared_slots(aim).into_iter().enumerate() {
                let members = tenants.iter().filter(|tenant| tenant.plan == plan).count();
                if members > 0 {
                    targets.push((None, aim, slot, (room * members as i128 / SHARED_PART).max(room)));
                }
            }
        }
        Wave::Platform => {
            let aim = Aim { part: Part::Platform, window };
            let room = (room * tenants.len() as i128 / SHARED_PART).max(room);
            targets.extend(shared_slots(aim).into_iter().map(|slot| (None, aim, slot, room)));
        }
    }
    targets
}

/// Widens what has bound.
pub async fn widen(admin: &Admin, bindings: &[Binding]) -> Result<()> {
    for binding in bindings {
        admin.set_budget(&BudgetSetting { cap: WIDE, ..binding.setting.clone() }).await?;
    }
    Ok(())
}

fn shared_slots(aim: Aim) -> Vec<Slot> {
    let slot = |whose, number| Slot { whose, window: aim.window, basis: basis(number, aim), room_percent: 100 };
    match aim.part {
        Part::Platform => vec![slot(Whose::Platform, 0)],
        _ => {
            PLANS.iter().enumerate().map(|(number, (plan, _))| slot(Whose::Plan((*plan).to_owned()), number)).collect()
        }
    }
}

/// What counts against the cap: cost and charge in turn. The cap for the tenant's lifetime counts cost, since it is compared
/// with the events.
fn basis(number: usize, aim: Aim) -> &'static str {
    let window = WINDOWS.iter().position(|window| *window == aim.window).unwrap_or_default();
    let is_compared = aim.part == Part::Tenant && aim.window == "lifetime";
    if is_compared || (number + aim.part as usize + window).is_multiple_of(2) { "cost" } else { "charge" }
}

// === impl Tenant ===

impl Tenant {
    fn slots(&self, number: usize, aim: Aim) -> Vec<Slot> {
        let tenant = || self.id.clone();
        let key = |key: &Key| Whose::Key { tenant: tenant(), key: key.id.clone() };
        let end_user = |name: &str| Whose::EndUser { tenant: tenant(), end_user: name.to_owned() };
        let repeats = i128::from(REPEATS_PERCENT);
        let shares = match aim.part {
            Part::Project => vec![(Whose::Project { tenant: tenant(), project: PROJECT.to_owned() }, 100)],
            Part::Key => vec![(key(&self.plain), 100 - repeats), (key(&self.repeats), repeats)],
            Part::EndUser => self.end_users.iter().map(|name| (end_user(name), 50)).collect(),
            Part::Tenant | Part::Plan | Part::Platform => vec![(Whose::Tenant(tenant()), 100)],
        };
        let slot = |(whose, room_percent)| Slot { whose, window: aim.window, basis: basis(number, aim), room_percent };
        shares.into_iter().map(slot).collect()
    }

    /// One of its end users, in whose name a request is sent.
    pub fn draw_end_user(&self, rng: &mut impl Rng) -> usize {
        rng.random_range(0..self.end_users.len())
    }
}

// === impl Slot ===

impl Slot {
    fn setting(&self, cap: Picousd) -> BudgetSetting {
        BudgetSetting { whose: self.whose.clone(), window: self.window, basis: self.basis, cap }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn tenant(number: usize) -> Tenant {
        let key = |id: &str| Key { id: id.to_owned(), authorization: HeaderValue::from_static("Bearer x") };
        let plan = usize::from(number % CLAMPED == CLAMPED - 1);
        Tenant { id: format!("t{number}"), plan, plain: key("k1"), repeats: key("k2"), end_users: END_USERS }
    }

    fn tenants(count: usize) -> Vec<Tenant> {
        (0..count).map(tenant).collect()
    }

    fn all(tenants: &[Tenant]) -> Vec<&Tenant> {
        tenants.iter().collect()
    }

    #[test]
    fn in_two_waves_of_a_dozen_tenants_every_scope_and_window_of_their_own_binds() {
        let tenants = tenants(12);
        for seed in 0..20 {
            let aims = Aims::draw(seed);
            let bound: BTreeSet<Aim> = (0..2)
                .flat_map(|wave| targets(&aims, Wave::Own(wave), 0, &all(&tenants), 1000))
                .map(|(_, aim, ..)| aim)
                .collect();
            assert_eq!(bound.len(), 20, "seed {seed}");
        }
    }

    #[test]
    fn each_tenant_has_one_cap_that_binds_shared_out_among_its_keys_or_end_users() {
        let tenants = tenants(40);
        let targets = targets(&Aims::draw(1), Wave::Own(0), 0, &all(&tenants), 1000);
        for number in 0..tenants.len() {
            let theirs: Vec<_> = targets.iter().filter(|(tenant, ..)| *tenant == Some(number)).collect();
            assert_eq!(theirs.iter().map(|(.., room)| room).sum::<i128>(), 1000);
            let expected = if matches!(theirs[0].1.part, Part::Key | Part::EndUser) { 2 } else { 1 };
            assert_eq!(theirs.len(), expected, "{:?}", theirs[0].1);
        }
    }

    #[test]
    fn shared_caps_bind_for_all_their_tenants_together() {
        let (tenants, aims) = (tenants(12), Aims::draw(1));
        let rooms = |wave| -> Vec<i128> {
            targets(&aims, wave, 0, &all(&tenants), 1000)
                .into_iter()
                .map(|(tenant, .., room)| {
                    assert_eq!(tenant, None);
                    room
                })
                .collect()
        };
        assert_eq!(rooms(Wave::Plans), [4000, 2000]);
        assert_eq!(rooms(Wave::Platform), [6000]);
    }

    #[test]
    fn the_first_four_waves_are_of_every_kind() {
        let waves: Vec<Wave> = (0..6).map(Wave::numbered).collect();
        assert_eq!(waves, [Wave::Own(0), Wave::Own(1), Wave::Plans, Wave::Platform, Wave::Own(2), Wave::Own(3)]);
    }

    #[test]
    fn both_bases_bind_and_a_tenants_lifetime_counts_cost() {
        let of = |part, window| (0..4).map(move |number| basis(number, Aim { part, window })).collect::<BTreeSet<_>>();
        assert_eq!(of(Part::Key, "day").len(), 2);
        assert_eq!(of(Part::Tenant, "lifetime"), BTreeSet::from(["cost"]));
    }
}
