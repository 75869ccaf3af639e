//! What must hold of one node, in every state that can be reached; and what must be reachable, so that the model is not
//! right merely because nothing happens in it.

use stateright::Property;

use super::{Books, Bounds, Node, SCOPES, Stage, State, TENANT, Totals};
use crate::Amount;
use crate::check::is_at_rest;

/// The properties by name: what a violation is called, and what a variant that must fail must violate.
pub mod names {
    pub const NEVER_OVER: &str = "posted + pending + indeterminate stay within the cap in force";
    pub const BALANCED: &str = "held = posted + released + pending + indeterminate";
    pub const REPLAYED: &str = "replay reaches the live books";
    pub const HELD_BEFORE_SENT: &str = "what was sent is covered by a hold on the disk";
    pub const BILLS_COVERED: &str = "what providers billed is in the books";
    pub const MEASURED: &str = "a measured posting and its overrun are the bill, and the posting is within the hold";
    pub const CHARGED_ONCE: &str = "no intent is charged twice";
    pub const ANSWERED_IS_POSTED: &str = "what was answered is posted on the disk";
    pub const AT_REST: &str = "at rest nothing is pending, indeterminate or unwritten";
    pub const SPENDABLE: &str = "the whole cap can be spent";
    pub const DOUBT_SETTLED: &str = "a doubt can be settled by the provider's record, for less than its hold";
    pub const OVERRUN_BOOKED: &str = "a bill beyond its hold is booked as overrun";
    pub const FELL_BACK: &str = "a hold can be extended, and the fallback used";
    pub const LOWERED_BELOW: &str = "a cap can be lowered below what is used";
    pub const RETRIED: &str = "what was voided can be retried, and is posted once";
}

pub fn of(bounds: &Bounds) -> Vec<Property<Node>> {
    let mut properties = vec![
        Property::always(names::NEVER_OVER, |_, state: &State| within_caps(&state.live) && within_caps(&state.durable)),
        Property::always(names::BALANCED, |_, state: &State| is_balanced(&state.live) && is_balanced(&state.durable)),
        Property::always(names::REPLAYED, |_, state: &State| is_replayed(state)),
        Property::always(names::HELD_BEFORE_SENT, |_, state: &State| is_held_before_sent(state)),
        Property::always(names::BILLS_COVERED, |_, state: &State| are_bills_covered(state)),
        Property::always(names::MEASURED, |_, state: &State| is_measured(state)),
        Property::always(names::CHARGED_ONCE, |_, state: &State| is_charged_once(state)),
        Property::always(names::AT_REST, |node: &Node, state: &State| {
            has_nothing_open(state) || !is_at_rest(node, state)
        }),
        Property::sometimes(names::SPENDABLE, |node: &Node, state: &State| {
            let tenant = state.live.accounts[TENANT];
            tenant.posted == node.bounds.caps[TENANT] && has_nothing_open(state)
        }),
    ];
    if bounds.answers {
        properties.push(Property::always(names::ANSWERED_IS_POSTED, |_, state: &State| is_answered_posted(state)));
    }
    if bounds.crashes > 0 {
        properties.push(Property::sometimes(names::DOUBT_SETTLED, |node: &Node, state: &State| {
            let settled = |run: usize| {
                let books = state.live.runs[run];
                books.stage == Stage::Posted { measured: true }
                    && books.posted < books.hold
                    && state.work[run].bill() > 0
            };
            state.crashes < node.bounds.crashes && node.runs().any(settled)
        }));
    }
    if bounds.overrun {
        properties.push(Property::sometimes(names::OVERRUN_BOOKED, |_, state: &State| state.live.totals.overrun > 0));
    }
    if bounds.intents.iter().any(|intent| intent.fallback.is_some()) {
        properties.push(Property::sometimes(names::FELL_BACK, |node: &Node, state: &State| {
            let fell_back =
                |run: usize| state.live.runs[run].hold > node.intent(run).want && state.work[run].tries[1].bill() > 0;
            node.runs().any(fell_back)
        }));
    }
    if bounds.lowered.is_some() {
        properties.push(Property::sometimes(names::LOWERED_BELOW, |_, state: &State| {
            state.live.accounts.iter().any(|account| account.left() < 0)
        }));
    }
    if bounds.runs_each > 1 {
        properties.push(Property::sometimes(names::RETRIED, |node: &Node, state: &State| {
            node.runs().any(|run| run % 2 == 1 && state.durable.runs[run].is_posted())
        }));
    }
    properties
}

fn within_caps(books: &Books) -> bool {
    books.accounts.iter().all(|account| account.used() <= account.ceiling)
}

/// Adds everything up again from the runs, and compares with the running sums.
fn is_balanced(books: &Books) -> bool {
    let sum = |scope: usize, stage: fn(Stage) -> bool, amount: fn(&super::Run) -> Amount| -> Amount {
        let counted = |run: &usize| books.scopes(*run).contains(&scope) && stage(books.runs[*run].stage);
        (0..books.runs.len()).filter(counted).map(|run| amount(&books.runs[run])).sum()
    };
    let agrees = |scope: usize| {
        let account = &books.accounts[scope];
        account.pending == sum(scope, |stage| stage == Stage::Pending, |run| run.hold)
            && account.indeterminate == sum(scope, |stage| stage == Stage::Indeterminate, |run| run.hold)
            && account.posted == sum(scope, |stage| matches!(stage, Stage::Posted { .. }), |run| run.posted)
    };
    let Totals { held, posted, released, .. } = books.totals;
    let tenant = &books.accounts[TENANT];
    held == posted + released + tenant.pending + tenant.indeterminate && (0..SCOPES).all(agrees)
}

fn is_replayed(state: &State) -> bool {
    let mut books = state.durable;
    for record in &state.buffer {
        books.apply(*record);
    }
    books == state.live
}

fn is_held_before_sent(state: &State) -> bool {
    let covered = |(work, run): (&super::Work, &super::Run)| {
        let sent = work.tries[0] != super::Try::Unsent;
        !sent || (run.stage != Stage::None && work.may_bill() <= run.hold)
    };
    state.work.iter().zip(&state.durable.runs).all(covered)
}

/// Run by run, which is stronger than for the tenant as a whole. Up to what each provider was allowed: what a provider
/// takes beyond that is known, and booked, only when it says so.
fn are_bills_covered(state: &State) -> bool {
    let covered = |(work, run): (&super::Work, &super::Run)| work.bill_within_bounds() <= run.counts() + run.overrun;
    state.work.iter().zip(&state.live.runs).all(covered)
}

fn is_measured(state: &State) -> bool {
    let right = |(work, run): (&super::Work, &super::Run)| {
        let exact = run.stage != Stage::Posted { measured: true } || run.posted + run.overrun == work.bill();
        exact && (0..=run.hold).contains(&run.posted)
    };
    state.work.iter().zip(&state.live.runs).all(right)
}

fn is_charged_once(state: &State) -> bool {
    let charged = |run: &&super::Run| run.is_open() || run.is_posted();
    state.live.runs.chunks(2).all(|runs| runs.iter().filter(charged).count() <= 1)
}

fn is_answered_posted(state: &State) -> bool {
    state.work.iter().zip(&state.durable.runs).all(|(work, run)| !work.answered || run.is_posted())
}

fn has_nothing_open(state: &State) -> bool {
    state.buffer.is_empty() && !state.live.runs.iter().any(super::Run::is_open)
}
