//! A stock server starts from a directory laid out from a catalog, at a position of our choice.
//!
//! The volume is a map in memory and every block is laid out in full, so that nothing but the
//! import, the start point and the skeleton is under test: no daemon, no preload library.

#![expect(unsafe_code, reason = "giving up root is a foreign call")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use compute::catalog::{Catalog, file};
use compute::create::Scratch;
use compute::import::import;
use compute::skeleton::{Contents, Skeleton};
use compute::startpoint::{last_checkpoint, start_point};
use compute::supervise::{Server, ServerConfig};
use compute::{settings, skeleton};
use pgwal::ControlFile;
use pgwal::keys::{Fork, Key, Rel, Slru};
use types::{Epoch, EpochStart, GroupId, History, Lsn, PageKey, Span, Timeline};
use wire::Change;

const PG_BIN: &str = "/usr/lib/postgresql/15/bin";

/// PostgreSQL refuses root; the whole test process becomes its usual user.
fn leave_root() {
    // SAFETY: plain foreign calls; the password entry is read before any other call replaces it.
    unsafe {
        if libc::geteuid() == 0 {
            let entry = libc::getpwnam(c"postgres".as_ptr());
            assert!(!entry.is_null(), "a user named postgres is needed");
            assert_eq!(libc::setgid((*entry).pw_gid), 0);
            assert_eq!(libc::setuid((*entry).pw_uid), 0);
        }
    }
}

/// A volume in memory.
#[derive(Default)]
struct Volume {
    pages: BTreeMap<PageKey, Bytes>,
    last: Span,
}

impl Volume {
    fn take(&mut self, record: protocol::Record) {
        assert_eq!(record.prev, self.last.start, "the volume chain is unbroken");
        assert!(record.span.start >= self.last.end);
        self.last = record.span;
        for (_, changes, _) in record.parts {
            for change in changes {
                match change {
                    Change::Put(key, page) => drop(self.pages.insert(key, page)),
                    Change::Delete { from, to } => self.pages.retain(|k, _| *k < from || *k >= to),
                    Change::Apply(key) => panic!("an import applies nothing, but {key}"),
                }
            }
        }
    }

    fn catalog(&self) -> Catalog {
        let mut catalog = Catalog::new(1 << 30, [GroupId(0)]);
        for (key, page) in &self.pages {
            catalog.load(Key::decode(key).expect("a key"), page).expect("loads");
        }
        catalog.loaded();
        catalog
    }

    fn state(&self) -> redo::State {
        redo::State::decode(&self.pages[&Key::State.encode()]).expect("a state")
    }
}

fn imported(directory: &Path) -> Volume {
    let scratch = Scratch::initdb(Path::new(PG_BIN), directory).expect("initdb");
    let (control, span, body) = last_checkpoint(scratch.path()).expect("a clean shutdown");
    let mut volume = Volume::default();
    let mut catalog = Catalog::new(1 << 30, [GroupId(0)]);
    let state = Bytes::from(redo::State::of_control_file(&control).encode());
    let last = import(
        scratch.path(),
        &mut catalog,
        &[GroupId(0)],
        Span::ZERO,
        state,
        (span, body),
        &mut |record| {
            volume.take(record);
            Ok(())
        },
    )
    .expect("imports");
    assert_eq!(last, volume.last);
    assert_eq!(volume.catalog(), catalog, "the mirror equals a scan");
    volume
}

/// Lays out the volume as if its last record were `vdl`, and starts a server on it.
fn start(instance: &Path, volume: &Volume, vdl: Span, history: &History, port: u16) -> Server {
    let catalog = volume.catalog();
    let template = ControlFile::decode(catalog.file(file::CONTROL_TEMPLATE).expect("imported"))
        .expect("a pg_control");
    let state = volume.state();
    let commit_timestamps = state.parameters.track_commit_timestamp;
    let point = start_point(
        &template,
        &state.checkpoint,
        commit_timestamps,
        vdl,
        history,
        5_000,
        1_700_000_000,
    )
    .expect("a start point");
    let laid = Skeleton::begin(instance).expect("an empty directory");
    for (key, page) in &volume.pages {
        if let Some(Key::Slru(slru, number)) = Key::decode(key) {
            laid.slru_page(slru, number, page).expect("an SLRU page");
        }
    }
    let contents = Contents {
        control: point.control,
        wal: point.wal,
        histories: point.histories,
        configuration: settings::configuration(&[]).expect("nothing of the user's"),
        auto_configuration: String::new(),
        authentication: settings::HBA.to_owned(),
    };
    laid.finish(&catalog, &contents, &mut |path, name, blocks| {
        let rel =
            Rel { tablespace: name.tablespace, database: name.database, relation: name.relation };
        let fork = Fork::from_number(name.fork as u8).expect("a fork");
        let mut content = Vec::new();
        for block in 0..blocks {
            let key = Key::Block(rel, fork, name.first_block() + block).encode();
            match volume.pages.get(&key) {
                Some(page) => content.extend_from_slice(page),
                None => content.extend_from_slice(&[0; 8192]),
            }
        }
        skeleton::write_file(path, &content)
    })
    .expect("a skeleton");
    let config = ServerConfig {
        pg_bin: PathBuf::from(PG_BIN),
        shim: None,
        instance: instance.to_owned(),
        listen: "127.0.0.1".to_owned(),
        port,
    };
    let mut server = Server::start(&config).expect("starts");
    server.wait_ready(Duration::from_secs(30), &mut || Ok(())).expect("ready");
    server
}

fn history(entries: &[(u64, Lsn, u32)]) -> History {
    let entries = entries.iter().map(|(epoch, begins, timeline)| EpochStart {
        epoch: Epoch(*epoch),
        begins: *begins,
        timeline: Timeline(*timeline),
    });
    History::new(entries.collect()).expect("ordered")
}

fn question(instance: &Path, port: u16, sql: &str) -> String {
    let config = ServerConfig {
        pg_bin: PathBuf::from(PG_BIN),
        shim: None,
        instance: instance.to_owned(),
        listen: String::new(),
        port,
    };
    let mut client = config.connect().expect("connects");
    client.query_one(sql, &[]).expect("answers").get::<_, String>(0)
}

#[test]
fn a_stock_server_starts_at_any_position_on_exactly_the_new_timeline() {
    leave_root();
    let scratch = tempfile::tempdir().expect("a directory");
    let volume = imported(scratch.path());
    let end = volume.last.end;
    // The durable point as imported; just before a page's end, so that the checkpoint crosses it;
    // on a page's border; on a segment's border; and after epochs that left nothing.
    let page = (end.0 / 8192 + 2) * 8192;
    let segment = (end.0 / (16 << 20) + 1) * (16 << 20);
    let at = |end: u64| Span { start: Lsn(end - 64), end: Lsn(end) };
    let dead =
        |begins: Lsn| history(&[(1, Lsn::ZERO, 1), (2, begins, 2), (3, begins, 3), (4, begins, 4)]);
    let plain = |begins: Lsn| history(&[(1, Lsn::ZERO, 1), (2, begins, 2)]);
    let cases = [
        (volume.last, plain(end), "2"),
        (at(page - 40), plain(Lsn(page - 40)), "2"),
        (at(page), plain(Lsn(page)), "2"),
        (at(segment), dead(Lsn(segment)), "4"),
        (at(segment - 8), plain(Lsn(segment - 8)), "2"),
    ];
    for (index, (vdl, history, timeline)) in cases.into_iter().enumerate() {
        let instance = scratch.path().join(format!("i{index}"));
        fs::create_dir(&instance).expect("a directory");
        let port = 5900 + index as u16;
        let mut server = start(&instance, &volume, vdl, &history, port);
        let ask = |sql: &str| question(&instance, port, sql);
        assert_eq!(ask("SELECT timeline_id::text FROM pg_control_checkpoint()"), timeline);
        assert!(
            ask("SELECT pg_current_xact_id()::text").parse::<u64>().expect("a number") >= 5_000
        );
        assert_eq!(ask("SELECT count(*)::text FROM pg_class WHERE relname = 'pg_class'"), "1");
        server.stop_fast().expect("signalled");
        assert!(server.ended_within(Duration::from_secs(20)), "it stops");
        assert!(server.ended_well());
    }
    let slrus = volume.pages.keys().filter_map(Key::decode);
    assert!(slrus.into_iter().any(|key| matches!(key, Key::Slru(Slru::Xact, 0))));
}
