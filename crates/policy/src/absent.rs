//! What is negated together with a call has to be there. `not startswith(x, "a")` and `not x in y` hold here where x is missing,
//! as one reads it. OPA looks x up first, outside of the `not`, and then nothing holds (open-policy-agent/opa#8387): such an
//! `allow` would allow here what it does not allow there.
//!
//! So it is refused, unless everything in it is always there. Whoever means "or is missing" gives it a rule of its own, and
//! negates that: of a name alone, and of `==`, both say the same.

use std::cell::RefCell;
use std::collections::BTreeMap;

use regorus::unstable::{BoolOp, Expr, Module, Ref, Rule, RuleHead};
use serde_json::Value;

use crate::question::Fields;
use crate::reads::{Path, import_of, name_of, package_of, static_path, text_of};

/// What is always there: of data, and of what rules say.
pub struct Present<'a> {
    names: Vec<Names>,
    rules: BTreeMap<Path, Said<'a>>,
    data: &'a Value,
    /// What has been found out of places: rules that name others twice, and those others twice, would take for ever.
    found: RefCell<BTreeMap<Path, bool>>,
}

/// What the names in a module stand for.
struct Names {
    package: Path,
    imports: BTreeMap<String, Path>,
}

/// Whether a rule always says something.
#[derive(Clone, Copy)]
enum Said<'a> {
    Sometimes,
    /// Something: a set, a table, or else a default. What is in it is another question.
    Something,
    /// This, of the module of that place.
    Always(&'a Expr, usize),
}

// === impl Present ===

impl<'a> Present<'a> {
    pub fn of(modules: &'a [Ref<Module>], data: &'a Value) -> Self {
        let mut rules = BTreeMap::<Path, Said<'a>>::new();
        for (index, module) in modules.iter().enumerate() {
            let package = package_of(module);
            for rule in &module.policy {
                let path = package.iter().cloned().chain(name_of(rule)).collect();
                let known = rules.entry(path).or_insert(Said::Sometimes);
                if matches!(known, Said::Sometimes) {
                    *known = said(rule, index);
                }
            }
        }
        let names = |module: &Ref<Module>| Names {
            package: package_of(module),
            imports: module.imports.iter().filter_map(import_of).collect(),
        };
        Self { names: modules.iter().map(names).collect(), rules, data, found: RefCell::default() }
    }

    /// What of a negated expression, in the module of that place, OPA looks up before and may be missing.
    pub fn missing(&self, module: usize, negated: &Expr) -> Option<String> {
        let names = &self.names[module];
        match negated {
            Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. } => self.in_brackets(names, negated),
            Expr::BoolExpr { op: BoolOp::Eq, lhs, rhs, .. } => [lhs, rhs].into_iter().find_map(|side| match &**side {
                Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. } => self.in_brackets(names, side),
                _ => self.within(names, side),
            }),
            Expr::Call { params, .. } => params.iter().find_map(|param| self.within(names, param)),
            _ => self.within(names, negated),
        }
    }

    /// The first that may be missing in an expression, itself included.
    fn within(&self, names: &Names, expr: &Expr) -> Option<String> {
        let first = |items: &[&Ref<Expr>]| items.iter().find_map(|item| self.within(names, item));
        match expr {
            Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. } => {
                let written = static_path(expr).map_or_else(String::new, |(path, _)| path.join("."));
                if self.is_there(names, expr) { self.in_brackets(names, expr) } else { Some(written) }
            }
            Expr::Array { items, .. } | Expr::Set { items, .. } => first(&items.iter().collect::<Vec<_>>()),
            Expr::Object { fields, .. } => fields.iter().find_map(|(_, key, value)| first(&[key, value])),
            Expr::Call { fcn, params, .. } => match static_path(fcn).and_then(|(path, _)| self.place(names, path)) {
                // A function of the bundle's own may have nothing to say.
                Some(path) => Some(path.join(".")),
                None => first(&params.iter().collect::<Vec<_>>()),
            },
            Expr::UnaryExpr { expr, .. } => first(&[expr]),
            Expr::BinExpr { lhs, rhs, .. }
            | Expr::BoolExpr { lhs, rhs, .. }
            | Expr::ArithExpr { lhs, rhs, .. }
            | Expr::AssignExpr { lhs, rhs, .. } => first(&[lhs, rhs]),
            Expr::Membership { key, value, collection, .. } => {
                key.as_ref().and_then(|key| first(&[key])).or_else(|| first(&[value, collection]))
            }
            // A comprehension is always there, and what it goes through is looked up inside of it.
            Expr::ArrayCompr { .. }
            | Expr::SetCompr { .. }
            | Expr::ObjectCompr { .. }
            | Expr::String { .. }
            | Expr::RawString { .. }
            | Expr::Number { .. }
            | Expr::Bool { .. }
            | Expr::Null { .. } => None,
        }
    }

    /// The first that may be missing in the brackets of a reference.
    fn in_brackets(&self, names: &Names, refr: &Expr) -> Option<String> {
        match refr {
            Expr::RefBrack { refr, index, .. } => self.in_brackets(names, refr).or_else(|| self.within(names, index)),
            Expr::RefDot { refr, .. } => self.in_brackets(names, refr),
            _ => None,
        }
    }

    fn is_there(&self, names: &Names, refr: &Expr) -> bool {
        match static_path(refr) {
            Some((path, true)) => match self.place(names, path.clone()) {
                Some(place) => self.has(&place),
                // A name within the rule stands for something; what is in that is another question.
                None => path.len() == 1,
            },
            _ => false,
        }
    }

    /// Where a path leads, from `data` or `input` on. None: it begins with a name within the rule.
    fn place(&self, names: &Names, path: Path) -> Option<Path> {
        let first = path.first()?;
        if let Some(import) = names.imports.get(first) {
            return Some(import.iter().chain(&path[1..]).cloned().collect());
        }
        if matches!(first.as_str(), "data" | "input") {
            return Some(path);
        }
        let mut rule = names.package.clone();
        rule.push(first.clone());
        let is_rule = self.rules.contains_key(&rule);
        is_rule.then(|| ["data".to_owned()].iter().chain(&rule).chain(&path[1..]).cloned().collect())
    }

    /// Whether something is always at a place. That no rule needs itself has been seen to.
    fn has(&self, place: &[String]) -> bool {
        if let Some(found) = self.found.borrow().get(place) {
            return *found;
        }
        let found = self.look(place);
        self.found.borrow_mut().insert(place.to_vec(), found);
        found
    }

    fn look(&self, place: &[String]) -> bool {
        let Some((root, path)) = place.split_first() else { return false };
        if root == "input" {
            return path.len() <= 2 && !Fields::at(path).iter().any(|field| path.len() == 2 && field.may_be_absent());
        }
        let rule = (1..=path.len()).find_map(|end| Some((self.rules.get(&path[..end])?, &path[end..])));
        match rule {
            Some((Said::Sometimes, _)) => false,
            Some((Said::Something, rest)) => rest.is_empty(),
            Some((Said::Always(value, module), rest)) => self.value_has(*module, value, rest),
            None if self.names.iter().any(|names| names.package.starts_with(path)) => true,
            None => path.iter().try_fold(self.data, |value, part| value.get(part)).is_some(),
        }
    }

    fn value_has(&self, module: usize, value: &Expr, rest: &[String]) -> bool {
        let names = &self.names[module];
        match (value, rest) {
            (Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. }, _) => match static_path(value) {
                Some((path, true)) => self.place(names, path).is_some_and(|mut place| {
                    place.extend(rest.iter().cloned());
                    self.has(&place)
                }),
                _ => false,
            },
            (Expr::Object { fields, .. }, [first, rest @ ..]) => fields.iter().any(|(_, key, value)| {
                let is_it = matches!(&**key, Expr::String { value, .. } if text_of(value).as_ref() == Some(first));
                is_it && self.value_has(module, value, rest)
            }),
            (_, []) => self.within(names, value).is_none(),
            _ => false,
        }
    }
}

fn said(rule: &Rule, module: usize) -> Said<'_> {
    match rule {
        Rule::Default { args, .. } if args.is_empty() => Said::Something,
        Rule::Spec { head: RuleHead::Set { .. }, .. } => Said::Something,
        Rule::Spec { head: RuleHead::Compr { refr, assign, .. }, bodies, .. } => match (&**refr, assign) {
            (Expr::Var { .. }, Some(assign)) if bodies.is_empty() => Said::Always(&assign.value, module),
            (Expr::Var { .. }, _) => Said::Sometimes,
            _ => Said::Something,
        },
        _ => Said::Sometimes,
    }
}
