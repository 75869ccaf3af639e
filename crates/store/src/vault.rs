//! Keys at rest. Each tenant has a data key of its own, wrapped by a key-encryption key; what must be erasable is sealed
//! under it, wherever it lies. Destroying the data key erases all of it at once, in every copy and every backup.
//!
//! Wrapped keys live in one file of fixed slots that are overwritten in place, never in SQL, never in the journal: a
//! file that is appended to, or replaced by a new one, would leave the old key on the disk.
//!
//! ```text
//! header  64 B   "TGKV", u32 version, u8 how many keys for receipts there are at least, the same inverted, u8 how many keys for
//!                the audit log (1, or 0 before it was made), the same inverted (or 0 as well), zeros
//! slot   192 B   u8 state (0 free, 1 in use), u8 name length, name (63 B), u8 zero, wrapped key (60 B: nonce, ciphertext,
//!                tag), zeros, u32 CRC-32C of the bytes before
//! ```
//! Slot 0 holds the store's own secret, under which API keys are hashed; slots named `*receipt-1` and on, the keys that
//! sign receipts ([`receipt_keys`]); slot `*audit`, the audit log's ([`audit_key`]). A tenant whose slot is damaged is missed by
//! the directory; a key for receipts or for the audit log, by the header's counts.

pub mod audit_key;
pub mod receipt_keys;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use tollgate_types::directory::Sealed;
use tollgate_types::{EndUserId, TenantId};
use zeroize::{Zeroize, Zeroizing};

use self::audit_key::AuditKey;
use self::receipt_keys::{PUBLIC_KEY_BYTES, RECEIPT_KEYS_MAX, ReceiptKeys, ReceiptSigner};
use crate::fault;
use crate::prepared::Prepared;

const HEADER_BYTES: u64 = 64;
const SLOT_BYTES: usize = 192;
const MAGIC: [u8; 4] = *b"TGKV";
const VERSION: u32 = 1;
const KEY_BYTES: usize = 32;
const WRAPPED_BYTES: usize = NONCE_LEN + KEY_BYTES + 16;
const RECEIPT_KEYS_AT: usize = 8;
const AUDIT_KEY_AT: usize = 10;
/// In the header once there is a key for the audit log.
const AUDIT_KEY_THERE: [u8; 2] = [1, !1];
const NAME_AT: usize = 2;
const WRAPPED_AT: usize = 66;
const CHECKSUM_AT: usize = SLOT_BYTES - 4;
/// The name of slot 0. No tenant can have it: an id begins with a letter or a digit.
const STORE_SECRET: &str = "*";

/// Wraps data keys. A key-management service does this over the network; [`MasterKey`] does it in memory.
pub trait KeyEncryption: Send + Sync + 'static {
    /// Wraps a data key so that it can be unwrapped only for the same `name`.
    fn wrap(&self, name: &str, key: &[u8; KEY_BYTES]) -> Result<Vec<u8>, VaultError>;
    fn unwrap(&self, name: &str, wrapped: &[u8]) -> Result<Zeroizing<[u8; KEY_BYTES]>, VaultError>;
}

/// A key-encryption key held by this process, read from a file or the environment.
pub struct MasterKey {
    key: LessSafeKey,
    random: SystemRandom,
}

/// The open key file.
pub struct Vault {
    path: PathBuf,
    encryption: Box<dyn KeyEncryption>,
    random: SystemRandom,
    api_keys: hmac::Key,
    audit: AuditKey,
    /// Locked before `slots` where both are.
    receipts: Mutex<ReceiptKeys>,
    slots: Mutex<Slots>,
}

struct Slots {
    file: File,
    /// Where each tenant's slot is, and its data key once it was unwrapped.
    tenants: HashMap<TenantId, (u64, Option<Arc<DataKey>>)>,
    /// How many of them are unwrapped.
    unwrapped: usize,
    free: Vec<u64>,
    /// Free, but a key that nobody was told of may still stand there: to be overwritten before anything else is.
    unclean: Vec<u64>,
    end: u64,
}

/// A tenant's data key as it is used: to seal text, and to hash names so that nobody else can.
struct DataKey {
    seal: LessSafeKey,
    names: hmac::Key,
}

/// Data keys that are kept unwrapped, some 1 KB each; with more tenants at work at a time, some are unwrapped again.
const UNWRAPPED_MAX: usize = 10_000;

#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error("the key file {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("the key file {path}: {reason}")]
    Unusable { path: PathBuf, reason: String },
    #[error("the master key does not open '{0}': it is not the key that this store was made with")]
    WrongMasterKey(String),
    #[error("'{0}' has no data key: it was never made, or was destroyed")]
    NoKey(String),
    #[error("this ciphertext was not sealed here, or was changed")]
    Unreadable,
    #[error("a master key is 64 hexadecimal digits (32 bytes); make one with: head -c 32 /dev/urandom | xxd -p -c 64")]
    MalformedMasterKey,
    #[error("the system gives no randomness")]
    NoRandomness,
    #[error("there are {RECEIPT_KEYS_MAX} keys for receipts already, and none is ever forgotten")]
    TooManyReceiptKeys,
}

// === impl MasterKey ===

impl MasterKey {
    /// Reads 64 hexadecimal digits; white space around them is allowed.
    pub fn from_hex(text: &str) -> Result<Self, VaultError> {
        let text = text.trim();
        let mut bytes = Zeroizing::new([0u8; KEY_BYTES]);
        if text.len() != 2 * KEY_BYTES || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(VaultError::MalformedMasterKey);
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| VaultError::MalformedMasterKey)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| VaultError::MalformedMasterKey)?;
        }
        Ok(Self { key: aead(&bytes), random: SystemRandom::new() })
    }
}

impl KeyEncryption for MasterKey {
    fn wrap(&self, name: &str, key: &[u8; KEY_BYTES]) -> Result<Vec<u8>, VaultError> {
        seal_with(&self.key, &self.random, &["wrap", name], key)
    }

    fn unwrap(&self, name: &str, wrapped: &[u8]) -> Result<Zeroizing<[u8; KEY_BYTES]>, VaultError> {
        let wrong = || VaultError::WrongMasterKey(name.to_owned());
        let plain = Zeroizing::new(open_with(&self.key, &["wrap", name], wrapped).map_err(|_| wrong())?);
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        if plain.len() != KEY_BYTES {
            return Err(wrong());
        }
        key.copy_from_slice(&plain);
        Ok(key)
    }
}

// === impl Vault ===

impl Vault {
    /// Opens the key file, making it and the store's own secret if it is not there. Every key is unwrapped once at
    /// first use; the store's secret at once, so that a wrong master key is told before anything is served.
    #[expect(clippy::disallowed_methods, reason = "the store is the room that writes files")]
    pub fn open(path: &Path, encryption: Box<dyn KeyEncryption>) -> Result<Self, VaultError> {
        let io = |source| VaultError::Io { path: path.to_owned(), source };
        let random = SystemRandom::new();
        if !path.try_exists().map_err(io)? {
            make(path, encryption.as_ref(), &random)?;
        }
        let file = File::options().read(true).write(true).open(path).map_err(io)?;
        let mut slots = Slots {
            file,
            tenants: HashMap::new(),
            unwrapped: 0,
            free: Vec::new(),
            unclean: Vec::new(),
            end: HEADER_BYTES,
        };
        let Loaded { secret, receipt_keys, audit } = slots.load(path)?;
        let missing =
            || VaultError::Unusable { path: path.to_owned(), reason: "the store's own secret is missing".to_owned() };
        let secret = encryption.unwrap(STORE_SECRET, &secret.ok_or_else(missing)?)?;
        let api_keys = hmac::Key::new(hmac::HMAC_SHA256, secret.as_slice());
        let receipts = Mutex::new(ReceiptKeys::unwrapped(&receipt_keys, &*encryption)?);
        let audit = match audit {
            Some(wrapped) => encryption.unwrap(audit_key::SLOT, &wrapped)?,
            // A new key file, or one of before there was an audit log.
            None => slots.add_audit_key(path, encryption.as_ref(), &random)?,
        };
        slots.note(path, AUDIT_KEY_THERE, AUDIT_KEY_AT)?;
        let (audit, slots) = (AuditKey::new(&audit), Mutex::new(slots));
        let vault = Self { path: path.to_owned(), encryption, random, api_keys, audit, receipts, slots };
        if receipt_keys.is_empty() {
            vault.rotate_receipt_key()?;
        }
        Ok(vault)
    }

    /// The key of the audit log.
    pub fn audit_key(&self) -> &AuditKey {
        &self.audit
    }

    /// The key that signs receipts now.
    pub fn receipt_signer(&self) -> Arc<ReceiptSigner> {
        self.lock_receipts().newest().expect("the first was made when the key file was opened")
    }

    /// The public halves of all keys that ever signed receipts; the one that signs now is the first.
    pub fn receipt_public_keys(&self) -> Vec<[u8; PUBLIC_KEY_BYTES]> {
        self.lock_receipts().published()
    }

    /// Makes a new key, durably, and has it sign receipts from now on.
    pub fn rotate_receipt_key(&self) -> Result<(), VaultError> {
        let mut keys = self.lock_receipts();
        let (number, slot) = keys.next()?;
        let seed = random_key(&self.random)?;
        let wrapped = self.encryption.wrap(&slot, &seed)?;
        self.lock().add(&self.path, &slot, &wrapped)?;
        keys.insert(number, &seed);
        // The key is there, and signs, even if it cannot be counted.
        self.lock().count_receipt_keys(&self.path, number)?;
        tracing::info!(number, "made a new key that signs receipts");
        Ok(())
    }

    fn lock_receipts(&self) -> MutexGuard<'_, ReceiptKeys> {
        self.receipts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a tenant's data key, durably. Having one already is fine.
    pub fn create(&self, tenant: &TenantId) -> Result<(), VaultError> {
        let mut slots = self.lock();
        if slots.tenants.contains_key(tenant) {
            return Ok(());
        }
        let key = random_key(&self.random)?;
        let wrapped = self.encryption.wrap(tenant.as_str(), &key)?;
        let at = slots.add(&self.path, tenant.as_str(), &wrapped)?;
        slots.tenants.insert(tenant.clone(), (at, None));
        Ok(())
    }

    pub fn has(&self, tenant: &TenantId) -> bool {
        self.lock().tenants.contains_key(tenant)
    }

    /// Overwrites a tenant's data key with zeros, durably. Everything sealed under it is unreadable from then on.
    pub fn destroy(&self, tenant: &TenantId) -> Result<(), VaultError> {
        let mut slots = self.lock();
        let at = slots.tenants.get(tenant).map(|(at, _)| *at).ok_or_else(|| VaultError::NoKey(tenant.to_string()))?;
        slots.write(&self.path, at, None)?;
        slots.tenants.remove(tenant);
        slots.free.push(at);
        Ok(())
    }

    /// Seals text under the tenant's data key. It can be opened only for the same tenant and `purpose`.
    pub fn seal(&self, tenant: &TenantId, purpose: &str, text: &[u8]) -> Result<Sealed, VaultError> {
        self.with_key(tenant, |key| {
            let sealed = seal_with(&key.seal, &self.random, &["data", tenant.as_str(), purpose], text)?;
            Ok(Sealed(sealed.into()))
        })
    }

    pub fn open_sealed(&self, tenant: &TenantId, purpose: &str, sealed: &Sealed) -> Result<Vec<u8>, VaultError> {
        self.with_key(tenant, |key| open_with(&key.seal, &["data", tenant.as_str(), purpose], &sealed.0))
    }

    /// The id of one of the tenant's own users.
    pub fn end_user(&self, tenant: &TenantId, name: &str) -> Result<EndUserId, VaultError> {
        self.keyed(tenant, "end user", name.as_bytes()).map(EndUserId)
    }

    /// A hash of `text` that only this tenant's data key makes: the first 128 bits of HMAC-SHA-256, for the same tenant
    /// and `purpose`. Once the key is destroyed it says nothing any more.
    pub fn keyed(&self, tenant: &TenantId, purpose: &str, text: &[u8]) -> Result<[u8; 16], VaultError> {
        self.with_key(tenant, |key| {
            let mut context = hmac::Context::with_key(&key.names);
            // The length keeps purpose and text apart.
            context.update(&(purpose.len() as u64).to_le_bytes());
            context.update(purpose.as_bytes());
            context.update(text);
            let mut short = [0; 16];
            short.copy_from_slice(&context.sign().as_ref()[..16]);
            Ok(short)
        })
    }

    /// What is stored of an API key: its HMAC-SHA-256 under the store's own secret.
    pub fn digest(&self, api_key: &str) -> [u8; 32] {
        digest_with(&self.api_keys, api_key)
    }

    /// The key that [`Vault::digest`] uses, for a room that hashes without the vault.
    pub fn api_key_hasher(&self) -> hmac::Key {
        self.api_keys.clone()
    }

    fn with_key<T>(
        &self,
        tenant: &TenantId,
        work: impl FnOnce(&DataKey) -> Result<T, VaultError>,
    ) -> Result<T, VaultError> {
        let mut slots = self.lock();
        let Slots { file, tenants, unwrapped, .. } = &mut *slots;
        if *unwrapped >= UNWRAPPED_MAX {
            tenants.values_mut().for_each(|(_, key)| drop(key.take()));
            *unwrapped = 0;
        }
        let (at, key) = tenants.get_mut(tenant).ok_or_else(|| VaultError::NoKey(tenant.to_string()))?;
        if key.is_none() {
            let mut slot = [0; SLOT_BYTES];
            file.read_exact_at(&mut slot, *at).map_err(|source| VaultError::Io { path: self.path.clone(), source })?;
            let wrapped = &slot[WRAPPED_AT..WRAPPED_AT + WRAPPED_BYTES];
            *key = Some(Arc::new(DataKey::new(&*self.encryption.unwrap(tenant.as_str(), wrapped)?)));
            *unwrapped += 1;
        }
        let key = key.clone().ok_or_else(|| VaultError::NoKey(tenant.to_string()))?;
        // The work may take as long as its text is large: others need not wait for it.
        drop(slots);
        work(&key)
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub fn digest_with(key: &hmac::Key, api_key: &str) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(hmac::sign(key, api_key.as_bytes()).as_ref());
    digest
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault").field("path", &self.path).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

// === impl DataKey ===

impl DataKey {
    fn new(key: &[u8; KEY_BYTES]) -> Self {
        let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), b"tollgate: keyed names");
        Self { seal: aead(key), names: hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()) }
    }
}

// === impl Slots ===

/// The store's own keys as they lie in the file, wrapped.
#[derive(Default)]
struct Loaded {
    secret: Option<Vec<u8>>,
    receipt_keys: BTreeMap<u32, Vec<u8>>,
    audit: Option<Vec<u8>>,
}

impl Slots {
    /// Reads every slot; gives back the store's own keys. A tenant's slot whose checksum is wrong was never acknowledged
    /// (its write was cut short), so it is free.
    fn load(&mut self, path: &Path) -> Result<Loaded, VaultError> {
        let io = |source| VaultError::Io { path: path.to_owned(), source };
        let unusable = |reason: &str| VaultError::Unusable { path: path.to_owned(), reason: reason.to_owned() };
        let mut header = [0; 64];
        self.file.read_exact_at(&mut header, 0).map_err(io)?;
        if header[..4] != MAGIC || header[4..8] != VERSION.to_le_bytes() {
            return Err(unusable("not a key file of this version"));
        }
        let counted = header[RECEIPT_KEYS_AT];
        if header[RECEIPT_KEYS_AT + 1] != !counted {
            return Err(unusable("its header is damaged"));
        }
        let audit_there = match header[AUDIT_KEY_AT..AUDIT_KEY_AT + 2] {
            [0, 0] => false,
            [there, not_there] if [there, not_there] == AUDIT_KEY_THERE => true,
            _ => return Err(unusable("its header is damaged")),
        };
        let length = self.file.metadata().map_err(io)?.len();
        let mut loaded = Loaded::default();
        self.tenants.reserve(usize::try_from(length).unwrap_or(0) / SLOT_BYTES);
        while self.end + SLOT_BYTES as u64 <= length {
            let at = self.end;
            let mut slot = [0; SLOT_BYTES];
            self.file.read_exact_at(&mut slot, at).map_err(io)?;
            self.end += SLOT_BYTES as u64;
            match decode_slot(&slot) {
                Some((STORE_SECRET, wrapped)) if at == HEADER_BYTES => loaded.secret = Some(wrapped.to_vec()),
                Some((name, wrapped)) => {
                    let twice = match ReceiptKeys::number_of(name) {
                        _ if name == audit_key::SLOT => loaded.audit.replace(wrapped.to_vec()).is_some(),
                        Some(number) => loaded.receipt_keys.insert(number, wrapped.to_vec()).is_some(),
                        None => {
                            let tenant = name.parse().map_err(|_| unusable("a slot with a strange name"))?;
                            self.tenants.insert(tenant, (at, None)).is_some()
                        }
                    };
                    if twice {
                        return Err(unusable("two keys of one name"));
                    }
                }
                None if at == HEADER_BYTES => return Err(unusable("the store's own secret is damaged")),
                None => self.free.push(at),
            }
        }
        if audit_there && loaded.audit.is_none() {
            return Err(unusable("the key of the audit log is damaged"));
        }
        // What such a key signed must stay verifiable: it is never silently replaced by a new one.
        match (1..=u32::from(counted)).find(|number| !loaded.receipt_keys.contains_key(number)) {
            Some(number) => Err(unusable(&format!("key {number} that signs receipts is damaged"))),
            None => Ok(loaded),
        }
    }

    /// Writes a key to a slot that is free, and says where.
    fn add(&mut self, path: &Path, name: &str, wrapped: &[u8]) -> Result<u64, VaultError> {
        let at = self.unused();
        self.write(path, at, Some((name, wrapped))).inspect_err(|_| self.take_back(path, at))?;
        Ok(at)
    }

    /// Says in the header that this many keys for receipts are there, so that one that is damaged is missed.
    fn count_receipt_keys(&self, path: &Path, number: u32) -> Result<(), VaultError> {
        let count = u8::try_from(number).expect("there are at most 100");
        self.note(path, [count, !count], RECEIPT_KEYS_AT)
    }

    /// Writes into the header what is not there yet.
    fn note(&self, path: &Path, what: [u8; 2], at: usize) -> Result<(), VaultError> {
        let mut there = [0; 2];
        let noted = self.file.read_exact_at(&mut there, at as u64).and_then(|()| {
            if there == what {
                return Ok(());
            }
            self.file.write_all_at(&what, at as u64).and_then(|()| self.file.sync_all())
        });
        noted.map_err(|source| VaultError::Io { path: path.to_owned(), source })
    }

    /// Makes the key of the audit log, durably.
    fn add_audit_key(
        &mut self,
        path: &Path,
        encryption: &dyn KeyEncryption,
        random: &SystemRandom,
    ) -> Result<Zeroizing<[u8; KEY_BYTES]>, VaultError> {
        let secret = random_key(random)?;
        let wrapped = encryption.wrap(audit_key::SLOT, &secret)?;
        self.add(path, audit_key::SLOT, &wrapped)?;
        Ok(secret)
    }

    /// Frees a slot that could not be written. Whatever reached the disk must not be found there later beside another key
    /// of that name.
    fn take_back(&mut self, path: &Path, at: u64) {
        match self.write(path, at, None) {
            Ok(()) => self.free.push(at),
            Err(_) => self.unclean.push(at),
        }
    }

    /// A slot to write to.
    fn unused(&mut self) -> u64 {
        self.unclean.pop().or_else(|| self.free.pop()).unwrap_or_else(|| {
            self.end += SLOT_BYTES as u64;
            self.end - SLOT_BYTES as u64
        })
    }

    fn write(&mut self, path: &Path, at: u64, content: Option<(&str, &[u8])>) -> Result<(), VaultError> {
        let mut slot = content.map_or([0; SLOT_BYTES], |(name, wrapped)| encode_slot(name, wrapped));
        let written = fault::write("keys::slot-write", &slot, |slot| self.file.write_all_at(slot, at))
            .and_then(|()| fault::pass("keys::slot-sync"))
            .and_then(|()| self.file.sync_all())
            .and_then(|()| fault::pass("keys::slot-written"));
        slot.zeroize();
        written.map_err(|source| VaultError::Io { path: path.to_owned(), source })
    }
}

/// Makes the key file with the store's own secret in it, whole or not at all: so a start that was cut short is followed by
/// one that begins anew. No key of it is anywhere else afterwards.
fn make(path: &Path, encryption: &dyn KeyEncryption, random: &SystemRandom) -> Result<(), VaultError> {
    let secret = random_key(random)?;
    let wrapped = encryption.wrap(STORE_SECRET, &secret)?;
    let mut header = [0; 64];
    header[..4].copy_from_slice(&MAGIC);
    header[4..8].copy_from_slice(&VERSION.to_le_bytes());
    header[RECEIPT_KEYS_AT + 1] = !0;
    let content = [header.as_slice(), &encode_slot(STORE_SECRET, &wrapped)].concat();
    let made = Prepared::write(path, &content, fault::KEYS).and_then(Prepared::confirm);
    made.map_err(|source| VaultError::Io { path: path.to_owned(), source })
}

fn encode_slot(name: &str, wrapped: &[u8]) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[0] = 1;
    slot[1] = u8::try_from(name.len()).expect("an id has at most 63 bytes");
    slot[NAME_AT..NAME_AT + name.len()].copy_from_slice(name.as_bytes());
    slot[WRAPPED_AT..WRAPPED_AT + wrapped.len()].copy_from_slice(wrapped);
    let checksum = crc32c::crc32c(&slot[..CHECKSUM_AT]);
    slot[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
    slot
}

fn decode_slot(slot: &[u8; SLOT_BYTES]) -> Option<(&str, &[u8])> {
    let right = slot[0] == 1 && slot[CHECKSUM_AT..] == crc32c::crc32c(&slot[..CHECKSUM_AT]).to_le_bytes();
    let name = slot.get(NAME_AT..NAME_AT + usize::from(slot[1]))?;
    right.then_some((std::str::from_utf8(name).ok()?, &slot[WRAPPED_AT..WRAPPED_AT + WRAPPED_BYTES]))
}

fn random_key(random: &SystemRandom) -> Result<Zeroizing<[u8; KEY_BYTES]>, VaultError> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    random.fill(key.as_mut_slice()).map_err(|_| VaultError::NoRandomness)?;
    Ok(key)
}

fn aead(key: &[u8; KEY_BYTES]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("32 bytes are an AES-256 key"))
}

/// AES-256-GCM with a random nonce in front; `context` is authenticated, each part with its length.
fn seal_with(key: &LessSafeKey, random: &SystemRandom, context: &[&str], plain: &[u8]) -> Result<Vec<u8>, VaultError> {
    let mut nonce = [0; NONCE_LEN];
    random.fill(&mut nonce).map_err(|_| VaultError::NoRandomness)?;
    let mut sealed = Vec::with_capacity(NONCE_LEN + plain.len() + AES_256_GCM.tag_len());
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(plain);
    let (nonce, context) = (Nonce::assume_unique_for_key(nonce), Aad::from(associated(context)));
    let tag = key.seal_in_place_separate_tag(nonce, context, &mut sealed[NONCE_LEN..]);
    sealed.extend_from_slice(tag.map_err(|_| VaultError::Unreadable)?.as_ref());
    Ok(sealed)
}

fn open_with(key: &LessSafeKey, context: &[&str], sealed: &[u8]) -> Result<Vec<u8>, VaultError> {
    let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(VaultError::Unreadable)?;
    let mut buffer = sealed.to_vec();
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let plain = key.open_in_place(nonce, Aad::from(associated(context)), &mut buffer);
    let length = plain.map_err(|_| VaultError::Unreadable)?.len();
    buffer.truncate(length);
    Ok(buffer)
}

fn associated(context: &[&str]) -> Vec<u8> {
    context.iter().flat_map(|part| [&(part.len() as u64).to_le_bytes(), part.as_bytes()].concat()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn master(digit: &str) -> Box<dyn KeyEncryption> {
        Box::new(MasterKey::from_hex(&digit.repeat(64)).expect("64 digits"))
    }

    fn tenant(id: &str) -> TenantId {
        id.parse().expect("a slug")
    }

    #[test]
    fn what_was_sealed_opens_for_its_tenant_and_purpose_only() {
        let dir = tempfile::tempdir().expect("a folder");
        let vault = Vault::open(&dir.path().join("keys"), master("a")).expect("a new file");
        vault.create(&tenant("a")).expect("a key");
        vault.create(&tenant("b")).expect("a key");
        let sealed = vault.seal(&tenant("a"), "label", b"Ada").expect("sealed");
        assert!(!sealed.0.windows(3).any(|w| w == b"Ada"));
        assert_eq!(vault.open_sealed(&tenant("a"), "label", &sealed).expect("opens"), b"Ada");
        assert!(matches!(vault.open_sealed(&tenant("b"), "label", &sealed), Err(VaultError::Unreadable)));
        assert!(matches!(vault.open_sealed(&tenant("a"), "other", &sealed), Err(VaultError::Unreadable)));
    }

    #[test]
    fn keys_survive_a_restart_and_a_wrong_master_key_is_told_at_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("keys");
        let (sealed, digest) = {
            let vault = Vault::open(&path, master("a")).expect("a new file");
            vault.create(&tenant("a")).expect("a key");
            (vault.seal(&tenant("a"), "label", b"Ada").expect("sealed"), vault.digest("tg_x"))
        };
        let again = Vault::open(&path, master("a")).expect("the same file");
        assert_eq!(again.open_sealed(&tenant("a"), "label", &sealed).expect("opens"), b"Ada");
        assert_eq!(again.digest("tg_x"), digest);
        assert_ne!(again.digest("tg_y"), digest);
        assert!(matches!(Vault::open(&path, master("b")), Err(VaultError::WrongMasterKey(_))));
    }

    #[test]
    fn a_destroyed_key_is_gone_from_the_file_and_its_slot_is_used_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("keys");
        let vault = Vault::open(&path, master("a")).expect("a new file");
        vault.create(&tenant("a")).expect("a key");
        let sealed = vault.seal(&tenant("a"), "label", b"Ada").expect("sealed");
        let before = std::fs::read(&path).expect("the file");
        // After the store's own three.
        let slot = usize::try_from(HEADER_BYTES).expect("small") + 3 * SLOT_BYTES;
        let wrapped = before[slot + WRAPPED_AT..slot + WRAPPED_AT + WRAPPED_BYTES].to_vec();
        vault.destroy(&tenant("a")).expect("destroyed");
        let after = std::fs::read(&path).expect("the file");
        assert!(!after.windows(wrapped.len()).any(|w| w == wrapped), "the wrapped key must not remain");
        assert!(matches!(vault.open_sealed(&tenant("a"), "label", &sealed), Err(VaultError::NoKey(_))));
        vault.create(&tenant("b")).expect("a key");
        assert_eq!(std::fs::read(&path).expect("the file").len(), before.len());
        drop(vault);
        let again = Vault::open(&path, master("a")).expect("the same file");
        assert!(matches!(again.seal(&tenant("a"), "label", b"x"), Err(VaultError::NoKey(_))));
        again.seal(&tenant("b"), "label", b"x").expect("b has a key");
    }

    #[test]
    fn the_keys_for_receipts_survive_a_restart_and_the_newest_signs() {
        use ring::signature::{ED25519, UnparsedPublicKey};
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("keys");
        let vault = Vault::open(&path, master("a")).expect("a new file");
        vault.create(&tenant("a")).expect("a key");
        let first = vault.receipt_signer().public_key();
        let signature = vault.receipt_signer().sign(b"a receipt");
        UnparsedPublicKey::new(&ED25519, first).verify(b"a receipt", &signature).expect("anybody can verify it");
        vault.rotate_receipt_key().expect("a new key");
        let second = vault.receipt_signer().public_key();
        assert_eq!(vault.receipt_public_keys(), [second, first], "both are published, the newest first");
        drop(vault);

        let again = Vault::open(&path, master("a")).expect("the same file");
        assert_eq!(again.receipt_public_keys(), [second, first]);
        assert_eq!(again.receipt_signer().sign(b"x"), again.receipt_signer().sign(b"x"));
        assert!(again.has(&tenant("a")));
        for _ in 2..RECEIPT_KEYS_MAX {
            again.rotate_receipt_key().expect("a new key");
        }
        assert!(matches!(again.rotate_receipt_key(), Err(VaultError::TooManyReceiptKeys)));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test makes an older file, and a damaged one")]
    fn the_audit_log_has_one_key_for_ever_and_an_older_key_file_gets_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("keys");
        let key = || {
            let vault = Vault::open(&path, master("a")).expect("a key file");
            (vault.audit_key().signer("a/audit").verifier(), vault.receipt_public_keys())
        };
        let (first, receipts) = key();
        assert_eq!(key(), (first.clone(), receipts.clone()));
        // As it was before: the head says nothing of it, and its slot is free.
        let good = std::fs::read(&path).expect("the file");
        let at = good.windows(7).position(|name| name == b"\x06*audit").expect("its slot") - 1;
        let mut older = good.clone();
        older[AUDIT_KEY_AT..AUDIT_KEY_AT + 2].fill(0);
        older[at..at + SLOT_BYTES].fill(0);
        std::fs::write(&path, &older).expect("an older file");
        let (second, same) = key();
        assert!(second != first && same == receipts, "a new one, and the others are as they were");
        assert_eq!(key().0, second);
        // Damaged it is never replaced by another.
        let mut damaged = good;
        damaged[at..at + SLOT_BYTES].fill(0);
        std::fs::write(&path, &damaged).expect("damaged");
        let refused = Vault::open(&path, master("a")).expect_err("refused").to_string();
        assert!(refused.contains("the audit log is damaged"), "{refused}");
    }

    #[test]
    fn no_slot_but_a_receipt_key_s_own_is_taken_for_one() {
        assert_eq!(ReceiptKeys::number_of("*receipt-12"), Some(12));
        for name in
            ["*receipt-", "*receipt-012", "*receipt-+1", "*receipt--1", "receipt-1", "*", "*receipt-99999999999"]
        {
            assert_eq!(ReceiptKeys::number_of(name), None, "{name}");
        }
    }

    #[test]
    fn a_master_key_is_64_hexadecimal_digits() {
        for bad in ["", "ab", &"g".repeat(64), &"é".repeat(32), &"a".repeat(65), &"+f".repeat(32)] {
            assert!(matches!(MasterKey::from_hex(bad), Err(VaultError::MalformedMasterKey)), "{bad}");
        }
        assert!(MasterKey::from_hex(&format!(" {}\n", "0f".repeat(32))).is_ok());
    }
}
