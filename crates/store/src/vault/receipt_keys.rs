//! The store's own keys that sign receipts (Ed25519). The newest signs; the ones before it are kept, so that their public
//! halves stay published and what they signed can still be verified.
//!
//! Only their seeds are kept, each wrapped in a slot of its own (`*receipt-1`, `*receipt-2`, …). What is signed, and how
//! it is written, is for others to say.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use ring::signature::{Ed25519KeyPair, KeyPair};
use zeroize::Zeroizing;

use super::{KEY_BYTES, KeyEncryption, VaultError};

pub const PUBLIC_KEY_BYTES: usize = 32;
pub const SIGNATURE_BYTES: usize = 64;
/// Keys there may ever be: all of them are published, in one answer.
pub const RECEIPT_KEYS_MAX: u32 = 100;
/// No tenant can be called so: an id begins with a letter or a digit.
const SLOT_PREFIX: &str = "*receipt-";

/// One key that signs.
pub struct ReceiptSigner {
    pair: Ed25519KeyPair,
}

/// All keys by their number, the newest last.
#[derive(Debug, Default)]
pub(super) struct ReceiptKeys {
    signers: BTreeMap<u32, Arc<ReceiptSigner>>,
}

// === impl ReceiptSigner ===

impl ReceiptSigner {
    fn of_seed(seed: &[u8; KEY_BYTES]) -> Self {
        Self { pair: Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are a seed") }
    }

    pub fn public_key(&self) -> [u8; PUBLIC_KEY_BYTES] {
        self.pair.public_key().as_ref().try_into().expect("an Ed25519 public key has 32 bytes")
    }

    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        self.pair.sign(message).as_ref().try_into().expect("an Ed25519 signature has 64 bytes")
    }
}

impl fmt::Debug for ReceiptSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

// === impl ReceiptKeys ===

impl ReceiptKeys {
    /// Which key a slot of that name holds, if it is one of these.
    pub fn number_of(slot: &str) -> Option<u32> {
        let number = slot.strip_prefix(SLOT_PREFIX)?.parse().ok()?;
        (slot_name(number) == slot).then_some(number)
    }

    pub fn unwrapped(wrapped: &BTreeMap<u32, Vec<u8>>, encryption: &dyn KeyEncryption) -> Result<Self, VaultError> {
        let mut keys = Self::default();
        for (number, wrapped) in wrapped {
            keys.insert(*number, &encryption.unwrap(&slot_name(*number), wrapped)?);
        }
        Ok(keys)
    }

    pub fn insert(&mut self, number: u32, seed: &Zeroizing<[u8; KEY_BYTES]>) {
        self.signers.insert(number, Arc::new(ReceiptSigner::of_seed(seed)));
    }

    /// Number and slot of the key that comes next.
    pub fn next(&self) -> Result<(u32, String), VaultError> {
        let number = self.signers.last_key_value().map_or(0, |(number, _)| *number) + 1;
        if number > RECEIPT_KEYS_MAX {
            return Err(VaultError::TooManyReceiptKeys);
        }
        Ok((number, slot_name(number)))
    }

    pub fn newest(&self) -> Option<Arc<ReceiptSigner>> {
        self.signers.last_key_value().map(|(_, signer)| Arc::clone(signer))
    }

    /// The public halves, the newest first.
    pub fn published(&self) -> Vec<[u8; PUBLIC_KEY_BYTES]> {
        self.signers.values().rev().map(|signer| signer.public_key()).collect()
    }
}

fn slot_name(number: u32) -> String {
    format!("{SLOT_PREFIX}{number}")
}
