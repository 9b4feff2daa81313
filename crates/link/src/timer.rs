//! A timer for an event loop, finer than the poll's own milliseconds: what the delay between zones
//! is measured with.
//!
//! Each arming replaces the one before and raises a new event; there is nothing to read.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// The timer; register it for reading.
#[derive(Debug)]
pub struct DueTimer {
    timer: OwnedFd,
    armed: Option<Instant>,
}

impl DueTimer {
    /// A timer that is not armed.
    ///
    /// # Errors
    /// When the system has no more descriptors.
    pub fn new() -> io::Result<DueTimer> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(DueTimer { timer, armed: None })
    }

    /// Raises an event at `due`; at once when that is past. Arming for the same instant is free.
    ///
    /// # Errors
    /// Never, as far as the system's manual tells.
    pub fn arm(&mut self, due: Instant) -> io::Result<()> {
        if self.armed == Some(due) {
            return Ok(());
        }
        // Zero would disarm.
        let wait = due.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let value = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: wait.subsec_nanos().into(),
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        self.armed = Some(due);
        Ok(())
    }
}

impl Source for DueTimer {
    fn register(&mut self, with: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        SourceFd(&self.timer.as_raw_fd()).register(with, token, interest)
    }

    fn reregister(&mut self, with: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        SourceFd(&self.timer.as_raw_fd()).reregister(with, token, interest)
    }

    fn deregister(&mut self, with: &Registry) -> io::Result<()> {
        SourceFd(&self.timer.as_raw_fd()).deregister(with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Events, Poll};

    #[test]
    fn each_arming_raises_one_event_in_time_without_a_read() {
        let mut poll = Poll::new().expect("poll");
        let mut events = Events::with_capacity(4);
        let mut timer = DueTimer::new().expect("timer");
        poll.registry().register(&mut timer, Token(7), Interest::READABLE).expect("registered");
        for _ in 0..3 {
            let due = Instant::now() + Duration::from_micros(1500);
            timer.arm(due).expect("armed");
            poll.poll(&mut events, Some(Duration::from_secs(5))).expect("polled");
            assert_eq!(events.iter().map(|event| event.token()).collect::<Vec<_>>(), [Token(7)]);
            assert!(Instant::now() >= due);
        }
        poll.poll(&mut events, Some(Duration::from_millis(5))).expect("polled");
        assert!(events.is_empty());
    }
}
