use super::*;
use crate::{Bus, Ecam, MsixTable, add_express};

const OWN: u16 = 3 << 3;

fn header() -> Header {
    Header {
        vendor: 0x8086,
        device: 0x10c9,
        class: [0x02, 0x00, 0x00],
        subsystem_vendor: 0x8086,
        subsystem: 1,
        ..Header::default()
    }
}

fn config() -> SriovConfig {
    let mut template = ConfigSpace::virtual_function(header());
    MsixTable::add(&mut template, 3, 3, 0, 0x800).unwrap();
    let memory = BarKind::Memory64 { prefetchable: true };
    let window = |size| Some((memory, size));
    SriovConfig {
        total: 7,
        first_offset: 0x80,
        stride: 2,
        device: 0x10ca,
        bars: [window(0x4000), None, None, window(0x1000), None, None],
        template,
    }
}

fn function() -> PhysicalFunction {
    let mut space = ConfigSpace::new(header());
    add_express(&mut space).unwrap();
    PhysicalFunction::new(space, config()).unwrap()
}

struct Machine(Bus<PhysicalFunction>);

impl Machine {
    fn new() -> Self {
        let mut bus = Bus::default();
        bus.insert(Bdf::from_requester_id(OWN), function()).unwrap();
        Self(bus)
    }

    fn read(&mut self, id: u16, register: u64) -> u32 {
        let mut data = [0; 4];
        let offset = u64::from(id) << 12 | register;
        Ecam::new(256).read(&mut self.0, offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&mut self, register: u64, data: &[u8]) {
        let offset = u64::from(OWN) << 12 | register;
        Ecam::new(256).write(&mut self.0, offset, data);
    }

    fn enable(&mut self, number: u16) {
        self.write(0x110, &number.to_le_bytes());
        self.write(0x108, &[0x09, 0]);
    }

    fn pf(&mut self) -> &mut PhysicalFunction {
        self.0.function_mut(Bdf::from_requester_id(OWN)).unwrap()
    }
}

#[test]
fn the_capability_reads_as_the_specification_lays_it_out() {
    let mut machine = Machine::new();
    let expected = [
        (0x100, 0x0001_0010),
        (0x104, 0),
        (0x108, 0),
        (0x10c, 0x0007_0007),
        (0x110, 0),
        (0x114, 0x0002_0080),
        (0x118, 0x10ca_0000),
        (0x11c, 0x553),
        (0x120, 1),
        (0x124, 0xc),
        (0x128, 0),
        (0x12c, 0),
        (0x130, 0xc),
        (0x13c, 0),
        (0x140, 0),
        (0xffc, 0),
    ];
    for (register, value) in expected {
        assert_eq!(machine.read(OWN, register), value, "{register:#x}");
    }
    assert_eq!(machine.read(OWN, 0), 0x10c9_8086);
}

#[test]
fn virtual_functions_come_and_go_with_the_enable_bit() {
    let mut machine = Machine::new();
    machine.write(0x110, &[5, 0]);
    assert_eq!(machine.read(OWN + 0x80, 8), u32::MAX, "not enabled");
    machine.enable(5);
    assert_eq!(machine.pf().enabled(), 5);
    for number in 0..7u16 {
        let id = OWN + 0x80 + 2 * number;
        let class = if number < 5 { 0x0200_0000 } else { u32::MAX };
        assert_eq!(machine.read(id, 8), class, "{number}");
        assert_eq!(machine.read(id, 0), u32::MAX, "ids read all ones");
        assert_eq!(machine.read(id + 1, 8), u32::MAX, "between them is nothing");
    }
    let own = Bdf::from_requester_id(OWN);
    let last = machine.pf().place(own, 4).unwrap();
    assert_eq!(last.requester_id(), OWN + 0x88);
    machine.write(0x108, &[0, 0]);
    assert_eq!(machine.read(OWN + 0x80, 8), u32::MAX);
    assert!(machine.pf().virtual_function(0).is_none());
}

#[test]
fn all_that_a_virtual_function_lets_change_is_bus_mastering() {
    let mut machine = Machine::new();
    machine.enable(2);
    let first = u64::from(OWN + 0x80) << 12;
    for register in (0..0x40).step_by(4) {
        Ecam::new(256).write(&mut machine.0, first | register, &[0xff; 4]);
    }
    assert_eq!(machine.read(OWN + 0x80, 4) & 0xffff, 4);
    for bar in (0x10..0x28).step_by(4) {
        assert_eq!(machine.read(OWN + 0x80, bar), 0);
    }
    assert_eq!(machine.read(OWN + 0x80, 0x3c), 0);
    let pf = machine.pf();
    assert!(pf.virtual_function(0).unwrap().is_bus_master());
    assert!(!pf.virtual_function(1).unwrap().is_bus_master());
    assert!(!pf.space().is_bus_master());
}

#[test]
fn windows_lie_one_behind_the_other() {
    let mut machine = Machine::new();
    machine.write(0x124, &[0xff; 8]);
    assert_eq!(machine.read(OWN, 0x124), 0xffff_c00c, "the size of one");
    machine.write(0x124, &0x10_0000_0000_u64.to_le_bytes());
    machine.enable(3);
    let bar = machine.pf().virtual_bar(2, 0).unwrap();
    assert_eq!((bar.address, bar.size), (0x10_0000_8000, 0x4000));
    assert!(bar.enabled);
    assert!(machine.pf().virtual_bar(3, 0).is_none(), "not enabled");
    assert!(machine.pf().virtual_bar(0, 1).is_none(), "no such window");
    machine.write(0x108, &[1, 0]);
    assert!(!machine.pf().virtual_bar(2, 0).unwrap().enabled);
}

#[test]
fn windows_are_at_least_a_page_of_the_system() {
    let mut machine = Machine::new();
    machine.write(0x120, &0x10_u32.to_le_bytes());
    assert_eq!(machine.read(OWN, 0x120), 0x10);
    machine.enable(2);
    let small = machine.pf().virtual_bar(1, 3).unwrap();
    assert_eq!((small.address, small.size), (0x1_0000, 0x1_0000));
    machine.write(0x120, &1_u32.to_le_bytes());
    assert_eq!(machine.read(OWN, 0x120), 0x10, "fixed while enabled");
    machine.write(0x108, &[0, 0]);
    for odd in [0_u32, 3, 4, 1 << 31] {
        machine.write(0x120, &odd.to_le_bytes());
        assert_eq!(machine.read(OWN, 0x120), 0x10, "no page size: {odd}");
    }
}

#[test]
fn the_number_is_bounded_and_fixed_while_enabled() {
    let mut machine = Machine::new();
    machine.write(0x110, &[8, 0]);
    assert_eq!(machine.read(OWN, 0x110), 0);
    machine.enable(7);
    machine.write(0x110, &[3, 0]);
    assert_eq!(machine.read(OWN, 0x110), 7);
    assert_eq!(machine.pf().enabled(), 7);
}

#[test]
fn accesses_across_edges_reach_both_sides() {
    let mut machine = Machine::new();
    let mut data = [0; 4];
    let edge = u64::from(OWN) << 12 | 0xfe;
    Ecam::new(256).read(&mut machine.0, edge, &mut data);
    assert_eq!(data, [0, 0, 0x10, 0]);
    machine.write(0x10f, &[0xff, 5, 0]);
    assert_eq!(machine.read(OWN, 0x110), 5);
}

#[test]
fn layouts_that_collide_are_refused() {
    let with = |total, first_offset, stride| {
        let config = SriovConfig {
            total,
            first_offset,
            stride,
            ..config()
        };
        PhysicalFunction::new(ConfigSpace::new(header()), config)
    };
    for (total, first, stride) in [(0, 1, 1), (2, 0, 1), (2, 1, 0)] {
        with(total, first, stride).unwrap_err();
    }
    with(1, 1, 0).unwrap();
    let mut ports = config();
    ports.bars[5] = Some((BarKind::Io, 32));
    PhysicalFunction::new(ConfigSpace::new(header()), ports).unwrap_err();
    let far = with(u16::MAX, 1, 0xffff).unwrap();
    let own = Bdf::from_requester_id(OWN);
    assert_eq!(far.place(own, 2), None, "ids do not wrap");
}

#[test]
fn a_state_comes_back_and_a_forged_one_does_not() {
    let mut machine = Machine::new();
    machine.write(0x120, &0x10_u32.to_le_bytes());
    machine.write(0x124, &0x10_0000_0000_u64.to_le_bytes());
    machine.enable(3);
    let state = machine.pf().state();
    let mut fresh = function();
    fresh.restore(&state).unwrap();
    assert_eq!(fresh.state(), state);
    assert_eq!(fresh.virtual_bar(2, 0), machine.pf().virtual_bar(2, 0));
    let forge = |change: &dyn Fn(&mut PhysicalFunctionState)| {
        let mut forged = state.clone();
        change(&mut forged);
        let mut fresh = function();
        fresh.restore(&forged).unwrap_err();
        assert_eq!(fresh.state(), function().state(), "nothing is taken");
    };
    forge(&|state| state.number = 8);
    forge(&|state| state.control = 0xffff);
    forge(&|state| state.page_size = 3);
    forge(&|state| state.enabled.truncate(1));
    forge(&|state| state.enabled[0].bytes[0] = 0);
    forge(&|state| state.windows.bytes[0x10] = 0xff);
}
