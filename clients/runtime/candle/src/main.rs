//! all-MiniLM-L6-v2 on candle, in f32: CPU milliseconds of an embedding, by batch and length, asked line by line.
//!
//! ```text
//! tollgate-beside-candle FOLDER        FOLDER is as Hugging Face ships it
//! ```

use std::error::Error;
use std::io::{BufRead, Write, stdin, stdout};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use rustix::time::{ClockId, clock_gettime};

/// As clients/runtime/bench.py measures the others.
const TOKENS_MEASURED: usize = 4096;
const FIRST: u32 = 101;
const LAST: u32 = 102;
const BETWEEN: u32 = 4003;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: tollgate-beside-candle FOLDER")?;
    let folder = Path::new(&folder);
    let config: Config = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
    let weights = std::fs::read(folder.join("model.safetensors"))?;
    let weights = VarBuilder::from_buffered_safetensors(weights, DType::F32, &Device::Cpu)?;
    let model = BertModel::load(weights, &config)?;
    println!("ready");
    for line in stdin().lock().lines() {
        let line = line?;
        let (batch, length) = line.split_once(' ').ok_or("a batch and a length")?;
        println!("{}", measured(&model, batch.parse()?, length.parse()?)?);
        stdout().flush()?;
    }
    Ok(())
}

fn measured(model: &BertModel, batch: usize, length: usize) -> Result<f64, Box<dyn Error>> {
    let row = |place: usize| match place {
        0 => FIRST,
        last if last + 1 == length => LAST,
        _ => BETWEEN,
    };
    let ids: Vec<u32> = (0..batch * length).map(|place| row(place % length)).collect();
    let ids = Tensor::from_vec(ids, (batch, length), &Device::Cpu)?;
    let (types, mask) = (ids.zeros_like()?, Tensor::ones((batch, length), DType::U32, &Device::Cpu)?);
    let embed = || -> candle_core::Result<Tensor> {
        let mean = model.forward(&ids, &types, Some(&mask))?.mean(1)?;
        mean.broadcast_div(&mean.sqr()?.sum_keepdim(1)?.sqrt()?)
    };
    embed()?;
    let times = (TOKENS_MEASURED / (batch * length)).max(1);
    let before = cpu_seconds();
    for _ in 0..times {
        embed()?;
    }
    Ok((cpu_seconds() - before) * 1e3 / (times * batch) as f64)
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
