//! Writes the first input of the corpus: the artifact that the tests of the format use.

#[path = "../../../runtime/jetbin/tests/artifact/mod.rs"]
mod artifact;

use jetbin::Reader;

fn main() -> std::io::Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "corpus".into());
    let bytes = artifact::bytes();
    let short = jet_fuzz::shorten(&Reader::open(&bytes).expect("a good artifact"));
    Reader::open(&jet_fuzz::assemble(&short)).expect("the short form says all");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(format!("{folder}/sample"), short)
}
