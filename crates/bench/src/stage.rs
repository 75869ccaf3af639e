//! A stage to measure on: a directory of its own with keys, configuration and store, the simulator as provider, and
//! Tollgate in front of it. All of it is gone when the stage is dropped.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha20Rng;
use tempfile::TempDir;

use crate::admin::Admin;
use crate::http::{Api, Origin};
use crate::process::{Launch, Server, free_ports};

const READY_WITHIN: Duration = Duration::from_secs(30);

/// The models that the stage's Tollgate routes to its simulator under the same names.
pub const CHAT_MODEL: &str = "gpt-4o-mini";
pub const DEAR_CHAT_MODEL: &str = "gpt-4o";
pub const EMBEDDING_MODEL: &str = "text-embedding-3-small";
/// The chat model at the second provider.
pub const PACED_MODEL: &str = "paced";
const ROUTES: [(&str, &str, &str); 4] = [
    (CHAT_MODEL, "sim", CHAT_MODEL),
    (DEAR_CHAT_MODEL, "sim", DEAR_CHAT_MODEL),
    (EMBEDDING_MODEL, "sim", EMBEDDING_MODEL),
    (PACED_MODEL, "paced", CHAT_MODEL),
];

#[derive(Debug)]
pub struct Stage {
    dir: TempDir,
    tollgate: PathBuf,
    admin_key: String,
    pub gateway: Origin,
    pub provider: Origin,
    /// A second simulator, for whoever starts it there.
    pub paced_provider: Origin,
}

/// More ways from the gateway to the simulator. Each is a provider of its own with routes of its own (see [`lane_route`]), so
/// that each has its own connections: with HTTP/2 the gateway opens one a provider and worker.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lanes {
    pub count: usize,
    pub http2: bool,
}

/// How the gateway treats a provider that is slow. In milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub first_byte_ms: u64,
    pub idle_ms: u64,
    pub total_ms: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self { first_byte_ms: 60_000, idle_ms: 30_000, total_ms: 600_000 }
    }
}

// === impl Stage ===

impl Stage {
    /// Sets the stage below `parent`, which should be on the disk that matters: the journal is on it.
    pub fn set(parent: &Path, tollgate: &Path, patience: Patience, workers: usize, lanes: Lanes) -> Result<Self> {
        let tollgate = tollgate
            .canonicalize()
            .with_context(|| format!("no program {}: build it first (cargo build --release)", tollgate.display()))?;
        make_dir(parent)?;
        let parent = parent.canonicalize()?;
        let dir = TempDir::with_prefix_in("bench-", parent).context("cannot make a directory to work in")?;
        let [gateway, provider, paced_provider] = free_ports()?.map(Origin::local);
        let stage = Self { admin_key: secret(), dir, tollgate, gateway, provider, paced_provider };
        write_secret(&stage.file("admin.key"), &stage.admin_key)?;
        write_secret(&stage.file("master.key"), &secret())?;
        make_dir(&stage.store())?;
        write_file(&stage.file("tollgate.toml"), &stage.configuration(patience, workers, lanes))?;
        Ok(stage)
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Leaves the directory where it is, for someone to look at, and says where.
    pub fn keep(self) -> PathBuf {
        self.dir.keep()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The directory of the journal and its view.
    pub fn store(&self) -> PathBuf {
        self.file("store")
    }

    pub fn tollgate(&self) -> &Path {
        &self.tollgate
    }

    pub fn admin(&self) -> Result<Admin> {
        Admin::new(self.gateway.clone(), &self.admin_key)
    }

    /// Starts a simulator at `origin`, with more arguments than its address, and waits until it answers.
    pub async fn start_provider(&self, origin: &Origin, arguments: &[&str], core: Option<usize>) -> Result<Server> {
        let launch = Launch::new(&self.tollgate, self.file("provider.log"))
            .args(["sim-provider", "--listen", origin.authority()])
            .args(arguments)
            .on_core(core);
        let mut server = launch.spawn()?;
        server.wait_ready(origin, "/v1/models", READY_WITHIN).await?;
        Ok(server)
    }

    /// Starts Tollgate and waits until it is ready. Gives the time that took.
    pub async fn start_gateway(&self, core: Option<usize>) -> Result<(Server, Duration)> {
        let launch = Launch::new(&self.tollgate, self.file("tollgate.log"))
            .args(["serve".into(), "--config".into(), self.file("tollgate.toml").into_os_string()])
            .on_core(core);
        let mut server = launch.spawn()?;
        let took = server.wait_ready(&self.gateway, "/readyz", READY_WITHIN).await?;
        Ok((server, took))
    }

    /// The simulator's own API.
    pub fn provider_api(&self) -> Result<Api> {
        Api::new(self.provider.clone(), None)
    }

    /// Runs `tollgate` with these arguments to its end; it may administer the running gateway. Blocks.
    pub fn tollgate_says(&self, arguments: &[&std::ffi::OsStr]) -> Result<std::process::Output> {
        let mut command = Command::new(&self.tollgate);
        command.env("TOLLGATE_URL", self.gateway.url("")).env("TOLLGATE_ADMIN_KEY", &self.admin_key);
        command.args(arguments).stdin(Stdio::null()).current_dir(self.dir.path());
        command.output().with_context(|| format!("cannot run {}", self.tollgate.display()))
    }

    fn configuration(&self, patience: Patience, workers: usize, lanes: Lanes) -> String {
        let (dir, listen) = (self.dir.path().display(), self.gateway.authority());
        let head = format!(
            r#"[server]
listen = "{listen}"
workers = {workers}
drain_seconds = 30

[store]
dir = "{dir}/store"

[secrets]
master_key = "file:{dir}/master.key"
admin_key = "file:{dir}/admin.key"
"#
        );
        let providers = [("sim", &self.provider), ("paced", &self.paced_provider)];
        let providers = providers.map(|(name, origin)| provider_section(name, origin, patience, false)).concat();
        let lanes: String = (0..lanes.count).map(|lane| self.lane_sections(lane, patience, lanes.http2)).collect();
        head + &providers + &ROUTES.map(route_section).concat() + &lanes
    }

    fn lane_sections(&self, lane: usize, patience: Patience, http2: bool) -> String {
        let provider = lane_provider(lane);
        let route = |model| route_section((&lane_route(model, lane), &provider, model));
        let routes: String = [CHAT_MODEL, DEAR_CHAT_MODEL, EMBEDDING_MODEL].map(route).concat();
        provider_section(&provider, &self.provider, patience, http2) + &routes
    }
}

/// The name of a lane's provider.
pub fn lane_provider(lane: usize) -> String {
    format!("lane-{lane}")
}

/// The name under which a model is served by a lane.
pub fn lane_route(model: &str, lane: usize) -> String {
    format!("{model}-{lane}")
}

fn provider_section(name: &str, origin: &Origin, patience: Patience, http2: bool) -> String {
    format!(
        r#"
[providers.{name}]
preset = "custom"
priced_as = "openai"
base_url = "{base_url}"
http2 = {http2}
connect_timeout_ms = 3000
first_byte_timeout_ms = {first_byte_ms}
idle_timeout_ms = {idle_ms}
total_timeout_ms = {total_ms}
"#,
        base_url = origin.url("/v1"),
        first_byte_ms = patience.first_byte_ms,
        idle_ms = patience.idle_ms,
        total_ms = patience.total_ms,
    )
}

fn route_section((route, provider, model): (&str, &str, &str)) -> String {
    format!("\n[routes.\"{route}\"]\nprovider = \"{provider}\"\nmodel = \"{model}\"\nmax_tokens_default = 256\n")
}

/// 32 bytes in hexadecimal. They guard a store that lives as long as this process.
fn secret() -> String {
    let mut bytes = [0; 32];
    ChaCha20Rng::from_os_rng().fill_bytes(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[expect(clippy::disallowed_methods, reason = "the bench writes the configuration of what it starts")]
pub fn write_file(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn write_secret(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    write_file(path, text)?;
    #[expect(clippy::disallowed_methods, reason = "a key file that others can read is refused")]
    let restricted = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600));
    restricted.with_context(|| format!("cannot restrict {}", path.display()))
}

#[expect(clippy::disallowed_methods, reason = "the bench makes the directory it works in")]
fn make_dir(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
    ensure!(path.is_dir(), "{} is not a directory", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const LANES: Lanes = Lanes { count: 2, http2: true };

    #[test]
    fn a_stage_has_keys_nobody_else_can_read_and_is_gone_afterwards() {
        let parent = tempfile::tempdir().unwrap();
        let stage = Stage::set(parent.path(), Path::new("/bin/sh"), Patience::default(), 1, LANES).unwrap();
        let dir = stage.dir().to_owned();
        for key in ["admin.key", "master.key"] {
            let path = stage.file(key);
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(std::fs::read_to_string(&path).unwrap().len(), 64);
        }
        let configuration = std::fs::read_to_string(stage.file("tollgate.toml")).unwrap();
        for line in [
            "workers = 1",
            "[routes.\"gpt-4o-mini\"]",
            "first_byte_timeout_ms = 60000",
            "[routes.\"text-embedding-3-small-1\"]\nprovider = \"lane-1\"\nmodel = \"text-embedding-3-small\"",
        ] {
            assert!(configuration.contains(line), "{line} is missing in {configuration}");
        }
        assert_eq!(configuration.matches("http2 = true").count(), 2, "{configuration}");
        drop(stage);
        assert!(!dir.exists());
    }

    #[test]
    fn a_program_that_is_not_there_is_said_so() {
        let parent = tempfile::tempdir().unwrap();
        let error =
            Stage::set(parent.path(), Path::new("/nowhere/tollgate"), Patience::default(), 1, LANES).unwrap_err();
        assert!(error.to_string().contains("build it first"), "{error}");
    }
}
