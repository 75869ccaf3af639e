//! Slows down who guesses, and tenants that change too much at a time. From an address that presented too many wrong credentials
//! nobody is heard for a while, whatever they present then, or it could be told whether a guess was right.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tollgate_types::{TenantId, Timestamp};

use super::Operator;

/// So many wrong ones are mistakes.
const MISTAKES: u32 = 10;
/// Beyond them each costs so long.
const EACH: Duration = Duration::from_secs(6);
/// Nobody waits longer than this, however often they were wrong.
const WAIT_MAX: Duration = Duration::from_secs(120);
/// Addresses that are remembered. Where more guess, those that have waited longest are forgotten.
const ADDRESSES_MAX: usize = 4_096;

/// A tenant's changes: one each so long, and so many at once.
const EACH_ACT: Duration = Duration::from_millis(100);
const ACTS_AT_ONCE: u32 = 200;

/// Wrong credentials by where they came from.
#[derive(Debug, Default)]
pub struct Doors(Mutex<HashMap<IpAddr, Timestamp>>);

// === impl Doors ===

impl Doors {
    /// Whether somebody there may try; else, how long not.
    ///
    /// Each wrong one moves the time at which all of them are forgotten by [`EACH`] (GCRA; see the limits of admission).
    pub fn may_try(&self, peer: IpAddr, now: Timestamp) -> Result<(), Duration> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(forgotten_at) = known.get(&neighbourhood(peer)) else { return Ok(()) };
        let left = forgotten_at.since(now);
        let patience = EACH * MISTAKES;
        if left <= patience { Ok(()) } else { Err(left - patience) }
    }

    pub fn failed(&self, peer: IpAddr, now: Timestamp) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let peer = neighbourhood(peer);
        let latest = now.plus(EACH * MISTAKES + WAIT_MAX);
        let forgotten_at = known.get(&peer).copied().unwrap_or(now).max(now).plus(EACH).min(latest);
        known.insert(peer, forgotten_at);
        if known.len() > ADDRESSES_MAX {
            known.retain(|_, forgotten_at| *forgotten_at > now);
        }
        if known.len() > ADDRESSES_MAX
            && let Some(first) = known.iter().min_by_key(|(_, at)| **at).map(|(peer, _)| *peer)
        {
            known.remove(&first);
        }
    }
}

/// How fast a tenant's own people and machines change things at the control plane, by tenant.
#[derive(Debug, Default)]
pub struct Acts(Mutex<HashMap<TenantId, Timestamp>>);

// === impl Acts ===

impl Acts {
    /// Whether an operator of a tenant may change something now; else, when. Those of the operator's own may always.
    ///
    /// GCRA, as above: each change moves the time at which all are forgotten.
    pub fn may_act(&self, operator: &Operator, changes: bool, now: Timestamp) -> Result<(), Duration> {
        let tenant = operator.grants.first().and_then(|grant| grant.tenant.clone());
        let Some(tenant) = tenant.filter(|_| changes && operator.is_tenants()) else { return Ok(()) };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // As many as change something within seconds; each is a tenant that exists.
        known.retain(|_, forgotten_at| *forgotten_at > now);
        let forgotten_at = known.get(&tenant).copied().unwrap_or(now);
        let (left, patience) = (forgotten_at.since(now), EACH_ACT * ACTS_AT_ONCE);
        if left > patience {
            return Err(left - patience);
        }
        known.insert(tenant, forgotten_at.max(now).plus(EACH_ACT));
        Ok(())
    }
}

/// Whoever has one address of a /64 has all of it.
pub fn neighbourhood(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_forgiven_and_guessing_is_slow() {
        let doors = Doors::default();
        let there: IpAddr = "192.0.2.7".parse().expect("an address");
        let elsewhere: IpAddr = "192.0.2.8".parse().expect("an address");
        let mut now = Timestamp(1_000_000_000);
        let mut guessed = 0;
        for _ in 0..3_600 {
            if doors.may_try(there, now).is_ok() {
                doors.failed(there, now);
                guessed += 1;
            }
            now = now.plus(Duration::from_secs(1));
        }
        assert!((600..=612).contains(&guessed), "in an hour: {guessed}");
        assert!(doors.may_try(elsewhere, now).is_ok());
        let wait = (0..20).find_map(|_| {
            let shut = doors.may_try(there, now).err();
            doors.failed(there, now);
            shut
        });
        assert!(wait.is_some());
        (0..10_000).for_each(|_| doors.failed(there, now));
        assert!(doors.may_try(there, now).is_err_and(|wait| wait <= WAIT_MAX), "nobody is shut out for long");
        assert!(doors.may_try(there, now.plus(WAIT_MAX)).is_ok());
    }

    #[test]
    fn one_network_is_one_guesser_and_memory_is_bounded() {
        let doors = Doors::default();
        let now = Timestamp(1_000_000_000);
        for n in 0..30u16 {
            doors.failed(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, n)), now);
        }
        assert!(doors.may_try("2001:db8::ffff".parse().expect("an address"), now).is_err());
        assert!(doors.may_try("::ffff:192.0.2.1".parse().expect("an address"), now).is_ok());
        for n in 0..20_000u32 {
            doors.failed(IpAddr::V4(n.into()), now);
        }
        assert!(doors.0.lock().expect("sound").len() <= ADDRESSES_MAX);
        assert!(doors.may_try("2001:db8::ffff".parse().expect("an address"), now).is_err(), "the worst stay");
    }
}
