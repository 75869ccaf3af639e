//! The encoder as a graph of ONNX operators, laid out for the engine.
//!
//! ```text
//! input_ids, attention_mask [texts, tokens] -> embeddings -> layers -> sum over a text's tokens -> unit length [texts, hidden]
//! ```
//!
//! What costs is the six matrices of a layer, so: query, key and value are one matrix, its columns ordered by head as packed
//! attention wants them; one quantisation serves all that reads the same input; a bias is added where the numbers are touched
//! anyway (by `SkipLayerNormalization`, `BiasGelu`, or within the f32 product). The sum over a text need not be divided by its
//! length, since its own length is taken away after it.
//!
//! Architecture: Devlin et al., "BERT", NAACL 2019; mean pooling: Reimers and Gurevych, "Sentence-BERT", EMNLP 2019.

use prost::Message;

use super::ModelError;
use super::bert::{Shape, Weights};
use super::calibrate::Range;
use super::onnx::{
    Attribute, AttributeType, DataType, Dimension, Extent, GraphProto, IR_VERSION, MICROSOFT, ModelProto, NodeProto,
    OPSET, OperatorSetId, TensorProto, TensorShape, TensorType, TypeProto, ValueInfo,
};
use super::quantize::{Quantized, by_column, by_row};

pub(super) const IDS: &str = "input_ids";
pub(super) const MASK: &str = "attention_mask";
pub(super) const OUTPUT: &str = "sentence_embedding";

/// Who is to run the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// `rten`: queries, keys and values stay in one tensor, ordered by head.
    Engine,
    /// Others, for comparison: onnxruntime has no packed attention on the CPU.
    Portable,
}

/// The name of a value that some operator makes.
type Value = String;

/// What the products are computed with.
#[derive(Clone, Copy)]
pub(super) enum Numbers<'a> {
    Floats,
    /// Floats, and the extremes of each operand are outputs of the graph.
    Watched,
    /// The ranges of the operands, in the order in which they come.
    Integers(&'a [Range]),
}

/// A graph that says the extremes of its operands: of each the least, then the greatest.
pub(super) struct Watched {
    pub onnx: Vec<u8>,
    pub names: Vec<String>,
}

/// A graph as it grows.
struct Graph<'a> {
    shape: &'a Shape,
    weights: &'a Weights<'a>,
    numbers: Numbers<'a>,
    operands: usize,
    watched: Vec<Value>,
    layout: Layout,
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
    known: Vec<ValueInfo>,
}

/// A value, and where it is read by int8 matrices, the same in eight bits.
struct Operand {
    value: Value,
    quantized: Option<Steps>,
}

struct Steps {
    values: Value,
    zero: Value,
    /// What one step stands for.
    size: f32,
}

/// A matrix `[inputs, outputs]` and what is added to the product.
struct Linear {
    matrix: Vec<f32>,
    bias: Vec<f32>,
    inputs: usize,
    outputs: usize,
}

/// The bytes of a `model.onnx`.
pub(super) fn encode(
    shape: &Shape,
    weights: &Weights<'_>,
    numbers: Numbers<'_>,
    layout: Layout,
) -> Result<Vec<u8>, ModelError> {
    Ok(Graph::new(shape, weights, numbers, layout).built()?.finished().encode_to_vec())
}

pub(super) fn watched(shape: &Shape, weights: &Weights<'_>) -> Result<Watched, ModelError> {
    let graph = Graph::new(shape, weights, Numbers::Watched, Layout::Engine).built()?;
    let names = graph.watched.clone();
    Ok(Watched { onnx: graph.finished().encode_to_vec(), names })
}

// === impl Graph: the parts of an encoder ===

impl<'a> Graph<'a> {
    fn new(shape: &'a Shape, weights: &'a Weights<'a>, numbers: Numbers<'a>, layout: Layout) -> Self {
        Self {
            shape,
            weights,
            numbers,
            operands: 0,
            watched: Vec::new(),
            layout,
            nodes: Vec::new(),
            constants: Vec::new(),
            known: Vec::new(),
        }
    }

    fn built(mut self) -> Result<Self, ModelError> {
        let mut hidden = self.embeddings()?;
        for layer in 0..self.shape.layers {
            hidden = self.layer(&format!("encoder.layer.{layer}"), hidden)?;
        }
        self.pooled(hidden);
        Ok(self)
    }

    fn embeddings(&mut self) -> Result<Value, ModelError> {
        let Shape { hidden, vocabulary, positions, types, .. } = *self.shape;
        let words = self.weights.tensor("embeddings.word_embeddings.weight", &[vocabulary, hidden])?;
        let mut places = self.weights.tensor("embeddings.position_embeddings.weight", &[positions, hidden])?;
        let kinds = self.weights.tensor("embeddings.token_type_embeddings.weight", &[types, hidden])?;
        // A sentence on its own is of the first type throughout.
        for place in places.chunks_exact_mut(hidden) {
            place.iter_mut().zip(&kinds).for_each(|(place, kind)| *place += kind);
        }
        let words = self.words(&words);
        let places = self.floats("positions", &[positions, hidden], &places);
        let length = self.node("Shape", "length", &[IDS], &[int("start", 1), int("end", 2)]);
        let start = self.integers("zero", &[0]);
        let here = self.node("Slice", "places", &[&places, &start, &length, &start], &[]);
        self.normalized("embeddings.LayerNorm", &words, &here, None)
    }

    /// A row of the table for each token. In eight bits it is a quarter as large, and that is most of a small model.
    fn words(&mut self, table: &[f32]) -> Value {
        let Shape { hidden, vocabulary, .. } = *self.shape;
        if !self.is_integer() {
            let table = self.floats("words", &[vocabulary, hidden], table);
            return self.node("Gather", "word", &[&table, IDS], &[]);
        }
        let Quantized { values, scales } = by_row(table, hidden);
        let table = self.bytes("words", &[vocabulary, hidden], &values);
        let scales = self.floats("words.scale", &[vocabulary, 1], &scales);
        let steps = self.node("Gather", "word.steps", &[&table, IDS], &[]);
        let steps = self.node("Cast", "word.float", &[&steps], &[int("to", DataType::Float as i64)]);
        let scale = self.node("Gather", "word.scale", &[&scales, IDS], &[]);
        self.node("Mul", "word", &[&steps, &scale], &[])
    }

    fn layer(&mut self, name: &str, hidden: Value) -> Result<Value, ModelError> {
        let heads = i64_of(self.shape.heads);
        let input = self.operand(hidden);
        let packed = self.packed_attention(name)?;
        let packed = self.product(&format!("{name}.qkv"), &input, &packed, true);
        let parts = match self.layout {
            Layout::Engine => self.packed_by_head(name, &packed),
            Layout::Portable => self.side_by_side(name, &packed),
        };
        let [query, key, value] = parts.each_ref().map(String::as_str);
        let inputs = [query, key, value, "", MASK];
        let attended =
            self.microsoft("MultiHeadAttention", &format!("{name}.attended"), &inputs, &[int("num_heads", heads)]);

        let dense = self.linear(&format!("{name}.attention.output.dense"), self.shape.hidden, self.shape.hidden)?;
        let attended = self.operand(attended);
        let attended = self.residual(&format!("{name}.attention.output"), &attended, &dense, &input.value)?;

        let middle = self.linear(&format!("{name}.intermediate.dense"), self.shape.hidden, self.shape.inner)?;
        let attended = self.operand(attended);
        let inner = self.gelu(&format!("{name}.intermediate"), &attended, &middle);

        let dense = self.linear(&format!("{name}.output.dense"), self.shape.inner, self.shape.hidden)?;
        let inner = self.operand(inner);
        self.residual(&format!("{name}.output"), &inner, &dense, &attended.value)
    }

    /// As one input: `[texts, tokens, heads, 3, head]`.
    fn packed_by_head(&mut self, name: &str, packed: &str) -> [Value; 3] {
        let (heads, head) = (i64_of(self.shape.heads), i64_of(self.shape.head()));
        let dims = self.integers("packed", &[0, 0, heads, 3, head]);
        let packed = self.node("Reshape", &format!("{name}.packed"), &[packed, &dims], &[]);
        [packed, String::new(), String::new()]
    }

    fn side_by_side(&mut self, name: &str, packed: &str) -> [Value; 3] {
        let hidden = i64_of(self.shape.hidden);
        let sizes = self.integers("sizes", &[hidden, hidden, hidden]);
        let parts = ["query", "key", "value"].map(|part| format!("{name}.{part}"));
        self.push("Split", "", &[packed, &sizes], parts.to_vec(), &[int("axis", -1)]);
        parts
    }

    /// Query, key and value in one matrix.
    fn packed_attention(&self, name: &str) -> Result<Linear, ModelError> {
        let (hidden, head) = (self.shape.hidden, self.shape.head());
        let parts =
            ["query", "key", "value"].map(|part| self.linear(&format!("{name}.attention.self.{part}"), hidden, hidden));
        let [query, key, value] = parts;
        let parts = [query?, key?, value?];
        let interleave = |rows: [&[f32]; 3]| -> Vec<f32> {
            if self.layout == Layout::Portable {
                return rows.concat();
            }
            (0..self.shape.heads)
                .flat_map(|index| rows.map(|row| row[index * head..(index + 1) * head].to_vec()))
                .flatten()
                .collect()
        };
        let matrix = (0..hidden)
            .flat_map(|input| {
                let row = input * hidden..(input + 1) * hidden;
                interleave([0, 1, 2].map(|part: usize| &parts[part].matrix[row.clone()]))
            })
            .collect();
        let bias = interleave([0, 1, 2].map(|part: usize| &parts[part].bias[..]));
        Ok(Linear { matrix, bias, inputs: hidden, outputs: 3 * hidden })
    }

    /// A linear layer, from rows by output (as PyTorch keeps them) to rows by input.
    fn linear(&self, name: &str, inputs: usize, outputs: usize) -> Result<Linear, ModelError> {
        let by_output = self.weights.tensor(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias = self.weights.tensor(&format!("{name}.bias"), &[outputs])?;
        let mut matrix = Vec::with_capacity(by_output.len());
        for input in 0..inputs {
            matrix.extend((0..outputs).map(|output| by_output[output * inputs + input]));
        }
        Ok(Linear { matrix, bias, inputs, outputs })
    }

    /// `gelu(x W + b)`.
    fn gelu(&mut self, name: &str, input: &Operand, linear: &Linear) -> Value {
        if !self.is_integer() {
            let product = self.product(&format!("{name}.dense"), input, linear, true);
            return self.microsoft("Gelu", &format!("{name}.gelu"), &[&product], &[]);
        }
        let product = self.product(&format!("{name}.dense"), input, linear, false);
        let bias = self.floats(&format!("{name}.bias"), &[linear.outputs], &linear.bias);
        self.microsoft("BiasGelu", &format!("{name}.gelu"), &[&product, &bias], &[])
    }

    /// `norm(x W + b + skip)`.
    fn residual(&mut self, name: &str, input: &Operand, linear: &Linear, skip: &str) -> Result<Value, ModelError> {
        let fused = !self.is_integer();
        let product = self.product(&format!("{name}.dense"), input, linear, fused);
        let bias = (!fused).then(|| self.floats(&format!("{name}.dense.bias"), &[linear.outputs], &linear.bias));
        self.normalized(&format!("{name}.LayerNorm"), &product, skip, bias.as_deref())
    }

    fn normalized(&mut self, name: &str, input: &str, skip: &str, bias: Option<&str>) -> Result<Value, ModelError> {
        let hidden = self.shape.hidden;
        let gamma = self.weights.tensor(&format!("{name}.weight"), &[hidden])?;
        let beta = self.weights.tensor(&format!("{name}.bias"), &[hidden])?;
        let gamma = self.floats(&format!("{name}.gamma"), &[hidden], &gamma);
        let beta = self.floats(&format!("{name}.beta"), &[hidden], &beta);
        let mut inputs = vec![input, skip, &gamma, &beta];
        inputs.extend(bias);
        Ok(self.microsoft("SkipLayerNormalization", name, &inputs, &[float("epsilon", self.shape.epsilon)]))
    }

    fn pooled(&mut self, hidden: Value) {
        let one = self.integers("one", &[1]);
        let mask = self.node("Cast", "pool.mask", &[MASK], &[int("to", DataType::Float as i64)]);
        let mask = self.node("Unsqueeze", "pool.row", &[&mask, &one], &[]);
        let sum = self.node("MatMul", "pool.sum", &[&mask, &hidden], &[]);
        let sum = self.node("Squeeze", "pool.flat", &[&sum, &one], &[]);
        self.node("LpNormalization", OUTPUT, &[&sum], &[int("axis", -1), int("p", 2)]);
    }
}

// === impl Graph: products ===

impl Graph<'_> {
    fn is_integer(&self) -> bool {
        matches!(self.numbers, Numbers::Integers(_))
    }

    fn operand(&mut self, value: Value) -> Operand {
        let place = self.operands;
        self.operands += 1;
        match self.numbers {
            Numbers::Floats => Operand { value, quantized: None },
            Numbers::Watched => {
                for (operator, name) in [("ReduceMin", "least"), ("ReduceMax", "greatest")] {
                    let extreme = self.node(operator, &format!("{value}.{name}"), &[&value], &[int("keepdims", 0)]);
                    self.watched.push(extreme);
                }
                Operand { value, quantized: None }
            }
            Numbers::Integers(ranges) => {
                let steps = self.steps(&value, ranges[place]);
                Operand { value, quantized: Some(steps) }
            }
        }
    }

    /// A value in eight bits without a sign, over a range that is known.
    fn steps(&mut self, value: &str, range: Range) -> Steps {
        let (size, zero) = range.steps();
        let scale = self.constant(&format!("{value}.scale"), &[], DataType::Float, size.to_le_bytes().to_vec());
        let zero = self.constant(&format!("{value}.zero"), &[], DataType::Uint8, vec![zero]);
        let values = self.node("QuantizeLinear", &format!("{value}.steps"), &[value, &scale, &zero], &[]);
        Steps { values, zero, size }
    }

    fn product(&mut self, name: &str, input: &Operand, linear: &Linear, with_bias: bool) -> Value {
        let product = match &input.quantized {
            None => {
                let matrix = self.floats(&format!("{name}.weight"), &[linear.inputs, linear.outputs], &linear.matrix);
                self.node("MatMul", &format!("{name}.product"), &[&input.value, &matrix], &[])
            }
            Some(steps) => self.integer_product(name, steps, linear),
        };
        if !with_bias {
            return product;
        }
        let bias = self.floats(&format!("{name}.bias"), &[linear.outputs], &linear.bias);
        self.node("Add", &format!("{name}.sum"), &[&product, &bias], &[])
    }

    fn integer_product(&mut self, name: &str, input: &Steps, linear: &Linear) -> Value {
        let Quantized { values, scales } = by_column(&linear.matrix, linear.outputs);
        let matrix = self.bytes(&format!("{name}.weight"), &[linear.inputs, linear.outputs], &values);
        let scales: Vec<f32> = scales.into_iter().map(|scale| scale * input.size).collect();
        let scale = self.floats(&format!("{name}.scale"), &[linear.outputs], &scales);
        let zero = self.bytes("none", &[], &[0]);
        let inputs = [input.values.as_str(), &matrix, &input.zero, &zero];
        let product = self.node("MatMulInteger", &format!("{name}.integers"), &inputs, &[]);
        let product = self.node("Cast", &format!("{name}.float"), &[&product], &[int("to", DataType::Float as i64)]);
        self.node("Mul", &format!("{name}.product"), &[&product, &scale], &[])
    }
}

// === impl Graph: nodes and constants ===

impl Graph<'_> {
    /// One operator with one output, which bears the name.
    fn node(&mut self, operator: &str, name: &str, inputs: &[&str], attributes: &[Attribute]) -> Value {
        self.push(operator, "", inputs, vec![name.to_owned()], attributes);
        name.to_owned()
    }

    fn microsoft(&mut self, operator: &str, name: &str, inputs: &[&str], attributes: &[Attribute]) -> Value {
        self.push(operator, MICROSOFT, inputs, vec![name.to_owned()], attributes);
        name.to_owned()
    }

    fn push(&mut self, operator: &str, domain: &str, inputs: &[&str], output: Vec<String>, attributes: &[Attribute]) {
        self.nodes.push(NodeProto {
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            name: output[0].clone(),
            output,
            op_type: operator.to_owned(),
            attribute: attributes.to_vec(),
            domain: domain.to_owned(),
        });
    }

    fn floats(&mut self, name: &str, dims: &[usize], values: &[f32]) -> Value {
        self.constant(name, dims, DataType::Float, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    fn bytes(&mut self, name: &str, dims: &[usize], values: &[i8]) -> Value {
        self.constant(name, dims, DataType::Int8, values.iter().map(|value| value.to_le_bytes()[0]).collect())
    }

    fn integers(&mut self, name: &str, values: &[i64]) -> Value {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(name, &[values.len()], DataType::Int64, bytes)
    }

    /// The same name is the same constant.
    fn constant(&mut self, name: &str, dims: &[usize], kind: DataType, raw_data: Vec<u8>) -> Value {
        if !self.constants.iter().any(|constant| constant.name == name) {
            let dims = dims.iter().map(|&dim| i64_of(dim)).collect();
            self.constants.push(TensorProto { dims, data_type: kind as i32, name: name.to_owned(), raw_data });
        }
        name.to_owned()
    }

    fn finished(self) -> ModelProto {
        let rows = |name: &str, kind| {
            described(name, kind, vec![Extent::Named("texts".to_owned()), Extent::Named("tokens".to_owned())])
        };
        let output = vec![Extent::Named("texts".to_owned()), Extent::Fixed(i64_of(self.shape.hidden))];
        let watched: Vec<_> = self.watched.iter().map(|name| described(name, DataType::Float, Vec::new())).collect();
        ModelProto {
            ir_version: IR_VERSION,
            producer_name: "tollgate".to_owned(),
            graph: Some(GraphProto {
                node: self.nodes,
                name: "encoder".to_owned(),
                initializer: self.constants,
                input: vec![rows(IDS, DataType::Int32), rows(MASK, DataType::Int32)],
                output: [described(OUTPUT, DataType::Float, output)].into_iter().chain(watched).collect(),
                value_info: self.known,
            }),
            opset_import: vec![
                OperatorSetId { domain: String::new(), version: OPSET },
                OperatorSetId { domain: MICROSOFT.to_owned(), version: 1 },
            ],
        }
    }
}

fn int(name: &str, value: i64) -> Attribute {
    Attribute { name: name.to_owned(), f: None, i: Some(value), kind: AttributeType::Int as i32 }
}

fn float(name: &str, value: f32) -> Attribute {
    Attribute { name: name.to_owned(), f: Some(value), i: None, kind: AttributeType::Float as i32 }
}

fn described(name: &str, kind: DataType, extents: Vec<Extent>) -> ValueInfo {
    let dim = extents.into_iter().map(|extent| Dimension { extent: Some(extent) }).collect();
    let tensor = TensorType { element: kind as i32, shape: Some(TensorShape { dim }) };
    ValueInfo { name: name.to_owned(), kind: Some(TypeProto { tensor: Some(tensor) }) }
}

fn i64_of(size: usize) -> i64 {
    i64::try_from(size).expect("sizes were bounded when the configuration was read")
}
