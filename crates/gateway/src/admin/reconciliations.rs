//! `/admin/v1/ledger/reconciliations` and `/admin/v1/ledger/buckets`: the ledger against a provider's bill.
//!
//! The bill comes in pieces, in the order of request ids, and a piece is compared with the view's events in the same
//! order: whatever only one of them has shows by itself. What to make of a difference is `reconcile::verdict`'s.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use tollgate_admission::price::{Rate, recharged};
use tollgate_client::{
    BilledRequest, BucketPart, Finding, FindingKind, LedgerBucket, LedgerBucketsQuery, List, Reconciliation,
    ReconciliationPart,
};
use tollgate_guard::Act;
use tollgate_ledger::Reserved;
use tollgate_ledger::record::Reason;
use tollgate_store::Sequence;
use tollgate_store::store::Layout;
use tollgate_store::view::ended::{Buckets, Ended, Part};
use tollgate_store::view::{Page, Reader, UsageEvent, UsageFilter};
use tollgate_types::directory::Tariff;
use tollgate_types::{PicoSum, PicoUsd, RequestId, Spender, Timestamp, Usage};

use super::caller::{Caller, Thing};
use super::corrections::{ADJUSTING, entry};
use super::durable::aside;
use super::extract::{Asked, Body, id, optional_id, optional_time, time};
use super::refused::{Refusals, Refused};
use super::usage::{ask, tokens_shown};
use crate::app::App;
use crate::receipt::confidence;
use crate::reconcile::verdict::{Billed, Correction, Verdict, judge, standing_cost};

/// Largest body of a piece: a thousand entries have some 400 kB.
pub const PIECE_BYTES_MAX: usize = 1 << 20;
const BILLED_MAX: usize = 1_000;
const BUCKETS_MAX: i64 = 100_000;
/// A piece is judged by a view that holds everything that was durable before it, or not at all: a correction that was
/// made already must not be made again.
const PATIENCE: Duration = Duration::from_secs(20);

/// Hold a piece of a provider's bill against the ledger
#[utoipa::path(post, path = "/admin/v1/ledger/reconciliations", operation_id = "reconcile_ledger", tag = "ledger",
    request_body = Reconciliation,
    responses((status = 200, description = "What agrees, and what does not", body = ReconciliationPart), Refusals))]
pub async fn reconcile(caller: Caller, Body(asked): Body<Reconciliation>) -> Result<Json<ReconciliationPart>, Refused> {
    let app = caller.may(Act::ReconcileLedger, &Thing::Platform).await?;
    let piece = Piece::read(&app, asked)?;
    let turn = ADJUSTING.lock().await;
    // The turn goes with the work: if the caller leaves, the work goes on, and nobody else may begin.
    let work = move || {
        let _turn = turn;
        piece.reconcile(&app)
    };
    Ok(Json(aside(work).await??))
}

/// Sum up what ended in buckets of time, as providers report usage
#[utoipa::path(get, path = "/admin/v1/ledger/buckets", operation_id = "list_ledger_buckets", tag = "ledger",
    params(LedgerBucketsQuery),
    responses((status = 200, description = "A row for each part of a bucket, provider, model and confidence that has \
        requests", body = List<LedgerBucket>), Refusals))]
pub async fn buckets(
    caller: Caller,
    Asked(wanted): Asked<LedgerBucketsQuery>,
) -> Result<Json<List<LedgerBucket>>, Refused> {
    let app = caller.may(Act::ListLedgerBuckets, &Thing::Platform).await?;
    let buckets = buckets_wanted(&wanted)?;
    let ended = ask(&app, move |reader| reader.ended(&buckets)).await?;
    Ok(Json(List { data: ended.iter().map(bucket_shown).collect() }))
}

fn buckets_wanted(wanted: &LedgerBucketsQuery) -> Result<Buckets, Refused> {
    let (from, to) = (time("from", &wanted.from)?, time("to", &wanted.to)?);
    let (width, slack) = (i64::from(wanted.width_seconds) * 1_000_000, i64::from(wanted.slack_seconds) * 1_000_000);
    let long = to.0.saturating_sub(from.0);
    if width == 0 || long <= 0 || long % width != 0 || long / width > BUCKETS_MAX {
        let message = format!("from `from` to `to` must be 1 to {BUCKETS_MAX} whole buckets");
        return Err(Refused::field("width_seconds", message));
    }
    if slack * 2 >= width {
        return Err(Refused::field("slack_seconds", "must be less than half of the bucket's width"));
    }
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    Ok(Buckets { from, to, width: seconds(wanted.width_seconds), slack: seconds(wanted.slack_seconds) })
}

fn bucket_shown(ended: &Ended) -> LedgerBucket {
    LedgerBucket {
        start: ended.start.to_string(),
        part: match ended.part {
            Part::Head => BucketPart::Head,
            Part::Middle => BucketPart::Middle,
            Part::Tail => BucketPart::Tail,
        },
        provider: ended.provider.to_string(),
        model: ended.model.to_string(),
        confidence: confidence(ended.confidence),
        requests: ended.requests,
        input_tokens: tokens_shown(ended.input_tokens),
        cached_input_tokens: tokens_shown(ended.cached_input_tokens),
        audio_input_tokens: tokens_shown(ended.audio_input_tokens),
        output_tokens: tokens_shown(ended.output_tokens),
        audio_output_tokens: tokens_shown(ended.audio_output_tokens),
        cost_picousd: ended.cost.0.to_string(),
    }
}

/// A piece of a bill, as it was meant.
#[derive(Debug)]
struct Piece {
    providers: BTreeSet<String>,
    after: Option<RequestId>,
    through: RequestId,
    from: Timestamp,
    to: Timestamp,
    /// Ids ascending.
    billed: Vec<(RequestId, Billed)>,
    complete: bool,
    apply: bool,
}

/// What was found so far, and what was written.
#[derive(Debug, Default)]
struct Found {
    matched: u64,
    matched_picousd: i128,
    findings: Vec<Finding>,
    last_written: Option<Sequence>,
}

// === impl Piece ===

impl Piece {
    fn read(app: &App, asked: Reconciliation) -> Result<Self, Refused> {
        let Reconciliation { providers, after, through, from, to, billed, complete, apply } = asked;
        if billed.len() > BILLED_MAX {
            return Err(Refused::field("billed", format!("at most {BILLED_MAX} in one piece")));
        }
        let (from, to) = (optional_time("from", from.as_ref())?, optional_time("to", to.as_ref())?);
        let now = app.clock().now();
        if to.is_some_and(|to| to > now) {
            return Err(Refused::field("to", "no bill tells the future"));
        }
        if complete && (from.is_none() || to.is_none() || providers.is_empty()) {
            let message = "says nothing without `from`, `to` and `providers`";
            return Err(Refused::field("complete", message));
        }
        let piece = Self {
            providers: providers.into_iter().collect(),
            after: optional_id("after", after.as_ref())?,
            through: optional_id("through", through.as_ref())?.unwrap_or(RequestId(u128::MAX)),
            from: from.unwrap_or(Timestamp(i64::MIN)),
            to: to.unwrap_or(Timestamp(i64::MAX)),
            billed: billed.iter().map(billed_request).collect::<Result<_, _>>()?,
            complete,
            apply,
        };
        let ids = || piece.billed.iter().map(|(id, _)| *id);
        let ascends = ids().zip(ids().skip(1)).all(|(id, next)| id < next);
        let within = ids().all(|id| piece.after.is_none_or(|after| after < id) && id <= piece.through);
        if !ascends || !within {
            return Err(Refused::field("billed", "ids must ascend, from behind `after` up to `through`"));
        }
        Ok(piece)
    }

    fn reconcile(&self, app: &App) -> Result<ReconciliationPart, Refused> {
        let reader = current_view(app)?;
        let filter = UsageFilter { after: self.after, ..UsageFilter::default() };
        let Page { mut items, next } = reader.usage(&filter)?;
        // As far as both are known: to the end of the page, or of the piece.
        let through = next.map_or(self.through, |end| end.min(self.through));
        items.retain(|event| event.reserved.id <= through);
        let billed = &self.billed[..self.billed.partition_point(|(id, _)| *id <= through)];
        let mut found = Found::default();
        let compared = self.merge(app, &items, billed, &mut found);
        // What was written before something went wrong stays written, and must be seen by whoever comes next.
        if let Some(position) = found.last_written {
            app.journal.wait_durable(position)?;
        }
        compared?;
        Ok(ReconciliationPart {
            matched: found.matched,
            matched_picousd: found.matched_picousd.to_string(),
            findings: found.findings,
            next: (through < self.through).then(|| through.to_string()),
        })
    }

    /// Goes through both in the order of their ids.
    fn merge(
        &self,
        app: &App,
        events: &[UsageEvent],
        billed: &[(RequestId, Billed)],
        found: &mut Found,
    ) -> Result<(), Refused> {
        let (mut events, mut billed) = (events.iter().peekable(), billed.iter().peekable());
        loop {
            let order = match (events.peek(), billed.peek()) {
                (None, None) => return Ok(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(event), Some((id, _))) => event.reserved.id.cmp(id),
            };
            let event = if order.is_le() { events.next() } else { None };
            let said = if order.is_ge() { billed.next() } else { None };
            match (event, said) {
                (Some(event), said) => self.compare(app, event, said.map(|(_, billed)| billed), found)?,
                (None, Some((id, billed))) => found.unknown(*id, billed),
                (None, None) => return Ok(()),
            }
        }
    }

    fn compare(
        &self,
        app: &App,
        event: &UsageEvent,
        billed: Option<&Billed>,
        found: &mut Found,
    ) -> Result<(), Refused> {
        let reserved = &event.reserved;
        if !self.providers.is_empty() && !self.providers.contains(&*reserved.provider) {
            if let Some(billed) = billed.filter(|billed| billed.cost != Some(PicoUsd::ZERO)) {
                let (ledger, provider) = (standing_cost(event), billed.cost);
                found.finding(event, FindingKind::Elsewhere, ledger, provider, false);
            }
            return Ok(());
        }
        let in_span = self.from <= reserved.at && reserved.at < self.to;
        if billed.is_none() && !in_span {
            return Ok(());
        }
        let charge = |cost| charge_of(app, &reserved.spender, cost);
        let verdict = judge(event, billed, || rate_of(app, reserved), charge, self.complete);
        let Verdict { kind, ledger, provider, correction } = verdict;
        let Some(kind) = kind else {
            found.matched += 1;
            found.matched_picousd += ledger.0;
            return Ok(());
        };
        let written = match correction.filter(|_| self.apply) {
            Some(correction) => write(app, event, correction)?,
            None => None,
        };
        found.last_written = found.last_written.max(written);
        found.finding(event, kind, ledger, provider, written.is_some());
        Ok(())
    }
}

fn billed_request(said: &BilledRequest) -> Result<(RequestId, Billed), Refused> {
    let picousd =
        |text: &String| text.parse().map(PicoUsd).map_err(|_| Refused::field("cost_picousd", "no whole number"));
    let usage = Usage {
        input_tokens: said.input_tokens,
        cached_input_tokens: said.cached_input_tokens,
        audio_input_tokens: said.audio_input_tokens,
        output_tokens: said.output_tokens,
        reasoning_tokens: said.reasoning_tokens,
        audio_output_tokens: said.audio_output_tokens,
        ..Usage::default()
    };
    let cost = said.cost_picousd.as_ref().map(picousd).transpose()?;
    Ok((id("request_id", &said.request_id)?, Billed { usage, cost }))
}

/// The view, once it holds all that is durable now.
fn current_view(app: &App) -> Result<Reader, Refused> {
    if !app.projector.catch_up(app.journal.durable_sequence(), PATIENCE) {
        let trouble = app.projector.trouble().unwrap_or_else(|| "it has much to catch up with".to_owned());
        return Err(Refused::internal("the view lags behind the journal: try again later", &trouble));
    }
    Ok(Reader::open(&Layout::of(&app.dir).view)?)
}

/// What a cost is charged at: by the tenant's own terms, or its plan's, as they are now.
fn charge_of(app: &App, spender: &Spender, cost: PicoUsd) -> PicoUsd {
    tariff_of(app, spender).map_or(cost, |tariff| tariff.charge_max(cost))
}

pub(super) fn tariff_of(app: &App, spender: &Spender) -> Option<Tariff> {
    app.books.with_directory(|directory| directory.tariff_of(directory.tenants.get(&spender.tenant)?).cloned())
}

/// The rate of the price version that the request was admitted at; where that book is gone, what is in force for its time.
fn rate_of(app: &App, reserved: &Reserved) -> Option<Rate> {
    let routing = app.routing();
    let (provider, model, at) = (routing.priced_as(&reserved.provider), &*reserved.model, reserved.at);
    let books = app.admission.prices();
    let of_version = books.books().iter().find(|book| *book.version() == reserved.price_version);
    let price = of_version.and_then(|book| {
        book.prices().iter().find(|price| {
            *price.provider == **provider
                && price.names().any(|name| name == model)
                && price.effective_from <= at
                && price.effective_to.is_none_or(|to| at < to)
        })
    });
    let in_force = || books.rate(provider, model, at).map(|rated| rated.rate.clone());
    price.map(|price| price.rate.clone()).or_else(in_force)
}

/// Tells the books. `None` if they have moved on meanwhile: the next run will see.
fn write(app: &App, event: &UsageEvent, correction: Correction) -> Result<Option<Sequence>, Refused> {
    let reserved = &event.reserved;
    match correction {
        Correction::Resolve(settlement) => Ok(app.books.resolve(reserved.id, settlement)),
        Correction::Adjust { was, now, usage } => {
            let version = Arc::clone(&reserved.price_version);
            let adjusted = entry(reserved, was, now, usage, version, Reason::Reconciled);
            // Where the terms are of a month, what it is charged depends on what else is posted in that month.
            let tariff = tariff_of(app, &reserved.spender).filter(|tariff| !tariff.is_plain());
            let (_, position) = app.books.adjust_in_month(adjusted, |adjusted, month| {
                if let Some(tariff) = &tariff {
                    let (was, cost) = (adjusted.was.amounts, adjusted.now.amounts.cost);
                    adjusted.now.amounts.charge = PicoSum(recharged(Some(tariff), month, was, cost)).clamp_to_amount();
                }
            })?;
            Ok(Some(position))
        }
    }
}

// === impl Found ===

impl Found {
    fn finding(
        &mut self,
        event: &UsageEvent,
        kind: FindingKind,
        ledger: PicoSum,
        provider: Option<PicoUsd>,
        corrected: bool,
    ) {
        let reserved = &event.reserved;
        self.findings.push(Finding {
            request_id: reserved.id.to_string(),
            kind,
            corrected,
            tenant: Some(reserved.spender.tenant.to_string()),
            provider: Some(reserved.provider.to_string()),
            model: Some(reserved.model.to_string()),
            ledger_picousd: ledger.0.to_string(),
            provider_picousd: provider.map(|cost| cost.0.to_string()),
        });
    }

    /// Billed, and never heard of. What was refused, and cost nothing, need not have been.
    fn unknown(&mut self, id: RequestId, billed: &Billed) {
        if billed.cost == Some(PicoUsd::ZERO) {
            return;
        }
        self.findings.push(Finding {
            request_id: id.to_string(),
            kind: FindingKind::Unknown,
            corrected: false,
            tenant: None,
            provider: None,
            model: None,
            ledger_picousd: "0".to_owned(),
            provider_picousd: billed.cost.map(|cost| cost.0.to_string()),
        });
    }
}
