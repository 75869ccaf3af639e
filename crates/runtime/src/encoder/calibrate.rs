//! The ranges of what flows between the layers, found once by running the f32 model over some texts.
//!
//! Fixed ranges cost nothing when the model runs, and a text's vector depends on that text alone: ranges found anew for each
//! batch (`DynamicQuantizeLinear`) made the vectors of one text differ by 0.008 in cosine on average, depending on its neighbours.
//! What is beyond a range is taken for its end.

use rten_tensor::NdTensor;
use tokenizers::Tokenizer;

use super::ModelError;
use super::graph::{IDS, MASK, Watched};
use super::manifest::ONNX_FILE;

/// From the smallest to the largest value; zero is within it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Range {
    pub low: f32,
    pub high: f32,
}

/// Texts of many kinds: it is the extremes that count, and they come from odd tokens more than from subjects.
const TEXTS: [&str; 40] = [
    "I am still waiting on my card?",
    "My top-up was declined and the money has left my bank account. What happened?",
    "Why is there a fee of $1.50 on my statement that I do not recognise?",
    "How do I change my PIN?",
    "The transfer to my landlord in Germany has been pending since Tuesday, and the exchange rate looks wrong.",
    "Please cancel order no. 48213-B, refund it to the card ending in 4412, and confirm by e-mail to anna@example.org.",
    "The app keeps crashing when I open it after the latest update (version 7.3.1, Android 14).",
    "hello",
    "ok thanks!!!",
    "THIS IS THE THIRD TIME I ASK. NOBODY ANSWERS. WHERE IS MY PARCEL???",
    "The malware creates a scheduled task named \"Updater\" that runs powershell.exe -enc SQBFAFgA every ten minutes.",
    "APT29 has used spearphishing attachments with .iso files to deliver Cobalt Strike beacons.",
    "It modifies HKLM\\Software\\Microsoft\\Windows\\CurrentVersion\\Run to persist across reboots.",
    "The actor dumped LSASS memory with comsvcs.dll and moved laterally over SMB using valid accounts.",
    "Exfiltration happened over an encrypted DNS tunnel to 198.51.100.23 and update-service[.]example.",
    "CVE-2021-44228 allows remote code execution through crafted JNDI lookups in log messages.",
    "The mitochondrion is the powerhouse of the cell.",
    "In 1905 Einstein published four papers that changed physics: on light, on atoms, on motion, and on mass and energy.",
    "She sells sea shells by the sea shore, and the shells she sells are sea shells, I am sure.",
    "def quicksort(a): return a if len(a) < 2 else quicksort([x for x in a[1:] if x < a[0]]) + [a[0]]",
    "SELECT name, COUNT(*) FROM users WHERE created_at > '2024-01-01' GROUP BY name HAVING COUNT(*) > 1;",
    "{\"error\": {\"code\": 429, \"message\": \"rate limit exceeded\", \"retry_after\": 1.5}}",
    "https://www.example.com/path/to/page?query=value&lang=en#section-2",
    "Der schnelle braune Fuchs springt über den faulen Hund.",
    "¿Dónde está la biblioteca más cercana? Necesito devolver un libro.",
    "Le service client n'a jamais répondu à ma réclamation du 12 février.",
    "今日は天気がいいですね。",
    "Быстрая коричневая лиса прыгает через ленивую собаку.",
    "Add two cups of flour, a pinch of salt and 250 ml of lukewarm milk; knead for ten minutes, then let the dough rest.",
    "The tenant shall pay the rent in advance on the first working day of each month, without deduction or set-off.",
    "Patients with a history of hypertension should consult a physician before taking more than 400 mg a day.",
    "Shares of the company fell 7.4 % after it warned that profits for the quarter would miss expectations.",
    "The team won 3:2 in extra time after a goal that the referee allowed only after looking at the video.",
    "Once upon a time, in a house at the edge of a wood, there lived an old clockmaker who had forgotten what time it was.",
    "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16",
    "a b c d e f g h i j k l m n o p q r s t u v w x y z",
    ". , ; : ! ? ( ) [ ] { } - _ / \\ | @ # $ % ^ & * + = ~ `",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "password password password password password password password password password password password password",
    "Our gateway refuses a request once the budget of the project is spent, so that nobody is surprised by the bill. It keeps a \
     journal of every reservation, posts what the provider has answered, and gives back what was not used. An operator can see \
     at any time who has spent how much, on which model, and why a request was refused. Limits hold per minute, per day and \
     per month; alerts are sent at half, at four fifths and at the end. Policies written by the platform, by the plan and by \
     the tenant are asked before anything is sent, and what they said is kept with the receipt.",
];

/// Of each value that is watched, in the graph's order.
pub(super) fn ranges(watched: Watched, tokenizer: &Tokenizer, max_tokens: usize) -> Result<Vec<Range>, ModelError> {
    let refused = |reason: String| ModelError::Engine { file: ONNX_FILE, reason };
    let graph = super::load_onnx(watched.onnx)?;
    let node = |name: &str| graph.node_id(name).map_err(|error| refused(error.to_string()));
    let (ids, mask) = (node(IDS)?, node(MASK)?);
    let outputs = watched.names.iter().map(|name| node(name)).collect::<Result<Vec<_>, _>>()?;
    let mut ranges = vec![Range { low: 0.0, high: 0.0 }; outputs.len() / 2];
    for text in TEXTS {
        let tokens = super::ids(tokenizer, text);
        let tokens: Vec<i32> = tokens.iter().take(max_tokens).filter_map(|&id| i32::try_from(id).ok()).collect();
        if tokens.is_empty() {
            continue;
        }
        let shape = [1, tokens.len()];
        let all = NdTensor::from_data(shape, vec![1_i32; tokens.len()]);
        let given = vec![(ids, NdTensor::from_data(shape, tokens).into()), (mask, all.into())];
        let found = graph.run(given, &outputs, None).map_err(|error| refused(error.to_string()))?;
        let found: Vec<f32> = found
            .iter()
            .filter_map(|value| value.as_tensor_view::<f32>().and_then(|view| view.item().copied()))
            .collect();
        for (range, pair) in ranges.iter_mut().zip(found.chunks_exact(2)) {
            range.low = range.low.min(pair[0]);
            range.high = range.high.max(pair[1]);
        }
    }
    Ok(ranges.into_iter().map(Range::rounded).collect())
}

// === impl Range ===

impl Range {
    /// What one of 255 steps stands for, and which of them is zero.
    pub fn steps(self) -> (f32, u8) {
        let size = (self.high - self.low) / 255.0;
        let size = if size.is_normal() { size } else { 1.0 };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what fits")]
        let zero = (-self.low / size).round_ties_even().clamp(0.0, 255.0) as u8;
        (size, zero)
    }

    /// To three binary digits after the first, so that CPUs which round differently convert to the same bytes.
    fn rounded(self) -> Self {
        Self { low: rounded(self.low), high: rounded(self.high) }
    }
}

/// Away from zero, to a multiple of an eighth of its power of two.
fn rounded(value: f32) -> f32 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let step = value.abs().log2().floor().exp2() / 8.0;
    (value.abs() / step).ceil() * step * value.signum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_a_step_of_its_own() {
        assert_eq!(Range { low: -1.0, high: 1.55 }.steps(), (0.01, 100));
        assert_eq!(Range { low: 0.0, high: 255.0 }.steps(), (1.0, 0));
        assert_eq!(Range { low: 0.0, high: 0.0 }.steps(), (1.0, 0));
    }

    #[test]
    fn a_range_is_rounded_outward_and_by_less_than_an_eighth() {
        for value in [1.0, 1.01, -3.3, 17.0, 0.003, -0.999] {
            let found = rounded(value).abs();
            assert!(found >= value.abs() && found <= value.abs() * 1.125, "{value} became {found}");
        }
        assert_eq!(rounded(0.0), 0.0);
        assert_eq!(rounded(1.01), rounded(1.011));
    }
}
