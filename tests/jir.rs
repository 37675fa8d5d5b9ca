//! File tests: every `tests/jir/**/*.jir` is a graph, then sections `// RUN: action arguments` with the expected output as comments.
//!
//! `JETC_BLESS=1 cargo test --test jir` rewrites the expected output. A new action is one row of [`ACTIONS`].

use jet_ir::group::describe;
use jet_ir::{Group, group_kernels, read};
use jet_passes::{Fused, H100, Options, Phase, Roofline, ZEN4_2, listing};
use libtest_mimic::{Arguments, Failed, Trial};
use std::path::{Path, PathBuf};

/// What an action is given.
struct Input<'a> {
    /// Name of the file, for messages.
    file: &'a str,
    /// The text before the first section.
    text: &'a str,
    /// What follows the action's name.
    arguments: &'a str,
}

type Action = fn(&Input) -> String;

/// What a `// RUN:` line can ask for. The output is compared with the comments below the line.
const ACTIONS: &[(&str, Action)] = &[
    ("verify", verify),
    ("print", print),
    ("group", group),
    ("kernels", kernels),
    ("fuse", fuse),
    ("explain", explain),
];

/// `ok`, or every error with its place.
fn verify(input: &Input) -> String {
    match read(input.file, input.text) {
        Ok(_) => "ok".into(),
        Err(errors) => errors.to_string(),
    }
}

/// The graph as it is printed, which reads back as the same graph.
fn print(input: &Input) -> String {
    let graph = match read(input.file, input.text) {
        Ok(graph) => graph,
        Err(errors) => return errors.to_string(),
    };
    let printed = graph.to_string();
    match read("printed", &printed) {
        Ok(again) if again == graph => printed,
        Ok(_) => format!("{printed}\nreads back as another graph"),
        Err(errors) => format!("{printed}\n{errors}"),
    }
}

/// The kernels of a fused graph in the order of launch, each with those that it waits for.
fn group(input: &Input) -> String {
    let graph = match read(input.file, input.text) {
        Ok(graph) => graph,
        Err(errors) => return errors.to_string(),
    };
    match group_kernels(&graph) {
        Ok(groups) => {
            let line =
                |kernel: &Group| format!("{}: {}, after {:?}", kernel.id, describe(&graph, kernel), kernel.after);
            groups.iter().map(line).collect::<Vec<_>>().join("\n")
        }
        Err(error) => error.to_string(),
    }
}

/// The fused graph for a target and phase.
fn fuse(input: &Input) -> String {
    fused(input).map_or_else(|e| e, |fused| fused.graph.to_string())
}

/// The kernels of the fused graph, and what they move.
fn kernels(input: &Input) -> String {
    let print = |fused: Fused| {
        let (before, after) = (fused.report.before, fused.report.after);
        let count = format!("{} kernels of {}", after.kernels, before.kernels);
        let moved = format!("activations {} of {} bytes", after.activation_bytes, before.activation_bytes);
        format!("{count}, {moved}\n{}", listing(&fused))
    };
    fused(input).map_or_else(|e| e, print)
}

fn fused(input: &Input) -> Result<Fused, String> {
    let graph = read(input.file, input.text).map_err(|e| e.to_string())?;
    let fused = jet_passes::fuse(&graph, &model(input.arguments)?, &Options::default()).map_err(|e| e.to_string())?;
    jet_ir::verify(&fused.graph).map_err(|e| e.to_string())?;
    Ok(fused)
}

/// Why the part of the graph that ends in a result is fused as it is: `TARGET PHASE ROWS RESULT`.
fn explain(input: &Input) -> String {
    let (cost, result) = input.arguments.rsplit_once(' ').unwrap_or((input.arguments, ""));
    let explained = || {
        let graph = read(input.file, input.text).map_err(|e| e.to_string())?;
        jet_passes::explain(&graph, result, &model(cost)?, &Options::default()).map_err(|e| e.to_string())
    };
    explained().map_or_else(|e: String| e, |explanation| explanation.to_string())
}

/// The prices of `TARGET PHASE ROWS`.
fn model(text: &str) -> Result<Roofline, String> {
    let words: Vec<&str> = text.split(' ').collect();
    let &[target, phase, rows] = &words[..] else {
        return Err(format!("expected target, phase and rows, found `{text}`"));
    };
    let rows: usize = rows.parse().map_err(|_| format!("expected a number of rows, found `{rows}`"))?;
    let target = match target {
        "zen4" => ZEN4_2,
        "h100" => H100,
        _ => return Err(format!("expected the target zen4 or h100, found `{target}`")),
    };
    match phase {
        "decode" => Ok(Roofline::new(target, Phase::decode(rows, 1024))),
        "prefill" => Ok(Roofline::new(target, Phase::prefill(rows))),
        _ => Err(format!("expected the phase decode or prefill, found `{phase}`")),
    }
}

/// A `// RUN:` line and the comments below it.
struct Section<'a> {
    header: &'a str,
    expected: Vec<&'a str>,
}

const RUN: &str = "// RUN: ";

fn sections(rest: &str) -> Result<Vec<Section<'_>>, String> {
    let mut sections: Vec<Section> = vec![];
    for line in rest.lines().filter(|line| !line.is_empty()) {
        match (line.strip_prefix(RUN), line.strip_prefix("//"), sections.last_mut()) {
            (Some(header), ..) => sections.push(Section { header, expected: vec![] }),
            (None, Some(comment), Some(section)) => section.expected.push(comment.strip_prefix(' ').unwrap_or(comment)),
            _ => return Err(format!("expected only comments below the first `{}`, found `{line}`", RUN.trim())),
        }
    }
    Ok(sections)
}

fn run(path: &Path) -> Result<(), Failed> {
    let whole = std::fs::read_to_string(path)?;
    let file = path.file_name().and_then(|name| name.to_str()).ok_or("expected a file name in UTF-8")?;
    let (text, rest) = whole.split_at(whole.find(RUN).ok_or("expected a line `// RUN: action`")?);
    let (mut blessed, mut wrong) = (text.to_string(), String::new());
    for section in sections(rest)? {
        let (name, arguments) = section.header.split_once(' ').unwrap_or((section.header, ""));
        let action = ACTIONS.iter().find(|(known, _)| *known == name).ok_or_else(|| {
            let known: Vec<&str> = ACTIONS.iter().map(|(known, _)| *known).collect();
            format!("expected an action ({}), found `{name}`", known.join(", "))
        })?;
        let found = (action.1)(&Input { file, text, arguments });
        if !found.lines().eq(section.expected.iter().copied()) {
            wrong += &format!("{name} {arguments}: found\n{found}\nexpected\n{}\n", section.expected.join("\n"));
        }
        blessed += &format!("{RUN}{}\n", section.header);
        found.lines().for_each(|line| blessed += &format!("{}\n", format!("// {line}").trim_end()));
    }
    match wrong.is_empty() {
        true => Ok(()),
        false if std::env::var_os("JETC_BLESS").is_some() => Ok(std::fs::write(path, blessed)?),
        false => Err(wrong.into()),
    }
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("tests/jir is a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "jir") {
            found.push(path);
        }
    }
}

fn main() {
    let arguments = Arguments::from_args();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/jir");
    let mut found = vec![];
    files(&root, &mut found);
    found.sort();
    let trial = |path: PathBuf| {
        let name = path.strip_prefix(&root).unwrap_or(&path).display().to_string();
        Trial::test(name, move || run(&path))
    };
    libtest_mimic::run(&arguments, found.into_iter().map(trial).collect()).exit();
}
