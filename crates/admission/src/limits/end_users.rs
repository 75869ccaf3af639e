//! The limiters of one tenant's end users. Nobody declares end users: they come and go with the requests that name them,
//! so their limiters are made on demand and dropped when they no longer differ from new ones.
//!
//! Each tenant has its own, of its own size: one that names a million users is in nobody's way but its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use foldhash::fast::RandomState;
use tollgate_types::directory::Limits;
use tollgate_types::{EndUserId, Refusal, Timestamp};

use super::limiter::{Kind, Limiter};

/// End users of one tenant that are limited at the same time: in flight, or not yet refilled. Some 3 MB.
pub const END_USERS_MAX: usize = 10_000;
/// Looking for those that can be dropped reads them all, some 100 µs: not more often than this.
const SWEEP_PAUSE: Duration = Duration::from_millis(10);
/// Told to who comes when there is no room: so long it takes most limiters to be whole again, or a request to end.
const FULL_RETRY: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub struct EndUsers {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    limiters: HashMap<EndUserId, Arc<Limiter>, RandomState>,
    swept_at: Option<Timestamp>,
}

// === impl EndUsers ===

impl EndUsers {
    /// The limiter of an end user, under these settings.
    pub fn limiter(&self, user: EndUserId, limits: Limits, now: Timestamp) -> Result<Arc<Limiter>, Refusal> {
        // What a panic left behind is a whole map all the same: each change of it is one call.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(limiter) = known.limiters.get_mut(&user) {
            if limiter.limits() != limits {
                *limiter = Arc::new(limiter.under(limits));
            }
            return Ok(Arc::clone(limiter));
        }
        known.make_room(now)?;
        let limiter = Arc::new(Limiter::new(Kind::EndUser, limits));
        known.limiters.insert(user, Arc::clone(&limiter));
        Ok(limiter)
    }

    pub fn known(&self) -> usize {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).limiters.len()
    }
}

// === impl Known ===

impl Known {
    /// When full, drops the idlest: all that are unused, since dropping those changes nothing for anybody. Nobody can take
    /// from a limiter meanwhile: who could would hold it, and it is handed out under the lock that we hold.
    fn make_room(&mut self, now: Timestamp) -> Result<(), Refusal> {
        if self.limiters.len() < END_USERS_MAX {
            return Ok(());
        }
        if self.swept_at.is_none_or(|swept| now.since(swept) >= SWEEP_PAUSE) {
            self.swept_at = Some(now);
            self.limiters.retain(|_, limiter| Arc::strong_count(limiter) > 1 || !limiter.is_unused(now));
        }
        if self.limiters.len() < END_USERS_MAX {
            return Ok(());
        }
        Err(Refusal::Overloaded { reason: "too many end users are active at once", retry_after: FULL_RETRY })
    }
}
