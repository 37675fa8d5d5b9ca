//! Tokenizer and chat template of the official model, whose files are third-party and looked for elsewhere.

use crate::{json, same, text};
use jet_runtime::text::{AddedTokens, ChatTemplate, Render, Tokenizer};
use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

/// The official files, if they are at hand.
struct Official {
    tokenizer: Mutex<Tokenizer>,
    template: ChatTemplate,
}

fn folder() -> Option<PathBuf> {
    let beside = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared"));
    let shared = std::env::var_os("JETC_SHARED").map_or_else(beside, PathBuf::from);
    Some(shared.join("generation/tokenizer")).filter(|p| p.join("tokenizer.json.xz").exists())
}

fn official() -> &'static Official {
    static OFFICIAL: OnceLock<Official> = OnceLock::new();
    OFFICIAL.get_or_init(|| {
        let folder = folder().expect("looked at before");
        let xz = std::process::Command::new("xz").arg("-dc").arg(folder.join("tokenizer.json.xz")).output();
        let template = std::fs::read_to_string(folder.join("chat_template.jinja")).unwrap();
        Official {
            tokenizer: Mutex::new(Tokenizer::from_json(&xz.expect("xz, to unpack the tokenizer").stdout).unwrap()),
            template: ChatTemplate::new(&template).unwrap(),
        }
    })
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn ids(value: &Value) -> Vec<u32> {
    list(value).iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

pub fn trials() -> Vec<Trial> {
    let absent = folder().is_none();
    let mut trials = vec![];
    let mut add = |group: &str, name: String, check: fn(&Value) -> Result<(), Failed>, case: Value| {
        let case = Arc::new(case);
        trials.push(Trial::test(format!("{group}::{name}"), move || check(&case)).with_ignored_flag(absent));
    };
    for case in list(&json("encode_decode.json")["cases"]) {
        add("tokenizer", format!("{}::{}", case["id"], text(&case, "category")), encode_decode, case);
    }
    for case in list(&json("stream_decode.json")["streams"]) {
        add("token_bytes", format!("{}::{}", case["id"], text(&case, "name")), token_bytes, case);
    }
    let chat = json("chat.json");
    for case in list(&chat["cases"]) {
        add("chat", format!("{}::{}", case["id"], text(&case, "name")), conversation, case);
    }
    for case in list(&chat["continue_final_message"]) {
        add("continue", text(&case, "name").into(), continued, case);
    }
    for case in list(&chat["errors"]) {
        // There is no way to ask for both: `Render` is a choice.
        if text(&case, "name") != "both generation prompt and continue" {
            add("chat_error", text(&case, "name").into(), refused, case);
        }
    }
    assert_eq!(trials.len(), 102 + 96 + 28 + 6 + 22);
    trials
}

fn encode_decode(case: &Value) -> Result<(), Failed> {
    let mut tokenizer = official().tokenizer.lock().unwrap();
    let input = text(case, "text");
    let first_of = |keys: &[&str]| ids(keys.iter().map(|k| &case[*k]).find(|v| v.is_array()).unwrap_or(&Value::Null));
    let all = first_of(&["ids"]);
    same("ids", tokenizer.encode(input, AddedTokens::Parse)?, all.clone())?;
    let expected = first_of(&["ids_no_special", "ids"]);
    same("special as text", tokenizer.encode(input, AddedTokens::SpecialAsText)?, expected)?;
    let expected = first_of(&["ids_no_added", "ids_no_special", "ids"]);
    same("all as text", tokenizer.encode(input, AddedTokens::AllAsText)?, expected)?;
    same("decode", &tokenizer.decode(&all, false)[..], text(case, "decode"))?;
    same("decode without special", &tokenizer.decode(&all, true)[..], text(case, "decode_skip_special"))
}

fn token_bytes(case: &Value) -> Result<(), Failed> {
    let tokenizer = official().tokenizer.lock().unwrap();
    for (id, expected) in ids(&case["ids"]).into_iter().zip(list(&case["token_bytes_hex"])) {
        same(&format!("token {id}"), tokenizer.token_bytes(id), crate::from_hex(&expected))?;
    }
    let skip = case["skip_special"] == true;
    same("whole", &tokenizer.decode(&ids(&case["ids"]), skip)[..], text(case, "full"))
}

fn render(case: &Value, how: Render) -> Result<String, Failed> {
    Ok(official().template.render(&list(&case["messages"]), &list(&case["tools"]), how)?)
}

fn conversation(case: &Value) -> Result<(), Failed> {
    let closed = render(case, Render::Closed)?;
    same("prompt", &closed[..], text(case, "prompt"))?;
    let opened = render(case, Render::AddGenerationPrompt)?;
    same("prompt with opening", &opened[..], text(case, "prompt_generation"))?;
    let mut tokenizer = official().tokenizer.lock().unwrap();
    same("ids", tokenizer.encode(&closed, AddedTokens::Parse)?, ids(&case["ids"]))?;
    same("ids with opening", tokenizer.encode(&opened, AddedTokens::Parse)?, ids(&case["ids_generation"]))
}

fn continued(case: &Value) -> Result<(), Failed> {
    let found = render(case, Render::ContinueFinalMessage)?;
    // The official search finds nothing to cut after an empty text and leaves the turn closed; ours stays open.
    let expected = match text(case, "name") {
        "empty" => text(case, "prompt").trim_end_matches("<|im_end|>\n"),
        _ => text(case, "prompt"),
    };
    same("prompt", &found[..], expected)
}

/// What the official template drops or misprints without a word, and we refuse.
const STRICTER: [&str; 9] = [
    "role missing",
    "unknown role",
    "role with capital",
    "function role",
    "system content null with tools",
    "tool content null",
    "tool content object",
    "tool call without name",
    "messages is not a list of objects",
];

fn refused(case: &Value) -> Result<(), Failed> {
    let expected = match case["prompt"].as_str() {
        Some(prompt) if !STRICTER.contains(&text(case, "name")) => Some(prompt.to_string()),
        _ => None,
    };
    same("prompt", render(case, Render::Closed).ok(), expected)
}
