//! What the ledger's sums must be, found the slow way: a list of what each request is counted in, summed from scratch with
//! plain loops. It shares no arithmetic with the ledger, not even the calendar, and it forgets nothing.

use std::collections::HashMap;

use tollgate_ledger::account::Columns;
use tollgate_ledger::{Adjusted, Amounts, CapSet, Record, Reserved, Sums};
use tollgate_types::{Basis, Confidence, PicoSum, RequestId, Scope, Spender, Timestamp, UtcOffset, Window};

use crate::world::BASES;

#[derive(Default)]
pub struct Oracle {
    pub records: Vec<Record>,
    pub requests: HashMap<RequestId, Request>,
    counted: HashMap<(Scope, Window), Vec<Counted>>,
    budgets: Vec<Budget>,
    /// Scope, window, basis, threshold, posted, at; since they were last taken.
    alerts: Vec<(Scope, Window, Basis, i128, i128, Timestamp)>,
}

pub struct Request {
    pub reserved: Reserved,
    pub hold: Amounts,
    pub fate: Fate,
    /// What the books say was posted, adjustments included.
    pub stands: Amounts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Pending,
    Indeterminate,
    Posted(Amounts, Confidence),
    Voided,
}

/// One request in one period; or what an adjustment changed in it later.
#[derive(Clone, Copy)]
struct Counted {
    id: RequestId,
    at: Timestamp,
    /// Where the calendar puts it, and where it was put.
    calendar: i64,
    period: i64,
    /// Cost, charge, bounded cost, bounded charge; none for the request itself.
    late: Option<[i128; 4]>,
}

/// A budget in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    pub scope: Scope,
    pub window: Window,
    pub basis: Basis,
    pub cap: Option<i128>,
    pub alerts: Vec<i128>,
}

/// A budget as it bears on one scope: its own, or its template's.
pub struct Bearing {
    pub scope: Scope,
    pub budget: Budget,
}

impl Oracle {
    pub fn of(records: &[Record]) -> Self {
        let mut oracle = Self::default();
        records.iter().for_each(|record| oracle.read(record));
        oracle.alerts.clear();
        oracle
    }

    pub fn read(&mut self, record: &Record) {
        self.records.push(record.clone());
        match record {
            Record::Reserved(reserved) => self.reserve(reserved),
            Record::Extended(extended) => {
                self.requests.get_mut(&extended.id).expect("reserved before").hold = extended.hold;
            }
            Record::Posted(posted) => {
                let before = self.watched(posted.id, posted.at);
                let request = self.requests.get_mut(&posted.id).expect("reserved before");
                request.fate = Fate::Posted(posted.amounts, posted.confidence);
                request.stands = posted.amounts;
                self.note_crossings(&before, posted.id, posted.at);
            }
            Record::Voided(voided) => self.requests.get_mut(&voided.id).expect("reserved before").fate = Fate::Voided,
            Record::Indeterminate { id, .. } => {
                self.requests.get_mut(id).expect("reserved before").fate = Fate::Indeterminate;
            }
            Record::CapSet(CapSet { scope, window, basis, cap, alerts, .. }) => {
                self.budgets.retain(|held| (&held.scope, held.window, held.basis) != (scope, *window, *basis));
                if cap.is_some() || !alerts.is_empty() {
                    let (cap, alerts) = (cap.map(|cap| cap.0), alerts.iter().map(|alert| alert.0).collect());
                    self.budgets.push(Budget { scope: scope.clone(), window: *window, basis: *basis, cap, alerts });
                }
            }
            Record::Adjusted(adjusted) => {
                let before = self.watched(adjusted.id, adjusted.at);
                self.adjust(adjusted);
                self.note_crossings(&before, adjusted.id, adjusted.at);
            }
            Record::Directory(_) | Record::PricesSet { .. } | Record::Audited(_) => {}
        }
    }

    fn reserve(&mut self, reserved: &Reserved) {
        for scope in scopes_of(&reserved.spender) {
            let is_user = matches!(scope, Scope::EndUser(..));
            for window in Window::ALL {
                let always = [Window::Day, Window::Week, Window::Month, Window::Lifetime].contains(&window);
                let asked = self.budgets.iter().any(|budget| {
                    budget.window == window
                        && (budget.scope == scope
                            || Some(&budget.scope) == template(&reserved.spender, &scope).as_ref())
                });
                if window == Window::Request || !(asked || (always && !is_user)) {
                    continue;
                }
                let calendar = calendar(window, reserved.at, offset_in(&scope, reserved.offset));
                let period = self
                    .latest(&scope, window)
                    .map_or(calendar, |latest| if latest > calendar { latest } else { calendar });
                let counted = Counted { id: reserved.id, at: reserved.at, calendar, period, late: None };
                self.counted.entry((scope.clone(), window)).or_default().push(counted);
            }
        }
        let (hold, fate) = (reserved.hold, Fate::Pending);
        let request = Request { reserved: reserved.clone(), hold, fate, stands: Amounts::ZERO };
        self.requests.insert(reserved.id, request);
    }

    /// In the period that counted the request, if that is the one that goes on (or rolls); and what is less only where it
    /// is certain that the request was counted.
    fn adjust(&mut self, adjusted: &Adjusted) {
        let (was, now) = (adjusted.was, adjusted.now);
        self.requests.get_mut(&adjusted.id).expect("reserved before").stands = now.amounts;
        let bound =
            |amounts: Amounts, confidence| if confidence == Confidence::Bounded { amounts } else { Amounts::ZERO };
        let (was_bound, now_bound) = (bound(was.amounts, was.confidence), bound(now.amounts, now.confidence));
        for scope in scopes_of(&adjusted.spender) {
            for window in Window::ALL {
                if self.latest(&scope, window).is_none() {
                    continue;
                }
                let latest = self.period(&scope, window, adjusted.at, adjusted.offset);
                let calendar = calendar(window, adjusted.held_at, offset_in(&scope, adjusted.offset));
                let there = &self.counted[&(scope.clone(), window)];
                let period = match part_seconds(window) {
                    Some(_) if calendar < latest - 12 || !there.iter().any(|c| c.period == calendar) => continue,
                    Some(_) => calendar,
                    None => {
                        let set_back = |c: &Counted| {
                            c.period == latest && c.late.is_none() && c.calendar < latest && c.at <= adjusted.held_at
                        };
                        let goes_on = calendar == latest || there.iter().any(set_back);
                        // Unless two things happened in one microsecond, that is where it was counted.
                        for c in there.iter().filter(|c| c.id == adjusted.id && c.late.is_none()) {
                            let same_moment = there.iter().any(|other| other.id != c.id && other.at == c.at);
                            assert!(same_moment || goes_on == (c.period == latest), "{scope:?} {window}");
                        }
                        if !goes_on {
                            continue;
                        }
                        latest
                    }
                };
                let always = [Window::Day, Window::Week, Window::Month, Window::Lifetime].contains(&window)
                    && !matches!(scope, Scope::EndUser(..));
                let rise = |before: u64, after: u64| {
                    let rise = i128::from(after) - i128::from(before);
                    if always || rise > 0 { rise } else { 0 }
                };
                let bound = |before: u64, after: u64| if always { rise(before, after) } else { 0 };
                let late = [
                    rise(was.amounts.cost.0, now.amounts.cost.0),
                    rise(was.amounts.charge.0, now.amounts.charge.0),
                    bound(was_bound.cost.0, now_bound.cost.0),
                    bound(was_bound.charge.0, now_bound.charge.0),
                ];
                let (id, at) = (adjusted.id, adjusted.held_at);
                let counted = Counted { id, at, calendar, period, late: Some(late) };
                self.counted.get_mut(&(scope.clone(), window)).expect("it was just read").push(counted);
            }
        }
    }

    pub fn fate(&self, id: RequestId) -> Option<Fate> {
        self.requests.get(&id).map(|request| request.fate)
    }

    pub fn is_open(&self, id: RequestId) -> bool {
        matches!(self.fate(id), Some(Fate::Pending | Fate::Indeterminate))
    }

    pub fn with_fate(&self, fate: Fate) -> Vec<RequestId> {
        self.requests.iter().filter(|(_, request)| request.fate == fate).map(|(id, _)| *id).collect()
    }

    /// What of a request still counts.
    pub fn worth(&self, id: RequestId) -> Amounts {
        match self.requests.get(&id) {
            Some(Request { fate: Fate::Pending | Fate::Indeterminate, hold, .. }) => *hold,
            Some(Request { fate: Fate::Posted(..), stands, .. }) => *stands,
            _ => Amounts::ZERO,
        }
    }

    fn latest(&self, scope: &Scope, window: Window) -> Option<i64> {
        self.counted.get(&(scope.clone(), window))?.iter().map(|counted| counted.period).max()
    }

    /// The period that `at` belongs to: the calendar's, but never one before a period that has begun.
    pub fn period(&self, scope: &Scope, window: Window, at: Timestamp, offset: UtcOffset) -> i64 {
        let calendar = calendar(window, at, offset_in(scope, offset));
        self.latest(scope, window).map_or(calendar, |latest| latest.max(calendar))
    }

    /// The sums of one scope at some time.
    pub fn sums(&self, scope: &Scope, window: Window, at: Timestamp, offset: UtcOffset) -> Sums {
        let last = self.period(scope, window, at, offset);
        self.sums_from(scope, window, if part_seconds(window).is_some() { last - 12 } else { last }, i64::MAX)
    }

    fn sums_from(&self, scope: &Scope, window: Window, first: i64, last: i64) -> Sums {
        let mut sums = Sums::default();
        for counted in self.counted.get(&(scope.clone(), window)).into_iter().flatten() {
            if first <= counted.period && counted.period <= last {
                self.add(counted, &mut sums);
            }
        }
        sums
    }

    fn add(&self, counted: &Counted, sums: &mut Sums) {
        if let Some([cost, charge, bounded_cost, bounded_charge]) = counted.late {
            sums.posted.cost.0 += cost;
            sums.posted.charge.0 += charge;
            sums.bounded.cost.0 += bounded_cost;
            sums.bounded.charge.0 += bounded_charge;
            return;
        }
        let request = &self.requests[&counted.id];
        match request.fate {
            Fate::Pending => add(&mut sums.pending, request.hold),
            Fate::Indeterminate => add(&mut sums.indeterminate, request.hold),
            Fate::Posted(amounts, confidence) => {
                add(&mut sums.posted, amounts);
                if confidence == Confidence::Bounded {
                    add(&mut sums.bounded, amounts);
                }
            }
            Fate::Voided => {}
        }
    }

    /// What is posted of the month that a request is held in.
    pub fn month_of(&self, id: RequestId) -> Columns {
        let request = &self.requests[&id];
        let tenant = Scope::Tenant(request.reserved.spender.tenant.clone());
        let held = self.counted[&(tenant.clone(), Window::Month)].iter().find(|counted| counted.id == id);
        let period = held.expect("a month is always counted").period;
        self.sums_from(&tenant, Window::Month, period, period).posted
    }

    /// The budgets that bear on a spender, in the order in which they are asked.
    pub fn bearing(&self, spender: &Spender) -> Vec<Bearing> {
        let mut all = Vec::new();
        for scope in scopes_of(spender) {
            let of = |holder: &Scope| {
                let mut budgets: Vec<Budget> = self.budgets.iter().filter(|b| b.scope == *holder).cloned().collect();
                budgets.sort_by_key(|budget| (budget.window, budget.basis));
                budgets
            };
            let own = of(&scope);
            let inherited = template(spender, &scope).map(|template| of(&template)).unwrap_or_default();
            let is_own = |b: &Budget| own.iter().any(|o| (o.window, o.basis) == (b.window, b.basis));
            let inherited: Vec<Budget> = inherited.into_iter().filter(|budget| !is_own(budget)).collect();
            all.extend(own.into_iter().chain(inherited).map(|budget| Bearing { scope: scope.clone(), budget }));
        }
        all
    }

    /// What a budget leaves for one more hold; none if it has no ceiling.
    pub fn left(&self, bearing: &Bearing, at: Timestamp, offset: UtcOffset) -> Option<i128> {
        let Bearing { scope, budget } = bearing;
        let cap = budget.cap?;
        if budget.window == Window::Request {
            return Some(cap);
        }
        Some(cap - used(&self.sums(scope, budget.window, at, offset), budget.basis))
    }

    /// The least that any budget leaves, in each column.
    pub fn headroom(&self, spender: &Spender, at: Timestamp, offset: UtcOffset) -> [Option<PicoSum>; 2] {
        let bearing = self.bearing(spender);
        BASES.map(|basis| {
            let of_basis = bearing.iter().filter(|bearing| bearing.budget.basis == basis);
            of_basis.filter_map(|bearing| self.left(bearing, at, offset)).min().map(PicoSum)
        })
    }

    /// What is left for a hold that lies in the accounts of `id` already; none where the budget does not count it.
    pub fn left_beside(&self, id: RequestId, bearing: &Bearing, at: Timestamp) -> Option<i128> {
        let Bearing { scope, budget } = bearing;
        let (request, cap) = (&self.requests[&id], budget.cap?);
        if budget.window == Window::Request {
            return Some(cap - i128::from(column(request.hold, budget.basis)));
        }
        let counted = self.counted.get(&(scope.clone(), budget.window))?.iter().find(|counted| counted.id == id)?;
        let sums = match part_seconds(budget.window) {
            Some(_) => self.sums(scope, budget.window, at, request.reserved.offset),
            None => self.sums_from(scope, budget.window, counted.period, counted.period),
        };
        Some(cap - used(&sums, budget.basis))
    }

    /// When room comes back by itself into a rolling window.
    pub fn leaves_at(&self, scope: &Scope, window: Window, at: Timestamp) -> Option<Timestamp> {
        let seconds = part_seconds(window)?;
        let last = self.period(scope, window, at, UtcOffset(0));
        for part in last - 12..=last {
            if self.sums_from(scope, window, part, part) != Sums::default() {
                return Some(Timestamp((part + 13) * seconds * 1_000_000));
            }
        }
        None
    }

    pub fn take_alerts(&mut self) -> Vec<(Scope, Window, Basis, i128, i128, Timestamp)> {
        let mut alerts = std::mem::take(&mut self.alerts);
        alerts.sort();
        alerts
    }

    /// What is posted, as each threshold that may be crossed by this request sees it.
    fn watched(&self, id: RequestId, at: Timestamp) -> Vec<i128> {
        self.thresholds(id).iter().map(|bearing| self.posted_for(bearing, id, at)).collect()
    }

    fn thresholds(&self, id: RequestId) -> Vec<Bearing> {
        let Some(request) = self.requests.get(&id) else { return Vec::new() };
        let bearing = self.bearing(&request.reserved.spender).into_iter();
        bearing.filter(|bearing| !bearing.budget.alerts.is_empty()).collect()
    }

    fn posted_for(&self, bearing: &Bearing, id: RequestId, at: Timestamp) -> i128 {
        let (scope, window) = (&bearing.scope, bearing.budget.window);
        let offset = self.requests[&id].reserved.offset;
        let all = self.counted.get(&(scope.clone(), window)).map(Vec::as_slice).unwrap_or_default();
        let request = all.iter().find(|counted| counted.id == id);
        let sums = match (part_seconds(window), request) {
            (None, Some(request)) if matches!(self.fate(id), Some(Fate::Pending | Fate::Indeterminate)) => {
                self.sums_from(scope, window, request.period, request.period)
            }
            (None, Some(_)) if self.just_posted(id) => {
                let period = request.expect("just matched").period;
                self.sums_from(scope, window, period, period)
            }
            _ => self.sums(scope, window, at, offset),
        };
        sums.posted.of(bearing.budget.basis).0
    }

    fn just_posted(&self, id: RequestId) -> bool {
        matches!(self.records.last(), Some(Record::Posted(posted)) if posted.id == id)
    }

    fn note_crossings(&mut self, before: &[i128], id: RequestId, at: Timestamp) {
        for (bearing, before) in self.thresholds(id).iter().zip(before) {
            let after = self.posted_for(bearing, id, at);
            let Budget { window, basis, alerts, .. } = &bearing.budget;
            for threshold in alerts.iter().filter(|threshold| before < threshold && **threshold <= after) {
                self.alerts.push((bearing.scope.clone(), *window, *basis, *threshold, after, at));
            }
        }
    }
}

pub fn column(amounts: Amounts, basis: Basis) -> u64 {
    match basis {
        Basis::Cost => amounts.cost.0,
        Basis::Charge => amounts.charge.0,
    }
}

fn used(sums: &Sums, basis: Basis) -> i128 {
    let of = |columns: &Columns| if basis == Basis::Cost { columns.cost.0 } else { columns.charge.0 };
    of(&sums.posted) + of(&sums.pending) + of(&sums.indeterminate)
}

fn add(columns: &mut Columns, amounts: Amounts) {
    columns.cost.0 += i128::from(amounts.cost.0);
    columns.charge.0 += i128::from(amounts.charge.0);
}

/// Widest first.
pub fn scopes_of(spender: &Spender) -> Vec<Scope> {
    let Spender { plan, tenant, project, key, end_user } = spender.clone();
    let mut scopes = vec![Scope::Platform, Scope::Plan(plan), Scope::Tenant(tenant.clone())];
    scopes.push(Scope::Project(tenant.clone(), project));
    scopes.push(Scope::Key(tenant.clone(), key));
    scopes.extend(end_user.map(|user| Scope::EndUser(tenant, user)));
    scopes
}

fn template(spender: &Spender, scope: &Scope) -> Option<Scope> {
    match scope {
        Scope::Tenant(_) => Some(Scope::EachTenant(spender.plan.clone())),
        Scope::EndUser(tenant, _) => Some(Scope::EachEndUser(tenant.clone())),
        _ => None,
    }
}

/// What several tenants share goes by UTC.
pub fn offset_in(scope: &Scope, offset: UtcOffset) -> UtcOffset {
    match scope {
        Scope::Platform | Scope::Plan(_) | Scope::EachTenant(_) => UtcOffset(0),
        _ => offset,
    }
}

// === the calendar, by another road than the ledger's ===

/// A number for the period that `at` falls into; later is larger. It is not the ledger's number.
pub fn calendar(window: Window, at: Timestamp, offset: UtcOffset) -> i64 {
    let seconds = floor(at.0, 1_000_000);
    let local = seconds + i64::from(offset.0);
    let day = floor(local, 86_400);
    match window {
        Window::Request | Window::Lifetime => 0,
        // From the moment at which the local clock last showed a full minute or hour: real time, which is never set back. It
        // bears the number of the full one by UTC that lies in it, if they are not the same.
        Window::Minute => -floor(-(seconds - (local - floor(local, 60) * 60)), 60),
        Window::Hour => -floor(-(seconds - (local - floor(local, 3_600) * 3_600)), 3_600),
        Window::Day => day,
        // 1970-01-05 was a Monday.
        Window::Week => floor(day - 4, 7),
        Window::Month => months_since_1970(day),
        rolling => floor(seconds, part_seconds(rolling).expect("it rolls")),
    }
}

/// A twelfth of a rolling window.
fn part_seconds(window: Window) -> Option<i64> {
    match window {
        Window::RollingMinute => Some(5),
        Window::RollingHour => Some(300),
        Window::RollingDay => Some(7_200),
        Window::RollingWeek => Some(50_400),
        Window::RollingMonth => Some(216_000),
        _ => None,
    }
}

fn floor(number: i64, by: i64) -> i64 {
    let whole = number / by;
    if number % by < 0 { whole - 1 } else { whole }
}

/// Counted off month by month.
fn months_since_1970(mut days: i64) -> i64 {
    let (mut year, mut months) = (1970, 0);
    loop {
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        for length in [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
            if days < length {
                return months;
            }
            days -= length;
            months += 1;
        }
        year += 1;
    }
}
