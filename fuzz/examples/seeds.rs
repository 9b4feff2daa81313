//! First inputs for the fuzz targets, from a real log: `seeds BASE DATA OUT`.
//!
//! `DATA` is a stopped cluster with its whole log since `BASE`, a copy of its files made while it was
//! shut down before (best: of a server that ran something of everything). The log is replayed; of
//! every kind of record and block reference the smallest record and page are kept, and the chains of
//! records that made a page of every manager. Fuzzing with `-merge=1` then drops what adds nothing.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use fuzz::Case;
use pgwal::build::Draft;
use pgwal::keys::{Fork, Key, Rel};
use pgwal::layout::segment_name;
use pgwal::{ControlFile, Decoder, Record, effects};
use redo::Postgres;
use types::{Engine, Lsn, Timeline};

const SEGMENT: u32 = 16 << 20;
/// Longer records say nothing that shorter ones of their kind do not.
const BODY_MAX: usize = 8000;
/// Bytes and records of a chain.
const CHAIN: (usize, usize) = (3000, 40);

#[derive(Default)]
struct Seeds {
    pages: HashMap<Key, Vec<u8>>,
    chains: HashMap<Key, Vec<Bytes>>,
    /// Smallest input by target and kind.
    kept: BTreeMap<(&'static str, String), Vec<u8>>,
}

fn read_page(base: &Path, rel: Rel, fork: Fork, block: u32) -> Vec<u8> {
    let dir = match rel.tablespace {
        1664 => "global".to_owned(),
        _ => format!("base/{}", rel.database),
    };
    let path = base.join(dir).join(format!("{}{}", rel.relation, fork.suffix()));
    let at = block as usize * 8192;
    let file = fs::read(path).unwrap_or_default();
    file.get(at..at + 8192).map(<[u8]>::to_vec).unwrap_or_default()
}

/// The record without images that are only there to be compared.
fn bare(record: &Record) -> Bytes {
    let mut draft = Draft::from(record);
    for block in &mut draft.blocks {
        block.image = block.image.take().filter(|image| image.apply);
    }
    draft.encode(record.prev).expect("a real record")
}

impl Seeds {
    fn keep(&mut self, target: &'static str, kind: String, input: Vec<u8>) {
        let kept = self.kept.entry((target, kind)).or_insert_with(|| input.clone());
        if input.len() < kept.len() {
            *kept = input;
        }
    }

    fn apply(&mut self, base: &Path, key: Key, record: &Record, body: &Bytes, kind: &str) {
        let mut page = self.pages.remove(&key).unwrap_or_else(|| match key {
            Key::Block(rel, fork, block) => read_page(base, rel, fork, block),
            _ => Vec::new(),
        });
        let mut before = page.clone();
        before.resize(8192, 0);
        if matches!(key, Key::Block(..)) {
            before[..8].fill(0);
        }
        if body.len() < BODY_MAX {
            let case = Case { body: body.to_vec(), page: before };
            self.keep("redo_page", kind.to_owned(), case.write());
        }
        let encoded = key.encode();
        if Postgres.replaces(&encoded, body) {
            self.chains.insert(key, vec![body.clone()]);
        } else if let Some(chain) = self.chains.get_mut(&key) {
            chain.push(body.clone());
        }
        if let Err(error) = Postgres.apply(&encoded, &mut page, record.span, body) {
            eprintln!("{error}");
        }
        self.pages.insert(key, page);
    }

    fn record(&mut self, base: &Path, record: &Record) {
        let kind = format!("{:02}-{:02x}", record.rmid, record.info);
        let body = bare(record);
        if body.len() < BODY_MAX {
            self.keep("wal_record", kind.clone(), body.to_vec());
        }
        let found = effects(record).expect("a real record");
        if found.state && body.len() < BODY_MAX {
            let page = vec![0; 8192];
            self.keep("server_state", kind.clone(), Case { body: body.to_vec(), page }.write());
        }
        for block in &record.blocks {
            let kind = format!("{kind}-{}-{}", block.id, u8::from(block.will_init));
            let key = Key::Block(block.rel, block.fork, block.block);
            self.apply(base, key, record, &body, &kind);
        }
        for (rel, fork, block) in found.implicit_blocks() {
            let kind = format!("{kind}-{fork:?}");
            self.apply(base, Key::Block(rel, fork, block), record, &body, &kind);
        }
        for (area, page) in found.slru {
            let kind = format!("{kind}-{area:?}");
            self.apply(base, Key::Slru(area, page), record, &body, &kind);
        }
    }

    /// The longest chain of every manager and kind of last record.
    fn chains(&mut self) {
        for chain in std::mem::take(&mut self.chains).into_values() {
            let mut input = Vec::new();
            for body in chain.iter().take(CHAIN.1) {
                if input.len() + body.len() > CHAIN.0 {
                    break;
                }
                input.extend_from_slice(&(body.len() as u16).to_le_bytes());
                input.extend_from_slice(body);
            }
            let kinds: std::collections::BTreeSet<_> =
                chain.iter().map(|body| (body[17], body[16] & 0x70)).collect();
            let name = kinds.iter().map(|(rmid, op)| format!("{rmid:02}{op:02x}"));
            self.keep("redo_chain", name.collect::<Vec<_>>().join("-"), input);
        }
    }
}

fn main() {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [base, data, out] = arguments.as_slice() else { panic!("usage: seeds BASE DATA OUT") };
    let control = fs::read(base.join("global/pg_control")).expect("BASE is a cluster");
    let control_file = ControlFile::decode(&control).expect("a sound pg_control");
    let mut at = control_file.checkpoint;
    let mut decoder = Decoder::new(at, None, SEGMENT, None, Some(Timeline(1)));
    let mut seeds = Seeds::default();
    seeds.keep("control_file", "15".to_owned(), control);
    loop {
        let segment = at.0 / u64::from(SEGMENT);
        let name = segment_name(Timeline(1), segment, SEGMENT);
        let Ok(bytes) = fs::read(data.join("pg_wal").join(name)) else { break };
        let skip = (at.0 % u64::from(SEGMENT)) as usize;
        decoder.feed(at, &bytes[skip..]).expect("contiguous");
        while let Ok(Some(record)) = decoder.next() {
            seeds.record(base, &record);
        }
        at = Lsn((segment + 1) * u64::from(SEGMENT));
    }
    seeds.chains();
    for ((target, kind), input) in &seeds.kept {
        let dir = out.join(target);
        fs::create_dir_all(&dir).expect("OUT can be written");
        fs::write(dir.join(kind), input).expect("OUT can be written");
    }
    println!("{} inputs from the log up to {}", seeds.kept.len(), decoder.position());
}
