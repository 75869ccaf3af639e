//! Who a bundle is from: OPA's `.signatures.json`, one token that lists every file with its hash. Ed25519 and ECDSA on P-256;
//! nothing symmetric, and never `none`.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::digest::{Algorithm, SHA256, SHA384, SHA512, digest};
use ring::signature::{ECDSA_P256_SHA256_FIXED, ED25519, UnparsedPublicKey, VerificationAlgorithm};
use serde::Deserialize;

use crate::bundle::{File, MANIFEST, SIGNATURES, inside};
use crate::fingerprint::canonical;

/// What stands before the key's own bytes in the DER of an Ed25519 key.
const ED25519_PREFIX: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// The same of a point on P-256, which begins with 4.
const P256_PREFIX: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// A public key whose bundles are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyingKey {
    kind: KeyKind,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyKind {
    Ed25519,
    P256,
}

/// Why a bundle is not from whom it ought to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("the key is no PEM of a public key on Ed25519 or P-256")]
    BadKey,
    #[error("the bundle is not signed; sign it with `opa sign`, or take the key out of the configuration")]
    NotSigned,
    #[error("'{SIGNATURES}' is not as it should be: {0}")]
    Malformed(String),
    #[error("the signature's algorithm '{0}' is not taken; sign with EdDSA or ES256")]
    Algorithm(String),
    #[error("the bundle is not signed by the key that is configured")]
    WrongKey,
    #[error("'{0}' is not what was signed")]
    Changed(String),
    #[error("'{0}' was signed and is not there")]
    Missing(String),
    #[error("'{0}' is there and was not signed")]
    Added(String),
}

#[derive(Deserialize)]
struct Signatures {
    signatures: Vec<String>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
}

#[derive(Deserialize)]
struct Payload {
    files: Vec<Signed>,
}

#[derive(Deserialize)]
struct Signed {
    name: String,
    hash: String,
    algorithm: String,
}

// === impl VerifyingKey ===

impl VerifyingKey {
    /// Reads `-----BEGIN PUBLIC KEY-----`.
    pub fn from_pem(text: &str) -> Result<Self, SignatureError> {
        let body = text.trim().strip_prefix("-----BEGIN PUBLIC KEY-----");
        let body = body.and_then(|body| body.strip_suffix("-----END PUBLIC KEY-----")).ok_or(SignatureError::BadKey)?;
        let body: String = body.split_whitespace().collect();
        let der = STANDARD.decode(body).map_err(|_| SignatureError::BadKey)?;
        let kinds = [(KeyKind::Ed25519, ED25519_PREFIX, 32), (KeyKind::P256, P256_PREFIX, 65)];
        let found = kinds.into_iter().find_map(|(kind, prefix, length)| {
            let bytes = der.strip_prefix(prefix)?;
            (bytes.len() == length).then(|| Self { kind, bytes: bytes.to_vec() })
        });
        found.ok_or(SignatureError::BadKey)
    }

    fn verify(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
        let with: &'static dyn VerificationAlgorithm = match (algorithm, self.kind) {
            ("EdDSA", KeyKind::Ed25519) => &ED25519,
            ("ES256", KeyKind::P256) => &ECDSA_P256_SHA256_FIXED,
            ("EdDSA" | "ES256", _) => return Err(SignatureError::WrongKey),
            (other, _) => return Err(SignatureError::Algorithm(other.chars().take(20).collect())),
        };
        let key = UnparsedPublicKey::new(with, &self.bytes);
        key.verify(message, signature).map_err(|_| SignatureError::WrongKey)
    }
}

/// Whether exactly these files were signed by this key.
pub fn verify(files: &[File], key: &VerifyingKey) -> Result<(), SignatureError> {
    let malformed = |error: &dyn std::fmt::Display| SignatureError::Malformed(error.to_string());
    let by_path: BTreeMap<&str, &[u8]> =
        files.iter().map(|file| (inside(&file.path).unwrap_or(&file.path), file.bytes.as_slice())).collect();
    let signatures = by_path.get(SIGNATURES).ok_or(SignatureError::NotSigned)?;
    let Signatures { signatures } = serde_json::from_slice(signatures).map_err(|error| malformed(&error))?;
    // OPA, too, takes one.
    let [token] = signatures.as_slice() else { return Err(malformed(&"it holds one signature")) };
    let parts: Vec<&str> = token.split('.').collect();
    let [header, payload, signature] = parts.as_slice() else { return Err(malformed(&"it is no token")) };
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|error| malformed(&error));
    let Header { alg } = serde_json::from_slice(&decode(header)?).map_err(|error| malformed(&error))?;
    let message = &token[..header.len() + 1 + payload.len()];
    key.verify(&alg, message.as_bytes(), &decode(signature)?)?;

    let Payload { files: signed } = serde_json::from_slice(&decode(payload)?).map_err(|error| malformed(&error))?;
    let mut named = BTreeSet::new();
    for Signed { name, hash, algorithm } in &signed {
        let path = inside(name).map_err(|error| malformed(&error))?;
        let bytes = by_path.get(path).ok_or_else(|| SignatureError::Missing(path.to_owned()))?;
        if !named.insert(path) || hash_of(path, bytes, algorithm)? != *hash {
            return Err(SignatureError::Changed(path.to_owned()));
        }
    }
    let added = by_path.keys().find(|path| **path != SIGNATURES && !named.contains(*path));
    added.map_or(Ok(()), |path| Err(SignatureError::Added((*path).to_owned())))
}

/// JSON by its value, everything else by its bytes.
fn hash_of(path: &str, bytes: &[u8], algorithm: &str) -> Result<String, SignatureError> {
    let with: &'static Algorithm = match algorithm {
        "SHA-256" => &SHA256,
        "SHA-384" => &SHA384,
        "SHA-512" => &SHA512,
        other => return Err(SignatureError::Algorithm(other.chars().take(20).collect())),
    };
    let is_json = path == MANIFEST || path == "data.json" || path.ends_with("/data.json");
    let hashed = match is_json.then(|| serde_json::from_slice(bytes)) {
        Some(Ok(value)) => digest(with, canonical(&value).as_bytes()),
        Some(Err(error)) => return Err(SignatureError::Malformed(format!("{path}: {error}"))),
        None => digest(with, bytes),
    };
    Ok(hashed.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
    use serde_json::json;

    use crate::bundle::tests::file;

    use super::*;

    fn pem(prefix: &[u8], key: &[u8]) -> String {
        let der = STANDARD.encode([prefix, key].concat());
        format!("-----BEGIN PUBLIC KEY-----\n{der}\n-----END PUBLIC KEY-----\n")
    }

    fn ed25519(seed: u8) -> (Ed25519KeyPair, VerifyingKey) {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("a seed");
        let key = VerifyingKey::from_pem(&pem(ED25519_PREFIX, pair.public_key().as_ref())).expect("a key");
        (pair, key)
    }

    fn files() -> Vec<File> {
        vec![
            file("/tollgate/admission.rego", "package tollgate.admission\nallow := true\n"),
            file("data.json", r#"{"b": 1, "a": [true, null]}"#),
        ]
    }

    fn listed(files: &[File]) -> serde_json::Value {
        let entry = |file: &File| {
            let path = inside(&file.path).expect("a path");
            json!({"name": path, "hash": hash_of(path, &file.bytes, "SHA-256").expect("a hash"), "algorithm": "SHA-256"})
        };
        json!({"files": files.iter().map(entry).collect::<Vec<_>>()})
    }

    fn token(alg: &str, payload: &serde_json::Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> File {
        let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&json!({"alg": alg})), part(payload));
        let signature = URL_SAFE_NO_PAD.encode(sign(message.as_bytes()));
        file(SIGNATURES, &json!({"signatures": [format!("{message}.{signature}")]}).to_string())
    }

    fn signed(files: &[File], pair: &Ed25519KeyPair) -> Vec<File> {
        let signature = token("EdDSA", &listed(files), |message| pair.sign(message).as_ref().to_vec());
        [files, &[signature]].concat()
    }

    #[test]
    fn what_was_signed_is_taken_whatever_the_layout_of_its_json() {
        let (pair, key) = ed25519(1);
        let mut bundle = signed(&files(), &pair);
        assert_eq!(verify(&bundle, &key), Ok(()));
        bundle[1] = file("/data.json", " {\"a\":[true,null],\n\"b\":1}");
        assert_eq!(verify(&bundle, &key), Ok(()));
    }

    #[test]
    fn p256_is_taken_too() {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).expect("a key");
        let key = VerifyingKey::from_pem(&pem(P256_PREFIX, pair.public_key().as_ref())).expect("a key");
        let signature =
            token("ES256", &listed(&files()), |message| pair.sign(&random, message).expect("signed").as_ref().to_vec());
        assert_eq!(verify(&[files(), vec![signature]].concat(), &key), Ok(()));
        assert_eq!(verify(&signed(&files(), &ed25519(1).0), &key), Err(SignatureError::WrongKey));
    }

    #[test]
    fn every_change_is_noticed_and_named() {
        let (pair, key) = ed25519(1);
        let bundle = signed(&files(), &pair);
        let changed = |change: fn(&mut Vec<File>)| {
            let mut files = bundle.clone();
            change(&mut files);
            verify(&files, &key).expect_err("noticed")
        };
        assert_eq!(
            changed(|files| files[0].bytes.push(b'\n')),
            SignatureError::Changed("tollgate/admission.rego".into())
        );
        assert_eq!(changed(|files| drop(files.remove(1))), SignatureError::Missing("data.json".into()));
        assert_eq!(changed(|files| files.push(file("x.rego", ""))), SignatureError::Added("x.rego".into()));
        assert_eq!(changed(|files| drop(files.pop())), SignatureError::NotSigned);
        assert_eq!(verify(&signed(&files(), &ed25519(2).0), &key), Err(SignatureError::WrongKey));
    }

    #[test]
    fn tokens_that_anybody_could_make_are_refused() {
        let (pair, key) = ed25519(1);
        for alg in ["none", "HS256", "RS256", "eddsa"] {
            let forged = token(alg, &listed(&files()), |message| pair.sign(message).as_ref().to_vec());
            let bundle = [files(), vec![forged]].concat();
            assert_eq!(verify(&bundle, &key), Err(SignatureError::Algorithm(alg.to_owned())));
        }
        for text in ["{", "{}", r#"{"signatures": []}"#, r#"{"signatures": ["a", "b"]}"#, r#"{"signatures": ["a.b"]}"#]
        {
            let bundle = [files(), vec![file(SIGNATURES, text)]].concat();
            assert!(matches!(verify(&bundle, &key), Err(SignatureError::Malformed(_))), "{text}");
        }
        for bad in ["", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "-----BEGIN RSA PUBLIC KEY-----"]
        {
            assert_eq!(VerifyingKey::from_pem(bad), Err(SignatureError::BadKey));
        }
    }
}
