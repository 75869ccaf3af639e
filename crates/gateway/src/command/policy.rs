//! `tollgate policy`. Checking and testing a bundle needs no gateway: it is read here, by the same code.

use std::path::{Path, PathBuf};

use serde_json::json;
use tollgate_client::{AdminClient, ClientError, DecisionQuery, Policy, PolicyDecision, PolicyOf};
use tollgate_policy::explain::Explanation;
use tollgate_policy::mutate::{self, Mutant};
use tollgate_policy::trial::{Coverage, Outcome, Trial};
use tollgate_policy::{Bundle, Law, Obligations, Verdict, archive, folder, law};
use tollgate_types::{PlanId, TenantId};

use super::table::{Column, or_none, table};
use super::{Answer, Connection, Failure};

#[derive(Debug, clap::Args)]
pub struct PolicyArgs {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Check a bundle without a gateway: tell what is wrong with it, or what it reads and its fingerprint
    #[command(after_help = "Example:\n  tollgate policy check policies/baseline")]
    Check {
        /// A folder, or an archive as `opa build` writes it
        bundle: PathBuf,
    },
    /// Run a bundle's own tests (rules `test_*` in `*_test.rego`), and tell which lines they reach
    #[command(after_help = "Example:\n  tollgate policy test policies/baseline")]
    Test {
        /// A folder, or an archive as `opa build` writes it
        bundle: PathBuf,
        /// Fail if the tests reach fewer percent of the lines
        #[arg(long, value_name = "PERCENT", default_value_t = 0.0)]
        coverage: f64,
        /// Break the policy in one place after another too, and fail if the tests do not notice each
        #[arg(long)]
        mutants: bool,
    },
    /// Ask a bundle, without a gateway: a line with a decision for each line with a document `input`
    #[command(after_help = "Example:\n  echo '{\"request\": {\"surface\": \"chat\"}}' > inputs.jsonl\n  \
                            tollgate policy eval policies/baseline inputs.jsonl")]
    Eval {
        /// A folder, or an archive as `opa build` writes it
        bundle: PathBuf,
        /// JSON lines
        inputs: PathBuf,
    },
    /// Put a bundle into force
    #[command(after_help = "Examples:\n  tollgate policy push policies/baseline --platform\n  \
                            tollgate policy push policies/sandbox --tenant demo")]
    Push {
        /// A folder, or an archive as `opa build` writes it
        bundle: PathBuf,
        #[command(flatten)]
        of: OfArgs,
    },
    /// Say why a request was refused or let pass: each rule of the bundle, and which line of it did not hold
    #[command(after_help = "Examples:\n  tollgate policy explain req_019ab0f2c3d4000000000000deadbeef\n  \
                            tollgate policy explain --bundle policies/sandbox --input input.json")]
    Explain {
        /// One of the last few thousand; its id is in the answer's `x-request-id`
        #[arg(required_unless_present = "input")]
        request: Option<String>,
        /// This bundle instead of the one in force that refused it (or the tenant's, its plan's, or the platform's)
        #[arg(long)]
        bundle: Option<PathBuf>,
        /// A file with the document `input`, instead of a request
        #[arg(long, value_name = "FILE", requires = "bundle", conflicts_with = "request")]
        input: Option<PathBuf>,
    },
    /// Say what a bundle would change of the last decisions, if it came into force
    #[command(after_help = "Example:\n  tollgate policy diff policies/sandbox --tenant demo --last 1000")]
    Diff {
        /// A folder, or an archive as `opa build` writes it
        bundle: PathBuf,
        #[command(flatten)]
        of: OfArgs,
        /// So many decisions
        #[arg(long, value_name = "N", default_value_t = 1000)]
        last: usize,
    },
    /// List the bundles in force
    #[command(visible_alias = "show", after_help = "Example:\n  tollgate policy list")]
    List,
    /// Put the bundle before the one in force into force again
    #[command(after_help = "Example:\n  tollgate policy rollback --tenant demo")]
    Rollback {
        #[command(flatten)]
        of: OfArgs,
    },
    /// Take the say of the platform, a plan or a tenant away
    #[command(after_help = "Example:\n  tollgate policy remove --tenant demo")]
    Remove {
        #[command(flatten)]
        of: OfArgs,
    },
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct OfArgs {
    /// Of this tenant
    #[arg(long)]
    tenant: Option<TenantId>,
    /// Of all tenants of this plan
    #[arg(long)]
    plan: Option<PlanId>,
    /// Of everybody
    #[arg(long)]
    platform: bool,
}

// === impl PolicyArgs ===

impl PolicyArgs {
    pub async fn run(self) -> Result<Answer, Failure> {
        match self.action {
            Action::Check { bundle } => check(&bundle),
            Action::Test { bundle, coverage, mutants } => test(&bundle, coverage, mutants),
            Action::Eval { bundle, inputs } => eval(&bundle, &inputs),
            Action::Push { bundle, of } => {
                let archive = match bundle.is_dir() {
                    true => archive::pack(&folder::files(&bundle).map_err(failed)?).map_err(failed)?,
                    false => read(&bundle)?,
                };
                let policy = self.connection.client()?.push_policy(&of.asked(), archive).await?;
                Ok(Answer::new(listed(std::slice::from_ref(&policy)), &policy))
            }
            Action::Explain { request, bundle, input } => {
                let text = |path: &PathBuf| read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
                let (asked, of) = match (request, input) {
                    (Some(request), _) => {
                        let decision = decision(&self.connection.client()?, request).await?;
                        (decision.input.to_string(), Some(decision))
                    }
                    (None, input) => (input.as_ref().map(text).transpose()?.unwrap_or_default(), None),
                };
                let bundle = match (&bundle, &of) {
                    (Some(path), _) => bundle_at(path)?,
                    (None, Some(of)) => nearest(&self.connection.client()?, of).await?,
                    (None, None) => return Err(Failure::Arguments("name a bundle".to_owned())),
                };
                explain(&bundle, &asked, of.as_ref())
            }
            Action::Diff { bundle, of, last } => {
                let client = self.connection.client()?;
                let of = of.asked();
                let new = law_of(&bundle_at(&bundle)?)?;
                let old = match client.policy_bundle(&of).await {
                    Ok(archive) => Some(law_of(&Bundle::from_archive(&archive).map_err(failed)?)?),
                    Err(ClientError::Refused { status: 404, .. }) => None,
                    Err(error) => return Err(error.into()),
                };
                let PolicyOf { tenant, plan, .. } = of;
                let wanted = DecisionQuery { tenant, plan, request_id: None, limit: Some(last) };
                diff(old.as_ref(), &new, &client.policy_decisions(&wanted).await?)
            }
            Action::List => {
                let policies = self.connection.client()?.policies().await?;
                Ok(Answer::new(listed(&policies), &policies))
            }
            Action::Rollback { of } => {
                let policy = self.connection.client()?.roll_policy_back(&of.asked()).await?;
                Ok(Answer::new(listed(std::slice::from_ref(&policy)), &policy))
            }
            Action::Remove { of } => {
                let of = of.asked();
                self.connection.client()?.remove_policy(&of).await?;
                Ok(Answer::new("the policy is removed".to_owned(), &json!({ "removed": of })))
            }
        }
    }
}

// === impl OfArgs ===

impl OfArgs {
    fn asked(self) -> PolicyOf {
        let Self { tenant, plan, platform } = self;
        PolicyOf { tenant: tenant.map(|id| id.to_string()), plan: plan.map(|id| id.to_string()), platform }
    }
}

fn check(path: &Path) -> Result<Answer, Failure> {
    let law = match bundle_at(path).and_then(|bundle| law_of(&bundle)) {
        Ok(law) => law,
        Err(failure) => return Ok(problem(&failure)),
    };
    let reads: Vec<String> = law.fields.iter().map(ToString::to_string).collect();
    let fingerprint = law.fingerprint.to_string();
    let memory = if law.fields.reads_time() { "asked each time, since it reads the clock" } else { "remembered" };
    let text = format!(
        "the bundle is good\nrevision     {}\nfingerprint  {fingerprint}\nreads        {}\ndecisions    {memory}",
        law.revision,
        reads.join(", "),
    );
    Ok(Answer::new(text, &json!({ "revision": law.revision, "fingerprint": fingerprint, "reads": reads })))
}

/// A check that found something, not a command that failed.
fn problem(failure: &Failure) -> Answer {
    Answer::new(failure.to_string(), &json!({ "problem": failure.to_string() })).passed_if(false)
}

fn test(path: &Path, coverage_min: f64, with_mutants: bool) -> Result<Answer, Failure> {
    let tried = bundle_at(path).and_then(|bundle| {
        law_of(&bundle)?;
        let mutants = if with_mutants { mutate::mutants(&bundle) } else { Ok(Vec::new()) };
        Ok((Trial::of(&bundle).map_err(failed)?, mutants.map_err(failed)?))
    });
    let (trial, mutants) = match tried {
        Ok(tried) => tried,
        Err(failure) => return Ok(problem(&failure)),
    };
    let outcome = |outcome: &Outcome| match outcome {
        Outcome::Passed => "ok".to_owned(),
        Outcome::Failed => "FAILED".to_owned(),
        Outcome::Error(why) => format!("FAILED: {why}"),
    };
    let mut lines: Vec<String> =
        trial.tests.iter().map(|test| format!("{}  {}", outcome(&test.outcome), test.name)).collect();
    for Coverage { path, covered, missed } in &trial.coverage {
        let missed: Vec<String> = missed.iter().map(u32::to_string).collect();
        let said = if missed.is_empty() { "all lines".to_owned() } else { format!("not lines {}", missed.join(", ")) };
        lines.push(format!("{path}: {covered} lines reached, {said}"));
    }
    let percent = trial.coverage_percent();
    let of = |outcome| mutants.iter().filter(move |mutant: &&Mutant| mutant.outcome == outcome);
    let (killed, alive) = (of(mutate::Outcome::Killed).count(), of(mutate::Outcome::Survived).count());
    lines.extend(
        of(mutate::Outcome::Survived)
            .map(|Mutant { file, line, change, .. }| format!("{file}:{line}: no test noticed that {change}")),
    );
    if with_mutants {
        lines.push(format!("{killed} of {} mutants killed", killed + alive));
    }
    let passed = trial.passed() && percent >= coverage_min && alive == 0;
    lines.push(match trial.tests.is_empty() {
        true => "there is no test: write rules test_* in a file *_test.rego".to_owned(),
        false => format!("{} tests, {percent:.1} % of the lines reached", trial.tests.len()),
    });
    let tests: Vec<_> =
        trial.tests.iter().map(|test| json!({ "name": test.name, "outcome": outcome(&test.outcome) })).collect();
    let json = json!({ "passed": passed, "tests": tests, "coverage_percent": percent, "mutants_killed": killed, "mutants_alive": alive });
    Ok(Answer::new(lines.join("\n"), &json).passed_if(passed))
}

/// One decision, by the request's id.
async fn decision(client: &AdminClient, request: String) -> Result<PolicyDecision, Failure> {
    let wanted = DecisionQuery { request_id: Some(request.clone()), ..DecisionQuery::default() };
    let found = client.policy_decisions(&wanted).await?.pop();
    found.ok_or_else(|| Failure::Failed(format!("{request} is not among the last requests that this gateway judged")))
}

/// The bundle that refused a request; or, where none did, the narrowest that is in force for it.
async fn nearest(client: &AdminClient, of: &PolicyDecision) -> Result<Bundle, Failure> {
    if of.layer.as_deref() == Some("template") {
        let what =
            "the policy that comes with the template refused it: ask `tollgate policy eval` with the folder of that";
        return Err(Failure::Failed(what.to_owned()));
    }
    let layers = [
        ("tenant", PolicyOf { tenant: Some(of.tenant.clone()), ..PolicyOf::default() }),
        ("plan", PolicyOf { plan: Some(of.plan.clone()), ..PolicyOf::default() }),
        ("platform", PolicyOf { platform: true, ..PolicyOf::default() }),
    ];
    for (name, layer) in layers {
        if of.layer.as_deref().is_some_and(|layer| layer != name) {
            continue;
        }
        match client.policy_bundle(&layer).await {
            Ok(archive) => return Bundle::from_archive(&archive).map_err(failed),
            Err(ClientError::Refused { status: 404, .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Failure::Failed("no policy is in force for this request; name one with --bundle".to_owned()))
}

fn law_of(bundle: &Bundle) -> Result<Law, Failure> {
    Law::compile(bundle).map_err(failed)
}

fn eval(bundle: &Path, inputs: &Path) -> Result<Answer, Failure> {
    let law = law_of(&bundle_at(bundle)?)?;
    let inputs = read(inputs)?;
    let said = |line: &str| -> Result<serde_json::Value, Failure> {
        let input = law::input(line).map_err(Failure::Failed)?;
        Ok(match law.decide_input(input) {
            Ok(Verdict::Allowed(obligations)) => json!({ "allowed": true, "obligations": obligations }),
            Ok(Verdict::Denied(reasons)) => json!({ "allowed": false, "deny": reasons }),
            Err(undecided) => json!({ "allowed": false, "error": undecided.to_string() }),
        })
    };
    let text = String::from_utf8_lossy(&inputs);
    let decisions = text.lines().filter(|line| !line.trim().is_empty()).map(said).collect::<Result<Vec<_>, _>>()?;
    let lines: Vec<String> = decisions.iter().map(ToString::to_string).collect();
    Ok(Answer::new(lines.join("\n"), &decisions))
}

fn explain(bundle: &Bundle, input: &str, of: Option<&PolicyDecision>) -> Result<Answer, Failure> {
    let value = law::input(input).map_err(Failure::Failed)?;
    let explanation = Explanation::of(bundle, &value).map_err(failed)?;
    let decided = match of {
        Some(PolicyDecision { allowed: true, .. }) => "it passed\n".to_owned(),
        Some(PolicyDecision { reason: Some(reason), .. }) => format!("refused: {reason}\n"),
        _ => String::new(),
    };
    let text = format!("{decided}{explanation}\ninput: {input}");
    let rules: Vec<_> = explanation
        .rules
        .iter()
        .map(|rule| json!({ "file": rule.file, "line": rule.line, "rule": rule.rule, "said": rule.said.to_string() }))
        .collect();
    Ok(Answer::new(text, &json!({ "decision": of, "rules": rules })))
}

/// What the layer says of each request by the old bundle and by the new one.
fn diff(old: Option<&Law>, new: &Law, decisions: &[PolicyDecision]) -> Result<Answer, Failure> {
    let mut changes = Vec::new();
    for decision in decisions {
        let said = |law: &Law| -> Result<String, Failure> {
            let input = law::input(&decision.input.to_string()).map_err(Failure::Failed)?;
            Ok(match law.decide_input(input) {
                Ok(Verdict::Allowed(obligations)) if obligations == Obligations::default() => "passes".to_owned(),
                Ok(Verdict::Allowed(obligations)) => format!("passes with {}", json!(obligations)),
                Ok(Verdict::Denied(reasons)) if reasons.is_empty() => "refused: no rule allows it".to_owned(),
                Ok(Verdict::Denied(reasons)) => format!("refused: {}", reasons.join("; ")),
                Err(undecided) => format!("refused: {undecided}"),
            })
        };
        let (before, after) = (old.map_or(Ok("passes".to_owned()), &said)?, said(new)?);
        if before != after {
            let route = decision.input["request"]["route"].as_str().unwrap_or_default().to_owned();
            changes.push([decision.request_id.clone(), route, before, after]);
        }
    }
    let columns = [Column::Text("REQUEST"), Column::Text("ROUTE"), Column::Text("NOW"), Column::Text("THEN")];
    let rows = changes.iter().map(|change| change.to_vec()).collect();
    let (looked_at, changed) = (decisions.len(), changes.len());
    let text = format!(
        "{}\n{changed} of the last {looked_at} decisions would change",
        table(&columns, rows, "nothing would change")
    );
    let changes: Vec<_> =
        changes.iter().map(|[id, _, now, then]| json!({ "request_id": id, "now": now, "then": then })).collect();
    Ok(Answer::new(text, &json!({ "decisions": looked_at, "changed": changed, "changes": changes })))
}

fn bundle_at(path: &Path) -> Result<Bundle, Failure> {
    match path.is_dir() {
        true => folder::bundle(path).map_err(failed),
        false => Bundle::from_archive(&read(path)?).map_err(failed),
    }
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Failed(error.to_string())
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    folder::read(path).map_err(failed)
}

fn listed(policies: &[Policy]) -> String {
    let columns = [
        Column::Text("LAYER"),
        Column::Text("OF"),
        Column::Text("REVISION"),
        Column::Text("FINGERPRINT"),
        Column::Text("SET AT"),
        Column::Number("EARLIER"),
    ];
    let row = |policy: &Policy| {
        let of = policy.tenant.as_ref().or(policy.plan.as_ref());
        vec![
            policy.layer.clone(),
            or_none(of),
            policy.revision.clone(),
            policy.fingerprint.clone(),
            policy.set_at.clone(),
            policy.earlier.to_string(),
        ]
    };
    table(&columns, policies.iter().map(row).collect(), "no policies: every tenant may use every route")
}
