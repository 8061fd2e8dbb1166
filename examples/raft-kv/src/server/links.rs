//! Streams to the other servers: made when there is something to say, and made again when they break or fall silent.

use std::collections::BTreeMap;
use std::time::Duration;

use raft_log::NodeId;

use super::sockets::Sockets;
use super::{Settings, resolve};
use crate::protocol::Hello;

/// How long to wait before a stream is made again.
const RETRY: Duration = Duration::from_millis(20);
/// A stream is given up when nothing has been heard from its server for so long: what was sent may be stuck.
const SILENCE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Link {
    address: String,
    place: Option<(usize, Duration)>,
    not_before: Duration,
    heard: Duration,
}

#[derive(Debug)]
pub(super) struct Links {
    id: NodeId,
    cluster: String,
    address: String,
    all: BTreeMap<NodeId, Link>,
}

impl Links {
    pub(super) fn new(settings: &Settings, known: &[(NodeId, String)]) -> Self {
        let own = settings.peers.get(&settings.id);
        let mut links = Self {
            id: settings.id,
            cluster: settings.cluster.clone(),
            address: own.map_or_else(|| settings.listen.to_string(), Clone::clone),
            all: BTreeMap::new(),
        };
        for (node, address) in &settings.peers {
            links.set(*node, address);
        }
        links.learn(known);
        links
    }

    pub(super) fn set(&mut self, node: NodeId, address: &str) {
        let link = self.all.entry(node).or_default();
        if link.address != address {
            address.clone_into(&mut link.address);
            link.not_before = Duration::ZERO;
        }
    }

    /// What the log says of addresses.
    pub(super) fn learn(&mut self, known: &[(NodeId, String)]) {
        for (node, address) in known {
            self.set(*node, address);
        }
    }

    pub(super) fn address(&self, node: NodeId) -> Option<&str> {
        self.all.get(&node).map(|link| link.address.as_str())
    }

    pub(super) fn addresses(&self) -> Vec<(NodeId, String)> {
        let all = self.all.iter();
        all.map(|(node, link)| (*node, link.address.clone()))
            .collect()
    }

    pub(super) fn heard(&mut self, node: NodeId, now: Duration) {
        if let Some(link) = self.all.get_mut(&node) {
            link.heard = now;
        }
    }

    pub(super) fn lost(&mut self, node: NodeId, now: Duration) {
        if let Some(link) = self.all.get_mut(&node) {
            link.place = None;
            link.not_before = now + RETRY;
        }
    }

    /// Where to say something to `node`, if that can be tried now.
    pub(super) fn connect(
        &mut self,
        node: NodeId,
        now: Duration,
        sockets: &mut Sockets,
    ) -> Option<usize> {
        let link = self.all.get_mut(&node)?;
        if let Some((place, since)) = link.place {
            if now.saturating_sub(link.heard.max(since)) < SILENCE {
                return Some(place);
            }
            sockets.close(place);
            link.place = None;
        }
        if now < link.not_before {
            return None;
        }
        link.not_before = now + RETRY;
        let place = sockets.dial(resolve(&link.address).ok()?, node)?;
        link.place = Some((place, now));
        let hello = Hello::Peer {
            cluster: self.cluster.clone(),
            from: self.id,
            to: node,
            address: self.address.clone(),
        };
        sockets.push(place, &hello);
        Some(place)
    }
}
