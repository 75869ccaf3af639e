//! Leases: several nodes spend one budget, each from a slice of its own. What nodes, messages, clocks and crashes may do
//! next; the authority's transactions are `authority.rs`'s, what must hold is `properties.rs`'s.
//!
//! The network is a set of messages that were sent. One in it may be delivered now, later, again, or never, and in any
//! order: so losing, delaying, repeating and overtaking are all covered. Clocks need no model of their own: a lease may
//! seem over to its node, or to the authority, at any moment, to one without the other.
//!
//! Within a node this model is coarser than `reserve.rs`: a hold is durable as soon as it is made.

mod authority;
mod properties;

use stateright::{Model, Property};

use crate::Amount;
pub use authority::{Account, Authority, BootId, Lessee, Promise, Standing};
pub use properties::names;

pub const NODES: usize = 3;
pub const BOOTS: usize = 2;
/// Grants to one boot.
pub const GRANTS: usize = 2;
pub const REQUESTS: usize = 4;

/// Several nodes and an authority, within bounds; with a flaw it is one of the variants that must fail.
#[derive(Clone, Debug)]
pub struct Fleet {
    pub bounds: Bounds,
    pub flaw: Option<Flaw>,
    /// The only property to look at; all without it.
    pub only: Option<&'static str>,
}

#[derive(Clone, Debug)]
pub struct Bounds {
    pub nodes: usize,
    pub limit: Amount,
    /// The most that is granted at once.
    pub slice: Amount,
    /// What each request can cost at most. Any node may get it.
    pub holds: Vec<Amount>,
    pub grants: usize,
    /// How often some node may crash and come back; how many may be lost for good.
    pub restarts: u8,
    pub losses: u8,
    /// Whether leases expire, at their nodes and at the authority.
    pub expiry: bool,
    pub durability: Durability,
}

/// What is on more than one disk before a request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Durability {
    /// Nothing: a lost disk leaves its node's leases in doubt.
    Journal,
    /// The pending entry is committed at the authority too: a lost node's leases are free but for what it entered.
    Replicated,
}

/// The protections that can be taken away, one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flaw {
    ReclaimsByTime,
    ForgetsPendingInCrash,
    GrantsCountTwice,
    ReturnsCountTwice,
    TakesOldBootsGrants,
    GrantsBeforeDurable,
    HearsLateReports,
    ReconcilesTheLiving,
    FreesLostLeases,
    ReturnsWhatIsHeld,
    SendsWhenFenced,
    TrustsEntriesAlone,
    AsksCountTwice,
    PostingsCountTwice,
    SpendsBeyondLease,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub authority: Authority,
    pub nodes: [Member; NODES],
    pub requests: [Request; REQUESTS],
    /// Sorted, each once.
    pub network: Vec<Message>,
    pub restarts: u8,
    pub losses: u8,
    /// Whether a doubt was posted in full for want of better knowledge.
    pub aged: bool,
}

/// A node, as it knows itself in this boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Member {
    pub boot: usize,
    pub lost: bool,
    pub asked: usize,
    /// Which grants it has, a bit each, and what they come to.
    pub grants: u8,
    pub received: Amount,
    pub posted: Amount,
    pub returned: Amount,
    /// Its lease is over by its own clock: it takes no new work.
    pub over: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Request {
    pub at: Option<BootId>,
    pub phase: Phase,
    /// Whether its node posted it.
    pub posted: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Phase {
    #[default]
    Waiting,
    /// Money of the node's lease is held, and its journal says so.
    Held,
    /// At the provider.
    Sent,
    Billed(Amount),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Message {
    Ask { node: usize, boot: usize, grant: usize },
    Grant { node: usize, boot: usize, grant: usize, amount: Amount },
    Report { node: usize, boot: usize, posted: Amount, returned: Amount, ended: u8 },
    Close { node: usize, boot: usize, posted: Amount, doubt: Amount },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Ask {
        node: usize,
    },
    Deliver(Message),
    Admit {
        node: usize,
        request: usize,
    },
    Send {
        request: usize,
    },
    Bill {
        request: usize,
        amount: Amount,
    },
    Settle {
        request: usize,
    },
    Return {
        node: usize,
    },
    Report {
        node: usize,
    },
    /// The node's clock says that its lease is over.
    NodeClock {
        node: usize,
    },
    /// The authority's clock says so.
    AuthorityClock {
        of: BootId,
    },
    Restart {
        node: usize,
    },
    Lose {
        node: usize,
    },
    DeclareLost {
        node: usize,
    },
    Reconcile {
        of: BootId,
    },
    Age {
        of: BootId,
    },
    /// The promised grant becomes durable, or is forgotten in a crash. Only a broken variant promises.
    KeepPromise,
    AuthorityCrash,
}

// === impl State ===

impl State {
    pub fn boot_of(&self, node: usize) -> BootId {
        BootId { node, boot: self.nodes[node].boot }
    }

    fn of(&self, id: BootId) -> impl Iterator<Item = (usize, &Request)> {
        self.requests.iter().enumerate().filter(move |(_, request)| request.at == Some(id))
    }

    /// What the boot holds for requests that it has not posted.
    pub fn pending(&self, id: BootId, holds: &[Amount]) -> Amount {
        self.of(id).filter(|(_, request)| !request.posted).map(|(at, _)| holds[at]).sum()
    }

    /// What the node may still hold of its lease.
    pub fn headroom(&self, node: usize, holds: &[Amount]) -> Amount {
        let Member { received, posted, returned, .. } = self.nodes[node];
        received - posted - returned - self.pending(self.boot_of(node), holds)
    }

    fn billed(&self, id: BootId) -> Amount {
        self.of(id).map(|(_, request)| request.bill()).sum()
    }

    fn ended(&self, id: BootId) -> u8 {
        self.of(id).filter(|(_, request)| request.posted).map(|(at, _)| 1 << at).sum()
    }

    fn lives(&self, id: BootId) -> bool {
        !self.nodes[id.node].lost && self.nodes[id.node].boot == id.boot
    }

    fn post(&mut self, message: Message) -> Option<()> {
        let place = self.network.binary_search(&message).err()?;
        self.network.insert(place, message);
        Some(())
    }
}

// === impl Request ===

impl Request {
    pub fn bill(&self) -> Amount {
        if let Phase::Billed(amount) = self.phase { amount } else { 0 }
    }
}

// === impl Fleet ===

impl Fleet {
    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    fn is_replicated(&self) -> bool {
        self.bounds.durability == Durability::Replicated
    }

    fn step(&self, state: &mut State, action: Action) -> Option<()> {
        match action {
            Action::Ask { node } => self.ask(state, node),
            Action::Deliver(message) => self.deliver(state, message),
            Action::Admit { node, request } => self.admit(state, node, request),
            Action::Send { request } => self.send(state, request),
            Action::Bill { request, amount } => bill(state, request, amount),
            Action::Settle { request } => settle(state, request),
            Action::Return { node } => self.give_back(state, node),
            Action::Report { node } => self.report(state, node),
            Action::NodeClock { node } => self.node_clock(state, node),
            Action::AuthorityClock { of } => {
                if !self.bounds.expiry {
                    return None;
                }
                state.authority.expire(of, &self.bounds.holds)
            }
            Action::Restart { node } => self.restart(state, node),
            Action::Lose { node } => lose(state, node),
            Action::DeclareLost { node } => {
                if !state.nodes[node].lost {
                    return None;
                }
                state.authority.declare_lost(node, &self.bounds.holds)
            }
            Action::Reconcile { of } => reconcile(state, of),
            Action::Age { of } => {
                state.authority.age(of)?;
                state.aged = true;
                Some(())
            }
            Action::KeepPromise => {
                let promise = state.authority.promised.take()?;
                state.authority.give(promise);
                Some(())
            }
            Action::AuthorityCrash => state.authority.promised.take().map(|_| ()),
        }
    }

    fn ask(&self, state: &mut State, node: usize) -> Option<()> {
        let Member { boot, lost, over, asked: grant, .. } = state.nodes[node];
        if lost || over || grant >= self.bounds.grants {
            return None;
        }
        state.nodes[node].asked += 1;
        state.post(Message::Ask { node, boot, grant })
    }

    fn deliver(&self, state: &mut State, message: Message) -> Option<()> {
        match message {
            Message::Ask { node, boot, grant } => {
                let amount = state.authority.grant(BootId { node, boot }, grant, self.bounds.slice)?;
                let sent = state.post(Message::Grant { node, boot, grant, amount });
                sent.or(self.has(Flaw::AsksCountTwice).then_some(()))
            }
            Message::Grant { node, boot, grant, amount } => self.receive(state, BootId { node, boot }, grant, amount),
            Message::Report { node, boot, posted, returned, ended } => {
                state.authority.report(BootId { node, boot }, posted, returned, ended)
            }
            Message::Close { node, boot, posted, doubt } => state.authority.close(BootId { node, boot }, posted, doubt),
        }
    }

    /// A grant counts once, and only in the boot that asked for it.
    fn receive(&self, state: &mut State, id: BootId, grant: usize, amount: Amount) -> Option<()> {
        let known = 1 << grant;
        let node = &mut state.nodes[id.node];
        if node.lost || (node.boot != id.boot && !self.has(Flaw::TakesOldBootsGrants)) {
            return None;
        }
        if node.grants & known != 0 && !self.has(Flaw::GrantsCountTwice) {
            return None;
        }
        node.grants |= known;
        node.received += amount;
        Some(())
    }

    fn admit(&self, state: &mut State, node: usize, request: usize) -> Option<()> {
        let holds = &self.bounds.holds;
        let Member { lost, over, .. } = state.nodes[node];
        let waits = state.requests[request].phase == Phase::Waiting;
        let covered = state.headroom(node, holds) >= holds[request] || self.has(Flaw::SpendsBeyondLease);
        if lost || over || !waits || !covered {
            return None;
        }
        state.requests[request] = Request { at: Some(state.boot_of(node)), phase: Phase::Held, posted: false };
        Some(())
    }

    fn send(&self, state: &mut State, request: usize) -> Option<()> {
        let Request { at: Some(id), phase: Phase::Held, .. } = state.requests[request] else { return None };
        if !state.lives(id) {
            return None;
        }
        if self.is_replicated() {
            state.authority.enter(id, request)?;
        }
        state.requests[request].phase = Phase::Sent;
        Some(())
    }

    /// What is idle goes back.
    fn give_back(&self, state: &mut State, node: usize) -> Option<()> {
        let mut idle = state.headroom(node, &self.bounds.holds);
        if self.has(Flaw::ReturnsWhatIsHeld) {
            idle += state.pending(state.boot_of(node), &self.bounds.holds);
        }
        if state.nodes[node].lost || idle < 1 {
            return None;
        }
        state.nodes[node].returned += idle;
        Some(())
    }

    fn report(&self, state: &mut State, node: usize) -> Option<()> {
        let Member { boot, lost, posted, returned, .. } = state.nodes[node];
        let ended = if self.is_replicated() { state.ended(state.boot_of(node)) } else { 0 };
        if lost || (posted, returned, ended) == (0, 0, 0) {
            return None;
        }
        state.post(Message::Report { node, boot, posted, returned, ended })
    }

    fn node_clock(&self, state: &mut State, node: usize) -> Option<()> {
        let member = &mut state.nodes[node];
        if !self.bounds.expiry || member.lost || member.over || member.received == 0 {
            return None;
        }
        member.over = true;
        Some(())
    }

    /// `kill -9`, and a new start: the lease lived in memory, the journal knows what was posted and what is in doubt.
    fn restart(&self, state: &mut State, node: usize) -> Option<()> {
        let Member { boot, lost, posted, .. } = state.nodes[node];
        if lost || boot + 1 >= BOOTS {
            return None;
        }
        state.restarts = state.restarts.checked_sub(1)?;
        let pending = state.pending(BootId { node, boot }, &self.bounds.holds);
        let doubt = if self.has(Flaw::ForgetsPendingInCrash) { 0 } else { pending };
        state.nodes[node] = Member { boot: boot + 1, ..Member::default() };
        state.post(Message::Close { node, boot, posted, doubt })
    }
}

fn bill(state: &mut State, request: usize, amount: Amount) -> Option<()> {
    let request = &mut state.requests[request];
    if request.phase != Phase::Sent {
        return None;
    }
    request.phase = Phase::Billed(amount);
    Some(())
}

fn settle(state: &mut State, request: usize) -> Option<()> {
    let Request { at: Some(id), phase: Phase::Billed(bill), posted: false } = state.requests[request] else {
        return None;
    };
    if !state.lives(id) {
        return None;
    }
    state.requests[request].posted = true;
    state.nodes[id.node].posted += bill;
    Some(())
}

/// The machine burns, and its disk with it.
fn lose(state: &mut State, node: usize) -> Option<()> {
    if state.nodes[node].lost {
        return None;
    }
    state.losses = state.losses.checked_sub(1)?;
    state.nodes[node].lost = true;
    Some(())
}

fn reconcile(state: &mut State, of: BootId) -> Option<()> {
    if state.of(of).any(|(_, request)| request.phase == Phase::Sent) {
        return None;
    }
    let billed = state.billed(of);
    state.authority.reconcile(of, billed)
}

// === impl Model for Fleet ===

impl Model for Fleet {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            authority: Authority::new(self.bounds.limit, self.bounds.durability, self.flaw),
            nodes: Default::default(),
            requests: Default::default(),
            network: Vec::new(),
            restarts: self.bounds.restarts,
            losses: self.bounds.losses,
            aged: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend(state.network.iter().copied().map(Action::Deliver));
        for (request, hold) in self.bounds.holds.iter().enumerate() {
            actions.extend([Action::Send { request }, Action::Settle { request }]);
            let amounts = [0, 1, *hold].into_iter().take(if *hold > 1 { 3 } else { 2 });
            actions.extend(amounts.map(|amount| Action::Bill { request, amount }));
            actions.extend((0..self.bounds.nodes).map(|node| Action::Admit { node, request }));
        }
        for node in 0..self.bounds.nodes {
            actions.extend([Action::Return { node }, Action::Report { node }, Action::DeclareLost { node }]);
            actions.extend([Action::Ask { node }, Action::NodeClock { node }]);
            for of in (0..BOOTS).map(|boot| BootId { node, boot }) {
                actions.extend([Action::Reconcile { of }, Action::Age { of }, Action::AuthorityClock { of }]);
            }
            actions.extend([Action::Restart { node }, Action::Lose { node }]);
        }
        actions.extend([Action::KeepPromise, Action::AuthorityCrash]);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        self.step(&mut state, action)?;
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = properties::of(&self.bounds);
        properties.retain(|property| self.only.is_none_or(|only| only == property.name));
        properties
    }
}
