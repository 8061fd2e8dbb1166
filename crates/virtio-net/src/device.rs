//! The device: its configuration and its three queues.

use virtqueue::vm_memory::GuestMemory;
use virtqueue::{Chain, DeviceQueue, Fault, Head, Notify, Pending, QueueError, Ring};

use crate::checksum::is_sound;
use crate::control::{Ack, Filter};
use crate::features::NetFeatures;
use crate::header::{Header, LENGTH};
use crate::offload::finish;

/// A network device without a transport: the queues are the transport's, and are lent for each call.
///
/// Queue 0 receives, 1 transmits, 2 controls (5.1.2).
#[derive(Debug)]
pub struct VirtioNet {
    mac: [u8; 6],
    offered: NetFeatures,
    pub(crate) features: NetFeatures,
    pub(crate) filter: Filter,
    pub(crate) link: bool,
    /// Receive chains that were popped for a frame that needed more.
    pub(crate) stash: Vec<(Head, Chain)>,
    /// Storage that is reused, by queue: a chain is as long as its queue.
    spare: [Vec<Chain>; 3],
    packet: Vec<u8>,
    segment: Vec<u8>,
    /// Kicks for receive buffers are on: before the first frame, and when there were too few.
    pub(crate) waits_for_buffers: bool,
    /// The driver queued more than one call takes.
    pub(crate) transmit_pending: bool,
    counts: NetCounts,
}

/// What passed through the device; not part of its state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetCounts {
    /// Packets taken from the driver.
    pub tx_packets: u64,
    /// Frames sent, segments each.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames delivered.
    pub rx_frames: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Receive buffers that a frame was spread over, beyond the first.
    pub rx_merged: u64,
    /// Frames delivered as checked.
    pub rx_checked: u64,
    /// Packets dropped: too long, too short, in no memory, or with a header that does not fit.
    pub tx_malformed: u64,
    /// Frames dropped because a buffer is in no memory or too small.
    pub rx_dropped: u64,
    /// Commands on the control queue.
    pub commands: u64,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RxOutcome {
    /// It is in memory; [`VirtioNet::flush_receive`] shows it.
    Delivered,
    /// The driver does not want it, or there is no link.
    Filtered,
    /// It fits no buffer, or its buffer is in no memory.
    Dropped,
    /// There are too few buffers now; the driver was asked to kick when it has more.
    NoBuffers,
}

impl VirtioNet {
    /// The device id of the specification: 5.1.1.
    pub const DEVICE_TYPE: u16 = 1;
    /// Queues with a control queue.
    pub const QUEUES: u16 = 3;
    /// Bytes of the configuration: address, status, and what is not offered.
    pub const CONFIG_LENGTH: u64 = 12;

    /// A device that offers `offered` of [`NetFeatures::ALL`] and [`NetFeatures::ACCESS_PLATFORM`], with its link up.
    #[must_use]
    pub fn new(mac: [u8; 6], offered: NetFeatures) -> Self {
        Self {
            mac,
            offered: NetFeatures(offered.0 & (NetFeatures::ALL.0 | NetFeatures::ACCESS_PLATFORM.0)),
            features: NetFeatures::default(),
            filter: Filter::new(mac, false),
            link: true,
            stash: Vec::new(),
            spare: <[Vec<Chain>; 3]>::default(),
            packet: Vec::new(),
            segment: Vec::new(),
            waits_for_buffers: true,
            transmit_pending: false,
            counts: NetCounts::default(),
        }
    }

    /// Features for the driver to choose from.
    #[must_use]
    pub fn offered(&self) -> NetFeatures {
        self.offered
    }

    /// Features that the driver chose.
    #[must_use]
    pub fn features(&self) -> NetFeatures {
        self.features
    }

    /// Takes the driver's choice. `false`, and nothing changes, when it may not choose that:
    /// `FEATURES_OK` must then read as 0.
    #[must_use]
    pub fn negotiate(&mut self, features: NetFeatures) -> bool {
        if !features.is_acceptable(self.offered) {
            return false;
        }
        self.features = features;
        let filters_vlans = features.contains(NetFeatures::CTRL_VLAN);
        self.filter = Filter::new(self.mac, filters_vlans);
        // Until a driver can say what it wants, it gets everything.
        self.filter.promiscuous = !features.contains(NetFeatures::CTRL_RX);
        true
    }

    /// Forgets what the driver chose and all its buffers.
    pub fn reset(&mut self) {
        self.features = NetFeatures::default();
        self.filter = Filter::new(self.mac, false);
        self.stash.clear();
        self.spare = <[Vec<Chain>; 3]>::default();
        self.waits_for_buffers = true;
        self.transmit_pending = false;
    }

    /// Reads the configuration: 5.1.4. Bytes past it read as 0.
    pub fn read_config(&self, offset: u64, data: &mut [u8]) {
        let [a, b, c, d, e, f] = self.filter.mac;
        let status = u8::from(self.link) * STATUS_LINK_UP;
        let config = [a, b, c, d, e, f, status, 0];
        data.fill(0);
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = config.get(from..).unwrap_or_default();
        for (byte, value) in data.iter_mut().zip(rest) {
            *byte = *value;
        }
    }

    /// Puts the cable in, or takes it out. `true`: the configuration changed, tell the driver.
    pub fn set_link(&mut self, link: bool) -> bool {
        let changed = self.link != link;
        self.link = link;
        changed && self.features.contains(NetFeatures::STATUS)
    }

    /// Whether [`transmit`](Self::transmit) left packets that no kick may come for.
    #[must_use]
    pub fn transmit_is_pending(&self) -> bool {
        self.transmit_pending
    }

    /// What passed through.
    #[must_use]
    pub fn counts(&self) -> &NetCounts {
        &self.counts
    }

    /// Which frames the driver wants.
    #[must_use]
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Sends what the driver queued and gives the buffers back, then asks for a kick. Whether to
    /// interrupt the driver.
    ///
    /// # Errors
    ///
    /// What the driver got wrong: the device needs a reset.
    pub fn transmit<R: Ring, M: GuestMemory + ?Sized>(
        &mut self,
        queue: &mut DeviceQueue<R>,
        memory: &M,
        send: &mut dyn FnMut(&[u8]),
    ) -> Result<Notify, QueueError> {
        let mut chain = self.take_chain(TRANSMIT, queue);
        let served = self.send_all(queue, &mut chain, memory, send);
        self.spare[TRANSMIT].push(chain);
        served?;
        Ok(queue.flush()?)
    }

    fn send_all<R: Ring, M: GuestMemory + ?Sized>(
        &mut self,
        queue: &mut DeviceQueue<R>,
        chain: &mut Chain,
        memory: &M,
        send: &mut dyn FnMut(&[u8]),
    ) -> Result<(), QueueError> {
        // A ring at a time: a driver that adds as fast as we take does not keep us for ever.
        let limit = queue.config().config().size;
        queue.disable_kicks()?;
        queue.serve(chain, limit, |chain| {
            self.send_packet(chain, memory, send);
            0
        })?;
        self.transmit_pending = queue.enable_kicks()? == Pending::More;
        Ok(())
    }

    fn send_packet<M: GuestMemory + ?Sized>(
        &mut self,
        chain: &Chain,
        memory: &M,
        send: &mut dyn FnMut(&[u8]),
    ) {
        let length = usize::try_from(chain.readable_bytes()).unwrap_or(usize::MAX);
        let mut header = [0; LENGTH];
        let fits = (LENGTH + ADDRESSES_AND_TYPE..=LENGTH + PACKET_MAX).contains(&length);
        if !fits || chain.read(memory, 0, &mut header).is_err() {
            self.counts.tx_malformed += 1;
            return;
        }
        self.packet.resize(length - LENGTH, 0);
        if chain.read(memory, LENGTH as u64, &mut self.packet).is_err() {
            self.counts.tx_malformed += 1;
            return;
        }
        let mut header = Header::decode(header);
        if !self.features.contains(NetFeatures::CSUM) {
            header.flags = 0;
        }
        let (link, counts) = (self.link, &mut self.counts);
        let finished = finish(header, &mut self.packet, &mut self.segment, &mut |frame| {
            counts.tx_frames += 1;
            counts.tx_bytes += frame.len() as u64;
            if link {
                send(frame);
            }
        });
        self.counts.tx_packets += u64::from(finished);
        self.counts.tx_malformed += u64::from(!finished);
    }

    /// Delivers a frame from the network, without its check sequence.
    ///
    /// # Errors
    ///
    /// What the driver got wrong: the device needs a reset.
    pub fn receive<R: Ring, M: GuestMemory + ?Sized>(
        &mut self,
        queue: &mut DeviceQueue<R>,
        memory: &M,
        frame: &[u8],
    ) -> Result<RxOutcome, QueueError> {
        if !self.link || !self.filter.accepts(frame) {
            return Ok(RxOutcome::Filtered);
        }
        let needed = (LENGTH + frame.len()) as u64;
        if !self.gather(queue, needed)? {
            return Ok(RxOutcome::NoBuffers);
        }
        let merges = self.features.contains(NetFeatures::MRG_RXBUF);
        let room = self.stash.first().map_or(0, |(_, c)| c.writable_bytes());
        if !merges && room < needed {
            // 5.1.6.3.1: such a driver promised buffers for any frame.
            self.give_back(queue, memory, &[])?;
            return Ok(RxOutcome::Dropped);
        }
        let whole = self.give_back(queue, memory, frame)?;
        if whole {
            self.counts.rx_frames += 1;
            self.counts.rx_bytes += frame.len() as u64;
            Ok(RxOutcome::Delivered)
        } else {
            Ok(RxOutcome::Dropped)
        }
    }

    /// Shows the driver the frames that were delivered. Whether to interrupt it.
    ///
    /// # Errors
    ///
    /// Fails when the ring cannot be reached.
    pub fn flush_receive<R: Ring>(&mut self, queue: &mut DeviceQueue<R>) -> Result<Notify, Fault> {
        queue.flush()
    }

    /// Pops chains until they hold `needed` bytes; one does for a driver that does not merge.
    fn gather<R: Ring>(
        &mut self,
        queue: &mut DeviceQueue<R>,
        needed: u64,
    ) -> Result<bool, QueueError> {
        let merges = self.features.contains(NetFeatures::MRG_RXBUF);
        loop {
            let room: u64 = self.stash.iter().map(|(_, c)| c.writable_bytes()).sum();
            if room >= needed || !merges && !self.stash.is_empty() {
                break;
            }
            let mut chain = self.take_chain(RECEIVE, queue);
            if let Some(head) = queue.pop(&mut chain)? {
                self.stash.push((head, chain));
                continue;
            }
            self.spare[RECEIVE].push(chain);
            self.waits_for_buffers = true;
            if queue.enable_kicks()? == Pending::None {
                return Ok(false);
            }
        }
        if std::mem::take(&mut self.waits_for_buffers) {
            queue.disable_kicks()?;
        }
        Ok(true)
    }

    /// Writes a frame over the stash's first chains and completes them; an empty one drops the first.
    /// Whether all of it is in memory.
    fn give_back<R: Ring, M: GuestMemory + ?Sized>(
        &mut self,
        queue: &mut DeviceQueue<R>,
        memory: &M,
        frame: &[u8],
    ) -> Result<bool, QueueError> {
        let needed = (LENGTH + frame.len()) as u64;
        let mut used = 0;
        let mut room = 0;
        while room < needed && used < self.stash.len() {
            room += self.stash[used].1.writable_bytes();
            used += 1;
        }
        let is_checked = self.features.contains(NetFeatures::GUEST_CSUM) && is_sound(frame);
        self.counts.rx_checked += u64::from(is_checked);
        let header = Header::for_driver(u16::try_from(used).unwrap_or(u16::MAX), is_checked);
        self.packet.clear();
        self.packet.extend_from_slice(&header);
        self.packet.extend_from_slice(frame);
        let mut rest = self.packet.as_slice();
        let mut whole = !frame.is_empty();
        for (head, chain) in self.stash.drain(..used) {
            let room = usize::try_from(chain.writable_bytes()).unwrap_or(usize::MAX);
            let (piece, after) = rest.split_at(rest.len().min(room));
            let piece = if frame.is_empty() { &[] } else { piece };
            whole &= chain.write(memory, 0, piece).is_ok();
            let written = u32::try_from(piece.len()).unwrap_or(0);
            // A piece is no longer than the chain's room.
            let completed = queue.complete(head, written);
            if let Err(virtqueue::UsedError::Ring(fault)) = completed {
                return Err(fault.into());
            }
            rest = after;
            self.spare[RECEIVE].push(chain);
        }
        self.counts.rx_merged += u64::try_from(used.saturating_sub(1)).unwrap_or(0);
        self.counts.rx_dropped += u64::from(!whole);
        Ok(whole)
    }

    /// Does the commands on the control queue. Whether to interrupt the driver.
    ///
    /// # Errors
    ///
    /// What the driver got wrong: the device needs a reset.
    pub fn control<R: Ring, M: GuestMemory + ?Sized>(
        &mut self,
        queue: &mut DeviceQueue<R>,
        memory: &M,
    ) -> Result<Notify, QueueError> {
        let mut chain = self.take_chain(CONTROL, queue);
        let limit = queue.config().config().size;
        let served = queue.serve(&mut chain, limit, |chain| self.command(chain, memory));
        self.spare[CONTROL].push(chain);
        served?;
        let _ = queue.enable_kicks()?;
        Ok(queue.flush()?)
    }

    fn command<M: GuestMemory + ?Sized>(&mut self, chain: &Chain, memory: &M) -> u32 {
        self.counts.commands += 1;
        let length = usize::try_from(chain.readable_bytes()).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length.min(COMMAND_MAX)];
        let read = chain.read(memory, 0, &mut bytes);
        let ack = match read {
            Ok(count) if count == length => self.filter.command(&bytes),
            _ => Ack::Error,
        };
        let byte = match ack {
            Ack::Ok => 0,
            Ack::Error => 1,
        };
        match chain.write(memory, 0, &[byte]) {
            Ok(written) => u32::try_from(written).unwrap_or(0),
            Err(_) => 0,
        }
    }

    /// Storage for a chain of `queue`; made once for each chain that is held at a time.
    fn take_chain<R: Ring>(&mut self, index: usize, queue: &DeviceQueue<R>) -> Chain {
        let chain = self.spare[index].pop();
        chain.unwrap_or_else(|| Chain::new(queue.config()))
    }
}

// Queue numbers: 5.1.2.
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const CONTROL: usize = 2;
/// Bytes of a packet before segmentation: 64 KiB and an Ethernet header with room for a tag.
pub const PACKET_MAX: usize = 65_535 + 18;
/// The least that is a frame.
const ADDRESSES_AND_TYPE: usize = 14;
/// Bytes of a command that are looked at.
const COMMAND_MAX: usize = 64 * 1024;
/// `VIRTIO_NET_S_LINK_UP`.
const STATUS_LINK_UP: u8 = 1;
