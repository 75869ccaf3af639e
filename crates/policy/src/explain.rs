//! Why a bundle says what it says of one request: of each rule of `allow` and `deny` whether it holds, and if not, which line of
//! it was the first that did not.
//!
//! Each body is asked beside the bundle's own rules, as far as its first line, its second, and so on.

use std::fmt;

use regorus::unstable::{Expr, Module as Syntax, Query, Rule, RuleHead, Span};
use regorus::{Engine, Value};

use crate::bundle::{Bundle, Module};
use crate::law::{LawError, PACKAGE, engine};
use crate::reads::{name_of, package_of};
use crate::source::between;

/// What one bundle says of one request, rule by rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    pub rules: Vec<RuleSaid>,
}

/// What one body of `allow` or `deny` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSaid {
    /// `allow` or `deny`.
    pub rule: String,
    pub file: String,
    /// Where it begins.
    pub line: u32,
    pub said: Said,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// It holds; of `deny` with these reasons.
    Holds(Vec<String>),
    /// This line of it does not.
    Fails {
        line: u32,
        text: String,
    },
    Error(String),
}

/// A body of a rule, as text.
struct Body<'a> {
    rule: String,
    key: Option<&'a Span>,
    at: &'a Span,
    /// From the first statement to each.
    upto: Vec<(&'a Span, String)>,
}

// === impl Explanation ===

impl Explanation {
    /// Asks the bundle of a whole document `input`.
    pub fn of(bundle: &Bundle, input: &Value) -> Result<Self, LawError> {
        let mut whole = engine(&bundle.modules, &bundle.data)?;
        let modules = whole.get_modules().clone();
        let decide = modules.iter().filter(|module| package_of(module) == PACKAGE);
        let mut rules = Vec::new();
        for module in decide {
            for rule in &module.policy {
                for body in bodies(rule) {
                    let said = body.said(bundle, module, input);
                    let (file, line) = (body.at.source.file().clone(), body.at.line);
                    rules.push(RuleSaid { rule: body.rule, file, line, said });
                }
            }
        }
        Ok(Self { rules })
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, RuleSaid { rule, file, line, said }) in self.rules.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{file}:{line}: {rule} {said}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Holds(reasons) if reasons.is_empty() => f.write_str("holds"),
            Self::Holds(reasons) => write!(f, "holds: {}", reasons.join("; ")),
            Self::Fails { line, text } => write!(f, "does not hold, for line {line} does not: {text}"),
            Self::Error(why) => write!(f, "cannot be asked: {why}"),
        }
    }
}

/// The bodies of a rule that decides.
fn bodies(rule: &Rule) -> Vec<Body<'_>> {
    let Some(name) = name_of(rule).filter(|name| name == "allow" || name == "deny") else { return Vec::new() };
    let Rule::Spec { span, head, bodies } = rule else { return Vec::new() };
    let key = match head {
        RuleHead::Set { key, .. } => key.as_ref().map(|key| Expr::span(key)),
        RuleHead::Compr { .. } | RuleHead::Func { .. } => None,
    };
    if bodies.is_empty() {
        return vec![Body { rule: name, key, at: span, upto: Vec::new() }];
    }
    let made = bodies.iter().filter(|one| !one.query.stmts.is_empty());
    made.map(|one| Body { rule: name.clone(), key, at: &one.span, upto: prefixes(&one.query) }).collect()
}

fn prefixes(query: &Query) -> Vec<(&Span, String)> {
    let Some(first) = query.stmts.first() else { return Vec::new() };
    query.stmts.iter().map(|stmt| (&stmt.span, between(&first.span, &stmt.span).to_owned())).collect()
}

// === impl Body ===

impl Body<'_> {
    fn said(&self, bundle: &Bundle, module: &Syntax, input: &Value) -> Said {
        let whole = self.upto.last().map_or("true", |(_, text)| text.as_str());
        let asked = match self.key {
            Some(key) => format!("tollgate_asked contains {} if {{\n{whole}\n}}", between(key, key)),
            None => format!("tollgate_asked if {{\n{whole}\n}}"),
        };
        match ask(bundle, module, &asked, input) {
            Ok(Value::Bool(true)) => return Said::Holds(Vec::new()),
            Ok(Value::Set(reasons)) if !reasons.is_empty() => {
                let shown =
                    |reason: &Value| reason.as_string().map_or_else(|_| reason.to_string(), |text| text.to_string());
                return Said::Holds(reasons.iter_sorted().map(shown).collect());
            }
            Ok(_) => {}
            Err(why) => return Said::Error(why),
        }
        for (span, text) in &self.upto {
            // One that needs what is said further down cannot be asked by itself.
            let holds = ask(bundle, module, &format!("tollgate_asked if {{\n{text}\n}}"), input);
            if !matches!(holds, Ok(Value::Bool(true)) | Err(_)) {
                return Said::Fails { line: span.line, text: between(span, span).trim().to_owned() };
            }
        }
        Said::Fails { line: self.at.line, text: self.at.text().lines().next().unwrap_or_default().trim().to_owned() }
    }
}

/// What one more rule says beside those of a module.
fn ask(bundle: &Bundle, module: &Syntax, rule: &str, input: &Value) -> Result<Value, String> {
    let file = module.package.span.source.file();
    let with = |one: &Module| match one.path == *file {
        true => Module { path: one.path.clone(), text: format!("{}\n{rule}\n", one.text) },
        false => one.clone(),
    };
    let modules: Vec<Module> = bundle.modules.iter().map(with).collect();
    let mut engine: Engine = engine(&modules, &bundle.data).map_err(|error| error.to_string())?;
    engine.set_input(input.clone());
    engine
        .eval_rule(format!("data.{}.tollgate_asked", PACKAGE.join(".")))
        .map_err(|error| error.to_string().trim().to_owned())
}
