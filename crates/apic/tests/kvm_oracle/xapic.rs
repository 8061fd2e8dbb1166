//! The xAPIC page, the I/O APIC and message signalled interrupts.

use std::ops::RangeInclusive;

use apic::{IoApic, IoApicVersion, LocalApic, Output, Pending, deliver, msi_message};
use proptest::prelude::*;

use crate::machine::{Host, IOAPIC, LAPIC, Oracle, word};
use crate::{CONFIG, run};

#[derive(Clone, Debug)]
enum Step {
    /// Guest write to the local APIC page.
    Lapic(u64, u32),
    /// Guest write to half an I/O APIC entry of one of the pins.
    Entry(u8, bool, u32),
    /// Message signalled interrupt.
    Msi(u64, u32),
    /// A pin of the I/O APIC. The lower ones are the 8259A's as well.
    Line(u8, bool),
    /// The guest enables interrupts, takes all that are due, and disables them again.
    Accept,
}

fn step() -> impl Strategy<Value = Step> {
    let vector = 16u32..=255;
    let lvt = (0u64..6, vector.clone(), any::<bool>()).prop_map(|(entry, vector, masked)| {
        // Fixed delivery; LINT0 and LINT1 without a mode that the guest would take at once.
        Step::Lapic(0x320 + entry * 16, vector | u32::from(masked) << 16)
    });
    let icr = (vector.clone(), 0u32..=1, any::<bool>(), 0u32..=2).prop_map(
        |(vector, lowest, logical, shorthand)| {
            // A lowest-priority message has no shorthand.
            let shorthand = if lowest == 1 { 0 } else { shorthand };
            Step::Lapic(
                0x300,
                vector | lowest << 8 | u32::from(logical) << 11 | shorthand << 18,
            )
        },
    );
    // Lowest priority with several logical id bits is left out: KVM picks one by hashing the vector
    // and drops the message when nobody has it.
    let narrow = prop_oneof![Just(0u8), (0u8..4).prop_map(|bit| 1 << bit)];
    let single = prop_oneof![4 => narrow.clone(), 1 => Just(0xff)];
    let destination = (any::<u8>(), single.clone());
    let lapic = prop_oneof![
        4 => Just(Step::Lapic(0xb0, 0)),
        2 => any::<u8>().prop_map(|tpr| Step::Lapic(0x80, tpr.into())),
        // One logical id bit: for others KVM leaves its fast path, on which a message for nobody
        // sets remote IRR.
        1 => (0u32..4).prop_map(|bit| Step::Lapic(0xd0, 1 << (24 + bit))),
        1 => any::<bool>().prop_map(|flat| Step::Lapic(0xe0, if flat { !0 } else { !0 >> 4 })),
        1 => (vector.clone(), prop::bool::weighted(0.8))
            .prop_map(|(spurious, on)| Step::Lapic(0xf0, spurious | u32::from(on) << 8)),
        1 => single.clone().prop_map(|id| Step::Lapic(0x310, u32::from(id) << 24)),
        2 => icr,
        1 => lvt,
        1 => (0u32..16).prop_map(|divide| Step::Lapic(0x3e0, divide & 0b1011)),
    ];
    let msi = (destination, vector, any::<[bool; 4]>()).prop_map(
        |((any, single), vector, [logical, hint, lowest, level])| {
            let id = if lowest || hint { single } else { any };
            let address =
                LAPIC | u64::from(id) << 12 | u64::from(hint) << 3 | u64::from(logical) << 2;
            Step::Msi(
                address,
                vector | u32::from(lowest) << 8 | u32::from(level) << 14 | u32::from(level) << 15,
            )
        },
    );
    prop_oneof![
        6 => lapic,
        3 => entry_low(FIXED_PINS, 0..=0),
        1 => entry_high(FIXED_PINS, single),
        3 => entry_low(LOWEST_PINS, 0..=1),
        1 => entry_high(LOWEST_PINS, narrow),
        3 => msi,
        4 => (16u8..=23, any::<bool>()).prop_map(|(pin, level)| Step::Line(pin, level)),
        4 => Just(Step::Accept),
    ]
}

/// Pins whose entries never say lowest priority.
const FIXED_PINS: RangeInclusive<u8> = 16..=19;
/// Pins whose entries may, and are never broadcast: KVM sets remote IRR for such a message although
/// no local APIC takes it, where the 82093AA (3.2.4) sets it "when local APIC(s) accept".
const LOWEST_PINS: RangeInclusive<u8> = 20..=23;

fn entry_low(
    pins: RangeInclusive<u8>,
    delivery: RangeInclusive<u32>,
) -> impl Strategy<Value = Step> {
    (pins, 16u32..=255, delivery, any::<[bool; 4]>()).prop_map(
        |(pin, vector, delivery, [logical, low_active, level, masked])| {
            let low = vector
                | delivery << 8
                | u32::from(logical) << 11
                | u32::from(low_active) << 13
                | u32::from(level) << 15
                | u32::from(masked) << 16;
            Step::Entry(pin, false, low)
        },
    )
}

fn entry_high(
    pins: RangeInclusive<u8>,
    id: impl Strategy<Value = u8>,
) -> impl Strategy<Value = Step> {
    (pins, id).prop_map(|(pin, id)| Step::Entry(pin, true, u32::from(id) << 24))
}

/// This crate's APICs.
struct Model {
    lapics: [LocalApic; 1],
    ioapic: IoApic,
}

impl Model {
    fn new() -> Self {
        Self {
            lapics: [LocalApic::new(CONFIG)],
            ioapic: IoApic::new(0, IoApicVersion::V11),
        }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Lapic(offset, value) => {
                match self.lapics[0].write(offset, &value.to_le_bytes()) {
                    Some(Output::EndOfInterrupt(vector)) => self.ioapic.end_of_interrupt(vector),
                    Some(Output::Message(message)) => {
                        deliver(&message, &mut self.lapics, Some(0));
                    }
                    None => {}
                }
            }
            Step::Entry(pin, high, value) => {
                self.ioapic.write(0, &[0x10 + 2 * pin + u8::from(high)]);
                self.ioapic.write(0x10, &value.to_le_bytes());
            }
            Step::Msi(address, data) => {
                if let Some(message) = msi_message(address, data) {
                    deliver(&message, &mut self.lapics, None);
                }
            }
            Step::Line(pin, level) => self.ioapic.set_line(pin, level),
            Step::Accept => {
                while let Some(pending) = self.lapics[0].acknowledge() {
                    assert!(
                        matches!(pending, Pending::Vector(_)),
                        "LINT0 is never raised"
                    );
                }
            }
        }
        let Self { lapics, ioapic } = self;
        ioapic.send_pending(|message| deliver(message, lapics, None) > 0);
    }

    fn picture(&self) -> Picture {
        let page = self.lapics[0].register_page();
        let entries = self.ioapic.state().redirection;
        Picture::of(&page, self.lapics[0].processor_priority().into(), |pin| {
            entries[pin]
        })
    }
}

/// What is compared.
#[derive(Debug, PartialEq, Eq)]
struct Picture {
    /// Register offset and value.
    registers: Vec<(usize, u32)>,
    ppr: u32,
    entries: Vec<u64>,
}

impl Picture {
    fn of(page: &[u8; 1024], ppr: u32, entry: impl Fn(usize) -> u64) -> Self {
        let compared = [0x80, 0xd0, 0xe0, 0xf0, 0x300, 0x310, 0x3e0]
            .into_iter()
            .chain((0x100..0x280).step_by(16))
            .chain((0x320..0x380).step_by(16));

        Self {
            registers: compared.map(|at| (at, word(page, at))).collect(),
            ppr,
            entries: (16..24).map(entry).collect(),
        }
    }
}

fn take(oracle: &mut Oracle, step: &Step) {
    match *step {
        Step::Lapic(offset, value) => oracle.write(LAPIC + offset, value),
        Step::Entry(pin, high, value) => {
            oracle.write(IOAPIC, u32::from(0x10 + 2 * pin + u8::from(high)));
            oracle.write(IOAPIC + 0x10, value);
        }
        Step::Msi(address, data) => oracle.signal(address, data),
        Step::Line(pin, level) => oracle.set_line(pin, level),
        Step::Accept => oracle.accept(),
    }
}

fn picture(oracle: &mut Oracle) -> Picture {
    let ppr = oracle.read(LAPIC + 0xa0);
    let entries = oracle.redirection();
    Picture::of(&oracle.page(), ppr, |pin| entries[pin])
}

#[test]
fn kvm_and_the_model_agree_after_every_request() {
    let Some(host) = Host::open() else { return };
    run(100, step(), |steps| {
        let (mut model, mut oracle) = (Model::new(), Oracle::new(&host));
        let enable = Step::Lapic(0xf0, 0x1ff);
        for (index, step) in std::iter::once(&enable).chain(steps).enumerate() {
            model.take(step);
            take(&mut oracle, step);
            prop_assert_eq!(
                model.picture(),
                picture(&mut oracle),
                "after step {}: {:?}",
                index,
                step
            );
        }
        Ok(())
    });
}
