//! Permission is a value: nothing is sent to a provider without a [`Permit`], and whatever becomes of the permit, the
//! money it holds is posted or given back.

use std::sync::Arc;

use tollgate_ledger::{Amounts, Log, Reservation, Settlement};
use tollgate_types::usage::Outcome;
use tollgate_types::{Confidence, PicoUsd, RequestId, Usage};

use crate::index::Principal;
use crate::limits::{InFlight, RateState};
use crate::price::{self, Rate};

/// Yes, you may: for this much, at this price.
#[derive(Debug)]
pub struct Permit<L: Log> {
    pub reservation: Reservation<L>,
    pub principal: Arc<Principal>,
    pub pricing: Pricing,
    pub granted: Granted,
    pub rate: RateState,
    pub in_flight: InFlight,
}

/// What the hold pays for. The request must be bounded to it before it goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Output tokens per choice.
    pub output_tokens: u64,
}

/// What became of a permit's money.
#[derive(Debug)]
pub struct Settled<L: Log> {
    /// What was posted: at most the hold.
    pub amounts: Amounts,
    pub overrun: Amounts,
    /// `None` if the reservation had ended before: it was swept after its deadline.
    pub position: Option<L::Position>,
}

/// The price in force when the request was admitted; it is settled at the same.
#[derive(Clone, Debug)]
pub struct Pricing {
    pub version: Arc<str>,
    pub rate: Option<Rate>,
    /// Held and posted, as bounded, where the plan allows a model without a price.
    pub fixed: Option<PicoUsd>,
    pub markup_bps: u32,
}

// === impl Permit ===

impl<L: Log> Permit<L> {
    pub fn id(&self) -> RequestId {
        self.reservation.id()
    }

    /// Posts what the provider says was used. Gives the amounts posted, where the log holds the posting, and what the
    /// provider took beyond the hold, which is the platform's loss and somebody should know of.
    pub fn settle(self, usage: Usage, outcome: Outcome) -> Settled<L> {
        let Self { reservation, pricing, .. } = self;
        let hold = reservation.hold();
        let Some(rate) = &pricing.rate else {
            let position = reservation.post_bounded(outcome);
            return Settled { amounts: hold, overrun: Amounts::ZERO, position };
        };
        let cost = rate.cost(&usage);
        let amounts = Amounts { cost, charge: pricing.charge(cost) };
        let posted = amounts.min(hold);
        // Where writing to the provider's cache is dearer, all input that was not read from it is priced as written: at
        // least the bill, but perhaps more than it.
        let confidence = if rate.bills_cache_writes() { Confidence::Bounded } else { Confidence::Measured };
        let settlement = Settlement { usage, amounts, confidence, outcome };
        Settled { amounts: posted, overrun: amounts.beyond(hold), position: reservation.post(settlement) }
    }

    /// Posts the whole hold: work was done, or may have been, and nobody said how much.
    pub fn settle_bounded(self, outcome: Outcome) -> Settled<L> {
        let amounts = self.reservation.hold();
        Settled { amounts, overrun: Amounts::ZERO, position: self.reservation.post_bounded(outcome) }
    }

    /// Gives everything back: certainly no work was done.
    pub fn void(self, outcome: Outcome) -> Option<L::Position> {
        self.reservation.void(outcome)
    }
}

// === impl Pricing ===

impl Pricing {
    pub fn charge(&self, cost: PicoUsd) -> PicoUsd {
        price::charge(cost, self.markup_bps)
    }

    /// The most that may be spent without the charge exceeding `charge`.
    pub fn cost_within_charge(&self, charge: PicoUsd) -> PicoUsd {
        price::cost_within_charge(charge, self.markup_bps)
    }
}
