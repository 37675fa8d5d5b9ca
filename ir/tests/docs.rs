//! The op reference in the repository is that of the table.

use std::path::Path;

#[test]
fn the_op_reference_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/ops.md");
    let written = jet_ir::docs::markdown();
    if std::env::var_os("JETC_BLESS").is_some() {
        std::fs::write(&path, &written).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap();
    assert!(found == written, "docs/ops.md is out of date; run with JETC_BLESS=1 to rewrite it");
}

#[test]
fn every_op_is_documented_and_listed_once() {
    let written = jet_ir::docs::markdown();
    for info in jet_ir::Op::TABLE {
        assert!(info.doc.trim().ends_with('.'), "{}", info.name);
        let rows = written.lines().filter(|line| line.starts_with(&format!("| `{}(", info.name))).count();
        assert_eq!(rows, 1, "{}", info.name);
    }
}
