//! The network between a cluster's processes, which can be cut, or change what it carries: every storage node and the control plane is
//! reached through a relay, and a relay knows by the system's tables which process calls. What a cut node
//! sends and is sent is thrown away without a word, in both directions, by whichever side it connected;
//! connections that lost something so are closed when it is joined again. Of what it changes it flips one bit.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use anyhow::{Context as _, Result};
use serde_json::Value;

/// Whoever can be called.
const CALLED: [&str; 10] = ["control", "a1", "a2", "a3", "b1", "b2", "b3", "c1", "c2", "c3"];
const BUFFER_BYTES: usize = 64 << 10;

/// See the module's description. It relays as long as this process lives.
#[derive(Debug, Default)]
pub struct Network {
    /// The relays: who is reached, and where.
    relays: Vec<(&'static str, String)>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The cluster's directory, once there is one.
    cluster: OnceLock<PathBuf>,
    cut: Mutex<BTreeSet<String>>,
    /// How many of the next pieces to and from whom are to be changed.
    spoil: Mutex<BTreeMap<String, u32>>,
    calls: Mutex<Vec<Weak<Call>>>,
}

/// One connection through a relay.
#[derive(Debug)]
struct Call {
    from: Option<String>,
    to: &'static str,
    /// The two ends; the further one only if it was connected.
    ends: Vec<TcpStream>,
    /// Something was thrown away: what comes later would not be understood.
    torn: AtomicBool,
    /// Something was changed on the way.
    spoilt: AtomicBool,
}

impl Network {
    /// A relay for everybody who can be called.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn new() -> Result<Arc<Network>> {
        let mut network = Network::default();
        for name in CALLED {
            let listener = TcpListener::bind("127.0.0.1:0").context("a port for a relay")?;
            network.relays.push((name, listener.local_addr()?.to_string()));
            let state = Arc::clone(&network.state);
            std::thread::spawn(move || {
                for caller in listener.incoming().flatten() {
                    if let Err(error) = state.relay(caller, name) {
                        eprintln!("a call to {name} is not relayed: {error:#}");
                    }
                }
            });
        }
        Ok(Arc::new(network))
    }

    /// What `dev up` must be told.
    pub(crate) fn arguments(&self) -> impl Iterator<Item = String> {
        let through = |(name, address): &(&str, String)| format!("--through={name}={address}");
        self.relays.iter().map(through)
    }

    pub(crate) fn set_cluster(&self, dir: PathBuf) {
        self.state.cluster.get_or_init(|| dir);
    }

    /// Cuts a node off from everybody.
    pub fn cut(&self, name: &str) {
        self.state.cut().insert(name.to_owned());
    }

    /// Joins it again.
    pub fn join(&self, name: &str) {
        self.state.cut().remove(name);
        for call in self.state.calls().iter().filter_map(Weak::upgrade) {
            if call.torn.load(Ordering::SeqCst) {
                call.close();
            }
        }
    }

    /// Flips a bit in so many of the next pieces that go over connections to a node, in both directions.
    pub fn spoil(&self, name: &str, pieces: u32) {
        self.state.spoil().insert(name.to_owned(), pieces);
    }

    /// Whether all that was to be spoilt is, and nobody uses a connection on which something was.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let spoilt = |call: Arc<Call>| call.spoilt.load(Ordering::SeqCst);
        let left = self.state.spoil().values().sum::<u32>();
        left == 0 && !self.state.calls().iter().filter_map(Weak::upgrade).any(spoilt)
    }
}

impl State {
    fn calls(&self) -> MutexGuard<'_, Vec<Weak<Call>>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spoil(&self) -> MutexGuard<'_, BTreeMap<String, u32>> {
        self.spoil.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cut(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.cut.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn relay(self: &Arc<State>, caller: TcpStream, to: &'static str) -> Result<()> {
        let dir = self.cluster.get().context("there is no cluster yet")?;
        let from = caller_name(dir, &caller);
        let (torn, spoilt) = Default::default();
        let mut call = Call { from, to, ends: vec![caller], torn, spoilt };
        if self.is_cut(&call) {
            call.torn.store(true, Ordering::SeqCst);
        } else {
            let saved = std::fs::read_to_string(dir.join("dev.json"))?;
            let saved: Value = serde_json::from_str(&saved)?;
            let address = saved["addresses"][to].as_str().context("an address")?;
            let Ok(callee) = TcpStream::connect(address) else { return Ok(()) };
            call.ends.push(callee);
        }
        for end in &call.ends {
            end.set_nodelay(true)?;
        }
        let call = Arc::new(call);
        {
            let mut calls = self.calls();
            calls.retain(|call| call.strong_count() > 0);
            calls.push(Arc::downgrade(&call));
        }
        for at in 0..2 {
            let (state, call) = (Arc::clone(self), Arc::clone(&call));
            std::thread::spawn(move || state.pump(&call, at));
        }
        Ok(())
    }

    fn is_cut(&self, call: &Call) -> bool {
        let cut = self.cut();
        cut.contains(call.to) || call.from.as_ref().is_some_and(|from| cut.contains(from))
    }

    /// Carries bytes from one end to the other, until either is gone.
    fn pump(&self, call: &Call, at: usize) {
        let (Some(mut from), to) = (call.ends.get(at), call.ends.get(1 - at)) else { return };
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let read = from.read(&mut buffer).unwrap_or(0);
            if self.is_cut(call) {
                call.torn.store(true, Ordering::SeqCst);
            }
            match (read, to, call.torn.load(Ordering::SeqCst)) {
                // The other end is not told: it hears of this when the node is joined.
                (0, _, true) if self.is_cut(call) => return,
                (_, _, true) if self.is_cut(call) => {}
                (1.., Some(mut to), false) => {
                    let bytes = buffer.get_mut(..read).unwrap_or_default();
                    self.perhaps_spoil(call, bytes);
                    if to.write_all(bytes).is_err() {
                        return call.close();
                    }
                }
                _ => return call.close(),
            }
        }
    }

    fn perhaps_spoil(&self, call: &Call, bytes: &mut [u8]) {
        let mut spoil = self.spoil();
        let left = spoil.get_mut(call.to).filter(|left| **left > 0);
        let middle = bytes.len() / 2;
        if let (Some(left), Some(byte)) = (left, bytes.get_mut(middle)) {
            *left -= 1;
            *byte ^= 0x10;
            call.spoilt.store(true, Ordering::SeqCst);
        }
    }
}

impl Call {
    fn close(&self) {
        for end in &self.ends {
            // It may be closed already.
            drop(end.shutdown(Shutdown::Both));
        }
    }
}

/// The process of the cluster that holds the other end.
fn caller_name(dir: &std::path::Path, caller: &TcpStream) -> Option<String> {
    let (caller, relay) = (caller.peer_addr().ok()?, caller.local_addr().ok()?);
    let ends = format!("0100007F:{:04X} 0100007F:{:04X}", caller.port(), relay.port());
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let line = table.lines().find(|line| line.contains(&ends))?;
    let socket = PathBuf::from(format!("socket:[{}]", line.split_whitespace().nth(9)?));
    let holds = |pid: &str| {
        let mut open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.any(|file| std::fs::read_link(file.path()).is_ok_and(|target| target == socket))
    };
    for file in std::fs::read_dir(dir.join("run")).ok()?.flatten() {
        let path = file.path();
        let pid = std::fs::read_to_string(&path).unwrap_or_default();
        if path.extension().is_some_and(|end| end == "pid")
            && pid.split(' ').next().is_some_and(holds)
        {
            return Some(path.file_stem()?.to_string_lossy().into_owned());
        }
    }
    None
}
