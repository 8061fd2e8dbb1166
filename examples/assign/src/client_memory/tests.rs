use std::os::unix::net::UnixStream;
use std::thread;

use rustix::fs::{MemfdFlags, fcntl_add_seals, ftruncate, memfd_create};
use vfio_user_protocol::{Direction, Header};
use vm_memory::Bytes;

use super::*;
use crate::link::refusal;
use crate::socket::Socket;

const SIZE: u64 = 0x4000;

/// A file whose bytes count up.
fn file(sealed: bool) -> OwnedFd {
    let flags = MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC;
    let file = memfd_create("test", flags).unwrap();
    ftruncate(&file, SIZE).unwrap();
    let bytes: Vec<u8> = (0..SIZE)
        .map(|number| (number >> 4).to_le_bytes()[0])
        .collect();
    File::from(file.try_clone().unwrap())
        .write_all_at(&bytes, 0)
        .unwrap();
    if sealed {
        fcntl_add_seals(&file, SealFlags::SHRINK).unwrap();
    }
    file
}

fn region(address: u64, write: bool) -> DmaRegion {
    DmaRegion {
        address,
        size: SIZE,
        direction: Direction { read: true, write },
        offset: 0,
    }
}

/// Memory, and the client's end of its connection.
fn memory() -> (ClientMemory, Socket) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let link = Link::new(Socket::new(ours).unwrap());
    let memory = ClientMemory::new(Rc::new(RefCell::new(link))).unwrap();
    (memory, Socket::new(theirs).unwrap())
}

#[test]
fn sealed_files_are_mapped_and_others_are_read() {
    let (mut memory, _client) = memory();
    memory.map(region(0x10000, true), Some(file(true))).unwrap();
    memory
        .map(region(0x20000, true), Some(file(false)))
        .unwrap();
    for address in [0x10000, 0x20000] {
        let number: u8 = memory.read_obj(GuestAddress(address + 0x123)).unwrap();
        assert_eq!(number, 0x12);
        memory
            .write_slice(&[1, 2, 3], GuestAddress(address + 0x200))
            .unwrap();
        let mut back = [0; 4];
        memory
            .read_slice(&mut back, GuestAddress(address + 0x200))
            .unwrap();
        assert_eq!(back, [1, 2, 3, 0x20], "a device sees what it wrote");
    }
    let counts = memory.counts();
    assert_eq!((counts.mapped, counts.files), (3, 3));
}

#[test]
fn a_file_that_is_cut_is_an_error_and_nothing_worse() {
    let (mut memory, _client) = memory();
    let unsealed = file(false);
    let kept = unsealed.try_clone().unwrap();
    memory.map(region(0, true), Some(unsealed)).unwrap();
    ftruncate(&kept, 0).unwrap();
    memory
        .read_obj::<u64>(GuestAddress(0x100))
        .expect_err("nothing is there any more");
    let short = memory.map(region(0x10000, true), Some(kept));
    short.expect_err("shorter than the region from the beginning");
}

#[test]
fn only_what_was_permitted_is_reached() {
    let (mut memory, _client) = memory();
    memory
        .map(region(0x10000, false), Some(file(true)))
        .unwrap();
    memory
        .map(region(0x14000, true), Some(file(false)))
        .unwrap();
    let across = GuestAddress(0x13ff8);
    memory.read_obj::<u128>(across).expect("two regions");
    memory
        .write_obj(0u128, across)
        .expect_err("one is read only");
    memory
        .read_obj::<u64>(GuestAddress(0x17ffc))
        .expect_err("past the end");
    memory.unmap(&[region(0x10000, false)]);
    memory
        .read_obj::<u8>(GuestAddress(0x10000))
        .expect_err("unmapped");
    assert_eq!(memory.counts().refused, 3);
}

#[test]
fn memory_without_a_file_is_asked_for() {
    let (mut memory, mut client) = memory();
    memory.map(region(0x1000, true), None).unwrap();
    let answering = thread::spawn(move || {
        let mut asked = Vec::new();
        while let Some(message) = client.receive().unwrap() {
            let header: Header = message.header;
            let request = Request::decode(&header, &message.payload, 0).unwrap();
            let answer = match &request {
                Request::DmaRead {
                    address: 0x1100, ..
                } => refusal(&header, 22),
                Request::DmaRead { count, .. } => {
                    Reply::Data(vec![7; usize::try_from(*count).unwrap()])
                        .encode(header.id, &request)
                }
                _ => Reply::Done.encode(header.id, &request),
            };
            client.send(&answer, &[]).unwrap();
            asked.push(request);
        }
        asked
    });
    memory.write_slice(&[1, 2], GuestAddress(0x1080)).unwrap();
    let number: u16 = memory.read_obj(GuestAddress(0x1000)).unwrap();
    assert_eq!(number, 0x0707);
    memory
        .read_obj::<u8>(GuestAddress(0x1100))
        .expect_err("the client refuses");
    memory.write_slice(&[3], GuestAddress(0x1084)).unwrap();
    memory.flush();
    drop(memory);
    let write = |address, data: &[u8]| Request::DmaWrite {
        address,
        data: data.to_vec(),
    };
    let read = |address, count| Request::DmaRead { address, count };
    let asked = answering.join().unwrap();
    let wanted = [
        write(0x1080, &[1, 2]),
        read(0x1000, 2),
        read(0x1100, 1),
        write(0x1084, &[3]),
    ];
    assert_eq!(asked, wanted, "in the device's order");
}
