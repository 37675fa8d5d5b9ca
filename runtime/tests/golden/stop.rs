//! Stop strings: what may leave after every token, and where it ends.

use crate::{from_hex, json, same, text};
use jet_runtime::stop::TextStream;
use libtest_mimic::{Failed, Trial};

pub fn trials() -> impl Iterator<Item = Trial> {
    let cases = json("stop.json")["cases"].as_array().expect("cases").clone();
    assert_eq!(cases.len(), 54);
    cases.into_iter().map(|case| {
        let name = format!("stop::{}::{}", case["id"], text(&case, "name"));
        Trial::test(name, move || check(&case))
    })
}

fn check(case: &serde_json::Value) -> Result<(), Failed> {
    let list = |v: &serde_json::Value| v.as_array().cloned().unwrap_or_default();
    let stops: Vec<String> = list(&case["stops"]).iter().map(|s| s.as_str().unwrap().to_string()).collect();
    let expect = &case["expect"];
    let mut stream = TextStream::new(stops.clone())?;
    let (mut emitted, mut stop) = (vec![], None);
    for piece in list(&case["pieces_hex"]) {
        let mut out = String::new();
        stop = stream.push(&from_hex(&piece), &mut out);
        emitted.push(out);
        if stop.is_some() {
            break;
        }
    }
    let stop_piece = stop.map(|_| emitted.len() as u64 - 1);
    same("pieces consumed", emitted.len() as u64, expect["pieces_consumed"].as_u64().ok_or("no count")?)?;
    same("stop piece", stop_piece, expect["stop_piece"].as_u64())?;
    let mut flush = String::new();
    let stop = stream.finish(&mut flush);
    same("flush", &flush[..], text(expect, "flush"))?;
    let expected: Vec<String> = list(&expect["emit"]).iter().map(|s| s.as_str().unwrap().to_string()).collect();
    let whole = emitted.concat() + &flush;
    same("emitted", emitted, expected)?;
    same("stopped", stop.is_some(), expect["stopped"].as_bool().ok_or("no flag")?)?;
    same("matched", stop.map(|i| &stops[i][..]), expect["matched"].as_str())?;
    same("text", &whole[..], text(expect, "text"))
}
