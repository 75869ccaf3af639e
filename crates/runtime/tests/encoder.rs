//! The encoder as others use it: a tiny one with random weights always, the real one where it has been installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tempfile::TempDir;
use tollgate_runtime::encoder::convert::{Converted, convert};
use tollgate_runtime::encoder::engine::{BATCH_MAX, EncodeError, Engine, PassCost};
use tollgate_runtime::encoder::manifest::Precision;
use tollgate_runtime::encoder::{Model, ModelError, TEXT_BYTES_MAX, TextTooLong, Tokens};

#[path = "encoder/reference.rs"]
mod reference;
#[path = "encoder/tiny.rs"]
mod tiny;

use reference::{Reference, cosine};

const SEED: u64 = 7;
/// Of lengths from two tokens to some forty.
const TEXTS: [&str; 8] = [
    "",
    "card",
    "where is my card",
    "where is my refund and the transfers",
    "a transfer",
    "the quick brown fox jumps",
    "is the refund my refund",
    "cards cards cards",
];

// === A tiny one ===

#[test]
fn in_f32_it_is_what_plain_loops_compute() {
    let (folder, engine) = tiny_engine(Precision::F32);
    let reference = Reference::open(folder.path());
    for text in TEXTS {
        let tokens = engine.model().tokenize(text).unwrap();
        let near = cosine(&alone(&engine, &tokens), &reference.embed(tokens.ids()));
        assert!(near > 0.999_999, "seed {SEED}, {text:?}: cosine {near}");
    }
}

#[test]
fn in_int8_it_is_nearly_that() {
    let (folder, engine) = tiny_engine(Precision::Int8);
    let reference = Reference::open(folder.path());
    let near = TEXTS.map(|text| {
        let tokens = engine.model().tokenize(text).unwrap();
        cosine(&alone(&engine, &tokens), &reference.embed(tokens.ids()))
    });
    let mean = near.iter().sum::<f64>() / near.len() as f64;
    assert!(mean > 0.995 && mean < 0.999_999, "seed {SEED}: mean cosine {mean} of {near:?}");
}

#[test]
fn vectors_have_unit_length_and_come_in_the_order_of_the_texts() {
    for precision in [Precision::F32, Precision::Int8] {
        let (_folder, engine) = tiny_engine(precision);
        let texts = tokenized(engine.model());
        let vectors = engine.embed(&texts.iter().collect::<Vec<_>>()).unwrap().vectors;
        assert_eq!(vectors.len(), TEXTS.len());
        for (tokens, vector) in texts.iter().zip(&vectors) {
            assert_eq!(vector.len(), tiny::HIDDEN);
            let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
            assert!((length - 1.0).abs() < 1e-5, "{length}");
            let near = similarity(vector, &alone(&engine, tokens));
            assert!(near > 0.999_99, "{precision:?}: cosine {near} between alone and in a batch");
        }
    }
}

#[test]
fn who_shares_a_pass_does_not_matter() {
    // So dear a pass that all texts share one, and so cheap that none do.
    let (_folder, engine) = tiny_engine(Precision::Int8);
    let texts = tokenized(engine.model());
    let texts: Vec<&Tokens> = texts.iter().collect();
    let together = Engine::new(engine.model().clone()).with_cost(PassCost { pass_us: 1e9, token_us: 1.0 });
    let apart = Engine::new(engine.model().clone()).with_cost(PassCost { pass_us: 0.0, token_us: 1.0 });
    for (one, other) in together.embed(&texts).unwrap().vectors.iter().zip(apart.embed(&texts).unwrap().vectors) {
        let near = similarity(one, &other);
        assert!(near > 0.999_99, "cosine {near}");
    }
}

#[test]
fn all_engines_say_the_same() {
    let (_folder, engine) = tiny_engine(Precision::Int8);
    let other = Engine::new(engine.model().clone());
    let texts = tokenized(engine.model());
    let texts: Vec<&Tokens> = texts.iter().collect();
    let vectors = |engine: &Engine| engine.embed(&texts).map(|embedded| embedded.vectors);
    assert_eq!(vectors(&engine), vectors(&other));
}

#[test]
fn nothing_asked_nothing_answered() {
    let (_folder, engine) = tiny_engine(Precision::Int8);
    assert_eq!(engine.embed(&[]).map(|embedded| embedded.vectors), Ok(Vec::new()));
}

#[test]
fn the_padding_and_the_cut_of_the_file_are_off() {
    let (_folder, engine) = tiny_engine(Precision::F32);
    let count = |text: &str| engine.model().tokenize(text).unwrap().count();
    assert_eq!(count(""), 2);
    assert_eq!(count("where is my card"), 6);
    assert_eq!(count(&"card ".repeat(100)), 102);
}

#[test]
fn a_text_that_is_too_long_can_be_refused_or_cut() {
    let (_folder, engine) = tiny_engine(Precision::F32);
    let tokens = engine.model().tokenize(&"card ".repeat(100)).unwrap();
    let refused = EncodeError::Length { index: 0, tokens: 102, max: tiny::MAX_TOKENS };
    assert_eq!(engine.embed(&[&tokens]), Err(refused));
    let end = tokens.ids().last().copied();
    let cut = tokens.truncated(tiny::MAX_TOKENS);
    assert_eq!((cut.ids().len(), cut.count()), (tiny::MAX_TOKENS, 102));
    assert_eq!(cut.ids().last().copied(), end);
    assert!(engine.embed(&[&cut]).is_ok());
}

#[test]
fn a_huge_text_is_not_even_tokenised() {
    let (_folder, engine) = tiny_engine(Precision::F32);
    let text = "a".repeat(TEXT_BYTES_MAX + 1);
    assert_eq!(engine.model().tokenize(&text), Err(TextTooLong { bytes: TEXT_BYTES_MAX + 1 }));
    assert!(engine.model().tokenize(&text[1..]).is_ok());
}

#[test]
fn too_many_texts_at_once_are_refused() {
    let (_folder, engine) = tiny_engine(Precision::F32);
    let tokens = engine.model().tokenize("card").unwrap();
    let refused = EncodeError::BatchTooLarge { texts: BATCH_MAX + 1 };
    assert_eq!(engine.embed(&vec![&tokens; BATCH_MAX + 1]), Err(refused));
}

// === What is no model ===

#[test]
fn the_same_folder_is_converted_to_the_same_bytes() {
    let folder = tiny_folder();
    let [one, other] = [0, 1].map(|_| convert(folder.path(), Precision::Int8).unwrap().files());
    assert_eq!(one, other);
}

/// What is done to a folder, and what must be said of it.
type Damage = (&'static str, fn(&Path), &'static str);

#[test]
fn what_is_no_such_encoder_is_refused_and_it_is_said_why() {
    let damages: [Damage; 15] = [
        ("no weights", |folder| remove(folder, "model.safetensors"), "cannot read"),
        ("no tokenizer", |folder| remove(folder, "tokenizer.json"), "cannot read"),
        ("cut weights", |folder| cut(folder, "model.safetensors"), "model.safetensors is not what it should be"),
        ("cut tokenizer", |folder| cut(folder, "tokenizer.json"), "tokenizer.json is not what it should be"),
        ("cut configuration", |folder| cut(folder, "config.json"), "config.json is not what it should be"),
        ("another model", |folder| say(folder, "model_type", "t5".into()), "model_type \"t5\"; only sentence encoders"),
        ("another activation", |folder| say(folder, "hidden_act", "relu".into()), "hidden_act \"relu\""),
        ("another size", |folder| say(folder, "hidden_size", 64.into()), "by config.json it should be [65, 64]"),
        (
            "absurd size",
            |folder| say(folder, "intermediate_size", 1_000_000_000.into()),
            "intermediate_size is 1000000000",
        ),
        ("fewer tokens than numbered", |folder| say(folder, "vocab_size", 64.into()), "a token of number 64"),
        ("no layers", |folder| say(folder, "num_hidden_layers", 0.into()), "num_hidden_layers is 0"),
        ("uneven heads", |folder| say(folder, "num_attention_heads", 5.into()), "no multiple of 5 heads"),
        ("missing layer", |folder| say(folder, "num_hidden_layers", 3.into()), "encoder.layer.2"),
        ("not a number", spoil, "is NaN"),
        ("another pooling", pool_otherwise, "another pooling than the mean"),
    ];
    for (what, damage, expected) in damages {
        let folder = tiny_folder();
        damage(folder.path());
        let said = convert(folder.path(), Precision::F32).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(said.contains(expected), "{what}: {said:?} does not say {expected:?}");
    }
}

#[test]
fn a_converted_file_that_was_touched_is_not_loaded() {
    for file in ["model.onnx", "tokenizer.json", "model.json"] {
        let folder = TempDir::new().unwrap();
        write(folder.path(), convert(tiny_folder().path(), Precision::Int8).unwrap());
        assert!(Model::load(folder.path()).is_ok());
        cut(folder.path(), file);
        let error = Model::load(folder.path()).err().unwrap();
        let expected =
            if file == "model.json" { "is not what it should be" } else { "is not the one that was converted" };
        assert!(error.to_string().contains(expected), "{file}: {error}");
    }
}

#[test]
fn no_damage_of_the_weights_makes_the_converter_panic() {
    let folder = tiny_folder();
    let file = folder.path().join("model.safetensors");
    let sound = fs::read(&file).unwrap();
    // The header has some four thousand bytes: there the damage is that matters.
    let place = prop_oneof![3 => 0..4096_usize, 1 => 0..sound.len()];
    let damage = (place, any::<u8>(), any::<bool>());
    let config = Config { cases: 200, failure_persistence: None, ..Config::default() };
    let tried = TestRunner::new(config).run(&damage, |(at, byte, cut)| {
        let mut bytes = sound.clone();
        bytes[at] = byte;
        if cut {
            bytes.truncate(at);
        }
        tiny::write_bytes(&file, &bytes);
        let converted = convert(folder.path(), Precision::F32);
        prop_assert!(!cut || converted.is_err());
        Ok(())
    });
    assert_eq!(tried, Ok(()));
}

#[test]
fn a_graph_that_is_none_is_refused_although_its_digest_is_right() {
    use ring::digest::{SHA256, digest};
    let sound = convert(tiny_folder().path(), Precision::Int8).unwrap();
    for keep in [0, 1, 100, sound.onnx.len() / 2, sound.onnx.len() - 1] {
        let onnx = sound.onnx[..keep].to_vec();
        let mut manifest = sound.manifest.clone();
        manifest.files.onnx = digest(&SHA256, &onnx).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let error = Model::from_bytes(manifest, onnx, &sound.tokenizer).err();
        assert!(matches!(error, Some(ModelError::Engine { .. })), "the first {keep} bytes: {error:?}");
    }
}

// === The real one ===

/// Some texts only: the plain loops take a second for each where nothing is optimised. `examples/embed.rs` compares 500.
#[test]
fn the_installed_model_is_what_plain_loops_compute() {
    let Some(folder) = installed() else { return };
    let engine = if folder.join("model.onnx").exists() {
        Engine::new(Model::load(&folder).unwrap())
    } else {
        Engine::new(load(convert(&folder, Precision::Int8).unwrap()))
    };
    assert_eq!(engine.model().dims(), 384);
    let [same, near, far] = ["Where is my card?", "My card has not arrived yet.", "The cat sleeps."]
        .map(|text| alone(&engine, &engine.model().tokenize(text).unwrap()));
    assert!(similarity(&same, &near) > similarity(&same, &far) + 0.2);
    if folder.join("model.safetensors").exists() {
        let reference = Reference::open(&folder);
        let tokens = engine.model().tokenize("My card has not arrived yet.").unwrap();
        let near = cosine(&alone(&engine, &tokens), &reference.embed(tokens.ids()));
        assert!(near > 0.98, "cosine {near}");
    }
}

#[expect(clippy::disallowed_methods, reason = "which model to test is said to the test alone")]
fn installed() -> Option<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tollgate/models/all-minilm-l6-v2");
    let folder = std::env::var_os("TOLLGATE_MODEL_DIR").map_or(here, PathBuf::from);
    folder.is_dir().then_some(folder)
}

// === What the tests share ===

fn tiny_folder() -> TempDir {
    let folder = TempDir::new().expect("a tiny model");
    tiny::write(folder.path(), SEED);
    folder
}

fn tiny_engine(precision: Precision) -> (TempDir, Engine) {
    let folder = tiny_folder();
    let model = load(convert(folder.path(), precision).expect("a tiny model"));
    (folder, Engine::new(model))
}

fn load(converted: Converted) -> Arc<Model> {
    Model::from_bytes(converted.manifest, converted.onnx, &converted.tokenizer).expect("a tiny model")
}

fn write(folder: &Path, converted: Converted) {
    for (name, bytes) in converted.files() {
        tiny::write_bytes(&folder.join(name), &bytes);
    }
}

fn tokenized(model: &Model) -> Vec<Tokens> {
    TEXTS.iter().map(|text| model.tokenize(text).expect("a tiny model")).collect()
}

fn alone(engine: &Engine, tokens: &Tokens) -> Vec<f32> {
    engine.embed(&[tokens]).expect("a tiny model").vectors.remove(0)
}

fn similarity(one: &[f32], other: &[f32]) -> f32 {
    one.iter().zip(other).map(|(one, other)| one * other).sum()
}

#[expect(clippy::disallowed_methods, reason = "a folder that the test has made")]
fn remove(folder: &Path, file: &str) {
    fs::remove_file(folder.join(file)).expect("a tiny model");
}

fn cut(folder: &Path, file: &str) {
    let bytes = fs::read(folder.join(file)).expect("a tiny model");
    tiny::write_bytes(&folder.join(file), &bytes[..bytes.len() - 40]);
}

fn say(folder: &Path, field: &str, value: serde_json::Value) {
    let mut config = tiny::config();
    config[field] = value;
    tiny::write_json(&folder.join("config.json"), &config);
}

fn spoil(folder: &Path) {
    let mut tensors = tiny::tensors(SEED);
    tensors[0].values[3] = f32::NAN;
    tiny::write_tensors(&folder.join("model.safetensors"), &tensors);
}

#[expect(clippy::disallowed_methods, reason = "a folder that the test has made")]
fn pool_otherwise(folder: &Path) {
    fs::create_dir(folder.join("1_Pooling")).expect("a tiny model");
    let pooling = serde_json::json!({ "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false });
    tiny::write_json(&folder.join("1_Pooling/config.json"), &pooling);
}
