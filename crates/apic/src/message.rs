//! Interrupt messages: what travels between I/O APICs, MSI-capable devices and local APICs.
//!
//! References: Intel SDM (September 2023), volume 3, 11.6 (interprocessor interrupts) and
//! 11.11 (message signalled interrupts).

/// How a message is to be taken (SDM 11.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeliveryMode {
    /// The vector goes to every processor named.
    Fixed,
    /// The vector goes to the processor with the lowest priority among those named.
    LowestPriority,
    /// System management interrupt.
    Smi,
    /// Non-maskable interrupt.
    Nmi,
    /// INIT.
    Init,
    /// Start-up; the vector is the page of the first instruction.
    StartUp,
    /// An 8259A answers the acknowledge cycle.
    ExtInt,
}

impl DeliveryMode {
    /// Decodes the three-bit field; `None` for the reserved code 3.
    #[must_use]
    pub fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::StartUp,
            7 => Self::ExtInt,
            _ => return None,
        })
    }
}

/// Edge or level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// Delivered once; its end is nobody's business.
    Edge,
    /// Its end is told to the I/O APICs.
    Level,
}

/// Which local APICs a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// The APIC with this id.
    Physical(u32),
    /// A message destination address of eight bits, matched against LDR and DFR, or, in x2APIC
    /// mode, of 32 bits.
    Logical(u32),
    /// Every APIC.
    Broadcast,
}

impl Destination {
    /// Decodes the eight-bit destination of xAPIC, I/O APIC and MSI.
    #[must_use]
    pub fn from_byte(id: u8, logical: bool) -> Self {
        match (logical, id) {
            // SDM 11.6.2.1 and 11.6.2.2: all ones is everyone, physical or logical.
            (_, 0xff) => Self::Broadcast,
            (false, id) => Self::Physical(id.into()),
            (true, id) => Self::Logical(id.into()),
        }
    }

    /// Decodes the 32-bit destination of x2APIC.
    #[must_use]
    pub fn from_word(id: u32, logical: bool) -> Self {
        match (logical, id) {
            (_, u32::MAX) => Self::Broadcast,
            (false, id) => Self::Physical(id),
            (true, id) => Self::Logical(id),
        }
    }
}

/// The destination shorthand of an interprocessor interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shorthand {
    /// Go by the destination.
    None,
    /// The sender alone.
    OnlySelf,
    /// Everyone.
    AllIncludingSelf,
    /// Everyone but the sender.
    AllExcludingSelf,
}

/// An interrupt on its way to local APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Message {
    /// The vector, 0 to 255. Below 16 a fixed or lowest-priority message is an error.
    pub vector: u8,
    /// How it is to be taken.
    pub delivery: DeliveryMode,
    /// Whom it is for, unless a shorthand says otherwise.
    pub destination: Destination,
    /// Shorthand; only interprocessor interrupts have one.
    pub shorthand: Shorthand,
    /// Edge or level.
    pub trigger: Trigger,
}

/// Decodes a message signalled interrupt (SDM 11.11.1 and 11.11.2).
///
/// `None` when the address is outside `0xfee0_0000` to `0xfeef_ffff`, the delivery mode is reserved, or
/// a level message says deassert.
#[must_use]
pub fn msi_message(address: u64, data: u32) -> Option<Message> {
    if address >> 20 != 0xfee {
        return None;
    }
    let [vector, mode, ..] = data.to_le_bytes();
    let level = data & MSI_LEVEL != 0;
    if level && data & MSI_ASSERT == 0 {
        return None;
    }
    let logical = address & MSI_LOGICAL != 0;
    let [_, low, high, ..] = address.to_le_bytes();
    let id = low >> 4 | high << 4;
    let delivery = match DeliveryMode::from_bits(mode)? {
        // "If RH is 1 ... directed to the processor with the lowest interrupt priority".
        DeliveryMode::Fixed if address & MSI_REDIRECT != 0 && logical => {
            DeliveryMode::LowestPriority
        }
        delivery => delivery,
    };
    Some(Message {
        vector,
        delivery,
        destination: Destination::from_byte(id, logical),
        shorthand: Shorthand::None,
        trigger: if level { Trigger::Level } else { Trigger::Edge },
    })
}

const MSI_LOGICAL: u64 = 1 << 2;
const MSI_REDIRECT: u64 = 1 << 3;
const MSI_ASSERT: u32 = 1 << 14;
const MSI_LEVEL: u32 = 1 << 15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_msi_names_vector_and_processor() {
        let message = msi_message(0xfee0_5000, 0x0041).unwrap();
        assert_eq!(message.vector, 0x41);
        assert_eq!(message.destination, Destination::Physical(5));
        assert_eq!(message.delivery, DeliveryMode::Fixed);
        assert_eq!(message.trigger, Trigger::Edge);
    }

    #[test]
    fn the_destination_spans_address_bits_19_to_12() {
        let message = msi_message(0xfeea_b004, 0x31).unwrap();
        assert_eq!(message.destination, Destination::Logical(0xab));
        assert_eq!(
            msi_message(0xfeef_f000, 0x31).unwrap().destination,
            Destination::Broadcast
        );
    }

    #[test]
    fn redirection_with_logical_destination_is_lowest_priority() {
        let message = msi_message(0xfee0_300c, 0x31).unwrap();
        assert_eq!(message.delivery, DeliveryMode::LowestPriority);
    }

    #[test]
    fn what_is_no_interrupt_is_none() {
        assert_eq!(msi_message(0xfed0_0000, 0x31), None);
        assert_eq!(msi_message(0x1_fee0_0000, 0x31), None);
        assert_eq!(
            msi_message(0xfee0_0000, 0x0331),
            None,
            "reserved delivery mode"
        );
        assert_eq!(msi_message(0xfee0_0000, 0x8031), None, "level deassert");
    }
}
