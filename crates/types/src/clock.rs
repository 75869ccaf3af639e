//! The only file that reads the clock. Everything else is handed a [`Timestamp`] or a [`Clock`].

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::Timestamp;

/// Where the time comes from: the machine, or a hand that turns it (tests, simulations).
#[derive(Clone, Debug, Default)]
pub enum Clock {
    #[default]
    System,
    Manual(Arc<AtomicI64>),
}

impl Clock {
    pub fn manual(start: Timestamp) -> Self {
        Self::Manual(Arc::new(AtomicI64::new(start.0)))
    }

    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => system_now(),
            Self::Manual(micros) => Timestamp(micros.load(Ordering::SeqCst)),
        }
    }

    /// The time of a clock that nobody sets: the machine's time when it was first asked, and what has passed since then. For
    /// what is measured against it later in the same process, such as rates.
    pub fn steady(&self) -> Timestamp {
        static ORIGIN: OnceLock<(Timestamp, Stopwatch)> = OnceLock::new();
        match self {
            Self::System => {
                let (began, since) = ORIGIN.get_or_init(|| (system_now(), Stopwatch::start()));
                began.plus(since.elapsed())
            }
            Self::Manual(_) => self.now(),
        }
    }

    /// Moves a manual clock; the machine's own clock cannot be moved.
    pub fn advance(&self, by: Duration) {
        if let Self::Manual(micros) = self {
            micros.store(Timestamp(micros.load(Ordering::SeqCst)).plus(by).0, Ordering::SeqCst);
        }
    }
}

/// A stopwatch on the monotonic clock, for measuring our own latency.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    #[expect(clippy::disallowed_methods, reason = "this is the room that reads the clock")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    #[expect(clippy::disallowed_methods, reason = "this is the room that reads the clock")]
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// CPU time of the thread that made it: what work takes, however long it waits for a core. To be asked by that thread.
#[derive(Debug)]
pub struct CpuStopwatch(Duration, std::marker::PhantomData<*const ()>);

impl CpuStopwatch {
    pub fn start() -> Self {
        Self(thread_cpu_time(), std::marker::PhantomData)
    }

    pub fn elapsed(&self) -> Duration {
        thread_cpu_time().saturating_sub(self.0)
    }
}

fn thread_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    Duration::from_secs(part(time.tv_sec)) + Duration::from_nanos(part(time.tv_nsec))
}

#[expect(clippy::disallowed_methods, reason = "this is the room that reads the clock")]
fn system_now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::default().plus(since_epoch)
}
