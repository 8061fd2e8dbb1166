//! From a message to the local APICs it names.

use crate::lapic::LocalApic;
use crate::message::{DeliveryMode, Message, Shorthand};

/// Hands `message` to every APIC of `lapics` that it is for and answers how many accepted it.
///
/// `sender` is the index of the local APIC that sent it, `None` for devices; it is who the
/// shorthands mean. A lowest-priority message goes to the software-enabled APIC with the lowest
/// processor priority, the first of several (SDM 11.6.2.4 leaves the choice to the platform).
///
/// # Panics
///
/// When `sender` is not an index of `lapics`.
pub fn deliver(message: &Message, lapics: &mut [LocalApic], sender: Option<usize>) -> usize {
    assert!(
        sender.is_none_or(|sender| sender < lapics.len()),
        "the sender is one of the APICs"
    );
    if message.delivery == DeliveryMode::LowestPriority {
        let chosen = (0..lapics.len())
            .filter(|&i| is_for(message, &lapics[i], i, sender) && lapics[i].is_software_enabled())
            .min_by_key(|&i| lapics[i].processor_priority());
        return chosen.map_or(0, |i| usize::from(lapics[i].accept(message)));
    }
    let mut taken = 0;
    for (i, lapic) in lapics.iter_mut().enumerate() {
        if is_for(message, lapic, i, sender) {
            taken += usize::from(lapic.accept(message));
        }
    }
    taken
}

fn is_for(message: &Message, lapic: &LocalApic, index: usize, sender: Option<usize>) -> bool {
    match message.shorthand {
        Shorthand::None => lapic.matches(message.destination),
        Shorthand::OnlySelf => Some(index) == sender,
        Shorthand::AllIncludingSelf => true,
        Shorthand::AllExcludingSelf => Some(index) != sender,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lapic::LocalApicConfig;
    use crate::message::{Destination, Trigger};

    fn four() -> Vec<LocalApic> {
        (0..4)
            .map(|id| {
                let mut lapic = LocalApic::new(LocalApicConfig {
                    id,
                    bootstrap: id == 0,
                    x2apic: true,
                    virtual_wire: false,
                    timer_hz: 1_000_000_000,
                    tsc_hz: 1_000_000_000,
                    physical_address_bits: 40,
                });
                let _ = lapic.write(0xf0, &0x1ffu32.to_le_bytes());
                lapic
            })
            .collect()
    }

    fn message(destination: Destination) -> Message {
        Message {
            vector: 0x55,
            delivery: DeliveryMode::Fixed,
            destination,
            shorthand: Shorthand::None,
            trigger: Trigger::Edge,
        }
    }

    fn who(lapics: &[LocalApic]) -> Vec<usize> {
        (0..lapics.len())
            .filter(|&i| lapics[i].pending().is_some())
            .collect()
    }

    #[test]
    fn physical_destinations_reach_one_and_broadcast_all() {
        let mut lapics = four();
        assert_eq!(
            deliver(&message(Destination::Physical(2)), &mut lapics, None),
            1
        );
        assert_eq!(who(&lapics), [2]);
        assert_eq!(
            deliver(&message(Destination::Broadcast), &mut lapics, None),
            4
        );
        assert_eq!(
            deliver(&message(Destination::Physical(9)), &mut lapics, None),
            0
        );
    }

    #[test]
    fn flat_logical_destinations_are_a_mask() {
        let mut lapics = four();
        for (i, lapic) in lapics.iter_mut().enumerate() {
            let _ = lapic.write(0xd0, &(1u32 << (24 + i)).to_le_bytes());
        }
        assert_eq!(
            deliver(&message(Destination::Logical(0b1010)), &mut lapics, None),
            2
        );
        assert_eq!(who(&lapics), [1, 3]);
    }

    #[test]
    fn cluster_logical_destinations_name_cluster_and_members() {
        let mut lapics = four();
        for (i, lapic) in (0u32..).zip(&mut lapics) {
            let _ = lapic.write(0xe0, &0x0fff_ffffu32.to_le_bytes());
            let id = (i / 2) << 4 | 1 << (i % 2);
            let _ = lapic.write(0xd0, &(id << 24).to_le_bytes());
        }
        deliver(&message(Destination::Logical(0x13)), &mut lapics, None);
        assert_eq!(who(&lapics), [2, 3]);
        let mut lapics = four();
        for lapic in &mut lapics {
            let _ = lapic.write(0xe0, &0x0fff_ffffu32.to_le_bytes());
            let _ = lapic.write(0xd0, &0x2100_0000u32.to_le_bytes());
        }
        assert_eq!(
            deliver(&message(Destination::Logical(0xf1)), &mut lapics, None),
            0
        );
        let everyone = Destination::from_byte(0xff, true);
        assert_eq!(deliver(&message(everyone), &mut lapics, None), 4);
    }

    #[test]
    fn shorthands_go_by_the_sender() {
        let mut lapics = four();
        let mut shout = message(Destination::Physical(0));
        shout.shorthand = Shorthand::AllExcludingSelf;
        assert_eq!(deliver(&shout, &mut lapics, Some(1)), 3);
        assert_eq!(who(&lapics), [0, 2, 3]);
        shout.shorthand = Shorthand::OnlySelf;
        assert_eq!(deliver(&shout, &mut lapics, Some(1)), 1);
        assert_eq!(who(&lapics), [0, 1, 2, 3]);
    }

    #[test]
    fn lowest_priority_picks_the_idlest() {
        let mut lapics = four();
        for (lapic, class) in lapics.iter_mut().zip([3, 2, 1, 2]) {
            lapic.set_task_priority(class);
        }
        let mut any = message(Destination::Broadcast);
        any.delivery = DeliveryMode::LowestPriority;
        assert_eq!(deliver(&any, &mut lapics, None), 1);
        assert_eq!(who(&lapics), [2]);
    }

    #[test]
    fn x2apic_logical_destinations_follow_the_id() {
        let mut lapics = four();
        for lapic in &mut lapics {
            let base = lapic.read_msr(0x1b).unwrap();
            lapic.write_msr(0x1b, base | 1 << 10).unwrap();
        }
        assert_eq!(lapics[3].read_msr(0x80d), Ok(1 << 3));
        deliver(&message(Destination::Logical(0b1001)), &mut lapics, None);
        assert_eq!(who(&lapics), [0, 3]);
    }
}
