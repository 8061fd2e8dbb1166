//! The sensitive instructions, as data.
//!
//! Sources: Robin and Irvine, "Analysis of the Intel Pentium's Ability to Support a Secure Virtual Machine Monitor",
//! USENIX Security 2000, tables 2 to 6 (groups); Intel SDM volume 2 for each instruction and volume 3, 5.9
//! (privileged instructions).

use iced_x86::{Instruction, Mnemonic, OpKind};

/// Robin and Irvine's groups, and the privileged instructions beside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// Access to the interrupt flag.
    InterruptFlag,
    /// Visibility into segment descriptors.
    Descriptors,
    /// Segment manipulation.
    Segments,
    /// Read-only access to privileged state.
    PrivilegedState,
    /// Interrupts and gates.
    Gates,
    /// Traps outside ring 0, or outside IOPL: no problem for a monitor.
    Privileged,
}

/// Popek and Goldberg's two ways of being sensitive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Changes the machine's configuration: the processor's mode, tables, devices.
    Control,
    /// What it does depends on the machine's configuration: where it runs, and at which privilege.
    Behaviour,
    /// Both.
    Both,
}

/// What guards an instruction: which rule decides whether it traps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Guard {
    /// #GP unless CPL is 0.
    Ring0,
    /// The same, and #UD outside protected mode.
    Ring0Protected,
    /// The same, and #UD outside 64-bit mode.
    Ring0Long,
    /// CLI and STI: IOPL, VME, PVI.
    InterruptFlag,
    /// IN and OUT: IOPL, or the I/O permission bit map.
    Ports,
    /// CR4.TSD.
    TimeStamp,
    /// Nothing, unless CR4.UMIP is set.
    Umip,
    /// The same, and #UD outside protected mode.
    UmipProtected,
    /// POPF and IRET: IF and IOPL are silently kept.
    FlagImage,
    /// PUSHF: shows the real flags.
    FlagShown,
    /// A selector is checked against the real CPL, and ZF tells; #UD outside protected mode.
    Selector,
    /// A segment register is loaded, stored, or left for: the real CPL shows or is checked.
    Segment,
    /// INT n: the gate is checked against the real CPL.
    SoftwareInterrupt,
}

/// One instruction, or those forms of it that are sensitive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The instruction.
    pub mnemonic: Mnemonic,
    /// Which of its forms are meant, where not all are.
    pub forms: &'static str,
    /// Where it belongs.
    pub group: Group,
    /// In which way it is sensitive.
    pub kind: Kind,
    /// What decides whether it traps.
    pub guard: Guard,
}

const fn entry(
    mnemonic: Mnemonic,
    forms: &'static str,
    group: Group,
    kind: Kind,
    guard: Guard,
) -> Entry {
    Entry {
        mnemonic,
        forms,
        group,
        kind,
        guard,
    }
}

const fn ring0(mnemonic: Mnemonic) -> Entry {
    entry(mnemonic, "", Group::Privileged, Kind::Control, Guard::Ring0)
}

/// The table.
#[rustfmt::skip]
pub const TABLE: &[Entry] = &[
    // Access to the interrupt flag.
    entry(Mnemonic::Pushf, "", Group::InterruptFlag, Kind::Behaviour, Guard::FlagShown),
    entry(Mnemonic::Pushfd, "", Group::InterruptFlag, Kind::Behaviour, Guard::FlagShown),
    entry(Mnemonic::Pushfq, "", Group::InterruptFlag, Kind::Behaviour, Guard::FlagShown),
    entry(Mnemonic::Popf, "", Group::InterruptFlag, Kind::Both, Guard::FlagImage),
    entry(Mnemonic::Popfd, "", Group::InterruptFlag, Kind::Both, Guard::FlagImage),
    entry(Mnemonic::Popfq, "", Group::InterruptFlag, Kind::Both, Guard::FlagImage),
    entry(Mnemonic::Iret, "", Group::InterruptFlag, Kind::Both, Guard::FlagImage),
    entry(Mnemonic::Iretd, "", Group::InterruptFlag, Kind::Both, Guard::FlagImage),
    entry(Mnemonic::Iretq, "", Group::InterruptFlag, Kind::Both, Guard::FlagImage),
    // Visibility into segment descriptors.
    entry(Mnemonic::Lar, "", Group::Descriptors, Kind::Behaviour, Guard::Selector),
    entry(Mnemonic::Lsl, "", Group::Descriptors, Kind::Behaviour, Guard::Selector),
    entry(Mnemonic::Verr, "", Group::Descriptors, Kind::Behaviour, Guard::Selector),
    entry(Mnemonic::Verw, "", Group::Descriptors, Kind::Behaviour, Guard::Selector),
    // Segment manipulation.
    entry(Mnemonic::Pop, "segment register", Group::Segments, Kind::Behaviour, Guard::Segment),
    entry(Mnemonic::Push, "segment register", Group::Segments, Kind::Behaviour, Guard::Segment),
    entry(Mnemonic::Mov, "segment register", Group::Segments, Kind::Behaviour, Guard::Segment),
    // Read-only access to privileged state.
    entry(Mnemonic::Sgdt, "", Group::PrivilegedState, Kind::Behaviour, Guard::Umip),
    entry(Mnemonic::Sidt, "", Group::PrivilegedState, Kind::Behaviour, Guard::Umip),
    entry(Mnemonic::Sldt, "", Group::PrivilegedState, Kind::Behaviour, Guard::UmipProtected),
    entry(Mnemonic::Smsw, "", Group::PrivilegedState, Kind::Behaviour, Guard::Umip),
    // Interrupts and gates.
    entry(Mnemonic::Call, "far", Group::Gates, Kind::Behaviour, Guard::Segment),
    entry(Mnemonic::Jmp, "far", Group::Gates, Kind::Behaviour, Guard::Segment),
    entry(Mnemonic::Retf, "", Group::Gates, Kind::Behaviour, Guard::Segment),
    entry(Mnemonic::Str, "", Group::Gates, Kind::Behaviour, Guard::UmipProtected),
    entry(Mnemonic::Int, "", Group::Gates, Kind::Behaviour, Guard::SoftwareInterrupt),
    // Privileged.
    entry(Mnemonic::Cli, "", Group::Privileged, Kind::Both, Guard::InterruptFlag),
    entry(Mnemonic::Sti, "", Group::Privileged, Kind::Both, Guard::InterruptFlag),
    entry(Mnemonic::In, "", Group::Privileged, Kind::Control, Guard::Ports),
    entry(Mnemonic::Out, "", Group::Privileged, Kind::Control, Guard::Ports),
    entry(Mnemonic::Insb, "", Group::Privileged, Kind::Control, Guard::Ports),
    entry(Mnemonic::Insw, "", Group::Privileged, Kind::Control, Guard::Ports),
    entry(Mnemonic::Insd, "", Group::Privileged, Kind::Control, Guard::Ports),
    entry(Mnemonic::Outsb, "", Group::Privileged, Kind::Control, Guard::Ports),
    entry(Mnemonic::Outsw, "", Group::Privileged, Kind::Control, Guard::Ports),
    entry(Mnemonic::Outsd, "", Group::Privileged, Kind::Control, Guard::Ports),
    entry(Mnemonic::Rdtsc, "", Group::Privileged, Kind::Behaviour, Guard::TimeStamp),
    entry(Mnemonic::Rdtscp, "", Group::Privileged, Kind::Behaviour, Guard::TimeStamp),
    entry(Mnemonic::Mov, "control or debug register", Group::Privileged, Kind::Control, Guard::Ring0),
    entry(Mnemonic::Lldt, "", Group::Privileged, Kind::Control, Guard::Ring0Protected),
    entry(Mnemonic::Ltr, "", Group::Privileged, Kind::Control, Guard::Ring0Protected),
    entry(Mnemonic::Swapgs, "", Group::Privileged, Kind::Control, Guard::Ring0Long),
    ring0(Mnemonic::Lgdt),
    ring0(Mnemonic::Lidt),
    ring0(Mnemonic::Lmsw),
    ring0(Mnemonic::Clts),
    ring0(Mnemonic::Hlt),
    ring0(Mnemonic::Invd),
    ring0(Mnemonic::Wbinvd),
    ring0(Mnemonic::Invlpg),
    ring0(Mnemonic::Rdmsr),
    ring0(Mnemonic::Wrmsr),
];

/// The entry for a decoded instruction; `None` when it is innocuous.
#[must_use]
pub fn classify(instruction: &Instruction) -> Option<&'static Entry> {
    TABLE
        .iter()
        .filter(|entry| entry.mnemonic == instruction.mnemonic())
        .find(|entry| has_form(instruction, entry.forms))
}

fn has_form(instruction: &Instruction, forms: &str) -> bool {
    let any_register = |is: fn(iced_x86::Register) -> bool| {
        (0..instruction.op_count())
            .filter(|&n| instruction.op_kind(n) == OpKind::Register)
            .any(|n| is(instruction.op_register(n)))
    };
    match forms {
        "segment register" => any_register(iced_x86::Register::is_segment_register),
        "control or debug register" => {
            any_register(|register| register.is_cr() || register.is_dr())
        }
        "far" => {
            instruction.is_call_far()
                || instruction.is_jmp_far()
                || instruction.is_call_far_indirect()
                || instruction.is_jmp_far_indirect()
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions};

    fn classified(bits: u32, bytes: &[u8]) -> Option<Group> {
        let mut decoder = Decoder::new(bits, bytes, DecoderOptions::NONE);
        classify(&decoder.decode()).map(|entry| entry.group)
    }

    #[test]
    fn forms_of_one_mnemonic_are_told_apart() {
        // mov eax, ebx; mov ax, ds; mov eax, cr0
        assert_eq!(classified(32, &[0x89, 0xd8]), None);
        assert_eq!(classified(32, &[0x8c, 0xd8]), Some(Group::Segments));
        assert_eq!(classified(32, &[0x0f, 0x20, 0xc0]), Some(Group::Privileged));
        // call near; call far
        assert_eq!(classified(32, &[0xe8, 0, 0, 0, 0]), None);
        assert_eq!(
            classified(32, &[0x9a, 0, 0, 0, 0, 8, 0]),
            Some(Group::Gates)
        );
        // push eax; push ds
        assert_eq!(classified(32, &[0x50]), None);
        assert_eq!(classified(32, &[0x1e]), Some(Group::Segments));
    }

    #[test]
    fn robin_and_irvine_found_seventeen_in_five_groups() {
        // Their table counts PUSHF, POPF and IRET in all operand sizes as one each.
        let mut names: Vec<_> = TABLE
            .iter()
            .filter(|entry| entry.group != Group::Privileged)
            .map(|entry| {
                format!("{:?}", entry.mnemonic)
                    .trim_end_matches(['d', 'q'])
                    .to_owned()
            })
            .collect();
        names.sort();
        names.dedup();
        // SGDT, SIDT, SLDT, SMSW, PUSHF, POPF; LAR, LSL, VERR, VERW, POP, PUSH, CALL, JMP, INT, RET, STR, MOV; and IRET,
        // which the lecture notes add.
        assert_eq!(names.len(), 19, "{names:?}");
    }

    #[test]
    fn every_entry_outside_the_privileged_group_breaks_the_condition() {
        for entry in TABLE
            .iter()
            .filter(|entry| entry.group != Group::Privileged)
        {
            assert!(entry.violates(), "{:?}", entry.mnemonic);
        }
    }
}
