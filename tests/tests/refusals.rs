//! What must be refused is refused in one clear sentence, and nothing is changed by it.

use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::cluster::{PATIENCE, sixfold_binary, wait_for_exit};
use tests::{Cluster, Options, SmallDisk};

fn expect_refusal(output: &Output, status: i32, words: &[&str]) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr).to_lowercase();
    ensure!(output.status.code() == Some(status), "status {} and: {said}", output.status);
    for word in words {
        ensure!(said.contains(word), "does not mention `{word}`: {said}");
    }
    ensure!(!said.contains("panicked"), "panicked: {said}");
    Ok(())
}

/// Runs a command that is to end by itself, and does not wait for ever when it does not.
fn run_to_its_end(command: &mut Command) -> Result<Output> {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    if let Err(error) = wait_for_exit(&mut child, PATIENCE) {
        child.kill()?;
        let said = String::from_utf8_lossy(&child.wait_with_output()?.stderr).into_owned();
        return Err(error.context(said));
    }
    Ok(child.wait_with_output()?)
}

fn dev_up(dir: &Path) -> Command {
    let mut command = Command::new(sixfold_binary());
    command.args(["dev", "up", "--port", "1", "--dir"]).arg(dir);
    command
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("ending a process: {error}");
        }
    }
}

/// A control plane alone, its log in `log`; comes back when it answers, with its address.
fn control_plane(dir: &Path, log: File) -> Result<(Running, String)> {
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let child = Command::new(sixfold_binary())
        .args(["control", "--listen", &address, "--dir"])
        .arg(dir)
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()?;
    let (mut control, begun) = (Running(child), Instant::now());
    while TcpStream::connect(&address).is_err() {
        let ended = control.0.try_wait()?;
        ensure!(ended.is_none() && begun.elapsed() < PATIENCE, "no answer; it ended: {ended:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok((control, address))
}

#[test]
fn a_cluster_does_not_begin_on_a_disk_without_room_and_says_so() -> Result<()> {
    let Some(disk) = SmallDisk::mount(64)? else { return Ok(()) };
    let output = run_to_its_end(&mut dev_up(&disk.path().join("cluster")))?;
    let place = disk.path().to_string_lossy().into_owned();
    expect_refusal(&output, 1, &["room", "a new cluster", &place.to_lowercase(), "64 mb"])?;
    disk.fill(true)?;
    let output = run_to_its_end(&mut dev_up(&disk.path().join("cluster")))?;
    expect_refusal(&output, 1, &["room", "a new cluster", "0 mb"])?;
    let output = run_to_its_end(
        Command::new(sixfold_binary())
            .args(["control", "--listen", "127.0.0.1:0", "--dir"])
            .arg(disk.path().join("control")),
    )?;
    expect_refusal(&output, 1, &["room", "control plane", "0 mb"])?;
    // Nothing of the attempts stands in the way of a better one.
    ensure!(!disk.path().join("cluster/dev.json").exists(), "a cluster was noted");
    ensure!(!disk.path().join("control/control.redb").exists(), "a store was begun");
    Ok(())
}

#[test]
fn a_node_does_not_begin_on_a_disk_without_room_and_says_so() -> Result<()> {
    let Some(disk) = SmallDisk::mount(64)? else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    let (_control, address) = control_plane(dir.path(), File::create(dir.path().join("log"))?)?;
    let output = run_to_its_end(
        Command::new(sixfold_binary())
            .args(["node", "--name", "a1", "--az", "a", "--listen", "127.0.0.1:0"])
            .args(["--control", &address, "--dir"])
            .arg(disk.path().join("a1")),
    )?;
    expect_refusal(&output, 1, &["room", "node a1", "64 mb"])
}

#[test]
fn an_instance_without_room_leaves_the_volume_to_the_writer_that_has() -> Result<()> {
    let Some(disk) = SmallDisk::mount(32)? else { return Ok(()) };
    let cluster = Cluster::up(Options::default())?;
    let epoch = |status: serde_json::Value| status["volume"]["epoch"].as_u64().context("epoch");
    let before = epoch(cluster.status()?)?;
    let output = run_to_its_end(
        Command::new(sixfold_binary())
            .args(["compute", "--name", "writer-2", "--control", &cluster.control_address()?])
            .args(["--port", "1", "--dir"])
            .arg(disk.path().join("instance")),
    )?;
    expect_refusal(&output, 1, &["room", "an instance"])?;
    ensure!(epoch(cluster.status()?)? == before, "it opened the volume all the same");
    cluster.connect()?.batch_execute("create table still(here int)")?;
    Ok(())
}

#[test]
fn a_log_that_cannot_be_written_ends_no_process() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let full = File::options().write(true).open("/dev/full")?;
    let (mut control, address) = control_plane(dir.path(), full)?;
    // It logs as it starts and, since this is no question, again.
    std::io::Write::write_all(&mut TcpStream::connect(&address)?, b"nonsense\r\n\r\n")?;
    std::thread::sleep(Duration::from_millis(500));
    ensure!(control.0.try_wait()?.is_none(), "it ended");
    TcpStream::connect(&address).context("it no longer answers").map(drop)
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
