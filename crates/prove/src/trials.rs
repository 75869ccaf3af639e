//! What is checked: the bounds of both models, and the variants that must fail, each with the property it must violate.
//! How it is searched is `check.rs`'s.

use crate::check::{self, Checked, Progress, Violation};
use crate::{Amount, lease, reserve};

/// Small enough for every test run, or as large as a few minutes allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    Short,
    Full,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Reserve,
    Lease,
}

/// One model within bounds, to be searched to its last state.
#[derive(Clone, Debug)]
pub struct Trial {
    pub name: &'static str,
    pub size: Size,
    model: Search,
}

/// A model without one of its protections.
#[derive(Clone, Debug)]
pub struct MustFail {
    pub name: &'static str,
    pub property: &'static str,
    model: Search,
}

#[derive(Clone, Debug)]
enum Search {
    Reserve(reserve::Bounds, Option<reserve::Flaw>),
    Lease(lease::Bounds, Option<lease::Flaw>),
}

// === impl Trial ===

impl Trial {
    /// Every trial of this size; the full ones include the short ones.
    pub fn all(size: Size) -> Vec<Self> {
        let fits = |trial: &Self| size == Size::Full || trial.size == Size::Short;
        reserve_trials().into_iter().chain(lease_trials()).filter(fits).collect()
    }

    pub fn protocol(&self) -> Protocol {
        self.model.protocol()
    }

    /// The properties that must hold in every state.
    pub fn always(&self) -> Vec<&'static str> {
        match self.model.clone() {
            Search::Reserve(bounds, flaw) => check::always(&reserve::Node { bounds, flaw, only: None }),
            Search::Lease(bounds, flaw) => check::always(&lease::Fleet { bounds, flaw, only: None }),
        }
    }

    /// Searches it to its last state. A violation is looked for again, for the shortest way to it.
    pub fn run(&self, threads: usize, progress: Progress<'_>) -> Checked {
        let mut checked = self.model.exhaustively(threads, progress);
        for found in &mut checked.violations {
            *found = shortest(&self.model, found);
        }
        checked
    }
}

fn shortest(model: &Search, found: &Violation) -> Violation {
    let path = found.path.as_ref().and_then(|_| model.violation(found.property));
    Violation { property: found.property, path: path.or_else(|| found.path.clone()) }
}

// === impl MustFail ===

impl MustFail {
    pub fn all() -> Vec<Self> {
        reserve_flaws().into_iter().chain(lease_flaws()).collect()
    }

    pub fn protocol(&self) -> Protocol {
        self.model.protocol()
    }

    /// The shortest way to the violation; `None` if it was not caught.
    pub fn run(&self) -> Option<Vec<String>> {
        self.model.violation(self.property)
    }

    /// The variant as if nobody knew that it is broken, to be searched to its last state.
    #[cfg(test)]
    pub(crate) fn into_trial(self) -> Trial {
        Trial { name: self.name, size: Size::Short, model: self.model }
    }

    /// The same bounds with the protection in place: whether the property holds there. Otherwise a violation would not
    /// be the flaw's doing.
    pub fn holds_unflawed(&self) -> bool {
        let sound = match &self.model {
            Search::Reserve(bounds, _) => Search::Reserve(bounds.clone(), None),
            Search::Lease(bounds, _) => Search::Lease(bounds.clone(), None),
        };
        sound.violation(self.property).is_none()
    }
}

// === impl Search ===

impl Search {
    fn protocol(&self) -> Protocol {
        match self {
            Search::Reserve(..) => Protocol::Reserve,
            Search::Lease(..) => Protocol::Lease,
        }
    }

    fn exhaustively(&self, threads: usize, progress: Progress<'_>) -> Checked {
        match self.clone() {
            Self::Reserve(bounds, flaw) => {
                check::exhaustively(reserve::Node { bounds, flaw, only: None }, threads, progress)
            }
            Self::Lease(bounds, flaw) => {
                check::exhaustively(lease::Fleet { bounds, flaw, only: None }, threads, progress)
            }
        }
    }

    fn violation(&self, property: &'static str) -> Option<Vec<String>> {
        let only = Some(property);
        match self.clone() {
            Self::Reserve(bounds, flaw) => check::violation(reserve::Node { bounds, flaw, only }, property),
            Self::Lease(bounds, flaw) => check::violation(lease::Fleet { bounds, flaw, only }, property),
        }
    }
}

// === bounds of one node ===

fn intent(key: u8, want: Amount) -> reserve::Intent {
    reserve::Intent { key, want, fallback: None, clamps: false }
}

/// Two requests of two keys in a tenant whose cap has no room for both.
fn one_node() -> reserve::Bounds {
    reserve::Bounds {
        intents: vec![intent(1, 2), intent(2, 2)],
        caps: [3, 2, 3],
        lowered: None,
        runs_each: 1,
        crashes: 1,
        overrun: false,
        answers: false,
    }
}

fn falling_back() -> reserve::Intent {
    reserve::Intent { fallback: Some(2), ..intent(1, 1) }
}

fn clamping() -> reserve::Intent {
    reserve::Intent { clamps: true, ..intent(2, 2) }
}

fn reserve_trials() -> Vec<Trial> {
    let trial = |name, size, bounds| Trial { name, size, model: Search::Reserve(bounds, None) };
    let twice = reserve::Bounds { runs_each: 2, ..one_node() };
    let three =
        reserve::Bounds { intents: vec![falling_back(), clamping(), intent(1, 1)], caps: [4, 3, 2], ..one_node() };
    vec![
        trial("two requests, a crash", Size::Short, one_node()),
        trial(
            "two requests, retries, two crashes, answers, overruns",
            Size::Short,
            reserve::Bounds { crashes: 2, overrun: true, answers: true, ..twice.clone() },
        ),
        trial(
            "two requests, one falls back, a cap is lowered",
            Size::Short,
            reserve::Bounds {
                intents: vec![falling_back(), clamping()],
                caps: [4, 3, 2],
                lowered: Some((reserve::TENANT, 1)),
                overrun: true,
                ..one_node()
            },
        ),
        trial(
            "three requests of three sizes",
            Size::Short,
            reserve::Bounds { intents: vec![intent(1, 2), clamping(), intent(1, 1)], ..one_node() },
        ),
        trial(
            "two requests, fallback, retries, a lowered cap, two crashes, overruns, answers",
            Size::Full,
            reserve::Bounds {
                intents: vec![falling_back(), clamping()],
                caps: [4, 3, 2],
                lowered: Some((reserve::TENANT, 2)),
                crashes: 2,
                overrun: true,
                answers: true,
                ..twice
            },
        ),
        trial("three requests, fallback, two crashes", Size::Full, reserve::Bounds { crashes: 2, ..three.clone() }),
        trial(
            "three requests, fallback, a lowered cap, overruns",
            Size::Full,
            reserve::Bounds { lowered: Some((reserve::TENANT, 2)), overrun: true, ..three },
        ),
    ]
}

fn reserve_flaws() -> Vec<MustFail> {
    use reserve::{Flaw, names};
    let flawed = |name, flaw, property, bounds| MustFail { name, property, model: Search::Reserve(bounds, Some(flaw)) };
    let roomy = reserve::Bounds { caps: [4, 4, 4], ..one_node() };
    let twice = reserve::Bounds { runs_each: 2, ..roomy.clone() };
    let scarce = reserve::Bounds { intents: vec![intent(1, 2), clamping()], ..one_node() };
    let fallback = reserve::Bounds { intents: vec![falling_back()], ..roomy.clone() };
    let answers = reserve::Bounds { answers: true, ..roomy.clone() };
    let overrun = reserve::Bounds { caps: [2, 2, 2], overrun: true, ..one_node() };
    let lowered = reserve::Bounds { lowered: Some((reserve::TENANT, 1)), ..one_node() };
    let narrow = reserve::Bounds { caps: [3, 3, 1], ..one_node() };
    vec![
        flawed("sends before the hold is durable", Flaw::SendsBeforeDurable, names::BILLS_COVERED, roomy.clone()),
        flawed("forgets pending requests in a crash", Flaw::ForgetsPendingInCrash, names::BILLS_COVERED, roomy.clone()),
        flawed(
            "releases the hold when a stream breaks",
            Flaw::ReleasesBrokenStreams,
            names::BILLS_COVERED,
            roomy.clone(),
        ),
        flawed("shrinks the hold and not the request", Flaw::ShrinksHoldOnly, names::BILLS_COVERED, scarce),
        flawed("checks first and takes later", Flaw::ChecksThenTakes, names::NEVER_OVER, one_node()),
        flawed("keeps one scope when another refuses", Flaw::HoldsScopeByScope, names::BALANCED, narrow),
        flawed("asks only the narrow scope", Flaw::ChecksNarrowScopeOnly, names::NEVER_OVER, one_node()),
        flawed("takes a retry for a new request", Flaw::RetriesAreNew, names::CHARGED_ONCE, twice.clone()),
        flawed("knows idempotency keys only in memory", Flaw::KeysLiveInMemory, names::CHARGED_ONCE, twice),
        flawed("posts and keeps the hold", Flaw::PostingKeepsHold, names::NEVER_OVER, one_node()),
        flawed("settles what was swept", Flaw::SettlesAgain, names::BALANCED, roomy.clone()),
        flawed("falls back without a larger hold", Flaw::FallsBackWithoutHold, names::BILLS_COVERED, fallback.clone()),
        flawed("forgets what a broken try may bill", Flaw::RetriesInsideHold, names::BILLS_COVERED, fallback.clone()),
        flawed("sends before the extension is durable", Flaw::ExtendsInMemory, names::HELD_BEFORE_SENT, fallback),
        flawed("sends what was swept", Flaw::SendsAfterSweep, names::BILLS_COVERED, roomy.clone()),
        flawed("charges the tenant for an overrun", Flaw::ChargesOverrun, names::NEVER_OVER, overrun.clone()),
        flawed("books no overrun", Flaw::DropsOverrun, names::MEASURED, overrun),
        flawed("leaves a doubt standing for ever", Flaw::NeverSettlesDoubt, names::AT_REST, roomy),
        flawed("keeps caps outside the journal", Flaw::CapsOutsideJournal, names::REPLAYED, lowered),
        flawed("answers before the posting is durable", Flaw::AnswersBeforeDurable, names::ANSWERED_IS_POSTED, answers),
    ]
}

// === bounds of several nodes ===

/// Two nodes, a slice for each, two requests that each need all of one.
fn two_nodes() -> lease::Bounds {
    lease::Bounds {
        nodes: 2,
        limit: 4,
        slice: 2,
        holds: vec![2, 2],
        grants: 1,
        restarts: 0,
        losses: 0,
        expiry: false,
        durability: lease::Durability::Journal,
    }
}

fn lease_trials() -> Vec<Trial> {
    let trial = |name, size, bounds| Trial { name, size, model: Search::Lease(bounds, None) };
    let replicated = lease::Bounds { durability: lease::Durability::Replicated, expiry: true, ..two_nodes() };
    vec![
        trial("two nodes, a crash", Size::Short, lease::Bounds { restarts: 1, ..two_nodes() }),
        trial("two nodes, one is lost", Size::Short, lease::Bounds { losses: 1, ..two_nodes() }),
        trial("two nodes, leases expire", Size::Short, lease::Bounds { expiry: true, ..two_nodes() }),
        trial(
            "one node, replicated, leases expire, a crash",
            Size::Short,
            lease::Bounds { nodes: 1, limit: 2, restarts: 1, ..replicated.clone() },
        ),
        trial("three nodes", Size::Short, lease::Bounds { nodes: 3, ..two_nodes() }),
        trial(
            "two nodes, one is lost, leases expire",
            Size::Full,
            lease::Bounds { losses: 1, expiry: true, ..two_nodes() },
        ),
        trial("two nodes, replicated, one is lost", Size::Full, lease::Bounds { losses: 1, ..replicated.clone() }),
        trial(
            "two nodes, a crash, leases expire",
            Size::Full,
            lease::Bounds { restarts: 1, expiry: true, ..two_nodes() },
        ),
        trial(
            "three nodes, three requests",
            Size::Full,
            lease::Bounds { nodes: 3, holds: vec![2, 1, 1], ..two_nodes() },
        ),
        trial("three nodes, a crash", Size::Full, lease::Bounds { nodes: 3, restarts: 1, ..two_nodes() }),
        trial(
            "two nodes, small slices, two grants each",
            Size::Full,
            lease::Bounds { limit: 3, slice: 1, holds: vec![1, 2], grants: 2, ..two_nodes() },
        ),
    ]
}

fn lease_flaws() -> Vec<MustFail> {
    use lease::{Flaw, names};
    let flawed = |name, flaw, property, bounds| MustFail { name, property, model: Search::Lease(bounds, Some(flaw)) };
    let tight = lease::Bounds { limit: 2, ..two_nodes() };
    let crash = lease::Bounds { restarts: 1, ..tight.clone() };
    let expiry = lease::Bounds { expiry: true, ..tight.clone() };
    // Nobody else is there to spend it: that it counts as free is the mistake.
    let loss = lease::Bounds { nodes: 1, losses: 1, ..tight.clone() };
    let replicated = lease::Bounds { durability: lease::Durability::Replicated, expiry: true, ..tight.clone() };
    let over = names::NEVER_OVER;
    vec![
        flawed("reclaims a lease by time alone", Flaw::ReclaimsByTime, over, expiry.clone()),
        flawed("forgets a crashed node's pending requests", Flaw::ForgetsPendingInCrash, over, crash.clone()),
        flawed("counts a repeated grant twice", Flaw::GrantsCountTwice, over, tight.clone()),
        flawed("leases again to a repeated ask", Flaw::AsksCountTwice, names::AT_REST, two_nodes()),
        flawed("counts a repeated posting twice", Flaw::PostingsCountTwice, names::POSTED_IS_BILLED, tight.clone()),
        flawed("spends beyond its lease", Flaw::SpendsBeyondLease, names::NODES_BALANCED, tight.clone()),
        flawed("counts a repeated return twice", Flaw::ReturnsCountTwice, names::INVARIANT, tight.clone()),
        flawed("takes a grant made to an earlier boot", Flaw::TakesOldBootsGrants, over, crash.clone()),
        flawed("sends a grant before it is durable", Flaw::GrantsBeforeDurable, over, tight.clone()),
        flawed("hears a report of a boot that is wound up", Flaw::HearsLateReports, names::INVARIANT, crash),
        flawed("reconciles a node that still spends", Flaw::ReconcilesTheLiving, over, expiry),
        flawed("frees what a lost node had", Flaw::FreesLostLeases, names::FREE_IS_FREE, loss),
        flawed("returns what it holds for a request", Flaw::ReturnsWhatIsHeld, over, tight),
        flawed("sends from a fenced boot", Flaw::SendsWhenFenced, over, replicated.clone()),
        flawed(
            "frees by entries alone, when reports lag",
            Flaw::TrustsEntriesAlone,
            names::INVARIANT,
            lease::Bounds { nodes: 1, ..replicated },
        ),
    ]
}
