//! A rule with a value has one. Where it could have two, OPA ends with an error; the machine here says that it has none, and a
//! `deny` that rests on it would not deny. So what could have two is refused when it is loaded.
//!
//! Conservative: several definitions must all be the same constant (or differ in a constant argument), and a value must not be
//! picked from among several. `else`, and comprehensions, say the same without doubt.

use std::collections::{BTreeMap, BTreeSet};

use regorus::unstable::{AssignOp, Expr, Literal, Module, Query, Ref, Rule, RuleAssign, RuleBody, RuleHead};

use crate::reads::{Path, Wrong, name_of, package_of, text_of};

/// One definition of a rule.
struct Definition<'a> {
    file: String,
    line: u32,
    /// As it is written. `None`: it is not written out.
    value: Option<String>,
    args: &'a [Ref<Expr>],
}

/// What is wrong with the rules of all modules together.
pub fn check(modules: &[Ref<Module>]) -> Vec<Wrong> {
    let mut definitions = BTreeMap::<(Path, String), Vec<Definition<'_>>>::new();
    let mut wrong = Vec::new();
    for module in modules {
        let package = package_of(module);
        for rule in &module.policy {
            let Rule::Spec { span, head, bodies } = &**rule else { continue };
            let (refr, assign, args) = match head {
                RuleHead::Compr { refr, assign, .. } => (refr, assign, &[][..]),
                RuleHead::Func { refr, assign, args, .. } => (refr, assign, args.as_slice()),
                RuleHead::Set { .. } => continue,
            };
            let Some(name) = name_of(rule) else { continue };
            // `a[x] := y` is a table: one value for each x.
            if !matches!(&**refr, Expr::Var { .. }) {
                continue;
            }
            let (file, line) = (span.source.file().clone(), span.line);
            let value = assign.as_ref().map(|assign| &*assign.value);
            if picks(value, args, bodies) {
                let what = format!(
                    "'{name}' may have several values: gather them in a comprehension, or pick one by its place"
                );
                wrong.push(Wrong { file: file.clone(), line, what });
            }
            let several = bodies.iter().filter(|body| !body.is_else).count().max(1);
            let said = constant_of(assign.as_ref());
            // A body after `else` may say something else.
            let mut elses = bodies.iter().filter(|body| body.is_else);
            let said = if elses.all(|body| constant_of(body.assign.as_ref()) == said) { said } else { None };
            let made = |_| Definition { file: file.clone(), line, value: said.clone(), args };
            definitions.entry((package.clone(), name)).or_default().extend((0..several).map(made));
        }
    }
    for ((_, name), definitions) in &definitions {
        if let [_, second, ..] = definitions.as_slice()
            && !are_one(definitions)
        {
            let what =
                format!("'{name}' is defined more than once, with values that may differ: write the others as 'else'");
            wrong.push(Wrong { file: second.file.clone(), line: second.line, what });
        }
    }
    wrong
}

/// Whether at most one value can come of these.
fn are_one(definitions: &[Definition<'_>]) -> bool {
    let same = definitions.iter().all(|one| one.value.is_some() && one.value == definitions[0].value);
    let count = definitions.iter().map(|one| one.args.len()).min().unwrap_or(0);
    let told_apart = |place: usize| {
        let constants: Vec<_> = definitions.iter().map(|one| constant(&one.args[place])).collect();
        let different: BTreeSet<_> = constants.iter().flatten().collect();
        different.len() == definitions.len()
    };
    same || (0..count).any(told_apart)
}

/// What a head or an `else` says, where that is written out; it says `true` where it says nothing.
fn constant_of(assign: Option<&RuleAssign>) -> Option<String> {
    assign.map_or(Some("true".to_owned()), |assign| constant(&assign.value))
}

/// What is written out, however it is written.
fn constant(expr: &Expr) -> Option<String> {
    match expr {
        Expr::String { value, .. }
        | Expr::RawString { value, .. }
        | Expr::Number { value, .. }
        | Expr::Bool { value, .. }
        | Expr::Null { value, .. } => Some(value.to_string()),
        _ => None,
    }
}

/// Whether a value comes from going through several things.
fn picks(value: Option<&Expr>, args: &[Ref<Expr>], bodies: &[RuleBody]) -> bool {
    let args: BTreeSet<String> = args.iter().flat_map(|arg| names(arg)).collect();
    let body_picks = |body: &RuleBody| {
        let passed = Passed::of(&body.query, args.clone());
        let own = body.assign.as_ref().map(|assign| &*assign.value);
        own.into_iter().chain(value).any(|value| passed.through(value))
    };
    match (value, bodies) {
        (Some(value), []) => Passed { several: BTreeSet::new(), known: args }.through(value),
        (_, bodies) => bodies.iter().any(body_picks),
    }
}

/// The names of a rule's body: which stand for one of several things, and which for one only.
struct Passed {
    several: BTreeSet<String>,
    known: BTreeSet<String>,
}

// === impl Passed ===

impl Passed {
    fn of(query: &Query, known: BTreeSet<String>) -> Self {
        let mut passed = Self { several: BTreeSet::new(), known };
        for stmt in &query.stmts {
            match &stmt.literal {
                Literal::SomeVars { vars, .. } => passed.several.extend(vars.iter().map(|var| var.text().to_owned())),
                Literal::SomeIn { key, value, .. } => {
                    passed.several.extend(key.iter().flat_map(|key| names(key)).chain(names(value)));
                }
                Literal::Expr { expr, .. } => {
                    if let Expr::AssignExpr { op: AssignOp::ColEq, lhs, .. } = &**expr {
                        passed.known.extend(names(lhs));
                    }
                }
                Literal::NotExpr { .. } | Literal::Every { .. } => {}
            }
        }
        // What is made of one of several is one of several.
        loop {
            let before = passed.several.len();
            for stmt in &query.stmts {
                if let Literal::Expr { expr, .. } = &stmt.literal
                    && let Expr::AssignExpr { lhs, rhs, .. } = &**expr
                {
                    if passed.through(rhs) {
                        passed.several.extend(names(lhs));
                    }
                    if passed.through(lhs) {
                        passed.several.extend(names(rhs).into_iter().filter(|name| !passed.known.contains(name)));
                    }
                }
            }
            if passed.several.len() == before {
                return passed;
            }
        }
    }

    /// Whether an expression stands for one of several things.
    fn through(&self, expr: &Expr) -> bool {
        match expr {
            Expr::Var { value, .. } => text_of(value).is_some_and(|name| self.several.contains(&name)),
            Expr::RefDot { refr, .. } => self.through(refr),
            Expr::RefBrack { refr, index, .. } => {
                let goes_through = match &**index {
                    Expr::Var { value, .. } => text_of(value).is_some_and(|name| self.is_free(&name)),
                    _ => false,
                };
                goes_through || self.through(refr) || self.through(index)
            }
            Expr::Array { items, .. } | Expr::Set { items, .. } => items.iter().any(|item| self.through(item)),
            Expr::Object { fields, .. } => {
                fields.iter().any(|(_, key, value)| self.through(key) || self.through(value))
            }
            Expr::Call { params, .. } => params.iter().any(|param| self.through(param)),
            Expr::UnaryExpr { expr, .. } => self.through(expr),
            Expr::BinExpr { lhs, rhs, .. }
            | Expr::BoolExpr { lhs, rhs, .. }
            | Expr::ArithExpr { lhs, rhs, .. }
            | Expr::AssignExpr { lhs, rhs, .. } => self.through(lhs) || self.through(rhs),
            Expr::Membership { key, value, collection, .. } => {
                key.iter().any(|key| self.through(key)) || self.through(value) || self.through(collection)
            }
            // These gather all of what they go through.
            Expr::ArrayCompr { .. } | Expr::SetCompr { .. } | Expr::ObjectCompr { .. } => false,
            Expr::String { .. }
            | Expr::RawString { .. }
            | Expr::Number { .. }
            | Expr::Bool { .. }
            | Expr::Null { .. } => false,
        }
    }

    /// Whether a name in brackets goes through all that there is: it is bound nowhere else. Rules are written in lower case,
    /// too, so a name that is not known here is taken for a rule only where it is called `input` or `data`.
    fn is_free(&self, name: &str) -> bool {
        name == "_" || name.starts_with('$') || !self.known.contains(name) && !matches!(name, "input" | "data")
    }
}

/// The names in a pattern.
fn names(expr: &Expr) -> Vec<String> {
    match expr {
        Expr::Var { value, .. } => text_of(value).into_iter().collect(),
        Expr::Array { items, .. } | Expr::Set { items, .. } => items.iter().flat_map(|item| names(item)).collect(),
        Expr::Object { fields, .. } => fields.iter().flat_map(|(_, _, value)| names(value)).collect(),
        _ => Vec::new(),
    }
}
