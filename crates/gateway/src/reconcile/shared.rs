//! A call that several requests shared is one line of the provider's bill, under all their ids. Here it is taken apart again, so
//! that each request can be held against its own part.

use tollgate_serving::coalesce::shares;
use tollgate_types::{PicoUsd, Usage};

/// What the ledger says of one of the requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    pub usage: Usage,
    /// Its own and what the platform bore of it.
    pub cost: PicoUsd,
    pub hold: PicoUsd,
    /// The provider said so at the time; otherwise it is the hold, or nothing.
    pub measured: bool,
}

/// What each of them had of a line. What was measured stays what it was, and what is over is shared by those of whom nobody knows,
/// by their holds; where all were measured, a difference is the first one's.
pub fn split(usage: &Usage, cost: PicoUsd, known: &[Known]) -> Vec<(Usage, PicoUsd)> {
    let column = |whole: u64, of: fn(&Known) -> u64| column(whole, known, of);
    let input = column(usage.input_tokens, |known| known.usage.input_tokens);
    let cached = column(usage.cached_input_tokens, |known| known.usage.cached_input_tokens);
    let audio = column(usage.audio_input_tokens, |known| known.usage.audio_input_tokens);
    let output = column(usage.output_tokens, |known| known.usage.output_tokens);
    let cost = column(cost.0, |known| known.cost.0);
    let one = |number: usize| {
        let usage = Usage {
            input_tokens: input[number],
            cached_input_tokens: cached[number],
            audio_input_tokens: audio[number],
            output_tokens: output[number],
            ..Usage::default()
        };
        (usage, PicoUsd(cost[number]))
    };
    (0..known.len()).map(one).collect()
}

fn column(whole: u64, known: &[Known], of: fn(&Known) -> u64) -> Vec<u64> {
    let measured = |one: &Known| if one.measured { of(one) } else { 0 };
    let mut parts: Vec<u64> = known.iter().map(measured).collect();
    let sum: u128 = parts.iter().map(|part| u128::from(*part)).sum();
    let Some(rest) = u64::try_from(sum).ok().and_then(|sum| whole.checked_sub(sum)) else {
        // Less was billed than was said at the time: nobody's part is what it was.
        return shares(whole, &parts);
    };
    let doubtful: Vec<usize> = (0..known.len()).filter(|number| !known[*number].measured).collect();
    let holds: Vec<u64> = doubtful.iter().map(|number| known[*number].hold.0).collect();
    match doubtful.as_slice() {
        [] => parts.iter_mut().take(1).for_each(|first| *first += rest),
        doubtful => doubtful.iter().zip(shares(rest, &holds)).for_each(|(number, share)| parts[*number] = share),
    }
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn known(tokens: u64, measured: bool) -> Known {
        let usage = Usage { input_tokens: tokens, ..Usage::default() };
        Known { usage, cost: PicoUsd(tokens * 20), hold: PicoUsd(tokens * 100), measured }
    }

    fn parts(tokens: u64, known: &[Known]) -> Vec<(u64, u64)> {
        let usage = Usage { input_tokens: tokens, ..Usage::default() };
        let split = split(&usage, PicoUsd(tokens * 20), known);
        split.iter().map(|(usage, cost)| (usage.input_tokens, cost.0)).collect()
    }

    #[test]
    fn what_was_measured_stays_and_the_rest_is_theirs_of_whom_nobody_knows() {
        assert_eq!(parts(10, &[known(4, true), known(6, true)]), [(4, 80), (6, 120)]);
        assert_eq!(
            parts(12, &[known(4, true), known(6, true)]),
            [(6, 120), (6, 120)],
            "the first shows the difference"
        );
        assert_eq!(parts(10, &[known(4, true), known(1, false), known(2, false)]), [(4, 80), (2, 40), (4, 80)]);
        assert_eq!(parts(0, &[known(4, true), known(6, false)]), [(0, 0), (0, 0)], "a call that did no work");
        assert_eq!(parts(5, &[known(4, true), known(6, true)]), [(2, 40), (3, 60)]);
    }

    proptest! {
        #[test]
        fn the_parts_are_the_line(tokens in 0_u64..1_000_000, members in prop::collection::vec((0_u64..1_000, any::<bool>()), 1..20)) {
            let members: Vec<Known> = members.into_iter().map(|(tokens, measured)| known(tokens, measured)).collect();
            let parts = parts(tokens, &members);
            prop_assert_eq!(parts.iter().map(|(tokens, _)| tokens).sum::<u64>(), tokens);
            prop_assert_eq!(parts.iter().map(|(_, cost)| cost).sum::<u64>(), tokens * 20);
        }
    }
}
