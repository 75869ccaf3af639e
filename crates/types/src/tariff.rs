//! From what work costs us to what a tenant pays for it: a mark-up, or what a month's terms make of a month's cost.
//!
//! With included cost or tiers a charge depends on what the tenant's month has cost before. [`Tariff::month_charge`] is
//! what a whole month comes to, rounded once; a request is charged what it adds to that. So a month's charges add up to
//! what the month comes to, to the picodollar, whatever order its requests were posted in.

use crate::directory::Tariff;
use crate::{PicoSum, PicoUsd};

/// One hundredth of a percent, as a part of the whole.
const BASIS_POINTS: u128 = 10_000;
/// A month that costs more (1.2 × 10^15 USD) is charged as this one: times the largest mark-up (2^33) it fits 128 bits.
const MONTH_COST_MAX: u128 = 1 << 90;

// === impl Tariff ===

impl Tariff {
    /// Whether a charge depends on its own cost alone.
    pub fn is_plain(&self) -> bool {
        self.tiers.is_empty() && self.included == PicoUsd::ZERO
    }

    /// What a month of this cost comes to, without its minimum: nothing for what is included, then each part at the
    /// mark-up of its tier, rounded half up once. Never falls as the cost rises.
    pub fn month_charge(&self, cost: PicoSum) -> PicoSum {
        let rounded = (self.exact(month_cost(cost)) + BASIS_POINTS / 2) / BASIS_POINTS;
        PicoSum(i128::try_from(rounded).expect("2^123 basis points are fewer picodollars than an i128 holds"))
    }

    /// What a request of this cost is charged after so much of its month's cost.
    pub fn charge(&self, before: PicoSum, cost: PicoUsd) -> PicoUsd {
        if self.is_plain() {
            return charge(cost, self.markup_bps);
        }
        let after = PicoSum(before.0.saturating_add(i128::from(cost.0)));
        PicoSum(self.month_charge(after).0 - self.month_charge(before).0).clamp_to_amount()
    }

    /// The most that a request of this cost, or of less, can be charged in any month.
    pub fn charge_max(&self, cost: PicoUsd) -> PicoUsd {
        if self.is_plain() {
            return charge(cost, self.markup_bps);
        }
        // F(b + c) - F(b), each rounded half up, is less than one above the exact difference, and whole: so it is at
        // most the exact difference, rounded up. And that is at most the cost at the dearest mark-up.
        let exact = u128::from(cost.0) * (BASIS_POINTS + u128::from(self.markup_bps_max()));
        PicoUsd(u64::try_from(exact.div_ceil(BASIS_POINTS)).unwrap_or(u64::MAX))
    }

    /// The most that may be spent without [`Tariff::charge_max`] exceeding `charged`: what a budget on the charge leaves.
    pub fn cost_within_charge(&self, charged: PicoUsd) -> PicoUsd {
        if self.is_plain() {
            return cost_within_charge(charged, self.markup_bps);
        }
        if charged == PicoUsd::MAX {
            return PicoUsd::MAX; // the charge stops there, so every cost fits
        }
        let cost = u128::from(charged.0) * BASIS_POINTS / (BASIS_POINTS + u128::from(self.markup_bps_max()));
        PicoUsd(u64::try_from(cost).unwrap_or(u64::MAX))
    }

    fn markup_bps_max(&self) -> u32 {
        self.tiers.iter().map(|tier| tier.markup_bps).fold(self.markup_bps, u32::max)
    }

    /// What a month of this cost comes to, times [`BASIS_POINTS`].
    fn exact(&self, cost: u128) -> u128 {
        let factor = |bps: u32| BASIS_POINTS + u128::from(bps);
        let (mut from, mut bps, mut exact) = (u128::from(self.included.0), self.markup_bps, 0);
        for tier in &self.tiers {
            let above = month_cost(tier.above);
            exact += above.min(cost).saturating_sub(from) * factor(bps);
            (from, bps) = (from.max(above), tier.markup_bps);
        }
        exact + cost.saturating_sub(from) * factor(bps)
    }
}

fn month_cost(cost: PicoSum) -> u128 {
    u128::try_from(cost.0).unwrap_or(0).min(MONTH_COST_MAX)
}

// === one mark-up ===

/// `cost` plus `markup_bps` hundredths of a percent of it, rounded half up to a whole picodollar.
///
/// Never falls as `cost` or the markup rises; an amount too large to hold becomes the largest there is.
pub fn charge(cost: PicoUsd, markup_bps: u32) -> PicoUsd {
    // At most 2^64 × (2^32 + 10^4), far from 2^128.
    let exact = u128::from(cost.0) * (BASIS_POINTS + u128::from(markup_bps));
    let rounded = (exact + BASIS_POINTS / 2) / BASIS_POINTS;
    PicoUsd(u64::try_from(rounded).unwrap_or(u64::MAX))
}

/// The highest cost whose charge is at most `charged`: what a budget on the charge leaves for the provider.
pub fn cost_within_charge(charged: PicoUsd, markup_bps: u32) -> PicoUsd {
    if charged == PicoUsd::MAX {
        return PicoUsd::MAX; // the charge stops there, so every cost fits
    }
    // charge(c) ≤ g  ⟺  c × (10^4 + m) + 5,000 < (g + 1) × 10^4
    let below = (u128::from(charged.0) + 1) * BASIS_POINTS - BASIS_POINTS / 2 - 1;
    let cost = below / (BASIS_POINTS + u128::from(markup_bps));
    PicoUsd(u64::try_from(cost).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::directory::MarkupTier;

    #[test]
    fn a_markup_is_added_and_rounded_half_up_once() {
        let check = |cost: u64, bps: u32, charged: u64| {
            assert_eq!(charge(PicoUsd(cost), bps), PicoUsd(charged), "{cost} at {bps}");
        };
        check(0, 2_000, 0);
        check(1_000_000_000_000, 2_000, 1_200_000_000_000);
        check(1_000, 0, 1_000);
        check(1, 4_999, 1); // 1.4999
        check(1, 5_000, 2); // 1.5
        check(3, 5_000, 5); // 4.5
        check(7, 333, 7); // 7.2331
        check(99, 101, 100); // 99.9999
        check(u64::MAX, 0, u64::MAX);
        check(u64::MAX, 1, u64::MAX);
        check(u64::MAX, u32::MAX, u64::MAX);
    }

    #[test]
    fn the_cost_within_a_charge_is_the_highest_that_fits() {
        let check = |charged: u64, bps: u32, cost: u64| {
            assert_eq!(cost_within_charge(PicoUsd(charged), bps), PicoUsd(cost), "{charged} at {bps}");
        };
        check(0, 0, 0);
        check(1_200, 2_000, 1_000);
        check(1_199, 2_000, 999); // charge(999) = 1198.8 → 1199
        check(1_198, 2_000, 998); // charge(998) = 1197.6 → 1198
        check(0, 4_999, 0);
        check(1, 4_999, 1);
        check(u64::MAX, 2_000, u64::MAX);
    }

    const USD: u64 = 1_000_000_000_000;

    fn usd(dollars: u64) -> PicoSum {
        PicoSum(i128::from(dollars * USD))
    }

    /// 10 USD included, then 30 %, above 100 USD 20 %, above 1,000 USD 5 %.
    fn in_tiers() -> Tariff {
        Tariff {
            markup_bps: 3_000,
            included: PicoUsd(10 * USD),
            tiers: vec![
                MarkupTier { above: usd(100), markup_bps: 2_000 },
                MarkupTier { above: usd(1_000), markup_bps: 500 },
            ],
            monthly_minimum: PicoUsd(50 * USD),
        }
    }

    #[test]
    fn each_part_of_a_month_has_the_mark_up_of_its_tier() {
        let check = |cost: u64, charged: i128| {
            assert_eq!(in_tiers().month_charge(usd(cost)), PicoSum(charged * i128::from(USD)), "{cost} USD");
        };
        check(0, 0);
        check(10, 0); // all of it included
        check(20, 13); // 10 × 1.3
        check(100, 117); // 90 × 1.3
        check(200, 237); // 117 + 100 × 1.2
        check(1_000, 1_197); // 117 + 900 × 1.2
        check(2_000, 2_247); // 1,197 + 1,000 × 1.05
        assert_eq!(in_tiers().month_charge(PicoSum(-5)), PicoSum(0));
    }

    #[test]
    fn a_request_is_charged_what_it_adds_to_its_month() {
        let check = |before: u64, cost: u64, charged: u64| {
            assert_eq!(
                in_tiers().charge(usd(before), PicoUsd(cost * USD)),
                PicoUsd(charged * USD),
                "{cost} after {before}"
            );
        };
        check(0, 10, 0);
        check(5, 15, 13); // 5 included, 10 × 1.3
        check(90, 20, 25); // 10 × 1.3 + 10 × 1.2
        check(0, 2_000, 2_247);
        // Rounded once: three parts of a picodollar and a third are four in all.
        let third = Tariff { markup_bps: 3_333, included: PicoUsd(1), ..Tariff::default() };
        let charges: Vec<u64> = (1..4).map(|before| third.charge(PicoSum(before), PicoUsd(1)).0).collect();
        assert_eq!(charges, [1, 2, 1]);
    }

    #[test]
    fn what_is_included_reaches_into_the_tiers_above_it() {
        let tariff = Tariff { included: PicoUsd(150 * USD), ..in_tiers() };
        assert_eq!(tariff.month_charge(usd(150)), PicoSum::ZERO);
        assert_eq!(tariff.month_charge(usd(200)), usd(60)); // 50 × 1.2
    }

    fn any_cost() -> impl Strategy<Value = u64> {
        prop_oneof![4 => 0..10_000u64, 4 => 0..10 * USD, 1 => any::<u64>()]
    }

    /// Costs whose charge one request can hold, at any mark-up there is: 2^44 × 2^32 / 10^4 is below 2^64.
    fn any_chargeable() -> impl Strategy<Value = u64> {
        prop_oneof![0..10_000u64, 0..1u64 << 44]
    }

    fn any_month() -> impl Strategy<Value = i128> {
        prop_oneof![4 => 0..30_000i128, 4 => 0..10_000_000_000_000_000i128, 1 => any::<i64>().prop_map(i128::from)]
    }

    fn tariff() -> impl Strategy<Value = Tariff> {
        let bps = || prop_oneof![4 => 0..20_000u32, 1 => any::<u32>()];
        let included = prop_oneof![2 => Just(0), 2 => 0..10_000u64, 1 => 0..100 * USD];
        (bps(), included, prop::collection::btree_map(any_cost(), bps(), 0..4)).prop_map(
            |(markup_bps, included, tiers)| {
                let tiers = tiers
                    .into_iter()
                    .map(|(above, markup_bps)| MarkupTier { above: PicoUsd(above).into(), markup_bps });
                Tariff {
                    markup_bps,
                    included: PicoUsd(included),
                    tiers: tiers.collect(),
                    monthly_minimum: PicoUsd::ZERO,
                }
            },
        )
    }

    fn any_charge() -> impl Strategy<Value = u64> {
        prop_oneof![0..10_000u64, any::<u64>(), Just(u64::MAX), Just(u64::MAX - 1)]
    }

    proptest! {
        #[test]
        fn a_charge_never_falls_as_the_cost_or_the_markup_rises(
            cost in any_charge(), more in any_charge(), bps in any::<u32>(), bps_more in any::<u32>(),
        ) {
            let dearer = PicoUsd(cost.saturating_add(more));
            prop_assert!(charge(PicoUsd(cost), bps) <= charge(dearer, bps));
            prop_assert!(charge(PicoUsd(cost), bps) <= charge(PicoUsd(cost), bps.saturating_add(bps_more)));
            prop_assert!(charge(PicoUsd(cost), bps) >= PicoUsd(cost));
        }

        #[test]
        fn a_charge_is_within_half_a_picodollar_of_the_exact_one(cost in 0..u64::MAX / 10, bps in 0..100_000u32) {
            let exact = u128::from(cost) * (10_000 + u128::from(bps));
            let charged = u128::from(charge(PicoUsd(cost), bps).0.min(u64::MAX - 1)) * 10_000;
            if exact / 10_000 < u128::from(u64::MAX - 1) {
                prop_assert!(charged <= exact + 5_000);
                prop_assert!(charged > exact.saturating_sub(5_000) || exact == 0);
            }
        }

        #[test]
        fn the_cost_within_a_charge_fits_and_one_more_does_not(charged in any_charge(), bps in any::<u32>()) {
            let cost = cost_within_charge(PicoUsd(charged), bps);
            prop_assert!(charge(cost, bps) <= PicoUsd(charged));
            if cost < PicoUsd::MAX {
                prop_assert!(charge(PicoUsd(cost.0 + 1), bps) > PicoUsd(charged));
            }
        }

        #[test]
        fn a_months_charges_add_up_to_the_month_in_any_order(
            tariff in tariff(), costs in prop::collection::vec(any_chargeable(), 0..12),
        ) {
            let total: i128 = costs.iter().map(|cost| i128::from(*cost)).sum();
            let billed = |costs: &mut dyn Iterator<Item = u64>| {
                let mut before = PicoSum::ZERO;
                costs.map(|cost| {
                    let charged = tariff.charge(before, PicoUsd(cost));
                    before.0 += i128::from(cost);
                    i128::from(charged.0)
                }).sum::<i128>()
            };
            let expected = match tariff.is_plain() {
                true => costs.iter().map(|cost| i128::from(charge(PicoUsd(*cost), tariff.markup_bps).0)).sum(),
                false => tariff.month_charge(PicoSum(total)).0,
            };
            prop_assert_eq!(billed(&mut costs.iter().copied()), expected);
            prop_assert_eq!(billed(&mut costs.iter().rev().copied()), expected);
        }

        #[test]
        fn a_hold_bounds_every_charge_of_any_month(
            tariff in tariff(), before in any_month(), held in any_cost(), part in prop_oneof![Just(100u64), 0..=100u64],
        ) {
            let cost = PicoUsd(u64::try_from(u128::from(held) * u128::from(part) / 100).expect("a part of a u64"));
            prop_assert!(tariff.charge(PicoSum(before), cost) <= tariff.charge_max(PicoUsd(held)));
        }

        #[test]
        fn a_month_never_comes_to_less_as_its_cost_rises(tariff in tariff(), cost in any_month(), more in any_cost()) {
            let dearer = PicoSum(cost + i128::from(more));
            prop_assert!(tariff.month_charge(PicoSum(cost)) <= tariff.month_charge(dearer));
            prop_assert!(tariff.month_charge(PicoSum(cost)).0 >= 0);
        }

        #[test]
        fn what_a_charge_affords_fits_and_one_more_does_not(tariff in tariff(), charged in any_charge()) {
            let cost = tariff.cost_within_charge(PicoUsd(charged));
            prop_assert!(tariff.charge_max(cost) <= PicoUsd(charged));
            if cost < PicoUsd::MAX {
                prop_assert!(tariff.charge_max(PicoUsd(cost.0 + 1)) > PicoUsd(charged));
            }
        }
    }
}
