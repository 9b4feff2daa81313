//! A blocking connection: one request at a time, or several in flight from one thread.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::Duration;

use wire::{Decoder, Frame, Message, Welcome, frame};

use crate::error::LinkError;
use crate::party::Party;
use crate::socket;

const READ_BYTES: usize = 64 << 10;

/// A welcomed connection to a node.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    decoder: Decoder,
    scratch: Vec<u8>,
    peer: String,
    welcome: Welcome,
    delay: Duration,
    request: u64,
}

impl Client {
    /// Connects and shakes hands. Each wait, here and in later calls, is at most `timeout`.
    ///
    /// # Errors
    /// When nobody answers in time, or who answers refuses.
    pub fn connect(address: &str, party: &Party, timeout: Duration) -> Result<Client, LinkError> {
        let peer = address.to_owned();
        let io = |what| {
            let peer = peer.clone();
            move |source| LinkError::Io { what, peer, source }
        };
        let target = socket::resolve(address)?;
        let stream =
            TcpStream::connect_timeout(&target, timeout).map_err(io("cannot connect to"))?;
        socket::configure(&stream).map_err(io("cannot set up the connection to"))?;
        stream
            .set_read_timeout(Some(timeout))
            .and_then(|()| stream.set_write_timeout(Some(timeout)))
            .map_err(io("cannot set up the connection to"))?;
        (&stream).write_all(&frame::encode_hello(&party.hello())).map_err(io("cannot greet"))?;
        let mut decoder = Decoder::new();
        let mut scratch = vec![0; READ_BYTES];
        let answer = fill(&stream, &mut decoder, &mut scratch, &peer)?;
        let welcome = match answer {
            Frame::Welcome(welcome) => welcome,
            Frame::Refusal(refusal) => return Err(LinkError::Refused { peer, refusal }),
            _ => return Err(LinkError::Unexpected { peer, what: "a message before its welcome" }),
        };
        decoder.established();
        let delay = party.delay_to(welcome.az);
        Ok(Client { stream, decoder, scratch, peer, welcome, delay, request: 0 })
    }

    /// Who answered.
    #[must_use]
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// Changes the longest wait of each later step.
    ///
    /// # Errors
    /// When the system refuses (a zero timeout).
    pub fn set_timeout(&mut self, timeout: Duration) -> Result<(), LinkError> {
        self.stream
            .set_read_timeout(Some(timeout))
            .and_then(|()| self.stream.set_write_timeout(Some(timeout)))
            .map_err(|source| self.io("cannot set the timeout of", source))
    }

    /// Asks, and waits for the answer to just this request; answers to earlier ones are dropped.
    ///
    /// # Errors
    /// `Refused` when the node declined (the connection stays good); otherwise the connection is
    /// over.
    pub fn call(&mut self, message: &Message) -> Result<Message, LinkError> {
        let request = self.send(message)?;
        self.answer_to(request)
    }

    /// Waits for the answer to this request, sent with [`Client::send`]; answers to others are dropped.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn answer_to(&mut self, request: u64) -> Result<Message, LinkError> {
        loop {
            match self.receive()? {
                (number, _) if number != request => {}
                (_, Message::Refused(refusal)) => {
                    return Err(LinkError::Refused { peer: self.peer.clone(), refusal });
                }
                (_, answer) => return Ok(answer),
            }
        }
    }

    /// Sends without waiting; returns the request's number.
    ///
    /// # Errors
    /// When the connection is over.
    pub fn send(&mut self, message: &Message) -> Result<u64, LinkError> {
        self.request += 1;
        let bytes = frame::encode(self.request, message);
        if !self.delay.is_zero() {
            thread::sleep(self.delay);
        }
        let written = (&self.stream).write_all(&bytes);
        written.map_err(|source| self.io("cannot send to", source))?;
        Ok(self.request)
    }

    /// Waits for the next message, whichever request it answers.
    ///
    /// # Errors
    /// When none comes in time or the connection is over.
    pub fn receive(&mut self) -> Result<(u64, Message), LinkError> {
        match fill(&self.stream, &mut self.decoder, &mut self.scratch, &self.peer)? {
            Frame::Message { request, message } => Ok((request, message)),
            _ => Err(LinkError::Unexpected { peer: self.peer.clone(), what: "a handshake" }),
        }
    }

    fn io(&self, what: &'static str, source: std::io::Error) -> LinkError {
        LinkError::Io { what, peer: self.peer.clone(), source }
    }
}

/// To wait for the first of several to have something to receive.
impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn fill(
    mut stream: &TcpStream,
    decoder: &mut Decoder,
    scratch: &mut [u8],
    peer: &str,
) -> Result<Frame, LinkError> {
    let peer = || peer.to_owned();
    loop {
        let next = decoder.next().map_err(|source| LinkError::Wire { peer: peer(), source })?;
        if let Some(frame) = next {
            return Ok(frame);
        }
        match stream.read(scratch) {
            Ok(0) => return Err(LinkError::Closed { peer: peer() }),
            Ok(count) => decoder.feed(&scratch[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(source) => {
                return Err(LinkError::Io { what: "no answer from", peer: peer(), source });
            }
        }
    }
}
