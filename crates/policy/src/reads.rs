//! What a decision can read, found in the syntax tree: which modules, which data, which fields of the question.
//!
//! Conservative: whatever may be read counts as read. A module is reached whole. Where a path is computed, everything that
//! it may lead to is reached; of `data[x]` that is the whole bundle.
//!
//! The engine calls its syntax tree unstable: its version is pinned. Besides here it is read in `single.rs`, `absent.rs`,
//! `explain.rs`, `mutate.rs` and `law.rs`.

use std::collections::{BTreeMap, BTreeSet};

use regorus::Value;
use regorus::unstable::{Expr, Import, Literal, Module, Query, Ref, Rule, RuleBody, RuleHead};

use crate::absent::Present;
use crate::law::{GATHER, PACKAGE};
use crate::question::{FIELDS, Fields};

/// What rules may call, and with how many arguments. All of it is pure, and what it gives back is bounded by what it is given;
/// so nothing that reads a clock, draws lots, asks a network, or makes a long list from a number.
const BUILTINS: &[(&str, usize)] = &[
    ("abs", 1),
    ("all", 1),
    ("any", 1),
    ("array.concat", 2),
    ("array.reverse", 1),
    ("array.slice", 3),
    ("base64.decode", 1),
    ("base64.encode", 1),
    ("base64url.decode", 1),
    ("base64url.encode", 1),
    ("base64url.encode_no_pad", 1),
    ("bits.and", 2),
    ("bits.negate", 1),
    ("bits.or", 2),
    ("bits.xor", 2),
    ("ceil", 1),
    ("concat", 2),
    ("contains", 2),
    ("count", 1),
    ("endswith", 2),
    ("floor", 1),
    ("format_int", 2),
    ("glob.match", 3),
    ("glob.quote_meta", 1),
    ("indexof", 2),
    ("indexof_n", 2),
    ("intersection", 1),
    ("is_array", 1),
    ("is_boolean", 1),
    ("is_null", 1),
    ("is_number", 1),
    ("is_object", 1),
    ("is_set", 1),
    ("is_string", 1),
    ("json.filter", 2),
    ("json.marshal", 1),
    ("json.remove", 2),
    ("lower", 1),
    ("max", 1),
    ("min", 1),
    ("object.filter", 2),
    ("object.get", 3),
    ("object.keys", 1),
    ("object.remove", 2),
    ("object.subset", 2),
    ("object.union", 2),
    ("product", 1),
    ("regex.is_valid", 1),
    ("regex.match", 2),
    ("round", 1),
    ("semver.compare", 2),
    ("semver.is_valid", 1),
    ("sort", 1),
    ("split", 2),
    ("sprintf", 2),
    ("startswith", 2),
    ("strings.reverse", 1),
    ("substring", 3),
    ("sum", 1),
    ("to_number", 1),
    ("trim", 2),
    ("trim_left", 2),
    ("trim_prefix", 2),
    ("trim_right", 2),
    ("trim_space", 1),
    ("trim_suffix", 2),
    ("type_name", 1),
    ("union", 1),
    ("upper", 1),
];
/// Calls whose work is a product of what they are given, and the argument that has to be written out, from 0.
const LITERALS: &[(&str, usize)] = &[
    ("concat", 0),
    ("glob.match", 0),
    ("regex.match", 0),
    ("split", 1),
    ("trim", 1),
    ("trim_left", 1),
    ("trim_right", 1),
];
const TEXT_MAX: usize = 256;
/// More rules than any person writes.
const RULES_MAX: usize = 1_000;
/// Rules that need each other in a row.
const CHAIN_MAX: usize = 64;
/// What `sprintf` may put into its text: its length is then a small multiple of what it is given.
const VERBS_MAX: usize = 16;
/// Deeper syntax than any person writes.
const DEPTH_MAX: usize = 200;

/// A path in `data`, without the word itself.
pub type Path = Vec<String>;

/// What one bundle's decision can read.
#[derive(Clone, Debug, Default)]
pub struct Reads {
    pub fields: Fields,
    /// Of modules by their place in the list that was given.
    pub modules: BTreeSet<usize>,
    /// Paths of `data` that may be read, each with all below it.
    pub data: BTreeSet<Path>,
    /// Whether nothing is in it but what both engines are known to read alike: conditions on what is there, and texts.
    pub plain: bool,
}

/// Something in a module that no policy may have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {what}")]
pub struct Wrong {
    pub file: String,
    pub line: u32,
    pub what: String,
}

/// What one module mentions.
#[derive(Default)]
struct Mentions<'a> {
    data: BTreeSet<Path>,
    fields: Fields,
    wrong: Vec<Wrong>,
    /// Calls that nobody may make, not even a test.
    wrong_calls: Vec<Wrong>,
    /// Something that the fast engine is known to read in its own way, or may.
    odd: bool,
    /// What each rule of the module needs: paths in `data`.
    needs: BTreeMap<Path, BTreeSet<Path>>,
    /// What stands after `not`.
    negated: Vec<&'a Expr>,
}

/// Looks through one module.
struct Looking<'a> {
    module: &'a Module,
    /// Names that stand for paths, from imports: the path begins with `data` or `input`.
    imports: BTreeMap<String, Path>,
    /// Names that are rules or functions of the same package.
    own: &'a BTreeSet<String>,
    /// Functions of all packages, by their whole paths.
    functions: &'a BTreeSet<Path>,
    package: &'a Path,
    mentions: Mentions<'a>,
    /// The rule that is looked at.
    rule: Path,
    depth: usize,
}

// === impl Wrong ===

impl Wrong {
    /// Of the bundle as a whole.
    fn of_all(what: String) -> Self {
        Self { file: "the bundle".to_owned(), line: 0, what }
    }
}

// === impl Reads ===

impl Reads {
    /// What the package `entry` can read, with this data beside it. All that is wrong in any module is told at once.
    pub fn of(modules: &[Ref<Module>], entry: &[&str], data: &serde_json::Value) -> Result<Self, Vec<Wrong>> {
        let packages: Vec<Path> = modules.iter().map(|module| package_of(module)).collect();
        let mut rules = BTreeMap::<&Path, BTreeSet<String>>::new();
        for (module, package) in modules.iter().zip(&packages) {
            let names = module.policy.iter().filter_map(|rule| name_of(rule));
            rules.entry(package).or_default().extend(names);
        }
        let count: usize = modules.iter().map(|module| module.policy.len()).sum();
        if count > RULES_MAX {
            let what = format!("there are {count} rules, and at most {RULES_MAX} are read");
            return Err(vec![Wrong::of_all(what)]);
        }
        let functions = functions(modules, &packages);
        let none = BTreeSet::new();
        let (mut mentions, mut wrong) = (Vec::new(), Vec::new());
        for (module, package) in modules.iter().zip(&packages) {
            let mut found = Looking::through(module, package, rules.get(package).unwrap_or(&none), &functions);
            wrong.append(&mut found.wrong);
            wrong.append(&mut found.wrong_calls);
            mentions.push(found);
        }
        wrong.extend(crate::single::check(modules));
        if !wrong.is_empty() {
            return Err(wrong);
        }
        check_needs(&mentions).map_err(|wrong| vec![wrong])?;
        check_negated(&mentions, &Present::of(modules, data))?;
        let entry: Path = entry.iter().map(|part| (*part).to_owned()).collect();
        // Read as a whole, a package has in the machine also what is undefined in it.
        let mut read = mentions.iter().flat_map(|mentions| mentions.needs.values().flatten());
        let reads_package = read.any(|path| packages.iter().any(|package| package.starts_with(path)));
        let plain = !reads_package && mentions.iter().all(|mentions| !mentions.odd);
        let mut reads = Self { plain, ..Self::default() };
        let mut wanted = vec![entry];
        while let Some(path) = wanted.pop() {
            for (index, package) in packages.iter().enumerate() {
                if meet(package, &path) && reads.modules.insert(index) {
                    wanted.extend(mentions[index].data.iter().cloned());
                    reads.fields = reads.fields.union(mentions[index].fields);
                    reads.data.extend(mentions[index].data.iter().cloned());
                }
            }
        }
        Ok(reads)
    }
}

/// Calls in these modules, tests among them, that nobody may make.
pub(crate) fn wrong_calls(modules: &[Ref<Module>]) -> Vec<Wrong> {
    let packages: Vec<Path> = modules.iter().map(|module| package_of(module)).collect();
    let functions = functions(modules, &packages);
    let none = BTreeSet::new();
    let looked =
        modules.iter().zip(&packages).map(|(module, package)| Looking::through(module, package, &none, &functions));
    looked.flat_map(|mentions| mentions.wrong_calls).collect()
}

/// The functions of all modules, by their whole paths.
fn functions(modules: &[Ref<Module>], packages: &[Path]) -> BTreeSet<Path> {
    let of_each = modules.iter().zip(packages).flat_map(|(module, package)| {
        let named = module.policy.iter().filter(|rule| is_function(rule)).filter_map(|rule| name_of(rule));
        named.map(|name| package.iter().cloned().chain([name]).collect())
    });
    of_each.collect()
}

/// Whether no rule needs itself, by whatever way, and none needs one that needs one, and so on, too often.
fn check_needs(mentions: &[Mentions<'_>]) -> Result<(), Wrong> {
    let mut needs = BTreeMap::<&Path, BTreeSet<&Path>>::new();
    for (rule, paths) in mentions.iter().flat_map(|mentions| &mentions.needs) {
        needs.entry(rule).or_default().extend(paths);
    }
    let after = |paths: &BTreeSet<&Path>| -> Vec<&Path> {
        needs.keys().filter(|other| paths.iter().any(|path| meet(path, other))).copied().collect()
    };
    let next: BTreeMap<&Path, Vec<&Path>> = needs.iter().map(|(rule, paths)| (*rule, after(paths))).collect();
    // Rules that need nothing, or only what has been taken away, are taken away; what is left goes in circles.
    let mut left: BTreeSet<&Path> = next.keys().copied().collect();
    let (mut rounds, mut too_far) = (0, None);
    while !left.is_empty() {
        let ended: Vec<&Path> =
            left.iter().filter(|rule| next[**rule].iter().all(|other| !left.contains(other))).copied().collect();
        if ended.is_empty() {
            let rule = left.iter().find(|rule| reaches(&next, rule)).expect("what is left needs what is left");
            return Err(Wrong::of_all(format!("the rule data.{} needs itself; Rego has no recursion", rule.join("."))));
        }
        left.retain(|rule| !ended.contains(rule));
        rounds += 1;
        if rounds == CHAIN_MAX {
            too_far = left.first().copied();
        }
    }
    too_far.map_or(Ok(()), |rule| {
        Err(Wrong::of_all(format!("data.{} needs rules in a row of more than {CHAIN_MAX}", rule.join("."))))
    })
}

/// Whether what is negated means the same in OPA.
fn check_negated(mentions: &[Mentions<'_>], present: &Present<'_>) -> Result<(), Vec<Wrong>> {
    let negated = mentions.iter().enumerate().flat_map(|(module, mentions)| {
        mentions.negated.iter().filter_map(move |expr| Some((*expr, present.missing(module, expr)?)))
    });
    let told = |(expr, name): (&Expr, String)| {
        let what = format!("'{name}' may be missing, and OPA reads that otherwise: negate a rule that says it");
        Wrong { file: expr.span().source.file().clone(), line: expr.span().line, what }
    };
    let wrong: Vec<Wrong> = negated.map(told).collect();
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

fn reaches(next: &BTreeMap<&Path, Vec<&Path>>, rule: &Path) -> bool {
    let (mut seen, mut open) = (BTreeSet::new(), next[rule].clone());
    while let Some(other) = open.pop() {
        if other == rule {
            return true;
        }
        if seen.insert(other) {
            open.extend(&next[other]);
        }
    }
    false
}

/// Whether one of two paths lies on the other.
fn meet(a: &[String], b: &[String]) -> bool {
    a.iter().zip(b).all(|(a, b)| a == b)
}

pub(crate) fn package_of(module: &Module) -> Path {
    let mut path = static_path(&module.package.refr).map(|(path, _)| path).unwrap_or_default();
    if path.first().is_some_and(|first| first == "data") {
        path.remove(0);
    }
    path
}

/// What an import is called, and the path from `data` or `input` on that it stands for. `import rego.v1` and the like change
/// nothing in Rego 1.
pub(crate) fn import_of(import: &Import) -> Option<(String, Path)> {
    let (path, _) = static_path(&import.refr)?;
    let name = import.r#as.as_ref().map(|span| span.text().to_owned()).or_else(|| path.last().cloned())?;
    matches!(path[0].as_str(), "data" | "input").then_some((name, path))
}

/// The first name of a rule's head: `a` in `a.b[c]`.
pub(crate) fn name_of(rule: &Rule) -> Option<String> {
    static_path(head_of(rule)).and_then(|(path, _)| path.into_iter().next())
}

fn head_of(rule: &Rule) -> &Expr {
    match rule {
        Rule::Spec { head, .. } => match head {
            RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. } | RuleHead::Func { refr, .. } => refr,
        },
        Rule::Default { refr, .. } => refr,
    }
}

/// The path that a reference names as far as it is written out, and whether that is all of it. None: no reference.
pub(crate) fn static_path(expr: &Expr) -> Option<(Path, bool)> {
    match expr {
        Expr::Var { value, .. } => Some((vec![text_of(value)?], true)),
        Expr::RefDot { refr, field, .. } => {
            let (mut path, whole) = static_path(refr)?;
            if whole {
                path.push(text_of(&field.1)?);
            }
            Some((path, whole))
        }
        Expr::RefBrack { refr, index, .. } => {
            let (mut path, whole) = static_path(refr)?;
            match &**index {
                Expr::String { value, .. } | Expr::RawString { value, .. } if whole => {
                    path.push(text_of(value)?);
                    Some((path, true))
                }
                _ => Some((path, false)),
            }
        }
        _ => None,
    }
}

pub(crate) fn text_of(value: &Value) -> Option<String> {
    value.as_string().ok().map(|text| text.to_string())
}

// === impl Looking ===

impl<'a> Looking<'a> {
    fn through(
        module: &'a Module,
        package: &'a Path,
        own: &'a BTreeSet<String>,
        functions: &'a BTreeSet<Path>,
    ) -> Mentions<'a> {
        let mut looking = Self {
            module,
            imports: BTreeMap::new(),
            own,
            functions,
            package,
            mentions: Mentions::default(),
            rule: Path::new(),
            depth: 0,
        };
        for import in &module.imports {
            let Some((name, path)) = import_of(import) else { continue };
            let line = import.span.line;
            match path[0].as_str() {
                "data" => drop(looking.mentions.data.insert(path[1..].to_vec())),
                _ => looking.input(&path[1..], line),
            }
            if own.contains(&name) {
                looking.wrong(
                    line,
                    format!("'{name}' is imported, and a rule of the same package; give one another name"),
                );
            }
            looking.imports.insert(name, path);
        }
        for rule in &module.policy {
            looking.head(rule);
            looking.rule = package.iter().cloned().chain(name_of(rule)).collect();
            looking.mentions.needs.entry(looking.rule.clone()).or_default();
            looking.rule(rule);
        }
        looking.mentions
    }

    fn at(&self, line: u32, what: String) -> Wrong {
        Wrong { file: self.module.package.span.source.file().clone(), line, what }
    }

    fn wrong(&mut self, line: u32, what: String) {
        let wrong = self.at(line, what);
        self.mentions.wrong.push(wrong);
    }

    fn wrong_call(&mut self, line: u32, what: String) {
        let wrong = self.at(line, what);
        self.mentions.wrong_calls.push(wrong);
    }

    fn input(&mut self, path: &[String], line: u32) {
        let fields = Fields::at(path);
        if fields == Fields::NONE {
            let known: Vec<String> = FIELDS.iter().map(ToString::to_string).collect();
            let what = format!("nobody is asked 'input.{}'; there is {}", path.join("."), known.join(", "));
            self.wrong(line, what);
        }
        self.mentions.fields = self.mentions.fields.union(fields);
    }

    /// A head such as `a.b` or `a["b"]` makes a rule `a` too, of which nobody sees what it says.
    fn head(&mut self, rule: &Rule) {
        let line = rule.span().line;
        let simple = match head_of(rule) {
            Expr::Var { .. } => true,
            Expr::RefBrack { refr, index, .. } => {
                matches!(&**refr, Expr::Var { .. }) && !matches!(&**index, Expr::String { .. } | Expr::RawString { .. })
            }
            _ => false,
        };
        if !simple {
            self.wrong(line, "a rule is named by one name: write the object, or a package of that name".to_owned());
        }
        let name = name_of(rule).unwrap_or_default();
        let path: Path = self.package.iter().cloned().chain([name]).collect();
        let deciding = PACKAGE.map(str::to_owned);
        if self.package.len() < deciding.len() && meet(&path, &deciding)
            || self.package.len() > deciding.len() && meet(self.package, &deciding)
        {
            self.wrong(line, format!("what decides stands in the package {} itself", deciding.join(".")));
        }
    }

    fn rule(&mut self, rule: &'a Rule) {
        self.mentions.odd |= is_function(rule);
        match rule {
            Rule::Spec { head, bodies, .. } => {
                match head {
                    RuleHead::Compr { refr, assign, .. } => {
                        // Of several values for one key the machine keeps the last, where OPA ends with an error.
                        self.mentions.odd |= !matches!(&**refr, Expr::Var { .. });
                        self.indexes(refr);
                        assign.iter().for_each(|assign| self.expr(&assign.value));
                    }
                    RuleHead::Set { refr, key, .. } => {
                        self.indexes(refr);
                        key.iter().for_each(|key| self.expr(key));
                    }
                    RuleHead::Func { refr, args, assign, .. } => {
                        self.indexes(refr);
                        args.iter().for_each(|arg| self.expr(arg));
                        assign.iter().for_each(|assign| self.expr(&assign.value));
                    }
                }
                for RuleBody { assign, query, is_else, .. } in bodies {
                    self.mentions.odd |= is_else;
                    assign.iter().for_each(|assign| self.expr(&assign.value));
                    self.query(query);
                }
            }
            Rule::Default { span, args, value, .. } => {
                if !is_written_out(value) {
                    self.wrong(
                        span.line,
                        "a default is written out; say in a rule what has to be looked up".to_owned(),
                    );
                }
                args.iter().for_each(|arg| self.expr(arg));
                self.expr(value);
            }
        }
    }

    /// What stands in the brackets of a rule's head.
    fn indexes(&mut self, refr: &'a Expr) {
        match refr {
            Expr::RefBrack { refr, index, .. } => {
                self.indexes(refr);
                self.expr(index);
            }
            Expr::RefDot { refr, .. } => self.indexes(refr),
            _ => {}
        }
    }

    fn query(&mut self, query: &'a Query) {
        for stmt in &query.stmts {
            if let Literal::NotExpr { expr, .. } = &stmt.literal {
                self.mentions.negated.push(expr);
            }
            match &stmt.literal {
                Literal::SomeVars { .. } => self.mentions.odd = true,
                Literal::SomeIn { key, value, collection, .. } => {
                    self.mentions.odd = true;
                    key.iter().for_each(|key| self.expr(key));
                    self.expr(value);
                    self.expr(collection);
                }
                Literal::Expr { expr, .. } | Literal::NotExpr { expr, .. } => match &**expr {
                    // Here, and only here, something undefined is no member, and nothing more is made of that.
                    Expr::Membership { key: None, value, collection, .. } => {
                        self.expr(value);
                        self.expr(collection);
                    }
                    other => self.expr(other),
                },
                Literal::Every { domain, query, .. } => {
                    self.mentions.odd = true;
                    self.expr(domain);
                    self.query(query);
                }
            }
            for with in &stmt.with_mods {
                self.mentions.odd = true;
                self.expr(&with.refr);
                self.expr(&with.r#as);
            }
        }
    }

    fn expr(&mut self, expr: &'a Expr) {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            self.wrong(expr.span().line, format!("nested more than {DEPTH_MAX} deep; name a part of it"));
        } else {
            self.look(expr);
        }
        self.depth -= 1;
    }

    fn look(&mut self, expr: &'a Expr) {
        match expr {
            Expr::String { .. }
            | Expr::RawString { .. }
            | Expr::Number { .. }
            | Expr::Bool { .. }
            | Expr::Null { .. } => {}
            Expr::Var { span, .. } => self.reference(expr, span.line),
            Expr::RefDot { span, refr, .. } => {
                self.reference(expr, span.line);
                self.inside(refr);
            }
            Expr::RefBrack { span, refr, index, .. } => {
                // A number may be the name of a member of data, which the machine does not find.
                self.mentions.odd |= !matches!(&**index, Expr::String { .. } | Expr::RawString { .. });
                self.reference(expr, span.line);
                self.inside(refr);
                self.expr(index);
            }
            Expr::Array { items, .. } | Expr::Set { items, .. } => items.iter().for_each(|item| self.expr(item)),
            Expr::Object { fields, .. } => {
                for (_, key, value) in fields {
                    self.expr(key);
                    self.expr(value);
                }
            }
            Expr::ArrayCompr { term, query, .. } | Expr::SetCompr { term, query, .. } => {
                self.mentions.odd = true;
                self.expr(term);
                self.query(query);
            }
            Expr::ObjectCompr { key, value, query, .. } => {
                self.mentions.odd = true;
                self.expr(key);
                self.expr(value);
                self.query(query);
            }
            Expr::Call { span, fcn, params, .. } => {
                self.call(fcn, params, span.line);
                params.iter().for_each(|param| self.expr(param));
            }
            Expr::UnaryExpr { expr, .. } => self.expr(expr),
            Expr::BoolExpr { lhs, rhs, .. } => {
                self.expr(lhs);
                self.expr(rhs);
            }
            Expr::BinExpr { lhs, rhs, .. } | Expr::ArithExpr { lhs, rhs, .. } | Expr::AssignExpr { lhs, rhs, .. } => {
                self.mentions.odd = true;
                self.expr(lhs);
                self.expr(rhs);
            }
            Expr::Membership { span, .. } => self.wrong(
                span.line,
                "'in' stands by itself as a condition, without a key: what is undefined would be taken for false"
                    .to_owned(),
            ),
        }
    }

    /// What stands in a reference besides its path: `data[input.x].y` reads `input.x`, too.
    fn inside(&mut self, refr: &'a Expr) {
        match refr {
            Expr::RefDot { refr, .. } => self.inside(refr),
            Expr::RefBrack { refr, index, .. } => {
                self.inside(refr);
                self.expr(index);
            }
            Expr::Var { .. } => {}
            other => self.expr(other),
        }
    }

    fn reference(&mut self, expr: &Expr, line: u32) {
        let Some((path, _)) = static_path(expr) else { return };
        let path = self.resolved(path);
        match path.first().map(String::as_str) {
            Some("data") => self.data(&path[1..]),
            Some("input") => self.input(&path[1..], line),
            // A name within the rule may be the same as another rule's: careful is good enough.
            Some(name) if self.own.contains(name) => self.needs(self.package.iter().chain(&path).cloned().collect()),
            _ => {}
        }
    }

    fn data(&mut self, path: &[String]) {
        if path.first().is_some_and(|first| first == GATHER) {
            self.wrong(self.module.package.span.line, format!("'data.{GATHER}' is Tollgate's own"));
        }
        self.mentions.data.insert(path.to_vec());
        self.needs(path.to_vec());
    }

    fn needs(&mut self, path: Path) {
        self.mentions.needs.entry(self.rule.clone()).or_default().insert(path);
    }

    /// The path with its first name replaced by what was imported under it.
    fn resolved(&self, path: Path) -> Path {
        match self.imports.get(&path[0]) {
            Some(import) => import.iter().chain(&path[1..]).cloned().collect(),
            None => path,
        }
    }

    fn call(&mut self, fcn: &Expr, params: &[Ref<Expr>], line: u32) {
        let Some((written, true)) = static_path(fcn) else {
            return self.wrong_call(line, "a function is called by its name".to_owned());
        };
        let name = written.join(".");
        let resolved = self.resolved(written.clone());
        let whole: Path = match resolved[0].as_str() {
            "data" => resolved[1..].to_vec(),
            _ => self.package.iter().cloned().chain(resolved).collect(),
        };
        // Only a whole name is a function's: else the engine would take a builtin that it has by the same name.
        if self.functions.contains(&whole) {
            return self.data(&whole);
        }
        let builtin = BUILTINS.iter().find(|(builtin, _)| *builtin == name);
        let Some((_, count)) = builtin.filter(|_| !self.imports.contains_key(&written[0])) else {
            return self.wrong_call(line, format!("a policy may not call '{name}': {}", instead_of(&name)));
        };
        if params.len() != *count {
            // The machine would say that it is undefined, and a `deny` that rests on it would not deny.
            self.wrong_call(line, format!("the number of arguments of {name} is {count}, and not {}", params.len()));
        } else if name == "sprintf" && !is_short_format(params.first()) {
            self.wrong_call(
                line,
                format!("the format of sprintf is written out, with at most {VERBS_MAX} verbs and no width"),
            );
        } else if let Some((_, place)) = LITERALS.iter().find(|(builtin, _)| *builtin == name)
            && !params.get(*place).is_some_and(|param| is_short_text(param))
        {
            self.wrong_call(
                line,
                format!("argument {} of {name} is a text that is written out, of at most {TEXT_MAX} bytes", place + 1),
            );
        }
    }
}

fn is_function(rule: &Rule) -> bool {
    matches!(rule, Rule::Spec { head: RuleHead::Func { .. }, .. })
}

/// Whether it is there without looking anything up: the machine would say that another default is undefined.
fn is_written_out(expr: &Expr) -> bool {
    match expr {
        Expr::String { .. }
        | Expr::RawString { .. }
        | Expr::Number { .. }
        | Expr::Bool { .. }
        | Expr::Null { .. }
        // Both engines are asked about these.
        | Expr::ArrayCompr { .. }
        | Expr::SetCompr { .. }
        | Expr::ObjectCompr { .. } => true,
        Expr::UnaryExpr { expr, .. } => matches!(&**expr, Expr::Number { .. }),
        Expr::Array { items, .. } | Expr::Set { items, .. } => items.iter().all(|item| is_written_out(item)),
        Expr::Object { fields, .. } => fields.iter().all(|(_, key, value)| is_written_out(key) && is_written_out(value)),
        _ => false,
    }
}

fn is_short_text(expr: &Expr) -> bool {
    match expr {
        Expr::String { value, .. } | Expr::RawString { value, .. } => {
            text_of(value).is_some_and(|text| text.len() <= TEXT_MAX)
        }
        _ => false,
    }
}

fn instead_of(name: &str) -> &'static str {
    match name {
        "time.now_ns" => "what time it is stands in input.time",
        "http.send" | "net.lookup_ip_addr" => "put what it needs into data.json",
        "print" => "nobody reads what it prints",
        _ => "it reads more than it is given, or makes more of it than can be bounded",
    }
}

/// A text without padding, such as `%d of %s`.
fn is_short_format(format: Option<&Ref<Expr>>) -> bool {
    let Some(Expr::String { value, .. } | Expr::RawString { value, .. }) = format.map(|format| &**format) else {
        return false;
    };
    let Some(text) = text_of(value) else { return false };
    let mut verbs = text.split('%').skip(1).filter(|rest| !rest.is_empty());
    let mut count = 0;
    verbs.all(|rest| {
        count += 1;
        rest.starts_with(|first: char| first.is_ascii_alphabetic())
    }) && count <= VERBS_MAX
}
