//! A reader loop: connections whose first request was a read live here, away from the log loop.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use link::LinkError;
use wire::{Message, frame};

use crate::lines::{LineId, Lines};
use crate::mail::{Asker, LOG_LOOP, Mail, Post};
use crate::serve::{self, Exports};
use crate::shared::Shared;

/// Bytes of questions read in one turn.
const TURN_BYTES: usize = 256 << 10;

/// One reader loop.
pub(crate) struct Reader {
    at: usize,
    shared: Arc<Shared>,
    lines: Lines,
    post: Post,
    mail: Receiver<Mail>,
    exports: Exports,
}

impl Reader {
    pub(crate) fn new(
        at: usize,
        shared: Arc<Shared>,
        lines: Lines,
        post: Post,
        mail: Receiver<Mail>,
    ) -> Reader {
        Reader { at, shared, lines, post, mail, exports: Exports::new() }
    }

    /// Serves until told to stop.
    pub(crate) fn run(mut self) -> anyhow::Result<()> {
        while !self.shared.stopping() {
            let woken = self.lines.wait(None)?;
            if woken.mail && !self.read_mail() {
                return Ok(());
            }
            let mut asked = Vec::new();
            let ended =
                self.lines.receive(TURN_BYTES, |line, messages| asked.push((line, messages)));
            self.closed(ended);
            for (line, messages) in asked {
                for (request, message) in messages {
                    self.take(line, request, message);
                }
                self.flush(); // one line's answers do not wait for another's pages
            }
            self.flush();
        }
        Ok(())
    }

    fn read_mail(&mut self) -> bool {
        while let Ok(mail) = self.mail.try_recv() {
            match mail {
                Mail::Stop => return false,
                Mail::Handover { line, connection, messages } => {
                    if let Err(error) = self.lines.add(line, *connection) {
                        tracing::warn!(%error, "cannot take a connection over");
                        continue;
                    }
                    for (request, message) in messages {
                        self.take(line, request, message);
                    }
                }
                Mail::Ask { from, message } => {
                    let answer = serve::answer(&self.shared, &mut self.exports, from.line, message);
                    self.answer(from, &answer);
                }
                Mail::Chain { to, job } => {
                    let answer = serve::chain(&self.shared, job);
                    self.answer(to, &answer);
                }
                Mail::Answer { line, bytes } => self.lines.send_bytes(line, bytes),
                Mail::Assigned(_)
                | Mail::Deleted(_)
                | Mail::Hydrated { .. }
                | Mail::NotHydrated { .. }
                | Mail::CopyWhole { .. } => {
                    tracing::error!("a reader loop got the log loop's mail");
                }
            }
        }
        true
    }

    fn take(&mut self, line: LineId, request: u64, message: Message) {
        if serve::is_read(&message) {
            let answer = serve::answer(&self.shared, &mut self.exports, line, message);
            self.lines.send(line, request, &answer);
            return;
        }
        let from = Asker { at: self.at, line, request };
        if !self.post.post(LOG_LOOP, Mail::Ask { from, message }) {
            self.drop_line(line);
        }
    }

    fn answer(&mut self, to: Asker, message: &Message) {
        if to.at == self.at {
            self.lines.send(to.line, to.request, message);
            return;
        }
        let bytes = frame::encode(to.request, message);
        if !self.post.post(to.at, Mail::Answer { line: to.line, bytes }) {
            tracing::warn!(at = to.at, "an answer was lost; its asker will ask again");
        }
    }

    fn drop_line(&mut self, line: LineId) {
        self.lines.remove(line);
        self.exports.retain(|(owner, _), _| *owner != line);
    }

    fn flush(&mut self) {
        let ended = self.lines.flush();
        self.closed(ended);
    }

    fn closed(&mut self, ended: Vec<(LineId, LinkError)>) {
        for (line, error) in ended {
            tracing::debug!(%error, "reader connection ended");
            self.exports.retain(|(owner, _), _| *owner != line);
        }
    }
}
