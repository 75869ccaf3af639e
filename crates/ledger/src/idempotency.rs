//! Which idempotency keys are in use, as far as memory goes: those of requests under way or in doubt, and those that
//! were charged for within the last day. Older ones are forgotten here and found in the view; how far that went is
//! remembered, so that a key that is not found here is taken for new only where somebody looked there, too.
//!
//! What is forgotten when depends on records alone, so that replay forgets the same.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use foldhash::fast::RandomState;
use serde::{Deserialize, Serialize};
use tollgate_types::{RequestId, TenantId, Timestamp};

use crate::ledger::Rejected;
use crate::record::{Idempotency, Reserved};

/// How long after its posting a key is known in memory.
pub const KNOWN_FOR: Duration = Duration::from_secs(24 * 3600);
/// Charged keys that memory knows at most, some 130 bytes each; beyond it the oldest are forgotten before their time.
pub const KNOWN_MAX: usize = 500_000;

/// A key that is to be used, and how far somebody looked for an earlier use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    pub idempotency: Idempotency,
    /// A view was asked that held all records older than this. `None` if nobody looked anywhere but here.
    pub searched: Option<Timestamp>,
}

/// The one request that a key stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    pub first: RequestId,
    pub body: [u8; 16],
    /// It has not ended: it is under way, or in doubt.
    pub open: bool,
}

/// What memory says of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recollection {
    pub used: Option<Use>,
    /// Keys whose postings are not younger than this are known to the view alone. `None` if nothing was forgotten yet.
    pub forgotten: Option<Timestamp>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysInUse {
    uses: HashMap<Name, Use, RandomState>,
    /// The charged ones in the order of their postings.
    charged: VecDeque<(Timestamp, Name)>,
    /// Time of the newest posting whose key was forgotten.
    forgotten: Option<Timestamp>,
}

/// A key of a tenant's: the keyed hash of what the caller called it.
type Name = (TenantId, [u8; 16]);

// === impl KeysInUse ===

impl KeysInUse {
    pub fn recall(&self, tenant: &TenantId, key: [u8; 16]) -> Recollection {
        Recollection { used: self.uses.get(&(tenant.clone(), key)).copied(), forgotten: self.forgotten }
    }

    /// Charged keys that memory knows.
    pub fn charged_count(&self) -> usize {
        self.charged.len()
    }

    /// Whether no request that counts bears this key.
    pub(crate) fn check(&self, tenant: &TenantId, idempotency: Idempotency) -> Result<(), Rejected> {
        let Idempotency { key, body } = idempotency;
        match self.recall(tenant, key).used {
            None => Ok(()),
            Some(used) => Err(Rejected::KeyInUse { first: used.first, same_body: used.body == body, open: used.open }),
        }
    }

    /// The same for a key that is to be used now: what was forgotten must have been looked for.
    pub(crate) fn check_claim(&self, tenant: &TenantId, claim: Claim) -> Result<(), Rejected> {
        self.check(tenant, claim.idempotency)?;
        match self.forgotten {
            // Records of the same moment may stand on both sides of the view's end.
            Some(forgotten) if claim.searched.is_none_or(|searched| searched <= forgotten) => {
                Err(Rejected::KeyPerhapsInUse)
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn begin(&mut self, reserved: &Reserved) {
        let Some(name) = name_of(reserved) else { return };
        let Some(Idempotency { body, .. }) = reserved.idempotency else { return };
        self.uses.insert(name, Use { first: reserved.id, body, open: true });
    }

    /// The request was charged: the key is its for ever.
    pub(crate) fn charge(&mut self, reserved: &Reserved, at: Timestamp) {
        self.forget(at.minus(KNOWN_FOR), KNOWN_MAX.saturating_sub(1));
        let Some(name) = name_of(reserved) else { return };
        if let Some(used) = self.uses.get_mut(&name) {
            used.open = false;
            self.charged.push_back((at, name));
        }
    }

    /// The request cost nothing: the key is free again.
    pub(crate) fn free(&mut self, reserved: &Reserved) {
        if let Some(name) = name_of(reserved) {
            self.uses.remove(&name);
        }
    }

    /// Forgets what was charged before `before`, and the oldest of what is beyond `most`.
    fn forget(&mut self, before: Timestamp, most: usize) {
        while let Some((at, _)) = self.charged.front()
            && (*at < before || self.charged.len() > most)
            && let Some((at, name)) = self.charged.pop_front()
        {
            self.uses.remove(&name);
            self.forgotten = Some(at);
        }
    }
}

fn name_of(reserved: &Reserved) -> Option<Name> {
    reserved.idempotency.map(|idempotency| (reserved.spender.tenant.clone(), idempotency.key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_most_the_oldest_are_forgotten_and_that_is_remembered() {
        let tenant: TenantId = "a".parse().expect("a slug");
        let mut keys = KeysInUse::default();
        for n in 0..10_u8 {
            let name = (tenant.clone(), [n; 16]);
            keys.uses.insert(name.clone(), Use { first: RequestId(n.into()), body: [0; 16], open: false });
            keys.charged.push_back((Timestamp(n.into()), name));
        }
        keys.forget(Timestamp(2), 100);
        assert_eq!((keys.charged_count(), keys.forgotten), (8, Some(Timestamp(1))));
        keys.forget(Timestamp(2), 3);
        assert_eq!((keys.charged_count(), keys.uses.len(), keys.forgotten), (3, 3, Some(Timestamp(6))));
        let idempotency = Idempotency { key: [6; 16], body: [0; 16] };
        let claim =
            |searched: Option<i64>| keys.check_claim(&tenant, Claim { idempotency, searched: searched.map(Timestamp) });
        assert_eq!([claim(None), claim(Some(6))], [Err(Rejected::KeyPerhapsInUse), Err(Rejected::KeyPerhapsInUse)]);
        assert_eq!(claim(Some(7)), Ok(()));
    }
}
