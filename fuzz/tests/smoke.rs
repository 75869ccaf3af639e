//! Every property over its seeds and a bounded number of seeded mutations of them: what anybody can run, without nightly
//! and without libFuzzer. `FUZZ_ROUNDS` asks for more, `SEED` for others; a failure prints the input that made it.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use tollgate_fuzz::{TARGETS, Target};

const ROUNDS: u64 = 1_500;
const SEED: u64 = 20_261_123;
const INPUT_BYTES_MAX: usize = 4_096;

/// SplitMix64: small, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, below: usize) -> usize {
        usize::try_from(self.next() % below.max(1) as u64).expect("below a usize")
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}

/// One input: a seed with a few changes, or nothing but noise.
fn input(target: &Target, dice: &mut Dice) -> Vec<u8> {
    if dice.below(if target.takes_noise { 2 } else { 16 }) == 0 {
        return (0..dice.below(1_024)).map(|_| dice.byte()).collect();
    }
    let mut bytes = target.seeds[dice.below(target.seeds.len())].as_bytes().to_vec();
    for _ in 0..=dice.below(3) {
        // Mostly changes that leave something readable, for what is refused at once proves little.
        if dice.below(3) == 0 { mutate_bytes(&mut bytes, target, dice) } else { mutate_text(&mut bytes, target, dice) }
    }
    bytes.truncate(INPUT_BYTES_MAX);
    bytes
}

/// Changes whole words, members and lines.
fn mutate_text(bytes: &mut Vec<u8>, target: &Target, dice: &mut Dice) {
    let word = target.words[dice.below(target.words.len())].as_bytes();
    match dice.below(4) {
        // A member more, where members begin.
        0 => {
            if let Some(at) = any_place(bytes, dice, |byte| matches!(byte, b'{' | b',')) {
                drop(bytes.splice(at..at, [word, b","].concat()));
            }
        }
        // Another word or number in the place of one.
        1 => {
            let in_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
            let Some(at) = any_place(bytes, dice, |byte| !in_word(&byte)) else { return };
            let length = bytes[at..].iter().take_while(|byte| in_word(byte)).count();
            let number = dice.next() >> dice.below(64);
            let new = if dice.below(2) == 0 { word.to_vec() } else { number.to_string().into_bytes() };
            drop(bytes.splice(at..at + length, new));
        }
        // A line more, or the same one again, or one less.
        2 => {
            let at = any_place(bytes, dice, |byte| byte == b'\n').unwrap_or(0);
            let length = bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len() - at, |end| end + 1);
            match dice.below(3) {
                0 => drop(bytes.splice(at..at, word.iter().copied())),
                1 => {
                    let line = bytes[at..at + length].to_vec();
                    let to = any_place(bytes, dice, |byte| byte == b'\n').unwrap_or(0);
                    drop(bytes.splice(to..to, line));
                }
                _ => drop(bytes.drain(at..at + length)),
            }
        }
        // White space, which must not matter.
        _ => {
            if let Some(at) = any_place(bytes, dice, |byte| matches!(byte, b',' | b':' | b'=' | b'[')) {
                bytes.insert(at, b" \t"[dice.below(2)]);
            }
        }
    }
}

/// The place after one of the bytes that `wanted` names.
fn any_place(bytes: &[u8], dice: &mut Dice, wanted: impl Fn(u8) -> bool) -> Option<usize> {
    let places: Vec<_> = bytes.iter().enumerate().filter(|(_, byte)| wanted(**byte)).map(|(at, _)| at + 1).collect();
    places.get(dice.below(places.len())).copied()
}

fn mutate_bytes(bytes: &mut Vec<u8>, target: &Target, dice: &mut Dice) {
    let at = dice.below(bytes.len() + 1);
    let until = at + dice.below((bytes.len() - at).min(40) + 1);
    match dice.below(8) {
        0 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
        1 if at < bytes.len() => bytes[at] = dice.byte(),
        2 => drop(bytes.drain(at..until)),
        3 => {
            let piece = bytes[at..until].to_vec();
            let to = dice.below(bytes.len() + 1);
            drop(bytes.splice(to..to, piece));
        }
        4 => bytes.truncate(at),
        5 => {
            let other = target.seeds[dice.below(target.seeds.len())].as_bytes();
            let from = dice.below(other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        6 if at < bytes.len() => bytes[at] = b"0123456789\"{}[],:. \n\r\\"[dice.below(22)],
        _ => {
            let word = target.words[dice.below(target.words.len())].bytes();
            drop(bytes.splice(at..until, word));
        }
    }
}

fn run(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target of this name");
    let (rounds, seed) = (asked_for("FUZZ_ROUNDS").unwrap_or(ROUNDS), asked_for("SEED").unwrap_or(SEED));
    let mut dice = Dice(seed);
    let seeds = target.seeds.iter().map(|seed| seed.as_bytes().to_vec());
    let inputs: Vec<_> = seeds.collect();
    for bytes in inputs.into_iter().chain((0..rounds).map(|_| input(target, &mut dice))) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.check)(&bytes))) {
            eprintln!("{name}, SEED={seed}: this input made it fail: {:?}", String::from_utf8_lossy(&bytes));
            eprintln!("as bytes: {bytes:?}");
            resume_unwind(panic);
        }
    }
    println!("fuzz-operations {name} {}", rounds + target.seeds.len() as u64);
}

#[expect(clippy::disallowed_methods, reason = "who starts a run gives its length and seed; it configures nothing else")]
fn asked_for(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                run(stringify!($name));
            }
        )*

        #[test]
        fn every_target_is_run_here_and_has_its_binary() {
            assert_eq!(TARGETS.map(|target| target.name), [$(stringify!($name)),*]);
            let manifest = include_str!("../Cargo.toml");
            for target in TARGETS {
                assert!(manifest.contains(&format!("name = \"{}\"", target.name)), "{}", target.name);
            }
        }
    };
}

targets! {
    ids_and_money price_book chat_request embeddings_request local_request template_manifest template_run handed_work
    coalesced sse provider_usage config journal_frame snapshot
    admin_body headers receipt policy_module policy_archive audit
}
