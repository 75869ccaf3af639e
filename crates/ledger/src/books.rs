//! The ledger, the directory and their log behind one short lock, and reservations that give themselves back.
//!
//! The lock covers a decision and its place in the log's buffer, nothing more: making the log durable is the log's own
//! business, outside. So the order of the log is the order of the decisions, and replay reaches the same state.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tollgate_types::audit::{AuditEntry, Phase};
use tollgate_types::directory::{Change, ChangeRefused, Directory};
use tollgate_types::usage::Outcome;
use tollgate_types::{
    Clock, Confidence, PicoSum, PicoUsd, RequestId, Scope, Spender, TenantId, Timestamp, Usage, Zone,
};

use crate::account::{Amounts, Columns};
use crate::idempotency::{Claim, Recollection};
use crate::ledger::{Alert, Audit, BudgetState, Ledger, Rejected};
use crate::record::{Adjusted, CapSet, Draft, Extended, Posted, Record, Reserved, Voided};

/// Where records go, in order.
pub trait Log: Send + 'static {
    /// A place in the log; the larger, the later.
    type Position: Copy + Ord + Send + Sync + std::fmt::Debug + 'static;

    /// Whether one more reservation can be taken on, given how many are open: the log must have room for the ends of
    /// all of them, since an end is never refused.
    fn has_room(&self, open: usize) -> Result<(), LogUnavailable>;

    /// Whether anything can be written at all. Asked for what must not wait for room: it uses the part that is kept.
    fn is_writable(&self) -> Result<(), LogUnavailable>;

    /// Takes a record. Never fails: a log that can no longer write says so in [`Log::has_room`] and to who waits.
    fn append(&mut self, record: &Record) -> Self::Position;
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the journal takes no new work: {0}")]
pub struct LogUnavailable(pub String);

/// A log in memory, for simulations and tests.
#[derive(Clone, Debug, Default)]
pub struct MemoryLog(pub Vec<Record>);

/// The books of this node.
#[derive(Debug)]
pub struct Books<L: Log> {
    inner: Mutex<Inner<L>>,
    clock: Clock,
}

#[derive(Debug)]
struct Inner<L> {
    ledger: Ledger,
    directory: Directory,
    log: L,
}

/// Money held for one request. Dropped without having been settled, it settles itself: what was never sent is given
/// back, what was sent is posted at the full hold, for the provider may bill it.
#[derive(Debug)]
pub struct Reservation<L: Log> {
    books: Arc<Books<L>>,
    id: RequestId,
    hold: Amounts,
    position: L::Position,
    dispatched: bool,
    settled: bool,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settlement {
    pub usage: Usage,
    /// What it really came to. What exceeds the hold is booked as the platform's overrun.
    pub amounts: Amounts,
    pub confidence: Confidence,
    pub outcome: Outcome,
}

/// Why nothing was reserved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReserveError {
    #[error(transparent)]
    Rejected(#[from] Rejected),
    #[error(transparent)]
    Unavailable(#[from] LogUnavailable),
}

/// Why a directory change was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    #[error(transparent)]
    Refused(#[from] ChangeRefused),
    #[error(transparent)]
    Rejected(#[from] Rejected),
    #[error(transparent)]
    Unavailable(#[from] LogUnavailable),
}

/// Both columns of headroom over all caps that apply; `None` where no cap does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headroom {
    pub cost: Option<PicoSum>,
    pub charge: Option<PicoSum>,
}

// === impl Books ===

impl<L: Log> Books<L> {
    pub fn new(ledger: Ledger, directory: Directory, log: L, clock: Clock) -> Self {
        Self { inner: Mutex::new(Inner { ledger, directory, log }), clock }
    }

    /// Holds what `amount` asks for, given what is left, in one atomic step over every scope and window of the draft.
    ///
    /// `amount` runs under the lock; it must be quick. It may ask for less where less is left, never the other way
    /// round: what it gives back is what the request must be bounded to.
    pub fn reserve<T>(
        self: &Arc<Self>,
        draft: Draft,
        amount: impl FnOnce(Headroom) -> (Amounts, T),
    ) -> Result<(Reservation<L>, T), ReserveError> {
        self.reserve_searched(draft, None, amount)
    }

    /// The same for a draft that may bear an idempotency key: `searched` is how far somebody looked for an earlier use
    /// of it where memory does not reach ([`Claim::searched`]).
    pub fn reserve_searched<T>(
        self: &Arc<Self>,
        mut draft: Draft,
        searched: Option<Timestamp>,
        amount: impl FnOnce(Headroom) -> (Amounts, T),
    ) -> Result<(Reservation<L>, T), ReserveError> {
        let mut inner = self.lock();
        if let Some(idempotency) = draft.idempotency {
            inner.ledger.keys().check_claim(&draft.spender.tenant, Claim { idempotency, searched })?;
        }
        let at = inner.now(&self.clock);
        inner.log.has_room(inner.ledger.open_count())?;
        // Where the books' time runs ahead of the clock (which was set back), deadlines are kept in the books' time.
        draft.deadline = draft.deadline.plus(at.since(self.clock.now()));
        let offset = draft.zone.offset(at);
        let places = inner.ledger.places(&draft.spender, offset);
        let [cost, charge] = inner.ledger.headroom_at(&places, at);
        let headroom = Headroom { cost, charge };
        let (hold, granted) = amount(headroom);
        let id = draft.id;
        // What fits the least that any cap leaves fits them all. If it does not, they are asked again: which says no?
        if headroom.fits(hold) {
            inner.ledger.check_new(id)?;
        } else {
            inner.ledger.check_reserve(&places, id, at, hold, &draft.zone)?;
        }
        let reserved = Box::new(draft.into_reserved(at, offset, hold));
        inner.ledger.hold(places, &reserved);
        let position = inner.log.append(&Record::Reserved(reserved));
        drop(inner);
        let books = Arc::clone(self);
        Ok((Reservation { books, id, hold, position, dispatched: false, settled: false }, granted))
    }

    /// Makes a directory change, after `check` and the directory itself have agreed to it.
    pub fn change(&self, change: Change) -> Result<L::Position, ChangeError> {
        let mut inner = self.lock();
        match &change {
            // A key that was stolen must be stopped, also when the disk is full.
            Change::KeyRevoked { .. } | Change::ServiceKeyRevoked { .. } => inner.log.is_writable()?,
            _ => inner.log.has_room(inner.ledger.open_count())?,
        }
        inner.directory.check(&change)?;
        inner.directory.apply(change.clone());
        Ok(inner.log.append(&Record::Directory(change)))
    }

    /// Sets or (neither ceiling nor alerts) removes a budget. A cap below what is used refuses new work; it takes nothing
    /// from work under way.
    pub fn set_cap(&self, mut cap: CapSet) -> Result<L::Position, ChangeError> {
        let mut inner = self.lock();
        inner.log.has_room(inner.ledger.open_count())?;
        inner.directory.check_scope(&cap.scope)?;
        cap.at = inner.now(&self.clock);
        let record = Record::CapSet(cap);
        inner.ledger.commit(&record)?;
        Ok(inner.log.append(&record))
    }

    /// Notes that a price book came into use.
    pub fn prices_set(&self, version: Arc<str>, sha256: [u8; 32]) -> Result<L::Position, ChangeError> {
        let mut inner = self.lock();
        inner.log.has_room(inner.ledger.open_count())?;
        let record = Record::PricesSet { version, sha256, at: inner.now(&self.clock) };
        inner.ledger.commit(&record)?;
        Ok(inner.log.append(&record))
    }

    /// Notes what is about to be done, or was done. An act must wait until that is durable.
    ///
    /// What was begun can always be completed: see [`Books::note_at_once`].
    pub fn note(&self, entry: AuditEntry) -> Result<L::Position, ChangeError> {
        if entry.phase == Phase::Completed {
            return self.note_at_once(entry);
        }
        let inner = self.lock();
        inner.log.has_room(inner.ledger.open_count())?;
        self.append_note(inner, entry)
    }

    /// The same for what must not wait for room: it uses the part that is kept, as the end of a reservation does.
    pub fn note_at_once(&self, entry: AuditEntry) -> Result<L::Position, ChangeError> {
        let inner = self.lock();
        inner.log.is_writable()?;
        self.append_note(inner, entry)
    }

    fn append_note(
        &self,
        mut inner: MutexGuard<'_, Inner<L>>,
        mut entry: AuditEntry,
    ) -> Result<L::Position, ChangeError> {
        entry.at = inner.now(&self.clock);
        let record = Record::Audited(Box::new(entry));
        inner.ledger.commit(&record)?;
        Ok(inner.log.append(&record))
    }

    /// Ends every pending reservation whose deadline is past by `grace`: sent ones are posted at the full hold, others
    /// are voided. Gives back how many there were: each is a bug elsewhere, since a permit settles itself.
    pub fn sweep(&self, grace: Duration) -> usize {
        let mut inner = self.lock();
        let at = inner.now(&self.clock);
        let due = inner.ledger.pending_due(at.minus(grace));
        for (reserved, dispatched) in &due {
            let record = if *dispatched {
                Record::Posted(inner.posted_in_full(reserved.id, reserved.hold, at, Outcome::Expired))
            } else {
                Record::Voided(Voided { id: reserved.id, at, outcome: Outcome::Expired })
            };
            inner.commit_end(&record);
        }
        due.len()
    }

    /// Marks every pending reservation indeterminate. For the start, after replay: what was pending when the process
    /// died may or may not have reached its provider.
    pub fn recover(&self) -> usize {
        let mut inner = self.lock();
        let at = inner.now(&self.clock);
        let pending = inner.ledger.pending();
        for id in &pending {
            inner.commit_end(&Record::Indeterminate { id: *id, at });
        }
        pending.len()
    }

    /// Posts, at the full hold and as bounded, what has been indeterminate for longer than `age`.
    pub fn settle_aged(&self, age: Duration) -> usize {
        let mut inner = self.lock();
        let at = inner.now(&self.clock);
        let aged = inner.ledger.indeterminate_before(at.minus(age));
        for reserved in &aged {
            let posted = inner.posted_in_full(reserved.id, reserved.hold, at, Outcome::Unknown);
            inner.commit_end(&Record::Posted(posted));
        }
        aged.len()
    }

    /// Whether new work is taken on: whether the log has room for it.
    pub fn takes_work(&self) -> Result<(), LogUnavailable> {
        let inner = self.lock();
        inner.log.has_room(inner.ledger.open_count())
    }

    /// What the caps that this spender falls under leave now. `zone` is the tenant's.
    pub fn headroom(&self, spender: &Spender, zone: &Zone) -> Headroom {
        let inner = self.lock();
        let at = inner.now(&self.clock);
        let [cost, charge] = inner.ledger.headroom(spender, at, zone.offset(at));
        Headroom { cost, charge }
    }

    pub fn budgets(&self, wanted: impl Fn(&Scope) -> bool) -> Vec<BudgetState> {
        let inner = self.lock();
        let directory = &inner.directory;
        inner.ledger.budgets(inner.now(&self.clock), |scope| zone_of(directory, scope), wanted)
    }

    /// Says the difference between what was posted for a request that has ended and what it came to after all.
    ///
    /// Where that is more, it is counted against the tenant only as far as the caps of now have room; the rest is the
    /// platform's, as every overrun is.
    pub fn adjust(&self, adjusted: Adjusted) -> Result<L::Position, ChangeError> {
        self.adjust_in_month(adjusted, |_, _| ()).map(|(_, position)| position)
    }

    /// As [`Books::adjust`], where what it came to depends on what is posted of the tenant's month: `complete` runs under
    /// the lock and is told that, or nothing where that month is history here. Gives back the entry as it was made.
    pub fn adjust_in_month(
        &self,
        mut adjusted: Adjusted,
        complete: impl FnOnce(&mut Adjusted, Option<Columns>),
    ) -> Result<(Adjusted, L::Position), ChangeError> {
        let mut inner = self.lock();
        inner.log.has_room(inner.ledger.open_count())?;
        adjusted.at = inner.now(&self.clock);
        let month = inner.ledger.month_posted_at(&adjusted.spender.tenant, adjusted.held_at, adjusted.offset);
        complete(&mut adjusted, month);
        let [cost, charge] = inner.ledger.headroom_beside(&adjusted);
        let room = |left: Option<PicoSum>| left.map_or(PicoUsd::MAX, PicoSum::clamp_to_amount);
        let room = Amounts { cost: room(cost), charge: room(charge) };
        let (was, wanted) = (adjusted.was.amounts, adjusted.now.amounts);
        let beyond = wanted.beyond(was).beyond(room);
        adjusted.now.amounts = wanted.beyond(beyond);
        adjusted.now.overrun = adjusted.now.overrun.saturating_add(beyond);
        let record = Record::Adjusted(Box::new(adjusted.clone()));
        inner.ledger.commit(&record)?;
        Ok((adjusted, inner.log.append(&record)))
    }

    /// Settles a request that a crash left in doubt, by what its provider says of it. `None` if it is not in doubt.
    pub fn resolve(&self, id: RequestId, settlement: Settlement) -> Option<L::Position> {
        let mut inner = self.lock();
        if !inner.ledger.is_indeterminate(id) {
            return None;
        }
        let at = inner.now(&self.clock);
        let hold = inner.ledger.reserved(id)?.hold;
        let mut posted = settlement.within(id, at, hold);
        if let Some(charge) = inner.charge_in_month(id, posted.amounts.cost) {
            posted.amounts.charge = charge.min(hold.charge);
        }
        inner.commit_end(&Record::Posted(posted))
    }

    /// What memory says of a tenant's idempotency key.
    pub fn recall(&self, tenant: &TenantId, key: [u8; 16]) -> Recollection {
        self.lock().ledger.keys().recall(tenant, key)
    }

    /// An open reservation as it was recorded.
    pub fn reserved(&self, id: RequestId) -> Option<Reserved> {
        self.lock().ledger.reserved(id).cloned()
    }

    /// Gives back memory of who fell silent, and takes the alerts that came up.
    pub fn tidy(&self) -> Vec<Alert> {
        let mut inner = self.lock();
        let at = inner.now(&self.clock);
        let Inner { ledger, directory, .. } = &mut *inner;
        ledger.tidy(|scope| zone_of(directory, scope).offset(at));
        ledger.take_alerts()
    }

    pub fn audit(&self) -> Audit {
        self.lock().ledger.audit()
    }

    pub fn directory(&self) -> Directory {
        self.lock().directory.clone()
    }

    /// Looks at the directory without copying it.
    pub fn with_directory<T>(&self, look: impl FnOnce(&Directory) -> T) -> T {
        look(&self.lock().directory)
    }

    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// A poisoned lock means a thread panicked between a check and its commit; the commit itself is arithmetic that
    /// panics before it changes anything, so the state is whole and serving goes on.
    fn lock(&self) -> MutexGuard<'_, Inner<L>> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn end(&self, record: impl FnOnce(Timestamp, &Inner<L>) -> Record) -> Option<L::Position> {
        let mut inner = self.lock();
        let at = inner.now(&self.clock);
        let record = record(at, &inner);
        inner.commit_end(&record)
    }
}

impl<L: Log> Inner<L> {
    /// The time for the next record: the clock's, but never before the last record's.
    fn now(&self, clock: &Clock) -> Timestamp {
        clock.now().max(self.ledger.latest())
    }

    /// The posting of a whole hold: its cost, and what the tenant's terms of now make of it in its month. At most what
    /// was held, where the terms were others then.
    fn posted_in_full(&self, id: RequestId, hold: Amounts, at: Timestamp, outcome: Outcome) -> Posted {
        let in_month = self.charge_in_month(id, hold.cost).map(|charge| charge.min(hold.charge));
        let amounts = Amounts { cost: hold.cost, charge: in_month.unwrap_or(hold.charge) };
        let (usage, confidence) = (Usage::default(), Confidence::Bounded);
        Posted { id, at, usage, amounts, overrun: Amounts::ZERO, confidence, outcome }
    }

    /// What the tenant's terms of now make of a cost in the month of an open reservation; `None` where they are the same in
    /// every month.
    fn charge_in_month(&self, id: RequestId, cost: PicoUsd) -> Option<PicoUsd> {
        let tenant = &self.ledger.reserved(id)?.spender.tenant;
        let tariff = self.directory.tariff_of(self.directory.tenants.get(tenant)?)?;
        if tariff.is_plain() {
            return None;
        }
        Some(tariff.charge(self.ledger.month_posted(id)?.cost, cost))
    }

    /// Commits the end of a reservation. One that has ended already stays as it is.
    fn commit_end(&mut self, record: &Record) -> Option<L::Position> {
        self.ledger.commit(record).ok()?;
        Some(self.log.append(record))
    }
}

/// Whose calendar a scope goes by: its tenant's, and UTC for what several tenants share.
fn zone_of(directory: &Directory, scope: &Scope) -> Zone {
    let tenant = scope.tenant().and_then(|tenant| directory.tenants.get(tenant));
    tenant.map_or(Zone::UTC, |tenant| tenant.zone.clone())
}

// === impl Headroom ===

impl Headroom {
    /// Whether it is enough for these amounts.
    pub fn fits(self, amounts: Amounts) -> bool {
        let within = |amount: PicoUsd, left: Option<PicoSum>| left.is_none_or(|left| i128::from(amount.0) <= left.0);
        within(amounts.cost, self.cost) && within(amounts.charge, self.charge)
    }
}

// === impl Settlement ===

impl Settlement {
    /// The posting: at most the hold is the tenant's, the rest the platform's.
    fn within(self, id: RequestId, at: Timestamp, hold: Amounts) -> Posted {
        let Self { usage, amounts, confidence, outcome } = self;
        Posted { id, at, usage, amounts: amounts.min(hold), overrun: amounts.beyond(hold), confidence, outcome }
    }
}

// === impl Reservation ===

impl<L: Log> Reservation<L> {
    pub fn id(&self) -> RequestId {
        self.id
    }

    pub fn hold(&self) -> Amounts {
        self.hold
    }

    /// Where the log holds this reservation. Nothing may be sent before the log is durable up to here.
    pub fn position(&self) -> L::Position {
        self.position
    }

    /// Says that from now on the provider may do work, and bill it. `false` if the reservation has ended already (swept
    /// after its deadline): no money is held for the request any more, so it may not be sent.
    #[must_use = "a request whose reservation has ended may not be sent"]
    pub fn dispatched(&mut self) -> bool {
        self.dispatched = self.books.lock().ledger.mark_dispatched(self.id, true);
        self.dispatched
    }

    /// Takes it back: the provider certainly did no work.
    pub fn not_dispatched(&mut self) {
        self.dispatched = false;
        self.books.lock().ledger.mark_dispatched(self.id, false);
    }

    /// Makes the hold larger, before the request goes to somebody dearer. All or nothing, as [`Books::reserve`]; a hold
    /// that is not larger stays as it is. Nothing may be sent before the log is durable up to the new
    /// [`Reservation::position`].
    pub fn extend(
        &mut self,
        hold: Amounts,
        provider: &Arc<str>,
        model: &Arc<str>,
        price_version: &Arc<str>,
        zone: &Zone,
    ) -> Result<(), ReserveError> {
        self.extend_within(|_| (hold, ()), provider, model, price_version, zone)
    }

    /// As [`Reservation::extend`], by what `amount` asks for, given what the whole hold may grow to. It runs under the lock
    /// and must be quick.
    pub fn extend_within<T>(
        &mut self,
        amount: impl FnOnce(Headroom) -> (Amounts, T),
        provider: &Arc<str>,
        model: &Arc<str>,
        price_version: &Arc<str>,
        zone: &Zone,
    ) -> Result<T, ReserveError> {
        let mut inner = self.books.lock();
        inner.log.has_room(inner.ledger.open_count())?;
        let at = inner.now(&self.books.clock);
        let [cost, charge] = inner.ledger.room_of(self.id, at)?;
        let (hold, granted) = amount(Headroom { cost, charge });
        let extended = Extended {
            id: self.id,
            at,
            hold: self.hold.max(hold),
            provider: Arc::clone(provider),
            model: Arc::clone(model),
            price_version: Arc::clone(price_version),
        };
        inner.ledger.check_extend(&extended, zone)?;
        let hold = extended.hold;
        let record = Record::Extended(Box::new(extended));
        inner.ledger.commit(&record)?;
        (self.hold, self.position) = (hold, inner.log.append(&record));
        Ok(granted)
    }

    /// Posts what was used. `None` if the reservation had ended already (swept after its deadline).
    pub fn post(mut self, settlement: Settlement) -> Option<L::Position> {
        self.settle(settlement)
    }

    /// Posts what was used, where the amounts depend on what is posted of the tenant's month: `settlement` runs under
    /// the lock, so no other posting can come between; it must be quick. Gives back what it made, too.
    pub fn post_in_month(
        mut self,
        settlement: impl FnOnce(Columns) -> Settlement,
    ) -> (Settlement, Option<L::Position>) {
        let (id, hold) = (self.id, self.hold);
        let mut made = None;
        let position = self.books.end(|at, inner| {
            let settlement = settlement(inner.ledger.month_posted(id).unwrap_or_default());
            made = Some(settlement);
            Record::Posted(settlement.within(id, at, hold))
        });
        // Only now: if `settlement` panicked, the drop settles.
        self.settled = true;
        (made.expect("a settlement is always made"), position)
    }

    /// Gives everything back. `None` if the reservation had ended already.
    pub fn void(mut self, outcome: Outcome) -> Option<L::Position> {
        self.settled = true;
        let id = self.id;
        self.books.end(|at, _| Record::Voided(Voided { id, at, outcome }))
    }

    /// Posts the whole hold, as an upper bound of what the provider may bill.
    pub fn post_bounded(mut self, outcome: Outcome) -> Option<L::Position> {
        self.settle_in_full(outcome)
    }

    fn settle(&mut self, settlement: Settlement) -> Option<L::Position> {
        self.settled = true;
        let (id, hold) = (self.id, self.hold);
        self.books.end(|at, _| Record::Posted(settlement.within(id, at, hold)))
    }

    fn settle_in_full(&mut self, outcome: Outcome) -> Option<L::Position> {
        self.settled = true;
        let (id, hold) = (self.id, self.hold);
        self.books.end(|at, inner| Record::Posted(inner.posted_in_full(id, hold, at, outcome)))
    }
}

impl<L: Log> Drop for Reservation<L> {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        if self.dispatched {
            self.settle_in_full(Outcome::ClientGone);
        } else {
            let id = self.id;
            self.books.end(|at, _| Record::Voided(Voided { id, at, outcome: Outcome::NotSent }));
        }
    }
}

// === impl MemoryLog ===

impl Log for MemoryLog {
    type Position = usize;

    fn has_room(&self, _open: usize) -> Result<(), LogUnavailable> {
        Ok(())
    }

    fn is_writable(&self) -> Result<(), LogUnavailable> {
        Ok(())
    }

    fn append(&mut self, record: &Record) -> usize {
        self.0.push(record.clone());
        self.0.len()
    }
}

impl Books<MemoryLog> {
    /// Everything that was logged so far.
    pub fn records(&self) -> Vec<Record> {
        self.lock().log.0.clone()
    }
}
