//! The example model with trained weights: greedy continuations token for token, perplexity, text in and text out.

use crate::args;
use crate::support::*;
use jetc::compare::tensors;
use std::path::PathBuf;
use std::sync::OnceLock;

/// The artifact, compiled once for all tests of this file.
fn artifact() -> PathBuf {
    static COMPILED: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let compiled = COMPILED.get_or_init(|| {
        let folder = folder();
        let path =
            compile(folder.path(), &austen(), &["--max-context", "1024", "--max-batch", "4", "--prefill-chunk", "128"]);
        (folder, path)
    });
    compiled.1.clone()
}

fn reference() -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(austen().join("reference.json")).unwrap()).unwrap()
}

/// Logits of the official code in f32 differ by 2e-5 at most between its own two forms, on logits of rms 4: 5e-6 relative, times six.
const TOLERANCE: &str = "3e-5";

#[test]
fn logits_and_choices_are_those_of_the_official_code() {
    let file = austen().join("reference.safetensors");
    for more in [&[][..], &["--together"], &["--chunks", "1,2,3,7"]] {
        let mut command = jetc();
        command.args(args!["compare", artifact(), file, "--tolerance", TOLERANCE, "--json"]).args(more);
        let said = Said::of(command.output().unwrap());
        assert_eq!(said.code, Some(0), "{more:?}\n{}\n{}", said.stdout, said.stderr);
        // of each of three prompts: logits, greedy ids and the five best logits of each choice
        assert_eq!(said.json()["keys"].as_array().unwrap().len(), 9);
    }
}

#[test]
fn greedy_continuations_are_equal_token_for_token() {
    let file = tensors::read(&austen().join("reference.safetensors")).unwrap();
    for prompt in ["prompt0", "prompt1", "prompt2"] {
        let ids = |key: &str| -> String {
            let values = file[&format!("{prompt}.{key}")].integers().unwrap();
            values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
        };
        let said = run(args!["run", artifact(), "--ids", ids("input_ids"), "-n", "64", "--temp", "0"]).ok();
        assert_eq!(said.stdout.trim(), ids("greedy_ids"), "{prompt}");
    }
}

#[test]
fn text_goes_in_and_comes_out() {
    for prompt in reference()["prompts"].as_array().unwrap() {
        let (text, expected) = (prompt["text"].as_str().unwrap(), prompt["greedy_text"].as_str().unwrap());
        let said = run(args!["run", artifact(), "-p", text, "-n", "64"]).ok();
        assert_eq!(said.stdout.trim_end_matches('\n'), expected.trim_end_matches('\n'));
        assert_eq!(said.stderr, "", "nothing else is said about an artifact");
    }
}

#[test]
fn a_stop_text_ends_the_continuation_before_itself() {
    let text = "It is a truth universally acknowledged";
    let said = run(args!["run", artifact(), "-p", text, "-n", "64", "--stop", " idea of"]).ok();
    assert_eq!(said.stdout, ", and I am sure I have not the smallest\n");
}

#[test]
fn the_same_seed_gives_the_same_text_and_another_one_another() {
    let sample = |seed: &str| {
        let options =
            ["-n", "24", "--temp", "0.9", "--top-p", "0.95", "--top-k", "200", "--min-p", "0.01", "--seed", seed];
        let mut command = jetc();
        command.args(args!["run", artifact(), "-p", "Emma was"]).args(options);
        Said::of(command.output().unwrap()).ok().stdout
    };
    assert_eq!(sample("1"), sample("1"));
    assert_ne!(sample("1"), sample("2"));
}

#[test]
fn perplexity_of_the_held_out_text_is_the_official_one() {
    let said = run(args!["quality", artifact(), "--text", austen().join("heldout.txt"), "--json"]).ok();
    let quality = said.json();
    assert_eq!(quality["scored"], 12252);
    let perplexity = quality["perplexity"].as_f64().unwrap();
    assert!((perplexity / 28.014124 - 1.0).abs() < 1e-3, "{perplexity}");
}

#[test]
fn a_model_is_at_no_distance_from_itself() {
    let folder = folder();
    let text = folder.path().join("text.txt");
    std::fs::write(&text, "She was very much in love with him, and he with her.").unwrap();
    let said = run(args!["quality", artifact(), "--text", text, "--against", artifact(), "--json"]).ok();
    let against = &said.json()["against"];
    assert_eq!((against["mean_kl"].as_f64(), against["top1_agreement"].as_f64()), (Some(0.0), Some(1.0)));
}

#[test]
fn directories_are_compiled_into_the_cache_once() {
    let cache = folder();
    let run = || {
        let mut command = jetc();
        command.env("XDG_CACHE_HOME", cache.path()).arg("run").arg(austen());
        command.args(["-p", "It is a truth universally acknowledged", "-n", "8", "--max-context", "256"]);
        Said::of(command.output().unwrap()).ok()
    };
    let first = run();
    assert!(first.stderr.starts_with("compiling "), "{}", first.stderr);
    let second = run();
    assert!(second.stderr.starts_with("using "), "{}", second.stderr);
    assert_eq!((first.stdout.as_str(), second.stdout), (", and I am sure I have not\n", first.stdout.clone()));
    let files = std::fs::read_dir(cache.path().join("jetc")).unwrap().count();
    assert_eq!(files, 1);
}

#[test]
fn inspection_shows_schedule_memory_and_recipe() {
    let said = run(args!["inspect", artifact(), "--schedule", "--memory", "--kernels", "--weights", "--recipe"]).ok();
    for part in ["decode", "prefill", "layers.3.keys", "arena", "max_context"] {
        assert!(said.stdout.contains(part), "{part}:\n{}", said.stdout);
    }
    let json = run(args!["inspect", artifact(), "--json"]).ok().json();
    assert_eq!((json["vocab_size"].as_u64(), json["n_layers"].as_u64()), (Some(2048), Some(8)));
    assert_eq!(json["recipe"]["compile"]["max_context"], 1024);
    for target in json["targets"].as_array().unwrap() {
        let states = target["states"].as_array().unwrap();
        // six jet layers and two of attention, two states each
        assert_eq!(states.len(), 16, "{target}");
        assert!(states.iter().all(|s| s["dtype"] == "f32"), "{target}");
    }
}

#[test]
fn a_benchmark_reports_every_test_in_every_form() {
    let bench = |form: &str| {
        let options = ["-p", "64", "-n", "8", "-d", "0,32", "-b", "1,2", "-r", "2", "-o", form];
        Said::of(jetc().arg("bench").arg(artifact()).args(options).output().unwrap()).ok()
    };
    let json = bench("json").json();
    let tests: Vec<_> =
        json["rows"].as_array().unwrap().iter().map(|r| r["test"].as_str().unwrap().to_string()).collect();
    assert_eq!(tests, ["pp64", "tg8", "tg8 b2", "pp64 @ d32", "tg8 @ d32", "tg8 b2 @ d32"]);
    for row in json["rows"].as_array().unwrap() {
        assert!(row["avg_ts"].as_f64().unwrap() > 0.0 && row["stddev_ts"].as_f64().unwrap() >= 0.0, "{row}");
        assert!(row["gbps"].as_f64().unwrap() > 0.0 && row["gflops"].as_f64().unwrap() > 0.0, "{row}");
    }
    assert!(json["load"]["load_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(bench("csv").stdout.lines().count(), 7);
    assert_eq!(bench("jsonl").stdout.lines().count(), 6);
    assert!(bench("md").stdout.contains("| tg8 b2 @ d32 |"));
}

#[test]
fn a_conversation_continues_as_one_text_would() {
    let folder = folder();
    let model = folder.path().join("chatty");
    std::fs::create_dir(&model).unwrap();
    for entry in std::fs::read_dir(austen()).unwrap().map(|e| e.unwrap()) {
        std::fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
    }
    let template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}";
    std::fs::write(model.join("chat_template.jinja"), template).unwrap();
    let artifact = compile(folder.path(), &model, &["--max-context", "256", "--max-batch", "1"]);
    let options = ["-n", "12", "--stop", "\n"];
    let mut command = jetc();
    command.args(args!["run", artifact, "-i", "--system", "You are Emma.", "-p", "Are you in love?"]).args(options);
    let input = folder.path().join("input.txt");
    std::fs::write(&input, "With whom?\n").unwrap();
    let said = Said::of(command.stdin(std::fs::File::open(&input).unwrap()).output().unwrap()).ok();
    let answers: Vec<_> = said.stdout.lines().collect();
    assert_eq!(answers.len(), 2, "{}", said.stdout);
    let first = "[system] You are Emma.\n[user] Are you in love?\n[assistant] ".to_string();
    let second = format!("{first}{}\n[user] With whom?\n[assistant] ", answers[0]);
    for (prompt, answer) in [(first, answers[0]), (second, answers[1])] {
        let whole = Said::of(jetc().args(args!["run", artifact, "-p", prompt]).args(options).output().unwrap()).ok();
        assert_eq!(whole.stdout.trim_end_matches('\n'), answer);
    }
}

#[test]
fn explanations_name_rules_and_rejected_alternatives() {
    let text = run(args!["explain", artifact(), "mixer_hidden.3"]).ok().stdout;
    for part in ["attention(", "[residual-epilogue]", "rejected", " us  "] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    let json = run(args!["explain", artifact(), "layer_hidden.1", "--phase", "prefill", "--json"]).ok().json();
    assert!(!json["derivations"].as_array().unwrap().is_empty() && !json["regrets"].as_array().unwrap().is_empty());
    let whole = run(args!["explain", austen(), "--json"]).ok().json();
    assert!(whole["results"].as_array().unwrap().iter().any(|r| r == "mixer_hidden.3"));
    let gpu = run(args!["explain", austen(), "mixer_hidden.0", "--target", "sm_90a"]).ok().stdout;
    assert!(gpu.contains("pack_frag(") && gpu.contains(" : bf16"), "{gpu}");
    tiles_of_a_gpu();
    prices_are_for_a_context();
    let absent = run(args!["explain", artifact(), "--target", "sm_90a"]);
    assert!(absent.stderr.contains("--target: found sm_90a, expected one of "), "{}", absent.stderr);
    let unknown = run(args!["explain", artifact(), "layer_hidden.99"]);
    assert_eq!(unknown.code, Some(2));
    assert!(
        unknown.stderr.contains("layer_hidden.99") && unknown.stderr.contains("layer_hidden.1"),
        "{}",
        unknown.stderr
    );
}

/// Every product of a GPU's plan has its tile: in decode of up to 8 rows, then more, in prefill as many as there are columns for.
fn tiles_of_a_gpu() {
    let of = |phase: &str| run(args!["explain", austen(), "--target", "sm_90a", "--phase", phase]).ok().stdout;
    let (decode, prefill) = (of("decode"), of("prefill"));
    let lines = |text: &str, part: &str| text.lines().filter(|l| l.contains(part)).count();
    for (text, kernels) in [(&decode, "product_decode_"), (&prefill, "product_wgmma_")] {
        assert!(lines(text, kernels) >= 8, "{text}");
        assert_eq!(lines(text, " CTAs of "), lines(text, "product_"), "{text}");
    }
    assert!(lines(&decode, " by 8, ") >= 16 && lines(&prefill, "beyond") == 0, "{decode}{prefill}");
}

/// Twice the context is twice the bytes of the caches, and a long one is read in parts by a CPU.
fn prices_are_for_a_context() {
    let of = |context: &str| run(args!["explain", artifact(), "--context", context, "--json"]).ok().json();
    let [none, some, more] = ["1", "21", "41"].map(|n| of(n)["state_bytes"].as_u64().unwrap());
    assert!(some > none && more - some == some - none, "{none} {some} {more}");
    assert!(of("200")["plan_us"].as_f64().unwrap() > of("1")["plan_us"].as_f64().unwrap());
    let said = run(args!["explain", artifact(), "--context", "1000000"]);
    assert!(
        said.code == Some(2) && said.stderr.contains("--context: found 1000000, expected 1 to "),
        "{}",
        said.stderr
    );
    let folder = folder();
    let long = compile(folder.path(), &austen(), &["--max-context", "16384", "--max-batch", "1"]);
    let text = run(args!["explain", long]).ok().stdout;
    assert!(text.contains(", context 16384: ") && text.contains("attention_merge("), "{text}");
}

#[test]
fn machine_and_targets_are_reported() {
    let doctor = run(["doctor", "--json"]).ok().json();
    let target = doctor["cpu_target"].as_str().unwrap();
    assert!(doctor["threads"].as_u64().unwrap() >= 1);
    let targets = run(["targets", "--json"]).ok().json();
    let host: Vec<_> =
        targets.as_array().unwrap().iter().filter(|t| t["host"] == true).map(|t| t["name"].clone()).collect();
    assert!(host.iter().any(|name| name == target), "{host:?}");
    for row in targets.as_array().unwrap() {
        let devices: Vec<_> = row["devices"].as_array().unwrap().iter().map(|d| d.as_str().unwrap()).collect();
        assert_eq!(devices.contains(&"cpu"), row["host"] == true, "{row}");
        assert_eq!(devices.contains(&"ptxsim"), row["backend"] == "ptx", "{row}");
        let everywhere = devices.contains(&"cpu") || devices.contains(&"cuda");
        assert_eq!(row["missing"].is_null(), everywhere, "{row}");
    }
}
