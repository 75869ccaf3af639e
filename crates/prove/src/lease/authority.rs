//! The authority's side of leases: one budget's account and what each boot of each node has of it. Each function here is
//! one transaction of a durable database; what a transaction answers is a message, and messages leave after it.
//!
//! Whether a message arrives, when and how often is the network's business (`lease.rs`).

use super::{BOOTS, Durability, Flaw, GRANTS, NODES};
use crate::Amount;

/// `free + leased + posted + indeterminate = limit`, always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Account {
    pub free: Amount,
    pub leased: Amount,
    pub posted: Amount,
    pub indeterminate: Amount,
}

/// One boot of one node: what a crash ends, a restart does not continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BootId {
    pub node: usize,
    pub boot: usize,
}

/// What one boot has been given and has said of it. Its reports are running totals, so that losing, repeating or
/// overtaking one does no harm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lessee {
    pub standing: Standing,
    pub granted: [Amount; GRANTS],
    /// What it has had and has not accounted for.
    pub left: Amount,
    pub posted: Amount,
    pub returned: Amount,
    /// Requests it entered here before sending them, and which of them it has ended: a bit each. Replicated durability.
    pub entered: u8,
    pub ended: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Standing {
    /// May ask for more.
    #[default]
    Open,
    /// Its time is up: gets no more, and `left` counts as indeterminate. It may still live, and report.
    Expired,
    /// Wound up: it will never spend again. `left` is what its requests in doubt may have cost.
    Closed,
    /// Its node is gone for good, with its journal. `left` may have been spent.
    Lost,
    /// Nothing is left to find out.
    Settled,
}

/// A grant that was promised before it was durable. Only a broken variant has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Promise {
    pub to: BootId,
    pub grant: usize,
    pub amount: Amount,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Authority {
    pub account: Account,
    pub lessees: [[Lessee; BOOTS]; NODES],
    pub promised: Option<Promise>,
    pub durability: Durability,
    flaw: Option<Flaw>,
}

// === impl Account ===

impl Account {
    pub fn total(&self) -> Amount {
        self.free + self.leased + self.posted + self.indeterminate
    }

    /// Where what this standing has `left` is counted.
    fn column(&mut self, standing: Standing) -> &mut Amount {
        match standing {
            Standing::Open => &mut self.leased,
            _ => &mut self.indeterminate,
        }
    }
}

// === impl Authority ===

impl Authority {
    pub fn new(limit: Amount, durability: Durability, flaw: Option<Flaw>) -> Self {
        let account = Account { free: limit, ..Account::default() };
        Self { account, lessees: Default::default(), promised: None, durability, flaw }
    }

    pub fn lessee(&self, id: BootId) -> &Lessee {
        &self.lessees[id.node][id.boot]
    }

    fn lessee_mut(&mut self, id: BootId) -> &mut Lessee {
        &mut self.lessees[id.node][id.boot]
    }

    /// Grants once for each (boot, number), and the same again to who asks again. Nothing is granted from an empty
    /// account, and nothing to who is not in good standing.
    pub fn grant(&mut self, to: BootId, grant: usize, slice: Amount) -> Option<Amount> {
        let known = self.lessee(to).granted[grant];
        if known > 0 && self.flaw != Some(Flaw::AsksCountTwice) {
            return Some(known);
        }
        let amount = slice.min(self.account.free);
        if self.lessee(to).standing != Standing::Open || amount < 1 || self.promised.is_some() {
            return None;
        }
        let promise = Promise { to, grant, amount };
        if self.flaw == Some(Flaw::GrantsBeforeDurable) {
            self.promised = Some(promise);
        } else {
            self.give(promise);
        }
        Some(amount)
    }

    pub fn give(&mut self, Promise { to, grant, amount }: Promise) {
        self.account.free -= amount;
        self.account.leased += amount;
        let lessee = self.lessee_mut(to);
        lessee.granted[grant] = amount;
        lessee.left += amount;
    }

    /// Running totals of what a boot posted and returned. Who is wound up has nothing left to say.
    pub fn report(&mut self, from: BootId, posted: Amount, returned: Amount, ended: u8) -> Option<()> {
        let Lessee { standing, left, .. } = *self.lessee(from);
        let late = matches!(standing, Standing::Closed | Standing::Settled);
        if late && self.flaw != Some(Flaw::HearsLateReports) {
            return None;
        }
        let flaw = self.flaw;
        let lessee = self.lessee_mut(from);
        let news_posted = match flaw {
            Some(Flaw::PostingsCountTwice) => posted,
            _ => (posted - lessee.posted).max(0),
        };
        let news_returned = match flaw {
            Some(Flaw::ReturnsCountTwice) => returned,
            _ => (returned - lessee.returned).max(0),
        };
        if news_posted + news_returned == 0 && ended & !lessee.ended == 0 {
            return None;
        }
        lessee.posted += news_posted;
        lessee.returned += news_returned;
        lessee.ended |= ended;
        let accounted = if late { 0 } else { news_posted + news_returned };
        lessee.left = left - accounted;
        *self.account.column(standing) -= accounted;
        self.account.posted += news_posted;
        self.account.free += news_returned;
        Some(())
    }

    /// The node came back from a crash and knows from its journal what the boot before posted, and what is in doubt of
    /// it. That boot is over: all else it had is free again.
    pub fn close(&mut self, of: BootId, posted: Amount, doubt: Amount) -> Option<()> {
        let Lessee { standing, left, posted: known, .. } = *self.lessee(of);
        if matches!(standing, Standing::Closed | Standing::Settled) {
            return None;
        }
        let news = (posted - known).max(0);
        *self.account.column(standing) -= left;
        self.account.posted += news;
        self.account.indeterminate += doubt;
        self.account.free += left - news - doubt;
        self.wind_up(of, doubt, known + news);
        Some(())
    }

    fn wind_up(&mut self, of: BootId, left: Amount, posted: Amount) {
        let lessee = self.lessee_mut(of);
        lessee.left = left;
        lessee.posted = posted;
        lessee.standing = if left == 0 { Standing::Settled } else { Standing::Closed };
    }

    /// The lease's time is up. With a journal that only the node has, nothing becomes free by that: it becomes
    /// indeterminate. With replicated entries the boot is fenced, and what it has not entered is free.
    pub fn expire(&mut self, of: BootId, holds: &[Amount]) -> Option<()> {
        let Lessee { standing, left, .. } = *self.lessee(of);
        if standing != Standing::Open || left == 0 {
            return None;
        }
        if self.durability == Durability::Replicated {
            self.fence(of, holds);
            return Some(());
        }
        self.account.leased -= left;
        if self.flaw == Some(Flaw::ReclaimsByTime) {
            self.account.free += left;
            self.lessee_mut(of).left = 0;
        } else {
            self.account.indeterminate += left;
        }
        self.lessee_mut(of).standing = Standing::Expired;
        Some(())
    }

    /// Somebody who knows says that the node will never come back.
    pub fn declare_lost(&mut self, node: usize, holds: &[Amount]) -> Option<()> {
        let boots = (0..BOOTS).map(|boot| BootId { node, boot });
        let living = |id: &BootId| matches!(self.lessee(*id).standing, Standing::Open | Standing::Expired);
        let living: Vec<_> = boots.filter(living).collect();
        for id in &living {
            if self.durability == Durability::Replicated {
                self.fence(*id, holds);
                continue;
            }
            let Lessee { standing, left, .. } = *self.lessee(*id);
            *self.account.column(standing) -= left;
            if self.flaw == Some(Flaw::FreesLostLeases) {
                self.account.free += left;
                self.lessee_mut(*id).left = 0;
            } else {
                self.account.indeterminate += left;
            }
            self.lessee_mut(*id).standing = Standing::Lost;
        }
        (!living.is_empty()).then_some(())
    }

    /// Takes no entry of this boot any more. So it can send nothing any more, and what is in doubt is what it entered
    /// and has not ended; and at most what is left, for a node holds the money of an ended request again before its
    /// report of the end arrives.
    fn fence(&mut self, of: BootId, holds: &[Amount]) {
        let Lessee { standing, left, posted, entered, ended, .. } = *self.lessee(of);
        let open = entered & !ended;
        let entries = holds.iter().enumerate().filter(|(at, _)| open & (1 << at) != 0);
        let entered: Amount = entries.map(|(_, hold)| hold).sum();
        let doubt = if self.flaw == Some(Flaw::TrustsEntriesAlone) { entered } else { entered.min(left) };
        *self.account.column(standing) -= left;
        self.account.indeterminate += doubt;
        self.account.free += left - doubt;
        self.wind_up(of, doubt, posted);
    }

    /// A pending entry, committed here before the request is sent. Replicated durability.
    pub fn enter(&mut self, of: BootId, request: usize) -> Option<()> {
        let fenced = self.lessee(of).standing != Standing::Open;
        if fenced && self.flaw != Some(Flaw::SendsWhenFenced) {
            return None;
        }
        self.lessee_mut(of).entered |= 1 << request;
        Some(())
    }

    /// The provider's record says what this boot's requests came to, and nothing of it is under way any more.
    pub fn reconcile(&mut self, of: BootId, billed: Amount) -> Option<()> {
        let Lessee { standing, left, posted, .. } = *self.lessee(of);
        let over = matches!(standing, Standing::Closed | Standing::Lost);
        let alive = self.flaw == Some(Flaw::ReconcilesTheLiving) && standing == Standing::Expired;
        if !over && !alive {
            return None;
        }
        let news = billed - posted;
        self.account.indeterminate -= left;
        self.account.posted += news;
        self.account.free += left - news;
        self.wind_up(of, 0, billed);
        Some(())
    }

    /// Nobody found out: what is in doubt is posted in full.
    pub fn age(&mut self, of: BootId) -> Option<()> {
        let Lessee { standing, left, posted, .. } = *self.lessee(of);
        if !matches!(standing, Standing::Closed | Standing::Lost) {
            return None;
        }
        self.account.indeterminate -= left;
        self.account.posted += left;
        self.wind_up(of, 0, posted + left);
        Some(())
    }
}
