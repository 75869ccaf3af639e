//! Writing JSON by hand into one buffer, for the answers of the hot path: no tree, no allocation per field.

use crate::dice::Dice;
use crate::money::Tokens;
use crate::timing;

/// What every answer carries beside OpenAI's own fields.
pub const FINGERPRINT: &str = "tollgate-simulator";
pub const UNKNOWN_FIELD: &str = r#""x_sim":{"simulated":true}"#;

const HEX: &[u8; 16] = b"0123456789abcdef";
const DICE_ID: u64 = 0x49_44;
/// How long an answer's sound could be asked for.
const SOUND_SECONDS_MAX: u64 = 3_600;
/// What a token's probability looks like when someone asks.
const LOGPROB_MILLI_MAX: u64 = 3_000;

pub fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

pub fn number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// The inside of a JSON string.
pub fn escaped(out: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'"' => out.extend_from_slice(br#"\""#),
            b'\\' => out.extend_from_slice(br"\\"),
            b'\n' => out.extend_from_slice(br"\n"),
            0..0x20 => {
                out.extend_from_slice(br"\u00");
                out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 0xF)]]);
            }
            _ => out.push(byte),
        }
    }
}

pub fn string(out: &mut Vec<u8>, value: &str) {
    out.push(b'"');
    escaped(out, value);
    out.push(b'"');
}

/// Sixteen hexadecimal digits that follow from the request.
pub fn id(out: &mut Vec<u8>, dice: &Dice) {
    let number = dice.fork(DICE_ID).throw();
    for byte in number.to_be_bytes() {
        out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 0xF)]]);
    }
}

/// The fields that follow the answer proper: tier, fingerprint, the unknown field, and the request's own echo.
pub fn common_fields(out: &mut Vec<u8>, echo: Option<&str>) {
    text(out, r#","service_tier":"default","system_fingerprint":""#);
    text(out, FINGERPRINT);
    text(out, r#"","#);
    text(out, UNKNOWN_FIELD);
    if let Some(echo) = echo {
        text(out, r#","x_echo":"#);
        text(out, echo);
    }
}

pub fn chat_usage(out: &mut Vec<u8>, tokens: Tokens) {
    text(out, r#"{"prompt_tokens":"#);
    number(out, tokens.prompt);
    text(out, r#","completion_tokens":"#);
    number(out, tokens.completion);
    text(out, r#","total_tokens":"#);
    number(out, tokens.prompt + tokens.completion);
    text(out, r#","prompt_tokens_details":{"cached_tokens":"#);
    number(out, tokens.cached);
    text(out, r#","audio_tokens":"#);
    number(out, tokens.prompt_audio);
    text(out, r#"},"completion_tokens_details":{"reasoning_tokens":"#);
    number(out, tokens.reasoning);
    text(out, r#","audio_tokens":"#);
    number(out, tokens.completion_audio);
    text(out, r#","accepted_prediction_tokens":"#);
    number(out, tokens.accepted_prediction);
    text(out, r#","rejected_prediction_tokens":"#);
    number(out, tokens.rejected_prediction);
    text(out, "}}");
}

/// What stands beside a transcript: the sound's name, a little silence, and until when it may be asked for.
pub fn sound(out: &mut Vec<u8>, dice: &Dice) {
    text(out, r#""id":"audio_sim"#);
    id(out, dice);
    text(out, r#"","data":"AAAA","expires_at":"#);
    number(out, timing::unix_seconds() + SOUND_SECONDS_MAX);
}

/// One token's entry under `logprobs.content`, with `top` alternatives. The probabilities come from `chance`.
pub fn logprob(out: &mut Vec<u8>, token: &str, top: usize, chance: u64) {
    let milli = chance % LOGPROB_MILLI_MAX;
    out.push(b'{');
    logprob_of(out, token, milli);
    text(out, r#","top_logprobs":["#);
    for rank in 0..top {
        if rank > 0 {
            out.push(b',');
        }
        out.push(b'{');
        // The first of them is the token itself; the others are what it might have been.
        let other = [token, "?"].concat();
        logprob_of(out, if rank == 0 { token } else { &other }, milli + 700 * rank as u64);
        out.push(b'}');
    }
    text(out, "]}");
}

fn logprob_of(out: &mut Vec<u8>, token: &str, milli: u64) {
    text(out, r#""token":"#);
    string(out, token);
    text(out, r#","logprob":-"#);
    number(out, milli / 1_000);
    out.push(b'.');
    out.extend_from_slice(format!("{:03}", milli % 1_000).as_bytes());
    text(out, r#","bytes":["#);
    for (at, byte) in token.bytes().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        number(out, u64::from(byte));
    }
    out.push(b']');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_string_survives_being_written(value in any::<String>()) {
            let mut out = Vec::new();
            string(&mut out, &value);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).expect("a JSON string"), value);
        }
    }

    #[test]
    fn logprobs_are_json_with_their_alternatives() {
        let mut out = Vec::new();
        logprob(&mut out, " \"x\"", 2, 1_007);
        let entry: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!(entry["token"], " \"x\"");
        assert_eq!(entry["logprob"], -1.007);
        assert_eq!(entry["bytes"], serde_json::json!([32, 34, 120, 34]));
        assert_eq!(entry["top_logprobs"].as_array().map(Vec::len), Some(2));
    }
}
