//! All that outlives the process, opened together: locked against a second process, recovered after a crash.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FlockOperation;
use tollgate_audit::note::{Verifier, origin};
use tollgate_ledger::Books;
use tollgate_types::{Clock, TenantId, ids};

use crate::answers::{Answers, AnswersError, AnswersThread};
use crate::audit::writer::AuditWriter;
use crate::audit::{self, AuditError, AuditReader};
use crate::fault;
use crate::journal::segment::{self, SegmentError};
use crate::journal::{self, Journal, JournalThread, JournalWriter, Sequence};
use crate::prepared::Prepared;
use crate::projector::{Projector, ProjectorThread, Recorded, open_view};
use crate::snapshot;
use crate::vault::{KeyEncryption, Vault, VaultError};
use crate::view::{View, ViewError};

#[derive(Clone, Debug)]
pub struct StoreOptions {
    pub dir: PathBuf,
    pub journal: journal::Options,
    pub clock: Clock,
    pub audit: audit::Options,
}

/// The books of this node, and everything that keeps them.
#[derive(Debug)]
pub struct Store {
    pub books: Arc<Books<JournalWriter>>,
    pub journal: Journal,
    pub vault: Arc<Vault>,
    pub projector: Projector,
    pub answers: Answers,
    pub dir: PathBuf,
    /// What verifies the checkpoints of the audit log: name and public key.
    pub audit_key: Verifier,
    /// Reservations that the last process left pending, now indeterminate.
    pub recovered: usize,
    // In the order of their ends: nobody appends any more, then the journal is durable, then the view follows it.
    journal_thread: JournalThread,
    projector_thread: ProjectorThread,
    answers_thread: AnswersThread,
    _lock: Lock,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the store {0} is open in another process; stop it first, or use another [store] dir")]
    InUse(PathBuf),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Journal(#[from] SegmentError),
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error(transparent)]
    View(#[from] ViewError),
    #[error(transparent)]
    Answers(#[from] AnswersError),
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error(
        "{what} holds record {held}, but the journal ends at {last}: it lost records that were durable; restore the \
         journal from its copy, or, to go on without them, move {what} away"
    )]
    JournalBehind { what: String, held: u64, last: u64 },
    #[error("tenant '{0}' exists but its data key does not: restore the key file from its copy")]
    KeyMissing(TenantId),
}

/// Held while the store is open. The kernel gives it back however the process ends.
#[derive(Debug)]
struct Lock {
    _file: File,
}

/// Where things lie in a store's folder.
#[derive(Clone, Debug)]
pub struct Layout {
    pub journal: PathBuf,
    pub snapshots: PathBuf,
    pub prices: PathBuf,
    /// Policy bundles, each named by the digest of its archive.
    pub policies: PathBuf,
    pub keys: PathBuf,
    pub audit: PathBuf,
    pub view: PathBuf,
    pub answers: PathBuf,
    pub lock: PathBuf,
}

// === impl Layout ===

impl Layout {
    pub fn of(dir: &Path) -> Self {
        Self {
            journal: dir.join("journal"),
            snapshots: dir.join("snapshots"),
            prices: dir.join("prices"),
            policies: dir.join("policies"),
            keys: dir.join("keys"),
            audit: dir.join("audit"),
            view: dir.join("view.sqlite"),
            answers: dir.join("answers.sqlite"),
            lock: dir.join("lock"),
        }
    }
}

// === impl Store ===

impl Store {
    /// Opens the store, making what is missing, and recovers from whatever end the last process had.
    pub fn open(options: &StoreOptions, encryption: Box<dyn KeyEncryption>) -> Result<Self, StoreError> {
        ids::sharing(|| Self::read(options, encryption))
    }

    fn read(options: &StoreOptions, encryption: Box<dyn KeyEncryption>) -> Result<Self, StoreError> {
        let layout = Layout::of(&options.dir);
        for dir in [&options.dir, &layout.journal, &layout.snapshots, &layout.prices, &layout.policies, &layout.audit] {
            make_dir(dir)?;
        }
        let lock = Lock::take(&options.dir, &layout.lock)?;
        let vault = Arc::new(Vault::open(&layout.keys, encryption)?);

        let mut state = snapshot::latest(&layout.snapshots);
        let mut tail = None;
        let segments = snapshot::segments_after(&layout.journal, state.sequence)?;
        for index in &segments {
            let end = state.replay(&layout.journal, *index, Some(index) == segments.last())?;
            tail = Some((*index, end));
        }
        for tenant in state.directory.tenants.keys() {
            if !vault.has(tenant) {
                return Err(StoreError::KeyMissing(tenant.clone()));
            }
        }

        let last = tail.map_or(0, |(_, end): (u64, segment::End)| end.next - 1);
        check_not_behind("a snapshot", state.sequence, last)?;

        let io = |source| StoreError::Io { path: layout.journal.clone(), source };
        let view = open_view(&layout.view)?;
        check_not_behind(&layout.view.display().to_string(), view.position(), last)?;
        let audit = AuditWriter::open(&layout.audit, vault.audit_key(), &options.audit, last)?;
        let audit_key = vault.audit_key().signer(&origin(&options.audit.issuer)).verifier();
        let (answers, answers_thread) = Answers::start(&layout.answers, Arc::clone(&vault), options.clock.clone())?;
        let (journal, writer, journal_thread) = Journal::start(&layout.journal, options.journal, tail).map_err(io)?;
        let books = Arc::new(Books::new(state.ledger, state.directory, writer, options.clock.clone()));
        let recovered = books.recover();
        let recorded = Recorded {
            writer: audit,
            vault: Arc::clone(&vault),
            options: options.audit.clone(),
            books: Arc::clone(&books),
        };
        let (projector, projector_thread) = Projector::start(&layout, view, recorded, journal.clone());
        let dir = options.dir.clone();
        Ok(Self {
            books,
            journal,
            vault,
            projector,
            answers,
            dir,
            audit_key,
            recovered,
            journal_thread,
            projector_thread,
            answers_thread,
            _lock: lock,
        })
    }

    /// Makes everything durable, brings the view and the audit log up to it, and signs that.
    pub fn close(self) {
        self.journal_thread.stop();
        self.projector_thread.stop();
        self.answers_thread.stop();
    }

    /// Makes the view of a store that nobody has open again, from the journal alone.
    pub fn rebuild_view(dir: &Path) -> Result<Sequence, StoreError> {
        let layout = Layout::of(dir);
        let _lock = Lock::take(dir, &layout.lock)?;
        let mut view = View::create_anew(&layout.view)?;
        let segments = segment::list(&layout.journal)?;
        for index in &segments {
            let mut trouble = None;
            segment::read(&layout.journal, *index, Some(index) == segments.last(), |frame| {
                trouble = trouble.take().or(view.apply(&frame.records()?).err());
                Ok(())
            })?;
            if let Some(trouble) = trouble {
                return Err(trouble.into());
            }
        }
        Ok(view.position())
    }

    /// Reads the audit log.
    pub fn audit(&self) -> AuditReader {
        AuditReader::open(&self.layout())
    }

    pub fn layout(&self) -> Layout {
        Layout::of(&self.dir)
    }
}

/// What was made from the journal cannot hold more than it: only durable records reach it.
fn check_not_behind(what: &str, held: u64, last: u64) -> Result<(), StoreError> {
    if held <= last { Ok(()) } else { Err(StoreError::JournalBehind { what: what.to_owned(), held, last }) }
}

/// Writes a file so that it is either the old one or the new one, whatever happens, and readable by its owner only.
pub fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    prepare(path, content)?.confirm()
}

/// The first half of that: the file is whole and durable, but does not stand at `path` before it is confirmed.
pub fn prepare(path: &Path, content: &[u8]) -> io::Result<Prepared> {
    Prepared::write(path, content, fault::FILE)
}

fn make_dir(dir: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    // A folder whose name is not durable may be gone after a power cut, with all that is in it.
    let named = made.and_then(|()| match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => segment::sync_dir(parent),
        _ => Ok(()),
    });
    named.map_err(|source| StoreError::Io { path: dir.to_owned(), source })
}

// === impl Lock ===

impl Lock {
    #[expect(clippy::disallowed_methods, reason = "the store is the room that writes files")]
    fn take(dir: &Path, path: &Path) -> Result<Self, StoreError> {
        let io = |source| StoreError::Io { path: path.to_owned(), source };
        let file = File::options().create(true).truncate(false).write(true).open(path).map_err(io)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::InUse(dir.to_owned())),
            Err(errno) => Err(io(errno.into())),
        }
    }
}
