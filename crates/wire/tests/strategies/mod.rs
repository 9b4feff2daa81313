//! Random values of everything that travels.

use bytes::Bytes;
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use types::*;
use wire::*;

fn lsn() -> impl Strategy<Value = Lsn> {
    prop_oneof![any::<u64>(), 0..10_000u64].prop_map(Lsn)
}

fn span() -> impl Strategy<Value = Span> {
    (lsn(), lsn()).prop_map(|(start, end)| Span { start, end })
}

fn segment() -> impl Strategy<Value = SegmentId> {
    (any::<u128>(), any::<u32>())
        .prop_map(|(volume, group)| SegmentId { volume: VolumeId(volume), group: GroupId(group) })
}

fn node() -> impl Strategy<Value = NodeId> {
    "[a-z0-9-]{1,15}".prop_map(|name| name.parse().expect("follows the rule"))
}

/// Keys that share prefixes, as real ones do, and some that do not.
fn key() -> impl Strategy<Value = PageKey> {
    prop_oneof![
        any::<[u8; 20]>().prop_map(PageKey),
        (0..3u8, any::<u16>()).prop_map(|(relation, block)| {
            let mut key = [7; 20];
            key[12] = relation;
            key[18..].copy_from_slice(&block.to_be_bytes());
            PageKey(key)
        }),
    ]
}

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..300).prop_map(Bytes::from)
}

fn shared() -> impl Strategy<Value = Vec<GroupId>> {
    prop_oneof![
        3 => Just(Vec::new()),
        1 => btree_set(any::<u32>(), 0..6).prop_map(|set| set.into_iter().map(GroupId).collect()),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => key().prop_map(Change::Apply),
        1 => (key(), bytes()).prop_map(|(key, content)| Change::Put(key, content)),
        1 => (key(), key()).prop_map(|(from, to)| Change::Delete { from, to }),
    ]
}

fn meta() -> impl Strategy<Value = PartMeta> {
    (span(), lsn(), shared()).prop_map(|(span, prev, shared)| PartMeta {
        span,
        prev,
        shared: shared.into(),
    })
}

/// A valid batch: spans ascend from the base, each record's predecessor is at or before it.
pub fn batch() -> impl Strategy<Value = Batch> {
    let part = (
        prop_oneof![Just(0u64), 1..64u64, 0..1u64 << 40],
        prop_oneof![1..5000u64, 1..1u64 << 30],
        prop_oneof![Just(None), (0..1000u64).prop_map(Some)],
        shared(),
        vec(change(), 0..5),
        bytes(),
    );
    let header = (segment(), any::<u64>(), any::<u64>(), span(), lsn(), any::<u64>());
    (header, 0..1u64 << 60, vec(part, 0..8)).prop_map(|(header, base, raw)| {
        let (segment, epoch, membership, vdl, low_water, watermark) = header;
        let mut parts: Vec<Part> = Vec::new();
        let mut end = base;
        for (gap, length, back, shared, changes, body) in raw {
            let start = Lsn(end + gap);
            end = start.0 + length;
            let before = parts.last().map(|part| part.meta.span.start);
            let back = back.map(|back| Lsn(start.0.saturating_sub(back)));
            let prev = back.or(before).unwrap_or(Lsn::ZERO);
            let span = Span { start, end: Lsn(end) };
            let meta = PartMeta { span, prev, shared: shared.into() };
            parts.push(Part { meta, changes, body });
        }
        let header = BatchHeader {
            segment,
            epoch: Epoch(epoch),
            membership: MembershipEpoch(membership),
            base: Lsn(base),
            last: Lsn(end),
            vdl,
            low_water,
            watermark,
        };
        Batch { header, parts }
    })
}

fn history() -> impl Strategy<Value = History> {
    (btree_set(any::<u64>(), 0..5), lsn(), any::<u32>()).prop_map(|(epochs, begins, timeline)| {
        let timeline = Timeline(timeline);
        let entry = |epoch| EpochStart { epoch: Epoch(epoch), begins, timeline };
        History::new(epochs.into_iter().map(entry).collect()).expect("a set ascends")
    })
}

fn report() -> impl Strategy<Value = SegmentReport> {
    let marks = (lsn(), any::<u64>(), span(), lsn(), any::<u64>());
    let members = (any::<u64>(), any::<u64>());
    (marks, members, history(), any::<bool>()).prop_map(|(marks, members, history, full)| {
        let (scl, sealed, vdl, low_water, watermark) = marks;
        let (membership, since) = (MembershipEpoch(members.0), MembershipEpoch(members.1));
        let sealed = Epoch(sealed);
        SegmentReport { scl, sealed, history, vdl, low_water, watermark, membership, since, full }
    })
}

pub fn refusal() -> impl Strategy<Value = Refusal> {
    let e = any::<u64>();
    prop_oneof![
        (any::<u16>(), any::<u16>()).prop_map(|(ours, theirs)| Refusal::Version { ours, theirs }),
        (any::<u128>(), any::<u128>()).prop_map(|(ours, theirs)| Refusal::Cluster {
            ours: ClusterId(ours),
            theirs: ClusterId(theirs)
        }),
        (e, e).prop_map(|(asked, current)| Refusal::Fenced {
            asked: Epoch(asked),
            current: Epoch(current)
        }),
        e.prop_map(|epoch| Refusal::NotAdopted { epoch: Epoch(epoch) }),
        segment().prop_map(Refusal::NoSegment),
        segment().prop_map(Refusal::Hydrating),
        (lsn(), lsn()).prop_map(|(scl, asked)| Refusal::Behind { scl, asked }),
        (lsn(), lsn()).prop_map(|(horizon, asked)| Refusal::Forgotten { horizon, asked }),
        ".{0,40}".prop_map(Refusal::Poisoned),
        ".{0,40}".prop_map(Refusal::Damaged),
        ".{0,40}".prop_map(Refusal::Malformed),
        any::<u128>().prop_map(|volume| Refusal::Deleted(VolumeId(volume))),
    ]
}

fn page() -> impl Strategy<Value = PageAnswer> {
    prop_oneof![
        Just(PageAnswer::Absent),
        (lsn(), bytes()).prop_map(|(version, bytes)| PageAnswer::Page { version, bytes }),
        refusal().prop_map(PageAnswer::Failed),
    ]
}

fn log_message() -> impl Strategy<Value = Message> {
    let epoch = || any::<u64>().prop_map(Epoch);
    prop_oneof![
        batch().prop_map(Message::Append),
        (segment(), epoch(), lsn(), any::<u64>(), any::<bool>()).prop_map(
            |(segment, epoch, scl, since, full)| {
                let since = MembershipEpoch(since);
                Message::Ack { segment, epoch, scl, since, full }
            }
        ),
        (segment(), epoch()).prop_map(|(segment, epoch)| Message::Seal { segment, epoch }),
        (segment(), report()).prop_map(|(segment, report)| Message::Report { segment, report }),
        (segment(), epoch(), history(), lsn()).prop_map(|(segment, epoch, history, after)| {
            Message::AskTail { segment, epoch, history, after }
        }),
        (segment(), epoch(), lsn(), lsn(), vec(meta(), 0..9)).prop_map(
            |(segment, history, after, base, parts)| Message::Tail {
                segment,
                history,
                after,
                base,
                parts
            }
        ),
        (segment(), history(), span(), lsn(), node()).prop_map(
            |(segment, history, vdl, until, peer)| Message::Adopt {
                segment,
                history,
                vdl,
                until,
                peer
            }
        ),
        segment().prop_map(|segment| Message::AskReport { segment }),
    ]
}

fn repair_message() -> impl Strategy<Value = Message> {
    prop_oneof![
        (segment(), history(), lsn(), any::<u32>()).prop_map(
            |(segment, history, after, bytes_max)| Message::Pull {
                segment,
                history,
                after,
                bytes_max
            }
        ),
        (segment(), report(), vec(batch(), 0..3))
            .prop_map(|(segment, report, batches)| Message::Fill { segment, report, batches }),
        segment().prop_map(|segment| Message::AskManifest { segment }),
        (segment(), report(), bytes()).prop_map(|(segment, report, manifest)| {
            Message::Manifest { segment, report, manifest }
        }),
        (segment(), any::<u64>(), any::<u64>(), any::<u32>()).prop_map(
            |(segment, file, offset, length)| Message::AskFile { segment, file, offset, length }
        ),
        bytes().prop_map(Message::Chunk),
    ]
}

fn page_message() -> impl Strategy<Value = Message> {
    let read = || (segment(), lsn(), lsn(), vec(key(), 0..6));
    prop_oneof![
        read().prop_map(|(segment, read_point, complete_to, keys)| Message::ReadPages {
            segment,
            read_point,
            complete_to,
            keys
        }),
        vec(page(), 0..5).prop_map(Message::Pages),
        read().prop_map(|(segment, read_point, complete_to, keys)| Message::ReadVersions {
            segment,
            read_point,
            complete_to,
            keys
        }),
        vec(option::of(lsn()), 0..9).prop_map(Message::Versions),
        (segment(), lsn(), lsn(), key(), key(), any::<u32>()).prop_map(
            |(segment, read_point, complete_to, from, to, bytes_max)| Message::Scan {
                segment,
                read_point,
                complete_to,
                from,
                to,
                bytes_max
            }
        ),
        (vec((key(), lsn(), bytes()), 0..5), option::of(key()))
            .prop_map(|(entries, next)| Message::Entries { entries, next }),
    ]
}

fn admin_message() -> impl Strategy<Value = Message> {
    let peer = || {
        (node(), any::<u64>(), "[a-z0-9.:]{0,30}").prop_map(|(node, since, address)| Peer {
            holder: Holder { node, since: MembershipEpoch(since) },
            address,
        })
    };
    let members = || vec(peer(), 0..7);
    let spec = (segment(), any::<u64>(), members(), members(), any::<bool>());
    prop_oneof![
        spec.prop_map(|(segment, membership, members, joining, fresh)| {
            let membership = MembershipEpoch(membership);
            let spec = SegmentSpec { segment, membership, members, joining, fresh };
            Message::CreateSegment(spec)
        }),
        (segment(), any::<u64>()).prop_map(|(segment, membership)| {
            Message::DropSegment { segment, membership: MembershipEpoch(membership) }
        }),
        Just(Message::ListSegments),
        vec((segment(), report()), 0..4).prop_map(Message::Segments),
        Just(Message::Done),
        refusal().prop_map(Message::Refused),
    ]
}

pub fn message() -> impl Strategy<Value = Message> {
    prop_oneof![log_message(), repair_message(), page_message(), admin_message()]
}

pub fn hello() -> impl Strategy<Value = Hello> {
    let speaker = prop_oneof![
        (node(), any::<u128>()).prop_map(|(node, incarnation)| Speaker::Node {
            node,
            incarnation: Incarnation(incarnation)
        }),
        (node(), any::<u128>())
            .prop_map(|(name, volume)| Speaker::Instance { name, volume: VolumeId(volume) }),
        Just(Speaker::Control),
    ];
    (any::<u16>(), any::<u128>(), speaker, any::<u8>()).prop_map(|(version, cluster, from, az)| {
        Hello { version, cluster: ClusterId(cluster), from, az }
    })
}
