//! Heads from rows to answers, on little questions that are made here: training, files, probabilities, and the cascade.

use std::ops::ControlFlow;
use std::sync::LazyLock;

use proptest::prelude::*;
use ring::digest::{SHA256, digest};
use tollgate_runtime::head::cascade::{Cascade, CascadeError, Costs, First, Mix, Stage, best_within, fit_mix, pareto};
use tollgate_runtime::head::figures::{figures, likeliest};
use tollgate_runtime::head::ngrams::{EMBED_DIMS, TEXT_BYTES_MAX, embed};
use tollgate_runtime::head::rows::{Fault, Row};
use tollgate_runtime::head::train::{Phase, Settings, Source, TrainError, Trained, train};
use tollgate_runtime::head::{ClassifyError, Features, Head};

const QUESTIONS: [(&str, [&str; 4]); 3] = [
    (
        "arrival",
        ["when will my {} arrive", "the {} has not come yet", "still waiting for the {}", "track my {} please"],
    ),
    ("lost", ["i lost my {}", "somebody stole the {}", "my {} is gone", "block the {} it is missing"]),
    ("fee", ["why was i charged for the {}", "what does a {} cost", "the fee of my {} is wrong", "is the {} free"]),
];
const THINGS: [&str; 6] = ["card", "new card", "credit card", "bank letter", "phone", "cheque book"];

fn rows() -> Vec<Row> {
    let of_thing = |thing: &str| {
        QUESTIONS
            .iter()
            .flat_map(|(label, texts)| {
                texts.iter().map(|text| row(&text.replace("{}", thing), label)).collect::<Vec<_>>()
            })
            .collect::<Vec<_>>()
    };
    THINGS.iter().flat_map(|thing| of_thing(thing)).collect()
}

fn row(text: &str, label: &str) -> Row {
    Row { text: text.to_owned(), label: label.to_owned(), group: None }
}

fn settings(seed: u64) -> Settings {
    Settings { buckets_log2: 10, ..Settings::hashed(seed) }
}

fn trained(rows: &[Row], source: Source<'_>, settings: &Settings) -> Result<Trained, TrainError> {
    train(rows, source, settings, &mut |_| ControlFlow::Continue(()))
}

fn hashed(seed: u64) -> Trained {
    trained(&rows(), Source::Hashed, &settings(seed)).expect("trained")
}

/// An "encoder" that is there in every build.
fn vectors(rows: &[Row]) -> Vec<f32> {
    rows.iter().flat_map(|row| embed(&row.text).expect("short")).collect()
}

fn encoder(seed: u64) -> Trained {
    let (rows, settings) = (rows(), settings(seed));
    let vectors = vectors(&rows);
    trained(&rows, Source::Encoder { digest: "lexical", dims: EMBED_DIMS, vectors: &vectors }, &settings)
        .expect("trained")
}

fn all(head: &Head, rows: &[Row]) -> Vec<Vec<f32>> {
    rows.iter().map(|row| head.classify(Features::Text(&row.text)).expect("short")).collect()
}

fn truth(head: &Head, rows: &[Row]) -> Vec<usize> {
    rows.iter().map(|row| head.labels().binary_search(&row.label).expect("known")).collect()
}

#[test]
fn it_answers_questions_it_has_not_seen() {
    let head = hashed(1).head;
    assert_eq!(head.labels(), ["arrival", "fee", "lost"]);
    for (text, expected) in [
        ("My passport card still has not come", "arrival"),
        ("somebody stole my wallet", "lost"),
        ("Why was I CHARGED twice", "fee"),
    ] {
        let probabilities = head.classify(Features::Text(text)).expect("short");
        let top = tollgate_runtime::head::likeliest(head.labels(), &probabilities, 2);
        assert_eq!((top.len(), top[0].label), (2, expected), "{text}: {top:?}");
        assert!(top[0].probability > 0.5 && top[0].probability > top[1].probability, "{text}: {top:?}");
    }
}

#[test]
fn the_same_seed_and_rows_make_the_same_bytes_and_others_do_not() {
    let once = hashed(1).head;
    assert_eq!(once.to_bytes(), hashed(1).head.to_bytes());
    assert_ne!(once.to_bytes(), hashed(2).head.to_bytes());
    assert_ne!(hashed(1).held.rows, hashed(2).held.rows, "another seed holds out others");
    let mut changed = rows();
    changed[17].text.push('!');
    let other = trained(&changed, Source::Hashed, &settings(1)).expect("trained").head;
    assert_ne!(once.about().data_sha256, other.about().data_sha256);
    assert_eq!(once.about().code_sha256, other.about().code_sha256);
    assert_ne!(all(&once, &rows()), all(&other, &rows()));
    let mut turned = rows();
    turned.swap(0, 1);
    let other = trained(&turned, Source::Hashed, &settings(1)).expect("trained").head;
    assert_ne!(once.about().data_sha256, other.about().data_sha256, "the order counts");
}

/// Held as a digest, so that another machine, compiler or library that counts otherwise is found. Whoever changes how heads
/// are made changes this number, and knows it.
#[test]
fn probabilities_are_the_same_bits_on_every_machine() {
    let mut bytes = Vec::new();
    for probabilities in all(&hashed(1).head, &rows()).into_iter().chain(encoder(1).held.probabilities) {
        bytes.extend(probabilities.iter().flat_map(|probability| probability.to_bits().to_le_bytes()));
    }
    let found: String = digest(&SHA256, &bytes).as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(found, "c0ee3b7b63112b5b");
}

#[test]
fn a_head_keeps_what_it_was_made_of_and_how_good_it_was() {
    let Trained { head, report, held } = hashed(5);
    let read = Head::from_bytes(&head.to_bytes()).expect("read");
    let about = read.about();
    assert_eq!((about.rows, about.settings.seed, about.data_sha256.len()), (72, 5, 64));
    assert_eq!(about.validation, report.validation);
    assert_eq!((report.rows, report.labels, report.validation.before.rows), (72, 3, held.rows.len()));
    assert!(report.converged && report.loss > 0.0);
    assert!(report.validation.before.accuracy.value > 0.7, "{report:?}");
    let measured = figures(&held.probabilities, &held.truth, 5);
    assert_eq!(measured.accuracy, report.validation.before.accuracy, "the temperature changes no answer");
    assert_eq!(all(&read, &rows()), all(&head, &rows()));
    assert_eq!(about.vectors_sha256, None);
    assert!(encoder(5).head.about().vectors_sha256.is_some());
}

#[test]
fn what_is_held_out_is_not_learned_from() {
    let (mut rows, settings) = (rows(), Settings { refit: false, ..settings(1) });
    let once = trained(&rows, Source::Hashed, &settings).expect("trained");
    assert_eq!(once.report.rows, rows.len() - once.held.rows.len());
    for &row in &once.held.rows {
        rows[row].text = format!("completely other words {row}");
    }
    let again = trained(&rows, Source::Hashed, &settings).expect("trained");
    assert_eq!((once.report.loss, once.report.iterations), (again.report.loss, again.report.iterations));
    assert_ne!(once.held.probabilities, again.held.probabilities);
}

#[test]
fn whole_groups_are_held_out_if_every_row_has_one() {
    let mut rows = rows();
    for (number, row) in rows.iter_mut().enumerate() {
        row.group = Some(format!("report {}", number / 12));
    }
    let held = trained(&rows, Source::Hashed, &settings(3)).expect("trained").held;
    assert_eq!(held.rows.len(), 12);
    assert!(held.rows.iter().all(|row| row / 12 == held.rows[0] / 12), "{:?}", held.rows);
}

#[test]
fn what_cannot_be_learned_from_is_refused() {
    let of = |rows: &[Row]| trained(rows, Source::Hashed, &settings(1)).expect_err("refused");
    assert_eq!(of(&[]), TrainError::Labels { given: 0 });
    assert_eq!(of(&[row("a", "x"), row("b", "x")]), TrainError::Labels { given: 1 });
    assert_eq!(of(&[row("a", "x"), row("b", "y")]), TrainError::NothingHeldOut);
    assert_eq!(of(&[row("a", "x"), row(" ", "y")]), TrainError::Row { row: 1, fault: Fault::NoText });
    let long = row(&"x".repeat(TEXT_BYTES_MAX + 1), "y");
    assert_eq!(of(&[long]), TrainError::Row { row: 0, fault: Fault::LongText(TEXT_BYTES_MAX + 1) });

    let rows = rows();
    let setting = |settings| trained(&rows, Source::Hashed, &settings).expect_err("refused");
    assert_eq!(setting(Settings { c: f64::NAN, ..settings(1) }), TrainError::Setting("c"));
    assert_eq!(setting(Settings { buckets_log2: 19, ..settings(1) }), TrainError::Setting("buckets_log2"));
    assert_eq!(setting(Settings { held_out: 0.0, ..settings(1) }), TrainError::Setting("held_out"));
    assert_eq!(setting(Settings { iterations_max: 0, ..settings(1) }), TrainError::Setting("iterations_max"));
    assert_eq!(setting(Settings { decrease: -1.0, ..settings(1) }), TrainError::Setting("decrease"));

    let vectors = |vectors: &[f32]| {
        trained(&rows, Source::Encoder { digest: "x", dims: 2, vectors }, &settings(1)).expect_err("refused")
    };
    assert_eq!(vectors(&[0.5; 143]), TrainError::Vectors { expected: 144, given: 143 });
    let mut broken = [0.5; 144];
    broken[31] = f32::INFINITY;
    assert_eq!(vectors(&broken), TrainError::NotFinite { row: 15 });
}

#[test]
fn too_many_weights_are_refused_before_they_are_allocated() {
    let rows: Vec<Row> = (0..9_000)
        .map(|number| row(&format!("text {number} of {}", number * 7), &format!("l{}", number % 4_500)))
        .collect();
    let wide = Settings { buckets_log2: 18, ..settings(1) };
    let error = trained(&rows, Source::Hashed, &wide).expect_err("refused");
    assert!(matches!(error, TrainError::TooManyCells { labels: 4_500, .. }), "{error}");
}

#[test]
fn training_tells_how_far_it_is_and_stops_when_told() {
    let mut seen = Vec::new();
    let mut watch = |progress: tollgate_runtime::head::train::Progress| {
        seen.push(progress);
        if progress.phase == Phase::Refit && progress.iteration == 2 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let error = train(&rows(), Source::Hashed, &settings(1), &mut watch).expect_err("stopped");
    assert_eq!(error, TrainError::Stopped);
    let fit: Vec<_> = seen.iter().filter(|progress| progress.phase == Phase::Fit).collect();
    assert!(fit.len() > 2 && fit.windows(2).all(|pair| pair[1].loss < pair[0].loss), "{fit:?}");
    assert_eq!(seen.len(), fit.len() + 2);
}

#[test]
fn a_head_asks_for_what_it_reads() {
    let (texts, dense) = (hashed(1).head, encoder(1).head);
    assert_eq!(texts.classify(Features::Vector(&[0.0; 384])), Err(ClassifyError::WantsText));
    assert_eq!(dense.classify(Features::Text("x")), Err(ClassifyError::WantsVector));
    assert_eq!(dense.classify(Features::Vector(&[0.0; 3])), Err(ClassifyError::Dims { expected: 384, given: 3 }));
    for strange in [f32::NAN, f32::INFINITY, f32::MAX] {
        assert_eq!(dense.classify(Features::Vector(&[strange; 384])), Err(ClassifyError::NotFinite));
    }
    let long = "x".repeat(TEXT_BYTES_MAX + 1);
    assert!(matches!(texts.classify(Features::Text(&long)), Err(ClassifyError::Text(_))));
}

#[test]
fn the_cascade_answers_in_two_steps_what_the_table_says() {
    let (hashed, encoder) = (hashed(1), encoder(1));
    assert_eq!(
        (&hashed.held.rows, &hashed.held.truth),
        (&encoder.held.rows, &encoder.held.truth),
        "both hold out the same"
    );
    // Not half and half: so it matters which is whose.
    let mix = Mix { weight: 0.7, temperature: 1.1 };
    let rows = rows();
    let vectors = vectors(&rows);
    let from_hashed = all(&hashed.head, &rows);
    let from_encoder: Vec<Vec<f32>> = vectors
        .chunks_exact(EMBED_DIMS)
        .map(|vector| encoder.head.classify(Features::Vector(vector)).expect("fits"))
        .collect();
    let truth = truth(&hashed.head, &rows);
    // As many are sure as are not.
    let mut sureness: Vec<f32> = from_hashed.iter().map(|row| row[likeliest(row)]).collect();
    sureness.sort_unstable_by(f32::total_cmp);
    let threshold = sureness[rows.len() / 2];
    let costs = Costs { hashed: 10.0, encoder: 1_000.0 };
    let points = pareto(mix, &from_hashed, &from_encoder, &truth, &[0.0, threshold, 1.0], costs, 1);
    let cascade = Cascade::new(hashed.head, encoder.head, mix, threshold).expect("they fit");

    let mut answers = Vec::new();
    let mut escalated = 0;
    for (row, vector) in rows.iter().zip(vectors.chunks_exact(EMBED_DIMS)) {
        let answer = match cascade.first(&row.text).expect("short") {
            First::Answer(answer) => answer,
            First::Escalate(scores) => {
                escalated += 1;
                assert_eq!(scores.clone().into_answer().stage, Stage::Hashed);
                let answer = cascade.second(&scores, vector).expect("fits");
                assert_eq!(answer.stage, Stage::Mixed);
                let number = answers.len();
                assert_eq!(answer.probabilities, mix.of(&from_hashed[number], &from_encoder[number]));
                answer
            }
        };
        answers.push(answer.probabilities);
    }
    assert!(0 < escalated && escalated < rows.len(), "{escalated}");
    assert_eq!(points[1].figures, figures(&answers, &truth, 1));
    assert_eq!(points[1].escalated, escalated as f64 / rows.len() as f64);
    assert!((points[1].relative_cost - (0.01 + points[1].escalated)).abs() < 1e-12);
    assert_eq!((points[0].escalated, points[2].escalated), (0.0, 1.0));
}

#[test]
fn the_best_point_is_the_most_accurate_one_that_can_be_paid() {
    // The first head knows rows 0 and 1 and is not sure of the others, the second knows all.
    let hashed = [vec![0.9, 0.1], vec![0.2, 0.8], vec![0.6, 0.4], vec![0.55, 0.45]];
    let encoder = [vec![0.9, 0.1], vec![0.1, 0.9], vec![0.1, 0.9], vec![0.1, 0.9]];
    let truth = [0, 1, 1, 1];
    let mix = Mix { weight: 1.0, temperature: 1.0 };
    let points = pareto(mix, &hashed, &encoder, &truth, &[0.0, 0.58, 0.7, 1.0], Costs { hashed: 0.0, encoder: 5.0 }, 1);
    let costs: Vec<(f64, f64)> =
        points.iter().map(|point| (point.relative_cost, point.figures.accuracy.value)).collect();
    assert_eq!(costs, [(0.0, 0.5), (0.25, 0.75), (0.5, 1.0), (1.0, 1.0)]);
    let best = |cost| best_within(&points, cost).map(|point| point.threshold);
    assert_eq!([best(0.1), best(0.3), best(2.0), best(-1.0)], [Some(0.0), Some(0.58), Some(0.7), None]);
}

#[test]
fn a_head_that_says_the_same_of_everything_gets_no_weight() {
    let deaf = vec![vec![0.8, 0.2]; 8];
    let hearing: Vec<Vec<f32>> = (0..8).map(|row| if row % 2 == 0 { vec![0.7, 0.3] } else { vec![0.3, 0.7] }).collect();
    let truth: Vec<usize> = (0..8).map(|row| if row < 6 { row % 2 } else { 1 - row % 2 }).collect();
    assert_eq!(fit_mix(&deaf, &hearing, &truth).weight, 1.0);
    assert_eq!(fit_mix(&hearing, &deaf, &truth).weight, 0.0);
}

#[test]
fn a_cascade_is_of_two_heads_that_fit() {
    let mix = Mix { weight: 0.5, temperature: 1.0 };
    let new = |first: Trained, second: Trained, mix, threshold| Cascade::new(first.head, second.head, mix, threshold);
    assert!(new(hashed(1), encoder(1), mix, 0.5).is_ok());
    assert_eq!(new(encoder(1), hashed(1), mix, 0.5), Err(CascadeError::Kinds));
    assert_eq!(new(hashed(1), encoder(1), mix, 1.5), Err(CascadeError::Numbers));
    assert_eq!(new(hashed(1), encoder(1), Mix { weight: f64::NAN, ..mix }, 0.5), Err(CascadeError::Numbers));
    let mut renamed = rows();
    renamed.iter_mut().filter(|row| row.label == "fee").for_each(|row| row.label = "cost".to_owned());
    let other = trained(&renamed, Source::Hashed, &settings(1)).expect("trained");
    assert_eq!(new(other, encoder(1), mix, 0.5), Err(CascadeError::Labels));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn any_text_gets_probabilities_that_are_one_together(texts in prop::collection::vec(".{0,200}", 8)) {
        static HEAD: LazyLock<Head> = LazyLock::new(|| hashed(1).head);
        let head = &*HEAD;
        for text in texts {
            let probabilities = head.classify(Features::Text(&text)).expect("short");
            prop_assert!(probabilities.iter().all(|probability| (0.0..=1.0).contains(probability)));
            prop_assert!((probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        }
    }

    #[test]
    fn a_head_of_any_settings_is_read_as_it_was_written(c in 0.001_f64..1e5, held_out in 0.05_f64..0.6, decrease in 0.0_f64..0.1, seed: u64) {
        let settings = Settings { c, held_out, decrease, iterations_max: 20, buckets_log2: 8, ..Settings::hashed(seed) };
        let head = trained(&rows(), Source::Hashed, &settings).expect("trained").head;
        prop_assert_eq!(Head::from_bytes(&head.to_bytes()).expect("read"), head);
    }
}
