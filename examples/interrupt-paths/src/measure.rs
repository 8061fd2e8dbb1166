//! One load: a guest with APICs, whose history is replayed, and a guest with the 8259A pair alone.

use anyhow::Result;
use apic::{DeliveryCounters, DeliveryModel, Design};
use boot::Net;
use boot::scripted::{Scripted, Setup};

/// Boots of one load: with and without APICs, each with the stream and without.
pub(crate) const BOOTS: usize = 4;

/// What one design costs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) design: Design,
    pub(crate) counters: DeliveryCounters,
}

impl Row {
    pub(crate) fn name(&self) -> &'static str {
        match self.design {
            Design::Pic => "8259A",
            Design::XApic => "xAPIC, traced",
            Design::X2Apic => "x2APIC",
            Design::VirtualPage => "virtual-APIC page",
            Design::Posted => "posted",
            Design::RemappedPosted => "remapped and posted",
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "shown to three digits")]
    pub(crate) fn each(&self, count: u64) -> f64 {
        count as f64 / self.counters.interrupts.max(1) as f64
    }
}

const APICS: [Design; 5] = [
    Design::XApic,
    Design::X2Apic,
    Design::VirtualPage,
    Design::Posted,
    Design::RemappedPosted,
];

/// Boots with the stream and without it, and takes the difference. `began` is told what is booted.
pub(crate) fn measure(
    net: Net,
    segments: u32,
    delay: u64,
    mut began: impl FnMut(&'static str),
) -> Result<Vec<Row>> {
    let guest = Scripted::new(net)?;
    let mut rows = Vec::new();
    for (what, command_line, designs) in [
        (
            "8259A",
            "cryptomgr.notests noapic nolapic",
            &[Design::Pic][..],
        ),
        ("APICs", "cryptomgr.notests", &APICS),
    ] {
        let mut costs = [0, segments].map(|segments| {
            began(what);
            replay(&guest, net, command_line, segments, delay, designs)
        });
        let (idle, busy) = costs.split_at_mut(1);
        let (idle, busy) = (take(&mut idle[0])?, take(&mut busy[0])?);
        let pairs = designs.iter().zip(busy.into_iter().zip(idle));
        rows.extend(pairs.map(|(&design, (busy, idle))| Row {
            design,
            counters: since(busy, idle),
        }));
    }
    Ok(rows)
}

fn take(costs: &mut Result<Vec<DeliveryCounters>>) -> Result<Vec<DeliveryCounters>> {
    std::mem::replace(costs, Ok(Vec::new()))
}

fn replay(
    guest: &Scripted,
    net: Net,
    command_line: &str,
    segments: u32,
    delay: u64,
    designs: &[Design],
) -> Result<Vec<DeliveryCounters>> {
    let mut board = guest.run(&Setup {
        script: &format!("dd if=/dev/zero bs=1448 count={segments} 2>/dev/null | nc 10.0.2.2 9"),
        command_line,
        adapter: net.adapter(),
        messages: true,
        service_ns: delay,
        ns_per_instruction: 2,
        record_interrupts: true,
    })?;
    let history = board.take_history();
    let costs = designs.iter().map(|&design| {
        let mut model = DeliveryModel::new(design);
        history.iter().for_each(|&event| model.step(event));
        model.counters()
    });
    Ok(costs.collect())
}

/// What `all` has beyond `before`; disagreements are kept.
fn since(all: DeliveryCounters, before: DeliveryCounters) -> DeliveryCounters {
    let mut rest = all;
    for (rest, before) in [
        (&mut rest.interrupts, before.interrupts),
        (&mut rest.interrupted, before.interrupted),
        (&mut rest.window, before.window),
        (&mut rest.end_of_interrupt, before.end_of_interrupt),
        (&mut rest.task_priority, before.task_priority),
        (&mut rest.timer, before.timer),
        (&mut rest.interprocessor, before.interprocessor),
        (&mut rest.other, before.other),
        (&mut rest.host_interrupts, before.host_interrupts),
    ] {
        *rest = rest.saturating_sub(before);
    }
    rest
}
