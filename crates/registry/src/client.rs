//! Blocking client of the control plane. Cheap to clone; keeps its connections.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use types::{NodeId, VolumeId};

use crate::check::{CheckProgress, CheckWish};
use crate::error::{Error, Problem};
use crate::model::{
    AddGroup, ControlStatus, CreateVolume, DeleteVolume, Duty, GroupAdded, HeartbeatAnswer,
    InstanceHeartbeat, LimitVolume, NodeInfo, NodeRegistered, NodeRegistration, OpenVolume, Rescue,
    Rescued, SetDuty, Topology, VolumeInfo, VolumeUse, WriterReady,
};

/// Longest wait for an answer. Creating segments waits for nodes, so it is not short.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A control plane at one address.
#[derive(Clone, Debug)]
pub struct Client {
    address: String,
    agent: ureq::Agent,
}

impl Client {
    /// A client of the control plane at `address` (`host:port`). Connects when first used.
    #[must_use]
    pub fn new(address: &str) -> Client {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(ANSWER_TIMEOUT))
            .proxy(None)
            .build();
        Client { address: address.to_owned(), agent: ureq::Agent::new_with_config(config) }
    }

    /// Where it asks.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Introduces a node, and learns its segments.
    ///
    /// # Errors
    /// `Mismatch` when the name, zone or disk belongs elsewhere.
    pub fn register_node(&self, node: &NodeRegistration) -> Result<NodeRegistered, Error> {
        self.post("/nodes", node)
    }

    /// Says what a node is for: its segments stay, move away, or are rebuilt elsewhere.
    ///
    /// # Errors
    /// `NotFound`, or `TooFewNodes` when its zone has no other node that could take them.
    pub fn set_duty(&self, node: NodeId, duty: Duty) -> Result<NodeInfo, Error> {
        self.post(&format!("/nodes/{node}/duty"), &SetDuty { duty })
    }

    /// Asks for members in the place of silent ones, for an opening that cannot go on.
    ///
    /// # Errors
    /// `Fenced` when the epoch is over.
    pub fn rescue(&self, volume: VolumeId, wish: &Rescue) -> Result<Rescued, Error> {
        self.post(&format!("/volumes/{volume}/rescue"), wish)
    }

    /// The cluster and its nodes.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn topology(&self) -> Result<Topology, Error> {
        self.get("/topology")
    }

    /// Creates a volume, or returns the one of this name.
    ///
    /// # Errors
    /// `TooFewNodes` until six nodes, two in each of three zones, are registered and four answer.
    pub fn create_volume(&self, wish: &CreateVolume) -> Result<VolumeInfo, Error> {
        self.post("/volumes", wish)
    }

    /// All volumes, by name.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn volumes(&self) -> Result<Vec<VolumeInfo>, Error> {
        self.get("/volumes")
    }

    /// One volume.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn volume(&self, volume: VolumeId) -> Result<VolumeInfo, Error> {
        self.get(&format!("/volumes/{volume}"))
    }

    /// What a volume takes, a deleted one too.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn volume_use(&self, volume: VolumeId) -> Result<VolumeUse, Error> {
        self.get(&format!("/volumes/{volume}/use"))
    }

    /// Deletes a volume for ever; its nodes drop it as they hear of it. Deleting it again changes
    /// nothing.
    ///
    /// # Errors
    /// `InUse` while a writer has it open, unless forced.
    pub fn delete_volume(&self, volume: VolumeId, wish: &DeleteVolume) -> Result<VolumeUse, Error> {
        self.post(&format!("/volumes/{volume}/delete"), wish)
    }

    /// Gives a volume another limit; its writer follows within a second or two.
    ///
    /// # Errors
    /// `Invalid` when it is too small for any database.
    pub fn limit_volume(&self, volume: VolumeId, wish: &LimitVolume) -> Result<VolumeInfo, Error> {
        self.post(&format!("/volumes/{volume}/limit"), wish)
    }

    /// Raises the volume's epoch; the answer's `epoch` is the caller's own.
    ///
    /// # Errors
    /// `Changed` when an expected epoch was given and is not the current one.
    pub fn open_volume(&self, volume: VolumeId, wish: &OpenVolume) -> Result<VolumeInfo, Error> {
        self.post(&format!("/volumes/{volume}/open"), wish)
    }

    /// Tells that the writer of this epoch works.
    ///
    /// # Errors
    /// `Fenced` when the epoch is over.
    pub fn writer_ready(&self, volume: VolumeId, ready: &WriterReady) -> Result<VolumeInfo, Error> {
        self.post(&format!("/volumes/{volume}/ready"), ready)
    }

    /// Records the timeline of the writer of this epoch without declaring it ready.
    ///
    /// # Errors
    /// `Fenced` when the epoch is over.
    pub fn set_timeline(&self, volume: VolumeId, ready: &WriterReady) -> Result<VolumeInfo, Error> {
        self.post(&format!("/volumes/{volume}/timeline"), ready)
    }

    /// Adds a group; returns when at least four nodes hold it.
    ///
    /// # Errors
    /// `Fenced`, `Changed`, or `TooFewNodes` (ask again: the same group is tried).
    pub fn add_group(&self, volume: VolumeId, wish: &AddGroup) -> Result<GroupAdded, Error> {
        self.post(&format!("/volumes/{volume}/groups"), wish)
    }

    /// Tells that an instance lives.
    ///
    /// # Errors
    /// `NotFound` when the volume is not this cluster's.
    pub fn heartbeat(&self, instance: &InstanceHeartbeat) -> Result<HeartbeatAnswer, Error> {
        self.post("/instances", instance)
    }

    /// Everything at once.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn status(&self) -> Result<ControlStatus, Error> {
        self.get("/status")
    }

    fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, Error> {
        let answer = self.agent.get(self.url(path)).call();
        self.read(path, answer)
    }

    /// Has the node whose HTTP address this is check what it stores, at once.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn begin_check(&self, wish: &CheckWish) -> Result<CheckProgress, Error> {
        self.post("/check", wish)
    }

    /// How far it is.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn check_progress(&self) -> Result<CheckProgress, Error> {
        self.get("/check")
    }

    fn post<A: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<A, Error> {
        let answer = self.agent.post(self.url(path)).send_json(body);
        self.read(path, answer)
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn read<A: DeserializeOwned>(
        &self,
        path: &str,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<A, Error> {
        let unreachable = |error: &dyn std::fmt::Display| Error::Unreachable {
            address: self.address.clone(),
            reason: error.to_string(),
        };
        let foreign = |reason: String| Error::Foreign { address: self.address.clone(), reason };
        let mut answer = answer.map_err(|error| unreachable(&error))?;
        let status = answer.status();
        let body = answer.body_mut().read_to_string().map_err(|error| unreachable(&error))?;
        if status.is_success() {
            return serde_json::from_str(&body)
                .map_err(|error| foreign(format!("{path}: {error}")));
        }
        match serde_json::from_str::<Problem>(&body) {
            Ok(problem) => Err(Error::Refused(problem)),
            Err(_) => Err(foreign(format!("{path} answered {status}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_address_is_unreachable_and_temporary() {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let error = Client::new(&format!("127.0.0.1:{port}")).topology().expect_err("nobody there");
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
        assert!(error.is_temporary());
    }

    #[test]
    fn identities_travel_as_text_and_come_back() {
        let place = crate::SegmentPlace {
            volume: VolumeId(0xabc),
            group: 3,
            membership_epoch: 1,
            members: vec![crate::Member {
                node: "a1".parse().expect("valid"),
                az: "a".parse().expect("valid"),
                address: "127.0.0.1:1".to_owned(),
                incarnation: types::Incarnation(9),
                since: 1,
            }],
            joining: Vec::new(),
            fresh: true,
        };
        let json = serde_json::to_value(&place).expect("serializable");
        assert_eq!(json["volume"], "00000000000000000000000000000abc");
        assert_eq!(json["members"][0]["az"], "a");
        assert_eq!(serde_json::from_value::<crate::SegmentPlace>(json).expect("back"), place);
    }
}
