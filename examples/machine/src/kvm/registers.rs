//! A [`StartState`] in KVM's registers.

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;

use super::failed;
use crate::engine::EngineError;
use crate::start_state::{DescriptorTable, Segment, StartState};

pub(super) fn set(vcpu: &VcpuFd, start: &StartState) -> Result<(), EngineError> {
    let mut sregs = vcpu.get_sregs().map_err(failed("read system registers"))?;
    sregs.cs = segment(start.cs);
    let data = segment(start.data);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = segment(start.tr);
    sregs.ldt = segment(start.ldtr);
    sregs.gdt = table(start.gdt);
    sregs.idt = table(start.idt);
    sregs.cr0 = start.cr0;
    sregs.cr3 = start.cr3;
    sregs.cr4 = start.cr4;
    sregs.efer = start.efer;
    vcpu.set_sregs(&sregs)
        .map_err(failed("set system registers"))?;
    let regs = kvm_regs {
        rip: start.rip,
        rax: start.rax,
        rbx: start.rbx,
        rdx: start.rdx,
        rsi: start.rsi,
        rsp: start.rsp,
        rflags: start.rflags,
        ..kvm_regs::default()
    };
    vcpu.set_regs(&regs).map_err(failed("set registers"))
}

fn segment(from: Segment) -> kvm_segment {
    let bit = |at: u32| u8::from(from.access >> at & 1 != 0);
    let field = |at: u32, mask: u16| u8::try_from(from.access >> at & mask).expect("masked");
    kvm_segment {
        base: from.base,
        limit: from.limit,
        selector: from.selector,
        type_: field(0, 0xf),
        s: bit(4),
        dpl: field(5, 3),
        present: bit(7),
        avl: bit(12),
        l: bit(13),
        db: bit(14),
        g: bit(15),
        ..kvm_segment::default()
    }
}

fn table(from: DescriptorTable) -> kvm_dtable {
    kvm_dtable {
        base: from.base,
        limit: from.limit,
        ..kvm_dtable::default()
    }
}
