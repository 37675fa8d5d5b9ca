//! File tests of the kernel IR: each `tests/kir/NAME.kir` says in its first line what to do with it, and `NAME.expected` beside it
//! holds what comes out. `JETC_BLESS=1` rewrites the expectations.
//!
//! - `// print`: the canonical form
//! - `// verify [target]`: what the verifier says, at its place in the file, or `ok`
//! - `// legalise target`: the kernel in the vocabulary of the target
//! - `// clif target`: the legalised kernel as Cranelift gets it
//! - `// ptx target`: the text that is made of the legalised kernel

use jet_codegen::emit::cranelift::clif;
use jet_codegen::kir::{Fault, Place, legalise, parse, verify};
use jet_codegen::{compile, legal, targets::Target};
use libtest_mimic::{Arguments, Failed, Trial};
use std::path::Path;

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kir");
    let entries = std::fs::read_dir(folder).expect("the folder of the file tests");
    let mut files: Vec<_> = entries.map(|e| e.expect("an entry").path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "kir"));
    files.sort();
    assert!(!files.is_empty());
    let trial = |f: &std::path::PathBuf| {
        let (name, f) = (f.file_stem().unwrap_or_default().to_string_lossy().to_string(), f.clone());
        Trial::test(name, move || check(&f))
    };
    libtest_mimic::run(&Arguments::from_args(), files.iter().map(trial).collect()).exit();
}

fn check(file: &Path) -> Result<(), Failed> {
    let (text, expected) = (std::fs::read_to_string(file)?, file.with_extension("expected"));
    let found = output(&text)?;
    if std::env::var_os("JETC_BLESS").is_some_and(|v| v == "1") {
        return Ok(std::fs::write(expected, found)?);
    }
    let wanted = std::fs::read_to_string(&expected).map_err(|e| format!("{}: {e}", expected.display()))?;
    if found == wanted { Ok(()) } else { Err(format!("found\n{found}\nexpected\n{wanted}").into()) }
}

/// What the first line of `text` asks for.
fn output(text: &str) -> Result<String, Failed> {
    let mut words = text.lines().next().and_then(|l| l.strip_prefix("// ")).unwrap_or_default().split(' ');
    let action = words.next().unwrap_or_default();
    let target = words.next().map(|name| Target::named(name).ok_or(format!("no target {name}"))).transpose()?;
    let (kernel, places) = match parse(text) {
        Ok(parsed) => parsed,
        Err(e) => return Ok(format!("{e}\n")),
    };
    let printed = kernel.to_string();
    let (again, _) = parse(&printed)?;
    if again.to_string() != printed {
        return Err(format!("printing again gives\n{again}\ninstead of\n{printed}").into());
    }
    match (action, target) {
        ("print", None) => Ok(printed),
        ("verify", target) => Ok(verify(&kernel, target).map_or_else(|f| located(&f, &places), |()| "ok\n".into())),
        ("legalise", Some(t)) => {
            verify(&kernel, None).map_err(|f| located(&f, &places))?;
            Ok(legalise(&kernel, t).to_string())
        }
        ("clif", Some(t)) => Ok(clif(&legal(&kernel, t)?, t)?),
        ("ptx", Some(t)) => Ok(String::from_utf8(compile(&[kernel], t)?.bytes)?),
        _ => Err(format!("found {action}, expected what to do in the first line").into()),
    }
}

fn located(faults: &[Fault], places: &[Place]) -> String {
    let line = |f: &Fault| match f.inst {
        Some(i) => format!("{}:{}: `{}`: {}\n", places[i].line, places[i].column, f.head, f.message),
        None => format!("{f}\n"),
    };
    faults.iter().map(line).collect()
}
