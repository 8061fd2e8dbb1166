//! The virtio network device under a driver that writes any packet, header, buffer and command.

use ::virtio_net::virtqueue::vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use ::virtio_net::virtqueue::{Config, DeviceQueue, DriverQueue, HostRing, Layout, Segment};
use ::virtio_net::{NetFeatures, PACKET_MAX, VirtioNet};
use arbitrary::{Result, Unstructured};

const MEMORY: usize = 0x4_0000;

/// Drives a device with `data`.
pub fn virtio_net(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let _ = drive(&mut u);
}

fn drive(u: &mut Unstructured<'_>) -> Result<()> {
    let memory: GuestMemoryMmap =
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("memory");
    let mut net = VirtioNet::new([2, 0, 0, 0, 0, 1], NetFeatures::ALL);
    let chosen = NetFeatures(u.arbitrary::<u64>()? & NetFeatures::ALL.0);
    if !net.negotiate(NetFeatures(chosen.0 | NetFeatures::VERSION_1.0)) {
        return Ok(());
    }
    let packed = net.features().contains(NetFeatures::RING_PACKED);
    let config = |base: u64| Config {
        layout: if packed {
            Layout::Packed
        } else {
            Layout::Split
        },
        size: 8,
        descriptors: base,
        driver: base + 0x400,
        device: base + 0x800,
        features: net.features().ring(),
    };
    let configs = [0x1000, 0x2000, 0x3000].map(|base| config(base).activate().expect("sound"));
    let ring = |index: usize| HostRing::new(&configs[index], &memory).expect("in memory");
    let mut drivers = [0, 1, 2]
        .map(|index| DriverQueue::new(&configs[index], ring(index), None).expect("in memory"));
    let mut queues = [0, 1, 2].map(|index| DeviceQueue::new(&configs[index], ring(index)));
    while !u.is_empty() {
        let index = u.int_in_range(0..=2_usize)?;
        add(u, &memory, &mut drivers[index])?;
        let frame = vec![u.arbitrary()?; u.int_in_range(0..=3_000)?];
        let [rx, tx, control] = &mut queues;
        let bounded = &mut |frame: &[u8]| assert!(frame.len() <= PACKET_MAX);
        let _ = match index {
            0 => net
                .receive(rx, &memory, &frame)
                .and_then(|_| Ok(net.flush_receive(rx)?)),
            1 => net.transmit(tx, &memory, bounded),
            _ => net.control(control, &memory),
        };
        while let Ok(Some(used)) = drivers[index].take_used() {
            assert!(used.id < 8);
        }
        let mut config = vec![0; u.int_in_range(0..=20)?];
        net.read_config(u.arbitrary()?, &mut config);
    }
    Ok(())
}

fn add(
    u: &mut Unstructured<'_>,
    memory: &GuestMemoryMmap,
    driver: &mut DriverQueue<HostRing<&GuestMemoryMmap>>,
) -> Result<()> {
    let mut segments = Vec::new();
    for _ in 0..u.int_in_range(1..=4)? {
        let address = u64::from(u.arbitrary::<u32>()?) % (MEMORY as u64 + 64);
        let length = 1 + u32::from(u.arbitrary::<u16>()? >> u.int_in_range(0..=15)?);
        let address = GuestAddress(address);
        segments.push(Segment { address, length });
    }
    // Headers and commands that are nearly right, at the first buffer.
    let count = u.int_in_range(0..=64)?;
    let bytes = u.bytes(count)?;
    let _ = memory.write(bytes, segments[0].address);
    let readable = u.int_in_range(0..=segments.len())?;
    let (readable, writable) = segments.split_at(readable);
    let _ = driver.add(readable, writable);
    let _ = driver.publish();
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn smoke() {
        arbtest::arbtest(|u| {
            super::virtio_net(u.bytes(u.len())?);
            Ok(())
        })
        .budget_ms(1_000);
    }
}
