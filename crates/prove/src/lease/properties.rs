//! What must hold of a budget on several nodes, in every state that can be reached; and what must be reachable.

use stateright::Property;

use super::{BOOTS, BootId, Bounds, Fleet, Phase, Standing, State};
use crate::Amount;
use crate::check::is_at_rest;

/// The properties by name: what a violation is called, and what a variant that must fail must violate.
pub mod names {
    pub const NEVER_OVER: &str = "what was billed and what can still be billed stay within the limit";
    pub const INVARIANT: &str = "free + leased + posted + indeterminate = limit";
    pub const FREE_IS_FREE: &str = "what is free can be spent by nobody who has it already";
    pub const NODES_BALANCED: &str = "each node's lease = headroom + held + posted + returned, none below zero";
    pub const POSTED_IS_BILLED: &str = "nothing is posted that was not billed, unless it was aged";
    pub const AT_REST: &str = "at rest nothing is leased or indeterminate, and what is posted is what was billed";
    pub const SPENDABLE: &str = "the whole limit can be spent";
    pub const ON_SEVERAL_NODES: &str = "several nodes can spend at once";
    pub const DOUBT_SETTLED: &str = "what a crash left in doubt can be settled exactly";
    pub const LOSS_SETTLED: &str = "what a lost node had can be settled exactly, and the rest is free again";
    pub const EXPIRED_REPORTS: &str = "a node whose lease expired can still report what it spent";
}

pub fn of(bounds: &Bounds) -> Vec<Property<Fleet>> {
    let mut properties = vec![
        Property::always(names::NEVER_OVER, |fleet: &Fleet, state: &State| {
            exposure(fleet, state) <= fleet.bounds.limit
        }),
        Property::always(names::INVARIANT, adds_up),
        Property::always(names::FREE_IS_FREE, |fleet: &Fleet, state: &State| {
            state.authority.account.free + exposure(fleet, state) + idle(fleet, state) <= fleet.bounds.limit
        }),
        Property::always(names::NODES_BALANCED, |fleet: &Fleet, state: &State| {
            (0..fleet.bounds.nodes).all(|node| state.headroom(node, &fleet.bounds.holds) >= 0)
        }),
        Property::always(names::POSTED_IS_BILLED, |_, state: &State| {
            state.aged || state.authority.account.posted <= billed(state)
        }),
        Property::always(names::AT_REST, |fleet: &Fleet, state: &State| is_settled(state) || !is_at_rest(fleet, state)),
        Property::sometimes(names::SPENDABLE, |fleet: &Fleet, state: &State| {
            state.authority.account.posted == fleet.bounds.limit && !state.aged
        }),
    ];
    if bounds.nodes > 1 {
        properties.push(Property::sometimes(names::ON_SEVERAL_NODES, |_, state: &State| {
            state.nodes.iter().filter(|node| node.posted > 0).count() > 1
        }));
    }
    if bounds.restarts > 0 {
        properties.push(Property::sometimes(names::DOUBT_SETTLED, |fleet: &Fleet, state: &State| {
            let doubtful = (0..fleet.bounds.nodes).any(|node| has_doubt_settled(state, BootId { node, boot: 0 }));
            doubtful && !state.aged
        }));
    }
    if bounds.losses > 0 {
        properties.push(Property::sometimes(names::LOSS_SETTLED, |fleet: &Fleet, state: &State| {
            let lost = |node: &usize| state.nodes[*node].lost;
            let settled = |node: usize| {
                let id = state.boot_of(node);
                state.authority.lessee(id).standing == Standing::Settled && state.billed(id) > state.nodes[node].posted
            };
            !state.aged && (0..fleet.bounds.nodes).filter(lost).any(settled) && state.authority.account.free > 0
        }));
    }
    if bounds.expiry && bounds.durability == super::Durability::Journal {
        properties.push(Property::sometimes(names::EXPIRED_REPORTS, |fleet: &Fleet, state: &State| {
            let reported = |id: BootId| {
                let lessee = state.authority.lessee(id);
                lessee.standing == Standing::Expired && lessee.left == 0 && lessee.posted > 0
            };
            (0..fleet.bounds.nodes).any(|node| reported(state.boot_of(node)))
        }));
    }
    properties
}

/// What the providers billed, and what they will bill at most for what is at them or can still be sent to them.
fn exposure(fleet: &Fleet, state: &State) -> Amount {
    let one = |(at, request): (usize, &super::Request)| match (request.phase, request.at) {
        (Phase::Billed(amount), _) => amount,
        (Phase::Sent, _) => fleet.bounds.holds[at],
        (Phase::Held, Some(id)) if can_send(fleet, state, id) => fleet.bounds.holds[at],
        (Phase::Held | Phase::Waiting, _) => 0,
    };
    state.requests.iter().enumerate().map(one).sum()
}

/// What living nodes have and do not use.
fn idle(fleet: &Fleet, state: &State) -> Amount {
    let nodes = (0..fleet.bounds.nodes).filter(|node| can_send(fleet, state, state.boot_of(*node)));
    nodes.map(|node| state.headroom(node, &fleet.bounds.holds)).sum()
}

fn can_send(fleet: &Fleet, state: &State, id: BootId) -> bool {
    let fenced = fleet.is_replicated() && state.authority.lessee(id).standing != Standing::Open;
    state.lives(id) && !fenced
}

/// The account adds up to the limit, nothing in it is negative, and its columns are the sums of the lessees.
fn adds_up(fleet: &Fleet, state: &State) -> bool {
    let account = &state.authority.account;
    let left = |open: bool| -> Amount {
        let lessees = state.authority.lessees.iter().flatten();
        lessees.filter(|lessee| (lessee.standing == Standing::Open) == open).map(|lessee| lessee.left).sum()
    };
    let none_negative = account.free >= 0 && account.leased >= 0 && account.posted >= 0 && account.indeterminate >= 0;
    none_negative
        && account.total() == fleet.bounds.limit
        && account.leased == left(true)
        && account.indeterminate == left(false)
}

fn billed(state: &State) -> Amount {
    state.requests.iter().map(super::Request::bill).sum()
}

fn has_doubt_settled(state: &State, id: BootId) -> bool {
    let in_doubt = state.of(id).any(|(_, request)| !request.posted && request.bill() > 0);
    id.boot + 1 < BOOTS && in_doubt && state.authority.lessee(id).standing == Standing::Settled
}

fn is_settled(state: &State) -> bool {
    let account = &state.authority.account;
    account.leased == 0 && account.indeterminate == 0 && (state.aged || account.posted == billed(state))
}
