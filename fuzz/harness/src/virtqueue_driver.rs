//! The driver side of a virtqueue under a device that writes anything.

use arbitrary::{Result, Unstructured};
use virtqueue::vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use virtqueue::{
    AddError, Config, DriverQueue, HostRing, IndirectTables, Layout, RingFeatures, Segment,
};

const MEMORY: usize = 0x8000;
const DESCRIPTORS: u64 = 0x1000;
const DRIVER: u64 = 0x2000;
const DEVICE: u64 = 0x2800;
const TABLES: u64 = 0x4000;

type Driver<'m> = DriverQueue<HostRing<&'m GuestMemoryMmap>>;

/// Drives a queue with `data`.
pub fn virtqueue_driver(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let memory: GuestMemoryMmap =
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("memory");
    let Ok(mut queue) = queue(&mut u, &memory) else {
        return;
    };
    // What the device has, by id: the writable bytes.
    let mut out = [None; 16];
    while !u.is_empty() {
        if step(&mut u, &memory, &mut queue, &mut out).is_err() {
            break;
        }
        assert!(queue.free() <= queue.config().config().size);
    }
}

fn queue<'m>(u: &mut Unstructured<'_>, memory: &'m GuestMemoryMmap) -> Result<Driver<'m>> {
    let layout = *u.choose(&[Layout::Split, Layout::Packed])?;
    let sizes: &[u16] = match layout {
        Layout::Split => &[1, 2, 4, 16],
        Layout::Packed => &[1, 2, 3, 5, 16],
    };
    let size = *u.choose(sizes)?;
    let features = RingFeatures {
        event_idx: u.arbitrary()?,
        indirect: u.arbitrary()?,
        in_order: u.arbitrary()?,
    };
    let config = Config {
        layout,
        size,
        descriptors: DESCRIPTORS,
        driver: DRIVER,
        device: DEVICE,
        features,
    };
    let config = config.activate().expect("a good configuration");
    let ring = HostRing::new(&config, memory).expect("it lies in memory");
    let tables = features.indirect.then_some(IndirectTables {
        address: TABLES,
        entries: size,
    });
    Ok(DriverQueue::new(&config, ring, tables).expect("memory is there"))
}

fn step(
    u: &mut Unstructured<'_>,
    memory: &GuestMemoryMmap,
    queue: &mut Driver<'_>,
    out: &mut [Option<u32>; 16],
) -> Result<()> {
    match u.int_in_range(0..=9)? {
        0..=1 => add(u, queue, out)?,
        2 => {
            let _ = queue.publish();
        }
        3..=4 => lie(u, memory)?,
        5..=7 => {
            if let Ok(Some(used)) = queue.take_used() {
                let writable = out[usize::from(used.id)].take();
                let writable = writable.expect("the device had it");
                assert!(used.written <= writable);
            }
        }
        8 => {
            let _ = queue.enable_interrupts_delayed();
        }
        _ => {
            let _ = queue.disable_interrupts();
            let _ = queue.enable_interrupts();
        }
    }
    Ok(())
}

fn add(
    u: &mut Unstructured<'_>,
    queue: &mut Driver<'_>,
    out: &mut [Option<u32>; 16],
) -> Result<()> {
    let mut segments = [Segment {
        address: GuestAddress(0),
        length: 1,
    }; 8];
    for segment in &mut segments {
        segment.length = u32::from(u.arbitrary::<u8>()?);
    }
    let (readable, writable) = segments.split_at(4);
    let readable = &readable[..u.int_in_range(0..=4)?];
    let writable = &writable[..u.int_in_range(0..=4)?];
    match queue.add(readable, writable) {
        Ok(id) => {
            let bytes = writable.iter().map(|s| s.length).sum();
            let before = out[usize::from(id)].replace(bytes);
            assert_eq!(before, None, "an id is given out once");
        }
        Err(AddError::Full { needed, free }) => assert!(needed > free),
        Err(AddError::Malformed | AddError::Ring(_)) => {}
    }
    Ok(())
}

/// Anything in the device's area, or in the descriptors, which a packed device writes too.
fn lie(u: &mut Unstructured<'_>, memory: &GuestMemoryMmap) -> Result<()> {
    let small = u16::from(u.int_in_range(0..=17_u8)?);
    let value: u16 = *u.choose(&[small, 0x8080, 0x8082, 0, u16::MAX])?;
    let at = match u.int_in_range(0..=2)? {
        0 => DEVICE + 2,
        1 => DEVICE + 2 * u.int_in_range(0..=70_u64)?,
        _ => DESCRIPTORS + 2 * u.int_in_range(0..=127_u64)?,
    };
    memory.write_obj(value, GuestAddress(at)).expect("inside");
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn smoke() {
        arbtest::arbtest(|u| {
            super::virtqueue_driver(u.bytes(u.len())?);
            Ok(())
        })
        .budget_ms(1_000);
    }
}
