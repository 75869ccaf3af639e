//! Commands against a gateway that runs in this process, with a simulated provider behind it: one operator's first day.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tollgate_store::store::write_atomically;
use tollgate_types::Clock;

use super::*;
use crate::config::{Config, Environment};
use crate::serve::{self, Running};

const ADMIN_KEY: &str = "a-key-for-these-tests";

struct World {
    gateway: Running,
    sim: tollgate_sim::Running,
    dir: TempDir,
}

impl World {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let sim = tollgate_sim::spawn(tollgate_sim::Options::on_any_port()).expect("a free port");
        let write =
            |name: &str, text: &str| write_atomically(&dir.path().join(name), text.as_bytes()).expect("written");
        write("master.key", &"0f".repeat(32));
        write("admin.key", &format!("{ADMIN_KEY}\n"));
        write("tollgate.toml", &Self::config(dir.path(), sim.addr));
        let config = Config::load(&dir.path().join("tollgate.toml"), &Environment::default()).expect("it holds");
        let gateway = serve::start(&config, Clock::System).expect("it starts");
        Self { gateway, sim, dir }
    }

    fn config(dir: &Path, provider: SocketAddr) -> String {
        format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nworkers = 1\n\
             [store]\ndir = {:?}\nsegment_bytes = 1048576\n\
             [secrets]\nmaster_key = \"file:{dir}/master.key\"\nadmin_key = \"file:{dir}/admin.key\"\n\
             [providers.sim]\npriced_as = \"openai\"\nbase_url = \"http://{provider}/v1\"\n\
             [routes.\"gpt-4o-mini\"]\nprovider = \"sim\"\n",
            dir.join("data"),
            dir = dir.display()
        )
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs a command line of a client of this gateway.
    fn tell(&self, line: &str) -> Result<Answer, Failure> {
        let key = self.file("admin.key");
        let line = format!("tollgate {line} --url http://{} --admin-key file:{}", self.gateway.address, key.display());
        dispatch(parse(&line).expect("it parses").command)
    }

    fn text(&self, line: &str) -> String {
        self.tell(line).unwrap_or_else(|failure| panic!("{line}: {failure}")).text
    }

    fn json(&self, line: &str) -> Value {
        self.tell(line).unwrap_or_else(|failure| panic!("{line}: {failure}")).json
    }

    /// Asks the model, and gives back the request's id.
    fn chat(&self, key: &str) -> String {
        let body = r#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hi"}],"max_tokens":20}"#;
        let answer = self.ask(key, body);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let id = answer.lines().find_map(|line| line.strip_prefix("x-request-id: "));
        id.expect("every answer has one").trim().to_owned()
    }

    /// The whole answer, head and all.
    fn ask(&self, key: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(self.gateway.address).expect("it listens");
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        answer
    }

    /// Stops in order; what is left is the folder.
    fn stop(self) -> TempDir {
        let Self { gateway, sim, dir } = self;
        gateway.stop();
        drop(sim);
        dir
    }
}

#[test]
fn an_operator_s_first_day() {
    let world = World::start();
    assert!(world.text("tenant list").contains("no tenants yet"));
    assert!(world.text("tenant create demo --name Demo").contains("name       Demo"));
    assert!(matches!(world.tell("tenant create demo"), Err(Failure::Failed(said)) if said.contains("409")));
    assert!(matches!(world.tell("tenant show nobody"), Err(Failure::Failed(said)) if said.contains("404")));
    assert_eq!(world.json("tenant show demo")["plan"], "standard");
    assert!(world.text("project create main --tenant demo --name Main").contains("Main"));
    assert_eq!(world.json("project list --tenant demo").as_array().map(Vec::len), Some(2));
    assert!(world.text("plan set standard --markup-percent 20").contains("20.00"));
    assert!(world.text("plan list").contains("standard"));
    assert!(matches!(world.tell("plan set standard --markup-percent 1.234"), Err(Failure::Arguments(_))));
    assert!(world.text("budget set --tenant demo --window day --cap-usd 1").contains("1.00"));

    let key = world.json("key create --tenant demo --name laptop");
    let (id, secret) = (key["id"].as_str().expect("an id"), key["key"].as_str().expect("a key"));
    assert!(!world.text("key list --tenant demo").contains(secret));
    let request = world.chat(secret);
    assert!(world.text("usage list --tenant demo").contains(&request), "what was answered is in it at once");
    assert!(world.text("usage summary --by tenant").contains("demo"));
    assert_eq!(world.json(&format!("receipt show {request}"))["state"], "posted");
    check_receipt(&world, &request);
    assert_ne!(world.json("budget list --tenant demo")[0]["posted_picousd"], "0");
    assert!(world.text("ledger show").contains("drift          0 picodollars"));

    assert!(world.text("price list").contains("shipped"));
    let book = world.file("book.toml");
    write_atomically(
        &book,
        tollgate_admission::price::SHIPPED.replacen("version = \"", "version = \"mine-", 1).as_bytes(),
    )
    .expect("written");
    assert!(world.text(&format!("price push {}", book.display())).contains("pushed"));
    assert!(world.text(&format!("key revoke {id}")).contains("is revoked"));
    assert!(world.text("budget remove --tenant demo --window day").contains("is removed"));
    assert!(world.text("budget list").contains("no budgets"));

    let config = world.file("tollgate.toml");
    let checked = world.tell(&format!("doctor --config {}", config.display())).expect("a report");
    assert!(checked.passed, "{}", checked.text);
    for part in ["a running gateway has the store open", "sim is there", "ready at", "drift 0"] {
        assert!(checked.text.contains(part), "{part} in {}", checked.text);
    }

    let dir = world.stop();
    let verify = format!("tollgate ledger verify --config {}", dir.path().join("tollgate.toml").display());
    let verified = dispatch(parse(&verify).expect("it parses").command).expect("a report");
    assert!(verified.passed, "{}", verified.text);
    assert!(verified.text.contains("requests       1"), "{}", verified.text);
}

/// A receipt and the keys are saved, and verified without the gateway; then somebody tries to improve it.
fn check_receipt(world: &World, request: &str) {
    let save = |name: &str, text: &str| {
        write_atomically(&world.file(name), text.as_bytes()).expect("written");
        world.file(name).display().to_string()
    };
    let receipt = world.tell(&format!("receipt show {request}")).expect("a receipt").rendered(true);
    let keys = save("keys.json", &world.tell("receipt key").expect("keys").rendered(true));
    let verify = |file: &str| {
        let line = format!("tollgate receipt verify {file} --keys {keys}");
        dispatch(parse(&line).expect("it parses").command)
    };
    let file = save("receipt.json", &receipt);
    let verified = verify(&file).expect("an answer");
    assert!(verified.passed, "{}", verified.text);
    assert_eq!(verified.json["statement"]["request_id"], request);
    for part in ["signature   ok    Ed25519, by key", "copy        ok", "arithmetic  ok", "tenant         demo"] {
        assert!(verified.text.contains(part), "{part} in {}", verified.text);
    }
    let improved = verify(&save("improved.json", &receipt.replace("\"posted\"", "\"voided\""))).expect("an answer");
    assert!(!improved.passed && improved.text.contains("copy        FAIL  \"state\""), "{}", improved.text);
    assert!(!improved.text.contains("tenant"), "nothing of it is shown: {}", improved.text);
    let broken = verify(&save("broken.json", &receipt[..receipt.len() / 2])).expect("an answer");
    assert!(!broken.passed && broken.json["verified"] == false, "{}", broken.text);
    assert!(matches!(verify("/nonexistent"), Err(Failure::Arguments(_))));
    let no_keys = format!("tollgate receipt verify {file} --keys {file}");
    assert!(matches!(dispatch(parse(&no_keys).expect("it parses").command), Err(Failure::Arguments(_))));
    assert_eq!(world.json("receipt key rotate")["keys"].as_array().map(Vec::len), Some(2));
    assert!(verify(&file).expect("an answer").passed, "what the old key signed");
}

#[test]
fn a_policy_is_tried_compared_pushed_explained_and_rolled_back() {
    let world = World::start();
    world.text("tenant create demo");
    let key = world.json("key create --tenant demo")["key"].as_str().expect("a key").to_owned();
    let passed = world.chat(&key);
    let sandbox = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies/sandbox");
    let sandbox = sandbox.to_str().expect("UTF-8");

    let closed = tempfile::tempdir().expect("a folder");
    let module = "package tollgate.admission\nallow if {\n\tinput.request.stream\n}\n";
    write_atomically(&closed.path().join("admission.rego"), module.as_bytes()).expect("written");
    let closed = closed.path().to_str().expect("UTF-8");

    let differs = world.json(&format!("policy diff {closed} --tenant demo"));
    assert_eq!((&differs["decisions"], &differs["changed"]), (&Value::from(1), &Value::from(1)), "{differs}");
    assert_eq!(differs["changes"][0]["request_id"], passed.as_str());
    assert_eq!(differs["changes"][0]["then"], "refused: no rule allows it");
    let same = world.text(&format!("policy diff {sandbox} --tenant demo"));
    assert!(same.contains("passes with") && same.contains("1 of the last 1 decisions would change"), "{same}");

    world.text(&format!("policy push {sandbox} --tenant demo"));
    world.chat(&key);
    let pushed = world.text(&format!("policy push {closed} --tenant demo"));
    assert!(pushed.contains("pf_") && pushed.contains("demo"), "{pushed}");
    let body = r#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hi"}]}"#;
    let refused = world.ask(&key, body);
    assert!(refused.starts_with("HTTP/1.1 403") && refused.contains("policy_denied"), "{refused}");
    let id = refused.lines().find_map(|line| line.strip_prefix("x-request-id: ")).expect("an id").trim();
    let why = world.text(&format!("policy explain {id}"));
    assert!(why.contains("refused: no rule of the tenant's policy allows it"), "{why}");
    assert!(why.contains("admission.rego:2: allow does not hold, for line 3 does not: input.request.stream"), "{why}");
    assert!(
        why.contains("\"route\":\"gpt-4o-mini\"") && !why.contains("\"hi\""),
        "what was asked, without the prompt: {why}"
    );
    let other = world.text(&format!("policy explain {id} --bundle {sandbox}"));
    assert!(other.contains("allow holds"), "{other}");

    world.text("policy rollback --tenant demo");
    world.chat(&key);
    world.text("policy remove --tenant demo");
    assert!(world.text("policy list").contains("no policies"), "it is gone");
    let unknown = world.tell("policy explain req_00000000000000000000000000000001").expect_err("nobody knows it");
    assert!(unknown.to_string().contains("not among the last requests"), "{unknown}");
    world.stop();
}

#[test]
fn a_wrong_admin_key_is_told_as_such() {
    let world = World::start();
    let line = format!("tollgate tenant list --url http://{} --admin-key wrong", world.gateway.address);
    let failure = dispatch(parse(&line).expect("it parses").command).expect_err("a wrong key");
    assert!(failure.to_string().contains("TOLLGATE_ADMIN_KEY"), "{failure}");
    let line = format!("{line} --json").replace("tenant list", "doctor --config /nonexistent.toml");
    let checked = dispatch(parse(&line).expect("it parses").command).expect("a report");
    assert!(!checked.passed);
    assert!(checked.text.contains("FAIL  admin key"), "{}", checked.text);
    drop(world.stop());
}

#[test]
fn what_the_gateway_cannot_start_with_has_its_own_exit_code() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = dir.path().join("tollgate.toml");
    let serve = || dispatch(parse(&format!("tollgate serve --config {}", config.display())).expect("fine").command);
    assert!(matches!(serve(), Err(Failure::Configuration(said)) if said.contains("tollgate.toml")));
    write_atomically(&config, b"[server]\nlisen = 1\n").expect("written");
    assert!(matches!(serve(), Err(Failure::Configuration(said)) if said.contains("lisen")));
    let bad_master_key = StartError::Store(StoreError::Vault(VaultError::MalformedMasterKey));
    assert!(is_configurations_fault(&bad_master_key.into()));
    let in_use = StartError::Store(StoreError::InUse("data".into()));
    assert!(!is_configurations_fault(&in_use.into()), "a store in use is met, not told");
}

#[test]
fn the_documents_are_what_the_program_says() {
    let said = |line: &str| dispatch(parse(line).expect("fine").command).expect("a document").rendered(true);
    assert!(said("tollgate docs openapi").contains("\"openapi\": \"3.1.0\""));
    assert!(said("tollgate docs configuration").contains("# Configuration"));
}
