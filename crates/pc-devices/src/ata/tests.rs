use super::*;

/// A disk of `sectors` sectors, each filled with its own number.
fn channel(sectors: usize) -> Ata<Vec<u8>> {
    let byte = |at: usize| u8::try_from(at / SECTOR % 251).unwrap();
    Ata::new((0..sectors * SECTOR).map(byte).collect())
}

fn out(ata: &mut Ata<Vec<u8>>, register: u16, value: u8) {
    ata.write(COMMAND_BLOCK + register, &[value]);
}

fn inb(ata: &mut Ata<Vec<u8>>, register: u16) -> u8 {
    let mut data = [0];
    ata.read(COMMAND_BLOCK + register, &mut data);
    data[0]
}

fn command(ata: &mut Ata<Vec<u8>>, code: u8, lba: u32, count: u8) {
    let [low, middle, high, top] = lba.to_le_bytes();
    for (register, value) in [
        (2, count),
        (3, low),
        (4, middle),
        (5, high),
        (6, 0xe0 | top),
        (7, code),
    ] {
        out(ata, register, value);
    }
}

fn words(ata: &mut Ata<Vec<u8>>, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; 2 * count];
    for word in bytes.chunks_mut(2) {
        ata.read(COMMAND_BLOCK, word);
    }
    bytes
}

#[test]
fn identify_tells_the_size_and_the_name() {
    let mut ata = channel(3000);
    out(&mut ata, 7, 0xec);
    assert!(ata.irq());
    assert_eq!(inb(&mut ata, 7), 0x58);
    assert!(!ata.irq(), "reading the status takes the interrupt");
    let identity = words(&mut ata, 256);
    assert_eq!(identity[120..124], 3000u32.to_le_bytes());
    assert_eq!(identity[200..208], 3000u64.to_le_bytes());
    assert_eq!(&identity[54..62], b"ostfemat");
    assert_eq!(inb(&mut ata, 7), 0x50);
}

#[test]
fn sectors_are_read_with_an_interrupt_each_and_none_at_the_end() {
    let mut ata = channel(300);
    command(&mut ata, 0x20, 7, 3);
    for sector in 7..10 {
        assert!(ata.irq());
        assert_eq!(inb(&mut ata, 7), 0x58);
        assert_eq!(words(&mut ata, 256), [sector; SECTOR]);
    }
    assert!(!ata.irq());
    assert_eq!(inb(&mut ata, 7), 0x50);
    assert_eq!(ata.moved().read, 3);
}

#[test]
fn a_count_of_zero_is_256_and_multiple_moves_blocks() {
    let mut ata = channel(300);
    command(&mut ata, 0xc4, 0, 1);
    assert_eq!((inb(&mut ata, 7), inb(&mut ata, 1)), (0x51, 4), "not set");
    out(&mut ata, 2, 16);
    out(&mut ata, 7, 0xc6);
    command(&mut ata, 0xc4, 40, 0);
    let mut interrupts = 0;
    for block in 0..16u8 {
        interrupts += u8::from(ata.irq());
        inb(&mut ata, 7);
        let bytes = words(&mut ata, 16 * 256);
        let sector = |n: u16| u8::try_from(n % 251).unwrap();
        let first = 40 + 16 * u16::from(block);
        assert_eq!((bytes[0], bytes[8191]), (sector(first), sector(first + 15)));
    }
    assert_eq!((interrupts, inb(&mut ata, 7)), (16, 0x50));
}

#[test]
fn written_sectors_arrive_when_they_are_whole() {
    let mut ata = channel(20);
    command(&mut ata, 0x30, 5, 2);
    assert!(!ata.irq());
    assert_eq!(inb(&mut ata, 7), 0x58);
    for _ in 0..255 {
        ata.write(COMMAND_BLOCK, &[0xaa, 0xbb]);
    }
    assert_eq!(ata.disk()[5 * SECTOR], 5);
    ata.write(COMMAND_BLOCK, &[0xaa, 0xbb, 1, 2]);
    assert_eq!(ata.disk()[5 * SECTOR..][..2], [0xaa, 0xbb]);
    assert!(ata.irq());
    for _ in 0..128 {
        ata.write(COMMAND_BLOCK, &[1, 2, 3, 4]);
    }
    assert_eq!(ata.disk()[6 * SECTOR..][..4], [1, 2, 3, 4]);
    assert_eq!((inb(&mut ata, 7), ata.moved().written), (0x50, 2));
}

#[test]
fn addresses_of_48_bits_and_of_cylinders_name_the_same_sectors() {
    let mut ata = channel(1200);
    for (register, value) in [
        (2, 0),
        (2, 1),
        (3, 0),
        (3, 0xe8),
        (4, 0),
        (4, 3),
        (5, 0),
        (5, 0),
    ] {
        out(&mut ata, register, value);
    }
    out(&mut ata, 6, 0xe0);
    out(&mut ata, 7, 0x24);
    let by_lba = words(&mut ata, 256);
    assert_eq!(by_lba[0], u8::try_from(1000 % 251).unwrap());
    // 1000 = 15 * 63 + 55.
    for (register, value) in [(2, 1), (3, 56), (4, 0), (5, 0), (6, 0xaf), (7, 0x20)] {
        out(&mut ata, register, value);
    }
    assert_eq!(words(&mut ata, 256), by_lba);
    ata.write(CONTROL, &[0x80]);
    assert_eq!(inb(&mut ata, 3), 0xe8, "the earlier value shows under HOB");
}

#[test]
fn sectors_that_are_not_there_are_an_error() {
    let mut ata = channel(20);
    for (lba, count) in [(20, 1), (19, 2), (0x0fff_ffff, 0)] {
        command(&mut ata, 0x20, lba, count);
        assert_eq!((inb(&mut ata, 7), inb(&mut ata, 1)), (0x51, 0x10));
    }
    command(&mut ata, 0xa1, 0, 0);
    assert_eq!((inb(&mut ata, 7), inb(&mut ata, 1)), (0x51, 4));
}

#[test]
fn the_second_device_is_absent() {
    let mut ata = channel(20);
    out(&mut ata, 6, 0xb0);
    out(&mut ata, 7, 0xec);
    assert_eq!((inb(&mut ata, 7), ata.irq()), (0, false));
    out(&mut ata, 6, 0xa0);
    assert_eq!(inb(&mut ata, 7), 0x50);
}

#[test]
fn a_reset_ends_what_was_going_on() {
    let mut ata = channel(20);
    command(&mut ata, 0x20, 5, 2);
    ata.write(CONTROL, &[4]);
    assert_eq!(inb(&mut ata, 7), 0x80);
    ata.write(CONTROL, &[2]);
    assert_eq!((inb(&mut ata, 7), inb(&mut ata, 1)), (0x50, 1));
    assert_eq!(
        [2, 3, 4, 5].map(|register| inb(&mut ata, register)),
        [1, 1, 0, 0]
    );
    command(&mut ata, 0x20, 5, 2);
    assert!(!ata.irq(), "nIEN holds the interrupt back");
}

#[test]
fn a_state_goes_on_where_it_was_and_a_forged_one_is_refused() {
    let mut ata = channel(20);
    command(&mut ata, 0x20, 5, 2);
    words(&mut ata, 100);
    let state = ata.state();
    let mut restored = Ata::restore(ata.disk().clone(), state.clone()).unwrap();
    assert_eq!(words(&mut restored, 156 + 256), words(&mut ata, 156 + 256));
    let forge = |change: fn(&mut command::Block)| {
        let mut state = state.clone();
        if let Progress::In(block) = &mut state.progress {
            change(block);
        }
        Ata::restore(vec![0; 20 * SECTOR], state)
            .map(drop)
            .unwrap_err()
    };
    for error in [
        forge(|block| block.moved = SECTOR),
        forge(|block| block.left = 100),
        forge(|block| block.size = 17),
        forge(|block| block.bytes.truncate(1)),
        forge(|block| block.lba = 0),
    ] {
        assert_eq!(
            error.to_string(),
            "ATA state: field progress is out of range"
        );
    }
}
