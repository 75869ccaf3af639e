//! Receipts: what the books know of a request, stated and signed by the store's key. `receipt/jws.rs` is how it is signed,
//! `receipt/verify.rs` how anybody can tell that it was; the format stands in docs/receipts.md.
//!
//! A receipt is made when it is asked for, from the view. Nothing here decides about money.

pub mod jws;
pub mod verify;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use tollgate_client::{
    Confidence, Receipt, ReceiptAdjustment, ReceiptAmounts, ReceiptHold, ReceiptIdempotency, ReceiptKeys,
    ReceiptPrices, ReceiptStanding, ReceiptStatement, ReceiptTokens, UsageState,
};
use tollgate_ledger::record::Standing;
use tollgate_ledger::{Amounts, Idempotency, Reserved};
use tollgate_policy::Fingerprint;
use tollgate_store::view::{Adjustment, EventEnd, EventState, Reader, UsageEvent, ViewError};
use tollgate_types::{RequestId, Timestamp, Usage};

use crate::app::App;
use crate::config::LOCAL;

/// What the view tells of one request, as of one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub event: UsageEvent,
    pub adjustments: Vec<Adjustment>,
}

/// What a statement says besides what the view told.
#[derive(Clone, Debug)]
pub struct Stating {
    pub issuer: Arc<str>,
    pub at: Timestamp,
    /// Of the book that the request is priced by, in hex.
    pub book_sha256: Option<String>,
}

// === impl Told ===

impl Told {
    pub fn of(reader: &Reader, id: RequestId) -> Result<Option<Self>, ViewError> {
        let Some(event) = reader.event(id)? else { return Ok(None) };
        if event.adjustments == 0 {
            return Ok(Some(Self { event, adjustments: Vec::new() }));
        }
        // One that came between the two questions is not in the event yet, and so not in its receipt.
        let mut adjustments = reader.adjustments_of(id)?;
        adjustments.truncate(usize::try_from(event.adjustments).unwrap_or(usize::MAX));
        Ok(Some(Self { event, adjustments }))
    }
}

/// States what was told, and signs it.
pub fn issue(app: &App, told: &Told) -> Receipt {
    let version = &told.event.reserved.price_version;
    let prices = app.admission.prices();
    let book = prices.books().iter().find(|book| book.version() == version);
    let stating = Stating {
        issuer: Arc::clone(&app.issuer),
        at: app.clock().now(),
        book_sha256: book.map(|book| book.fingerprint()),
    };
    let statement = state(told, stating);
    let payload = serde_json::to_vec(&statement).expect("a statement is plain data, which JSON can hold");
    statement.signed(jws::sign(&app.vault.receipt_signer(), &payload))
}

/// The public keys of all receipts, the one that signs now first.
pub fn keys(app: &App) -> ReceiptKeys {
    ReceiptKeys { keys: app.vault.receipt_public_keys().iter().map(jws::public_key).collect() }
}

/// The statement, its fields in the order in which they are written.
pub fn state(told: &Told, stating: Stating) -> ReceiptStatement {
    let UsageEvent { reserved, state, end, .. } = &told.event;
    let Reserved { spender, .. } = reserved;
    let end = end.as_ref();
    let amounts = end.map(|end| end.amounts).unwrap_or_default();
    ReceiptStatement {
        format: ReceiptStatement::FORMAT.to_owned(),
        issuer: stating.issuer.to_string(),
        request_id: reserved.id.to_string(),
        is_final: end.is_some(),
        signed_at: stating.at.to_string(),
        tenant: spender.tenant.to_string(),
        project: spender.project.to_string(),
        key: spender.key.to_string(),
        end_user: spender.end_user.map(|user| user.to_string()),
        plan: spender.plan.to_string(),
        route: reserved.route.to_string(),
        model: reserved.model.to_string(),
        provider: reserved.provider.to_string(),
        stream: reserved.stream,
        started_at: reserved.at.to_string(),
        ended_at: end.map(|end| end.ended_at.to_string()),
        state: state_shown(*state),
        outcome: end.map(|end| end.outcome.name().to_owned()),
        confidence: end.and_then(|end| end.confidence).map(confidence),
        tokens: tokens(&end.map(|end| end.usage).unwrap_or_default()),
        prices: ReceiptPrices { version: reserved.price_version.to_string(), sha256: stating.book_sha256 },
        hold: hold(told, end),
        cost_picousd: amounts.cost.0.to_string(),
        cost_usd: amounts.cost.to_string(),
        charge_picousd: amounts.charge.0.to_string(),
        charge_usd: amounts.charge.to_string(),
        overrun: both(end.map(|end| end.overrun).unwrap_or_default()),
        policy: reserved.policy.map(|policy| Fingerprint(policy).to_string()),
        cache: cache(reserved, end).to_owned(),
        idempotency: reserved.idempotency.map(idempotency),
        adjustments: told.adjustments.iter().map(adjustment).collect(),
    }
}

/// What is answered here, and all of whose input was answered before, comes from a cache.
fn cache(reserved: &Reserved, end: Option<&EventEnd>) -> &'static str {
    let usage = end.map(|end| end.usage).unwrap_or_default();
    let all = usage.cached_input_tokens == usage.input_tokens && usage.input_tokens > 0;
    if &*reserved.provider == LOCAL && all { "hit" } else { "bypass" }
}

fn tokens(usage: &Usage) -> ReceiptTokens {
    ReceiptTokens {
        input: usage.input_tokens,
        cached_input: usage.cached_input_tokens,
        cache_write: usage.cache_write_tokens.unwrap_or(0),
        audio_input: usage.audio_input_tokens,
        output: usage.output_tokens,
        reasoning: usage.reasoning_tokens,
        audio_output: usage.audio_output_tokens,
        cpu_us: usage.cpu_us,
    }
}

fn hold(told: &Told, end: Option<&EventEnd>) -> ReceiptHold {
    let UsageEvent { reserved, extended_at, .. } = &told.event;
    // What was given back was decided at the end; a difference that was found later does not change it.
    let posted_then = |end: &EventEnd| told.adjustments.first().map_or(end.amounts, |first| first.was.amounts);
    ReceiptHold {
        cost_picousd: reserved.hold.cost.0.to_string(),
        charge_picousd: reserved.hold.charge.0.to_string(),
        reserved_at: reserved.at.to_string(),
        deadline: reserved.deadline.to_string(),
        extended_at: extended_at.map(|at| at.to_string()),
        released: end.map(|end| both(reserved.hold.beyond(posted_then(end)))),
    }
}

fn both(amounts: Amounts) -> ReceiptAmounts {
    ReceiptAmounts { cost_picousd: amounts.cost.0.to_string(), charge_picousd: amounts.charge.0.to_string() }
}

fn idempotency(sent: Idempotency) -> ReceiptIdempotency {
    let hex = |hash: [u8; 16]| format!("{:032x}", u128::from_be_bytes(hash));
    ReceiptIdempotency { key_hash: hex(sent.key), body_hash: hex(sent.body) }
}

fn adjustment(found: &Adjustment) -> ReceiptAdjustment {
    ReceiptAdjustment {
        at: found.at.to_string(),
        reason: found.reason.name().to_owned(),
        was: standing(&found.was),
        now: standing(&found.now),
        price_version: found.price_version.to_string(),
    }
}

fn standing(standing: &Standing) -> ReceiptStanding {
    ReceiptStanding {
        cost_picousd: standing.amounts.cost.0.to_string(),
        charge_picousd: standing.amounts.charge.0.to_string(),
        overrun: both(standing.overrun),
        confidence: confidence(standing.confidence),
    }
}

pub fn state_shown(state: EventState) -> UsageState {
    match state {
        EventState::Posted => UsageState::Posted,
        EventState::Voided => UsageState::Voided,
        EventState::Pending => UsageState::Pending,
        EventState::Indeterminate => UsageState::Indeterminate,
    }
}

pub fn confidence(confidence: tollgate_types::Confidence) -> Confidence {
    match confidence {
        tollgate_types::Confidence::Measured => Confidence::Measured,
        tollgate_types::Confidence::Bounded => Confidence::Bounded,
    }
}
