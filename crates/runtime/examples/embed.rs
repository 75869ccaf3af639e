//! What an embedding costs and how near it is to the f32 original.
//!
//! ```text
//! embed compare FOLDER [CSV]     cosine of 500 texts against plain loops, and whether neighbours in a batch matter
//! embed cost FOLDER              CPU milliseconds by batch and length, and what a pass costs (for PassCost)
//! embed serve FOLDER ONNX        the same for clients/runtime/bench.py, which asks line by line; writes the f32 graph for others
//! ```
//!
//! FOLDER is as Hugging Face ships it; CSV has a text in its first column (else some texts of this file, over and over).

use std::io::{BufRead, Write, stdin, stdout};
use std::path::Path;
use std::sync::Arc;
use std::{env, fs, process};

use tollgate_runtime::encoder::convert::{convert, convert_for_others};
use tollgate_runtime::encoder::engine::{Engine, PassCost};
use tollgate_runtime::encoder::manifest::Precision;
use tollgate_runtime::encoder::{Model, Tokens};

#[path = "../tests/encoder/reference.rs"]
mod reference;

type Failure = Box<dyn std::error::Error>;

const TEXTS: usize = 500;
const ROUNDS: usize = 5;
const LENGTHS: [usize; 2] = [20, 128];
const BATCHES: [usize; 3] = [1, 8, 32];
/// What a measurement embeds: enough that a clock tick does not show, little enough that five rounds take seconds.
const TOKENS_MEASURED: usize = 4096;

const BUILT_IN: [&str; 10] = [
    "I am still waiting on my card?",
    "What can I do if my card still hasn't arrived after 2 weeks?",
    "Is there a way to know when my transfer will arrive?",
    "The exchange rate that was applied to my purchase is wrong.",
    "Powershell downloads the second stage and runs it in memory.",
    "The actor created a scheduled task to survive reboots.",
    "My invoice of March was charged twice.",
    "hello",
    "How long does it take to top up by bank transfer from another country, and what does it cost on a weekend?",
    "Credentials were dumped from the memory of LSASS.",
];

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["compare", folder] => compare(Path::new(folder), built_in()),
        ["compare", folder, csv] => compare(Path::new(folder), first_column(Path::new(csv))?),
        ["cost", folder] => cost(Path::new(folder)),
        ["serve", folder, onnx] => serve(Path::new(folder), Path::new(onnx)),
        _ => {
            eprintln!("usage: embed compare FOLDER [CSV] | embed cost FOLDER | embed serve FOLDER ONNX");
            process::exit(2);
        }
    }
}

// === How near it is ===

fn compare(folder: &Path, texts: Vec<String>) -> Result<(), Failure> {
    let engine = engine(folder, Precision::Int8)?;
    let reference = reference::Reference::open(folder);
    let tokens = texts.iter().map(|text| engine.model().tokenize(text)).collect::<Result<Vec<_>, _>>()?;
    let mut near = Vec::new();
    let mut coupled = Vec::new();
    // All of a batch in as few passes as there can be: what padding and neighbours do shows most.
    let together = Engine::new(engine.model().clone()).with_cost(PassCost { pass_us: 1e9, token_us: 1.0 });
    for batch in tokens.chunks(32) {
        let batched = together.embed(&batch.iter().collect::<Vec<_>>())?.vectors;
        for (tokens, batched) in batch.iter().zip(batched) {
            let alone = engine.embed(&[tokens])?.vectors.remove(0);
            let exact = reference.embed(tokens.ids());
            near.push(reference::cosine(&alone, &exact));
            coupled.push(alone.iter().zip(&batched).map(|(one, other)| f64::from(one * other)).sum());
        }
    }
    let (mean, min) = mean_and_min(&near);
    let (_, coupled_min) = mean_and_min(&coupled);
    println!("int8 against f32 in plain loops, {} texts: cosine {mean:.4} on average, {min:.4} at least", near.len());
    println!("alone against in a batch of 32: cosine {coupled_min:.6} at least");
    println!("{{\"cosine_mean\":{mean:.6},\"cosine_min\":{min:.6},\"cosine_batched_min\":{coupled_min:.6}}}");
    Ok(())
}

fn mean_and_min(values: &[f64]) -> (f64, f64) {
    (values.iter().sum::<f64>() / values.len() as f64, values.iter().copied().fold(f64::INFINITY, f64::min))
}

fn first_column(csv: &Path) -> Result<Vec<String>, Failure> {
    let mut texts = Vec::new();
    for row in csv::Reader::from_path(csv)?.records() {
        texts.push(row?.get(0).unwrap_or_default().to_owned());
    }
    // Such files are ordered by label: some of all, and not all of some.
    let step = (texts.len() / TEXTS).max(1);
    Ok(texts.into_iter().step_by(step).take(TEXTS).collect())
}

fn built_in() -> Vec<String> {
    BUILT_IN.iter().cycle().take(TEXTS).map(|&text| text.to_owned()).collect()
}

// === What it costs ===

fn cost(folder: &Path) -> Result<(), Failure> {
    let engine = engine(folder, Precision::Int8)?;
    println!("CPU ms per embedding, best of {ROUNDS}");
    for length in LENGTHS {
        for batch in BATCHES {
            let mut best = f64::INFINITY;
            for _ in 0..ROUNDS {
                best = best.min(milliseconds(&engine, batch, length)?);
            }
            println!("  {length:3} tokens, batch {batch:2}: {best:.2}");
        }
    }
    // Two points of the line, near the sizes that passes have.
    let [few, many] = [8_usize, 256].map(|length| -> Result<f64, Failure> {
        let mut best = f64::INFINITY;
        for _ in 0..ROUNDS {
            best = best.min(milliseconds(&engine, 1, length)?);
        }
        Ok(best * 1e3)
    });
    let (few, many) = (few?, many?);
    let token_us = (many - few) / 248.0;
    println!("a pass: {:.0} us + {token_us:.0} us a token", few - 8.0 * token_us);
    Ok(())
}

/// Answers "int8 8 20" with the CPU milliseconds of an embedding: a batch of eight, twenty tokens each.
fn serve(folder: &Path, onnx: &Path) -> Result<(), Failure> {
    write(onnx, &convert_for_others(folder, Precision::F32)?.onnx)?;
    let engines = [engine(folder, Precision::Int8)?, engine(folder, Precision::F32)?];
    println!("ready");
    stdout().flush()?;
    for line in stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let [precision, batch, length] = words[..] else { return Err(format!("not understood: {line}").into()) };
        let engine = &engines[usize::from(precision == "f32")];
        println!("{}", milliseconds(engine, batch.parse()?, length.parse()?)?);
        stdout().flush()?;
    }
    Ok(())
}

fn milliseconds(engine: &Engine, batch: usize, length: usize) -> Result<f64, Failure> {
    // A word of one token, and the two at the ends.
    let text = engine.model().tokenize(&"card ".repeat(length - 2))?;
    let texts: Vec<&Tokens> = vec![&text; batch];
    engine.embed(&texts)?;
    let times = (TOKENS_MEASURED / (batch * length)).max(1);
    let before = cpu_ms()?;
    for _ in 0..times {
        engine.embed(&texts)?;
    }
    Ok((cpu_ms()? - before) / (times * batch) as f64)
}

/// Of all threads of this process, as the scheduler counts it.
fn cpu_ms() -> Result<f64, Failure> {
    let mut nanoseconds = 0;
    for task in fs::read_dir("/proc/self/task")? {
        let line = fs::read_to_string(task?.path().join("schedstat"))?;
        nanoseconds += line.split(' ').next().unwrap_or_default().parse::<u64>()?;
    }
    Ok(nanoseconds as f64 / 1e6)
}

fn engine(folder: &Path, precision: Precision) -> Result<Engine, Failure> {
    let converted = convert(folder, precision)?;
    let model: Arc<Model> = Model::from_bytes(converted.manifest, converted.onnx, &converted.tokenizer)?;
    Ok(Engine::new(model))
}

#[expect(clippy::disallowed_methods, reason = "what the other engines read, where whoever compares them wants it")]
fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    Ok(fs::write(path, bytes)?)
}
