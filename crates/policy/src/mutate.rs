//! Tests of a bundle's tests: its policy broken in one place, in every way that matters for a decision, and whether a test notices.
//!
//! A condition dropped, a comparison turned round, `not` left out, yes and no exchanged. After DeMillo, Lipton and Sayward, "Hints
//! on test data selection" (1978).

use std::collections::BTreeSet;

use regorus::unstable::{Expr, Literal, Module as Syntax, Query, Rule, RuleBody, TokenKind};

use crate::bundle::{Bundle, Module};
use crate::law::{LawError, engine};
use crate::source::{between, ends, for_each_token};
use crate::trial::Trial;

/// A bundle with one place changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutant {
    pub file: String,
    pub line: u32,
    /// Such as `'==' became '!='`.
    pub change: String,
    pub outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A test noticed.
    Killed,
    /// No test did.
    Survived,
    /// It is no policy any more.
    Broken,
}

/// One change of a text.
struct Change {
    start: usize,
    end: usize,
    new: String,
    line: u32,
    what: String,
}

/// Every mutant of a bundle, and what became of it.
pub fn mutants(bundle: &Bundle) -> Result<Vec<Mutant>, LawError> {
    let modules = engine(&bundle.modules, &bundle.data)?.get_modules().clone();
    let mut mutants = Vec::new();
    for (module, syntax) in bundle.modules.iter().zip(&modules) {
        for change in changes(module, syntax) {
            let text = [&module.text[..change.start], &change.new, &module.text[change.end..]].concat();
            let mut broken = bundle.clone();
            broken.modules.iter_mut().filter(|one| one.path == module.path).for_each(|one| one.text.clone_from(&text));
            let outcome = match Trial::of(&broken) {
                Ok(trial) if trial.passed() => Outcome::Survived,
                Ok(_) => Outcome::Killed,
                Err(_) => Outcome::Broken,
            };
            mutants.push(Mutant { file: module.path.clone(), line: change.line, change: change.what, outcome });
        }
    }
    Ok(mutants)
}

fn changes(module: &Module, syntax: &Syntax) -> Vec<Change> {
    let mut changes = Vec::new();
    for rule in &syntax.policy {
        if let Rule::Spec { bodies, .. } = &**rule {
            bodies.iter().for_each(|RuleBody { query, .. }| conditions(query, &mut changes));
        }
    }
    let mut seen = BTreeSet::new();
    for_each_token(module, |kind, span| {
        let text = span.text();
        let new = match (kind, text) {
            (TokenKind::Symbol, "==") => "!=",
            (TokenKind::Symbol, "!=") => "==",
            (TokenKind::Symbol, "<") => "<=",
            (TokenKind::Symbol, "<=") => "<",
            (TokenKind::Symbol, ">") => ">=",
            (TokenKind::Symbol, ">=") => ">",
            (TokenKind::Ident, "true") => "false",
            (TokenKind::Ident, "false") => "true",
            (TokenKind::Ident, "not") => "",
            _ => return,
        };
        if seen.insert(span.start) {
            let what =
                if new.is_empty() { "'not' was left out".to_owned() } else { format!("'{text}' became '{new}'") };
            changes.push(Change {
                start: span.start as usize,
                end: span.end as usize,
                new: new.to_owned(),
                line: span.line,
                what,
            });
        }
    });
    changes
}

/// Each condition of a body replaced by one that always holds.
fn conditions(query: &Query, changes: &mut Vec<Change>) {
    for stmt in &query.stmts {
        let is_condition = match &stmt.literal {
            // What gives a name to something is no condition.
            Literal::Expr { expr, .. } => !matches!(&**expr, Expr::AssignExpr { .. }),
            Literal::NotExpr { .. } => true,
            Literal::Every { query, .. } => {
                conditions(query, changes);
                false
            }
            Literal::SomeVars { .. } | Literal::SomeIn { .. } => false,
        };
        if is_condition {
            let (start, end) = ends(&stmt.span, &stmt.span);
            let what = format!("'{}' was dropped", between(&stmt.span, &stmt.span).trim());
            changes.push(Change { start, end, new: "1 == 1".to_owned(), line: stmt.span.line, what });
        }
    }
}
