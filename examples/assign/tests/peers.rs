//! Our server under the `vfio_user` crate's client, and our client over that crate's server.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread::{self, JoinHandle};

use anyhow::Result;
use example_assign::{DmaCounts, DmaWay, Guest, Nic, Session, VfioUserDevice};
use machine::{AssignedDevice, CONFIGURATION, DeviceMemory, Signalling, UserNetwork};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use vfio_user::Client;

const SET_EVENT: u32 = 1 << 2 | 1 << 5;
const UNMASK: u32 = 1 << 0 | 1 << 4;

/// One client's session with our adapter, in a thread: how memory was reached, and messages turned down.
fn served(path: &Path) -> JoinHandle<Result<(DmaCounts, u64)>> {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        let (stream, _) = listener.accept()?;
        let mut session = Session::new(stream, Nic::new(Box::new(UserNetwork::new())))?;
        session.run()?;
        Ok((session.dma(), session.refused()))
    })
}

fn memory(sealed: bool) -> File {
    let file = memfd_create("peer", MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&file, 1 << 20).unwrap();
    if sealed {
        fcntl_add_seals(&file, SealFlags::SHRINK).unwrap();
    }
    File::from(file)
}

fn counted(event: &OwnedFd) -> bool {
    matches!(rustix::io::read(event, &mut [0; 8]), Ok(8))
}

fn write_register(client: &mut Client, offset: u64, value: u32) {
    client
        .region_write(0, offset, &value.to_le_bytes())
        .unwrap();
}

fn read_register(client: &mut Client, offset: u64) -> u32 {
    let mut bytes = [0; 4];
    client.region_read(0, offset, &mut bytes).unwrap();
    u32::from_le_bytes(bytes)
}

/// The crate's client finds the function, gives it a ring, has it send a frame, and hears of it by its pin.
fn a_strangers_client_sends_a_frame(sealed: bool) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let server = served(&path);
    let mut client = Client::new(&path).unwrap();
    assert_eq!(client.region(0).unwrap().size, 128 << 10);
    assert_eq!(client.region(7).unwrap().size, 256);
    let mut id = [0; 4];
    client.region_read(7, 0, &mut id).unwrap();
    assert_eq!(id, [0x86, 0x80, 0x0e, 0x10]);
    assert_eq!(client.get_irq_info(0).unwrap().count, 1);
    assert_eq!(client.get_irq_info(2).unwrap().count, 0);

    let file = memory(sealed);
    client
        .dma_map(0, 0x10_0000, 1 << 20, file.as_raw_fd())
        .unwrap();
    let flags = EventfdFlags::NONBLOCK;
    let pin = eventfd(0, flags).unwrap();
    client
        .set_irqs(0, SET_EVENT, 0, 1, &[pin.as_raw_fd()])
        .unwrap();
    client.region_write(7, 4, &[0x06, 0x00]).unwrap(); // memory, bus master

    // One descriptor: 64 bytes at 0x101000, end of packet, report status.
    let mut descriptor = [0; 16];
    descriptor[..8].copy_from_slice(&0x10_1000u64.to_le_bytes());
    descriptor[8..12].copy_from_slice(&(64u32 | 0x0b00_0000).to_le_bytes());
    file.write_all_at(&descriptor, 0x2000).unwrap();
    write_register(&mut client, 0x0000, 1 << 6); // CTRL: link up
    write_register(&mut client, 0x3800, 0x10_2000); // TDBAL
    write_register(&mut client, 0x3808, 128); // TDLEN
    write_register(&mut client, 0x00d0, 1); // IMS: TXDW
    write_register(&mut client, 0x0400, 1 << 1); // TCTL: enable
    assert!(!counted(&pin));
    write_register(&mut client, 0x3818, 1); // TDT
    assert_eq!(read_register(&mut client, 0x3810), 1, "TDH: sent");
    assert!(counted(&pin), "the pin is up");
    file.read_exact_at(&mut descriptor, 0x2000).unwrap();
    assert_eq!(descriptor[12] & 1, 1, "DD: done");

    // Masked by itself until the client unmasks it; still up, it is told of again.
    assert!(!counted(&pin));
    client.set_irqs(0, UNMASK, 0, 1, &[]).unwrap();
    assert_eq!(read_register(&mut client, 0x0008) & 2, 2, "STATUS: link");
    assert!(counted(&pin));
    assert_eq!(read_register(&mut client, 0x00c0) & 1, 1, "ICR: TXDW");
    client.set_irqs(0, UNMASK, 0, 1, &[]).unwrap();
    read_register(&mut client, 0x0008);
    assert!(!counted(&pin), "served");

    client.dma_unmap(0x10_0000, 1 << 20).unwrap();
    client.reset().unwrap();
    assert_eq!(read_register(&mut client, 0x3810), 0);
    client.shutdown().unwrap();
    let (dma, turned_down) = server.join().unwrap().unwrap();
    assert_eq!((dma.refused, turned_down), (0, 0));
    assert_eq!(dma.mapped > 0, sealed, "{dma:?}");
    assert_eq!(dma.files > 0, !sealed, "{dma:?}");
}

#[test]
fn a_strangers_client_sends_a_frame_from_sealed_memory() {
    a_strangers_client_sends_a_frame(true);
}

#[test]
fn a_strangers_client_sends_a_frame_from_a_file_that_it_may_cut() {
    a_strangers_client_sends_a_frame(false);
}

/// A device of the crate's server: a register in BAR 2 that answers its complement.
#[derive(Default)]
struct Complement {
    register: [u8; 4],
    config: Vec<u8>,
    maps: Vec<(u64, u64, bool)>,
    events: Vec<File>,
}

impl vfio_user::ServerBackend for Complement {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).unwrap();
        match region {
            7 => data.copy_from_slice(&self.config[offset..offset + data.len()]),
            _ => data.copy_from_slice(&self.register.map(|byte| !byte)[offset..][..data.len()]),
        }
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).unwrap();
        if region == 2 {
            self.register[offset..][..data.len()].copy_from_slice(data);
            for mut event in &self.events {
                event.write_all(&1u64.to_ne_bytes())?;
            }
        }
        Ok(())
    }

    fn dma_map(
        &mut self,
        _: vfio_user::DmaMapFlags,
        _: u64,
        address: u64,
        size: u64,
        file: Option<File>,
    ) -> io::Result<()> {
        self.maps.push((address, size, file.is_some()));
        Ok(())
    }

    fn dma_unmap(&mut self, _: vfio_user::DmaUnmapFlags, address: u64, _: u64) -> io::Result<()> {
        self.maps.retain(|map| map.0 != address);
        Ok(())
    }

    fn reset(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn set_irqs(&mut self, _: u32, _: u32, _: u32, _: u32, files: Vec<File>) -> io::Result<()> {
        self.events = files;
        Ok(())
    }
}

struct Nothing;

impl DeviceMemory for Nothing {
    fn read(&self, _: u64, _: &mut [u8]) -> bool {
        false
    }

    fn write(&self, _: u64, _: &[u8]) -> bool {
        false
    }
}

fn strangers_server(path: &Path) -> JoinHandle<Complement> {
    let region = |index: u32| vfio_user::ServerRegion {
        region_info: vfio_bindings::bindings::vfio::vfio_region_info {
            argsz: 32,
            flags: 3,
            index,
            size: match index {
                2 => 16,
                7 => 256,
                _ => 0,
            },
            ..Default::default()
        },
        sparse_areas: Vec::new(),
        mmap_fd: None,
    };
    let irq = |index| vfio_user::IrqInfo {
        index,
        flags: 1,
        count: u32::from(index == 0),
    };
    let irqs = (0..5).map(irq).collect();
    let regions = (0..9).map(region).collect();
    let server = vfio_user::Server::new(path, true, irqs, regions).unwrap();
    thread::spawn(move || {
        let mut device = Complement {
            config: (0..=255).collect(),
            ..Complement::default()
        };
        // Ends with an error when the client goes.
        let _ = server.run(&mut device);
        device
    })
}

#[test]
fn our_client_uses_a_strangers_server() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let server = strangers_server(&path);
    let ram = Guest::ram().unwrap();
    let mut device = VfioUserDevice::connect(&path, ram, DmaWay::Mapped).unwrap();
    assert_eq!((device.window(2), device.window(0)), (16, 0));
    let mut bytes = [0; 4];
    device.read(CONFIGURATION, 8, &mut bytes, &Nothing).unwrap();
    assert_eq!(bytes, [8, 9, 10, 11]);
    device.set_signalling(Signalling::Pin).unwrap();
    let mut vectors = Vec::new();
    device.poll(&mut vectors, &Nothing).unwrap();
    assert!(vectors.is_empty());
    device.write(2, 0, &[1, 2, 3, 4], &Nothing).unwrap();
    device.read(2, 0, &mut bytes, &Nothing).unwrap();
    assert_eq!(bytes, [0xfe, 0xfd, 0xfc, 0xfb]);
    device.poll(&mut vectors, &Nothing).unwrap();
    assert_eq!(vectors, [0]);
    let range = machine::DmaRange {
        iova: 0x1000,
        address: 0x2000,
        size: 0x1000,
        read: true,
        write: false,
    };
    device.map(&range).unwrap();
    device
        .map(&machine::DmaRange {
            iova: 0x5000,
            ..range
        })
        .unwrap();
    device.unmap(&range).unwrap();
    drop(device);
    let device = server.join().unwrap();
    assert_eq!(device.maps, [(0x5000, 0x1000, true)]);
}

/// What a hostile client sends ends its own session, and the answers name what is wrong.
#[test]
fn bytes_that_are_no_messages_end_their_session_only() {
    for bytes in [
        &[0u8; 16][..], // a message shorter than its header
        &[1, 0, 1, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0], // of 4 GiB
        &[1, 0, 1, 0, 16, 0, 0, 0, 0xff, 0, 0, 0, 0, 0, 0, 0], // with flags that do not exist
    ] {
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        let nic = Nic::new(Box::new(UserNetwork::new()));
        let mut session = Session::new(ours, nic).unwrap();
        theirs.write_all(bytes).unwrap();
        session.run().expect_err("nothing more can be understood");
    }
}

#[test]
fn a_client_that_goes_in_the_middle_of_a_message_is_gone() {
    let (mut theirs, ours) = UnixStream::pair().unwrap();
    let nic = Nic::new(Box::new(UserNetwork::new()));
    let mut session = Session::new(ours, nic).unwrap();
    theirs.write_all(&[1, 0, 1, 0, 32, 0, 0, 0, 0, 0]).unwrap();
    drop(theirs);
    session.run().expect_err("the rest never comes");
}
