//! Proves the platform's guard (`crates/guard/guard/guard.cedar`), for all tenants, people, keys and things there could be:
//! it is compiled to logic by Cedar's own symbolic compiler, and cvc5 looks for a case in which it is wrong.
//!
//! 1. No rule can fail when it is asked.
//! 2. Whatever it allows, each file of `guard/proved` allows too: that is what the guard promises.
//! 3. What `guard/needed` allows, it allows too: else a guard that allows nothing would be proved.
//! 4. It is broken in every way that `mutants` knows, one at a time; a proof or the table of the guard's tests must notice.
//!
//! `SHORT=1` breaks it in every eighth way only. Ends with a line of JSON; exits with 1 if anything is not proved or not noticed. Needs `cvc5` (1.0.3 will do).

mod mutants;
#[path = "../../crates/guard/tests/table.rs"]
mod table;

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use cedar_policy::{PolicySet, RequestEnv, Schema};
use cedar_policy_symcc::solver::LocalSolver;
use cedar_policy_symcc::{CedarSymCompiler, CompiledPolicy, CompiledPolicySet};
use tollgate_guard::{Guard, SCHEMA, TEXT};

fn main() -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(prove())
}

/// What is to be proved, and with what.
struct Prover {
    schema: Schema,
    environments: Vec<RequestEnv>,
    /// What the guard may allow at most, by name.
    proved: BTreeMap<String, PolicySet>,
    /// What it must allow at least.
    needed: BTreeMap<String, PolicySet>,
    compiler: CedarSymCompiler<LocalSolver>,
}

async fn prove() -> Result<()> {
    let began = Instant::now();
    let guard = PolicySet::from_str(TEXT)?;
    let mut prover = Prover::new()?;
    let cases = prover.environments.len();
    println!("{cases} kinds of request: who asks, the act, what it is done with");

    prover.never_fails(&guard).await?;
    println!("proved  no rule can fail when it is asked");
    for name in prover.proved.keys().cloned().collect::<Vec<_>>() {
        let at = Instant::now();
        match prover.violates(&guard, &name).await? {
            None => println!("proved  {name} ({:.1} s)", at.elapsed().as_secs_f64()),
            Some(example) => bail!("the guard violates '{name}'; for example:\n{example}"),
        }
    }
    for name in prover.needed.keys().cloned().collect::<Vec<_>>() {
        match prover.withholds(&guard, &name).await? {
            None => println!("proved  {name}: all of it is allowed"),
            Some(example) => bail!("the guard does not allow all of '{name}'; for example:\n{example}"),
        }
    }
    let differing = table::differences(&Guard::new(TEXT)?).len();
    if differing > 0 {
        bail!("the guard differs from the table of its tests in {differing} cases");
    }

    let score = Score::of(&mut prover).await?;
    println!(
        "{}",
        serde_json::json!({
            "guard_proved": true,
            "guard_properties": prover.proved.len() + prover.needed.len() + 1,
            "guard_request_kinds": cases,
            "guard_mutants": score.mutants,
            "guard_mutants_killed": score.mutants - score.survivors.len(),
            "guard_mutants_killed_by_proof": score.by_proof,
            "guard_mutants_invalid": score.invalid,
            "guard_seconds": began.elapsed().as_secs_f64().round(),
        })
    );
    match score.survivors.as_slice() {
        [] => Ok(()),
        survivors => bail!("nobody noticed:\n{}", survivors.join("\n")),
    }
}

// === impl Prover ===

impl Prover {
    fn new() -> Result<Self> {
        let (schema, _) = Schema::from_cedarschema_str(SCHEMA)?;
        let environments = schema.request_envs().collect();
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/guard/guard");
        // A minute for each question.
        let solver = LocalSolver::cvc5_with_args(["--tlimit-per=60000"])
            .context("cvc5 is needed: apt-get install cvc5, or CVC5=/path/to/it")?;
        let compiler = CedarSymCompiler::new(solver)?;
        Ok(Self {
            schema,
            environments,
            proved: folder(&dir.join("proved"))?,
            needed: folder(&dir.join("needed"))?,
            compiler,
        })
    }

    async fn never_fails(&mut self, guard: &PolicySet) -> Result<()> {
        for environment in &self.environments {
            for policy in guard.policies() {
                let compiled = CompiledPolicy::compile(policy, environment, &self.schema)?;
                if !self.compiler.check_never_errors_opt(&compiled).await? {
                    bail!("the rule {} can fail when it is asked", policy.id());
                }
            }
        }
        Ok(())
    }

    /// A request that the guard allows and `name` does not, if there can be one.
    async fn violates(&mut self, guard: &PolicySet, name: &str) -> Result<Option<String>> {
        let Self { schema, environments, proved, compiler, .. } = self;
        implies(compiler, schema, environments, guard, &proved[name]).await
    }

    /// A request that `name` allows and the guard does not, if there can be one.
    async fn withholds(&mut self, guard: &PolicySet, name: &str) -> Result<Option<String>> {
        let Self { schema, environments, needed, compiler, .. } = self;
        implies(compiler, schema, environments, &needed[name], guard).await
    }
}

/// A request that `narrow` allows and `wide` does not, if there can be one, of any kind.
async fn implies(
    compiler: &mut CedarSymCompiler<LocalSolver>,
    schema: &Schema,
    environments: &[RequestEnv],
    narrow: &PolicySet,
    wide: &PolicySet,
) -> Result<Option<String>> {
    for environment in environments {
        let narrow = CompiledPolicySet::compile(narrow, environment, schema)?;
        let wide = CompiledPolicySet::compile(wide, environment, schema)?;
        if let Some(example) = compiler.check_implies_with_counterexample_opt(&narrow, &wide).await? {
            return Ok(Some(format!("{}\n{}", example.request, example.entities.as_ref())));
        }
    }
    Ok(None)
}

/// The sets of rules in a folder, by the names of their files.
fn folder(dir: &Path) -> Result<BTreeMap<String, PolicySet>> {
    let mut sets = BTreeMap::new();
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|stem| stem.to_str()).context("a file without a name")?;
        let set = PolicySet::from_str(&std::fs::read_to_string(&path)?);
        sets.insert(name.to_owned(), set.with_context(|| path.display().to_string())?);
    }
    if sets.is_empty() {
        bail!("{} is empty", dir.display());
    }
    Ok(sets)
}

// === mutants ===

/// How many broken guards were noticed.
#[derive(Default)]
struct Score {
    mutants: usize,
    by_proof: usize,
    /// Refused before they could run.
    invalid: usize,
    survivors: Vec<String>,
}

impl Score {
    async fn of(prover: &mut Prover) -> Result<Self> {
        let mut score = Self::default();
        let properties: Vec<String> = prover.proved.keys().cloned().collect();
        let needs: Vec<String> = prover.needed.keys().cloned().collect();
        // All of them take some minutes; some of them show that they are noticed at all.
        let every = if std::env::var_os("SHORT").is_some() { 8 } else { 1 };
        for (what, text) in mutants::of(TEXT).into_iter().step_by(every) {
            let Ok(guard) = Guard::new(&text) else {
                score.invalid += 1;
                continue;
            };
            score.mutants += 1;
            let policies = PolicySet::from_str(&text)?;
            let mut proof = None;
            for name in &properties {
                if proof.is_none() && prover.violates(&policies, name).await?.is_some() {
                    proof = Some(name);
                }
            }
            for name in &needs {
                if proof.is_none() && prover.withholds(&policies, name).await?.is_some() {
                    proof = Some(name);
                }
            }
            let table = table::differences(&guard).len();
            score.by_proof += usize::from(proof.is_some());
            let noticed = match (proof, table) {
                (Some(name), _) => format!("a counterexample to {name}"),
                (None, 0) => {
                    score.survivors.push(what.clone());
                    "NOBODY".to_owned()
                }
                (None, cases) => format!("the table, in {cases} cases"),
            };
            println!("broken  {what}: noticed by {noticed}");
        }
        Ok(score)
    }
}
