//! Clusters: exiting instructions so near to each other that one exit should serve them all.
//!
//! BIOS code and drivers come to devices in runs (select, write, read back; poll until ready), PAE page tables are
//! written in halves. An exit costs as much as many interpreted instructions, so the instructions between two that exit
//! are interpreted with them. The translator groups instructions that it leaves to the interpreter like this; a VMM on
//! hardware virtualization can ask [`Cluster::at`] at an exit, and run it by [`crate::Cpu::run_cluster`].

use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction};

/// When instructions are near enough to be one cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterPolicy {
    /// Most instructions that do not exit between two that do.
    pub gap: usize,
    /// Most instructions of a cluster.
    pub longest: usize,
}

impl Default for ClusterPolicy {
    /// For exits of some microseconds, as hardware virtualization has.
    fn default() -> Self {
        Self {
            gap: 16,
            longest: 128,
        }
    }
}

/// Code from one exiting instruction to the last one near it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Offsets in the code segment, from the first instruction to behind the last.
    pub rip: Range<u64>,
    /// Instructions in it.
    pub instructions: usize,
    /// How many of them exit.
    pub exits: usize,
    /// Whether it ends in a branch back into itself: a polling loop, most often.
    pub is_loop: bool,
}

impl Cluster {
    /// The cluster that starts at `rip`, where an instruction has just exited; `code` are the bytes from there, `bits` (16,
    /// 32 or 64) the size of the code segment. `exits` says which instructions exit.
    ///
    /// Looks no further than the first jump, call or return, or undecodable byte.
    #[must_use]
    pub fn at(
        code: &[u8],
        rip: u64,
        bits: u32,
        policy: ClusterPolicy,
        exits: impl Fn(&Instruction) -> bool,
    ) -> Self {
        let mut decoder = Decoder::with_ip(bits, code, rip, DecoderOptions::NONE);
        let mut cluster = Self {
            rip: rip..rip,
            instructions: 0,
            exits: 0,
            is_loop: false,
        };
        let mut instruction = Instruction::default();
        for count in 1..=policy.longest.max(1) {
            if !decoder.can_decode() {
                break;
            }
            decoder.decode_out(&mut instruction);
            let flow = instruction.flow_control();
            let back = flow == FlowControl::ConditionalBranch
                && (rip..cluster.rip.end).contains(&instruction.near_branch_target());
            let exit = count == 1 || !instruction.is_invalid() && exits(&instruction);
            if exit || back {
                cluster.rip.end = instruction.next_ip();
                cluster.instructions = count;
            }
            cluster.exits += usize::from(exit);
            cluster.is_loop |= back;
            if flow != FlowControl::Next || count - cluster.instructions > policy.gap {
                break;
            }
        }
        cluster
    }

    /// Whether one exit for all of it saves any.
    #[must_use]
    pub fn is_worth_it(&self) -> bool {
        self.exits > 1 || self.is_loop
    }
}

/// The clusters of a straight run of instructions, of which `exits` says for each whether it exits; those of a single
/// instruction are left out.
pub(crate) fn clusters(exits: &[bool], policy: ClusterPolicy) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    for at in (0..exits.len()).filter(|&at| exits[at]) {
        match found.last_mut() {
            Some(last) if at - last.end <= policy.gap && at + 1 - last.start <= policy.longest => {
                last.end = at + 1;
            }
            _ => found.push(at..at + 1),
        }
    }
    found.retain(|cluster| cluster.len() > 1);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::Mnemonic;

    fn is_port(instruction: &Instruction) -> bool {
        matches!(instruction.mnemonic(), Mnemonic::In | Mnemonic::Out)
    }

    fn at(code: &[u8], gap: usize) -> Cluster {
        let policy = ClusterPolicy { gap, longest: 8 };
        Cluster::at(code, 0x100, 16, policy, is_port)
    }

    #[test]
    fn instructions_between_two_exits_belong_to_the_cluster() {
        // out dx, al; inc dx; mov al, 1; out dx, al; nop; nop; ret
        let code = b"\xee\x42\xb0\x01\xee\x90\x90\xc3";
        let near = at(code, 2);
        assert_eq!(
            (near.rip.clone(), near.instructions, near.exits),
            (0x100..0x105, 4, 2)
        );
        assert!(near.is_worth_it());
        let far = at(code, 1);
        assert_eq!((far.rip.clone(), far.exits), (0x100..0x101, 1));
        assert!(!far.is_worth_it());
    }

    #[test]
    fn a_polling_loop_is_a_cluster_and_a_jump_away_ends_one() {
        // in al, dx; test al, 8; jz -5; out dx, al
        let polling = at(b"\xec\xa8\x08\x74\xfb\xee", 4);
        assert_eq!((polling.rip.clone(), polling.is_loop), (0x100..0x105, true));
        // in al, dx; jz +1; out dx, al
        let leaving = at(b"\xec\x74\x01\xee", 4);
        assert_eq!((leaving.rip.clone(), leaving.exits), (0x100..0x101, 1));
    }

    #[test]
    fn a_cluster_has_an_end() {
        assert_eq!(at(&[0xee; 100], 4).instructions, 8);
        assert_eq!(at(&[0xee; 3], 4).exits, 3);
        // The first instruction has exited, whatever it is; half an instruction is none.
        let cut = at(&[0x90, 0x66], 4);
        assert_eq!((cut.instructions, cut.exits), (1, 1));
        assert_eq!(at(&[], 4).instructions, 0);
    }

    #[test]
    fn runs_of_flags_make_clusters() {
        let policy = ClusterPolicy { gap: 1, longest: 4 };
        let flags = |text: &str| text.bytes().map(|byte| byte == b'x').collect::<Vec<_>>();
        let one = clusters(&flags("x.x..x"), policy);
        assert_eq!((one.len(), one[0].clone()), (1, 0..3));
        assert_eq!(clusters(&flags(".xxxxxx"), policy), [1..5, 5..7]);
        assert!(clusters(&flags("x..x"), policy).is_empty());
    }
}
