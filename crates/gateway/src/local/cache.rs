//! Answers of runs that may be given again: to the same tenant, for the same text, under the same policy, template and model. In
//! memory only. Each tenant has a room of its own, so that none sees in what time another's was found, or pushes it out one by one.
//!
//! Who asks for what is being made waits for it: one makes it, all get it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use quick_cache::sync::{Cache, PlaceholderGuard};
use quick_cache::{DefaultHashBuilder, Weighter};
use tollgate_types::{TenantId, Timestamp};

/// What an answer is found by: a hash that only the tenant's data key makes.
pub type Key = [u8; 16];

/// An answer to one text.
#[derive(Debug)]
pub struct Kept {
    pub probabilities: Vec<f32>,
    pub stage: &'static str,
    /// By the clock that only goes forward.
    pub at: Timestamp,
}

/// One tenant's.
pub type Room = Cache<Key, Arc<Kept>, Bytes>;
/// The right to make what is not there, for all who wait for it.
pub type Guard<'a> = PlaceholderGuard<'a, Key, Arc<Kept>, Bytes, DefaultHashBuilder, Lifecycle>;
type Lifecycle = quick_cache::sync::DefaultLifecycle<Key, Arc<Kept>>;

#[derive(Clone, Debug)]
pub struct Bytes;

/// All tenants'.
#[derive(Debug, Default)]
pub struct RunCache(Mutex<HashMap<TenantId, (Arc<Room>, Timestamp)>>);

/// Bytes of one tenant's answers.
const ROOM_BYTES_MAX: u64 = 1 << 20;
/// What there are besides the numbers of an answer, in bytes.
const KEPT_BYTES: u64 = 96;
/// Tenants that have answers here; beyond that whoever asked longest ago has none any more. 256 MiB in all.
const ROOMS_MAX: usize = 256;

// === impl RunCache ===

impl RunCache {
    /// The tenant's room.
    pub fn room(&self, tenant: &TenantId, now: Timestamp) -> Arc<Room> {
        let mut rooms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((room, used)) = rooms.get_mut(tenant) {
            *used = now;
            return Arc::clone(room);
        }
        if rooms.len() >= ROOMS_MAX
            && let Some(oldest) = rooms.iter().min_by_key(|(_, (_, used))| *used).map(|(tenant, _)| tenant.clone())
        {
            rooms.remove(&oldest);
        }
        let items = usize::try_from(ROOM_BYTES_MAX / KEPT_BYTES / 2).unwrap_or(usize::MAX);
        let room = Arc::new(Cache::with_weighter(items, ROOM_BYTES_MAX, Bytes));
        rooms.insert(tenant.clone(), (Arc::clone(&room), now));
        room
    }
}

impl Weighter<Key, Arc<Kept>> for Bytes {
    fn weight(&self, _: &Key, kept: &Arc<Kept>) -> u64 {
        KEPT_BYTES + 4 * kept.probabilities.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_a_room_of_its_own_and_who_asked_longest_ago_makes_place() {
        let cache = RunCache::default();
        let tenant = |number: usize| format!("t{number}").parse::<TenantId>().expect("a slug");
        let at = |number: usize| Timestamp(i64::try_from(number).expect("few"));
        let kept = || Arc::new(Kept { probabilities: vec![1.0], stage: "hashed", at: at(0) });
        for number in 0..ROOMS_MAX {
            cache.room(&tenant(number), at(number)).insert([7; 16], kept());
        }
        assert!(cache.room(&tenant(0), at(1_000)).get(&[7; 16]).is_some());
        assert!(cache.room(&tenant(ROOMS_MAX), at(1_001)).get(&[7; 16]).is_none(), "another tenant's");
        assert!(cache.room(&tenant(0), at(1_002)).get(&[7; 16]).is_some(), "it was asked for");
        assert!(cache.room(&tenant(1), at(1_003)).get(&[7; 16]).is_none(), "it was the oldest");
    }

    #[test]
    fn a_room_is_bounded_by_bytes() {
        let room = RunCache::default().room(&"t".parse().expect("a slug"), Timestamp(0));
        for number in 0..100_000_u32 {
            let mut key = [0; 16];
            key[..4].copy_from_slice(&number.to_le_bytes());
            room.insert(key, Arc::new(Kept { probabilities: vec![0.0; 10], stage: "hashed", at: Timestamp(0) }));
        }
        assert!(room.weight() <= ROOM_BYTES_MAX, "{}", room.weight());
        assert!(room.len() > 1_000);
    }
}
