//! Text that is certain after every token.

use crate::{from_hex, json, same, text};
use jet_runtime::utf8::Utf8Stream;
use libtest_mimic::{Failed, Trial};

pub fn trials() -> impl Iterator<Item = Trial> {
    let streams = json("stream_decode.json")["streams"].as_array().expect("streams").clone();
    assert_eq!(streams.len(), 96);
    streams.into_iter().map(|case| {
        let name = format!("stream::{}::{}", case["id"], text(&case, "name"));
        Trial::test(name, move || check(&case))
    })
}

fn check(case: &serde_json::Value) -> Result<(), Failed> {
    let mut stream = Utf8Stream::default();
    let (mut whole, mut bytes) = (String::new(), vec![]);
    let pieces = case["token_bytes_hex"].as_array().ok_or("no tokens")?;
    let emitted = case["emit"].as_array().ok_or("no texts")?;
    same("pieces", pieces.len(), emitted.len())?;
    for (i, (piece, expected)) in pieces.iter().zip(emitted).enumerate() {
        let mut out = String::new();
        // Ids of the special tokens of this vocabulary; a skipped one is an empty piece.
        let special = case["ids"][i].as_u64().is_some_and(|id| (151_643..=151_656).contains(&id));
        let piece = if special && case["skip_special"] == true { vec![] } else { from_hex(piece) };
        bytes.extend(&piece);
        stream.push(&piece, &mut out);
        same(&format!("token {i}"), &out[..], expected.as_str().ok_or("no text")?)?;
        whole += &out;
    }
    let mut out = String::new();
    stream.finish(&mut out);
    same("flush", &out[..], text(case, "flush"))?;
    whole += &out;
    same("whole", &whole[..], text(case, "full"))?;
    same("lossy", &whole[..], &String::from_utf8_lossy(&bytes))
}
