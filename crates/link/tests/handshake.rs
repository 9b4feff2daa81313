//! A blocking client against an event-loop host over real sockets.

use std::time::{Duration, Instant};

use link::{Client, Connection, Host, LinkError, Party, Received, Sent, letter};
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token};
use types::{ClusterId, Incarnation};
use wire::{Message, Refusal, Speaker, Welcome};

const TIMEOUT: Duration = Duration::from_secs(5);

fn host(cluster: u128, latency: Duration) -> Host {
    Host {
        cluster: ClusterId(cluster),
        welcome: Welcome {
            node: "a1".parse().expect("valid"),
            incarnation: Incarnation(1),
            az: letter(Some("a".parse().expect("valid"))),
        },
        az_latency: latency,
    }
}

fn party(cluster: u128, az: &str, latency: Duration) -> Party {
    let az = Some(az.parse().expect("valid"));
    Party { cluster: ClusterId(cluster), from: Speaker::Control, az, az_latency: latency }
}

/// Answers every message of one guest with itself, until the guest leaves.
fn echo(host: Host) -> (String, std::thread::JoinHandle<Option<LinkError>>) {
    let mut listener =
        TcpListener::bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let thread = std::thread::spawn(move || {
        let mut poll = Poll::new().expect("poll");
        let both = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut listener, Token(0), Interest::READABLE).expect("registered");
        let mut guest: Option<Connection> = None;
        let (mut events, mut scratch) = (Events::with_capacity(8), vec![0; 4096]);
        let mut wait = None;
        loop {
            poll.poll(&mut events, wait).expect("polled");
            for event in &events {
                if event.token() == Token(0) {
                    let (stream, from) = listener.accept().expect("accepted");
                    let mut connection = Connection::accept(stream, from, &host).expect("set up");
                    poll.registry()
                        .register(connection.source(), Token(1), both)
                        .expect("registered");
                    guest = Some(connection);
                }
            }
            let Some(connection) = &mut guest else { continue };
            let closing = events.iter().any(|event| event.is_read_closed());
            let mut messages = Vec::new();
            let end = loop {
                match connection.receive(&mut scratch, closing, &mut messages) {
                    Ok(Received::More) => {}
                    Ok(Received::Drained) => break None,
                    Err(error) => break Some(error),
                }
            };
            messages.iter().for_each(|(request, message)| connection.send(*request, message));
            if let Some(error) = end {
                return Some(error);
            }
            wait = match connection.flush() {
                Ok(Sent::Held(due)) => Some(due.saturating_duration_since(Instant::now())),
                Ok(_) => None,
                Err(error) => return Some(error),
            };
        }
    });
    (address, thread)
}

#[test]
fn a_large_message_goes_there_and_back_and_the_close_is_noticed() {
    let (address, thread) = echo(host(1, Duration::ZERO));
    let mut client =
        Client::connect(&address, &party(1, "b", Duration::ZERO), TIMEOUT).expect("welcome");
    assert_eq!(client.welcome().node.as_str(), "a1");
    let large = Message::Chunk(vec![5; 3 << 20].into());
    assert_eq!(client.call(&large).expect("echoed"), large);
    assert_eq!(client.call(&Message::Done).expect("echoed"), Message::Done);
    drop(client);
    let end = thread.join().expect("no panic");
    assert!(matches!(end, Some(LinkError::Closed { .. })), "{end:?}");
}

#[test]
fn a_guest_of_another_cluster_is_told_so() {
    let (address, thread) = echo(host(1, Duration::ZERO));
    let error = Client::connect(&address, &party(2, "b", Duration::ZERO), TIMEOUT)
        .expect_err("another cluster");
    let expected = Refusal::Cluster { ours: ClusterId(1), theirs: ClusterId(2) };
    assert_eq!(error.refusal(), Some(&expected));
    assert!(matches!(thread.join().expect("no panic"), Some(LinkError::TurnedAway { .. })));
}

#[test]
fn a_round_trip_between_zones_takes_the_latency_and_within_a_zone_does_not() {
    let latency = Duration::from_millis(60);
    for (zone, apart) in [("b", true), ("a", false)] {
        let (address, _thread) = echo(host(1, latency));
        let mut client =
            Client::connect(&address, &party(1, zone, latency), TIMEOUT).expect("welcome");
        let begin = Instant::now();
        client.call(&Message::Done).expect("echoed");
        assert_eq!(begin.elapsed() >= latency, apart, "{:?}", begin.elapsed());
    }
}
