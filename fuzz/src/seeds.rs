//! Writes each target's seeds as files, for libFuzzer to begin from: `seeds FOLDER`.

use std::path::Path;

use tollgate_fuzz::TARGETS;

fn main() -> std::io::Result<()> {
    let folder = std::env::args().nth(1).expect("the folder is named: seeds FOLDER");
    for target in TARGETS {
        let folder = Path::new(&folder).join(target.name);
        create(&folder)?;
        for (number, seed) in target.seeds.iter().enumerate() {
            write(&folder.join(format!("seed-{number}")), seed)?;
        }
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a corpus for libFuzzer, of no concern to the store")]
fn create(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)
}

#[expect(clippy::disallowed_methods, reason = "a corpus for libFuzzer, of no concern to the store")]
fn write(path: &Path, seed: &str) -> std::io::Result<()> {
    std::fs::write(path, seed)
}
