//! Mends one segment's damaged blocks with its peers' pages.
//!
//! A peer is believed when it is the very holder that the member set names, whole, complete to the
//! pages' read point, and follows this segment's history or a newer one: what was durable under this one
//! is in every later one, whereas an older one may hold what is void (V8, V10).
//!
//! Where such a peer has forgotten the read point already, it never will have those pages again, and the
//! segment's files are copied from it whole ([`Forgotten`]).

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use link::{Client, LinkError};
use segstore::{Mend, ScanPage};
use types::{Epoch, Holder, Lsn, NodeId, PageKey, SegmentId};
use wire::{Message, Refusal, SegmentReport};

use crate::shared::Shared;

const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes checked at once before a mend.
const CHECKED_BYTES: u64 = 4 << 20;
/// Bytes of pages asked for at once.
const PAGES_BYTES: u32 = 1 << 20;

/// No peer gives the pages, and this one no longer has them as of the read point.
#[derive(Debug)]
pub(crate) struct Forgotten {
    pub(crate) peer: NodeId,
}

impl fmt::Display for Forgotten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has forgotten the read point", self.peer)
    }
}

impl std::error::Error for Forgotten {}

/// Finds all that is damaged in a segment: what a mend's merge met only then would have it begun anew.
pub(crate) fn survey(shared: &Shared, segment: SegmentId) -> anyhow::Result<()> {
    let mut scrub = shared.store.begin_scrub(Some(&|id| id == segment));
    while !shared.stopping() && shared.store.scrub(&mut scrub, CHECKED_BYTES)? {}
    Ok(())
}

/// Gets what is damaged from peers and has background work put it in place. Nothing is done when a mend
/// is under way.
pub(crate) fn mend(shared: &Shared, segment: SegmentId) -> anyhow::Result<()> {
    let Some(mut mend) = shared.store.begin_mend(segment)? else { return Ok(()) };
    match fetch(shared, &mut mend) {
        Ok(pages) => {
            let read_point = mend.read_point();
            shared.store.finish_mend(mend)?;
            tracing::info!(%segment, pages, %read_point, "pages for what is damaged have come");
            Ok(())
        }
        Err(error) => {
            shared.store.abandon_mend(mend)?;
            Err(error)
        }
    }
}

/// Supplies all that is wanted; how many pages that were.
fn fetch(shared: &Shared, mend: &mut Mend) -> anyhow::Result<usize> {
    let mut sources = Sources::new(shared, mend.segment(), mend.read_point())?;
    let mut count = 0;
    while let Some(range) = mend.want() {
        ensure!(!shared.stopping(), "the node is stopping");
        let (pages, next) = sources.scan(&range)?;
        count += pages.len();
        mend.supply(pages, next)?;
    }
    Ok(count)
}

/// The peers that may have what is wanted.
struct Sources<'a> {
    shared: &'a Shared,
    segment: SegmentId,
    read_point: Lsn,
    /// The newest epoch of this segment's own history.
    epoch: Epoch,
    holders: Vec<(Holder, String)>,
    clients: BTreeMap<NodeId, Client>,
}

impl<'a> Sources<'a> {
    fn new(shared: &'a Shared, segment: SegmentId, read_point: Lsn) -> anyhow::Result<Sources<'a>> {
        let me = shared.host.welcome.node;
        let members = shared.store.spec(segment)?.members;
        let others = members.into_iter().filter(|peer| peer.holder.node != me);
        let holders = others.map(|peer| (peer.holder, peer.address)).collect();
        let own = shared.report(segment).context("the segment is not held any more")?;
        let (epoch, clients) = (own.history.last_epoch(), BTreeMap::new());
        Ok(Sources { shared, segment, read_point, epoch, holders, clients })
    }

    /// Pages from the first peer that has them whole; it may end before what is damaged there.
    fn scan(&mut self, range: &Range<PageKey>) -> anyhow::Result<ScanPage> {
        let message = Message::Scan {
            segment: self.segment,
            read_point: self.read_point,
            complete_to: self.read_point,
            from: range.start,
            to: range.end,
            bytes_max: PAGES_BYTES,
        };
        let mut failures = Vec::new();
        for at in 0..self.holders.len() {
            match self.ask(at, &message) {
                Ok(found) => {
                    self.holders.rotate_left(at); // most probably it has the next ones, too
                    return Ok(found);
                }
                Err(error) => {
                    let peer = self.holders.get(at).map(|(holder, _)| holder.node);
                    failures.extend(peer.map(|peer| (peer, error)));
                }
            }
        }
        Err(no_pages(range.start, failures))
    }

    fn ask(&mut self, at: usize, message: &Message) -> anyhow::Result<ScanPage> {
        let (holder, address) = self.holders.get(at).context("a holder")?;
        let holder = *holder;
        let mut client = match self.clients.remove(&holder.node) {
            Some(client) => client,
            None => self.verified(holder, address)?,
        };
        match client.call(message) {
            Ok(Message::Entries { entries, next }) => {
                self.clients.insert(holder.node, client);
                Ok((entries, next))
            }
            Ok(other) => bail!("{} answered with message kind {}", holder.node, other.kind()),
            Err(error) => {
                if error.refusal().is_some() {
                    self.clients.insert(holder.node, client);
                }
                Err(error.into())
            }
        }
    }

    /// A connection to a peer that may be believed.
    fn verified(&self, holder: Holder, address: &str) -> anyhow::Result<Client> {
        let mut client = Client::connect(address, &self.shared.party, TIMEOUT)?;
        let node = client.welcome().node;
        ensure!(node == holder.node, "{node} answers at {address}, not {}", holder.node);
        let segment = self.segment;
        match client.call(&Message::AskReport { segment })? {
            Message::Report { segment: named, report } if named == segment => {
                let unfit = unfit(&report, holder, self.read_point, self.epoch);
                unfit.map_or(Ok(client), |why| bail!("{} {why}", holder.node))
            }
            other => bail!("{node} answered with message kind {} to AskReport", other.kind()),
        }
    }
}

/// What it comes to when every peer has failed.
fn no_pages(from: PageKey, failures: Vec<(NodeId, anyhow::Error)>) -> anyhow::Error {
    let reasons: Vec<String> = failures.iter().map(|(_, error)| format!("{error:#}")).collect();
    let why = format!("no peer has the pages from {from} on whole ({})", reasons.join("; "));
    let forgot = |(peer, error): (NodeId, anyhow::Error)| {
        let refusal = error.downcast_ref::<LinkError>().and_then(LinkError::refusal);
        matches!(refusal, Some(Refusal::Forgotten { .. })).then_some(peer)
    };
    match failures.into_iter().find_map(forgot) {
        Some(peer) => anyhow::Error::new(Forgotten { peer }).context(why),
        None => anyhow::Error::msg(why),
    }
}

/// Why a peer's pages are not to be believed.
fn unfit(
    report: &SegmentReport,
    holder: Holder,
    read_point: Lsn,
    epoch: Epoch,
) -> Option<&'static str> {
    match report {
        _ if report.since != holder.since => Some("has another copy than the member set names"),
        _ if !report.full => Some("is being rebuilt itself"),
        _ if report.scl < read_point => Some("is not complete to the read point"),
        _ if report.history.last_epoch() < epoch => Some("follows an older history"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use types::{EpochStart, History, MembershipEpoch, Span, Timeline};

    use super::*;

    #[test]
    fn a_peer_that_has_forgotten_the_read_point_is_told_when_no_peer_gives_the_pages() {
        let refused = |refusal| LinkError::Refused { peer: "host:1".to_owned(), refusal };
        let behind = refused(Refusal::Behind { scl: Lsn(5), asked: Lsn(9) });
        let forgotten = refused(Refusal::Forgotten { horizon: Lsn(10), asked: Lsn(9) });
        let node = |name: &str| -> NodeId { name.parse().expect("a name") };
        let away = || (node("a2"), anyhow::anyhow!("cannot connect"));
        let told = |failures| {
            let error = no_pages(PageKey::MIN, failures);
            error.downcast_ref::<Forgotten>().map(|found| found.peer)
        };
        assert_eq!(told(vec![away(), (node("b1"), behind.into())]), None, "it may have them later");
        assert_eq!(told(vec![away(), (node("c1"), forgotten.into())]), Some(node("c1")));
    }

    #[test]
    fn only_a_whole_complete_peer_of_this_history_or_a_newer_one_is_believed() {
        let history = |epoch| {
            let entry =
                EpochStart { epoch: Epoch(epoch), begins: Lsn::ZERO, timeline: Timeline(1) };
            History::new(vec![entry]).expect("one entry")
        };
        let holder = Holder { node: "a1".parse().expect("a name"), since: MembershipEpoch(3) };
        let good = SegmentReport {
            scl: Lsn(640),
            sealed: Epoch(5),
            history: history(5),
            vdl: Span::ZERO,
            low_water: Lsn::ZERO,
            watermark: 0,
            membership: MembershipEpoch(4),
            since: MembershipEpoch(3),
            full: true,
        };
        let judge = |report: &SegmentReport| unfit(report, holder, Lsn(640), Epoch(5));
        assert_eq!(judge(&good), None);
        assert_eq!(judge(&SegmentReport { history: history(6), ..good.clone() }), None);
        let bad = [
            SegmentReport { since: MembershipEpoch(2), ..good.clone() },
            SegmentReport { full: false, ..good.clone() },
            SegmentReport { scl: Lsn(639), ..good.clone() },
            SegmentReport { history: history(4), ..good },
        ];
        assert!(bad.iter().all(|report| judge(report).is_some()));
    }
}
