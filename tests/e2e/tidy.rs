//! The repository's own rules: which crate may import which, how long a file may be, nothing of somebody's machine.

use crate::support::root;
use std::path::{Path, PathBuf};

/// What every crate may import of ours; the package `jetc` composes them all.
const EDGES: &[(&str, &[&str])] = &[
    ("runtime/jetbin", &[]),
    ("runtime/ptxsim", &[]),
    ("runtime/ptxsim/driver", &["jet-ptxsim"]),
    ("ir", &[]),
    ("frontend", &["jet-ir"]),
    ("passes", &["jet-ir"]),
    ("codegen", &["jet-ir", "jetbin"]),
    ("runtime", &["jetbin", "jet-ptxsim"]),
];

fn source_files() -> Vec<PathBuf> {
    let mut out = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap()) {
            let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
            if path.is_dir() && !["target", ".git"].contains(&name.as_str()) {
                folders.push(path);
            } else if path.is_file() {
                out.push(path);
            }
        }
    }
    out.sort();
    out
}

fn with_extension(extensions: &[&str]) -> Vec<(PathBuf, String)> {
    let wanted = |p: &Path| p.extension().and_then(|e| e.to_str()).is_some_and(|e| extensions.contains(&e));
    source_files()
        .into_iter()
        .filter(|p| wanted(p))
        .map(|p| {
            let text = std::fs::read_to_string(&p).unwrap();
            (p.strip_prefix(root()).unwrap().to_path_buf(), text)
        })
        .collect()
}

#[test]
fn crates_import_only_what_they_may() {
    for (folder, allowed) in EDGES {
        let text = std::fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        let manifest: toml::Table = text.parse().unwrap();
        for section in ["dependencies", "build-dependencies"] {
            for name in manifest.get(section).and_then(|d| d.as_table()).into_iter().flat_map(|d| d.keys()) {
                let ours = name.starts_with("jet") && name != "jetc";
                assert!(!ours || allowed.contains(&name.as_str()), "{folder} may not depend on {name}");
            }
        }
    }
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    for (path, text) in with_extension(&["rs"]) {
        let lines = text.lines().count();
        assert!(lines <= 800, "{}: {lines} lines, expected at most 800", path.display());
        assert!(text.starts_with("//!") || text.starts_with("#!"), "{}: expected `//!` first", path.display());
    }
}

#[test]
fn nothing_speaks_of_somebodys_machine_or_of_work_to_do() {
    // Spelled in pieces, so that this file passes its own test.
    let banned = [
        concat!("/ho", "me/"),
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("todo", "!("),
    ];
    for (path, text) in with_extension(&["rs", "md", "toml", "sh"]) {
        for word in banned {
            let line = text.lines().position(|l| l.contains(word));
            assert_eq!(line, None, "{}: line with {word}", path.display());
        }
    }
}

#[test]
fn every_member_of_the_workspace_has_an_edge_in_the_table() {
    let manifest: toml::Table = std::fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    let members: Vec<_> =
        manifest["workspace"]["members"].as_array().unwrap().iter().map(|m| m.as_str().unwrap()).collect();
    let mut known: Vec<_> = EDGES.iter().map(|(folder, _)| *folder).collect();
    let mut found = members.clone();
    found.sort();
    known.sort();
    assert_eq!(found, known);
}

/// Golden data and the example are the bulk of it; a clone should stay quick.
#[test]
fn the_repository_stays_small() {
    let listed = std::process::Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output();
    let tracked: Vec<PathBuf> = match listed {
        Ok(out) if out.status.success() => {
            let names = String::from_utf8(out.stdout).unwrap();
            names.split_terminator('\0').map(|name| root().join(name)).collect()
        }
        // a source archive holds nothing else
        _ => source_files(),
    };
    let bytes: u64 = tracked.iter().filter_map(|path| std::fs::metadata(path).ok()).map(|data| data.len()).sum();
    assert!(bytes > 1 << 20, "found {bytes} bytes, expected the golden data at least");
    assert!(bytes <= 40_000_000, "found {bytes} bytes, expected at most 40 MB");
}
