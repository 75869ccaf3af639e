//! Ways to break a guard, each a change of its text that a hurried hand could make.

/// What was broken, and the broken text. One change each.
pub fn of(text: &str) -> Vec<(String, String)> {
    let mut mutants = Vec::new();
    for (from, to) in [
        (" && ", " || "),
        (" || ", " && "),
        (" == ", " != "),
        ("permit (", "forbid ("),
        ("forbid (", "permit ("),
        ("when {", "unless {"),
        ("unless {", "when {"),
        ("action in Action::\"ReadMoney\"", "action in Action::\"Read\""),
        ("action in Action::\"ReadWork\"", "action in Action::\"Read\""),
        ("action in Action::\"Read\"", "action"),
        ("action in Action::\"Manage\"", "action"),
        ("action in Action::\"Ration\"", "action"),
        ("action in Action::\"Ration\"", "action in Action::\"Manage\""),
        ("resource is Room", "resource"),
        ("principal is Operator", "principal"),
        ("!(", "("),
    ] {
        for at in places(text, from) {
            mutants.push((
                told(text, at, &format!("'{}' for '{}'", to.trim(), from.trim())),
                replaced(text, at, from, to),
            ));
        }
    }
    for (at, clause) in clauses(text) {
        mutants.push((told(text, at, &format!("without {clause:?}")), replaced(text, at, clause, "")));
        for (inner, conjunct) in conjuncts(clause) {
            mutants.push((
                told(text, at + inner, &format!("without the conjunct {conjunct:?}")),
                replaced(text, at + inner, conjunct, "true"),
            ));
        }
    }
    mutants
}

/// Where the rules say `from`; comments do not count.
fn places(text: &str, from: &str) -> Vec<usize> {
    let in_comment = |at: usize| text[..at].rsplit('\n').next().is_some_and(|line| line.contains("//"));
    text.match_indices(from).map(|(at, _)| at).filter(|at| !in_comment(*at)).collect()
}

/// `when {...}` and `unless {...}`, with where they stand.
fn clauses(text: &str) -> Vec<(usize, &str)> {
    let begins = places(text, "when {").into_iter().chain(places(text, "unless {"));
    begins.filter_map(|at| Some((at, &text[at..=at + text[at..].find('}')?]))).collect()
}

/// The conjuncts of a clause that has several, with where they stand in it.
fn conjuncts(clause: &str) -> Vec<(usize, &str)> {
    let Some(open) = clause.find('{') else { return Vec::new() };
    let inside = &clause[open + 1..clause.len() - 1];
    let mut at = open + 1;
    let mut found = Vec::new();
    for part in inside.split(" && ") {
        let lead = part.len() - part.trim_start().len();
        found.push((at + lead, part.trim()));
        at += part.len() + " && ".len();
    }
    if found.len() > 1 { found } else { Vec::new() }
}

fn replaced(text: &str, at: usize, from: &str, to: &str) -> String {
    format!("{}{to}{}", &text[..at], &text[at + from.len()..])
}

/// Says which rule was changed, and how.
fn told(text: &str, at: usize, how: &str) -> String {
    let rule = text[..at].rsplit("@id(\"").next().and_then(|rest| rest.split('"').next()).unwrap_or_default();
    format!("{rule}: {how}")
}
