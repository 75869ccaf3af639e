//! A head as bytes: safetensors, with one metadata key that holds a JSON document, so that the same head is the same bytes
//! (more than one key would come in a hash table's order).
//!
//! The document has a seal, SHA-256 over the document without it and over all tensors. Only what would be written again in
//! the same bytes is read: a file with a bit flipped is no head.

use std::collections::{BTreeSet, HashMap};

use ring::digest::{Context, SHA256};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::calibrate::TEMPERATURES;
use super::ngrams::BUCKETS_LOG2;
use super::rows::{LABEL_BYTES_MAX, LABELS_MAX, hex};
use super::{About, Head, Kind, Weights};

/// The largest file that is read: 2^19 columns of 120 labels, or 2^15 of 2,000.
pub const HEAD_BYTES_MAX: usize = 64 << 20;
/// Encoders have some hundreds.
pub const DIMS_MAX: usize = 16_384;
/// Larger weights would not leave scores finite.
const WEIGHT_MAX: f32 = 1e6;
const KEY: &str = "tollgate.head";
const VERSION: u32 = 1;

/// Why some bytes are no head.
#[derive(Debug, Error)]
pub enum HeadError {
    #[error("the file has {0} bytes; at most {HEAD_BYTES_MAX} are read")]
    TooLarge(usize),
    #[error("no safetensors file: {0}")]
    NoTensors(#[from] safetensors::SafeTensorError),
    #[error("its metadata is not one document under {KEY}")]
    NoDocument,
    #[error("the document under {KEY} cannot be read: {0}")]
    BadDocument(#[source] serde_json::Error),
    #[error("a head of version {0}; this program reads version {VERSION}")]
    Version(u32),
    #[error("the document is wrong: {0}")]
    Wrong(&'static str),
    #[error("the tensor {name} should be {dtype:?} of {shape:?}")]
    Shape { name: &'static str, dtype: Dtype, shape: Vec<usize> },
    #[error("it has tensors that no head of its kind has")]
    StrangeTensors,
    #[error("the tensor {0} has numbers that no head has")]
    BadNumbers(&'static str),
    #[error("the seal does not match: the file was damaged or changed")]
    Seal,
}

/// What stands under [`KEY`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    about: About,
    seal_sha256: String,
}

/// A tensor, as it is in the file.
struct Tensor {
    name: &'static str,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

// === impl Head ===

impl Head {
    /// The head as a file. The same head always makes the same bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let tensors = tensors(self);
        let document = Document { about: self.about.clone(), seal_sha256: seal(&self.about, &tensors) };
        let document = serde_json::to_string(&document).expect("names and numbers, no map keys that are not strings");
        let views = tensors.iter().map(|tensor| {
            let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes);
            (tensor.name, view.expect("as many bytes as the shape says"))
        });
        serialize(views, Some(HashMap::from([(KEY.to_owned(), document)]))).expect("its header is far below the limit")
    }

    /// Reads a file that [`Head::to_bytes`] made. Whatever else it is given, it refuses; it never panics.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, HeadError> {
        if bytes.len() > HEAD_BYTES_MAX {
            return Err(HeadError::TooLarge(bytes.len()));
        }
        let (_, header) = SafeTensors::read_metadata(bytes)?;
        let metadata = header.metadata().as_ref().filter(|metadata| metadata.len() == 1);
        let document = metadata.and_then(|metadata| metadata.get(KEY)).ok_or(HeadError::NoDocument)?;
        let Document { about, .. } = serde_json::from_str(document).map_err(HeadError::BadDocument)?;
        check(&about)?;
        let head = Head { weights: weights(&SafeTensors::deserialize(bytes)?, &about)?, about };
        // The seal is written anew with the rest. What no seal sees is found as well: blanks, the order of members, a number
        // written otherwise.
        if head.to_bytes() == bytes { Ok(head) } else { Err(HeadError::Seal) }
    }
}

fn tensors(head: &Head) -> Vec<Tensor> {
    let labels = head.about.labels.len();
    let columns = head.about.kind.columns();
    let floats = |name, shape, values: &[f32]| Tensor {
        name,
        dtype: Dtype::F32,
        shape,
        bytes: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    };
    match &head.weights {
        Weights::Hashed { idf, scale, cells, bias } => vec![
            floats("bias", vec![labels], bias),
            floats("idf", vec![columns], idf),
            floats("scale", vec![columns], scale),
            Tensor {
                name: "weights",
                dtype: Dtype::I8,
                shape: vec![columns, labels],
                bytes: cells.iter().map(|cell| cell.to_le_bytes()[0]).collect(),
            },
        ],
        Weights::Encoder { cells, bias } => {
            vec![floats("bias", vec![labels], bias), floats("weights", vec![columns, labels], cells)]
        }
    }
}

fn weights(file: &SafeTensors<'_>, about: &About) -> Result<Weights, HeadError> {
    let (labels, columns) = (about.labels.len(), about.kind.columns());
    let expected = if matches!(about.kind, Kind::Hashed { .. }) { 4 } else { 2 };
    if file.len() != expected {
        return Err(HeadError::StrangeTensors);
    }
    let bias = floats(file, "bias", vec![labels], -WEIGHT_MAX)?;
    Ok(match about.kind {
        Kind::Hashed { .. } => Weights::Hashed {
            idf: floats(file, "idf", vec![columns], 0.0)?,
            scale: floats(file, "scale", vec![columns], 0.0)?,
            cells: tensor(file, "weights", Dtype::I8, vec![columns, labels])?
                .iter()
                .map(|&byte| i8::from_le_bytes([byte]))
                .collect(),
            bias,
        },
        Kind::Encoder { .. } => {
            Weights::Encoder { cells: floats(file, "weights", vec![columns, labels], -WEIGHT_MAX)?, bias }
        }
    })
}

fn floats(file: &SafeTensors<'_>, name: &'static str, shape: Vec<usize>, least: f32) -> Result<Vec<f32>, HeadError> {
    let bytes = tensor(file, name, Dtype::F32, shape)?;
    let values: Vec<f32> = bytes.as_chunks().0.iter().map(|&four| f32::from_le_bytes(four)).collect();
    let all_within = values.iter().all(|value| (least..=WEIGHT_MAX).contains(value));
    if all_within { Ok(values) } else { Err(HeadError::BadNumbers(name)) }
}

fn tensor<'a>(
    file: &SafeTensors<'a>,
    name: &'static str,
    dtype: Dtype,
    shape: Vec<usize>,
) -> Result<&'a [u8], HeadError> {
    match file.tensor(name) {
        Ok(view) if view.dtype() == dtype && view.shape() == shape => Ok(view.data()),
        _ => Err(HeadError::Shape { name, dtype, shape }),
    }
}

fn check(about: &About) -> Result<(), HeadError> {
    let labels: BTreeSet<&str> = about.labels.iter().map(String::as_str).collect();
    let fits = |label: &&str| !label.is_empty() && label.len() <= LABEL_BYTES_MAX;
    if about.version != VERSION {
        return Err(HeadError::Version(about.version));
    }
    if about.labels.len() < 2 || about.labels.len() > LABELS_MAX {
        return Err(HeadError::Wrong("it has too few labels or too many"));
    }
    if labels.len() != about.labels.len() || !labels.iter().all(fits) {
        return Err(HeadError::Wrong("a label is there twice, empty or too long"));
    }
    if !TEMPERATURES.contains(&about.temperature) {
        return Err(HeadError::Wrong("its temperature is beyond what fitting can find"));
    }
    match about.kind {
        Kind::Hashed { buckets_log2 } if BUCKETS_LOG2.contains(&buckets_log2) => Ok(()),
        Kind::Encoder { dims: 1..=DIMS_MAX, .. } => Ok(()),
        _ => Err(HeadError::Wrong("it has too few columns or too many")),
    }
}

/// In hexadecimal.
fn seal(about: &About, tensors: &[Tensor]) -> String {
    let mut context = Context::new(&SHA256);
    context.update(&serde_json::to_vec(about).expect("names and numbers, no map keys that are not strings"));
    for tensor in tensors {
        context.update(&tensor.bytes);
    }
    hex(context.finish().as_ref())
}

pub(super) const fn version() -> u32 {
    VERSION
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::figures::{Figures, Interval};
    use super::super::train::Settings;
    use super::super::{Features, Validation};
    use super::*;

    const LOG2: u32 = 8;

    fn about(kind: Kind, labels: &[&str]) -> About {
        let interval = Interval { value: 0.9, low: 0.8, high: 0.95 };
        let before = Figures { rows: 10, accuracy: interval, macro_f1: interval, ece: 0.05 };
        About {
            version: VERSION,
            kind,
            labels: labels.iter().map(|&label| label.to_owned()).collect(),
            temperature: 0.75,
            settings: Settings::hashed(1),
            rows: 50,
            data_sha256: "d".repeat(64),
            vectors_sha256: None,
            code_sha256: "c".repeat(64),
            validation: Validation { before, ece_after: 0.01 },
        }
    }

    fn hashed() -> Head {
        let columns = Kind::Hashed { buckets_log2: LOG2 }.columns();
        let weights: Vec<f32> = (0..columns * 3).map(|cell| ((cell * 37 % 101) as f32 - 50.0) / 25.0).collect();
        let about = about(Kind::Hashed { buckets_log2: LOG2 }, &["a", "b", "c"]);
        Head::hashed(about, vec![1.5; columns], &weights, vec![0.1, 0.2, -0.3])
    }

    fn encoder() -> Head {
        let about = about(Kind::Encoder { digest: "e".repeat(64), dims: 4 }, &["a", "b"]);
        Head::encoder(about, vec![0.5, -0.5, 1.0, -1.0, 0.0, 0.25, 2.0, -2.0], vec![0.0, 0.1])
    }

    /// A file in all its form, sealed, whose document says one thing and whose tensors another.
    fn forged(change: impl FnOnce(&mut About)) -> Vec<u8> {
        let mut head = hashed();
        let tensors = tensors(&head);
        change(&mut head.about);
        let document = Document { seal_sha256: seal(&head.about, &tensors), about: head.about };
        written(&tensors, HashMap::from([(KEY.to_owned(), serde_json::to_string(&document).expect("a document"))]))
    }

    fn written(tensors: &[Tensor], metadata: HashMap<String, String>) -> Vec<u8> {
        let views = tensors.iter().map(|tensor| {
            (tensor.name, TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes).expect("its shape"))
        });
        serialize(views, Some(metadata)).expect("small")
    }

    fn check_forged(change: impl FnOnce(&mut About), expected: &str) {
        let error = Head::from_bytes(&forged(change)).expect_err("refused").to_string();
        assert!(error.starts_with(expected), "{error}");
    }

    #[test]
    fn what_is_written_is_read_and_written_alike() {
        for head in [hashed(), encoder()] {
            let bytes = head.to_bytes();
            let read = Head::from_bytes(&bytes).expect("read");
            assert_eq!(read, head);
            assert_eq!(read.to_bytes(), bytes);
        }
        let text = Features::Text("I lost my card");
        let read = Head::from_bytes(&hashed().to_bytes()).expect("read");
        assert_eq!(read.classify(text), hashed().classify(text));
    }

    #[test]
    fn a_document_that_does_not_fit_its_tensors_is_refused_even_if_it_is_sealed() {
        assert!(Head::from_bytes(&forged(|_| ())).is_ok());
        check_forged(|about| about.labels.push("d".to_owned()), "the tensor bias should be F32 of [4]");
        check_forged(|about| about.kind = Kind::Hashed { buckets_log2: 9 }, "the tensor idf should be F32 of [1024]");
        check_forged(
            |about| about.kind = Kind::Hashed { buckets_log2: 63 },
            "the document is wrong: it has too few columns",
        );
        check_forged(
            |about| about.kind = Kind::Encoder { digest: String::new(), dims: 512 },
            "it has tensors that no head",
        );
        let dims = usize::MAX;
        check_forged(
            |about| about.kind = Kind::Encoder { digest: String::new(), dims },
            "the document is wrong: it has too",
        );
        check_forged(|about| about.labels[1] = "a".to_owned(), "the document is wrong: a label");
        check_forged(|about| about.labels[1] = String::new(), "the document is wrong: a label");
        check_forged(|about| about.labels.truncate(1), "the document is wrong: it has too few labels");
        check_forged(|about| about.temperature = 0.0, "the document is wrong: its temperature");
        check_forged(|about| about.temperature = f64::NAN, "the document under tollgate.head cannot be read");
        check_forged(|about| about.version = 2, "a head of version 2; this program reads version 1");
    }

    #[test]
    fn numbers_that_are_none_and_strange_metadata_are_refused() {
        let mut broken = encoder();
        let Weights::Encoder { bias, .. } = &mut broken.weights else { panic!("an encoder's") };
        bias[0] = f32::NAN;
        assert!(matches!(Head::from_bytes(&broken.to_bytes()), Err(HeadError::BadNumbers("bias"))));
        let mut broken = hashed();
        let Weights::Hashed { scale, .. } = &mut broken.weights else { panic!("a hashed one") };
        scale[7] = -1.0;
        assert!(matches!(Head::from_bytes(&broken.to_bytes()), Err(HeadError::BadNumbers("scale"))));

        let tensors = tensors(&hashed());
        let none = written(&tensors, HashMap::new());
        assert!(matches!(Head::from_bytes(&none), Err(HeadError::NoDocument)));
        let other = written(&tensors, HashMap::from([(KEY.to_owned(), "{\"about\":1}".to_owned())]));
        assert!(matches!(Head::from_bytes(&other), Err(HeadError::BadDocument(_))));
        assert!(matches!(Head::from_bytes(&vec![0; HEAD_BYTES_MAX + 1]), Err(HeadError::TooLarge(_))));
        assert!(matches!(Head::from_bytes(b""), Err(HeadError::NoTensors(_))));
    }

    #[test]
    fn a_seal_written_in_capitals_or_with_a_blank_before_it_is_not_ours() {
        let tensors = tensors(&hashed());
        let document = |text: String| written(&tensors, HashMap::from([(KEY.to_owned(), text)]));
        let ours = Document { seal_sha256: seal(&hashed().about, &tensors), about: hashed().about };
        let text = serde_json::to_string(&ours).expect("a document");
        assert!(Head::from_bytes(&document(text.clone())).is_ok());
        assert!(matches!(Head::from_bytes(&document(text.replacen(':', ": ", 1))), Err(HeadError::Seal)));
    }

    proptest! {
        #[test]
        fn a_byte_changed_anywhere_makes_it_no_head(place: prop::sample::Index, by in 1_u8.., of_encoder: bool) {
            let mut bytes = if of_encoder { encoder() } else { hashed() }.to_bytes();
            let place = place.index(bytes.len());
            bytes[place] ^= by;
            prop_assert!(Head::from_bytes(&bytes).is_err(), "at {}", place);
        }

        #[test]
        fn a_byte_changed_in_the_header_makes_it_no_head(place in 0_usize..2_000, by in 1_u8..) {
            let mut bytes = encoder().to_bytes();
            let place = place % bytes.len();
            bytes[place] ^= by;
            prop_assert!(Head::from_bytes(&bytes).is_err(), "at {}", place);
        }

        #[test]
        fn a_part_of_a_head_or_more_than_one_is_no_head(cut: prop::sample::Index, more in prop::collection::vec(any::<u8>(), 1..9)) {
            let mut bytes = encoder().to_bytes();
            prop_assert!(Head::from_bytes(&bytes[..cut.index(bytes.len())]).is_err());
            bytes.extend(more);
            prop_assert!(Head::from_bytes(&bytes).is_err());
        }

        #[test]
        fn other_bytes_are_no_head(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(Head::from_bytes(&bytes).is_err());
        }
    }
}
