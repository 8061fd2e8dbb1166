//! One guest on one adapter: it sends a stream over TCP, and its exits are counted.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use boot::Net;
use boot::scripted::{Scripted, Setup};
use machine::{Adapter, Board};

/// What the adapter counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Exits by register or structure.
    pub(crate) exits: BTreeMap<&'static str, u64>,
    pub(crate) interrupts: u64,
    /// Frames that the guest sent: TCP segments, but for a few.
    pub(crate) segments: u64,
    pub(crate) bytes: u64,
}

impl Counts {
    /// What this run had beyond `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let earlier = |name| before.exits.get(name).copied().unwrap_or(0);
        let exits = self.exits.iter();
        Self {
            exits: exits
                .map(|(&name, &count)| (name, count.saturating_sub(earlier(name))))
                .collect(),
            interrupts: self.interrupts.saturating_sub(before.interrupts),
            segments: self.segments.saturating_sub(before.segments),
            bytes: self.bytes.saturating_sub(before.bytes),
        }
    }

    pub(crate) fn all_exits(&self) -> u64 {
        self.exits.values().sum()
    }
}

/// A guest that is ready to be booted again and again.
#[derive(Debug)]
pub(crate) struct Prepared {
    guest: Scripted,
    net: Net,
    messages: bool,
    ns_per_instruction: u64,
}

impl Prepared {
    /// Without `messages` the adapter interrupts by INTA#.
    pub(crate) fn new(net: Net, messages: bool, ns_per_instruction: u64) -> Result<Self> {
        Ok(Self {
            guest: Scripted::new(net)?,
            net,
            messages,
            ns_per_instruction,
        })
    }

    /// Boots, sends `writes` writes of one segment each, powers off. `delay_ns` is how long the
    /// adapter takes to begin with what is queued.
    pub(crate) fn run(&self, writes: u32, delay_ns: u64) -> Result<Counts> {
        let board = self.guest.run(&Setup {
            script: &format!(
                "dd if=/dev/zero bs={SEGMENT} count={writes} 2>/dev/null | nc 10.0.2.2 9"
            ),
            command_line: "cryptomgr.notests",
            adapter: self.net.adapter(),
            messages: self.messages,
            service_ns: delay_ns,
            ns_per_instruction: self.ns_per_instruction,
            record_interrupts: false,
        })?;
        counts(&board)
    }
}

fn counts(board: &Board) -> Result<Counts> {
    match board.network().context("the board has a network")? {
        Adapter::E1000(nic) => {
            let mut exits = BTreeMap::new();
            for register in nic.exits() {
                let name = e1000::registers::name(register.register);
                *exits.entry(name).or_default() += register.reads + register.writes;
            }
            let counts = nic.counts();
            Ok(Counts {
                exits,
                interrupts: counts.interrupts.raised,
                segments: counts.tx_frames,
                bytes: counts.tx_bytes,
            })
        }
        Adapter::Virtio(device) => {
            let (exits, counts) = (device.exits(), device.net().counts());
            let [receive, transmit, control] = exits.kicks;
            let exits = [
                ("kick, receive", receive),
                ("kick, transmit", transmit),
                ("kick, control", control),
                ("ISR", exits.isr),
                ("configuration", exits.common + exits.device),
            ];
            Ok(Counts {
                exits: exits.into_iter().collect(),
                interrupts: device.interrupts(),
                segments: counts.tx_frames,
                bytes: counts.tx_bytes,
            })
        }
    }
}

/// Bytes in a segment with the options that Linux puts in.
pub(crate) const SEGMENT: u32 = 1448;
