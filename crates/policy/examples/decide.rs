//! What a decision costs: CPU of the shipped bundles, input building included, asked anew each time and remembered; and what it
//! takes to compile them. `cargo run --release -p tollgate-policy --example decide`; the last line is JSON.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use tollgate_policy::{Bundle, Decision, File, Law, Layer, Layers, Question};

#[path = "../tests/folder.rs"]
mod folder;

const STEPS: u64 = 100_000;

fn main() {
    let compiled_before = cpu_ns();
    let laws = [("baseline", Layer::Platform), ("eu-residency", Layer::Plan), ("sandbox", Layer::Tenant)]
        .map(|(name, layer)| (layer, Arc::new(law(name))));
    let compile_us = (cpu_ns() - compiled_before) / 3_000;
    let one = Layers::new([laws[0].clone()]);
    let all = Layers::new(laws);
    // Of each request another number of bytes, which two of the bundles read: nothing is remembered for long.
    let (ns_one, ns_all) = (ns_per_decision(&one, |n| n % 20_000), ns_per_decision(&all, |n| n % 20_000));
    let ns_remembered = ns_per_decision(&all, |_| 120);
    let module =
        "package tollgate.admission\nallow if { some limit in [10000, 20000]; input.request.input_bytes < limit }";
    let file = File { path: "a.rego".to_owned(), bytes: module.as_bytes().to_vec() };
    let law = Law::compile(&Bundle::from_files(&[file]).expect("a bundle")).expect("it compiles");
    let ns_two_engines = ns_per_decision(&Layers::new([(Layer::Tenant, Arc::new(law))]), |n| n % 20_000);
    println!(
        "{ns_one} ns of CPU a decision of one shipped bundle, {ns_all} of three, {ns_remembered} remembered; {ns_two_engines} of \
         a small one that is not plain, so asked of two engines"
    );
    println!(
        "{{\"ns_one_layer\":{ns_one},\"ns_three_layers\":{ns_all},\"ns_remembered\":{ns_remembered},\"ns_two_engines\":{ns_two_engines},\"compile_us\":{compile_us}}}"
    );
}

fn ns_per_decision(layers: &Layers, input_bytes: impl Fn(u64) -> u64) -> u64 {
    let ask = |n: u64| {
        let question = Question {
            tenant: "acme",
            plan: "standard",
            project: "default",
            key: "k7be73313b0d47b30",
            surface: "chat",
            route: "gpt-4o-mini",
            model: "gpt-4o-mini",
            provider: "openai",
            region: Some("eu"),
            input_bytes: input_bytes(n),
            max_tokens: Some(300),
            choices: 1,
            ..Question::default()
        };
        let decision = layers.decide(&question).expect("decided");
        assert!(matches!(*decision, Decision::Allowed(_)), "{decision:?}");
        black_box(decision);
    };
    (0..STEPS / 10).for_each(ask);
    let before = cpu_ns();
    (0..STEPS).for_each(ask);
    (cpu_ns() - before) / STEPS
}

fn law(name: &str) -> Law {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies").join(name);
    Law::compile(&folder::folder(&root).expect("a shipped bundle")).expect("it compiles")
}

/// What this process has computed so far: others on the machine do not count.
fn cpu_ns() -> u64 {
    let schedstat = std::fs::read_to_string("/proc/self/schedstat").expect("Linux tells how long a process ran");
    schedstat.split(' ').next().and_then(|ns| ns.parse().ok()).expect("the first number is nanoseconds")
}
