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
    trials.push(Trial::test("austen::tokenizer", austen));
    trials.push(Trial::test("template::own", own_template));
    trials.push(Trial::test("template::refusals", refusals));
    trials
}

/// The tokenizer of the example model: its prompts, and every byte of a novel.
fn austen() -> Result<(), Failed> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/austen-jet");
    let mut tokenizer = Tokenizer::from_json(&std::fs::read(folder.join("tokenizer.json"))?)?;
    let reference: Value = serde_json::from_slice(&std::fs::read(folder.join("reference.json"))?)?;
    for prompt in list(&reference["prompts"]) {
        let found = tokenizer.encode(text(&prompt, "text"), AddedTokens::AllAsText)?;
        same(text(&prompt, "name"), found, ids(&prompt["input_ids"]))?;
    }
    let novel = std::fs::read_to_string(folder.join(text(&reference["heldout"], "file")))?;
    let found = tokenizer.encode(&novel, AddedTokens::Parse)?;
    same("tokens of the novel", found.len() as u64, reference["heldout"]["tokens"].as_u64().ok_or("no count")?)?;
    same("the novel again", tokenizer.decode(&found, true) == novel, true)?;
    let marked = "The end<|endoftext|>";
    same("parsed", tokenizer.encode(marked, AddedTokens::Parse)?.last().copied(), tokenizer.id("<|endoftext|>"))?;
    let as_text = tokenizer.encode(marked, AddedTokens::SpecialAsText)?;
    same("special as text", as_text.iter().any(|&id| tokenizer.is_special(id)), false)?;
    same("the same text", &tokenizer.decode(&as_text, true)[..], marked)?;
    same("no such id", tokenizer.token_bytes(u32::MAX), vec![])
}

/// White space, JSON and undefined values as Hugging Face's environment treats them.
fn own_template() -> Result<(), Failed> {
    let source = "{% for m in messages %}\n  {% if m.role == 'user' %}\n<{{ m.content }}>\n  {% endif %}\n{% endfor %}\n\
                  {% if tools %}{{ tools[0] | tojson }}{% endif %}{{ absent }}{% if add_generation_prompt %}!{% endif %}\n";
    let template = ChatTemplate::new(source)?;
    let messages = [serde_json::json!({"role": "user", "content": "<b> & 'é'"})];
    let tools = [serde_json::json!({"z": 1.0, "a": "<&'é", "n": [1e16, null]})];
    let found = template.render(&messages, &tools, Render::AddGenerationPrompt)?;
    same("prompt", &found[..], "<<b> & 'é'>\n{\"z\": 1.0, \"a\": \"<&'é\", \"n\": [1e+16, null]}!")?;
    let found = template.render(&messages, &[], Render::ContinueFinalMessage)?;
    same("continued", &found[..], "<<b> & 'é'")
}

fn refusals() -> Result<(), Failed> {
    let error = |source: &str, messages: Value| {
        let rendered =
            ChatTemplate::new(source).and_then(|t| t.render(&list(&messages), &[], Render::ContinueFinalMessage));
        rendered.err().map_or_else(|| "accepted".to_string(), |e| e.to_string())
    };
    let user = serde_json::json!([{"role": "user", "content": "x"}]);
    same("syntax", &error("{% if %}", user.clone())[..30], "chat template: line 1: syntax ")?;
    let raised = error("{{ raise_exception('alternate roles') }}", user.clone());
    same("raised", &raised[..], "chat template: line 1: invalid operation: alternate roles")?;
    let lost = "chat template: the text of the last message is not in the prompt, so it cannot be continued";
    same("lost", &error("nothing", user)[..], lost)?;
    let role = error("", serde_json::json!([{"role": "User", "content": "x"}]));
    same("role", &role[..], "message 0: role \"User\", expected system, user, assistant or tool")?;
    let broken = Tokenizer::from_json(b"{}").err().ok_or("accepted")?.to_string();
    same("tokenizer", broken.starts_with("tokenizer: "), true)
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
