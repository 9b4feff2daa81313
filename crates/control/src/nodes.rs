//! Segments created at nodes: orders out, confirmations in.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use link::{Client, Party};
use registry::{Member, SegmentPlace};
use types::{
    ClusterId, GroupId, Holder, Incarnation, MembershipEpoch, NodeId, SegmentId, VolumeId,
    WRITE_QUORUM,
};
use wire::{Message, Peer, SegmentSpec, Speaker};

use crate::decide::segment_place;
use crate::state::{GroupRecord, State};

/// Longest wait for the nodes of a new group.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last two may be late once four have answered.
const GRACE: Duration = Duration::from_millis(200);

/// The nodes, as the control plane speaks to them.
pub trait Nodes: Send + Sync {
    /// Orders the node at `address` to hold a segment; returns the life of its disk once it does,
    /// durably. Repeating an order that was carried out changes nothing.
    ///
    /// # Errors
    /// A sentence saying why it does not.
    fn create(
        &self,
        cluster: ClusterId,
        address: &str,
        timeout: Duration,
        spec: SegmentSpec,
    ) -> Result<Incarnation, String>;

    /// Orders the node at `address` to forget its copy of a segment, if that is older than the member
    /// set which took its place away; returns once it has, durably.
    ///
    /// # Errors
    /// A sentence saying why it has not.
    fn forget(
        &self,
        cluster: ClusterId,
        address: &str,
        timeout: Duration,
        segment: SegmentId,
        by: MembershipEpoch,
    ) -> Result<(), String>;
}

/// One node is to hold one segment.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub node: NodeId,
    pub address: String,
    /// The life of its disk as registered when the order was made.
    pub incarnation: Incarnation,
    pub place: SegmentPlace,
}

/// One node holds one segment, in this life of its disk.
#[derive(Clone, Debug)]
pub(crate) struct Confirmed {
    pub node: NodeId,
    pub group: u32,
    pub incarnation: Incarnation,
}

/// Orders for every member of a group.
pub(crate) fn orders(state: &State, volume: VolumeId, group: &GroupRecord) -> Vec<Order> {
    orders_for(state, group.holders().map(|member| (volume, group.id, member.node)))
}

/// Orders for these segments.
pub(crate) fn orders_for(
    state: &State,
    segments: impl Iterator<Item = (VolumeId, u32, NodeId)>,
) -> Vec<Order> {
    let order = |(volume, group, name): (VolumeId, u32, NodeId)| {
        let node = state.nodes.get(&name)?;
        let group = state.volumes.get(&volume)?.all_groups().find(|found| found.id == group)?;
        let member = group.holder(name)?;
        let place = segment_place(state, volume, group, member)?;
        let (address, incarnation) = (node.address.clone(), node.incarnation);
        Some(Order { node: name, address, incarnation, place })
    };
    segments.filter_map(order).collect()
}

/// Carries out one order.
///
/// A node that answers in another life than it was known in is not confirmed: the order's `fresh`
/// may be wrong for it. It registers again, and is asked again.
pub(crate) fn create(
    nodes: &dyn Nodes,
    cluster: ClusterId,
    order: &Order,
) -> Result<Confirmed, String> {
    let place = &order.place;
    let spec = SegmentSpec {
        segment: SegmentId { volume: place.volume, group: GroupId(place.group) },
        membership: MembershipEpoch(place.membership_epoch),
        members: place.members.iter().map(peer).collect(),
        joining: place.joining.iter().map(|joining| peer(&joining.member)).collect(),
        fresh: place.fresh,
    };
    let life = nodes.create(cluster, &order.address, ANSWER_TIMEOUT, spec)?;
    if life != order.incarnation {
        return Err(format!("node {} has come back with another disk meanwhile", order.node));
    }
    Ok(Confirmed { node: order.node, group: place.group, incarnation: life })
}

fn peer(member: &Member) -> Peer {
    let holder = Holder { node: member.node, since: MembershipEpoch(member.since) };
    Peer { holder, address: member.address.clone() }
}

/// Carries out the orders at once; returns when four are confirmed (and a moment later), or when no
/// more can be. One slow node does not hold up the others.
pub(crate) fn create_at_quorum(
    nodes: &Arc<dyn Nodes>,
    cluster: ClusterId,
    orders: Vec<Order>,
) -> Vec<Confirmed> {
    let (send, answers) = mpsc::channel();
    for order in orders {
        let (nodes, send) = (Arc::clone(nodes), send.clone());
        let work = move || {
            let answer = create(&*nodes, cluster, &order);
            if let Err(reason) = &answer {
                tracing::warn!(node = %order.node, group = order.place.group, reason, "segment not created yet");
            }
            // Nobody listens once four have answered; the retry finds out what this one did.
            drop(send.send(answer));
        };
        if let Err(error) = std::thread::Builder::new().name("create".to_owned()).spawn(work) {
            tracing::error!(%error, "cannot start a thread to ask a node");
        }
    }
    drop(send);
    collect(&answers)
}

fn collect(answers: &mpsc::Receiver<Result<Confirmed, String>>) -> Vec<Confirmed> {
    let mut confirmed = Vec::new();
    let mut deadline = Instant::now() + ANSWER_TIMEOUT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match answers.recv_timeout(left) {
            Ok(Ok(one)) => {
                confirmed.push(one);
                if confirmed.len() == WRITE_QUORUM {
                    deadline = deadline.min(Instant::now() + GRACE);
                }
            }
            Ok(Err(_)) => {}
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return confirmed,
        }
    }
}

/// Nodes over the network.
#[derive(Debug)]
pub struct LinkNodes;

impl Nodes for LinkNodes {
    fn create(
        &self,
        cluster: ClusterId,
        address: &str,
        timeout: Duration,
        spec: SegmentSpec,
    ) -> Result<Incarnation, String> {
        order(cluster, address, timeout, &Message::CreateSegment(spec))
    }

    fn forget(
        &self,
        cluster: ClusterId,
        address: &str,
        timeout: Duration,
        segment: SegmentId,
        by: MembershipEpoch,
    ) -> Result<(), String> {
        let message = Message::DropSegment { segment, membership: by };
        order(cluster, address, timeout, &message).map(drop)
    }
}

/// Gives one order; the life of the disk of the node that carried it out.
fn order(
    cluster: ClusterId,
    address: &str,
    timeout: Duration,
    message: &Message,
) -> Result<Incarnation, String> {
    let party = Party { cluster, from: Speaker::Control, az: None, az_latency: Duration::ZERO };
    let mut node = Client::connect(address, &party, timeout).map_err(|e| e.to_string())?;
    match node.call(message).map_err(|e| e.to_string())? {
        Message::Done => Ok(node.welcome().incarnation),
        _ => Err(format!("{address} answered another question")),
    }
}
