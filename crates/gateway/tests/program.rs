//! The real binary as a process of its own: started, spoken to, signalled, killed, and listened to.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tollgate_client::{AdminClient, NewTenant};
use tollgate_sim::Options;

use crate::world::{ADMIN_KEY, Http, PROVIDER_KEY, eventually, routing};

pub const BINARY: &str = env!("CARGO_BIN_EXE_tollgate");
pub const MASTER_KEY: &str = "f00dfeedf00dfeedf00dfeedf00dfeedf00dfeedf00dfeedf00dfeedf00dfeed";

/// A folder with a configuration, a store and a simulated provider beside it. Programs come and go over it.
pub struct Place {
    pub dir: TempDir,
    pub sim: tollgate_sim::Running,
}

/// One process of `tollgate serve`. Killed when dropped.
pub struct Program {
    pub base: String,
    pub http: Http,
    pub admin: AdminClient,
    child: Killed,
    said: Arc<Mutex<String>>,
    listener: Option<JoinHandle<()>>,
}

/// A process that has ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    /// On standard output.
    pub written: String,
    /// On standard error.
    pub said: String,
}

// === impl Place ===

impl Place {
    pub fn new(sim: Options) -> Self {
        let place =
            Self { dir: tempfile::tempdir().expect("a folder"), sim: tollgate_sim::spawn(sim).expect("a simulator") };
        place.configure("");
        place
    }

    /// Writes the configuration, with `more` behind it.
    pub fn configure(&self, more: &str) {
        self.configure_with("127.0.0.1:0", "", more);
    }

    pub fn configure_with(&self, listen: &str, server: &str, more: &str) {
        let text = format!(
            "[server]\nlisten = \"{listen}\"\nworkers = 2\n{server}\n[store]\ndir = {:?}\nsegment_bytes = 262144\n\
             [log]\nfilter = \"debug\"\njson = true\n{}\n{more}",
            self.store(),
            routing(&self.sim.base_url()),
        );
        std::fs::write(self.config(), text).expect("written");
    }

    pub fn config(&self) -> PathBuf {
        self.dir.path().join("tollgate.toml")
    }

    pub fn store(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(BINARY);
        command.arg("serve").arg("--config").arg(self.config());
        surroundings(&mut command);
        command
    }

    /// A program that serves.
    pub async fn serve(&self) -> Program {
        Program::start(self.command()).await
    }

    /// `serve` where it ought not to start.
    pub async fn fail_to_serve(&self) -> Ended {
        run(self.command()).await
    }

    /// `tollgate ledger verify` over the store.
    pub async fn verify(&self) -> Value {
        let mut command = Command::new(BINARY);
        command.args(["ledger", "verify", "--json", "--dir"]).arg(self.store());
        surroundings(&mut command);
        let verified = run(command).await;
        assert_eq!(verified.code, Some(0), "{verified:?}");
        serde_json::from_str(&verified.written).expect("JSON")
    }
}

pub fn surroundings(command: &mut Command) {
    command
        .env_clear()
        .env("TOLLGATE_MASTER_KEY", MASTER_KEY)
        .env("TOLLGATE_ADMIN_KEY", ADMIN_KEY)
        .env("SIM_KEY", PROVIDER_KEY)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir("/")
        .stdin(Stdio::null());
    // Where coverage is measured, what this process covers counts too.
    if let Some(profile) = std::env::var_os("LLVM_PROFILE_FILE") {
        command.env("LLVM_PROFILE_FILE", profile);
    }
}

/// A process that is killed when this is dropped.
struct Killed(Child);

/// Runs a command that is bound to end by itself.
pub async fn run(mut command: Command) -> Ended {
    let mut child = Killed(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs"));
    let (stdout, stderr) = (child.0.stdout.take().expect("asked for"), child.0.stderr.take().expect("asked for"));
    let (written, said) = (Arc::<Mutex<String>>::default(), Arc::<Mutex<String>>::default());
    let listeners = [
        std::thread::spawn({
            let written = Arc::clone(&written);
            move || listen(stdout, &written)
        }),
        std::thread::spawn({
            let said = Arc::clone(&said);
            move || listen(stderr, &said)
        }),
    ];
    let status = eventually("the command to end", async || child.0.try_wait().expect("a child")).await;
    listeners.into_iter().for_each(|listener| listener.join().expect("no panic"));
    let text = |of: Arc<Mutex<String>>| of.lock().expect("no panic").clone();
    Ended { code: status.code(), written: text(written), said: text(said) }
}

impl Drop for Killed {
    fn drop(&mut self) {
        // An error says that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

// === impl Program ===

impl Program {
    pub async fn start(command: Command) -> Self {
        Self::start_at("http", command).await
    }

    /// Starts it and waits until it says where it serves.
    pub async fn start_at(scheme: &str, command: Command) -> Self {
        let started = Self::start_or_end(scheme, command).await;
        started.unwrap_or_else(|ended| panic!("it ended with {:?}:\n{}", ended.code, ended.said))
    }

    /// Starts it and waits until it says where it serves, or ends.
    pub async fn start_or_end(scheme: &str, mut command: Command) -> Result<Self, Ended> {
        // A group of its own: a signal to the tests' terminal is not one to it.
        let child = command.process_group(0).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs");
        let mut child = Killed(child);
        let said = Arc::new(Mutex::new(String::new()));
        let stderr = child.0.stderr.take().expect("it was asked for");
        let listener = std::thread::spawn({
            let said = Arc::clone(&said);
            move || listen(stderr, &said)
        });
        let address = eventually("the program to serve", async || {
            if let Some(status) = child.0.try_wait().expect("a child") {
                return Some(Err(status));
            }
            said.lock().expect("no panic").lines().find_map(address_in).map(Ok)
        })
        .await;
        let address = match address {
            Ok(address) => address,
            Err(status) => {
                listener.join().expect("no panic");
                let said = said.lock().expect("no panic").clone();
                return Err(Ended { code: status.code(), written: String::new(), said });
            }
        };
        let base = format!("{scheme}://{address}");
        let admin = AdminClient::new(&base, ADMIN_KEY).expect("an address");
        Ok(Self { http: Http::to(&base), base, admin, child, said, listener: Some(listener) })
    }

    /// A tenant `demo` and the id and text of a key of its.
    pub async fn tenant(&self) -> (String, String) {
        let new = NewTenant { id: "demo".to_owned(), ..NewTenant::default() };
        self.admin.create_tenant(&new).await.expect("a tenant");
        let wanted = serde_json::from_value(serde_json::json!({"tenant": "demo"})).expect("a key");
        let made = self.admin.create_key(&wanted).await.expect("a key");
        (made.info.id, made.key)
    }

    pub async fn budget(&self, setting: Value) {
        let setting = serde_json::from_value(setting).expect("a budget");
        self.admin.set_budget(&setting).await.expect("a budget");
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.0.id()).expect("a process id")
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child.0), signal).expect("it is there");
    }

    /// What it has logged so far.
    pub fn said(&self) -> String {
        self.said.lock().expect("no panic").clone()
    }

    pub async fn says(&self, words: &str) {
        eventually(words, async || self.said().contains(words).then_some(())).await;
    }

    /// A field of `/proc/{pid}/status`, in kB.
    pub fn memory_kb(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it is there");
        let line = status.lines().find(|line| line.starts_with(field)).expect("the field");
        line.split_whitespace().nth(1).and_then(|kb| kb.parse().ok()).expect("a number")
    }

    /// Waits for its end, whatever brings it about.
    pub async fn ended(mut self) -> Ended {
        let status: ExitStatus =
            eventually("the end of the program", async || self.child.0.try_wait().expect("a child")).await;
        if let Some(listener) = self.listener.take() {
            listener.join().expect("no panic");
        }
        Ended { code: status.code(), written: String::new(), said: self.said() }
    }

    /// SIGTERM, and the orderly end.
    pub async fn stop(self) -> Ended {
        self.signal(Signal::TERM);
        self.ended().await
    }

    pub async fn kill(self) {
        self.signal(Signal::KILL);
        self.ended().await;
    }
}

/// Where a line of the log says that the program serves: in JSON, or as text.
fn address_in(line: &str) -> Option<String> {
    match serde_json::from_str::<Value>(line) {
        Ok(line) if line["fields"]["message"] == "serving" => line["fields"]["address"].as_str().map(str::to_owned),
        Ok(_) => None,
        Err(_) => {
            let (_, fields) = line.split_once("serving address=")?;
            fields.split(' ').next().map(str::to_owned)
        }
    }
}

fn listen(stderr: impl Read, said: &Mutex<String>) {
    let mut lines = BufReader::new(stderr);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        said.lock().expect("no panic").push_str(&String::from_utf8_lossy(&line));
        line.clear();
    }
}

/// All files under `dir`, one after the other.
pub fn read_all(dir: &Path) -> Vec<u8> {
    let entries = std::fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries
        .flat_map(|path| if path.is_dir() { read_all(&path) } else { std::fs::read(&path).unwrap_or_default() })
        .collect()
}
