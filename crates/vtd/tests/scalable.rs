//! Scalable mode: PASID tables, first stage, nested translation, device TLBs, page requests.

mod common;

use common::{Guest, NIC, ROOT, STATUS};
use vtd::registers::*;
use vtd::{
    AccessKind, Capabilities, DeviceTlbInvalidation, Event, Iova, Message, PageRequest,
    PageResponse, Pasid, Request, ResponseCode, Translation,
};

const CONTEXT: u64 = 0x8000;
const DIRECTORY: u64 = 0x9000;
const PASIDS: u64 = 0xa000;
const REQUESTS: u64 = 0xb000;
/// The entry of the NIC, 00:02.0.
const OWN: u64 = CONTEXT + 16 * 32;
const SEVEN: Pasid = Pasid::new(7).unwrap();

/// PGTT.
const FIRST: u64 = 1 << 6;
const SECOND: u64 = 2 << 6;
const NESTED: u64 = 3 << 6;
const PASS: u64 = 4 << 6;
/// Four levels of the second stage.
const AW_48: u64 = 2 << 2;

/// The NIC has all enables, PASID 3 for requests without, and an empty PASID table.
fn scalable() -> Guest {
    let mut guest = Guest::new(Capabilities::scalable());
    guest.wide = true;
    guest.poke(ROOT, CONTEXT | 1);
    guest.poke(OWN, DIRECTORY | 0b1_1101);
    guest.poke(OWN + 8, 3);
    guest.poke(DIRECTORY, PASIDS | 1);
    guest.set_quad(RTADDR, ROOT | 1 << 10);
    guest.command(SRTP);
    guest.enable_queue();
    guest.command(TE);
    guest
}

fn pasid_entry(guest: &Guest, pasid: u64, words: [u64; 3]) {
    for (offset, word) in (0..).step_by(8).zip(words) {
        guest.poke(PASIDS + pasid * 64 + offset, word);
    }
}

/// Maps a page in a first stage of four levels, whose tables lie where `place` says of each.
fn map_first(guest: &mut Guest, root: u64, iova: u64, leaf: u64) {
    let mut table = root;
    for level in [4, 3, 2] {
        let at = table + (iova >> (3 + 9 * level) & 0x1ff) * 8;
        if guest.peek(at) & 1 == 0 {
            let next = guest.table();
            guest.poke(at, next | 7);
        }
        table = guest.peek(at) & !0xfff;
    }
    guest.poke(table + (iova >> 12 & 0x1ff) * 8, leaf);
}

fn ask(
    guest: &mut Guest,
    pasid: Option<Pasid>,
    iova: u64,
    kind: AccessKind,
    privileged: bool,
) -> Result<Translation, u8> {
    let request = Request {
        source_id: NIC,
        pasid,
        address: Iova(iova),
        kind,
        privileged,
    };
    let found = guest.unit.translate(&guest.memory, &request);
    found.map_err(|fault| fault.reason.number())
}

fn read(guest: &mut Guest, iova: u64) -> Result<u64, u8> {
    ask(guest, Some(SEVEN), iova, AccessKind::Read, false).map(|found| found.address)
}

fn write(guest: &mut Guest, iova: u64) -> Result<u64, u8> {
    ask(guest, Some(SEVEN), iova, AccessKind::Write, false).map(|found| found.address)
}

#[test]
fn requests_without_pasid_use_that_of_the_context() {
    let mut guest = scalable();
    let root = guest.table();
    pasid_entry(&guest, 3, [root | SECOND | AW_48 | 1, 1, 0]);
    guest.map(root, 4, 0x1000, 0x5000 | 3, 1);
    assert_eq!(guest.read(0x1234), Ok(0x5234));
    assert_eq!(read(&mut guest, 0x1234), Err(0x59), "PASID 7 has nothing");
}

#[test]
fn the_first_stage_is_a_process_s_paging() {
    let mut guest = scalable();
    let root = guest.table();
    // SRE and WPE.
    pasid_entry(&guest, 7, [FIRST | 1, 1, root | 1 | 1 << 4]);
    map_first(&mut guest, root, 0x1000, 0x5000 | 7);
    map_first(&mut guest, root, 0x2000, 0x6000 | 5);
    map_first(&mut guest, root, 0x3000, 0x7000 | 3);
    map_first(&mut guest, root, 0xffff_ffff_ffff_f000, 0x9000 | 7);
    for _ in 0..2 {
        assert_eq!(read(&mut guest, 0x1004), Ok(0x5004));
        assert_eq!(write(&mut guest, 0x1004), Ok(0x5004));
        assert_eq!(read(&mut guest, 0x2000), Ok(0x6000));
        assert_eq!(write(&mut guest, 0x2000), Err(0x85));
        assert_eq!(read(&mut guest, 0x3000), Err(0x81));
        assert_eq!(write(&mut guest, 0x3000), Err(0x81));
        let privileged = ask(&mut guest, Some(SEVEN), 0x3000, AccessKind::Write, true);
        assert_eq!(privileged.unwrap().address, 0x7000);
        assert_eq!(read(&mut guest, 0xffff_ffff_ffff_f008), Ok(0x9008));
    }
    assert_eq!(read(&mut guest, 0x4000), Err(0x71));
    assert_eq!(read(&mut guest, 1 << 47), Err(0x80));
}

/// The entry that Linux 6.1 writes for a device without PASID: NXE, and an address width that means nothing
/// to a first stage.
#[test]
fn no_execute_enable_changes_nothing_for_reads_and_writes() {
    let mut guest = scalable();
    let root = guest.table();
    map_first(&mut guest, root, 0x40_1000, 1 << 63 | 0x9000 | 7);
    pasid_entry(&guest, 7, [FIRST | 3 << 2 | 1, 3, root | 1 << 5]);
    assert_eq!(read(&mut guest, 0x40_1234), Ok(0x9234));
    assert_eq!(write(&mut guest, 0x40_1234), Ok(0x9234));
    for execute in [1 << 1, 1 << 6, 1 << 7] {
        pasid_entry(&guest, 7, [FIRST | 1, 4, root | execute]);
        guest.command(SRTP);
        assert_eq!(read(&mut guest, 0x40_1234), Err(0x5a));
    }
}

#[test]
fn a_first_stage_page_is_written_once_it_is_marked() {
    let mut guest = scalable();
    let root = guest.table();
    pasid_entry(&guest, 7, [FIRST | 1, 1, root]);
    map_first(&mut guest, root, 0x1000, 0x5000 | 7);
    let mut table = root;
    for _ in 0..3 {
        table = guest.peek(table) & !0xfff;
    }
    assert_eq!(read(&mut guest, 0x1000), Ok(0x5000));
    assert_eq!(guest.peek(table + 8), 0x5027, "accessed");
    assert_eq!(write(&mut guest, 0x1000), Ok(0x5000));
    assert_eq!(guest.peek(table + 8), 0x5067, "and dirty");
}

#[test]
fn the_first_stage_lies_over_the_second() {
    let mut guest = scalable();
    let (first, second) = (guest.table(), guest.table());
    pasid_entry(&guest, 7, [second | NESTED | AW_48 | 1, 1, first]);
    map_first(&mut guest, first, 0x1000, 0x40_0000 | 7);
    map_first(&mut guest, first, 0x2000, 0x40_1000 | 7);
    map_first(&mut guest, first, 0x3000, 0x40_2000 | 7);
    // The guest's tables are where it thinks they are, its pages elsewhere.
    guest.map(second, 4, 0, 3, 2);
    guest.map(second, 4, 0x40_0000, 0x80_0000 | 3, 1);
    guest.map(second, 4, 0x40_1000, 0x80_1000 | 1, 1);
    for _ in 0..2 {
        assert_eq!(write(&mut guest, 0x1008), Ok(0x80_0008));
        assert_eq!(read(&mut guest, 0x2000), Ok(0x80_1000));
        assert_eq!(write(&mut guest, 0x2000), Err(0x85));
        assert_eq!(read(&mut guest, 0x3000), Err(0x79));
    }
    // A page-selective invalidation of the second stage reaches what was cached by first-stage addresses.
    guest.map(second, 4, 0x40_0000, 0x80_5000 | 3, 1);
    assert_eq!(read(&mut guest, 0x1008), Ok(0x80_0008));
    guest.submit(&[[2 | 3 << 4 | 1 << 16, 0x40_0000]]);
    assert_eq!(read(&mut guest, 0x1008), Ok(0x80_5008));
}

#[test]
fn a_nested_walk_tells_what_the_second_stage_denied() {
    let mut guest = scalable();
    let (first, second) = (guest.table(), guest.table());
    pasid_entry(&guest, 7, [second | NESTED | AW_48 | 1, 1, first]);
    map_first(&mut guest, first, 0x1000, 0x5000 | 7);
    assert_eq!(
        read(&mut guest, 0x1000),
        Err(0x75),
        "the top table is not mapped"
    );
    guest.map(second, 4, first, first | 3, 1);
    assert_eq!(read(&mut guest, 0x1000), Err(0x76), "nor the next");
    for page in 0..16 {
        let at = common::TABLES + (page << 12);
        guest.map(second, 4, at, at | 1, 1);
    }
    assert_eq!(
        read(&mut guest, 0x1000),
        Err(0x77),
        "the accessed flag cannot be set"
    );
}

#[test]
fn every_table_has_its_faults() {
    let mut guest = scalable();
    let root = guest.table();
    pasid_entry(&guest, 7, [root | SECOND | AW_48 | 1, 1, 0]);
    guest.map(root, 4, 0x1000, 0x5000 | 3, 1);
    let own = PASIDS + 7 * 64;
    let mut expect = |at: u64, value: u64, reason: u8| {
        let before = guest.peek(at);
        guest.poke(at, value);
        guest.command(SRTP);
        assert_eq!(
            read(&mut guest, 0x1000),
            Err(reason),
            "{value:#x} at {at:#x}"
        );
        guest.poke(at, before);
    };
    expect(ROOT, 0, 0x39);
    expect(ROOT, CONTEXT | 3, 0x3a);
    expect(ROOT, 1 << 40 | 1, 0x40);
    expect(OWN, 0, 0x41);
    expect(OWN, DIRECTORY | 1 << 5 | 1, 0x42);
    expect(OWN + 8, 1 << 21, 0x42);
    expect(OWN + 16, 1, 0x42);
    expect(OWN, DIRECTORY | 1 << 4 | 1, 0x43);
    expect(OWN, DIRECTORY | 1, 0x45);
    expect(OWN, 1 << 40 | 9, 0x50);
    expect(DIRECTORY, 0, 0x51);
    expect(DIRECTORY, PASIDS | 5, 0x52);
    expect(DIRECTORY, 1 << 40 | 1, 0x58);
    expect(own, 0, 0x59);
    expect(own, root | SECOND | AW_48 | 1 << 10 | 1, 0x5a);
    expect(own + 56, 1, 0x5a);
    expect(own, root | 5 << 6 | AW_48 | 1, 0x5b);
    expect(own, root | SECOND | 5 << 2 | 1, 0x5b);
    expect(own, 1 << 40 | SECOND | AW_48 | 1, 0x7b);
    expect(root, 0, 0x79);
    expect(root, 1 << 62 | 3, 0x7a);
    expect(root, 1 << 40 | 3, 0x78);
    let privileged = ask(&mut guest, Some(SEVEN), 0x1000, AccessKind::Read, true);
    assert_eq!(privileged, Err(0x5d), "SRE is clear");
    let beyond = ask(
        &mut guest,
        Pasid::new(1 << 13),
        0x1000,
        AccessKind::Read,
        false,
    );
    assert_eq!(beyond, Err(0x46), "a directory of 128 entries");
    assert_eq!(read(&mut guest, 1 << 48), Err(0x83));
    guest.set_quad(RTADDR, ROOT);
    guest.command(SRTP);
    assert_eq!(
        read(&mut guest, 0x1000),
        Err(0x31),
        "legacy mode has no PASIDs"
    );
}

#[test]
fn a_fault_tells_its_process() {
    let mut guest = scalable();
    assert_eq!(write(&mut guest, 0x1234), Err(0x59));
    assert_eq!(guest.get_quad(FRCD), 0x1000);
    let expected = 1 << 63 | 7 << 40 | 0x59 << 32 | 1 << 31 | u64::from(NIC.0);
    assert_eq!(guest.get_quad(FRCD + 8), expected);
}

#[test]
fn what_is_cached_of_a_process_stays_until_it_is_invalidated() {
    let caches: [[u64; 2]; 3] = [[7, 0], [7 | 1 << 4 | 7 << 32, 0], [7 | 3 << 4, 0]];
    for pasid_cache in caches {
        let mut guest = scalable();
        let root = guest.table();
        pasid_entry(&guest, 7, [FIRST | 1, 1, root]);
        map_first(&mut guest, root, 0x1000, 0x5000 | 7);
        assert_eq!(read(&mut guest, 0x1000), Ok(0x5000));
        pasid_entry(&guest, 7, [PASS | 1, 1, 0]);
        assert_eq!(read(&mut guest, 0x1000), Ok(0x5000));
        let domain_one = if pasid_cache[0] >> 4 & 3 == 3 {
            0
        } else {
            1 << 16
        };
        guest.submit(&[[7 | 1 << 4 | 1 << 16 | 9 << 32, 0]]);
        assert_eq!(read(&mut guest, 0x1000), Ok(0x5000), "that was PASID 9");
        guest.submit(&[[pasid_cache[0] | domain_one, 0]]);
        assert_eq!(read(&mut guest, 0x1000), Ok(0x1000));
    }
}

#[test]
fn process_pages_are_invalidated_alone() {
    let mut guest = scalable();
    let root = guest.table();
    pasid_entry(&guest, 7, [FIRST | 1, 1, root]);
    let remap = |guest: &mut Guest, by: u64| {
        for page in [1, 2] {
            map_first(guest, root, page << 12, (page + by) << 12 | 7);
        }
    };
    remap(&mut guest, 4);
    assert_eq!(
        (read(&mut guest, 0x1000), read(&mut guest, 0x2000)),
        (Ok(0x5000), Ok(0x6000))
    );
    remap(&mut guest, 8);
    // Another process, another domain; the second stage's pages are none of the first's.
    guest.submit(&[
        [6 | 2 << 4 | 1 << 16 | 8 << 32, 0],
        [6 | 2 << 4 | 2 << 16 | 7 << 32, 0],
        [2 | 3 << 4 | 1 << 16, 0x1000],
    ]);
    assert_eq!(
        (read(&mut guest, 0x1000), read(&mut guest, 0x2000)),
        (Ok(0x5000), Ok(0x6000))
    );
    guest.submit(&[[6 | 3 << 4 | 1 << 16 | 7 << 32, 0x1000]]);
    assert_eq!(
        (read(&mut guest, 0x1000), read(&mut guest, 0x2000)),
        (Ok(0x9000), Ok(0x6000))
    );
    guest.submit(&[[6 | 2 << 4 | 1 << 16 | 7 << 32, 0]]);
    assert_eq!(read(&mut guest, 0x2000), Ok(0xa000));
}

#[test]
fn the_second_stage_marks_pages_where_it_is_to() {
    let mut guest = scalable();
    let root = guest.table();
    pasid_entry(&guest, 7, [root | SECOND | AW_48 | 1 << 9 | 1, 1, 0]);
    guest.map(root, 4, 0x1000, 0x5000 | 3, 1);
    assert_eq!(read(&mut guest, 0x1000), Ok(0x5000));
    assert_ne!(guest.peek(root) & 1 << 8, 0, "accessed");
    let found = ask(&mut guest, Some(SEVEN), 0x1000, AccessKind::Read, false).unwrap();
    assert!(!found.write, "its dirty flag is not set");
    assert_eq!(write(&mut guest, 0x1000), Ok(0x5000));
    let found = ask(&mut guest, Some(SEVEN), 0x1000, AccessKind::Read, false).unwrap();
    assert!(found.write);
}

#[test]
fn a_device_translates_for_itself() {
    let mut guest = scalable();
    let root = guest.table();
    pasid_entry(&guest, 3, [root | SECOND | AW_48 | 1, 1, 0]);
    guest.map(root, 4, 0x1000, 0x5000 | 1, 1);
    let ask = |guest: &mut Guest, iova| {
        let request = Request::new(NIC, Iova(iova), AccessKind::ReadWrite);
        guest.unit.translate_for_device(&guest.memory, &request)
    };
    let found = ask(&mut guest, 0x1000).unwrap();
    assert_eq!(
        (found.address, found.read, found.write),
        (0x5000, true, false)
    );
    let found = ask(&mut guest, 0x2000).unwrap();
    assert_eq!((found.read, found.write), (false, false));
    assert_eq!(guest.get(FSTS), 0, "a page that is not there is no fault");
    let translated = guest
        .unit
        .check_translated(&guest.memory, NIC, 0x5000, AccessKind::Write);
    assert_eq!(translated, Ok(()));
    guest.poke(OWN, DIRECTORY | 0b1001);
    guest.submit(&[[1 | 1 << 4, 0]]);
    assert_eq!(ask(&mut guest, 0x1000).unwrap_err().reason.number(), 0x44);
    let translated = guest
        .unit
        .check_translated(&guest.memory, NIC, 0x5000, AccessKind::Write);
    assert_eq!(translated.unwrap_err().reason.number(), 0x44);
}

#[test]
fn a_wait_completes_after_the_device_was_told() {
    let mut guest = scalable();
    let source = u64::from(NIC.0);
    guest.submit(&[
        [3 | source << 32, 0x7000 | 1],
        [8 | source << 16 | 7 << 32, 0x1000],
        [5 | 1 << 5 | 1 << 32, STATUS],
    ]);
    assert_eq!(guest.peek(STATUS), 0);
    let told = |pasid, address, inside_bits| {
        Event::DeviceTlb(DeviceTlbInvalidation {
            source_id: NIC,
            pasid,
            address: Iova(address),
            inside_bits,
            global: false,
        })
    };
    // S with three ones: 16 pages.
    let expected = [told(None, 0, 16), told(Some(SEVEN), 0x1000, 12)];
    assert_eq!(guest.events(), expected);
    guest.unit.process(&guest.memory);
    assert_eq!(guest.peek(STATUS), 1);
}

#[test]
fn a_flood_of_events_stops_the_queue_and_loses_none() {
    let mut guest = scalable();
    let descriptor = [3 | u64::from(NIC.0) << 32, 0x1000];
    guest.submit(&[descriptor; 100]);
    let mut taken = 0;
    while guest.get_quad(IQH) != guest.get_quad(IQT) || taken == 0 {
        let events = guest.events().len();
        assert!(events <= vtd::EVENTS_MAX);
        taken += events;
        guest.unit.process(&guest.memory);
    }
    taken += guest.events().len();
    assert_eq!(taken, 100);
}

fn page_request(last: bool) -> PageRequest {
    PageRequest {
        source_id: NIC,
        pasid: Some(SEVEN),
        address: Iova(0x1234),
        read: true,
        write: true,
        privileged: false,
        group: 5,
        last,
    }
}

#[test]
fn a_device_asks_for_pages_and_is_answered() {
    let mut guest = scalable();
    pasid_entry(&guest, 7, [PASS | 1, 1, 0]);
    guest.set_quad(PQA, REQUESTS);
    guest.set(PEDATA, 0x61);
    guest.set(PEADDR, 0xfee0_0000);
    guest.set(PECTL, 0);
    guest
        .unit
        .request_page(&guest.memory, &page_request(false))
        .unwrap();
    assert_eq!((guest.get(PRS), guest.get_quad(PQT)), (0, 32));
    guest
        .unit
        .request_page(&guest.memory, &page_request(true))
        .unwrap();
    assert_eq!((guest.get(PRS), guest.get_quad(PQT)), (PRS_PPR, 64));
    assert_eq!(
        guest.events(),
        [Event::Message(Message {
            address: 0xfee0_0000,
            data: 0x61
        })]
    );
    let first = 1 | 1 << 8 | u64::from(NIC.0) << 16 | 7 << 32;
    assert_eq!(guest.peek(REQUESTS + 32), first);
    assert_eq!(guest.peek(REQUESTS + 40), 0x1000 | 5 << 3 | 7);
    guest.set(PRS, PRS_PPR);
    guest.submit(&[[9 | 1 << 4 | u64::from(NIC.0) << 16 | 7 << 32, 5 << 3 | 4]]);
    let response = PageResponse {
        source_id: NIC,
        pasid: Some(SEVEN),
        group: 5,
        code: ResponseCode::Success,
    };
    assert_eq!(guest.events(), [Event::PageResponse(response)]);
}

#[test]
fn a_full_queue_of_page_requests_answers_itself() {
    let mut guest = scalable();
    pasid_entry(&guest, 7, [PASS | 1, 1, 0]);
    guest.set_quad(PQA, REQUESTS);
    for _ in 0..127 {
        guest
            .unit
            .request_page(&guest.memory, &page_request(false))
            .unwrap();
    }
    assert_eq!(guest.get(PRS), 0);
    guest
        .unit
        .request_page(&guest.memory, &page_request(true))
        .unwrap();
    assert_eq!(guest.get(PRS), PRS_PRO);
    assert!(matches!(
        guest.events()[..],
        [Event::PageResponse(PageResponse {
            code: ResponseCode::Success,
            ..
        })]
    ));
    assert_eq!(guest.unit.counters().page_requests, 127);
}

#[test]
fn page_requests_need_leave() {
    let mut guest = scalable();
    pasid_entry(&guest, 7, [PASS | 1, 1, 0]);
    guest.poke(OWN, DIRECTORY | 0b1101);
    let fault = guest
        .unit
        .request_page(&guest.memory, &page_request(true))
        .unwrap_err();
    assert_eq!(fault.reason.number(), 0x47);
    assert!(matches!(
        guest.events()[..],
        [Event::PageResponse(PageResponse {
            code: ResponseCode::Failure,
            ..
        })]
    ));
}

#[test]
fn descriptors_have_256_bits_where_they_must() {
    let mut guest = scalable();
    guest.poke(common::QUEUE + 16, 1);
    guest.poke(common::QUEUE, 5);
    guest.set_quad(IQT, 32);
    assert_eq!(
        (guest.get(FSTS), guest.get(IQERCD)),
        (FSTS_IQE, 4),
        "the upper half is reserved"
    );
    let mut guest = scalable();
    guest.set_quad(IQT, 16);
    assert_eq!(
        (guest.get(FSTS), guest.get(IQERCD)),
        (FSTS_IQE, 6),
        "a tail in the middle"
    );
    let mut guest = scalable();
    guest.wide = false;
    guest.drop_command(QIE);
    guest.enable_queue();
    guest.submit(&[[9, 0]]);
    assert_eq!(
        (guest.get(FSTS), guest.get(IQERCD)),
        (FSTS_IQE, 5),
        "a page response is wide"
    );
}
