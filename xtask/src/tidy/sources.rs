//! Checks of one source file: its header, and what a pure crate may not touch.

/// Crates without I/O, clocks, threads or randomness of their own, and without maps whose order
/// differs from run to run.
const PURE: &[&str] = &["types", "quorum", "wire", "pgwal", "redo", "protocol"];
/// What they must not use, and what to do instead.
const IMPURE: &[(&str, &str)] = &[
    ("std::fs", "take the bytes as an argument"),
    ("std::net", "take the bytes as an argument"),
    ("std::process", "return what is to be run"),
    ("std::env", "take the setting as an argument"),
    ("std::thread", "let the shell run it"),
    ("std::time::Instant", "take the time as an argument"),
    ("std::time::SystemTime", "take the time as an argument"),
    ("Instant::now", "take the time as an argument"),
    ("SystemTime::now", "take the time as an argument"),
    ("HashMap", "use BTreeMap: its order is the same in every run"),
    ("HashSet", "use BTreeSet: its order is the same in every run"),
    ("tokio", "return what is to be done"),
];
/// Crates that see disk and clock through `env` only, so that they run on simulated ones.
const THROUGH_ENV: &[&str] = &["segstore"];
const NOT_THROUGH_ENV: &[(&str, &str)] = &[
    ("std::fs", "use env::Disk"),
    ("std::net", "let the node speak"),
    ("Instant::now", "use env::Clock"),
    ("SystemTime::now", "use env::Clock"),
];

/// Complaints about one file.
pub(super) fn check(name: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    if !text.starts_with("//!") {
        complaints.push(format!(
            "{name}: does not begin with `//!`; say the file's one job and its invariants"
        ));
    }
    if silences_without_reason(text) {
        complaints.push(format!(
            "{name}: silences a lint with a bare `allow`; use `expect(lint, reason = \"…\")`, which \
             complains when it is no longer needed, or give `allow` a reason"
        ));
    }
    for (crates, banned) in [(PURE, IMPURE), (THROUGH_ENV, NOT_THROUGH_ENV)] {
        if crates.iter().any(|pure| name.starts_with(&format!("crates/{pure}/src/"))) {
            complaints.extend(forbidden(name, text, banned));
        }
    }
    complaints
}

/// Whether an `allow` attribute gives no reason.
fn silences_without_reason(text: &str) -> bool {
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let line = line.trim_start();
        if line.starts_with("#[allow(") || line.starts_with("#![allow(") {
            let rest = lines.clone().take_while(|_| !line.ends_with(']')).take(4);
            if !line.contains("reason") && !rest.into_iter().any(|line| line.contains("reason")) {
                return true;
            }
        }
    }
    false
}

/// Uses of what is banned, outside comments and tests.
fn forbidden(name: &str, text: &str, banned: &[(&str, &str)]) -> Vec<String> {
    let is_code = |line: &str| !line.trim_start().starts_with("//");
    let lines = text.lines().enumerate().take_while(|(_, line)| !line.starts_with("#[cfg(test)]"));
    let mut complaints = Vec::new();
    for (index, line) in lines.filter(|(_, line)| is_code(line)) {
        let used = banned.iter().filter(|(what, _)| line.contains(what));
        complaints.extend(used.map(|(what, instead)| {
            format!("{name}:{}: uses {what} in a crate that must not; {instead}", index + 1)
        }));
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pure_crate_with_a_clock_is_reported_but_its_tests_and_comments_are_not() {
        let text = "//! Job.\n// std::fs\nlet now = Instant::now();\n#[cfg(test)]\nuse std::fs;\n";
        let complaints = check("crates/protocol/src/x.rs", text);
        assert_eq!(complaints.len(), 1, "{complaints:?}");
        assert!(complaints[0].starts_with("crates/protocol/src/x.rs:3: uses Instant::now"));
        assert!(check("crates/node/src/x.rs", text).is_empty());
    }

    #[test]
    fn a_silenced_lint_needs_a_reason() {
        let with = |attribute| check("crates/node/src/x.rs", &format!("//! Job.\n{attribute}\n"));
        assert_eq!(with("#[allow(dead_code)]").len(), 1);
        assert!(with("#[allow(dead_code, reason = \"x\")]").is_empty());
        assert!(with("#![allow(\n    dead_code,\n    reason = \"x\"\n)]").is_empty());
    }

    #[test]
    fn a_file_without_a_header_is_reported() {
        assert_eq!(check("crates/node/src/x.rs", "fn main() {}\n").len(), 1);
    }
}
