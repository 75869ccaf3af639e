//! Writes the published vocabularies in the form that `src/vocabulary.rs` reads in place: sorted, so that they can be
//! searched without being decoded. They come from `tiktoken-rs`, which carries OpenAI's own files.

use std::path::Path;

use tiktoken_rs::CoreBPE;

/// The program that is built knows how many tokens to expect: a vocabulary that changed would fail here, not in a bill.
const O200K_TOKENS: usize = 199_998;
const CL100K_TOKENS: usize = 100_256;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[expect(clippy::disallowed_methods, reason = "cargo names the folder so")]
    let folder = std::env::var_os("OUT_DIR").expect("cargo sets it for build scripts");
    let write = |name: &str, tokenizer: &CoreBPE, expected: usize| {
        let bytes = laid_out(&tokens(tokenizer), expected);
        #[expect(clippy::disallowed_methods, reason = "a build script's purpose")]
        std::fs::write(Path::new(&folder).join(name), bytes).expect("cargo's own folder can be written to");
    };
    write("o200k_base", &tiktoken_rs::o200k_base().expect("it is whole"), O200K_TOKENS);
    write("cl100k_base", &tiktoken_rs::cl100k_base().expect("it is whole"), CL100K_TOKENS);
}

/// The tokens in the order of their ranks, which have no gaps below the special tokens.
fn tokens(tokenizer: &CoreBPE) -> Vec<Vec<u8>> {
    (0..).map_while(|rank| tokenizer.decode_bytes(&[rank]).ok()).collect()
}

/// Where each token ends, its rank, then all the bytes; in the order of the tokens' bytes.
fn laid_out(tokens: &[Vec<u8>], expected: usize) -> Vec<u8> {
    assert_eq!(tokens.len(), expected, "another vocabulary than the one that was measured");
    let mut sorted: Vec<(&[u8], u32)> = tokens.iter().map(Vec::as_slice).zip(0..).collect();
    sorted.sort_unstable();
    let mut out = u32::try_from(tokens.len()).expect("some hundred thousand").to_le_bytes().to_vec();
    let mut end = 0_u32;
    for (token, _) in &sorted {
        end += u32::try_from(token.len()).expect("at most 128");
        out.extend_from_slice(&end.to_le_bytes());
    }
    for (_, rank) in &sorted {
        out.extend_from_slice(&rank.to_le_bytes());
    }
    for (token, _) in &sorted {
        out.extend_from_slice(token);
    }
    out
}
