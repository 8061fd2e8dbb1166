//! A network without the host's: a router at 10.0.2.2 that gives the guest an address by DHCP, refuses
//! names, answers pings, and has the small services of old at hand.
//!
//! | port | service |
//! |---|---|
//! | UDP 67 | DHCP: 10.0.2.15, router and name server 10.0.2.2 |
//! | UDP 53 | DNS: every question is refused (RCODE 5) |
//! | TCP, UDP 7 | echo (RFC 862) |
//! | TCP 9 | discard (RFC 863), counted |
//! | TCP 19 | characters (RFC 864), as many as the connection takes, up to 16 MiB |
//!
//! Deterministic: time is the board's, and nothing else comes in but frames.

use std::collections::VecDeque;
use std::fmt;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{tcp, udp};
use smoltcp::time::Instant;
use smoltcp::wire::{
    DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress, HardwareAddress, IpAddress, IpCidr,
    IpEndpoint, Ipv4Address,
};

use crate::board::Wire;

/// What passed through the services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserNetworkCounts {
    /// Addresses acknowledged by DHCP.
    pub leases: u64,
    /// Questions refused.
    pub refused_names: u64,
    /// Bytes that came back from the echo services.
    pub echoed: u64,
    /// Bytes that the discard service took.
    pub discarded: u64,
    /// Bytes that the character generator sent.
    pub generated: u64,
}

/// The other end of the guest's cable.
pub struct UserNetwork {
    interface: Interface,
    sockets: SocketSet<'static>,
    services: Services,
    cable: Cable,
    counts: UserNetworkCounts,
    next_poll: Option<u64>,
}

struct Services {
    dhcp: SocketHandle,
    dns: SocketHandle,
    udp_echo: SocketHandle,
    echo: SocketHandle,
    discard: SocketHandle,
    generator: SocketHandle,
    /// Characters generated for the present connection.
    generated: u64,
}

impl Default for UserNetwork {
    fn default() -> Self {
        Self::new()
    }
}

impl UserNetwork {
    /// A network at time zero.
    #[must_use]
    pub fn new() -> Self {
        let mut cable = Cable::default();
        let mut config = Config::new(HardwareAddress::Ethernet(ROUTER_MAC));
        config.random_seed = 1;
        let mut interface = Interface::new(config, &mut cable, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            let address = IpCidr::new(IpAddress::Ipv4(ROUTER), PREFIX);
            addresses.push(address).expect("room for one address");
        });
        let mut sockets = SocketSet::new(Vec::new());
        let services = Services {
            dhcp: sockets.add(udp_socket(67)),
            dns: sockets.add(udp_socket(53)),
            udp_echo: sockets.add(udp_socket(7)),
            echo: sockets.add(tcp_socket()),
            discard: sockets.add(tcp_socket()),
            generator: sockets.add(tcp_socket()),
            generated: 0,
        };
        Self {
            interface,
            sockets,
            services,
            cable,
            counts: UserNetworkCounts::default(),
            next_poll: Some(0),
        }
    }

    /// What passed through the services.
    #[must_use]
    pub fn counts(&self) -> UserNetworkCounts {
        self.counts
    }

    fn work(&mut self, now: u64) {
        let time = instant(now);
        // Services may answer what a poll brought in; the bound is for a guest that never stops.
        for _ in 0..ROUNDS {
            self.interface
                .poll(time, &mut self.cable, &mut self.sockets);
            let served = self.dhcp() | self.dns() | self.udp_echo() | self.tcp_services();
            if !served && self.cable.to_router.is_empty() {
                break;
            }
        }
        self.interface
            .poll(time, &mut self.cable, &mut self.sockets);
        let delay = self.interface.poll_delay(time, &self.sockets);
        self.next_poll = delay.map(|delay| now.saturating_add(delay.total_micros().max(1) * 1_000));
    }

    fn dhcp(&mut self) -> bool {
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(self.services.dhcp);
        let Ok((request, _)) = socket.recv() else {
            return false;
        };
        let packet = DhcpPacket::new_checked(request).ok();
        let parsed = packet
            .as_ref()
            .and_then(|packet| DhcpRepr::parse(packet).ok());
        let Some(request) = parsed else {
            return true;
        };
        let message_type = match request.message_type {
            DhcpMessageType::Discover => DhcpMessageType::Offer,
            DhcpMessageType::Request => DhcpMessageType::Ack,
            _ => return true,
        };
        let reply = dhcp_reply(&request, message_type);
        let mut bytes = vec![0; reply.buffer_len()];
        if reply
            .emit(&mut DhcpPacket::new_unchecked(&mut bytes))
            .is_ok()
        {
            let everyone = IpEndpoint::new(IpAddress::Ipv4(Ipv4Address::BROADCAST), 68);
            let sent = socket.send_slice(&bytes, everyone);
            let leased = sent.is_ok() && message_type == DhcpMessageType::Ack;
            self.counts.leases += u64::from(leased);
        }
        true
    }

    fn dns(&mut self) -> bool {
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(self.services.dns);
        let Ok((question, from)) = socket.recv() else {
            return false;
        };
        let mut answer = question.to_vec();
        // RFC 1035, 4.1.1: the question again as a response, recursion not available, refused.
        if let Some([high, low]) = answer.get_mut(2..4) {
            *high |= 0x80;
            *low = 0x05;
            self.counts.refused_names += 1;
            let _ = socket.send_slice(&answer, from.endpoint);
        }
        true
    }

    fn udp_echo(&mut self) -> bool {
        let socket = self
            .sockets
            .get_mut::<udp::Socket<'_>>(self.services.udp_echo);
        let Ok((bytes, from)) = socket.recv() else {
            return false;
        };
        let bytes = bytes.to_vec();
        if socket.send_slice(&bytes, from.endpoint).is_ok() {
            self.counts.echoed += bytes.len() as u64;
        }
        true
    }

    fn tcp_services(&mut self) -> bool {
        self.tcp_echo() | self.tcp_discard() | self.tcp_generator()
    }

    fn tcp_echo(&mut self) -> bool {
        let socket = listening(&mut self.sockets, self.services.echo, 7);
        let room = socket.send_capacity() - socket.send_queue();
        if room == 0 || !socket.can_recv() {
            return finish(socket);
        }
        let received = socket.recv(|bytes| {
            let count = bytes.len().min(room);
            (count, bytes[..count].to_vec())
        });
        let bytes = received.unwrap_or_default();
        let _ = socket.send_slice(&bytes);
        self.counts.echoed += bytes.len() as u64;
        true
    }

    fn tcp_discard(&mut self) -> bool {
        let socket = listening(&mut self.sockets, self.services.discard, 9);
        if !socket.can_recv() {
            return finish(socket);
        }
        let taken = socket.recv(|bytes| (bytes.len(), bytes.len()));
        self.counts.discarded += taken.unwrap_or(0) as u64;
        true
    }

    fn tcp_generator(&mut self) -> bool {
        let socket = listening(&mut self.sockets, self.services.generator, 19);
        if !socket.may_send() || !socket.can_send() {
            if !socket.is_active() {
                self.services.generated = 0;
            }
            return false;
        }
        let left = GENERATED_MAX - self.services.generated;
        if left == 0 {
            socket.close();
            return false;
        }
        let offset = self.services.generated;
        let sent = socket.send(|buffer| {
            let room = buffer.len() as u64;
            let count = room.min(left);
            let count = usize::try_from(count).unwrap_or(0);
            for (position, byte) in (offset..).zip(&mut buffer[..count]) {
                *byte = b' ' + u8::try_from(position % 95).unwrap_or(0);
            }
            (count, count)
        });
        let sent = sent.unwrap_or(0) as u64;
        self.services.generated += sent;
        self.counts.generated += sent;
        sent > 0
    }
}

impl Wire for UserNetwork {
    fn send(&mut self, frame: &[u8], now: u64) {
        self.cable.to_router.push_back(frame.to_vec());
        self.next_poll = Some(now);
    }

    fn advance(&mut self, now: u64, frames: &mut VecDeque<Vec<u8>>) {
        if self.next_poll.is_some_and(|at| at <= now) {
            self.work(now);
        }
        frames.append(&mut self.cable.to_guest);
    }

    fn next_deadline(&self) -> Option<u64> {
        self.next_poll
    }
}

impl fmt::Debug for UserNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserNetwork")
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}

fn dhcp_reply<'a>(request: &DhcpRepr<'a>, message_type: DhcpMessageType) -> DhcpRepr<'a> {
    let mut reply = DhcpRepr {
        message_type,
        secs: 0,
        client_ip: Ipv4Address::UNSPECIFIED,
        your_ip: GUEST,
        server_ip: ROUTER,
        router: Some(ROUTER),
        subnet_mask: Some(Ipv4Address::new(255, 255, 255, 0)),
        broadcast: true,
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(ROUTER),
        parameter_request_list: None,
        dns_servers: Some(Default::default()),
        max_size: None,
        renew_duration: None,
        rebind_duration: None,
        lease_duration: Some(86_400),
        additional_options: &[],
        ..request.clone()
    };
    if let Some(names) = &mut reply.dns_servers {
        let _ = names.push(ROUTER);
    }
    reply
}

/// The socket of a service, listening again once its connection is over.
fn listening<'s>(
    sockets: &'s mut SocketSet<'static>,
    handle: SocketHandle,
    port: u16,
) -> &'s mut tcp::Socket<'static> {
    let socket = sockets.get_mut::<tcp::Socket<'_>>(handle);
    if !socket.is_open() || socket.state() == tcp::State::TimeWait {
        socket.abort();
        let _ = socket.listen(port);
    }
    socket
}

/// Closes our half once the guest closed its own and nothing is left.
fn finish(socket: &mut tcp::Socket<'_>) -> bool {
    if socket.state() == tcp::State::CloseWait && socket.recv_queue() == 0 {
        socket.close();
    }
    false
}

fn udp_socket(port: u16) -> udp::Socket<'static> {
    let buffer = || {
        let metadata = vec![udp::PacketMetadata::EMPTY; 16];
        udp::PacketBuffer::new(metadata, vec![0; 32 * 1024])
    };
    let mut socket = udp::Socket::new(buffer(), buffer());
    socket.bind(port).expect("a port of our own");
    socket
}

fn tcp_socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; TCP_BUFFER]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    socket.set_ack_delay(None);
    socket
}

fn instant(now: u64) -> Instant {
    Instant::from_micros(i64::try_from(now / 1_000).unwrap_or(i64::MAX))
}

/// Both directions of the cable, as a network device of the router's stack.
#[derive(Default)]
struct Cable {
    to_router: VecDeque<Vec<u8>>,
    to_guest: VecDeque<Vec<u8>>,
}

struct Received(Vec<u8>);

struct Room<'c>(&'c mut VecDeque<Vec<u8>>);

impl Device for Cable {
    type RxToken<'a> = Received;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Room<'_>)> {
        let frame = self.to_router.pop_front()?;
        Some((Received(frame), Room(&mut self.to_guest)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Room<'_>> {
        (self.to_guest.len() < IN_CABLE_MAX).then_some(Room(&mut self.to_guest))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut frame = vec![0; length];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}

const ROUTER_MAC: EthernetAddress = EthernetAddress([0x52, 0x55, 10, 0, 2, 2]);
const ROUTER: Ipv4Address = Ipv4Address::new(10, 0, 2, 2);
const GUEST: Ipv4Address = Ipv4Address::new(10, 0, 2, 15);
const PREFIX: u8 = 24;
const TCP_BUFFER: usize = 64 * 1024 - 1;
/// Characters for each connection.
const GENERATED_MAX: u64 = 16 << 20;
/// Polls in one call.
const ROUNDS: usize = 64;
/// Frames on their way to the guest.
const IN_CABLE_MAX: usize = 256;

#[cfg(test)]
mod tests;
