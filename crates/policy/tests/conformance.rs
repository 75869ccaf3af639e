//! Rego as others read it: the cases that our engine's authors publish with it, many of them OPA's, are asked of the register
//! machine as a bundle is asked. What differs is known, and kept from deciding anything; a release of the engine that changes
//! any of it fails here.
//!
//! OPA's own cases are in no package. `TOLLGATE_OPA_CASES=DIR` runs those in a folder: `v1/test/cases/testdata/v1` of its source.

mod cases;
mod known;
mod machine;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use regorus::Value;

use cases::{Case, Format, Want, in_folder, in_text};
use machine::{Asked, Held, NotAsked};

/// What came of many cases.
#[derive(Default)]
struct Tally {
    agree: usize,
    /// By reason.
    not_run: BTreeMap<&'static str, usize>,
    differ: BTreeMap<String, Difference>,
}

/// What came of one.
enum Outcome {
    Agrees,
    NotRun(&'static str),
    Differs(Difference),
}

struct Difference {
    held: Held,
    /// For who reads it.
    told: String,
}

/// What the machine says of what it was not made for, and what we call that.
const NOT_MADE_FOR: &[(&str, &str)] = &[
    ("Unknown function: ", "calls what is not built in, or a default alone"),
    ("Missing builtin function: ", "calls what is not built in, or a default alone"),
    ("`with` keyword is not supported", "has `with`"),
    ("partial object rules with ", "has a table whose keys are written out, or in several brackets"),
    ("walk loops are not yet supported", "walks"),
];

#[test]
fn the_engines_own_cases_come_out_as_known() {
    let tests = regorus().join("tests");
    let folders = [
        ("interpreter/cases", "interpreter", Format::Regorus),
        ("rvm/rego/cases", "rvm", Format::Regorus),
        ("explanation_corpus/cases", "explained", Format::Regorus),
        ("aci", "aci", Format::Opa),
    ];
    let cases: Vec<Case> = folders
        .into_iter()
        .flat_map(|(folder, name, format)| in_folder(&tests.join(folder), &format!("{name}/"), format))
        .collect();
    let tally = Tally::of(&cases);
    println!("{tally}");
    let mut known = BTreeMap::new();
    for group in known::DIFFER {
        known.extend(group.cases.iter().map(|name| (*name, group)));
    }
    let mut wrong = Vec::new();
    for (name, difference) in &tally.differ {
        match known.remove(name.as_str()) {
            Some(group) if group.hold.is(&difference.held) => {}
            _ => wrong.push(format!("{name}: {difference}")),
        }
    }
    wrong.extend(known.iter().map(|(name, group)| format!("{name} does not differ any more: {}", group.why)));
    assert!(wrong.is_empty(), "{} cases are not as they are known:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(tally.not_run, known::NOT_RUN.iter().copied().collect(), "cases that are not run, by reason");
    assert_eq!(tally.agree, known::AGREE, "cases that come out as they should");
}

/// Two that agree, two that do not, one that is not run.
const IN_OPAS_FORMAT: &str = r#"---
cases:
  - note: tolls/bound
    query: data.tolls.paid = x
    modules:
      - |
        package tolls

        paid contains name if {
          some name, toll in data.tolls_of
          toll >= input.least
        }
    data: {tolls_of: {b: 2, a: 3, c: 1}}
    input_term: "{\"least\": 1 + 1}"
    want_result: [{x: [b, a]}]
    sort_bindings: true
  - note: tolls/every answer
    query: data.tolls.of[x] = y
    modules: ["package tolls\nof := {\"a\": 3, \"b\": 2}"]
    want_result: [{x: b, y: 2}, {x: a, y: 3}]
  - note: tolls/wrong
    query: data.tolls.two = x
    modules: ["package tolls\ntwo := 2"]
    want_result: [{x: 3}]
  - note: tolls/two values
    query: data.tolls.p = x
    modules: ["package tolls\np := 1 if input.a\np := 2 if input.b"]
    input: {a: true, b: true}
    want_error_code: eval_conflict_error
    want_error: rule data.tolls.p produced conflicting values
  - note: tolls/not made for
    query: data.tolls.p = x
    modules: ["package tolls\np if input.a with input.a as true"]
    want_result: [{x: true}]
"#;

#[test]
fn no_case_in_opas_format_decides_otherwise() {
    let ours = Tally::of(&in_text(IN_OPAS_FORMAT, "ours", Format::Opa, Path::new("")));
    assert_eq!((ours.agree, ours.not_run), (2, BTreeMap::from([("has `with`", 1)])));
    let held = |name: &str| ours.differ.get(name).map(|difference| &difference.held);
    assert_eq!(held("ours: tolls/wrong"), Some(&Held::Decides));
    assert!(matches!(held("ours: tolls/two values"), Some(Held::Refused(why)) if why.contains("more than once")));

    #[expect(clippy::disallowed_methods, reason = "a folder of somebody else's, for whoever has it")]
    let Some(folder) = std::env::var_os("TOLLGATE_OPA_CASES") else { return };
    let cases = in_folder(Path::new(&folder), "", Format::Opa);
    assert!(!cases.is_empty(), "there are no cases in {}", folder.display());
    let tally = Tally::of(&cases);
    println!("{tally}");
    let (decide, held): (Vec<_>, Vec<_>) =
        tally.differ.iter().partition(|(_, difference)| difference.held == Held::Decides);
    held.iter().for_each(|(name, difference)| println!("{name}: {}", difference.held));
    let told: Vec<String> = decide.iter().map(|(name, difference)| format!("{name}: {difference}")).collect();
    assert!(told.is_empty(), "{} of OPA's cases would be decided otherwise:\n{}", told.len(), told.join("\n"));
}

// === impl Tally ===

impl Tally {
    fn of(cases: &[Case]) -> Self {
        let mut tally = Self::default();
        for case in cases {
            match outcome(case) {
                Outcome::Agrees => tally.agree += 1,
                Outcome::NotRun(why) => *tally.not_run.entry(why).or_default() += 1,
                Outcome::Differs(difference) => drop(tally.differ.insert(case.name.clone(), difference)),
            }
        }
        tally
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |is: fn(&Held) -> bool| self.differ.values().filter(|difference| is(&difference.held)).count();
        writeln!(
            f,
            "{} cases agree; {} differ ({} refused, {} undecided, {} decided); {} are not run:",
            self.agree,
            self.differ.len(),
            count(|held| matches!(held, Held::Refused(_))),
            count(|held| *held == Held::Undecided),
            count(|held| *held == Held::Decides),
            self.not_run.values().sum::<usize>()
        )?;
        self.not_run.iter().try_for_each(|(why, count)| writeln!(f, "{count:5} {why}"))
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.held, self.told)
    }
}

fn outcome(case: &Case) -> Outcome {
    if let Some(why) = case.not_for_us {
        return Outcome::NotRun(why);
    }
    let mut asked = match Asked::new(case) {
        Ok(asked) => asked,
        Err(_) if matches!(case.want, Want::Error(_)) => return Outcome::Agrees,
        Err(NotAsked::Query) => return Outcome::NotRun("asks no expression"),
        Err(NotAsked::Modules(error)) => {
            return Outcome::Differs(Difference { held: Held::Refused(error), told: String::new() });
        }
    };
    let came = asked.by_machine();
    let lacks = came.as_ref().err().and_then(|error| NOT_MADE_FOR.iter().find(|(words, _)| error.contains(words)));
    match (&case.want, &came, lacks) {
        (Want::Value(want), Ok(came), _) if want == came => return Outcome::Agrees,
        (Want::Bindings(rows), Ok(came), _) if case.ordered(rows) == *came => return Outcome::Agrees,
        // Any error is one: others word it otherwise.
        (Want::Error(_), Err(_), None) => return Outcome::Agrees,
        (Want::Error(words), Err(error), _) if error.contains(words) || words.contains("not find function") => {
            return Outcome::Agrees;
        }
        (_, _, Some((_, why))) => return Outcome::NotRun(why),
        (Want::Error(words), Ok(_), _)
            if case.is_strict && !counts_arguments(words) && asked.by_interpreter() == came =>
        {
            return Outcome::NotRun("wants errors of builtins, which are undefined unless one asks for them");
        }
        (Want::Value(want), Ok(_), _) if has_long_number(want) => {
            return Outcome::NotRun("wants numbers that our reader of YAML rounds");
        }
        _ => {}
    }
    let told = format!("  asked {}\n  wanted {:?}\n  came {came:?}", case.query, case.want);
    Outcome::Differs(Difference { held: asked.held(&came), told })
}

/// Whether an error is about how many arguments there are, which OPA finds before it runs anything.
fn counts_arguments(words: &str) -> bool {
    words.split_once("expects ").is_some_and(|(_, rest)| rest.starts_with(|first: char| first.is_ascii_digit()))
}

/// Whether it has a number of more than 64 bits.
fn has_long_number(value: &Value) -> bool {
    match value {
        Value::Number(_) => value.as_f64().is_ok_and(|number| number.abs() > u64::MAX as f64),
        Value::Array(items) => items.iter().any(has_long_number),
        Value::Object(fields) => fields.iter().any(|(_, value)| has_long_number(value)),
        _ => false,
    }
}

/// Where the source of our engine is.
fn regorus() -> PathBuf {
    let arguments = ["metadata", "--format-version", "1", "--offline", "--filter-platform", "host-tuple"];
    let told = Command::new(env!("CARGO")).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let told: serde_json::Value = serde_json::from_slice(&told.expect("cargo").stdout).expect("JSON");
    let packages = told["packages"].as_array().expect("packages");
    let regorus = packages.iter().find(|package| package["name"] == "regorus").expect("a dependency of ours");
    Path::new(regorus["manifest_path"].as_str().expect("a path")).parent().expect("a folder").to_owned()
}
