//! The device side of a virtqueue under a driver that writes anything, with a resolved ring and one
//! that is looked up at each access: the two must agree.

use arbitrary::{Result, Unstructured};
use virtqueue::vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use virtqueue::{
    Chain, Config, DeviceQueue, GuestRing, Head, HostRing, Layout, QueueError, QueueState, Ring,
    RingFeatures,
};

const MEMORY: usize = 0x4000;
const DESCRIPTORS: u64 = 0x1000;
const DRIVER: u64 = 0x2000;
const DEVICE: u64 = 0x2800;

struct Side<'m, R> {
    memory: &'m GuestMemoryMmap,
    queue: DeviceQueue<R>,
    chain: Chain,
    heads: Vec<(Head, u64)>,
}

/// Drives both with `data`.
pub fn virtqueue_device(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let memories = [(); 2]
        .map(|()| GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("memory"));
    let Ok(config) = config(&mut u) else { return };
    let Ok(active) = config.activate() else {
        return;
    };
    let [a, b] = &memories;
    let (Ok(host), guest) = (HostRing::new(&active, a), GuestRing::new(&active, b)) else {
        return;
    };
    let mut host = Side {
        memory: a,
        queue: DeviceQueue::new(&active, host),
        chain: Chain::new(&active),
        heads: Vec::new(),
    };
    let mut guest = Side {
        memory: b,
        queue: DeviceQueue::new(&active, guest),
        chain: Chain::new(&active),
        heads: Vec::new(),
    };
    while !u.is_empty() {
        if step(&mut u, &config, &mut host, &mut guest).is_err() {
            break;
        }
    }
}

fn config(u: &mut Unstructured<'_>) -> Result<Config> {
    let layout = *u.choose(&[Layout::Split, Layout::Packed])?;
    let event_idx = u.arbitrary()?;
    let indirect = u.arbitrary()?;
    let in_order = u.arbitrary()?;
    Ok(Config {
        layout,
        size: match u.int_in_range(0..=9)? {
            9 => u.arbitrary()?,
            _ => *u.choose(&[1, 2, 3, 4, 8, 16])?,
        },
        descriptors: DESCRIPTORS,
        driver: DRIVER,
        device: DEVICE,
        features: RingFeatures {
            event_idx,
            indirect,
            in_order,
        },
    })
}

fn step(
    u: &mut Unstructured<'_>,
    config: &Config,
    host: &mut Side<'_, HostRing<&GuestMemoryMmap>>,
    guest: &mut Side<'_, GuestRing<&GuestMemoryMmap>>,
) -> Result<()> {
    match u.int_in_range(0..=9)? {
        0..=2 => write_descriptor(u, config, [host.memory, guest.memory])?,
        3 => write_anything(u, config, [host.memory, guest.memory])?,
        4..=5 => assert_eq!(host.pop(config), guest.pop(config)),
        6 => {
            let (which, written) = (u.arbitrary()?, u.arbitrary()?);
            host.complete(config, which, written);
            guest.complete(config, which, written);
        }
        7 if host.heads.is_empty() => assert_eq!(host.serve(), guest.serve()),
        7 => assert_eq!(host.queue.flush(), guest.queue.flush()),
        8 => assert_eq!(host.queue.enable_kicks(), guest.queue.enable_kicks()),
        _ => {
            assert_eq!(host.queue.disable_kicks(), guest.queue.disable_kicks());
            assert_eq!(host.queue.state(), guest.queue.state());
            if let Ok(state) = host.queue.state() {
                assert!(state.activate().is_ok(), "a queue's own state is sound");
            }
            refuse_or_take(u, config)?;
        }
    }
    assert_eq!(host.queue.counts(), guest.queue.counts());
    Ok(())
}

impl<R: Ring> Side<'_, R> {
    fn pop(&mut self, config: &Config) -> std::result::Result<Option<u16>, QueueError> {
        let Some(head) = self.queue.pop(&mut self.chain)? else {
            return Ok(None);
        };
        let chain = &self.chain;
        assert!(chain.readable().len() + chain.writable().len() <= usize::from(config.size));
        let sum = |segments: &[virtqueue::Segment]| {
            segments.iter().map(|s| u64::from(s.length)).sum::<u64>()
        };
        assert_eq!(chain.readable_bytes(), sum(chain.readable()));
        assert_eq!(chain.writable_bytes(), sum(chain.writable()));
        assert!(chain.readable_bytes() + chain.writable_bytes() <= u64::from(u32::MAX));
        let mut bytes = [0; 64];
        let _ = chain.read(self.memory, 0, &mut bytes);
        let id = head.id();
        assert!(self.heads.iter().all(|(out, _)| out.id() != id));
        self.heads.push((head, chain.writable_bytes()));
        assert!(self.heads.len() <= usize::from(config.size));
        Ok(Some(id))
    }

    fn serve(&mut self) -> (std::result::Result<u16, QueueError>, u64) {
        let mut bytes = 0;
        let served = self.queue.serve(&mut self.chain, 7, |chain| {
            bytes += chain.readable_bytes();
            u32::try_from(chain.writable_bytes()).expect("below 4 GiB")
        });
        let _ = self.queue.flush();
        (served, bytes)
    }

    fn complete(&mut self, config: &Config, which: u8, written: u32) {
        if self.heads.is_empty() {
            return;
        }
        let which = if config.features.in_order {
            0
        } else {
            usize::from(which) % self.heads.len()
        };
        let (head, writable) = self.heads.remove(which);
        let written = u64::from(written) % (writable + 1);
        let written = u32::try_from(written).expect("a chain has less than 4 GiB");
        self.queue.complete(head, written).expect("it fits");
    }
}

fn write_descriptor(
    u: &mut Unstructured<'_>,
    config: &Config,
    memories: [&GuestMemoryMmap; 2],
) -> Result<()> {
    let index = u64::from(u.int_in_range(0..=16_u8)?);
    let table = if u.ratio(1, 4)? { 0x3000 } else { DESCRIPTORS };
    let address = match u.int_in_range(0..=5)? {
        0 => u.arbitrary()?,
        1 => 0x3000,
        _ => u64::from(u.arbitrary::<u16>()?) & 0x3fff,
    };
    let length: u32 = match u.int_in_range(0..=5)? {
        0 => u.arbitrary()?,
        1 => 16 * u32::from(u.int_in_range(0..=17_u8)?),
        _ => u32::from(u.arbitrary::<u8>()?),
    };
    let split = config.layout == Layout::Split;
    let low: u16 = u.int_in_range(0..=7)?;
    let wrap: u16 = if split {
        0
    } else {
        *u.choose(&[0x80, 0x8000, 0x8080, 0])?
    };
    let other = u16::from(u.int_in_range(0..=17_u8)?);
    let (flags, other) = (u64::from(low | wrap), u64::from(other));
    let word = if split {
        flags << 32 | other << 48
    } else {
        other << 32 | flags << 48
    } | u64::from(length);
    for memory in memories {
        let at = table + 16 * index;
        memory.write_obj(address, GuestAddress(at)).expect("inside");
        memory
            .write_obj(word, GuestAddress(at + 8))
            .expect("inside");
    }
    Ok(())
}

/// Into the driver's own area above all: indices, entries, event positions.
fn write_anything(
    u: &mut Unstructured<'_>,
    config: &Config,
    memories: [&GuestMemoryMmap; 2],
) -> Result<()> {
    let at = match u.int_in_range(0..=3)? {
        0 => u64::from(u.arbitrary::<u16>()?) & 0x3ffe,
        1 => DRIVER + 2,
        _ => DRIVER + 2 * u.int_in_range(0..=u64::from(config.size.min(64)) + 2)?,
    };
    let value: u16 = if u.arbitrary()? {
        u16::from(u.int_in_range(0..=20_u8)?)
    } else {
        u.arbitrary()?
    };
    for memory in memories {
        memory.write_obj(value, GuestAddress(at)).expect("inside");
    }
    Ok(())
}

/// A state from anywhere is refused, or makes a queue.
fn refuse_or_take(u: &mut Unstructured<'_>, config: &Config) -> Result<()> {
    let state = QueueState {
        config: Config {
            size: u.arbitrary()?,
            descriptors: u.arbitrary()?,
            ..*config
        },
        next_avail: u.arbitrary()?,
        next_used: u.arbitrary()?,
        signalled: u.arbitrary()?,
        kicks_enabled: u.arbitrary()?,
    };
    let memory: GuestMemoryMmap =
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("memory");
    if let Ok(mut queue) = state.restore(|config| HostRing::new(config, &memory)) {
        let mut chain = Chain::new(queue.config());
        let _ = queue.pop(&mut chain);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn smoke() {
        arbtest::arbtest(|u| {
            super::virtqueue_device(u.bytes(u.len())?);
            Ok(())
        })
        .budget_ms(1_000);
    }
}
