//! The store's own key for the audit log: one secret, made once, of which two others are derived: the seed that signs checkpoints,
//! and the secret that makes the entries' salts. It is never replaced: what it signed must stay verifiable, and the same
//! records must always give the same entries.

use std::fmt;

use ring::hmac;
use tollgate_audit::entry::Salts;
use tollgate_audit::note::Signer;
use zeroize::Zeroizing;

use super::KEY_BYTES;

/// The name of its slot. No tenant can be called so: an id begins with a letter or a digit.
pub(super) const SLOT: &str = "*audit";

pub struct AuditKey(hmac::Key);

// === impl AuditKey ===

impl AuditKey {
    pub(super) fn new(secret: &Zeroizing<[u8; KEY_BYTES]>) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret.as_slice()))
    }

    /// Signs as the log of that name.
    pub fn signer(&self, name: &str) -> Signer {
        Signer::new(name, &self.derived(b"tollgate: audit checkpoints"))
    }

    pub fn salts(&self) -> Salts {
        Salts::new(&self.derived(b"tollgate: audit salts"))
    }

    fn derived(&self, purpose: &[u8]) -> Zeroizing<[u8; KEY_BYTES]> {
        let tag = hmac::sign(&self.0, purpose);
        Zeroizing::new(tag.as_ref().try_into().expect("a tag has 32 bytes"))
    }
}

impl fmt::Debug for AuditKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}
