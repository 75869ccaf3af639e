//! Reads a whole log again and says whether it is what its signed checkpoints say, and what somebody kept elsewhere says. It
//! goes through the files from front to back and keeps little of them. What is wrong is named: the first bad entry where
//! one can be told, else the entries between two checkpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, Read};

use crate::heads::{Heads, Strange, Told};
use crate::note::{Checkpoint, Note, NoteError, Verifier};
use crate::tree::{Frontier, HASH_BYTES, Hash};

/// Longest line of a log, in bytes.
pub const LINE_BYTES_MAX: usize = 64 * 1024;

/// What was found of a log that is in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How many entries there are.
    pub size: u64,
    pub root: Hash,
    /// Tenants that have any.
    pub tenants: usize,
    /// Entries of which only the place and the hash are kept.
    pub erased: u64,
    /// Signed checkpoints of its own, and the size of the newest.
    pub checkpoints: usize,
    pub signed: u64,
    /// Whether a key was given, and it verified a signature at least.
    pub signatures_checked: bool,
    /// Something was being written at the end, beyond the newest checkpoint.
    pub unfinished: bool,
}

/// What is wrong with a log.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("entry {n}: {reason}")]
    Entry { n: u64, reason: String },
    #[error("the stored hash {index} of height {level} is not that of its entries, the last of which is entry {n}")]
    StoredHash { n: u64, level: usize, index: u64 },
    #[error("an entry between {after} and {} is not what it was: the root of {upto} entries is not the one in {whose}", upto - 1)]
    Between { after: u64, upto: u64, whose: Whose },
    #[error("the log has {size} entries, but {whose} was signed over {told}: entry {size} and later ones are gone")]
    Short { size: u64, told: u64, whose: Whose },
    #[error(
        "the log's newest checkpoint is of {signed} entries, the one that was given of {told}: it was signed and is gone"
    )]
    Forgotten { signed: u64, told: u64 },
    #[error("{whose}: {reason}")]
    Checkpoint { whose: Whose, reason: NoteError },
    #[error("the heads after entry {size} {reason}; they are made again from the entries if they are removed")]
    Heads { size: u64, reason: &'static str },
    #[error("the entries' files begin with entry {first} where {expected} is the next")]
    Files { first: u64, expected: u64 },
    #[error("the log has {size} entries and no signed checkpoint of its own: nothing of it is signed")]
    Unsigned { size: u64 },
    #[error("reading: {0}")]
    Io(#[from] io::Error),
}

/// Whose checkpoint it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The log's own, the how-manieth.
    Own(usize),
    /// One that was kept elsewhere.
    Given,
}

/// A verification under way: the files of entries are given to it in order.
pub struct Verification<H> {
    hashes: H,
    heads: Heads,
    frontier: Frontier,
    /// What the root must be at some size.
    expected: BTreeMap<u64, Vec<(Hash, Whose)>>,
    /// The largest size at which the root was right.
    confirmed: u64,
    kept_heads: BTreeMap<u64, String>,
    /// The largest size of which heads were given: texts are erased before it only.
    sealed: u64,
    erased: u64,
    /// Tenants that have an entry with its text: none of theirs that come later may be erased.
    whole: BTreeSet<Box<str>>,
    checkpoints: usize,
    signed: u64,
    given: Option<u64>,
    verifier: Option<Verifier>,
    signatures: usize,
    unfinished: bool,
}

// === impl Fault ===

impl Fault {
    /// The first bad entry, where one can be told.
    pub fn first_bad_entry(&self) -> Option<u64> {
        match self {
            Self::Entry { n, .. } | Self::StoredHash { n, level: 0, .. } => Some(*n),
            Self::Short { size, .. } => Some(*size),
            _ => None,
        }
    }
}

impl std::fmt::Display for Whose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Own(nth) => write!(f, "the log's own checkpoint no. {nth}"),
            Self::Given => f.write_str("the checkpoint that was given"),
        }
    }
}

// === impl Verification ===

impl<H: Read> Verification<H> {
    /// Begins with the text of the log's own checkpoints, its stored hashes, a checkpoint from elsewhere and the key that must
    /// have signed them all. Without a key signatures are not checked.
    pub fn new(own: &str, hashes: H, given: Option<&str>, verifier: Option<Verifier>) -> Result<Self, Fault> {
        let mut verification = Self {
            hashes,
            heads: Heads::default(),
            frontier: Frontier::default(),
            expected: BTreeMap::new(),
            confirmed: 0,
            kept_heads: BTreeMap::new(),
            sealed: 0,
            erased: 0,
            whole: BTreeSet::new(),
            checkpoints: 0,
            signed: 0,
            given: None,
            verifier,
            signatures: 0,
            unfinished: false,
        };
        for (nth, note) in (1..).zip(notes(own)) {
            let whole = note.map_err(|_| Fault::Checkpoint { whose: Whose::Own(nth), reason: NoteError::Malformed })?;
            let Some(note) = whole else {
                verification.unfinished = true;
                break;
            };
            let checkpoint = verification.expect(note, Whose::Own(nth))?;
            if checkpoint.size < verification.signed {
                return Err(Fault::Checkpoint { whose: Whose::Own(nth), reason: NoteError::NoCheckpoint });
            }
            (verification.checkpoints, verification.signed) = (nth, checkpoint.size);
        }
        if let Some(note) = given {
            let told = verification.expect(note, Whose::Given)?.size;
            verification.given = Some(told);
        }
        verification.compare_root()?;
        Ok(verification)
    }

    fn expect(&mut self, note: &str, whose: Whose) -> Result<Checkpoint, Fault> {
        let read = match &self.verifier {
            Some(verifier) => verifier.checkpoint(note),
            None => Checkpoint::of_note(note),
        };
        let checkpoint = read.map_err(|reason| Fault::Checkpoint { whose, reason })?;
        self.signatures += usize::from(self.verifier.is_some());
        self.expected.entry(checkpoint.size).or_default().push((checkpoint.root, whose));
        Ok(checkpoint)
    }

    /// Takes the heads that are kept for some size, before the entries. They are compared when the entries have come so far.
    pub fn keep_heads(&mut self, size: u64, text: String) {
        self.sealed = self.sealed.max(size);
        self.kept_heads.insert(size, text);
    }

    /// Reads the next file of entries, whose name says with which it begins.
    pub fn entries(&mut self, first: u64, mut file: impl BufRead) -> Result<(), Fault> {
        if first != self.heads.size {
            return Err(Fault::Files { first, expected: self.heads.size });
        }
        let mut line = Vec::new();
        loop {
            line.clear();
            (&mut file).take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut line)?;
            if line.is_empty() || self.unfinished && self.heads.size >= self.signed {
                return Ok(());
            }
            if !self.entry(&line)? {
                self.unfinished = true;
                return Ok(());
            }
        }
    }

    /// Reads one line with its end; false where it is being written and nobody has signed it yet.
    fn entry(&mut self, line: &[u8]) -> Result<bool, Fault> {
        let n = self.heads.size;
        let wrong = |reason: String| Fault::Entry { n, reason };
        let Some(line) = line.strip_suffix(b"\n") else {
            return if n >= self.signed { Ok(false) } else { Err(wrong("its line is cut short".to_owned())) };
        };
        let told = Told::parse(line).map_err(|strange| wrong(strange.to_string()))?;
        let leaf = told.leaf(line).ok_or_else(|| wrong("its hash is no hash".to_owned()))?;
        let mut stored = Vec::new();
        self.frontier.push(leaf, |hash| stored.push(*hash));
        for (level, hash) in stored.iter().enumerate() {
            let mut there = [0; HASH_BYTES];
            match self.hashes.read_exact(&mut there) {
                Ok(()) if there == *hash => {}
                Ok(()) if level == 0 => {
                    return Err(wrong("it is not what it was: its hash is not the stored one".to_owned()));
                }
                Ok(()) => return Err(Fault::StoredHash { n, level, index: n >> level }),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    let missing = || wrong("its hash is missing".to_owned());
                    return if n >= self.signed { Ok(false) } else { Err(missing()) };
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.erasure(&told).map_err(|reason| wrong(reason.to_owned()))?;
        self.heads.follow(&told).map_err(|strange: Strange| wrong(strange.to_string()))?;
        self.compare_root()?;
        self.compare_heads()?;
        Ok(true)
    }

    /// Whether it may be erased, if it is: retention takes a tenant's entries from the first on, and never the operator's. Whose an
    /// erased entry was is not in its hash, but in the heads after it, which are signed.
    fn erasure(&mut self, told: &Told<'_>) -> Result<(), &'static str> {
        let tenant = told.tenant.as_deref();
        if told.erased.is_none() {
            if let Some(tenant) = tenant.filter(|tenant| !self.whole.contains(*tenant)) {
                self.whole.insert(tenant.into());
            }
            return Ok(());
        }
        self.erased += 1;
        match tenant {
            None => Err("it is erased, but no tenant's: those are kept for ever"),
            Some(tenant) if self.whole.contains(tenant) => {
                Err("it is erased, but an earlier entry of the same tenant is not")
            }
            Some(_) if told.n >= self.sealed => Err("it is erased, but no heads that are kept come after it"),
            Some(_) => Ok(()),
        }
    }

    fn compare_root(&mut self) -> Result<(), Fault> {
        let size = self.heads.size;
        let Some(expected) = self.expected.remove(&size) else { return Ok(()) };
        let root = self.frontier.root();
        if let Some((_, whose)) = expected.iter().find(|(hash, _)| *hash != root) {
            return Err(Fault::Between { after: self.confirmed, upto: size, whose: *whose });
        }
        self.confirmed = size;
        Ok(())
    }

    fn compare_heads(&mut self) -> Result<(), Fault> {
        let size = self.heads.size;
        let Some(text) = self.kept_heads.remove(&size) else { return Ok(()) };
        let fault = |reason| Fault::Heads { size, reason };
        let kept = heads_of_note(&text, self.verifier.as_ref()).map_err(|_| fault("are not as they were signed"))?;
        // Whose the open requests are cannot be told any more once their entries are erased: then the signature stands for it.
        let same = if self.erased == 0 { kept == self.heads } else { kept.tenants == self.heads.tenants };
        if same && kept.size == size { Ok(()) } else { Err(fault("are not those of its entries")) }
    }

    /// Ends it after the last file: was everything there that was ever signed?
    pub fn finish(mut self) -> Result<Report, Fault> {
        let size = self.heads.size;
        if let Some((told, whose)) = self.expected.iter().next().map(|(told, of)| (*told, of[0].1)) {
            return Err(Fault::Short { size, told, whose });
        }
        if let Some(told) = self.given.filter(|told| *told > self.signed) {
            return Err(Fault::Forgotten { signed: self.signed, told });
        }
        if let Some((of, _)) = self.kept_heads.first_key_value() {
            return Err(Fault::Heads { size: *of, reason: "are of entries that are not there" });
        }
        // A hash that is left over belongs to no entry: the entry is gone, or was never there.
        let more = self.hashes.read(&mut [0; HASH_BYTES])? > 0;
        if more && !self.unfinished && size == self.signed {
            return Err(Fault::Entry { n: size, reason: "it has a hash, but is not there".to_owned() });
        }
        if size > 0 && self.signed == 0 {
            return Err(Fault::Unsigned { size });
        }
        Ok(Report {
            size,
            root: self.frontier.root(),
            tenants: self.heads.tenants.len(),
            erased: self.erased,
            checkpoints: self.checkpoints,
            signed: self.signed,
            signatures_checked: self.signatures > 0,
            unfinished: self.unfinished || more,
        })
    }
}

/// The notes of a file of checkpoints: each is followed by an empty line. `None` is one at the end that is not whole.
pub fn notes(text: &str) -> impl Iterator<Item = Result<Option<&str>, NoteError>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let text_end = rest.find("\n\n").map(|at| at + 2);
        let end = text_end.and_then(|from| rest[from..].find("\n\n").map(|at| from + at + 2));
        let Some(end) = end else {
            rest = "";
            return Some(Ok(None));
        };
        let (note, after) = rest.split_at(end);
        rest = after;
        let note = &note[..end - 1];
        Some(Note::parse(note).map(|_| Some(note)))
    })
}

/// The note in which heads are kept: the log's name, and all of them on a line.
pub fn text_of_heads(name: &str, heads: &Heads) -> String {
    format!("{name}\n{}\n", heads.to_json())
}

/// Reads heads that were kept, and checks whether they were signed by this key under the name that they bear.
pub fn heads_of_note(text: &str, verifier: Option<&Verifier>) -> Result<Heads, NoteError> {
    let note = Note::parse(text)?;
    let (name, heads) = note.text.split_once('\n').ok_or(NoteError::Malformed)?;
    if let Some(verifier) = verifier {
        verifier.renamed(name).verify(&note)?;
    }
    let line = heads.strip_suffix('\n').ok_or(NoteError::Malformed)?;
    let heads = Heads::from_json(line).ok_or(NoteError::Malformed)?;
    if heads.to_json() == line { Ok(heads) } else { Err(NoteError::Malformed) }
}
