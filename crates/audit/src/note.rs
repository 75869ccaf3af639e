//! Signed notes (c2sp.org/signed-note), and the checkpoints of a log in them (c2sp.org/tlog-checkpoint): a few lines of text that
//! anybody can keep, send and compare, and verify with nothing but a public key.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::digest::{SHA256, digest};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::tree::{HASH_BYTES, Hash};

/// Longest checkpoint that is read, in bytes, with all its signatures.
pub const CHECKPOINT_BYTES_MAX: usize = 4_096;
/// Longest name of a log, in bytes.
pub const NAME_BYTES_MAX: usize = 1_024;
/// Signatures of a note that are looked at: ours, and those of witnesses.
const SIGNATURES_MAX: usize = 16;
/// Lines that a checkpoint may have after its root; what they say is nothing to us.
const EXTENSIONS_MAX: usize = 8;
/// Ed25519, in a key's text and in its id.
const ALGORITHM: u8 = 1;
const KEY_ID_BYTES: usize = 4;
const SIGNATURE_BYTES: usize = 64;
const PUBLIC_KEY_BYTES: usize = 32;

/// A log of so many entries, and its root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    pub origin: String,
    pub size: u64,
    pub root: Hash,
}

/// A text with its signatures, none of them verified.
#[derive(Clone, Copy, Debug)]
pub struct Note<'a> {
    /// Ends with a newline.
    pub text: &'a str,
    signatures: &'a str,
}

/// Signs a log's checkpoints.
pub struct Signer {
    name: String,
    pair: Ed25519KeyPair,
}

/// Verifies them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verifier {
    name: String,
    public: [u8; PUBLIC_KEY_BYTES],
}

/// Why a text is not a note, a checkpoint or a key, or not signed by that key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    #[error("it is no signed note")]
    Malformed,
    #[error("it is no checkpoint: name, size and root, each on a line of its own")]
    NoCheckpoint,
    #[error("it is no verifier key: name+hash+key")]
    MalformedKey,
    #[error("it bears no signature by that key")]
    NotSigned,
    #[error("its signature is wrong: the text is not what was signed")]
    WrongSignature,
}

/// The name of an issuer's audit log. Names have neither white space nor plus signs.
pub fn origin(issuer: &str) -> String {
    let plain =
        |letter: char| if letter.is_whitespace() || letter.is_control() || letter == '+' { '-' } else { letter };
    format!("{}/audit", issuer.chars().map(plain).collect::<String>())
}

// === impl Checkpoint ===

impl Checkpoint {
    /// The text that is signed.
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, BASE64.encode(self.root))
    }

    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let lines: Vec<&str> = text.strip_suffix('\n').ok_or(NoteError::NoCheckpoint)?.split('\n').collect();
        let [origin, size, root, extensions @ ..] = lines.as_slice() else { return Err(NoteError::NoCheckpoint) };
        let number: u64 = size.parse().map_err(|_| NoteError::NoCheckpoint)?;
        let hash = decoded::<HASH_BYTES>(root).ok_or(NoteError::NoCheckpoint)?;
        let fine = is_name(origin)
            && number.to_string() == *size
            && extensions.len() <= EXTENSIONS_MAX
            && !extensions.iter().any(|line| line.is_empty());
        fine.then(|| Self { origin: (*origin).to_owned(), size: number, root: hash }).ok_or(NoteError::NoCheckpoint)
    }

    /// Reads a signed checkpoint without asking who signed it.
    pub fn of_note(note: &str) -> Result<Self, NoteError> {
        if note.len() > CHECKPOINT_BYTES_MAX {
            return Err(NoteError::NoCheckpoint);
        }
        Self::parse(Note::parse(note)?.text)
    }
}

// === impl Note ===

impl<'a> Note<'a> {
    pub fn parse(note: &'a str) -> Result<Self, NoteError> {
        // The last empty line stands between text and signatures: a text may have others.
        let cut = note.rfind("\n\n").ok_or(NoteError::Malformed)?;
        let (text, signatures) = (&note[..=cut], &note[cut + 2..]);
        let parsed = Self { text, signatures };
        let whole = signatures.ends_with('\n') && signatures.lines().count() <= SIGNATURES_MAX;
        let control = |letter: char| letter.is_control() && letter != '\n';
        if !whole || note.contains(control) || parsed.signatures().any(|signature| signature.is_none()) {
            return Err(NoteError::Malformed);
        }
        Ok(parsed)
    }

    /// Who is said to have signed it: name, key id and signature, or `None` for a line that says nothing of the kind.
    fn signatures(&self) -> impl Iterator<Item = Option<(&'a str, [u8; KEY_ID_BYTES], Vec<u8>)>> {
        self.signatures.split_terminator('\n').map(|line| {
            let (name, signature) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
            let bytes = BASE64.decode(signature).ok()?;
            let (id, signature) = bytes.split_first_chunk::<KEY_ID_BYTES>()?;
            (is_name(name) && !signature.is_empty()).then(|| (name, *id, signature.to_vec()))
        })
    }
}

// === impl Signer ===

impl Signer {
    /// Of a log of that name, which [`origin`] makes.
    pub fn new(name: &str, seed: &[u8; 32]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are a seed");
        Self { name: name.to_owned(), pair }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The public half.
    pub fn verifier(&self) -> Verifier {
        let public = self.pair.public_key().as_ref().try_into().expect("an Ed25519 public key has 32 bytes");
        Verifier { name: self.name.clone(), public }
    }

    /// The note of a text, which ends with a newline.
    pub fn sign(&self, text: &str) -> String {
        let signature = self.pair.sign(text.as_bytes());
        let bytes = [&key_id(&self.name, &self.verifier().public), signature.as_ref()].concat();
        format!("{text}\n\u{2014} {} {}\n", self.name, BASE64.encode(bytes))
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("name", &self.name).finish_non_exhaustive()
    }
}

// === impl Verifier ===

impl Verifier {
    /// Reads `name+hash+key`, as `Display` writes it.
    pub fn parse(vkey: &str) -> Result<Self, NoteError> {
        let mut parts = vkey.trim().splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoteError::MalformedKey);
        };
        let key = decoded::<{ PUBLIC_KEY_BYTES + 1 }>(key).ok_or(NoteError::MalformedKey)?;
        let public = key[1..].try_into().expect("all but the first of 33 bytes");
        let verifier = Self { name: name.to_owned(), public };
        let right = is_name(name) && key[0] == ALGORITHM && id == tollgate_types::hex(&verifier.id());
        right.then_some(verifier).ok_or(NoteError::MalformedKey)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same key under another name: a log is called otherwise when its issuer is.
    pub fn renamed(&self, name: &str) -> Self {
        Self { name: name.to_owned(), public: self.public }
    }

    /// Whether the note is signed by this key under this name. Signatures of others do not matter.
    pub fn verify<'a>(&self, note: &Note<'a>) -> Result<&'a str, NoteError> {
        let own = note.signatures().flatten().find(|(name, id, _)| *name == self.name && *id == self.id());
        let (_, _, signature) = own.ok_or(NoteError::NotSigned)?;
        let right = signature.len() == SIGNATURE_BYTES
            && UnparsedPublicKey::new(&ED25519, self.public).verify(note.text.as_bytes(), &signature).is_ok();
        right.then_some(note.text).ok_or(NoteError::WrongSignature)
    }

    /// A checkpoint that is signed by this key, under the name that it bears itself.
    pub fn checkpoint(&self, note: &str) -> Result<Checkpoint, NoteError> {
        let checkpoint = Checkpoint::of_note(note)?;
        self.renamed(&checkpoint.origin).verify(&Note::parse(note)?)?;
        Ok(checkpoint)
    }

    fn id(&self) -> [u8; KEY_ID_BYTES] {
        key_id(&self.name, &self.public)
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = [&[ALGORITHM], self.public.as_slice()].concat();
        write!(f, "{}+{}+{}", self.name, tollgate_types::hex(&self.id()), BASE64.encode(key))
    }
}

fn key_id(name: &str, public: &[u8; PUBLIC_KEY_BYTES]) -> [u8; KEY_ID_BYTES] {
    let hash = digest(&SHA256, &[name.as_bytes(), b"\n", &[ALGORITHM], public].concat());
    *hash.as_ref().first_chunk().expect("a hash has more than four bytes")
}

fn is_name(name: &str) -> bool {
    let fine = |letter: char| !letter.is_whitespace() && !letter.is_control() && letter != '+';
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.chars().all(fine)
}

/// So many bytes in Base64, written in the one way there is.
pub fn decoded<const BYTES: usize>(text: &str) -> Option<[u8; BYTES]> {
    let bytes: [u8; BYTES] = BASE64.decode(text).ok()?.try_into().ok()?;
    (BASE64.encode(bytes) == text).then_some(bytes)
}

/// Bytes in Base64.
pub fn encoded(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}
