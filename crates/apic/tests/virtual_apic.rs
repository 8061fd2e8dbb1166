//! The virtual-APIC page against the local APIC that it stands for, and the posted-interrupt descriptor.

use apic::{
    ApicEvent, ApicExit, DeliveryMode, DeliveryModel, Design, Destination, LocalApic,
    LocalApicConfig, Message, Output, Pending, PostedDescriptor, PostedNotification, Shorthand,
    Source, Trigger, VirtualApic, VirtualApicControls,
};
use proptest::prelude::*;

const TPR: u8 = 0x08;
const PPR: u8 = 0x0a;
const EOI: u8 = 0x0b;
const ISR: u8 = 0x10;
const IRR: u8 = 0x20;
const ICR_LOW: u8 = 0x30;

fn local_apic() -> LocalApic {
    LocalApic::new(LocalApicConfig {
        id: 0,
        bootstrap: true,
        x2apic: true,
        virtual_wire: true,
        timer_hz: 1_000_000_000,
        tsc_hz: 1_000_000_000,
        physical_address_bits: 40,
    })
}

fn all() -> VirtualApicControls {
    VirtualApicControls::TPR_SHADOW | VirtualApicControls::REGISTERS | VirtualApicControls::DELIVERY
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Request(u8, bool),
    TaskPriority(u8),
    Take,
    End,
    SelfIpi(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (16u8.., any::<bool>()).prop_map(|(vector, level)| Step::Request(vector, level)),
        1 => any::<u8>().prop_map(Step::TaskPriority),
        3 => Just(Step::Take),
        2 => Just(Step::End),
        1 => (16u8..).prop_map(Step::SelfIpi),
    ]
}

fn message(vector: u8, trigger: Trigger) -> Message {
    Message {
        vector,
        delivery: DeliveryMode::Fixed,
        destination: Destination::Physical(0),
        trigger,
        shorthand: Shorthand::None,
    }
}

fn word(lapic: &mut LocalApic, register: u8) -> u32 {
    let mut bytes = [0; 4];
    lapic.read(u64::from(register) * 16, &mut bytes);
    u32::from_le_bytes(bytes)
}

proptest! {
    #[test]
    fn the_page_does_what_the_local_apic_does(steps in prop::collection::vec(step(), 1..200)) {
        let (mut lapic, mut page) = (local_apic(), VirtualApic::new(all()));
        let mut level_of = [false; 256];
        for step in steps {
            match step {
                Step::Request(vector, level) => {
                    let trigger = if level { Trigger::Level } else { Trigger::Edge };
                    prop_assert!(lapic.accept(&message(vector, trigger)));
                    level_of[usize::from(vector)] = level;
                    page.set_eoi_exit(vector, level);
                    page.request(vector);
                }
                Step::TaskPriority(value) => {
                    let sent = lapic.write(u64::from(TPR) * 16, &u32::from(value).to_le_bytes());
                    prop_assert_eq!(sent, None);
                    prop_assert_eq!(page.write(TPR, u64::from(value)), Ok(()));
                }
                Step::Take => {
                    let taken = lapic.acknowledge();
                    prop_assert_eq!(page.deliver().map(Pending::Vector), taken);
                }
                Step::End => {
                    let ended = match lapic.write(u64::from(EOI) * 16, &[0; 4]) {
                        Some(Output::EndOfInterrupt(vector)) => Err(ApicExit::EoiInduced { vector }),
                        _ => Ok(()),
                    };
                    prop_assert_eq!(page.write(EOI, 0), ended);
                }
                Step::SelfIpi(vector) => {
                    let low = 0b01 << 18 | u32::from(vector);
                    let sent = lapic.write(u64::from(ICR_LOW) * 16, &low.to_le_bytes());
                    if let Some(Output::Message(message)) = sent {
                        lapic.accept(&message);
                    }
                    page.set_eoi_exit(vector, false);
                    prop_assert_eq!(page.write(ICR_LOW, u64::from(low)), Ok(()));
                }
            }
            for number in (ISR..ISR + 8).chain(IRR..IRR + 8).chain([TPR, PPR]) {
                prop_assert_eq!(page.register(number), word(&mut lapic, number), "{:#x}", number);
            }
            let pending = lapic.pending();
            prop_assert_eq!(page.recognized().map(Pending::Vector), pending);
        }
    }
}

#[test]
fn without_controls_every_access_exits() {
    let mut page = VirtualApic::new(VirtualApicControls::empty());
    let exit = |register, write| Err(ApicExit::Access { register, write });
    assert_eq!(page.read(TPR), exit(TPR, false).map(|(): ()| 0));
    for register in [TPR, EOI, ICR_LOW] {
        assert_eq!(page.write(register, 0), exit(register, true));
    }
    assert_eq!(page.recognized(), None);
}

#[test]
fn the_task_priority_exits_below_its_threshold_only_without_delivery() {
    let mut page = VirtualApic::new(VirtualApicControls::TPR_SHADOW);
    page.set_tpr_threshold(4);
    assert_eq!(page.write(TPR, 0x40), Ok(()));
    assert_eq!(page.write(TPR, 0x3f), Err(ApicExit::TprBelowThreshold));
    assert_eq!(page.read(TPR), Ok(0x3f));
}

#[test]
fn only_plain_self_interrupts_need_no_vmm() {
    let mut page = VirtualApic::new(all());
    let written = Err(ApicExit::Written { register: ICR_LOW });
    // NMI, level trigger, another shorthand, vectors that are none.
    for low in [
        1 << 18 | 0x440,
        1 << 18 | 1 << 15 | 0x40,
        2 << 18 | 0x40,
        1 << 18 | 0x0f,
        0x40,
    ] {
        assert_eq!(page.write(ICR_LOW, low), written, "{low:#x}");
    }
    assert_eq!(page.write(ICR_LOW, 1 << 18 | 0x40), Ok(()));
    assert_eq!(page.deliver(), Some(0x40));
}

#[test]
fn the_priority_and_the_current_count_are_not_read_from_the_page() {
    let page = VirtualApic::new(all());
    for register in [PPR, 0x39] {
        let exit = ApicExit::Access {
            register,
            write: false,
        };
        assert_eq!(page.read(register), Err(exit));
    }
    assert_eq!(page.read(ISR), Ok(0));
}

#[test]
fn one_notification_is_outstanding_at_a_time() {
    let to = PostedNotification {
        vector: 0xf2,
        destination: 3,
    };
    let descriptor = PostedDescriptor::new(to);
    assert_eq!(descriptor.post(0x41, false), Some(to));
    assert_eq!(descriptor.post(0xc0, false), None);
    assert_eq!(descriptor.take(), [0, 1 << 1, 0, 1]);
    assert!(!descriptor.has_requests() && !descriptor.is_outstanding());
    descriptor.suppress(true);
    assert_eq!(descriptor.post(0x41, false), None);
    assert!(descriptor.has_requests());
    assert_eq!(descriptor.post(0x42, true), Some(to));
    descriptor.suppress(false);
    let other = PostedNotification {
        vector: 0xf1,
        destination: 9,
    };
    descriptor.set_notification(other);
    assert_eq!(descriptor.take(), [0, 0b110, 0, 0]);
    assert_eq!(descriptor.post(0x41, false), Some(other));
}

#[test]
fn nothing_that_threads_post_is_lost_or_taken_twice() {
    const EACH: u32 = 20_000;
    let descriptor = PostedDescriptor::default();
    let (mut taken, mut notified) = ([0u32; 2], 0);
    std::thread::scope(|scope| {
        let posters = [0x40u8, 0x80].map(|vector| {
            let descriptor = &descriptor;
            scope.spawn(move || {
                let mut told = 0;
                for _ in 0..EACH {
                    told += u32::from(descriptor.post(vector, false).is_some());
                    while descriptor.has_requests() && descriptor.is_outstanding() {
                        std::hint::spin_loop();
                    }
                }
                told
            })
        });
        while !posters
            .iter()
            .all(std::thread::ScopedJoinHandle::is_finished)
        {
            count(&mut taken, descriptor.take());
        }
        notified += posters
            .map(|poster| poster.join().unwrap())
            .iter()
            .sum::<u32>();
    });
    count(&mut taken, descriptor.take());
    // Requests of one vector that meet are one; none is taken that was not made.
    assert!(
        taken.iter().all(|&taken| 0 < taken && taken <= EACH),
        "{taken:?}"
    );
    assert!(notified > 0 && !descriptor.has_requests());
}

fn count(taken: &mut [u32; 2], requests: [u64; 4]) {
    taken[0] += u32::from(requests[1] & 1 != 0);
    taken[1] += u32::from(requests[2] & 1 != 0);
}

/// One interrupt of a device while the guest runs, and its end.
fn life(level: bool) -> [ApicEvent; 3] {
    [
        ApicEvent::Request {
            vector: 0x41,
            level,
            source: Source::Device,
            running: true,
        },
        ApicEvent::Take {
            vector: 0x41,
            waited: false,
        },
        ApicEvent::Write {
            register: EOI,
            value: 0,
        },
    ]
}

#[test]
fn each_design_leaves_the_guest_less_often() {
    let exits = |design, level| {
        let mut model = DeliveryModel::new(design);
        life(level).into_iter().for_each(|event| model.step(event));
        assert_eq!(model.counters().disagreements, 0);
        (model.counters().exits(), model.counters().host_interrupts)
    };
    use Design as D;
    let designs = [
        D::XApic,
        D::X2Apic,
        D::VirtualPage,
        D::Posted,
        D::RemappedPosted,
    ];
    let edge = designs.map(|design| exits(design, false));
    assert_eq!(edge, [(2, 1), (2, 1), (1, 1), (0, 1), (0, 0)]);
    // A port's access for its end, which the page's write is not.
    let mut pic = DeliveryModel::new(D::Pic);
    life(false)[..2].iter().for_each(|&event| pic.step(event));
    pic.step(ApicEvent::Port { end: true });
    assert_eq!(
        (pic.counters().exits(), pic.counters().end_of_interrupt),
        (2, 1)
    );
    // An I/O APIC waits for the end.
    let level = designs.map(|design| exits(design, true).0);
    assert_eq!(level, [2, 2, 2, 1, 1]);
}
