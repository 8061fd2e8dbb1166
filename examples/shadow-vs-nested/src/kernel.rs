//! A guest kernel reduced to what it does to page tables, and the programs that it runs.

use anyhow::{Result, bail};
use guest_paging::vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::machine::{GUEST_FRAMES, Machine, Outcome};

/// What the machine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Workload {
    /// A process forks again and again; each child writes to some pages and exits.
    Fork,
    /// A process replaces its image again and again.
    Exec,
    /// Eight processes take turns, each touching its pages.
    Switch,
    /// A process maps, touches and unmaps pages without end.
    Tables,
    /// A process touches more pages than the TLB holds, and nothing else.
    Memory,
}

impl Workload {
    pub(crate) const ALL: [Self; 5] = [
        Self::Fork,
        Self::Exec,
        Self::Switch,
        Self::Tables,
        Self::Memory,
    ];

    pub(crate) fn run<M: Machine>(self, kernel: &mut Kernel<'_, M>, rounds: u32) -> Result<()> {
        match self {
            Self::Fork => fork(kernel, rounds),
            Self::Exec => exec(kernel, rounds),
            Self::Switch => switch(kernel, rounds),
            Self::Tables => tables(kernel, rounds),
            Self::Memory => memory(kernel, rounds),
        }
    }
}

fn fork<M: Machine>(kernel: &mut Kernel<'_, M>, rounds: u32) -> Result<()> {
    let parent = kernel.spawn(PAGES)?;
    for _ in 0..rounds {
        let child = kernel.fork(parent)?;
        kernel.switch(child)?;
        for page in 0..PAGES / 4 {
            kernel.touch(child, page, true)?;
        }
        kernel.switch(parent)?;
        kernel.exit(child)?;
        for page in 0..PAGES / 4 {
            kernel.touch(parent, page, true)?;
        }
    }
    Ok(())
}

fn exec<M: Machine>(kernel: &mut Kernel<'_, M>, rounds: u32) -> Result<()> {
    let process = kernel.spawn(PAGES)?;
    for _ in 0..rounds {
        kernel.unmap(process, 0, PAGES)?;
        for page in 0..PAGES {
            kernel.touch(process, page, page % 2 == 0)?;
        }
    }
    Ok(())
}

fn switch<M: Machine>(kernel: &mut Kernel<'_, M>, rounds: u32) -> Result<()> {
    let processes: Vec<usize> = (0..8)
        .map(|_| kernel.spawn(PAGES / 4))
        .collect::<Result<_>>()?;
    for _ in 0..rounds {
        for &process in &processes {
            kernel.switch(process)?;
            for page in 0..PAGES / 4 {
                kernel.touch(process, page, page % 4 == 0)?;
            }
        }
    }
    Ok(())
}

fn tables<M: Machine>(kernel: &mut Kernel<'_, M>, rounds: u32) -> Result<()> {
    let process = kernel.spawn(0)?;
    for round in 0..u64::from(rounds) {
        let first = round % 64 * 16;
        for page in first..first + 16 {
            kernel.touch(process, page, true)?;
        }
        kernel.unmap(process, first, 16)?;
    }
    Ok(())
}

fn memory<M: Machine>(kernel: &mut Kernel<'_, M>, rounds: u32) -> Result<()> {
    let process = kernel.spawn(MANY_PAGES)?;
    let mut page = 0;
    for _ in 0..u64::from(rounds) * 1024 {
        // A step that is prime to the count comes by every page.
        page = (page + 1543) % MANY_PAGES;
        kernel.touch(process, page, false)?;
    }
    Ok(())
}

/// Page tables and frames; everything else of a kernel is left out.
pub(crate) struct Kernel<'m, M> {
    memory: &'m GuestMemoryMmap,
    pub(crate) machine: M,
    processes: Vec<Process>,
    current: usize,
    free: Vec<u64>,
    /// By frame: how many pages map it.
    shares: Vec<u32>,
    kernel_half: u64,
}

struct Process {
    root: u64,
    /// Tables but the root, to be freed with it.
    tables: Vec<u64>,
    /// What each page maps, if anything.
    pages: Vec<Option<u64>>,
}

impl<'m, M: Machine> Kernel<'m, M> {
    /// Maps all of memory for the kernel with large pages, where the machine lets it.
    pub(crate) fn boot(memory: &'m GuestMemoryMmap, machine: M) -> Result<Self> {
        let mut kernel = Self {
            memory,
            machine,
            processes: Vec::new(),
            current: 0,
            free: (1..GUEST_FRAMES).rev().collect(),
            shares: vec![0; usize::try_from(GUEST_FRAMES)?],
            kernel_half: 0,
        };
        if M::KERNEL_MAPS_MEMORY {
            let (directory, pages) = (kernel.frame()?, kernel.frame()?);
            kernel.store(directory << 12, pages << 12 | 0x23)?;
            for large in 0..GUEST_FRAMES / 512 {
                kernel.store((pages << 12) + 8 * large, large << 21 | 0x1e3)?;
            }
            kernel.kernel_half = directory << 12 | 0x23;
        }
        Ok(kernel)
    }

    fn spawn(&mut self, pages: u64) -> Result<usize> {
        let root = self.frame()?;
        if self.kernel_half != 0 {
            self.store((root << 12) + 8 * KERNEL_INDEX, self.kernel_half)?;
        }
        let process = Process {
            root,
            tables: Vec::new(),
            pages: vec![None; usize::try_from(MANY_PAGES)?],
        };
        let slot = self.processes.iter().position(|other| other.root == 0);
        let slot = slot.unwrap_or(self.processes.len());
        if slot == self.processes.len() {
            self.processes.push(process);
        } else {
            self.processes[slot] = process;
        }
        self.switch(slot)?;
        for page in 0..pages {
            self.touch(slot, page, true)?;
        }
        Ok(slot)
    }

    /// A copy that shares all pages until one side writes.
    fn fork(&mut self, parent: usize) -> Result<usize> {
        let child = self.spawn(0)?;
        self.switch(parent)?;
        for page in 0..MANY_PAGES {
            let Some(frame) = self.processes[parent].pages[usize::try_from(page)?] else {
                continue;
            };
            self.shares[usize::try_from(frame)?] += 1;
            let entry = frame << 12 | READ_ONLY;
            let at = self.entry_at(parent, page)?;
            self.machine.write_entry(at, entry)?;
            self.map(child, page, frame, READ_ONLY)?;
        }
        self.machine.commit()?;
        let root = self.processes[parent].root;
        self.machine.switch(root, pcid(parent))?;
        Ok(child)
    }

    fn exit(&mut self, process: usize) -> Result<()> {
        for page in 0..MANY_PAGES {
            self.drop_page(process, page)?;
        }
        let root = std::mem::take(&mut self.processes[process].root);
        self.machine.release(root)?;
        let tables = std::mem::take(&mut self.processes[process].tables);
        for frame in tables.into_iter().chain([root]) {
            self.clear(frame)?;
            self.free.push(frame);
        }
        Ok(())
    }

    fn switch(&mut self, process: usize) -> Result<()> {
        self.machine.commit()?;
        self.current = process;
        let root = self.processes[process].root;
        self.machine.switch(root, pcid(process))
    }

    /// An access of the program; the kernel answers its page faults.
    fn touch(&mut self, process: usize, page: u64, write: bool) -> Result<()> {
        debug_assert_eq!(self.current, process);
        for _ in 0..3 {
            self.machine.commit()?;
            match self.machine.access(page << 12, write)? {
                Outcome::Done => return Ok(()),
                Outcome::PageFault => self.page_fault(process, page, write)?,
            }
        }
        bail!("page {page} of process {process} faults again and again")
    }

    fn page_fault(&mut self, process: usize, page: u64, write: bool) -> Result<()> {
        let old = self.processes[process].pages[usize::try_from(page)?];
        let Some(shared) = old else {
            let frame = self.frame()?;
            return self.map(process, page, frame, WRITABLE);
        };
        if !write {
            bail!("a page that is mapped cannot be read");
        }
        let at = self.entry_at(process, page)?;
        let shares = &mut self.shares[usize::try_from(shared)?];
        let frame = if *shares > 1 {
            *shares -= 1;
            self.frame()?
        } else {
            shared
        };
        self.shares[usize::try_from(frame)?] = 1;
        self.processes[process].pages[usize::try_from(page)?] = Some(frame);
        self.machine.write_entry(at, frame << 12 | WRITABLE)?;
        self.machine.invlpg(page << 12)
    }

    fn map(&mut self, process: usize, page: u64, frame: u64, flags: u64) -> Result<()> {
        let at = self.entry_at(process, page)?;
        let shares = &mut self.shares[usize::try_from(frame)?];
        *shares = (*shares).max(1);
        self.processes[process].pages[usize::try_from(page)?] = Some(frame);
        self.machine.write_entry(at, frame << 12 | flags)
    }

    fn unmap(&mut self, process: usize, first: u64, count: u64) -> Result<()> {
        for page in first..first + count {
            if self.drop_page(process, page)? {
                self.machine.invlpg(page << 12)?;
            }
        }
        self.machine.commit()
    }

    fn drop_page(&mut self, process: usize, page: u64) -> Result<bool> {
        let Some(frame) = self.processes[process].pages[usize::try_from(page)?].take() else {
            return Ok(false);
        };
        let at = self.entry_at(process, page)?;
        self.machine.write_entry(at, 0)?;
        let shares = &mut self.shares[usize::try_from(frame)?];
        *shares -= 1;
        if *shares == 0 {
            self.free.push(frame);
        }
        Ok(true)
    }

    /// Where the level 1 entry of a page lies. Tables are made on the way as needed.
    fn entry_at(&mut self, process: usize, page: u64) -> Result<u64> {
        let mut table = self.processes[process].root;
        for level in [3_u32, 2, 1] {
            let at = (table << 12) + 8 * (page >> (9 * level) & 511);
            let mut entry: u64 = self.memory.read_obj(GuestAddress(at))?;
            if entry == 0 {
                let frame = self.frame()?;
                self.processes[process].tables.push(frame);
                entry = frame << 12 | WRITABLE;
                self.machine.write_entry(at, entry)?;
                self.machine.commit()?;
            }
            table = entry >> 12 & 0xff_ffff;
        }
        Ok((table << 12) + 8 * (page & 511))
    }

    /// A free frame, full of zeros.
    fn frame(&mut self) -> Result<u64> {
        let Some(frame) = self.free.pop() else {
            bail!("the guest is out of memory");
        };
        Ok(frame)
    }

    /// Makes a table a free frame again.
    fn clear(&mut self, frame: u64) -> Result<()> {
        for slot in 0..512 {
            let at = (frame << 12) + 8 * slot;
            if self.memory.read_obj::<u64>(GuestAddress(at))? != 0 {
                self.machine.write_entry(at, 0)?;
            }
        }
        Ok(())
    }

    /// Writes before anything is shadowed.
    fn store(&self, at: u64, entry: u64) -> Result<()> {
        Ok(self.memory.write_obj(entry, GuestAddress(at))?)
    }
}

fn pcid(process: usize) -> u16 {
    u16::try_from(process + 1).unwrap_or(0)
}

/// Pages of a process.
const PAGES: u64 = 128;
/// More than the TLB has entries.
const MANY_PAGES: u64 = 4096;
const WRITABLE: u64 = 0x67;
const READ_ONLY: u64 = 0x25;
/// Level 4 index of the kernel's view of memory.
pub(crate) const KERNEL_INDEX: u64 = 256;
