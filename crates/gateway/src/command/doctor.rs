//! `tollgate doctor`: looks at everything a gateway stands on, in the order in which a start would stumble over it, and
//! says for each thing what to do. It changes nothing.

mod disk;
mod reach;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use tollgate_store::vault::MasterKey;
use tollgate_types::{Clock, Timestamp};

use super::connection::SecretKey;
use super::{Answer, Connection, Failure};
use crate::config::{Config, ConfigError, Environment};

#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = "tollgate.toml")]
    config: PathBuf,
    #[command(flatten)]
    connection: Connection,
}

/// One thing looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    check: &'static str,
    level: Level,
    found: String,
    /// What to do about it; empty if nothing needs to be done.
    #[serde(skip_serializing_if = "str::is_empty")]
    advice: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Level {
    #[serde(rename = "ok")]
    Ok,
    #[serde(rename = "warn")]
    Warn,
    #[serde(rename = "FAIL")]
    Fail,
}

impl DoctorArgs {
    pub async fn run(mut self) -> Result<Answer, Failure> {
        let config = Config::load(&self.config, &Environment::of_process());
        let mut findings = configuration(&self.config, &config);
        if let Ok(config) = &config {
            findings.push(master_key(config));
            findings.extend(disk::examine(&config.store.dir, config.store.segment_bytes as u64));
            for provider in config.routing.providers.values() {
                findings.push(reach::provider(provider).await);
            }
            self.connection.url_if_unsaid(|| address(config));
            self.connection.admin_key.get_or_insert_with(|| SecretKey::new(config.admin_key.expose()));
        }
        findings.extend(gateway(&self.connection).await);
        let newest = config.ok().and_then(|config| disk::newest_write(&config.store.dir));
        findings.push(clock(Clock::System.now(), newest));
        Ok(report(&findings))
    }
}

/// Where the gateway of this configuration is to be found from here.
fn address(config: &Config) -> String {
    let scheme = if config.server.tls.is_some() { "https" } else { "http" };
    let mut listen = config.server.listen;
    if listen.ip().is_unspecified() {
        listen.set_ip(if listen.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    format!("{scheme}://{listen}")
}

/// One finding for each thing that is wrong with it.
fn configuration(path: &Path, config: &Result<Config, ConfigError>) -> Vec<Finding> {
    match config {
        Err(ConfigError(problems)) => problems.iter().map(|problem| wrong(problem.clone())).collect(),
        Ok(config) => {
            let (routes, providers) = (config.routing.routes.len(), config.routing.providers.len());
            let keys = config.routing.providers.values().filter(|provider| provider.api_key.is_some()).count();
            let mut findings = vec![
                Finding::ok(
                    "configuration",
                    format!("{} holds: {routes} routes to {providers} providers", path.display()),
                ),
                Finding::ok("secrets", format!("the master key, the admin key and {keys} provider keys were found")),
            ];
            if routes == 0 {
                let advice = "add [routes.\"NAME\"]; until then every model is refused";
                findings.push(Finding::warn("routes", "there are none".to_owned(), advice));
            }
            findings
        }
    }
}

fn wrong(problem: String) -> Finding {
    Finding::fail("configuration", problem, "docs/configuration.md tells every field and how secrets are referred to")
}

fn master_key(config: &Config) -> Finding {
    match MasterKey::from_hex(config.master_key.expose()) {
        Ok(_) => Finding::ok("master key", "it has the right form".to_owned()),
        Err(error) => {
            Finding::fail("master key", error.to_string(), "give secrets.master_key a reference to such a key")
        }
    }
}

async fn gateway(connection: &Connection) -> Vec<Finding> {
    const NOT_ASKED: &str = "give the admin key to have the running gateway checked too";
    const DEADLINE: Duration = Duration::from_secs(5);
    let mut findings = Vec::new();
    if reach::is_exposed(&connection.url) {
        let found =
            format!("{} is plain http to another machine: the admin key can be read on the way", connection.url);
        findings.push(Finding::warn("transport", found, "reach the gateway over https, or through a tunnel"));
    }
    let client = match connection.client() {
        Ok(client) => client.with_deadline(DEADLINE),
        Err(failure) => {
            findings.push(Finding::warn("gateway", format!("not asked: {failure}"), NOT_ASKED));
            return findings;
        }
    };
    if let Err(error) = client.ready().await {
        let found = Failure::from(error).to_string();
        findings.push(Finding::warn("gateway", found, "start it with `tollgate serve`, or see its log"));
        return findings;
    }
    findings.push(Finding::ok("gateway", format!("ready at {}", connection.url)));
    findings.push(match client.ledger().await {
        Ok(state) if state.drift_picousd == "0" => Finding::ok("ledger", "it balances: drift 0".to_owned()),
        Ok(state) => {
            let found = format!("drift of {} picodollars", state.drift_picousd);
            Finding::fail("ledger", found, "stop the gateway and run `tollgate ledger verify`")
        }
        Err(error) => {
            let found = Failure::from(error).to_string();
            Finding::fail("admin key", found, "give the key that secrets.admin_key refers to")
        }
    });
    findings
}

/// A clock that stands before this program was written is wrong; one behind the store's own files went back.
fn clock(now: Timestamp, newest_write: Option<Timestamp>) -> Finding {
    const ADVICE: &str = "set the clock (NTP): windows of budgets and times of expiry follow it";
    /// 2026-01-01T00:00:00Z.
    const WRITTEN_AFTER: Timestamp = Timestamp(1_767_225_600_000_000);
    const SLACK: Duration = Duration::from_secs(60);
    if now < WRITTEN_AFTER {
        return Finding::fail("clock", format!("it says {now}"), ADVICE);
    }
    match newest_write {
        Some(newest) if newest > now.plus(SLACK) => {
            Finding::fail("clock", format!("it says {now}, but the store was written at {newest}"), ADVICE)
        }
        _ => Finding::ok("clock", format!("it says {now}")),
    }
}

fn report(findings: &[Finding]) -> Answer {
    let text = findings.iter().map(Finding::line).collect::<Vec<_>>().join("\n");
    let passed = findings.iter().all(|finding| finding.level != Level::Fail);
    Answer::new(text, &serde_json::json!({ "passed": passed, "checks": findings })).passed_if(passed)
}

// === impl Finding ===

impl Finding {
    pub fn ok(check: &'static str, found: String) -> Self {
        Self { check, level: Level::Ok, found, advice: "" }
    }

    pub fn warn(check: &'static str, found: String, advice: &'static str) -> Self {
        Self { check, level: Level::Warn, found, advice }
    }

    pub fn fail(check: &'static str, found: String, advice: &'static str) -> Self {
        Self { check, level: Level::Fail, found, advice }
    }

    fn line(&self) -> String {
        let level = match self.level {
            Level::Ok => "ok  ",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        let line = format!("{level}  {:13}  {}", self.check, self.found);
        if self.advice.is_empty() { line } else { format!("{line}\n{:21}-> {}", "", self.advice) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_says_how_it_stands_and_what_to_do() {
        let findings = [
            Finding::ok("clock", "it says 2026-11-23T05:00:00Z".into()),
            Finding::fail("master key", "no such file".into(), "make the file"),
        ];
        let answer = report(&findings);
        assert!(!answer.passed);
        assert_eq!(
            answer.text,
            "ok    clock          it says 2026-11-23T05:00:00Z\n\
             FAIL  master key     no such file\n\
             \x20                    -> make the file"
        );
        assert_eq!(answer.json["checks"][1]["level"], "FAIL");
    }

    #[test]
    fn everything_wrong_with_a_configuration_is_a_finding() {
        let config = Err(ConfigError(vec!["server.listen: no".into(), "secrets.admin_key: not set".into()]));
        let findings = configuration(Path::new("tollgate.toml"), &config);
        assert_eq!(findings.iter().map(|finding| finding.level).collect::<Vec<_>>(), [Level::Fail, Level::Fail]);
        assert!(findings[1].found.contains("secrets.admin_key"));
    }

    #[test]
    fn a_configuration_that_holds_has_its_master_key_looked_at() {
        let environment =
            Environment::of([("TOLLGATE_MASTER_KEY", "00"), ("TOLLGATE_ADMIN_KEY", "long-enough-admin-key")]);
        let config = Config::parse("", Path::new("tollgate.toml"), &environment).expect("it holds");
        assert_eq!(master_key(&config).level, Level::Fail);
        let findings = configuration(Path::new("tollgate.toml"), &Ok(config));
        assert_eq!(findings.last().map(|finding| finding.check), Some("routes"), "none is worth a warning");
    }

    #[test]
    fn the_gateway_is_looked_for_where_its_configuration_says() {
        let config = |listen: &str| {
            let environment = Environment::of([
                ("TOLLGATE_MASTER_KEY", "00"),
                ("TOLLGATE_ADMIN_KEY", "long-enough-admin-key"),
                ("TOLLGATE_SERVER__LISTEN", listen),
            ]);
            Config::parse("", Path::new("tollgate.toml"), &environment).expect("it holds")
        };
        assert_eq!(address(&config("0.0.0.0:9000")), "http://127.0.0.1:9000");
        assert_eq!(address(&config("[::]:9000")), "http://[::1]:9000");
        let mut connection = Connection { url: Connection::DEFAULT_URL.into(), admin_key: None, approval: None };
        connection.url_if_unsaid(|| address(&config("127.0.0.1:9001")));
        assert_eq!(connection.url, "http://127.0.0.1:9001");
        connection.url_if_unsaid(|| "http://elsewhere".into());
        assert_eq!(connection.url, "http://127.0.0.1:9001", "what was said counts");
    }

    #[test]
    fn a_warning_alone_passes() {
        assert!(report(&[Finding::warn("gateway", "not asked".into(), "give the key")]).passed);
    }

    #[test]
    fn a_clock_that_went_back_fails() {
        let at = |text| Timestamp::parse_rfc3339(text).expect("a time");
        let now = at("2026-11-23T05:00:00Z");
        assert_eq!(clock(now, None).level, Level::Ok);
        assert_eq!(clock(now, Some(at("2026-11-23T05:00:30Z"))).level, Level::Ok, "files may be a moment ahead");
        assert_eq!(clock(now, Some(at("2026-11-23T06:00:00Z"))).level, Level::Fail);
        assert_eq!(clock(at("1970-01-01T00:00:10Z"), None).level, Level::Fail);
    }
}
