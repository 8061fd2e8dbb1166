use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, EthernetRepr, IpProtocol, Ipv4Packet, Ipv4Repr, UdpPacket,
    UdpRepr,
};

use super::*;

const GUEST_MAC: EthernetAddress = EthernetAddress([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

/// A guest's stack on the other end of the cable.
struct Guest {
    network: UserNetwork,
    interface: Interface,
    sockets: SocketSet<'static>,
    cable: Cable,
    now: u64,
}

impl Guest {
    fn new() -> Self {
        let mut cable = Cable::default();
        let config = Config::new(HardwareAddress::Ethernet(GUEST_MAC));
        let mut interface = Interface::new(config, &mut cable, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            let address = IpCidr::new(IpAddress::Ipv4(GUEST), PREFIX);
            addresses.push(address).expect("room for one address");
        });
        Self {
            network: UserNetwork::new(),
            interface,
            sockets: SocketSet::new(Vec::new()),
            cable,
            now: 0,
        }
    }

    /// A millisecond of both stacks; the bytes that went each way.
    fn step(&mut self) -> [usize; 2] {
        self.now += 1_000_000;
        let time = instant(self.now);
        self.interface
            .poll(time, &mut self.cable, &mut self.sockets);
        let mut passed = [0; 2];
        // The guest's cable calls what leaves it "to the guest".
        for frame in std::mem::take(&mut self.cable.to_guest) {
            passed[0] += frame.len();
            self.network.send(&frame, self.now);
        }
        let mut frames = VecDeque::new();
        self.network.advance(self.now, &mut frames);
        passed[1] += frames.iter().map(Vec::len).sum::<usize>();
        self.cable.to_router.append(&mut frames);
        passed
    }

    fn connect(&mut self, port: u16) -> SocketHandle {
        let handle = self.sockets.add(tcp_socket());
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        let router = IpEndpoint::new(IpAddress::Ipv4(ROUTER), port);
        let connected = socket.connect(self.interface.context(), router, 50_000);
        connected.expect("a connection can be begun");
        handle
    }

    fn socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut::<tcp::Socket<'_>>(handle)
    }

    /// Sends `length` bytes to `port` and reads until the other side closes; what came back.
    fn talk(&mut self, port: u16, length: usize) -> Vec<u8> {
        let handle = self.connect(port);
        let bytes: Vec<u8> = (0..=255).cycle().take(length).collect();
        let (mut sent, mut back) = (0, Vec::new());
        for _ in 0..60_000 {
            self.step();
            let socket = self.socket(handle);
            if sent < length && socket.can_send() {
                sent += socket.send_slice(&bytes[sent..]).unwrap();
            } else if sent == length && socket.state() == tcp::State::Established {
                socket.close();
            }
            while self.socket(handle).can_recv() {
                let received = self.socket(handle).recv(|b| (b.len(), b.to_vec()));
                back.extend(received.unwrap());
            }
            if !self.socket(handle).is_active() {
                return back;
            }
        }
        panic!(
            "the connection never ended: {}",
            self.socket(handle).state()
        );
    }
}

#[test]
fn tcp_echo_gives_back_what_it_got() {
    let mut guest = Guest::new();
    let expected: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    assert_eq!(guest.talk(7, 300_000), expected);
    assert_eq!(guest.network.counts().echoed, 300_000);
}

#[test]
fn a_service_takes_one_connection_after_the_other() {
    let mut guest = Guest::new();
    for _ in 0..3 {
        assert!(guest.talk(9, 10_000).is_empty());
    }
    assert_eq!(guest.network.counts().discarded, 30_000);
}

#[test]
fn the_same_frames_at_the_same_times_give_the_same_answers() {
    let run = || {
        let mut guest = Guest::new();
        let handle = guest.connect(19);
        let passed: Vec<_> = (0..300).map(|_| guest.step()).collect();
        (
            passed,
            guest.network.counts(),
            guest.socket(handle).recv_queue(),
        )
    };
    let first = run();
    assert!(first.1.generated > 0);
    assert_eq!(first, run());
}

/// A datagram from `source` port to `port`, as the guest's driver would hand it over.
fn datagram(from: Ipv4Address, to: Ipv4Address, ports: [u16; 2], payload: &[u8]) -> Vec<u8> {
    let udp = UdpRepr {
        src_port: ports[0],
        dst_port: ports[1],
    };
    let ip = Ipv4Repr {
        src_addr: from,
        dst_addr: to,
        next_header: IpProtocol::Udp,
        payload_len: udp.header_len() + payload.len(),
        hop_limit: 64,
    };
    let ethernet = EthernetRepr {
        src_addr: GUEST_MAC,
        dst_addr: EthernetAddress::BROADCAST,
        ethertype: EthernetProtocol::Ipv4,
    };
    let mut frame = vec![0; 14 + ip.buffer_len() + ip.payload_len];
    ethernet.emit(&mut EthernetFrame::new_unchecked(&mut frame));
    let checksums = smoltcp::phy::ChecksumCapabilities::default();
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut frame[14..]), &checksums);
    udp.emit(
        &mut UdpPacket::new_unchecked(&mut frame[34..]),
        &from.into(),
        &to.into(),
        payload.len(),
        |bytes| bytes.copy_from_slice(payload),
        &checksums,
    );
    frame
}

/// The payload of the one datagram that the network answers with.
fn answer(network: &mut UserNetwork, frame: &[u8], now: u64) -> Option<Vec<u8>> {
    network.send(frame, now);
    let mut frames = VecDeque::new();
    network.advance(now, &mut frames);
    let bytes = frames.pop_back()?;
    let frame = EthernetFrame::new_checked(&bytes[..]).ok()?;
    let ip = Ipv4Packet::new_checked(frame.payload()).ok()?;
    let udp = UdpPacket::new_checked(ip.payload()).ok()?;
    Some(udp.payload().to_vec())
}

fn dhcp(message_type: DhcpMessageType) -> Vec<u8> {
    let request = DhcpRepr {
        message_type,
        transaction_id: 7,
        secs: 0,
        client_hardware_address: GUEST_MAC,
        client_ip: Ipv4Address::UNSPECIFIED,
        your_ip: Ipv4Address::UNSPECIFIED,
        server_ip: Ipv4Address::UNSPECIFIED,
        router: None,
        subnet_mask: None,
        relay_agent_ip: Ipv4Address::UNSPECIFIED,
        broadcast: false,
        requested_ip: None,
        client_identifier: None,
        server_identifier: None,
        parameter_request_list: None,
        dns_servers: None,
        max_size: None,
        lease_duration: None,
        renew_duration: None,
        rebind_duration: None,
        additional_options: &[],
    };
    let mut bytes = vec![0; request.buffer_len()];
    request
        .emit(&mut DhcpPacket::new_unchecked(&mut bytes))
        .unwrap();
    bytes
}

#[test]
fn dhcp_offers_and_acknowledges_the_address() {
    let mut network = UserNetwork::new();
    let asked = [
        (DhcpMessageType::Discover, DhcpMessageType::Offer, 0),
        (DhcpMessageType::Request, DhcpMessageType::Ack, 1),
    ];
    for (request, reply, leases) in asked {
        let to = Ipv4Address::BROADCAST;
        let frame = datagram(Ipv4Address::UNSPECIFIED, to, [68, 67], &dhcp(request));
        let bytes = answer(&mut network, &frame, 1_000_000).expect("an answer");
        let packet = DhcpPacket::new_checked(&bytes[..]).unwrap();
        let answered = DhcpRepr::parse(&packet).unwrap();
        assert_eq!(answered.message_type, reply);
        assert_eq!((answered.your_ip, answered.router), (GUEST, Some(ROUTER)));
        assert_eq!(answered.transaction_id, 7);
        assert_eq!(answered.dns_servers.unwrap()[..], [ROUTER]);
        assert_eq!(network.counts().leases, leases);
    }
}

#[test]
fn names_are_refused() {
    let mut guest = Guest::new();
    // An ARP exchange first, so that the router knows the guest.
    let handle = guest.connect(9);
    for _ in 0..10 {
        guest.step();
    }
    guest.socket(handle).abort();
    let question = [
        0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 0, 0, 1, 0, 1,
    ];
    let frame = datagram(GUEST, ROUTER, [4000, 53], &question);
    let bytes = answer(&mut guest.network, &frame, 20_000_000).expect("an answer");
    assert_eq!(bytes[..4], [0x12, 0x34, 0x81, 0x05]);
    assert_eq!(guest.network.counts().refused_names, 1);
}

#[test]
fn frames_of_nonsense_are_survived() {
    let mut network = UserNetwork::new();
    let mut frames = VecDeque::new();
    for length in 0..200 {
        network.send(&vec![0xff; length], 1);
        network.send(&datagram(GUEST, ROUTER, [67, 67], &vec![0xff; length]), 1);
        network.send(&datagram(GUEST, ROUTER, [53, 53], &vec![0xff; length]), 1);
        network.advance(1, &mut frames);
    }
}
