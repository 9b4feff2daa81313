//! Nodes over real sockets and disks, driven by hand as a driver would.

mod common;

use common::*;
use types::*;
use wire::*;

#[test]
fn what_is_acknowledged_is_read_and_survives_a_restart() {
    let mut cluster = Cluster::start();
    cluster.open(&all(), &first_epoch(), Span::ZERO, Lsn::ZERO);
    for name in all() {
        // A peer may have brought the second batch already.
        assert!(append(&cluster, name, &batch(1, 0, 5, Span::ZERO)) >= end(4));
        assert_eq!(append(&cluster, name, &batch(1, 5, 8, Span::ZERO)), end(7));
    }
    assert_eq!(read(&cluster, "a1", 0, end(7)), Ok(page(0, 8)));
    assert_eq!(read(&cluster, "a1", 0, end(3)), Ok(page(0, 4)), "an older version");
    assert_eq!(
        read(&cluster, "a1", 0, end(8)),
        Err(Refusal::Behind { scl: end(7), asked: end(8) })
    );
    let metrics = cluster.metrics_text("a1");
    assert!(
        metrics.contains("sixfold_node_batches_total{role=\"node\",name=\"a1\"} 2"),
        "{metrics}"
    );
    cluster.stop_node("a1");
    cluster.start_node("a1");
    let report = cluster.report("a1").expect("restored");
    assert_eq!((report.scl, report.sealed, report.full), (end(7), Epoch(1), true));
    assert_eq!(report.watermark, 708);
    assert_eq!(read(&cluster, "a1", 1, end(7)), Ok(page(1, 8)));
}

#[test]
fn a_connection_carries_reads_and_the_log_in_any_order() {
    let cluster = Cluster::start();
    cluster.open(&all(), &first_epoch(), Span::ZERO, Lsn::ZERO);
    let reads = |upto| Message::ReadPages {
        segment: SEGMENT,
        read_point: upto,
        complete_to: upto,
        keys: vec![key(0)],
    };
    let behind = |answer: Result<Message, link::LinkError>| {
        let error = answer.expect_err("not written yet");
        assert!(matches!(error.refusal(), Some(Refusal::Behind { .. })), "{error}");
    };
    let mut begins_with_read = cluster.connect("b1");
    behind(begins_with_read.call(&reads(end(0))));
    let ack = begins_with_read.call(&Message::Append(batch(1, 0, 1, Span::ZERO)));
    assert!(matches!(ack, Ok(Message::Ack { .. })), "{ack:?}");
    assert!(matches!(begins_with_read.call(&reads(end(0))), Ok(Message::Pages(_))));

    // The first record may have come by gossip; the second is new.
    let mut begins_with_log = cluster.connect("b2");
    let listed = begins_with_log.call(&Message::ListSegments).expect("listed");
    assert!(matches!(&listed, Message::Segments(s) if s.len() == 1), "{listed:?}");
    behind(begins_with_log.call(&reads(end(1))));
    let ack = begins_with_log.call(&Message::Append(batch(1, 0, 2, Span::ZERO)));
    assert!(matches!(ack, Ok(Message::Ack { .. })), "{ack:?}");
    assert!(matches!(begins_with_log.call(&reads(end(1))), Ok(Message::Pages(_))));
}

#[test]
fn many_batches_in_flight_are_acknowledged_by_few_answers() {
    let cluster = Cluster::start();
    cluster.open(&all(), &first_epoch(), Span::ZERO, Lsn::ZERO);
    let mut client = cluster.connect("c1");
    for n in 0..500 {
        client.send(&Message::Append(batch(1, n, n + 1, Span::ZERO))).expect("sent");
    }
    let mut answers = 0;
    loop {
        let (_, answer) = client.receive().expect("answered");
        answers += 1;
        let Message::Ack { scl, .. } = answer else { panic!("not {answer:?}") };
        if scl == end(499) {
            break;
        }
    }
    assert!(answers <= 500);
    assert_eq!(read(&cluster, "c1", 3, end(499)), Ok(page(3, 500)));
}

/// The order to hold may still be on its way when the place is given to another.
#[test]
fn a_hold_order_that_comes_after_the_forget_order_leaves_no_copy() {
    let cluster = Cluster::start();
    let segment = SegmentId { group: GroupId(7), ..SEGMENT };
    let hold = |since| {
        let member = |name: &&'static str| {
            let since = MembershipEpoch(if *name == "a1" { since } else { 1 });
            let address = cluster.address(name).to_owned();
            Peer { holder: Holder { node: id(name), since }, address }
        };
        let (members, membership) = (all().iter().map(member).collect(), MembershipEpoch(since));
        let spec = SegmentSpec { segment, membership, members, joining: Vec::new(), fresh: false };
        cluster.connect("a1").call(&Message::CreateSegment(spec))
    };
    let is_held = || match cluster.connect("a1").call(&Message::ListSegments) {
        Ok(Message::Segments(segments)) => segments.iter().any(|(id, _)| *id == segment),
        other => panic!("segments, not {other:?}"),
    };
    let forget = Message::DropSegment { segment, membership: MembershipEpoch(3) };
    cluster.connect("a1").call(&forget).expect("nothing is held");
    assert!(hold(2).is_err() && !is_held());
    hold(4).expect("the place was given back");
    assert!(is_held());
}

/// Nothing but background work bounds memory and log: who writes faster than it works waits, and no longer.
#[test]
fn a_writer_that_outruns_background_work_waits_for_it_and_goes_on() {
    let store = segstore::Options { flush_total_bytes: 1 << 10, ..Default::default() };
    let cluster = Cluster::start_with(store);
    cluster.open(&all(), &first_epoch(), Span::ZERO, Lsn::ZERO);
    let mut client = cluster.connect("a1");
    for n in 0..2000 {
        let vdl = Span { start: Lsn(64 * n), end: Lsn(64 * (n + 1)) };
        let vdl = if n == 0 { Span::ZERO } else { vdl };
        client.send(&Message::Append(batch(1, n, n + 1, vdl))).expect("sent");
        if n % 100 == 0 {
            // A node looks now and then; what comes all at once it takes all at once.
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
    while !matches!(client.receive(), Ok((_, Message::Ack { scl, .. })) if scl == end(1999)) {}
    assert!(metric(&cluster, "a1", "node_writer_waits_total") > 0);
    assert_eq!(read(&cluster, "a1", 3, end(1999)), Ok(page(3, 2000)));
}

#[test]
fn a_stale_writer_is_refused_with_the_current_epoch() {
    let cluster = Cluster::start();
    cluster.open(&all(), &first_epoch(), Span::ZERO, Lsn::ZERO);
    let mut client = cluster.connect("a2");
    client.call(&Message::Seal { segment: SEGMENT, epoch: Epoch(5) }).expect("sealed");
    let error = client.call(&Message::Append(batch(1, 0, 1, Span::ZERO))).expect_err("fenced");
    let expected = Refusal::Fenced { asked: Epoch(1), current: Epoch(5) };
    assert_eq!(error.refusal(), Some(&expected));
}

#[test]
fn a_node_that_was_down_is_filled_by_its_peers_without_a_writer_or_control() {
    let mut cluster = Cluster::start();
    cluster.open(&all(), &first_epoch(), Span::ZERO, Lsn::ZERO);
    for name in all() {
        append(&cluster, name, &batch(1, 0, 2, Span::ZERO));
    }
    cluster.stop_node("c2");
    for name in &all()[..4] {
        append(&cluster, name, &batch(1, 2, 9, Span::ZERO));
    }
    // Control is gone too: the addresses that c2 remembers are enough.
    cluster.stop_control();
    cluster.start_node("c2");
    for name in ["c1", "c2"] {
        wait_for("filled by gossip", || {
            cluster.report(name).ok().filter(|report| report.scl == end(8))
        });
        assert_eq!(read(&cluster, name, 2, end(8)), Ok(page(2, 9)));
    }
}

#[test]
fn a_gap_is_filled_and_the_held_batch_behind_it_counts() {
    let cluster = Cluster::start();
    cluster.open(&all(), &first_epoch(), Span::ZERO, Lsn::ZERO);
    for name in &all()[..5] {
        append(&cluster, name, &batch(1, 0, 3, Span::ZERO));
    }
    let scl = append(&cluster, "c2", &batch(1, 3, 6, Span::ZERO));
    assert!(scl == Lsn::ZERO || scl == end(5), "held behind the gap, or the gap is filled: {scl}");
    wait_for("the gap is filled", || {
        cluster.report("c2").ok().filter(|report| report.scl == end(5))
    });
}

#[test]
fn a_wiped_node_is_rebuilt_and_serves_once_the_writer_speaks_to_it() {
    let mut cluster = Cluster::start();
    cluster.open(&all(), &first_epoch(), Span::ZERO, Lsn::ZERO);
    for name in all() {
        append(&cluster, name, &batch(1, 0, 40, Span::ZERO));
    }
    cluster.stop_node("b2");
    cluster.wipe("b2");
    cluster.start_node("b2");
    let blank = wait_for("it is created blank", || cluster.report("b2").ok());
    assert!(!blank.full || blank.scl == end(39), "it must not vote before it is rebuilt");
    let vdl = record(39).meta.span;
    wait_for("it is full", || {
        let append = Message::Append(batch(1, 40, 40, vdl));
        // Refused while the node does not know what it promised before: not an error here.
        let answer = cluster.connect("b2").call(&append);
        assert!(answer.is_ok() || answer.is_err_and(|e| e.refusal().is_some()));
        cluster.report("b2").ok().filter(|report| report.full && report.scl == end(39))
    });
    assert_eq!(read(&cluster, "b2", 3, end(39)), Ok(page(3, 40)));
}

const STEP: u64 = 50;
const LAST: u64 = 40 * STEP - 1;

/// A store that has something to do in the background all the time.
fn small() -> segstore::Options {
    segstore::Options {
        log_file_bytes: 256 << 10,
        log_retain_bytes: 0,
        flush_bytes: 64 << 10,
        flush_total_bytes: 256 << 10,
        reserve_bytes: 0,
        ..Default::default()
    }
}

/// A cluster whose logs have been recycled, so that only files tell of the beginning.
fn with_files() -> Cluster {
    let cluster = Cluster::start_with(small());
    cluster.open(&all(), &first_epoch(), Span::ZERO, Lsn::ZERO);
    for name in all() {
        let mut client = cluster.connect(name);
        for from in (0..=LAST).step_by(STEP as usize) {
            let vdl = if from == 0 { Span::ZERO } else { record(from - 1).meta.span };
            let append = Message::Append(heavy_batch(1, from, from + STEP, vdl, 1000));
            client.call(&append).expect("acknowledged");
        }
    }
    for name in all() {
        cluster.connect(name).call(&announcement()).expect("acknowledged");
    }
    // Wait until the beginning of the chain has left the logs.
    let history = first_epoch();
    let pull = Message::Pull { segment: SEGMENT, history, after: Lsn::ZERO, bytes_max: 1 << 20 };
    for name in all() {
        wait_for("the log is recycled", || {
            let error = cluster.connect(name).call(&pull).err()?;
            matches!(error.refusal(), Some(Refusal::Forgotten { .. })).then_some(())
        });
    }
    cluster
}

/// Tells that everything is durable.
fn announcement() -> Message {
    Message::Append(batch(1, LAST + 1, LAST + 1, record(LAST).meta.span))
}

/// Wipes c1, and waits until it has everything again.
fn rebuild_c1(cluster: &mut Cluster) {
    cluster.stop_node("c1");
    cluster.wipe("c1");
    cluster.start_node("c1");
    wait_for("it is full", || {
        let answer = cluster.connect("c1").call(&announcement());
        assert!(answer.is_ok() || answer.is_err_and(|e| e.refusal().is_some()));
        cluster.report("c1").ok().filter(|report| report.full && report.scl == end(LAST))
    });
}

#[test]
fn a_wiped_node_copies_files_where_the_log_is_gone() {
    let mut cluster = with_files();
    rebuild_c1(&mut cluster);
    let never = "sixfold_node_hydrations_total{role=\"node\",name=\"c1\"} 0";
    assert!(!cluster.metrics_text("c1").contains(never), "it was rebuilt without files");
    for block in 0..4 {
        let rebuilt = read(&cluster, "c1", block, end(LAST));
        assert_eq!(rebuilt, read(&cluster, "a1", block, end(LAST)));
        assert!(rebuilt.is_ok_and(|page| page.len() > 400_000));
    }
}

/// The page files of a node's segment.
fn page_files(cluster: &Cluster, name: &str) -> Vec<std::path::PathBuf> {
    let entries = |dir: std::path::PathBuf| {
        let entries = std::fs::read_dir(dir).expect("lists").flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let dirs = entries(cluster.data_dir(name).join("seg")).into_iter();
    let is_file = |path: &std::path::PathBuf| {
        let long = path.metadata().is_ok_and(|found| found.len() > 4096); // not one being begun
        long && path.extension().is_some_and(|ending| ending == "pages")
    };
    dirs.flat_map(entries).filter(is_file).collect()
}

fn flip(path: &std::path::Path, share: f64) {
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::File::options().read(true).write(true).open(path).expect("opens");
    let at = (file.metadata().expect("is there").len() as f64 * share) as u64;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("reads");
    file.write_all_at(&[byte[0] ^ 4], at).expect("writes");
}

/// A node's metric.
fn metric(cluster: &Cluster, node: &str, name: &str) -> u64 {
    let (text, head) = (cluster.metrics_text(node), format!("sixfold_{name}{{"));
    let line = text.lines().find(|line| line.starts_with(&head)).expect("is served");
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
}

#[test]
fn rot_is_found_by_scrubbing_refused_to_readers_and_mended_from_peers() {
    let mut cluster = with_files();
    cluster.scrub_interval(std::time::Duration::from_secs(1));
    for name in ["a1", "b1", "c1"] {
        cluster.stop_node(name);
        page_files(&cluster, name).iter().for_each(|path| flip(path, 0.5));
        cluster.start_node(name);
    }
    for name in ["a1", "b1", "c1"] {
        wait_for("rot is found and mended", || {
            let found = metric(&cluster, name, "node_damage_found");
            let mended = metric(&cluster, name, "node_damage_mended");
            // What is served meanwhile is right.
            for block in 0..4 {
                match read(&cluster, name, block, end(LAST)) {
                    Ok(page) => assert_eq!(Ok(page), read(&cluster, "b2", block, end(LAST))),
                    Err(Refusal::Damaged(_)) => {}
                    Err(refusal) => panic!("{refusal}"),
                }
            }
            let left = metric(&cluster, name, "node_damaged_segments");
            let scrubbed = metric(&cluster, name, "node_scrubs_total") > 2;
            (scrubbed && found > 0 && found == mended && left == 0).then_some(())
        });
        for block in 0..4 {
            let mended = read(&cluster, name, block, end(LAST));
            assert_eq!(mended, read(&cluster, "b2", block, end(LAST)));
        }
        assert!(cluster.report(name).expect("reports").full, "it has kept what it promised");
    }
}

#[test]
fn rot_that_a_read_meets_is_mended_without_waiting_for_a_scrub() {
    let mut cluster = with_files();
    cluster.stop_node("a1");
    for path in page_files(&cluster, "a1") {
        (0..20).for_each(|step| flip(&path, 0.045 * f64::from(step)));
    }
    cluster.start_node("a1");
    assert_eq!(metric(&cluster, "a1", "node_damage_found"), 0);
    wait_for("every page is read", || {
        let whole = |block| match read(&cluster, "a1", block, end(LAST)) {
            Ok(page) => Ok(page) == read(&cluster, "b2", block, end(LAST)),
            Err(Refusal::Damaged(_)) => false,
            Err(refusal) => panic!("{refusal}"),
        };
        (0..4).all(whole).then_some(())
    });
    wait_for("it is counted", || (metric(&cluster, "a1", "node_damage_mended") > 0).then_some(()));
    assert_eq!(metric(&cluster, "a1", "node_scrubs_total"), 0);
}

#[test]
fn a_wiped_node_takes_no_block_of_a_file_that_is_rotten_at_its_peer() {
    let mut cluster = with_files();
    for name in ["a1", "a2", "b1", "c2"] {
        cluster.stop_node(name);
        page_files(&cluster, name).iter().for_each(|path| flip(path, 0.5));
        cluster.start_node(name);
    }
    rebuild_c1(&mut cluster);
    for block in 0..4 {
        let rebuilt = read(&cluster, "c1", block, end(LAST));
        assert!(rebuilt.as_ref().is_ok_and(|page| page.len() > 400_000), "{rebuilt:?}");
        assert_eq!(rebuilt, read(&cluster, "b2", block, end(LAST)));
    }
}

/// A cluster with three records, whose node b1 has been rebuilt on a disk that can be told to fail.
fn with_b1_in_memory(store: segstore::Options) -> (Cluster, std::sync::Arc<env::MemDisk>) {
    let mut cluster = Cluster::start_with(store);
    cluster.open(&all(), &first_epoch(), Span::ZERO, Lsn::ZERO);
    for name in all() {
        append(&cluster, name, &batch(1, 0, 3, Span::ZERO));
    }
    cluster.stop_node("b1");
    let disk = std::sync::Arc::new(env::MemDisk::new());
    cluster.start_node_on("b1", disk.clone());
    wait_for("it is created blank", || cluster.report("b1").ok());
    wait_for("its log is filled", || cluster.report("b1").ok().filter(|r| r.scl == end(2)));
    (cluster, disk)
}

#[test]
fn a_node_whose_disk_fails_acknowledges_nothing_more_and_ends() {
    let (mut cluster, disk) = with_b1_in_memory(small());
    let mut client = cluster.connect("b1");
    disk.set_failing(Some(env::Operation::Write));
    let answer = client.call(&Message::Append(batch(1, 3, 5, Span::ZERO)));
    assert!(
        matches!(answer, Err(link::LinkError::Closed { .. } | link::LinkError::Io { .. })),
        "{answer:?}"
    );
    let why = cluster.wait_for_end("b1");
    assert!(why.contains("hot log cannot be written"), "{why}");
}

#[test]
fn a_node_whose_disk_fails_to_sync_ends_and_has_what_it_acknowledged() {
    for failing in [env::Operation::Sync, env::Operation::SyncDir] {
        let (mut cluster, disk) = with_b1_in_memory(small());
        wait_for("it is full", || {
            append(&cluster, "b1", &batch(1, 3, 3, Span::ZERO));
            cluster.report("b1").ok().filter(|r| r.full)
        });
        let mut client = cluster.connect("b1");
        disk.set_failing(Some(failing));
        let mut acknowledged = end(2);
        let last = (3..1000).find(|n| {
            let batch = heavy_batch(1, *n, n + 1, record(n - 1).meta.span, 4000);
            match client.call(&Message::Append(batch)) {
                Ok(Message::Ack { scl, .. }) => acknowledged = scl,
                Err(error) if error.refusal().is_none() => return true,
                other => panic!("not {other:?}"),
            }
            false
        });
        assert!(last.is_some(), "{failing}: it works on");
        let why = cluster.wait_for_end("b1");
        assert!(why.contains("fail") || why.contains("stopped"), "{why}");
        let left = disk.crash(env::Survive::Nothing);
        left.set_failing(None);
        cluster.start_node_on("b1", std::sync::Arc::new(left));
        let report = cluster.report("b1").expect("restored");
        assert!(report.scl >= acknowledged, "{failing}: {} of {acknowledged}", report.scl);
    }
}

#[test]
fn a_node_with_a_full_disk_acknowledges_nothing_serves_reads_and_goes_on_when_there_is_room() {
    let store = segstore::Options { log_file_bytes: 1 << 20, ..Default::default() };
    let (mut cluster, disk) = with_b1_in_memory(store);
    let announcement = batch(1, 3, 3, Span::ZERO);
    wait_for("it is full", || {
        append(&cluster, "b1", &announcement);
        cluster.report("b1").ok().filter(|r| r.full)
    });
    disk.set_capacity(Some(disk.used_bytes()));
    let is_full = |cluster: &Cluster| {
        cluster.metrics_text("b1").contains("node_disk_full{role=\"node\",name=\"b1\"} 1")
    };
    let mut client = cluster.connect("b1");
    let (mut sent, batches) = (0, 200);
    for n in 0..batches {
        client
            .send(&Message::Append(heavy_batch(1, 3 + n, 4 + n, Span::ZERO, 50_000)))
            .expect("sent");
        sent += 1;
    }
    wait_for("its disk is full", || is_full(&cluster).then_some(()));
    // Long enough for all to have come, and for some to be tried again.
    std::thread::sleep(std::time::Duration::from_secs(1));
    let acknowledged = wait_for("what it acknowledged is told", || {
        let Ok(Message::Segments(told)) = cluster.connect("b1").call(&Message::ListSegments) else {
            return None;
        };
        told.first().map(|(_, report)| report.scl)
    });
    assert!(end(2) <= acknowledged && acknowledged < end(2 + sent), "{acknowledged}");
    let left = disk.crash(env::Survive::Nothing);
    assert_eq!(read(&cluster, "b1", 0, end(0)), Ok(page(0, 1)), "reads go on");
    let beyond = read(&cluster, "b1", 3, end(2 + sent));
    assert!(matches!(beyond, Err(Refusal::Behind { .. })), "{beyond:?}");
    disk.set_capacity(None);
    loop {
        let (_, answer) = client.receive().expect("it is acknowledged by itself");
        let Message::Ack { scl, .. } = answer else { panic!("not {answer:?}") };
        if scl == end(2 + sent) {
            break;
        }
    }
    assert!(!is_full(&cluster));
    cluster.stop_node("b1");
    cluster.start_node_on("b1", disk);
    let report = cluster.report("b1").expect("restored");
    assert_eq!((report.scl, report.full), (end(2 + sent), true), "what it acknowledged is there");
    cluster.stop_node("b1");
    left.set_capacity(None);
    cluster.start_node_on("b1", std::sync::Arc::new(left));
    let report = cluster.report("b1").expect("restored");
    assert!(report.scl >= acknowledged, "it was there while the disk was full, too");
}

#[test]
fn a_directory_of_another_node_is_refused_in_one_sentence() {
    let mut cluster = Cluster::start();
    cluster.stop_node("a1");
    let why = cluster.misplaced("a2", "a1");
    assert!(why.contains("data directory of node a1, not of a2"), "{why}");
}

#[test]
fn a_deleted_volume_leaves_every_disk_and_its_late_batches_are_refused_by_name() {
    let mut cluster = Cluster::start();
    cluster.open(&all(), &first_epoch(), Span::ZERO, Lsn::ZERO);
    for name in all() {
        append(&cluster, name, &batch(1, 0, 5, Span::ZERO));
    }
    let held = wait_for("a1 tells what it holds", || {
        cluster.holds("a1").filter(|held| held.iter().any(|segment| segment.log_bytes > 0))
    });
    assert_eq!(held.len(), 1, "{held:?}");
    let files = |cluster: &Cluster, name: &str| {
        std::fs::read_dir(cluster.data_dir(name).join("seg")).expect("a store").count()
    };
    cluster.stop_node("c2");
    cluster.delete_volume();
    for name in &all()[..5] {
        wait_for("nothing is left", || (files(&cluster, name) == 0).then_some(()));
    }
    // Whoever writes still is told why, and an order that comes late makes nothing.
    let refused = |message: &Message| {
        let error = cluster.connect("a1").call(message).expect_err("deleted");
        assert_eq!(error.refusal(), Some(&Refusal::Deleted(VOLUME)));
    };
    refused(&Message::Append(batch(1, 5, 6, Span::ZERO)));
    let (membership, fresh) = (MembershipEpoch(1), true);
    let peer = |name| wire::Peer {
        holder: types::Holder { node: id(name), since: membership },
        address: cluster.address(name).to_owned(),
    };
    let (members, joining) = (all().into_iter().map(peer).collect(), Vec::new());
    let spec = SegmentSpec { segment: SEGMENT, membership, members, joining, fresh };
    refused(&Message::CreateSegment(spec));
    // One that was away drops it when it is back; one that starts again does not find it.
    assert!(files(&cluster, "c2") > 0);
    cluster.start_node("c2");
    wait_for("nothing is left of what was away", || (files(&cluster, "c2") == 0).then_some(()));
    cluster.stop_node("a1");
    cluster.start_node("a1");
    let error = cluster.report("a1").expect_err("gone");
    assert_eq!(error.refusal(), Some(&Refusal::NoSegment(SEGMENT)));
    wait_for("a1 tells that it holds nothing", || cluster.holds("a1").filter(Vec::is_empty));
}

#[test]
fn garbage_on_a_connection_ends_that_connection_only() {
    use std::io::{Read as _, Write as _};
    let cluster = Cluster::start();
    let mut stream = std::net::TcpStream::connect(cluster.address("a1")).expect("accepted");
    stream.set_read_timeout(Some(std::time::Duration::from_secs(5))).expect("set");
    stream.write_all(&[0x5a; 4096]).expect("sent");
    let mut rest = Vec::new();
    // An orderly close or a reset: either way the node hung up.
    let ended = stream.read_to_end(&mut rest);
    assert!(ended.is_ok() || ended.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset));
    assert!(rest.is_empty());
    assert!(cluster.report("a1").is_ok());
}
