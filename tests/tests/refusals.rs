//! What must be refused is refused in one clear sentence, and nothing is changed by it.

use std::net::TcpListener;
use std::process::{Command, Output};

use anyhow::{Result, ensure};
use tests::cluster::sixfold_binary;
use tests::{Cluster, Options};

fn expect_refusal(output: &Output, status: i32, words: &[&str]) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr).to_lowercase();
    ensure!(output.status.code() == Some(status), "status {} and: {said}", output.status);
    for word in words {
        ensure!(said.contains(word), "does not mention `{word}`: {said}");
    }
    ensure!(!said.contains("panicked"), "panicked: {said}");
    Ok(())
}

#[test]
fn a_port_in_use_is_named() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port().to_string();
    let output = Command::new(sixfold_binary())
        .args(["dev", "up", "--port", &port, "--dir"])
        .arg(dir.path().join("cluster"))
        .output()?;
    expect_refusal(&output, 1, &["port", &port])
}

#[test]
fn a_missing_postgres_is_named_with_what_to_install() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let output = Command::new(sixfold_binary())
        .args(["dev", "up", "--dir"])
        .arg(dir.path().join("cluster"))
        .env("SIXFOLD_PG_BIN", "/nonexistent")
        .output()?;
    expect_refusal(&output, 1, &["postgresql", "install"])
}

#[test]
fn a_directory_that_is_not_a_cluster_is_left_alone() -> Result<()> {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("precious.txt"), "mine")?;
    let output =
        Command::new(sixfold_binary()).args(["dev", "up", "--dir"]).arg(dir.path()).output()?;
    expect_refusal(&output, 1, &["not", "empty"])?;
    ensure!(std::fs::read_dir(dir.path())?.count() == 1, "something was added");
    Ok(())
}

#[test]
fn settings_that_would_break_a_promise_are_refused_with_the_reason() -> Result<()> {
    for (setting, word) in [
        ("fsync=off", "fsync"),
        ("wal_sync_method=open_sync", "wal_sync_method"),
        ("wal_level=minimal", "wal_level"),
    ] {
        let dir = tempfile::tempdir()?;
        let output = Command::new(sixfold_binary())
            .args(["dev", "up", "--set", setting, "--dir"])
            .arg(dir.path().join("cluster"))
            .output()?;
        expect_refusal(&output, 1, &[word])?;
    }
    Ok(())
}

#[test]
fn two_clusters_do_not_share_a_directory_or_a_node() -> Result<()> {
    let one = Cluster::up(Options::default())?;
    let output = one.try_sixfold(&["dev", "up", "--port", "1"])?;
    expect_refusal(&output, 1, &["already"])?;
    let output = one.try_sixfold(&["dev", "kill", "nobody"])?;
    expect_refusal(&output, 1, &["nobody"])?;
    let output = one.try_sixfold(&["dev", "wipe", "a1"])?;
    expect_refusal(&output, 1, &["a1", "running"])
}

#[test]
fn wrong_usage_ends_with_status_two() -> Result<()> {
    let output = Command::new(sixfold_binary()).args(["dev", "up", "--no-such-flag"]).output()?;
    ensure!(output.status.code() == Some(2));
    Ok(())
}
