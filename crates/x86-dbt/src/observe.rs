//! Telling a model of memory virtualization what a processor with a TLB would have shown it.

use std::fmt;

use guest_paging::Gva;
use guest_paging::x86::{Access, Context};

use crate::cpu::Cpu;

/// Is told of everything that has to do with the guest's page tables, while it happens.
///
/// It may read guest memory; what it writes there must be what a page walk would write.
pub trait PagingObserver {
    /// An access missed the software TLB, and is about to be walked for. One to a device misses each
    /// time, and so does a write to a page that is [watched](Self::take_watched).
    fn missed(&mut self, context: &Context, gva: Gva, access: Access);

    /// CR3 was loaded: `context` has it.
    fn root_loaded(&mut self, context: &Context);

    /// CR0, CR4, EFER or PKRU was changed: `context` has all of them.
    fn registers_changed(&mut self, context: &Context);

    /// INVLPG.
    fn page_flushed(&mut self, context: &Context, gva: Gva);

    /// The guest has written `len` bytes at `gpa`, in a page that is watched.
    fn written(&mut self, context: &Context, gpa: u64, len: u64);

    /// Pages, by guest-physical address, whose writes must be told from now on. Asked after each
    /// [`missed`](Self::missed).
    fn take_watched(&mut self) -> Vec<u64>;
}

/// The observer, if there is one, and the pages that it watches.
#[derive(Default)]
pub(crate) struct Watch {
    observer: Option<Box<dyn PagingObserver>>,
    /// A bit for each page of RAM.
    pages: Vec<u64>,
}

impl Watch {
    /// Whether writes to the page of `gpa` must be told.
    #[inline(always)]
    pub(crate) fn has(&self, gpa: u64) -> bool {
        let page = gpa >> 12;
        self.pages
            .get((page / 64) as usize)
            .is_some_and(|word| word >> (page % 64) & 1 != 0)
    }

    fn add(&mut self, gpa: u64) {
        let word = ((gpa >> 12) / 64) as usize;
        if word >= self.pages.len() {
            self.pages.resize(word + 1, 0);
        }
        self.pages[word] |= 1 << ((gpa >> 12) % 64);
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("observed", &self.observer.is_some())
            .finish_non_exhaustive()
    }
}

impl Cpu {
    /// Sets who is told of page tables from now on, beginning with the registers as they are.
    pub fn observe_paging(&mut self, observer: Box<dyn PagingObserver>) {
        self.watch = Watch {
            observer: Some(observer),
            pages: Vec::new(),
        };
        self.tlb.flush(false);
        self.tell(|observer, context| observer.registers_changed(context));
    }

    #[inline(always)]
    pub(crate) fn tell(&mut self, what: impl FnOnce(&mut dyn PagingObserver, &Context)) {
        if let Some(observer) = &mut self.watch.observer {
            what(observer.as_mut(), &self.paging);
        }
    }

    #[inline(always)]
    pub(crate) fn tell_missed(&mut self, gva: Gva, access: Access) {
        if self.watch.observer.is_some() {
            self.tell(|observer, context| observer.missed(context, gva, access));
            self.watch_more();
        }
    }

    #[inline(never)]
    fn watch_more(&mut self) {
        let Some(observer) = &mut self.watch.observer else {
            return;
        };
        for gpa in observer.take_watched() {
            if !self.watch.has(gpa) {
                self.watch.add(gpa);
                self.tlb.protect(gpa);
            }
        }
    }
}
