//! What `dev start` says to the running `dev up`: one line of JSON each way on a socket.
//!
//! The socket is reached through the directory's open descriptor, so a long path does not matter.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::layout::Layout;
use super::member::find;

const SOCKET: &str = "dev.sock";
const TIMEOUT: Duration = Duration::from_secs(10);

/// A wish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Start the member of this name.
    pub start: String,
}

/// The outcome: what was started, or why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub pid: Option<u32>,
    pub error: Option<String>,
}

/// Runs `work` with a short path to the socket.
fn with_path<T>(
    run: &Path,
    work: impl FnOnce(PathBuf) -> std::io::Result<T>,
) -> std::io::Result<T> {
    let dir = std::fs::File::open(run)?;
    work(PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd())))
}

/// Listens for wishes. The lock of the directory is held, so a socket left there is dead.
pub(crate) fn listen(layout: &Layout) -> anyhow::Result<UnixListener> {
    let run = layout.run();
    let path = run.join(SOCKET);
    if path.exists() {
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    let listener = with_path(&run, UnixListener::bind)
        .with_context(|| format!("cannot listen at {}", path.display()))?;
    listener.set_nonblocking(true).context("cannot make the socket non-blocking")?;
    Ok(listener)
}

/// Hears one wish and answers with what `carry_out` does about it.
pub(crate) fn serve(
    stream: &UnixStream,
    carry_out: impl FnOnce(&Request) -> anyhow::Result<u32>,
) -> anyhow::Result<()> {
    stream.set_nonblocking(false).context("cannot make the socket blocking")?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).context("cannot bound the wait")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).context("cannot read the request")?;
    let request: Request = serde_json::from_str(&line).context("not a request")?;
    let answer = match carry_out(&request) {
        Ok(pid) => Answer { pid: Some(pid), error: None },
        Err(error) => Answer { pid: None, error: Some(format!("{error:#}")) },
    };
    let text = serde_json::to_string(&answer).context("an answer is plain values")?;
    (&mut &*stream).write_all(format!("{text}\n").as_bytes()).context("cannot answer")
}

/// `sixfold dev start NAME`.
pub(crate) fn start(layout: &Layout, name: &str) -> anyhow::Result<()> {
    find(&layout.require()?, name)?;
    let not_up = || {
        let dir = layout.dir.display();
        format!("no `sixfold dev up` is running on {dir}; run `sixfold dev up --dir {dir}` first")
    };
    let stream = with_path(&layout.run(), UnixStream::connect).with_context(not_up)?;
    stream.set_read_timeout(Some(TIMEOUT)).context("cannot bound the wait")?;
    let text = serde_json::to_string(&Request { start: name.to_owned() })
        .context("a request is plain values")?;
    (&stream).write_all(format!("{text}\n").as_bytes()).context("cannot ask `dev up`")?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).context("`dev up` does not answer")?;
    let answer: Answer = serde_json::from_str(&line).context("`dev up` answered nonsense")?;
    match answer {
        Answer { error: Some(error), .. } => bail!(error),
        Answer { pid, .. } => {
            println!("started {name} (process {})", pid.unwrap_or(0));
            Ok(())
        }
    }
}
