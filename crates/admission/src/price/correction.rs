//! What a request that was posted comes to after its price was corrected. The entry that says so is made elsewhere.

use tollgate_ledger::account::{Amounts, Columns};
use tollgate_ledger::record::Standing;
use tollgate_types::directory::Tariff;
use tollgate_types::{Confidence, PicoSum, PicoUsd, Usage};

use super::rate::{Priced, Rate};

/// What a corrected price makes of a posted request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rerated {
    /// It costs what it cost.
    Same,
    /// It was posted in full, or states sound that has no price: there is no usage to re-rate by.
    Unknown,
    /// What of it the tenant's posting costs now, and what is the platform's loss.
    Differs { cost: PicoUsd, overrun: PicoUsd, confidence: Confidence },
}

/// Re-rates the usage that was posted.
///
/// What the provider took beyond the hold was the platform's loss and stays so, in the same proportion: the hold was made
/// at the wrong price, too.
pub fn rerated(rate: &Rate, usage: &Usage, was: &Standing) -> Rerated {
    if was.confidence == Confidence::Bounded && *usage == Usage::default() {
        return Rerated::Unknown;
    }
    let Some(Priced { cost, confidence }) = rate.priced(usage) else { return Rerated::Unknown };
    let (posted, overrun) = (u128::from(was.amounts.cost.0), u128::from(was.overrun.cost.0));
    if u128::from(cost.0) == posted + overrun && confidence == was.confidence {
        return Rerated::Same;
    }
    let tenants = match overrun {
        0 => cost,
        _ => PicoUsd(part_of(cost.0, posted, posted + overrun)),
    };
    Rerated::Differs { cost: tenants, overrun: cost.saturating_sub(tenants), confidence }
}

/// What a request that was posted at `was` is charged now that it costs `cost`. Below zero where the month's tiers and
/// what is included give back more than the request itself was charged: the rest is due to others of its month.
///
/// By the terms of now, if the charges are what those terms make of the costs. If not, the terms were others then: and
/// then the charge changes as the cost does.
pub fn recharged(tariff: Option<&Tariff>, month: Option<Columns>, was: Amounts, cost: PicoUsd) -> i128 {
    let charge = i128::from(was.charge.0);
    match tariff {
        Some(plain) if plain.is_plain() && plain.charge_max(was.cost) == was.charge => {
            i128::from(plain.charge_max(cost).0)
        }
        Some(tariff) if !tariff.is_plain() => match month {
            Some(month) if tariff.month_charge(month.cost) == month.charge => {
                let after = PicoSum(month.cost.0 - i128::from(was.cost.0) + i128::from(cost.0));
                charge + tariff.month_charge(after).0 - month.charge.0
            }
            _ => in_proportion(was, cost),
        },
        _ => in_proportion(was, cost),
    }
}

/// Rounded half up. What cost nothing shows no proportion: it is charged its cost.
fn in_proportion(was: Amounts, cost: PicoUsd) -> i128 {
    let (was_cost, was_charge) = (u128::from(was.cost.0), u128::from(was.charge.0));
    let exact = u128::from(cost.0) * was_charge;
    let charge = (exact + was_cost / 2).checked_div(was_cost).unwrap_or(u128::from(cost.0));
    i128::from(u64::try_from(charge).unwrap_or(u64::MAX))
}

/// `amount` × `part` / `whole`, rounded down; `part` is at most `whole`.
fn part_of(amount: u64, part: u128, whole: u128) -> u64 {
    // Both are below 2^65, so the product is below 2^129: half of each keeps it within 128 bits.
    let (part, whole) = if part > u128::from(u64::MAX / 2) { (part / 2, (whole / 2).max(1)) } else { (part, whole) };
    u64::try_from(u128::from(amount) * part / whole).unwrap_or(amount).min(amount)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tollgate_types::directory::MarkupTier;

    use super::*;
    use crate::price::Prices;

    fn amounts(cost: u64, charge: u64) -> Amounts {
        Amounts { cost: PicoUsd(cost), charge: PicoUsd(charge) }
    }

    fn rate(input: u64, output: u64) -> Rate {
        Rate::new(Prices::new(PicoUsd(input), PicoUsd(input), PicoUsd(output)), &[], true, None).expect("a rate")
    }

    fn standing(cost: u64, overrun: u64, confidence: Confidence) -> Standing {
        Standing { amounts: amounts(cost, cost), overrun: amounts(overrun, 0), confidence }
    }

    #[test]
    fn posted_usage_is_rated_again_and_what_was_posted_in_full_is_left() {
        let usage = Usage { input_tokens: 10, output_tokens: 5, ..Usage::default() };
        let check = |rate: Rate, usage: Usage, was: Standing, expected: Rerated| {
            assert_eq!(rerated(&rate, &usage, &was), expected, "{usage:?} {was:?}");
        };
        let measured = |cost, overrun| standing(cost, overrun, Confidence::Measured);
        let differs = |cost, overrun| Rerated::Differs {
            cost: PicoUsd(cost),
            overrun: PicoUsd(overrun),
            confidence: Confidence::Measured,
        };
        check(rate(2, 4), usage, measured(40, 0), Rerated::Same);
        check(rate(1, 2), usage, measured(40, 0), differs(20, 0));
        check(rate(4, 8), usage, measured(40, 0), differs(80, 0));
        check(rate(1, 2), Usage::default(), measured(0, 0), Rerated::Same);
        check(rate(1, 2), Usage::default(), standing(99, 0, Confidence::Bounded), Rerated::Unknown);
        check(rate(1, 2), Usage { audio_output_tokens: 1, ..usage }, measured(40, 0), Rerated::Unknown);
        // Of 40 a tenth was beyond the hold; so is a tenth of what it comes to now.
        check(rate(2, 4), usage, measured(36, 4), Rerated::Same);
        check(rate(1, 2), usage, measured(36, 4), differs(18, 2));
        check(rate(4, 8), usage, measured(36, 4), differs(72, 8));
        // A bound becomes a measurement, where the corrected book bills no writing to the cache.
        check(rate(2, 4), usage, standing(40, 0, Confidence::Bounded), differs(40, 0));
    }

    #[test]
    fn a_charge_follows_its_cost_by_the_terms_it_was_charged_by() {
        let plain = Tariff { markup_bps: 2_000, ..Tariff::default() };
        let check = |tariff: Option<&Tariff>, was: Amounts, cost: u64, charge: i128| {
            assert_eq!(recharged(tariff, None, was, PicoUsd(cost)), charge, "{was:?} to {cost}");
        };
        check(Some(&plain), amounts(100, 120), 50, 60);
        check(Some(&plain), amounts(100, 120), 7, 8); // 8.4
        // It was charged 50 % more once: that is kept, whatever the terms are now.
        check(Some(&plain), amounts(100, 150), 50, 75);
        check(None, amounts(100, 150), 201, 302); // 301.5
        check(None, amounts(0, 0), 9, 9);
        check(None, amounts(u64::MAX, u64::MAX), u64::MAX, i128::from(u64::MAX));
    }

    #[test]
    fn what_is_included_comes_free_again_where_a_month_costs_less() {
        let tariff = Tariff { included: PicoUsd(100), ..Tariff::default() };
        let month = |cost, charge| Some(Columns { cost: PicoSum(cost), charge: PicoSum(charge) });
        // The first hundred were free, the second were not: the first now cost fifty.
        assert_eq!(recharged(Some(&tariff), month(200, 100), amounts(100, 0), PicoUsd(50)), -50);
        assert_eq!(recharged(Some(&tariff), month(200, 100), amounts(100, 100), PicoUsd(50)), 50);
        assert_eq!(recharged(Some(&tariff), month(200, 100), amounts(100, 0), PicoUsd(150)), 50);
        // The month was not charged by these terms: so in proportion.
        assert_eq!(recharged(Some(&tariff), month(200, 150), amounts(100, 50), PicoUsd(50)), 25);
    }

    proptest! {
        #[test]
        fn a_corrected_month_adds_up_to_what_it_comes_to(
            costs in prop::collection::vec((0..10_000u64, 0..10_000u64), 1..10), included in 0..20_000u64, bps in 0..9_000u32,
        ) {
            let tiers = vec![MarkupTier { above: PicoSum(15_000), markup_bps: bps / 2 }];
            let tariff = Tariff { markup_bps: bps, included: PicoUsd(included), tiers, ..Tariff::default() };
            let mut month = Columns::default();
            let mut posted = Vec::new();
            for (cost, _) in &costs {
                let charge = tariff.charge(month.cost, PicoUsd(*cost));
                month.cost.0 += i128::from(*cost);
                month.charge.0 += i128::from(charge.0);
                posted.push(amounts(*cost, charge.0));
            }
            for (was, (_, now)) in posted.iter().zip(&costs) {
                let charge = recharged(Some(&tariff), Some(month), *was, PicoUsd(*now));
                month.cost.0 += i128::from(*now) - i128::from(was.cost.0);
                month.charge.0 += charge - i128::from(was.charge.0);
            }
            let total: i128 = costs.iter().map(|(_, now)| i128::from(*now)).sum();
            prop_assert_eq!(month.cost.0, total);
            prop_assert_eq!(month.charge, tariff.month_charge(PicoSum(total)));
        }

        #[test]
        fn a_part_is_never_more_than_the_whole(amount in any::<u64>(), part in any::<u64>(), more in 1..u64::MAX) {
            let whole = u128::from(part) + u128::from(more);
            prop_assert!(part_of(amount, u128::from(part), whole) <= amount);
        }
    }
}
