//! `tollgate runtime`: models that run here, as files. Needs no gateway.

use std::path::{Path, PathBuf};

use serde_json::json;
use tollgate_runtime::encoder::Model;
use tollgate_runtime::encoder::convert::convert;
use tollgate_runtime::encoder::manifest::{Manifest, Precision};

use super::table::{Column, table};
use super::{Answer, Failure};

#[derive(Debug, clap::Args)]
pub struct RuntimeArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make what the gateway runs of a sentence encoder as Hugging Face ships it
    #[command(after_help = "Example:\n  tollgate runtime convert all-MiniLM-L6-v2 --to models/all-MiniLM-L6-v2")]
    Convert {
        /// With config.json, model.safetensors and tokenizer.json
        folder: PathBuf,
        /// A folder for what is made; it is made, too
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
        /// Under this name it is priced and shown; the folder's own, if left out
        #[arg(long)]
        name: Option<String>,
        /// int8: a quarter of the memory, and faster; f32: as it came
        #[arg(long, value_name = "PRECISION", default_value = "int8", value_parser = ["int8", "f32"])]
        precision: String,
    },
    /// What a converted model is, and whether its files are whole
    #[command(after_help = "Example:\n  tollgate runtime show models/all-MiniLM-L6-v2")]
    Show { folder: PathBuf },
}

/// Longest name of a model.
const NAME_CHARS_MAX: usize = 100;

// === impl RuntimeArgs ===

impl RuntimeArgs {
    pub fn run(self) -> Result<Answer, Failure> {
        match self.action {
            Action::Convert { folder, to, name, precision } => {
                let precision = if precision == "f32" { Precision::F32 } else { Precision::Int8 };
                converted(&folder, &to, name, precision)
            }
            Action::Show { folder } => {
                let model = Model::load(&folder).map_err(|error| told(&folder, &error))?;
                Ok(shown(model.manifest()))
            }
        }
    }
}

fn converted(folder: &Path, to: &Path, name: Option<String>, precision: Precision) -> Result<Answer, Failure> {
    let mut made = convert(folder, precision).map_err(|error| told(folder, &error))?;
    if let Some(name) = name {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !(1..=NAME_CHARS_MAX).contains(&name.len()) || !name.chars().all(is_plain) {
            return Err(Failure::Arguments(format!(
                "--name has 1 to {NAME_CHARS_MAX} letters, digits, dashes, dots and underscores"
            )));
        }
        made.manifest.name = name;
    }
    let manifest = made.manifest.clone();
    for (name, bytes) in made.files() {
        write(to, name, &bytes)?;
    }
    // What was written is what will be read.
    Model::load(to).map_err(|error| told(to, &error))?;
    Ok(shown(&manifest))
}

/// Writes a file of a folder, which is made if it is not there. A file that was there is replaced once the new one is whole.
#[expect(clippy::disallowed_methods, reason = "a model is put where the user says, not in the store")]
pub fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), Failure> {
    let (path, unfinished) = (folder.join(name), folder.join(format!("{name}.unfinished")));
    let written = std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&unfinished, bytes))
        .and_then(|()| std::fs::rename(&unfinished, &path));
    written.map_err(|error| told(&path, &error))
}

pub fn told(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::Failed(format!("{}: {error}", path.display()))
}

fn shown(manifest: &Manifest) -> Answer {
    let precision = match manifest.precision {
        Precision::Int8 => "int8",
        Precision::F32 => "f32",
    };
    let columns = [
        Column::Text("MODEL"),
        Column::Text("PRECISION"),
        Column::Number("DIMENSIONS"),
        Column::Number("LAYERS"),
        Column::Number("TOKENS"),
        Column::Text("SHA-256"),
    ];
    let row = vec![
        manifest.name.clone(),
        precision.to_owned(),
        manifest.dims.to_string(),
        manifest.layers.to_string(),
        manifest.max_tokens.to_string(),
        manifest.files.onnx.chars().take(16).collect(),
    ];
    let manifest = json!(manifest);
    Answer::new(table(&columns, vec![row], "no model"), &manifest)
}
