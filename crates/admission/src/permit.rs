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

    /// Posts what the provider says was used. Gives the amounts posted, and where the log holds the posting.
    pub fn settle(self, usage: Usage) -> (Amounts, Option<L::Position>) {
        let Self { reservation, pricing, .. } = self;
        let hold = reservation.hold();
        let Some(rate) = &pricing.rate else {
            return (hold, reservation.post_bounded(Outcome::Completed));
        };
        let cost = rate.cost(&usage);
        let amounts = Amounts { cost, charge: pricing.charge(cost) };
        let posted = amounts.min(hold);
        // Where writing to the provider's cache is dearer, all input that was not read from it is priced as written: at
        // least the bill, but perhaps more than it.
        let confidence = if rate.bills_cache_writes() { Confidence::Bounded } else { Confidence::Measured };
        let settlement = Settlement { usage, amounts, confidence, outcome: Outcome::Completed };
        (posted, reservation.post(settlement))
    }

    /// Posts the whole hold: work was done, or may have been, and nobody said how much.
    pub fn settle_bounded(self, outcome: Outcome) -> (Amounts, Option<L::Position>) {
        (self.reservation.hold(), self.reservation.post_bounded(outcome))
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
