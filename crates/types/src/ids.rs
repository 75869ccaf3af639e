//! Identities. Each kind is a type of its own, so that a project can never stand where a tenant should.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Longest slug, in bytes.
pub const SLUG_BYTES_MAX: usize = 63;

/// Why a text is not an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{kind} id {given:?} must be 1 to 63 characters of a-z, 0-9, '-', '_' or '.', beginning with a letter or digit"
)]
pub struct InvalidId {
    pub kind: &'static str,
    pub given: String,
}

thread_local! {
    static SHARED: RefCell<Option<HashSet<Arc<str>>>> = const { RefCell::new(None) };
}

/// Does work that reads many ids, the same ones again and again: each is in memory once, and whoever has it shares it.
pub fn sharing<T>(work: impl FnOnce() -> T) -> T {
    /// Ends the sharing also where the work panics.
    struct Ends;
    impl Drop for Ends {
        fn drop(&mut self) {
            SHARED.with(|shared| shared.take());
        }
    }
    let _ends = Ends;
    SHARED.with(|shared| shared.borrow_mut().get_or_insert_default().clear());
    work()
}

fn shared(text: &str) -> Arc<str> {
    SHARED.with(|shared| {
        let mut shared = shared.borrow_mut();
        let Some(known) = shared.as_mut() else { return text.into() };
        if let Some(id) = known.get(text) {
            return Arc::clone(id);
        }
        let id: Arc<str> = text.into();
        known.insert(Arc::clone(&id));
        id
    })
}

macro_rules! slug {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                if is_slug(text) { Ok(Self(shared(text))) } else { Err(InvalidId { kind: $kind, given: shorten(text) }) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

slug!(
    /// Who pays: the outer wall of everything.
    TenantId, "tenant"
);
slug!(
    /// A part of a tenant with budgets of its own; unique within its tenant.
    ProjectId, "project"
);
slug!(
    /// The public half of an API key; says nothing about its secret.
    KeyId, "key"
);
slug!(
    /// What a tenant has bought: mark-up, limits, habits.
    PlanId, "plan"
);

/// One request: its reservation, its usage event and its receipt all bear this id.
///
/// 48 bits of milliseconds, then 80 random bits (as a ULID), so that ids sort by time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub u128);

impl RequestId {
    pub fn new(now: crate::Timestamp, random: u128) -> Self {
        let millis = u128::from(u64::try_from(now.0 / 1000).unwrap_or(0)) & 0xffff_ffff_ffff;
        Self(millis << 80 | random & ((1 << 80) - 1))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "req_{:032x}", self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RequestId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        hex_of(text, "req_").map(Self).ok_or_else(|| InvalidId { kind: "request", given: shorten(text) })
    }
}

/// One of a tenant's own users: a keyed hash of the name that the tenant gave, so that the books hold no names. It says
/// nothing without the tenant's key, and nothing at all once that key is destroyed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EndUserId(pub [u8; 16]);

impl fmt::Display for EndUserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "usr_{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for EndUserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for EndUserId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let number = hex_of(text, "usr_").ok_or_else(|| InvalidId { kind: "end user", given: shorten(text) })?;
        Ok(Self(number.to_be_bytes()))
    }
}

/// The 32 lower-case hexadecimal digits after `prefix`, and nothing else.
fn hex_of(text: &str, prefix: &str) -> Option<u128> {
    text.strip_prefix(prefix)
        .filter(|hex| hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
        .and_then(|hex| u128::from_str_radix(hex, 16).ok())
}

fn is_slug(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
    let first = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.len() <= SLUG_BYTES_MAX && text.bytes().next().is_some_and(first) && text.bytes().all(inner)
}

/// Enough of a bad id to recognise it, never a whole megabyte of it in a log.
fn shorten(text: &str) -> String {
    text.chars().take(SLUG_BYTES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slug_is_short_and_plain() {
        for good in ["a", "0", "demo", "team-1", "eu.prod_2", &"x".repeat(63)] {
            assert!(good.parse::<TenantId>().is_ok(), "{good}");
        }
        for bad in ["", "-a", ".", "..", "Demo", "a b", "a/b", "ä", "a\0", &"x".repeat(64)] {
            assert!(bad.parse::<TenantId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ids_that_are_read_together_are_in_memory_once() {
        let read = || "a".parse::<TenantId>().expect("a slug");
        let (one, other, project) = sharing(|| (read(), read(), "a".parse::<ProjectId>().expect("a slug")));
        assert!(Arc::ptr_eq(&one.0, &other.0) && Arc::ptr_eq(&one.0, &project.0));
        assert!(!Arc::ptr_eq(&one.0, &read().0), "nothing is kept for later");
    }

    #[test]
    fn a_request_id_reads_back_and_sorts_by_time() {
        let id = RequestId::new(crate::Timestamp(1_700_000_000_000_000), u128::MAX);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(RequestId::new(crate::Timestamp(1_700_000_000_001_000), 0) > id);
        for bad in
            ["", "req_", "req_xyz", "REQ_0123456789abcdef0123456789abcdef", "req_+123456789abcdef0123456789abcdef"]
        {
            assert!(bad.parse::<RequestId>().is_err(), "{bad}");
        }
        let user = EndUserId([0xab; 16]);
        assert_eq!(user.to_string().parse(), Ok(user));
        assert!(id.to_string().parse::<EndUserId>().is_err());
    }
}
