//! `/admin/v1/prices/corrections`: what was posted at a wrong price is re-rated by a corrected book. Nothing that was
//! posted is rewritten: an entry says the difference, and a second run finds nothing more to say.
//!
//! A call re-rates one page, so that whoever asks sees it move and may stop. What a request comes to is
//! `tollgate_admission::price`'s business; how much of it a tenant has room for, the ledger's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use tokio::sync::Mutex;
use tollgate_admission::price::{PriceBook, PriceBooks, Rerated, recharged, rerated};
use tollgate_admission::{UNBOUNDED, UNPRICED};
use tollgate_client::{CorrectedTenant, Correction, NewCorrection};
use tollgate_guard::Act;
use tollgate_ledger::account::Columns;
use tollgate_ledger::record::{Adjusted, Reason, Standing};
use tollgate_ledger::{Amounts, Reserved};
use tollgate_store::Sequence;
use tollgate_store::store::Layout;
use tollgate_store::view::{EventEnd, EventState, GroupBy, Page, Reader, UsageEvent, UsageFilter};
use tollgate_types::directory::Tariff;
use tollgate_types::{Month, PicoSum, PicoUsd, RequestId, TenantId, Timestamp, Usage};

use super::caller::{Caller, Thing};
use super::durable::aside;
use super::extract::{Body, optional_id, time};
use super::prices;
use super::projects::known_tenant;
use super::reconciliations::tariff_of;
use super::refused::{Refusals, Refused};
use crate::app::App;

/// Held by whoever adjusts what was posted: an entry must begin where the one before it ended.
pub static ADJUSTING: Mutex<()> = Mutex::const_new(());

/// How long to wait for the view to hold every entry made before. With less than all of them nothing is re-rated.
const PATIENCE: Duration = Duration::from_secs(20);

/// Re-rate what was posted in a span by a corrected book, a page at a time
#[utoipa::path(post, path = "/admin/v1/prices/corrections", operation_id = "correct_prices", tag = "prices", request_body = NewCorrection,
    responses((status = 200, description = "What the page came to", body = Correction), Refusals))]
pub async fn correct(caller: Caller, Body(wanted): Body<NewCorrection>) -> Result<Json<Correction>, Refused> {
    let app = caller.may(Act::CorrectPrices, &Thing::Platform).await?;
    let (from, to) = (time("from", &wanted.from)?, time("to", &wanted.to)?);
    if to <= from {
        return Err(Refused::field("to", "must be after from"));
    }
    let filter = UsageFilter {
        tenant: known_tenant(&app, wanted.tenant.as_ref())?,
        from: Some(from),
        to: Some(to),
        state: Some(EventState::Posted),
        after: optional_id::<RequestId>("after", wanted.after.as_ref())?,
        ..UsageFilter::default()
    };
    let text = wanted.book;
    let (book, text) = aside(move || (PriceBook::parse(&text), text)).await?;
    let book = Arc::new(book.map_err(|error| Refused::field("book", error))?);
    let books = match app.admission.prices() {
        books if books.books().iter().any(|known| known.sha256() == book.sha256()) => books,
        books if wanted.dry_run => {
            let over = books.with(Arc::clone(&book)).map_err(|error| Refused::conflict(error.to_string()))?;
            Arc::new(over)
        }
        _ => {
            prices::put_in_force(&app, Arc::clone(&book), text).await?;
            app.admission.prices()
        }
    };
    let _one_at_a_time = ADJUSTING.lock().await;
    let run = Run::new(Arc::clone(&app), books, Arc::clone(book.version()), wanted.dry_run);
    Ok(Json(aside(move || run.page(&filter)).await??))
}

/// One page on its way.
struct Run {
    app: Arc<App>,
    books: Arc<PriceBooks>,
    /// Of the corrected book. Only where its prices are those in force is anything re-rated.
    version: Arc<str>,
    dry_run: bool,
    /// What is posted of months that are history to the ledger, as far as this run knows.
    months: BTreeMap<(TenantId, Month), Columns>,
    tenants: BTreeMap<TenantId, Tally>,
    /// Requests whose charge changed since the page was read, because their month's did.
    touched: BTreeSet<RequestId>,
    last: Option<Sequence>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    adjusted: u64,
    left: u64,
    cost: i128,
    charge: i128,
    overrun: i128,
}

// === impl Run ===

impl Run {
    fn new(app: Arc<App>, books: Arc<PriceBooks>, version: Arc<str>, dry_run: bool) -> Self {
        let (months, tenants, touched) = Default::default();
        Self { app, books, version, dry_run, months, tenants, touched, last: None }
    }

    fn page(mut self, filter: &UsageFilter) -> Result<Correction, Refused> {
        let reader = self.caught_up()?;
        let Page { items, next } = reader.usage(filter)?;
        for event in &items {
            if self.touched.contains(&event.reserved.id) {
                let afresh = self.caught_up()?.event(event.reserved.id)?;
                afresh.iter().try_for_each(|event| self.rerate(&reader, event))?;
            } else {
                self.rerate(&reader, event)?;
            }
        }
        self.wait()?;
        Ok(Correction {
            version: self.version.to_string(),
            dry_run: self.dry_run,
            examined: items.len() as u64,
            tenants: self.tenants.iter().map(|(tenant, tally)| tally.shown(tenant)).collect(),
            next: next.map(|id| id.to_string()),
        })
    }

    /// The view, once it holds every entry that was made. An entry made from less would contradict it.
    fn caught_up(&self) -> Result<Reader, Refused> {
        if !self.app.projector.catch_up(self.app.journal.durable_sequence(), PATIENCE) {
            return Err(Refused::busy("the view lags behind the journal; try again later, nothing was lost"));
        }
        Ok(Reader::open(&Layout::of(&self.app.dir).view)?)
    }

    fn wait(&mut self) -> Result<(), Refused> {
        match self.last.take() {
            Some(position) => Ok(self.app.journal.wait_durable(position)?),
            None => Ok(()),
        }
    }

    fn rerate(&mut self, reader: &Reader, event: &UsageEvent) -> Result<(), Refused> {
        let (reserved, Some(end)) = (&event.reserved, &event.end) else { return Ok(()) };
        let Some(was) = standing(end) else { return Ok(()) };
        if reserved.price_version == self.version {
            return Ok(());
        }
        let routing = self.app.routing();
        let priced_as = routing.priced_as(&reserved.provider);
        let books = Arc::clone(&self.books);
        let rated = books.rate(priced_as, &reserved.model, reserved.at);
        let Some(rated) = rated.filter(|rated| *rated.version == self.version) else { return Ok(()) };
        let fixed = matches!(&*reserved.price_version, UNPRICED | UNBOUNDED);
        let rerated = if fixed { Rerated::Unknown } else { rerated(rated.rate, &end.usage, &was) };
        let (cost, overrun, confidence) = match rerated {
            Rerated::Same => return Ok(()),
            Rerated::Unknown => {
                self.tally(&reserved.spender.tenant).left += 1;
                return Ok(());
            }
            Rerated::Differs { cost, overrun, confidence } => (cost, overrun, confidence),
        };
        let charge = u64::try_from(recharged(None, None, was.overrun, overrun)).map_or(PicoUsd::MAX, PicoUsd);
        let now = Standing {
            amounts: Amounts { cost, charge: was.amounts.charge },
            overrun: Amounts { cost: overrun, charge },
            confidence,
        };
        let adjusted = entry(reserved, was, now, end.usage, Arc::clone(&self.version), Reason::Repriced);
        self.recharge(reader, adjusted)
    }

    /// Says what the tenant is charged now, and makes the entry.
    fn recharge(&mut self, reader: &Reader, mut adjusted: Adjusted) -> Result<(), Refused> {
        let tenant = adjusted.spender.tenant.clone();
        let tariff = tariff_of(&self.app, &adjusted.spender);
        let month = Month::of(adjusted.held_at, adjusted.offset);
        let by_view = match &tariff {
            Some(tariff) if !tariff.is_plain() => Some(self.month(reader, &tenant, month)?),
            _ => None,
        };
        let mut due = 0;
        let mut charged = |adjusted: &mut Adjusted, by_ledger: Option<Columns>| {
            due = charge(adjusted, tariff.as_ref(), by_ledger.or(by_view));
        };
        if self.dry_run {
            charged(&mut adjusted, None);
            self.note(&adjusted, month);
            // Nobody's charge is touched, but it is what the month would come to.
            self.note_due(&tenant, month, due);
            return Ok(());
        }
        let (made, position) = self.app.books.adjust_in_month(adjusted, charged)?;
        self.last = Some(position);
        self.note(&made, month);
        // The next request is charged by what its month comes to: so the month must have come to it.
        if due > 0 { self.give_back(&tenant, month, due) } else { Ok(()) }
    }

    /// Takes what is due off other requests of the same month: it costs less, so they were charged too much.
    fn give_back(&mut self, tenant: &TenantId, month: Month, mut due: u64) -> Result<(), Refused> {
        self.wait()?;
        let reader = self.caught_up()?;
        let mut filter = UsageFilter {
            tenant: Some(tenant.clone()),
            month: Some(month),
            state: Some(EventState::Posted),
            ..UsageFilter::default()
        };
        while due > 0 {
            let Page { items, next } = reader.usage(&filter)?;
            for event in &items {
                due -= self.give_back_by(event, month, due)?;
            }
            filter.after = next;
            if next.is_none() {
                break;
            }
        }
        if due > 0 {
            tracing::error!(%tenant, %month, due, "more is due than the month was charged");
        }
        self.wait()
    }

    /// Takes at most `due` off one request, and says how much it was.
    fn give_back_by(&mut self, event: &UsageEvent, month: Month, due: u64) -> Result<u64, Refused> {
        let Some((end, was)) = event.end.as_ref().and_then(|end| Some((end, standing(end)?))) else { return Ok(0) };
        let taken = was.amounts.charge.0.min(due);
        if taken == 0 {
            return Ok(0);
        }
        let charge = was.amounts.charge.saturating_sub(PicoUsd(taken));
        let now = Standing { amounts: Amounts { charge, ..was.amounts }, ..was };
        let version = Arc::clone(&event.reserved.price_version);
        let adjusted = entry(&event.reserved, was, now, end.usage, version, Reason::Repriced);
        let (made, position) = self.app.books.adjust_in_month(adjusted, |_, _| ())?;
        self.last = Some(position);
        self.touched.insert(made.id);
        self.note(&made, month);
        Ok(taken)
    }

    /// What is posted of a month, where the ledger has forgotten it.
    fn month(&mut self, reader: &Reader, tenant: &TenantId, month: Month) -> Result<Columns, Refused> {
        let place = (tenant.clone(), month);
        if let Some(known) = self.months.get(&place) {
            return Ok(*known);
        }
        let filter = UsageFilter { tenant: Some(tenant.clone()), month: Some(month), ..UsageFilter::default() };
        let rows = reader.summary(&filter, GroupBy::Tenant)?;
        let posted = rows.first().map(|row| row.totals.posted).unwrap_or_default();
        self.months.insert(place, posted);
        Ok(posted)
    }

    fn note(&mut self, made: &Adjusted, month: Month) {
        let change = |was: PicoUsd, now: PicoUsd| i128::from(now.0) - i128::from(was.0);
        let (was, now) = (&made.was, &made.now);
        let (cost, charge) =
            (change(was.amounts.cost, now.amounts.cost), change(was.amounts.charge, now.amounts.charge));
        if let Some(known) = self.months.get_mut(&(made.spender.tenant.clone(), month)) {
            *known = Columns { cost: PicoSum(known.cost.0 + cost), charge: PicoSum(known.charge.0 + charge) };
        }
        let tally = self.tally(&made.spender.tenant);
        tally.adjusted += 1;
        tally.cost += cost;
        tally.charge += charge;
        tally.overrun += change(was.overrun.cost, now.overrun.cost);
    }

    fn note_due(&mut self, tenant: &TenantId, month: Month, due: u64) {
        if let Some(known) = self.months.get_mut(&(tenant.clone(), month)) {
            known.charge.0 -= i128::from(due);
        }
        self.tally(tenant).charge -= i128::from(due);
    }

    fn tally(&mut self, tenant: &TenantId) -> &mut Tally {
        self.tenants.entry(tenant.clone()).or_default()
    }
}

/// Fills in what the request is charged now, and gives back what is due to others of its month.
fn charge(adjusted: &mut Adjusted, tariff: Option<&Tariff>, month: Option<Columns>) -> u64 {
    let charge = recharged(tariff, month, adjusted.was.amounts, adjusted.now.amounts.cost);
    adjusted.now.amounts.charge = PicoSum(charge).clamp_to_amount();
    PicoSum(-charge).clamp_to_amount().0
}

/// What stands of a request now; nothing of a voided one.
fn standing(end: &EventEnd) -> Option<Standing> {
    Some(Standing { amounts: end.amounts, overrun: end.overrun, confidence: end.confidence? })
}

/// What the books are to be told; they say the time.
pub fn entry(
    reserved: &Reserved,
    was: Standing,
    now: Standing,
    usage: Usage,
    price_version: Arc<str>,
    reason: Reason,
) -> Adjusted {
    Adjusted {
        id: reserved.id,
        at: Timestamp::default(),
        spender: reserved.spender.clone(),
        held_at: reserved.at,
        offset: reserved.offset,
        was,
        now,
        usage,
        price_version,
        reason,
    }
}

// === impl Tally ===

impl Tally {
    fn shown(&self, tenant: &TenantId) -> CorrectedTenant {
        CorrectedTenant {
            tenant: tenant.to_string(),
            adjusted: self.adjusted,
            left: self.left,
            cost_difference_picousd: self.cost.to_string(),
            charge_difference_picousd: self.charge.to_string(),
            overrun_difference_picousd: self.overrun.to_string(),
        }
    }
}
