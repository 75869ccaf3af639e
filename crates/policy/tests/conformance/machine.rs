//! Asks a case as a bundle is asked: by the register machine, behind rules of ours that gather what is wanted. Then whether a
//! wrong answer of it could decide anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use regorus::languages::rego::compiler::Compiler;
use regorus::rvm::RegoVM;
use regorus::unstable::{Expr, Lexer, Module, Ref, Rule, RuleHead, Source, TokenKind};
use regorus::{Engine, Value};
use tollgate_policy::law::INSTRUCTIONS_MAX;
use tollgate_policy::reads::Reads;

use super::cases::{Case, Want};

/// The package of our rules.
const GATHER: &str = "conformance_gathers";
/// Where in `data` the input is put when it is asked what a bundle may read: there are no fields that nobody is asked.
const LIFTED: &str = "conformance_input";

/// A case that can be asked.
pub struct Asked<'a> {
    case: &'a Case,
    engine: Engine,
    is_rego_0: bool,
    input: Value,
    /// What is asked for: the values of our rules.
    expressions: Vec<String>,
    gather: Gather,
}

/// What came of it, in the form of what is wanted: a value, or an array of bindings.
pub type Came = Result<Value, String>;

/// What is made of the values.
enum Gather {
    Value,
    /// It is bound to this name.
    Bound(String),
    /// They are bindings already.
    Bindings,
    /// A package: each rule by itself, at its place, over the data that is there. A bundle's rules are asked for one by one, too.
    Package(Vec<Place>, Value),
}

type Place = Vec<String>;

/// What keeps an answer that is not as it should be from deciding anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// Such a bundle is refused when it is loaded, or ends with an error: why.
    Refused(String),
    /// Such a bundle is asked of two engines, and they differ: nobody has decided.
    Undecided,
    /// Nothing does.
    Decides,
}

/// Why a case cannot be asked.
pub enum NotAsked {
    /// Its modules are no Rego.
    Modules(String),
    /// Its query is no expression.
    Query,
}

// === impl Asked ===

impl<'a> Asked<'a> {
    pub fn new(case: &'a Case) -> Result<Self, NotAsked> {
        let (engine, is_rego_0) = match engine(&case.modules, &case.data, false) {
            Ok(engine) => (engine, false),
            // What is no Rego of today may be of yesterday: the machine is the same.
            Err(error) => match engine(&case.modules, &case.data, true) {
                Ok(engine) => (engine, true),
                Err(_) => return Err(NotAsked::Modules(error)),
            },
        };
        let mut asked =
            Self { case, engine, is_rego_0, input: case.input.clone(), expressions: Vec::new(), gather: Gather::Value };
        asked.gather();
        asked.engine.add_policy(GATHER.to_owned(), asked.module()).map_err(|_| NotAsked::Query)?;
        if let Some(term) = &case.input_term {
            let said = asked.engine.clone().eval_query(term.clone(), false).map_err(|_| NotAsked::Query)?;
            let values = said.result.into_iter().flat_map(|result| result.expressions).map(|one| one.value);
            asked.input = values.last().unwrap_or(Value::Undefined);
        }
        Ok(asked)
    }

    pub fn by_machine(&mut self) -> Came {
        if self.by_interpreter().is_err_and(|error| error.contains("recursion")) {
            // The machine does not notice, and would go on until its stack ends.
            let Held::Refused(why) = self.held(&Ok(Value::Undefined)) else {
                panic!("{}: it goes in circles, and nothing refuses it", self.case.name);
            };
            return Err(why);
        }
        let entries = self.entries();
        let Some(first) = entries.first() else { return Ok(self.formed(&[])) };
        let policy = self.engine.compile_with_entrypoint(&first.as_str().into()).map_err(told)?;
        let names: Vec<&str> = entries.iter().map(String::as_str).collect();
        let program = Compiler::compile_from_policy(&policy, &names).map_err(told)?;
        let mut machine = RegoVM::new();
        machine.load_program(program);
        machine.set_max_instructions(INSTRUCTIONS_MAX);
        machine.set_data(self.case.data.clone()).map_err(told)?;
        machine.set_input(self.input.clone());
        let values = (0..entries.len()).map(|entry| machine.execute_entry_point_by_index(entry));
        Ok(self.formed(&values.collect::<Result<Vec<_>, _>>().map_err(told)?))
    }

    /// By the second engine.
    pub fn by_interpreter(&mut self) -> Came {
        self.engine.set_input(self.input.clone());
        let values = self.entries().into_iter().map(|entry| self.engine.eval_rule(entry));
        let values = values.collect::<Result<Vec<_>, _>>().map_err(told)?;
        Ok(self.formed(&values))
    }

    /// What keeps this answer of the machine's from deciding anything, if it is wrong.
    pub fn held(&mut self, came: &Came) -> Held {
        if let Err(error) = came {
            return Held::Refused(error.clone());
        }
        let modules: Vec<String> = self.case.modules.iter().map(|module| lifted(module)).collect();
        let data = match &self.input {
            Value::Undefined => self.case.data.clone(),
            input => put(self.case.data.clone(), &[LIFTED.to_owned()], input.clone()),
        };
        let mut engine = engine(&modules, &data, self.is_rego_0).expect("it was Rego before");
        engine.add_policy(GATHER.to_owned(), self.module()).expect("it was Rego before");
        let data = serde_json::to_value(&data).unwrap_or_default();
        match Reads::of(engine.get_modules(), &[GATHER], &data) {
            Err(wrong) => Held::Refused(wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
            Ok(reads) if !reads.plain && self.by_interpreter() != *came => Held::Undecided,
            Ok(_) => Held::Decides,
        }
    }

    /// Our rules.
    fn module(&self) -> String {
        let rules = self.expressions.iter().enumerate();
        let rules = rules.map(|(number, expression)| format!("result_{number} := {expression}\n"));
        format!("package {GATHER}\n{}", rules.collect::<String>())
    }

    fn entries(&self) -> Vec<String> {
        (0..self.expressions.len()).map(|number| format!("data.{GATHER}.result_{number}")).collect()
    }

    /// What has to be asked for.
    fn gather(&mut self) {
        let query = self.case.query.as_str();
        let names = self.case.names();
        let sides = query.split_once(":=").or_else(|| query.split_once('='));
        let (path, name) = match sides.map(|(left, right)| (left.trim(), right.trim())) {
            Some((path, name) | (name, path)) if place_in(path).is_some() && is_name(name) => {
                (path, Some(name.to_owned()))
            }
            _ => (query, names.first().cloned()),
        };
        let Some(place) = place_in(path) else {
            let fields: Vec<String> = names.iter().map(|name| format!("\"{name}\": {name}")).collect();
            (self.expressions, self.gather) = match self.case.want {
                Want::Bindings(_) => (vec![format!("[{{{}}} | {query}]", fields.join(", "))], Gather::Bindings),
                _ => (vec![query.to_owned()], Gather::Value),
            };
            return;
        };
        let (rules, packages) = below(&place, self.engine.get_modules());
        if packages.is_empty() {
            (self.expressions, self.gather) = match (&self.case.want, name) {
                (Want::Bindings(_), name) => (vec![path.to_owned()], Gather::Bound(name.unwrap_or_default())),
                (_, Some(name)) => (vec![format!("{{\"{name}\": {path}}}")], Gather::Value),
                (_, None) => (vec![path.to_owned()], Gather::Value),
            };
            return;
        }
        let data = at(&self.case.data, &place);
        let data = if data.as_object().is_ok() { data } else { Value::new_object() };
        let all = packages.iter().fold(data, |all, package| match at(&all, package) {
            Value::Object(_) => all,
            _ => put(all, package, Value::new_object()),
        });
        let written = |rule: &Place| {
            let parts = place.iter().chain(rule).map(|part| format!("[{}]", Value::from(part.as_str())));
            format!("data{}", parts.collect::<String>())
        };
        self.expressions = rules.iter().map(written).collect();
        self.gather = Gather::Package(rules, all);
    }

    /// The values of our rules, in the form of what is wanted.
    fn formed(&self, values: &[Value]) -> Value {
        let value = match &self.gather {
            Gather::Value | Gather::Bound(_) => values[0].clone(),
            Gather::Bindings => {
                return self
                    .case
                    .ordered(values[0].as_array().map(|rows| rows.to_vec()).as_deref().unwrap_or_default());
            }
            Gather::Package(rules, all) => {
                let defined = rules.iter().zip(values).filter(|(_, value)| **value != Value::Undefined);
                defined.fold(all.clone(), |all, (place, value)| put(all, place, value.clone()))
            }
        };
        let name = match (&self.gather, &self.case.want) {
            (Gather::Bound(name), _) => name.clone(),
            (_, Want::Bindings(_)) => self.case.names().into_iter().next().unwrap_or_default(),
            _ => return value,
        };
        match value {
            Value::Undefined => self.case.ordered(&[]),
            value => self.case.ordered(&[Value::from(BTreeMap::from([(Value::from(name), value)]))]),
        }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) => write!(f, "refused: {}", why.trim()),
            Self::Undecided => f.write_str("undecided"),
            Self::Decides => f.write_str("decided"),
        }
    }
}

fn told(error: impl fmt::Display) -> String {
    error.to_string()
}

fn engine(modules: &[String], data: &Value, is_rego_0: bool) -> Result<Engine, String> {
    let mut engine = Engine::new();
    engine.set_rego_v0(is_rego_0);
    engine.set_strict_builtin_errors(false);
    for (number, module) in modules.iter().enumerate() {
        engine.add_policy(format!("{number}.rego"), module.clone()).map_err(told)?;
    }
    engine.add_data(data.clone()).map_err(told)?;
    Ok(engine)
}

/// A module that finds the input elsewhere.
fn lifted(module: &str) -> String {
    let source = Source::from_contents("lifted".to_owned(), module.to_owned()).expect("it was Rego before");
    let mut lexer = Lexer::new(&source);
    let (mut text, mut end, mut is_member) = (String::new(), 0, false);
    while let Ok(token) = lexer.next_token()
        && token.0 != TokenKind::Eof
    {
        if token.0 == TokenKind::Ident && token.1.text() == "input" && !is_member {
            text.push_str(&module[end..token.1.start as usize]);
            text.push_str(&format!("data.{LIFTED}"));
            end = token.1.end as usize;
        }
        is_member = token.1.text() == ".";
    }
    text + &module[end..]
}

/// The rules and the packages that a place leads to, by their places from there.
fn below(place: &[String], modules: &[Ref<Module>]) -> (Vec<Place>, Vec<Place>) {
    let (mut rules, mut packages) = (BTreeSet::new(), BTreeSet::new());
    for module in modules {
        let parts = parts_of(&module.package.refr);
        let package = parts.strip_prefix(&["data".to_owned()]).unwrap_or(&parts);
        let Some(below) = package.strip_prefix(place) else { continue };
        packages.insert(below.to_vec());
        let heads = module.policy.iter().filter_map(|rule| match &**rule {
            Rule::Spec { head: RuleHead::Func { args, .. }, .. } | Rule::Default { args, .. } if !args.is_empty() => {
                None
            }
            Rule::Spec { head: RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. }, .. }
            | Rule::Spec { head: RuleHead::Func { refr, .. }, .. }
            | Rule::Default { refr, .. } => Some(refr),
        });
        rules.extend(
            heads.map(|refr| below.iter().cloned().chain(parts_of(refr).into_iter().take(1)).collect::<Place>()),
        );
    }
    (rules.into_iter().collect(), packages.into_iter().collect())
}

/// The parts of a reference that are written out.
fn parts_of(refr: &Expr) -> Place {
    let text = |value: &Value| value.as_string().ok().map(|name| name.to_string());
    let (mut parts, last) = match refr {
        Expr::Var { value, .. } => (Place::new(), text(value)),
        Expr::RefDot { refr, field, .. } => (parts_of(refr), text(&field.1)),
        Expr::RefBrack { refr, index, .. } => match &**index {
            Expr::String { value, .. } => (parts_of(refr), text(value)),
            _ => (parts_of(refr), None),
        },
        _ => (Place::new(), None),
    };
    parts.extend(last);
    parts
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|char| char.is_ascii_alphanumeric() || char == '_')
}

/// The place in `data` that a text names, if all of it is written out.
fn place_in(text: &str) -> Option<Place> {
    let mut rest = text.strip_prefix("data")?;
    let mut place = Place::new();
    while !rest.is_empty() {
        let dotted = rest.strip_prefix('.').map(|rest| rest.split_at(rest.find(['.', '[']).unwrap_or(rest.len())));
        let quoted = rest.strip_prefix("[\"").and_then(|rest| rest.split_once("\"]"));
        let (part, after) = dotted.filter(|(name, _)| is_name(name)).or(quoted)?;
        place.push(part.to_owned());
        rest = after;
    }
    Some(place)
}

fn at(value: &Value, place: &[String]) -> Value {
    place.iter().fold(value.clone(), |value, part| value[&Value::from(part.as_str())].clone())
}

/// The value with another one in it.
fn put(all: Value, place: &[String], value: Value) -> Value {
    let Some((first, rest)) = place.split_first() else { return value };
    let fields = all.as_object().into_iter().flat_map(|fields| fields.iter());
    let mut fields: BTreeMap<Value, Value> = fields.map(|(key, value)| (key.clone(), value.clone())).collect();
    let inner = fields.remove(&Value::from(first.as_str())).unwrap_or_else(Value::new_object);
    fields.insert(Value::from(first.as_str()), put(inner, rest, value));
    Value::from(fields)
}
