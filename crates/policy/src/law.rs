//! One bundle, compiled: asked many times a second, bounded in what it may cost.
//!
//! The engine is regorus, by its register machine; a program is compiled once and shared, a machine is used by one thread at a
//! time and used again. What a decision may cost is bounded three ways: instructions, time, memory. Whoever exceeds one has
//! not decided, and what has not been decided is refused.

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use regorus::languages::rego::compiler::Compiler;
use regorus::rvm::RegoVM;
use regorus::rvm::program::Program;
use regorus::unstable::{Module as Syntax, Ref, Rule, RuleHead};
use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, MemoryBudgetConfig, Value};

use crate::bundle::{Bundle, Module};
use crate::fingerprint::{Digest, Fingerprint, canonical};
use crate::obligations::Obligations;
use crate::question::{Fields, Question};
use crate::reads::{Path, Reads, Wrong, name_of, package_of};
use crate::source::{check_nesting, tokens};

/// The package that decides.
pub const PACKAGE: [&str; 2] = ["tollgate", "admission"];
/// The package of ours that gathers what the bundle's says, so that it is asked once.
pub(crate) const GATHER: &str = "tollgate_decision";
const ENTRY: &str = "data.tollgate_decision.decision";
/// As the fingerprint names the engine: another one may read the same text differently.
const ENGINE: &str = "regorus 0.14.1";

/// What one decision may cost. A policy that people write needs some hundred instructions.
pub const INSTRUCTIONS_MAX: usize = 25_000;
pub const TIME_MAX: Duration = Duration::from_millis(5);
/// What a bundle's test, or the slower engine, may take.
pub const TEST_TIME_MAX: Duration = Duration::from_millis(500);
/// What the machine may hold at a time: texts multiply no further than this allows, see [`crate::reads`].
pub const MEMORY_MAX: NonZeroU64 = NonZeroU64::new(128 << 10).expect("not zero");
/// Instructions between two looks at the clock.
const CLOCK_EVERY: NonZeroU32 = NonZeroU32::new(64).expect("not zero");
/// Reasons that are passed on, and characters of each.
pub const REASONS_MAX: usize = 8;
pub const REASON_CHARS_MAX: usize = 200;

/// A bundle that can decide.
pub struct Law {
    pub revision: String,
    pub fingerprint: Fingerprint,
    pub fields: Fields,
    program: Arc<Program>,
    data: Value,
    machines: Idle<RegoVM>,
    /// The interpreter that others are made from, and those that are not in use; none where the bundle is plain.
    second: Option<(Engine, Idle<Engine>)>,
}

/// What is not in use, for the next who needs one.
struct Idle<T>(Mutex<Vec<T>>);

/// Why a bundle is no law.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LawError {
    #[error("{0}")]
    Syntax(String),
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Wrong(Vec<Wrong>),
    #[error("no rule says data.tollgate.admission.allow; without it nothing is ever allowed")]
    NoAllow,
    #[error("the package '{0}' lies outside of the manifest's roots; add its root, or move it")]
    OutsideRoots(String),
    #[error("the package '{0}' is Tollgate's own")]
    Reserved(String),
}

/// What a bundle says of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allowed(Obligations),
    /// With the reasons of its `deny`, sorted. None: no rule allowed it.
    Denied(Vec<String>),
}

/// A bundle failed to decide: the request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the policy did not decide: {0}")]
pub struct Undecided(pub String);

// === impl Law ===

impl Law {
    pub fn compile(bundle: &Bundle) -> Result<Self, LawError> {
        let mut engine = engine(&bundle.modules, &bundle.data)?;
        let modules = engine.get_modules().clone();
        let reads = Reads::of(&modules, &PACKAGE, &bundle.data).map_err(LawError::Wrong)?;
        let rules = deciding_rules(bundle, &modules)?;
        if at(&bundle.data, &PACKAGE.map(str::to_owned).to_vec()).is_some() {
            return Err(LawError::Syntax(
                "what decides is said by rules, not by data at tollgate.admission".to_owned(),
            ));
        }
        add(&mut engine, &Module { path: "tollgate: what the bundle says".to_owned(), text: gather(&rules)? })?;
        let policy = engine.compile_with_entrypoint(&ENTRY.into()).map_err(syntax)?;
        let program = Compiler::compile_from_policy(&policy, &[ENTRY]).map_err(syntax)?;
        let law = Self {
            revision: bundle.revision.clone(),
            fingerprint: fingerprint(bundle, &reads),
            fields: reads.fields,
            program,
            data: Value::from(bundle.data.clone()),
            machines: Idle::default(),
            second: (!reads.plain).then(|| (engine, Idle::default())),
        };
        // A machine that cannot be made is better known now.
        law.machines.give(law.machine().map_err(|Undecided(why)| LawError::Syntax(why))?);
        Ok(law)
    }

    /// What the bundle says of a question.
    pub fn decide(&self, question: &Question<'_>) -> Result<Verdict, Undecided> {
        self.decide_input(question.input(self.fields))
    }

    /// The same of a whole document `input`.
    ///
    /// Where the bundle is not plain, the slower engine is asked, too: the fast one is known to read some of Rego in its own way
    /// (docs/decisions/0011-policy.md), and where the two differ nobody has decided.
    pub fn decide_input(&self, input: Value) -> Result<Verdict, Undecided> {
        let first = self.by_machine(input.clone())?;
        match &self.second {
            None => Ok(first),
            Some((template, idle)) if by_interpreter(template, idle, input)? == first => Ok(first),
            Some(_) => Err(Undecided("two engines read it differently; write it more simply".to_owned())),
        }
    }

    fn by_machine(&self, input: Value) -> Result<Verdict, Undecided> {
        let mut machine = self.machines.take().map_or_else(|| self.machine(), Ok)?;
        machine.set_input(input);
        // One that failed is not used again: nobody says what is left in it.
        let said = machine.execute_entry_point_by_index(0).map_err(|error| undecided(&error))?;
        machine.set_input(Value::Undefined);
        self.machines.give(machine);
        verdict(&said)
    }

    fn machine(&self) -> Result<RegoVM, Undecided> {
        let mut machine = RegoVM::new();
        machine.load_program(Arc::clone(&self.program));
        machine.set_max_instructions(INSTRUCTIONS_MAX);
        machine.set_execution_timer_config(Some(ExecutionTimerConfig { limit: TIME_MAX, check_interval: CLOCK_EVERY }));
        machine.set_memory_budget_config(Some(MemoryBudgetConfig { limit: MEMORY_MAX }));
        machine.set_data(self.data.clone()).map_err(|error| undecided(&error))?;
        Ok(machine)
    }
}

impl fmt::Debug for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Law").field("fingerprint", &self.fingerprint.to_string()).finish_non_exhaustive()
    }
}

// === impl Idle ===

impl<T> Idle<T> {
    fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn give(&self, one: T) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(one);
    }
}

impl<T> Default for Idle<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

fn by_interpreter(template: &Engine, idle: &Idle<Engine>, input: Value) -> Result<Verdict, Undecided> {
    let mut engine = idle.take().unwrap_or_else(|| template.clone());
    engine.set_input(input);
    let said = engine.eval_rule(ENTRY.to_owned()).map_err(|error| undecided(&error))?;
    idle.give(engine);
    verdict(&said)
}

/// Reads a document `input` that somebody wrote down. The error is for them.
pub fn input(text: &str) -> Result<Value, String> {
    Value::from_json_str(text).map_err(|error| format!("the input is no JSON: {error}"))
}

/// An engine with these modules and this data.
pub(crate) fn engine(modules: &[Module], data: &serde_json::Value) -> Result<Engine, LawError> {
    let mut engine = Engine::new();
    engine.set_strict_builtin_errors(false);
    engine.set_execution_timer_config(ExecutionTimerConfig { limit: TEST_TIME_MAX, check_interval: CLOCK_EVERY });
    for module in modules {
        add(&mut engine, module)?;
    }
    engine.add_data(Value::from(data.clone())).map_err(syntax)?;
    Ok(engine)
}

fn add(engine: &mut Engine, module: &Module) -> Result<(), LawError> {
    check_nesting(module)?;
    engine.add_policy(module.path.clone(), module.text.clone()).map(drop).map_err(syntax)
}

pub(crate) fn syntax(error: impl fmt::Display) -> LawError {
    LawError::Syntax(error.to_string().trim().to_owned())
}

/// The rules of the deciding package, after looking whether every package may be there.
fn deciding_rules<'a>(bundle: &Bundle, modules: &'a [Ref<Syntax>]) -> Result<Vec<&'a Rule>, LawError> {
    let mut rules = Vec::new();
    for module in modules {
        let package = package_of(module);
        if package.first().is_some_and(|first| first == GATHER) {
            return Err(LawError::Reserved(package.join(".")));
        }
        if !bundle.owns(&package) {
            return Err(LawError::OutsideRoots(package.join(".")));
        }
        if package == PACKAGE {
            rules.extend(module.policy.iter().map(|rule| &**rule));
        }
    }
    Ok(rules)
}

/// A module of ours that gathers what the bundle's rules say, of those that there are.
fn gather(rules: &[&Rule]) -> Result<String, LawError> {
    let named = |name: &'static str| rules.iter().filter(move |rule| name_of(rule).is_some_and(|found| found == name));
    let has = |name| named(name).next().is_some();
    let adds_to_deny = named("deny").any(|rule| matches!(rule, Rule::Spec { head: RuleHead::Set { .. }, .. }));
    if !has("allow") {
        return Err(LawError::NoAllow);
    }
    let mut text = format!(
        "package {GATHER}\n\
         decision := {{\"allow\": allow, \"deny\": deny, \"obligations\": obligations}}\n\
         default allow := false\n\
         allow if data.tollgate.admission.allow == true\n"
    );
    text.push_str(match has("deny") {
        // A set that is gathered is always there: where it is not, something went wrong.
        true if adds_to_deny => "deny := data.tollgate.admission.deny\n",
        true => "default deny := []\ndeny := data.tollgate.admission.deny\n",
        false => "deny := []\n",
    });
    text.push_str(match has("obligations") {
        true => "default obligations := {}\nobligations := data.tollgate.admission.obligations\n",
        false => "obligations := {}\n",
    });
    Ok(text)
}

fn undecided(error: &dyn fmt::Display) -> Undecided {
    Undecided(told(&error.to_string()))
}

/// What of a text is passed on.
fn told(text: &str) -> String {
    text.chars().filter(|char| !char.is_control()).take(REASON_CHARS_MAX).collect()
}

fn verdict(said: &Value) -> Result<Verdict, Undecided> {
    let malformed = |what: &str| Undecided(what.to_owned());
    let field = |name: &str| &said[&Value::from(name)];
    let denied = match field("deny") {
        Value::Set(reasons) => reasons.iter_sorted().map(reason).collect::<Result<Vec<_>, _>>()?,
        // As we say it where no rule of the bundle's does.
        Value::Array(none) if none.is_empty() => Vec::new(),
        _ => return Err(malformed("deny is a set of texts")),
    };
    match field("allow") {
        Value::Bool(true) if denied.is_empty() => {
            Obligations::read(field("obligations")).map(Verdict::Allowed).map_err(Undecided)
        }
        Value::Bool(_) => Ok(Verdict::Denied(denied.into_iter().take(REASONS_MAX).collect())),
        _ => Err(malformed("it says neither yes nor no")),
    }
}

fn reason(value: &Value) -> Result<String, Undecided> {
    let text = value.as_string().map_err(|_| Undecided("each reason of deny is a text".to_owned()))?;
    Ok(told(text))
}

/// Of the modules and the data that the decision can read, each in a form in which only what it means counts.
fn fingerprint(bundle: &Bundle, reads: &Reads) -> Fingerprint {
    let mut digest = Digest::new("tollgate policy 1");
    digest.add(ENGINE.as_bytes());
    let mut texts: Vec<String> = reads.modules.iter().map(|index| tokens(&bundle.modules[*index])).collect();
    texts.sort();
    for text in &texts {
        digest.add(b"module");
        digest.add(text.as_bytes());
    }
    for path in &reads.data {
        if let Some(value) = at(&bundle.data, path) {
            digest.add(b"data");
            path.iter().for_each(|part| digest.add(part.as_bytes()));
            digest.add(canonical(value).as_bytes());
        }
    }
    digest.finish()
}

/// What data lies at a path, or is the last on the way to it that is no object.
fn at<'a>(data: &'a serde_json::Value, path: &Path) -> Option<&'a serde_json::Value> {
    path.iter().try_fold(data, |value, part| match value {
        serde_json::Value::Object(fields) => fields.get(part),
        whole => Some(whole),
    })
}
