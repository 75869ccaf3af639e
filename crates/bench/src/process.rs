//! Servers as child processes: started with their output in a file, waited for until ready, stopped politely or killed.
//!
//! Integration tests use this too. Nothing is ever stopped by name, only the very process that was started.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use http::{Method, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::clock;
use crate::http::Origin;
use crate::procfs::family;

/// How often a state is looked at again while waiting for it.
const POLL_EVERY: Duration = Duration::from_millis(2);
/// How much of a log is quoted in an error.
const LOG_TAIL_BYTES: usize = 2_000;

/// What to start, and how.
#[derive(Clone, Debug)]
pub struct Launch {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    log: PathBuf,
    core: Option<usize>,
}

/// A running child. Dropping it kills it, with all that it has started.
#[derive(Debug)]
pub struct Server {
    child: Child,
    name: String,
    log: PathBuf,
    started: Instant,
}

// === impl Launch ===

impl Launch {
    /// `program`, its standard output and error appended to the file `log`.
    pub fn new(program: impl Into<PathBuf>, log: impl Into<PathBuf>) -> Self {
        let (program, log) = (program.into(), log.into());
        Self { program, arguments: Vec::new(), environment: Vec::new(), log, core: None }
    }

    #[must_use]
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Pins the process, with all threads it will start, to one core.
    #[must_use]
    pub fn on_core(mut self, core: Option<usize>) -> Self {
        self.core = core;
        self
    }

    pub fn spawn(&self) -> Result<Server> {
        let log = open_log(&self.log).with_context(|| format!("cannot open the log {}", self.log.display()))?;
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let started = clock::now();
        let child = pinned(self.core, || command.spawn())?
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        Ok(Server { child, name: self.program.display().to_string(), log: self.log.clone(), started })
    }
}

// === impl Server ===

impl Server {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// When it was started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Asks `path` until it answers 200. Gives the time from the start to that answer. An error quotes the log: after
    /// `within`, or at once when the process has ended.
    pub async fn wait_ready(&mut self, origin: &Origin, path: &str, within: Duration) -> Result<Duration> {
        loop {
            let answer = origin.call(origin.request(Method::GET, path, "")?).await;
            let took = clock::since(self.started);
            if answer.as_ref().is_ok_and(|answer| answer.status == StatusCode::OK) {
                return Ok(took);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status} before it was ready:\n{}", self.name, self.log_tail());
            }
            if took > within {
                let last = answer.map_or_else(|error| format!("{error:#}"), |answer| answer.status.to_string());
                bail!("{} is not ready after {within:?} ({last}):\n{}", self.name, self.log_tail());
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    /// SIGTERM, then waits for the end. A process that is still there after `within` is killed, and that is an error.
    pub async fn stop(mut self, within: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        match self.wait(within).await? {
            Some(status) => Ok(status),
            None => {
                let tail = self.log_tail();
                self.kill()?;
                bail!("{} was still running {within:?} after SIGTERM:\n{tail}", self.name);
            }
        }
    }

    /// Waits for the process to end by itself; `None` when it has not after `within`.
    pub async fn wait(&mut self, within: Duration) -> Result<Option<ExitStatus>> {
        let from = clock::now();
        while clock::since(from) < within {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
        Ok(self.child.try_wait()?)
    }

    /// `kill -9`, and collects it. An error when the process had already ended by itself: nobody crashed it but us.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} had already ended with {status}:\n{}", self.name, self.log_tail());
        }
        self.signal(Signal::KILL)?;
        let status = self.child.wait().context("cannot wait for the killed process")?;
        if status.signal() != Some(Signal::KILL.as_raw()) {
            bail!("{} ended with {status}, not by our kill:\n{}", self.name, self.log_tail());
        }
        Ok(())
    }

    /// An error, quoting the log, when the process is no longer running.
    pub fn check_running(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} ended with {status}:\n{}", self.name, self.log_tail()),
            None => Ok(()),
        }
    }

    /// The end of what it has printed.
    pub fn log_tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let from = text.len().saturating_sub(LOG_TAIL_BYTES);
        String::from_utf8_lossy(&text[from..]).into_owned()
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.child), signal).with_context(|| format!("cannot signal {}", self.name))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        // Its children are read before it is gone, since then they are nobody's: nginx's worker would live on.
        for member in family(self.child.id()) {
            if let Some(pid) = i32::try_from(member).ok().and_then(Pid::from_raw) {
                // One that has just ended is as good as killed; there is nobody to tell here.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        let _ = self.child.wait();
    }
}

/// `COUNT` ports of 127.0.0.1 that nobody listens on, all different. Another process may take one before it is used.
pub fn free_ports<const COUNT: usize>() -> Result<[u16; COUNT]> {
    let mut ports = [0; COUNT];
    // All are held until all are known.
    let mut listeners = Vec::with_capacity(COUNT);
    for port in &mut ports {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).context("no free port on 127.0.0.1")?;
        *port = listener.local_addr()?.port();
        listeners.push(listener);
    }
    Ok(ports)
}

/// Pins this thread, and every thread and process it starts from now on, to one core.
pub fn pin_to(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).with_context(|| format!("cannot pin to core {core}"))
}

/// Does `start` while this thread is pinned to `core`: a child inherits the affinity of the thread that starts it, so it
/// is pinned before its first instruction.
fn pinned<T>(core: Option<usize>, start: impl FnOnce() -> T) -> Result<T> {
    let Some(core) = core else { return Ok(start()) };
    let before = sched_getaffinity(None).context("cannot read the affinity")?;
    pin_to(core)?;
    let outcome = start();
    sched_setaffinity(None, &before).context("cannot give the affinity back")?;
    Ok(outcome)
}

#[expect(clippy::disallowed_methods, reason = "a child's output goes to a file that its starter names")]
fn open_log(path: &Path) -> std::io::Result<fs::File> {
    fs::OpenOptions::new().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use crate::canned::{Canned, block_on, serve};

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> (Server, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let launch = Launch::new("/bin/sh", dir.path().join("log")).args(["-c", script]).env("NOTE", "kept");
        (launch.spawn().unwrap(), dir)
    }

    #[test]
    fn what_a_child_prints_is_in_its_log() {
        let (mut server, _dir) = shell("echo $NOTE; echo oops >&2");
        let status = block_on(server.wait(SOON)).unwrap().unwrap();
        assert!(status.success());
        assert_eq!(server.log_tail(), "kept\noops\n");
    }

    #[test]
    fn a_server_that_dies_before_it_is_ready_is_reported_with_its_log() {
        let (mut server, _dir) = shell("echo no config; exit 64");
        let [port] = free_ports().unwrap();
        let error = block_on(server.wait_ready(&Origin::local(port), "/readyz", SOON)).unwrap_err().to_string();
        assert!(error.contains("64") && error.contains("no config"), "{error}");
    }

    #[test]
    fn a_server_is_ready_when_it_answers_200() {
        let (mut server, _dir) = shell("exec sleep 60");
        let asked = std::sync::atomic::AtomicU16::new(0);
        let origin = serve(move |request| {
            assert_eq!(request.what, "GET /readyz");
            let before = asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            Canned::json(if before < 3 { 503 } else { 200 }, "{}")
        });
        assert!(block_on(server.wait_ready(&origin, "/readyz", SOON)).unwrap() < SOON);
        let never = serve(|_| Canned::json(503, "{}"));
        let error = block_on(server.wait_ready(&never, "/readyz", Duration::ZERO)).unwrap_err().to_string();
        assert!(error.contains("not ready") && error.contains("503"), "{error}");
    }

    #[test]
    fn stopping_is_a_sigterm_and_a_wait() {
        let (server, _dir) = shell("exec sleep 60");
        assert_eq!(block_on(server.stop(SOON)).unwrap().signal(), Some(Signal::TERM.as_raw()));
    }

    #[test]
    fn a_server_that_ignores_sigterm_is_killed_and_reported() {
        let (server, dir) = shell("trap '' TERM; echo deaf; while :; do sleep 0.01; done");
        let pid = server.pid();
        block_on(async {
            while std::fs::read_to_string(dir.path().join("log")).unwrap() != "deaf\n" {
                tokio::task::yield_now().await;
            }
            let error = server.stop(Duration::from_millis(20)).await.unwrap_err().to_string();
            assert!(error.contains("still running") && error.contains("deaf"), "{error}");
        });
        assert!(crate::procfs::consumption(pid).is_err(), "it is gone");
    }

    #[test]
    fn a_kill_is_ours_or_an_error() {
        let (mut server, _dir) = shell("exec sleep 60");
        server.check_running().unwrap();
        server.kill().unwrap();
        assert!(server.check_running().is_err());
        let (mut ended, _dir) = shell("exit 3");
        block_on(ended.wait(SOON)).unwrap();
        assert!(ended.kill().unwrap_err().to_string().contains("already ended"));
    }

    #[test]
    fn dropping_a_server_kills_its_children_too() {
        let (server, dir) = shell("sleep 60 & echo $!; wait");
        let printed = || std::fs::read_to_string(dir.path().join("log")).unwrap();
        block_on(async {
            while !printed().ends_with('\n') {
                tokio::task::yield_now().await;
            }
        });
        let grandchild: u32 = printed().trim().parse().unwrap();
        assert!(family(server.pid()).contains(&grandchild));
        drop(server);
        // A kill takes a moment; one that waits to be collected by its new parent has no memory any more.
        let is_alive = || crate::procfs::consumption(grandchild).is_ok_and(|left| left.resident_bytes > 0);
        let from = clock::now();
        while is_alive() && clock::since(from) < SOON {
            std::thread::yield_now();
        }
        assert!(!is_alive());
    }

    #[test]
    fn a_pinned_child_runs_on_its_core_alone_and_we_do_not() {
        let before = sched_getaffinity(None).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let launch = Launch::new("/bin/sh", dir.path().join("log"));
        let mut server =
            launch.args(["-c", "grep Cpus_allowed_list /proc/self/status"]).on_core(Some(0)).spawn().unwrap();
        block_on(server.wait(SOON)).unwrap();
        assert_eq!(server.log_tail().split_whitespace().last(), Some("0"));
        assert_eq!(sched_getaffinity(None).unwrap(), before);
    }

    #[test]
    fn free_ports_are_different() {
        let ports: [u16; 8] = free_ports().unwrap();
        let distinct: std::collections::BTreeSet<u16> = ports.into_iter().collect();
        assert_eq!(distinct.len(), 8);
    }
}
