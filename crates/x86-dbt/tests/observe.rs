//! What an observer of paging is told.

mod common;

use std::cell::RefCell;
use std::rc::Rc;

use common::Guest;
use iced_x86::code_asm::*;
use x86_dbt::guest_paging::Gva;
use x86_dbt::guest_paging::x86::{Access, AccessKind, Context};
use x86_dbt::{Exit, PagingObserver};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Missed(u64, AccessKind),
    Root,
    Registers,
    Flushed(u64),
    Written(u64, u64),
}

/// Keeps what it is told, and watches one page from the first miss on.
struct Listener {
    told: Rc<RefCell<Vec<Told>>>,
    watched: Vec<u64>,
}

impl PagingObserver for Listener {
    fn missed(&mut self, _: &Context, gva: Gva, access: Access) {
        self.told
            .borrow_mut()
            .push(Told::Missed(gva.0, access.kind));
    }

    fn root_loaded(&mut self, _: &Context) {
        self.told.borrow_mut().push(Told::Root);
    }

    fn registers_changed(&mut self, _: &Context) {
        self.told.borrow_mut().push(Told::Registers);
    }

    fn page_flushed(&mut self, _: &Context, gva: Gva) {
        self.told.borrow_mut().push(Told::Flushed(gva.0));
    }

    fn written(&mut self, _: &Context, gpa: u64, len: u64) {
        self.told.borrow_mut().push(Told::Written(gpa, len));
    }

    fn take_watched(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.watched)
    }
}

fn told_of(guest: &mut Guest, watched: Vec<u64>) -> Vec<Told> {
    let told = Rc::new(RefCell::new(Vec::new()));
    guest.cpu.observe_paging(Box::new(Listener {
        told: Rc::clone(&told),
        watched,
    }));
    assert_eq!(guest.run(), Exit::Halt);
    let told = told.borrow();
    told.clone()
}

#[test]
fn loads_of_registers_and_flushes_are_told_in_order() {
    let mut guest = Guest::long_mode(|a| {
        a.mov(rax, cr3).unwrap();
        a.mov(cr3, rax).unwrap();
        a.invlpg(ptr(0x5000)).unwrap();
        a.mov(rax, cr4).unwrap();
        a.xor(rax, 0x80).unwrap();
        a.mov(cr4, rax).unwrap();
        a.hlt().unwrap();
    });
    let told = told_of(&mut guest, Vec::new());
    let changes: Vec<_> = told
        .into_iter()
        .filter(|told| !matches!(told, Told::Missed(..)))
        .collect();
    let expected = [
        Told::Registers,
        Told::Root,
        Told::Flushed(0x5000),
        Told::Registers,
    ];
    assert_eq!(changes, expected);
}

#[test]
fn every_write_to_a_watched_page_is_told_and_no_other() {
    // Once interpreted, and once translated.
    for after in [None, Some(1)] {
        let mut guest = Guest::long_mode(|a| {
            let mut again = a.create_label();
            a.mov(rcx, 20_u64).unwrap();
            a.set_label(&mut again).unwrap();
            a.mov(qword_ptr(0x5008), rcx).unwrap();
            a.lock().xadd(dword_ptr(0x5010), ecx).unwrap();
            a.mov(ecx, ecx).unwrap();
            a.mov(qword_ptr(0x6000), rcx).unwrap();
            a.mov(rcx, qword_ptr(0x5008)).unwrap();
            a.dec(rcx).unwrap();
            a.jnz(again).unwrap();
            a.hlt().unwrap();
        });
        guest.cpu.set_translation(after);
        let told = told_of(&mut guest, vec![0x5000]);
        let written: Vec<_> = told
            .iter()
            .filter(|told| matches!(told, Told::Written(..)))
            .copied()
            .collect();
        let each = [Told::Written(0x5008, 8), Told::Written(0x5010, 4)];
        assert_eq!(written, each.repeat(20), "translated after {after:?}");
        let missed = Told::Missed(0x5008, AccessKind::Write);
        let misses = told.iter().filter(|&&told| told == missed).count();
        assert_eq!(misses, 20);
        assert_eq!(guest.read_u64(0x5008), 1);
    }
}
