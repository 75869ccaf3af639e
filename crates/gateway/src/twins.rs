//! Requests under way by their idempotency key. The first goes ahead; twins of it wait until it has ended, and then look
//! again: at its answer or, where it cost nothing, at a turn of their own.
//!
//! Memory of this process only: what the keys stand for is the ledger's to know.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};
use tollgate_ledger::Idempotency;
use tollgate_types::{RequestId, TenantId};

/// Requests under way that bear a key. Each may outlive its caller's connection, so they have a bound of their own.
pub const UNDER_WAY_MAX: usize = 10_000;
/// Twins that wait for one request.
pub const WAITING_MAX: usize = 256;

#[derive(Debug, Default)]
pub struct Twins {
    under_way: Mutex<HashMap<Name, First>>,
    ended: Notify,
}

type Name = (TenantId, [u8; 16]);

#[derive(Debug)]
struct First {
    id: RequestId,
    body: [u8; 16],
    /// Who waits listens; nothing is ever sent, its end is the word.
    waiting: watch::Sender<()>,
}

/// How a request with a key is let in.
#[derive(Debug)]
pub enum Entry {
    /// Nobody else is at it.
    Turn(Turn),
    Twin(Waiting),
    /// The request under way under this key asks for something else.
    Other(RequestId),
    Full,
}

/// The right to be the one request under a key. Whoever waits for it goes on when it is dropped.
#[derive(Debug)]
pub struct Turn {
    twins: Arc<Twins>,
    name: Name,
}

/// A place among those who wait; given back when dropped.
#[derive(Debug)]
pub struct Waiting(watch::Receiver<()>);

// === impl Twins ===

impl Twins {
    pub fn enter(self: &Arc<Self>, tenant: &TenantId, idempotency: Idempotency, id: RequestId) -> Entry {
        let Idempotency { key, body } = idempotency;
        let name = (tenant.clone(), key);
        let mut under_way = self.lock();
        match under_way.get(&name) {
            Some(first) if first.body != body => Entry::Other(first.id),
            Some(first) if first.waiting.receiver_count() >= WAITING_MAX => Entry::Full,
            Some(first) => Entry::Twin(Waiting(first.waiting.subscribe())),
            None if under_way.len() >= UNDER_WAY_MAX => Entry::Full,
            None => {
                under_way.insert(name.clone(), First { id, body, waiting: watch::Sender::new(()) });
                Entry::Turn(Turn { twins: Arc::clone(self), name })
            }
        }
    }

    /// Completes when no request that bears a key is under way.
    pub async fn none_under_way(&self) {
        loop {
            let ended = self.ended.notified();
            if self.lock().is_empty() {
                return;
            }
            ended.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Name, First>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Turn, Waiting ===

impl Drop for Turn {
    fn drop(&mut self) {
        // Dropping the sender wakes who waits.
        drop(self.twins.lock().remove(&self.name));
        self.twins.ended.notify_waiters();
    }
}

impl Waiting {
    /// Waits for the end of the first.
    pub async fn ended(mut self) {
        // Nothing is ever sent: a change is the end.
        let _ = self.0.changed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(id: &str) -> TenantId {
        id.parse().expect("a slug")
    }

    fn asked(body: u8) -> Idempotency {
        Idempotency { key: [1; 16], body: [body; 16] }
    }

    #[tokio::test]
    async fn twins_wait_for_the_first_and_then_one_of_them_has_a_turn() {
        let twins = Arc::<Twins>::default();
        let Entry::Turn(turn) = twins.enter(&tenant("a"), asked(1), RequestId(1)) else { panic!("the first") };
        let Entry::Twin(waiting) = twins.enter(&tenant("a"), asked(1), RequestId(2)) else { panic!("a twin") };
        assert!(matches!(twins.enter(&tenant("a"), asked(2), RequestId(3)), Entry::Other(RequestId(1))));
        assert!(matches!(twins.enter(&tenant("b"), asked(2), RequestId(4)), Entry::Turn(_)), "another tenant's");
        drop(turn);
        waiting.ended().await;
        assert!(matches!(twins.enter(&tenant("a"), asked(2), RequestId(5)), Entry::Turn(_)));
        twins.none_under_way().await;
    }

    #[test]
    fn no_more_wait_than_may_and_who_leaves_makes_room() {
        let twins = Arc::<Twins>::default();
        let enter = || twins.enter(&tenant("a"), asked(1), RequestId(1));
        let turn = enter();
        let mut waiting: Vec<Entry> = (0..WAITING_MAX).map(|_| enter()).collect();
        assert!(waiting.iter().all(|entry| matches!(entry, Entry::Twin(_))));
        assert!(matches!(enter(), Entry::Full));
        waiting.pop();
        assert!(matches!(enter(), Entry::Twin(_)));
        drop(turn);
    }
}
