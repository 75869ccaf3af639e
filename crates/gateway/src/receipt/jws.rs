//! A signed text in the form that every language has a library for: a JWS in compact form (RFC 7515), `EdDSA` over
//! Ed25519, keys as a JWK set (RFC 8037). Only what we write ourselves is read: one algorithm, three header members.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::signature::{ED25519, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tollgate_client::ReceiptKey;
use tollgate_store::vault::receipt_keys::{PUBLIC_KEY_BYTES, ReceiptSigner};

const ALGORITHM: &str = "EdDSA";
const TYPE: &str = "tollgate-receipt+json";
const KEY_ID_DIGITS: usize = 16;

/// Exactly these members: one that we do not know could change what a signature means (`crit`, `b64`).
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    typ: String,
    kid: String,
}

/// The keys that a receipt may be signed with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublicKeys(Vec<(String, [u8; PUBLIC_KEY_BYTES])>);

/// A text whose signature holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub key_id: String,
    pub payload: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwsError {
    #[error("not a JWS in compact form: three parts with points between them")]
    NotCompact,
    #[error("its {0} is not base64url")]
    NotBase64(&'static str),
    #[error("its header cannot be read: {0}")]
    Header(String),
    #[error("its algorithm is {0:?}, and only {ALGORITHM:?} (Ed25519) counts")]
    Algorithm(String),
    #[error("its type is {0:?}, which is no receipt's")]
    Type(String),
    #[error(
        "it says that key {kid:?} signed it, which is not among the keys given ({known}); newer keys may be published"
    )]
    UnknownKey { kid: String, known: String },
    #[error("the signature does not hold: the text, or the signature itself, is not what key {0} signed")]
    Signature(String),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    #[error("not a JWK set: {0}")]
    Malformed(String),
    #[error("the key {kid:?} cannot be used: {reason}")]
    Unusable { kid: String, reason: &'static str },
    #[error("no Ed25519 key is in it")]
    Empty,
}

/// Signs exactly these bytes.
pub fn sign(signer: &ReceiptSigner, payload: &[u8]) -> String {
    let header = Header { alg: ALGORITHM.to_owned(), typ: TYPE.to_owned(), kid: key_id(&signer.public_key()) };
    let header = serde_json::to_vec(&header).expect("a header is plain data, which JSON can hold");
    let mut text = URL_SAFE_NO_PAD.encode(header);
    text.push('.');
    URL_SAFE_NO_PAD.encode_string(payload, &mut text);
    let signature = signer.sign(text.as_bytes());
    text.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut text);
    text
}

/// Gives back the bytes that were signed, if one of `keys` signed them.
pub fn verify(jws: &str, keys: &PublicKeys) -> Result<Verified, JwsError> {
    let (signed, signature) = jws.rsplit_once('.').ok_or(JwsError::NotCompact)?;
    let (header, payload) = signed.split_once('.').ok_or(JwsError::NotCompact)?;
    if payload.contains('.') {
        return Err(JwsError::NotCompact);
    }
    let decoded = |part: &str, name| URL_SAFE_NO_PAD.decode(part).map_err(|_| JwsError::NotBase64(name));
    let header: Header =
        serde_json::from_slice(&decoded(header, "header")?).map_err(|error| JwsError::Header(error.to_string()))?;
    if header.alg != ALGORITHM {
        return Err(JwsError::Algorithm(header.alg));
    }
    if header.typ != TYPE {
        return Err(JwsError::Type(header.typ));
    }
    let unknown = || JwsError::UnknownKey { kid: header.kid.clone(), known: keys.names() };
    let key = keys.get(&header.kid).ok_or_else(unknown)?;
    let signature = decoded(signature, "signature")?;
    UnparsedPublicKey::new(&ED25519, key)
        .verify(signed.as_bytes(), &signature)
        .map_err(|_| JwsError::Signature(header.kid.clone()))?;
    Ok(Verified { payload: decoded(payload, "payload")?, key_id: header.kid })
}

/// The name of a public key, made from the key: none bears another's by mistake.
pub fn key_id(public_key: &[u8]) -> String {
    let mut digits = tollgate_types::hex(digest(&SHA256, public_key).as_ref());
    digits.truncate(KEY_ID_DIGITS);
    digits
}

/// A public key as it is published.
pub fn public_key(key: &[u8; PUBLIC_KEY_BYTES]) -> ReceiptKey {
    ReceiptKey {
        kty: "OKP".to_owned(),
        crv: "Ed25519".to_owned(),
        kid: key_id(key),
        x: URL_SAFE_NO_PAD.encode(key),
        purpose: Some("sig".to_owned()),
        alg: Some(ALGORITHM.to_owned()),
    }
}

// === impl PublicKeys ===

impl PublicKeys {
    /// Reads a JWK set. Keys of other kinds are passed over; an Ed25519 key that is not what its name says is refused.
    pub fn parse(json: &[u8]) -> Result<Self, KeysError> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let malformed = |error: serde_json::Error| KeysError::Malformed(error.to_string());
        let set: Set = serde_json::from_slice(json).map_err(malformed)?;
        let mut keys = Vec::new();
        for key in set.keys.into_iter().filter(|key| key["kty"] == "OKP" && key["crv"] == "Ed25519") {
            keys.push(Self::checked(serde_json::from_value(key).map_err(malformed)?)?);
        }
        if keys.is_empty() { Err(KeysError::Empty) } else { Ok(Self(keys)) }
    }

    fn checked(key: ReceiptKey) -> Result<(String, [u8; PUBLIC_KEY_BYTES]), KeysError> {
        let unusable = |reason| KeysError::Unusable { kid: key.kid.clone(), reason };
        let bytes = URL_SAFE_NO_PAD.decode(&key.x).ok().and_then(|bytes| bytes.try_into().ok());
        let bytes: [u8; PUBLIC_KEY_BYTES] = bytes.ok_or_else(|| unusable("its x is not 32 bytes in base64url"))?;
        if key.kid != key_id(&bytes) {
            return Err(unusable("its name is not the first digits of its SHA-256"));
        }
        if key.purpose.as_deref().is_some_and(|purpose| purpose != "sig") {
            return Err(unusable("it is not for signatures"));
        }
        if key.alg.as_deref().is_some_and(|alg| alg != ALGORITHM) {
            return Err(unusable("it is for another algorithm"));
        }
        Ok((key.kid, bytes))
    }

    fn get(&self, kid: &str) -> Option<&[u8; PUBLIC_KEY_BYTES]> {
        self.0.iter().find(|(known, _)| known == kid).map(|(_, key)| key)
    }

    fn names(&self) -> String {
        self.0.iter().map(|(kid, _)| &**kid).collect::<Vec<_>>().join(", ")
    }
}
