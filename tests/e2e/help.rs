//! What the commands say of themselves, as reviewed: `tests/e2e/snapshots`. A changed text fails here until it was looked at;
//! `INSTA_UPDATE=always cargo test --test e2e help` takes the new ones.

use crate::support::*;

/// The names in the list of commands that `jetc --help` prints.
fn commands(help: &str) -> Vec<String> {
    let list = help.lines().skip_while(|l| *l != "Commands:").skip(1).take_while(|l| !l.is_empty());
    // a name stands two spaces in, the rest of a long description further right
    let names = list.filter_map(|l| l.strip_prefix("  ")?.split(' ').next());
    names.filter(|name| !name.is_empty() && *name != "help").map(str::to_string).collect()
}

#[test]
fn help_is_as_reviewed() {
    let help = run(["--help"]).ok().stdout;
    let commands = commands(&help);
    assert!(commands.len() >= 10, "{commands:?}");
    insta::assert_snapshot!("jetc", help);
    for command in commands {
        let help = run([&command, "--help"]).ok().stdout;
        assert!(help.contains("Example"), "{command} --help shows no example");
        insta::assert_snapshot!(command, help);
    }
}
