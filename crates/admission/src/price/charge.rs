//! From what a request costs us to what its tenant pays: one markup, rounded once.

use tollgate_types::PicoUsd;

/// One hundredth of a percent, as a part of the whole.
const BASIS_POINTS: u128 = 10_000;

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
    }
}
