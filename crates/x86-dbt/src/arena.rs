//! Executable memory: one memfd mapped twice, once writable and once executable, never both at one address.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

/// A bump allocator of executable bytes with a fixed budget.
///
/// The executable mapping has an inaccessible page on either side. When the budget is used up the owner
/// calls [`Arena::flush`]; handles of the generation before are refused afterwards.
#[derive(Debug)]
pub(crate) struct Arena {
    writable: Mapping,
    executable: Mapping,
    used: usize,
    generation: u32,
    /// Something was patched, and has not been published.
    patched: bool,
}

/// Where a stub starts, and when it was put there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StubHandle {
    pub(crate) offset: u32,
    generation: u32,
}

impl Arena {
    /// Maps `budget` bytes, rounded up to whole pages.
    pub(crate) fn new(budget: usize) -> io::Result<Self> {
        let len = budget.next_multiple_of(PAGE);
        assert!(u32::try_from(len).is_ok(), "a handle's offset has 32 bits");
        let memory = memfd(len)?;
        let writable = Mapping::reserve(len)?;
        writable.map(&memory, libc::PROT_READ | libc::PROT_WRITE)?;
        let executable = Mapping::reserve(len)?;
        executable.map(&memory, libc::PROT_READ | libc::PROT_EXEC)?;
        Ok(Self {
            writable,
            executable,
            used: 0,
            generation: 0,
            patched: false,
        })
    }

    /// Copies `code` in; `None` when the budget does not hold it.
    pub(crate) fn push(&mut self, code: &[u8]) -> Option<StubHandle> {
        let offset = self.used;
        let end = offset.checked_add(code.len())?;
        if end > self.writable.len {
            return None;
        }
        let at = self.writable.inner().wrapping_add(offset);
        // SAFETY: `offset + code.len()` is within the writable mapping (checked above), which `&mut self` owns
        // alone and which `code`, a Rust slice, cannot overlap.
        unsafe { ptr::copy_nonoverlapping(code.as_ptr(), at, code.len()) };
        serialize();
        self.used = end.next_multiple_of(STUB_ALIGN);
        Some(StubHandle {
            offset: u32::try_from(offset).ok()?,
            generation: self.generation,
        })
    }

    /// Overwrites a few bytes of a stub, `offset` bytes from the start of the arena. [`Self::publish`] must follow before
    /// the stub runs.
    ///
    /// # Panics
    ///
    /// When the bytes are not inside what was pushed.
    pub(crate) fn patch(&mut self, offset: u32, bytes: &[u8]) {
        let offset = offset as usize;
        assert!(offset + bytes.len() <= self.used);
        let at = self.writable.inner().wrapping_add(offset);
        // SAFETY: the bytes are within the writable mapping (asserted), which `&mut self` owns alone.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len()) };
        self.patched = true;
    }

    /// Makes what was patched safe to run.
    pub(crate) fn publish(&mut self) {
        if std::mem::take(&mut self.patched) {
            serialize();
        }
    }

    /// Forgets every stub. Their handles no longer resolve.
    pub(crate) fn flush(&mut self) {
        self.used = 0;
        self.generation = self
            .generation
            .checked_add(1)
            .expect("four billion flushes");
    }

    /// The address to call, `None` for a handle from before the last flush.
    #[inline]
    pub(crate) fn resolve(&self, handle: StubHandle) -> Option<*const u8> {
        (handle.generation == self.generation).then(|| {
            self.executable
                .inner()
                .cast_const()
                .wrapping_add(handle.offset as usize)
        })
    }

    /// The address of code at `offset`, as [`StubHandle::offset`] has it.
    pub(crate) fn address(&self, offset: u32) -> *const u8 {
        debug_assert!((offset as usize) < self.used);
        self.executable
            .inner()
            .cast_const()
            .wrapping_add(offset as usize)
    }

    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }
}

/// A reserved address range: an inaccessible page, `len` bytes, an inaccessible page.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: *mut u8,
    len: usize,
}

// SAFETY: the mapping is plain process memory that only its owner reaches; nothing in it is tied to a thread.
unsafe impl Send for Mapping {}
// SAFETY: shared references only compute addresses (`inner`); writing needs `&mut Arena`.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Reserves the range; nothing in it can be reached yet.
    pub(crate) fn reserve(len: usize) -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: no address is asked for, so the kernel picks a range that nothing else uses.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len + 2 * PAGE,
                libc::PROT_NONE,
                flags,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            base: base.cast(),
            len,
        })
    }

    fn map(&self, memory: &OwnedFd, protection: libc::c_int) -> io::Result<()> {
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        let fd = memory.as_raw_fd();
        // SAFETY: MAP_FIXED replaces only pages inside the range that `reserve` obtained for this value.
        let at = unsafe { libc::mmap(self.inner().cast(), self.len, protection, flags, fd, 0) };
        if at == libc::MAP_FAILED {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// Makes `len` bytes from `from` on fresh zeroed memory. Both must be whole pages inside the range.
    pub(crate) fn allocate(&self, from: usize, len: usize) -> io::Result<()> {
        assert!(from.is_multiple_of(PAGE) && len.is_multiple_of(PAGE) && from + len <= self.len);
        let at = self.inner().wrapping_add(from);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: MAP_FIXED replaces only pages inside the range that `reserve` obtained for this value.
        let mapped = unsafe { libc::mmap(at.cast(), len, protection, flags, -1, 0) };
        if mapped == libc::MAP_FAILED {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// The first byte after the inaccessible page in front.
    pub(crate) fn inner(&self) -> *mut u8 {
        self.base.wrapping_add(PAGE)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `base` and the length are those of `reserve`, and no stub runs while the owner is dropped.
        unsafe { libc::munmap(self.base.cast(), self.len + 2 * PAGE) };
    }
}

fn memfd(len: usize) -> io::Result<OwnedFd> {
    // MFD_EXEC is asked for first, for hosts with vm.memfd_noexec; kernels before 6.3 do not know it.
    let fd = memfd_create(libc::MFD_CLOEXEC | libc::MFD_EXEC)
        .or_else(|_| memfd_create(libc::MFD_CLOEXEC))?;
    let len = libc::off_t::try_from(len).map_err(io::Error::other)?;
    // SAFETY: the call takes two numbers.
    if unsafe { libc::ftruncate(fd.as_raw_fd(), len) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(fd)
}

fn memfd_create(flags: libc::c_uint) -> io::Result<OwnedFd> {
    // SAFETY: the name is a NUL-terminated literal.
    let fd = unsafe { libc::memfd_create(c"x86-dbt stubs".as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes code that was written through another address safe to run (SDM volume 3, 9.1.3: a different linear
/// address asks for a serializing instruction). IRET to the next instruction serializes as CPUID does (9.3), and
/// costs no exit where the host is itself a guest.
fn serialize() {
    // SAFETY: the five words on the stack are a frame that returns to the label behind with SS, RSP, RFLAGS and CS
    // as they are; the block uses the stack (no `nostack`), so the red zone is not live.
    unsafe {
        core::arch::asm!(
            "mov {t}, rsp",
            "mov {s:e}, ss",
            "push {s}",
            "push {t}",
            "pushfq",
            "mov {s:e}, cs",
            "push {s}",
            "lea {s}, [rip + 2f]",
            "push {s}",
            "iretq",
            "2:",
            t = out(reg) _,
            s = out(reg) _,
        );
    }
}

const PAGE: usize = 4096;
const STUB_ALIGN: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_arena_refuses_and_a_flush_makes_room() {
        let mut arena = Arena::new(1).unwrap();
        let code = [0xcc; 1000];
        let handles: Vec<_> = std::iter::from_fn(|| arena.push(&code)).collect();
        assert_eq!(handles.len(), PAGE / 1008);
        arena.flush();
        assert!(arena.push(&code).is_some());
    }

    #[test]
    fn handles_from_before_a_flush_do_not_resolve() {
        let mut arena = Arena::new(PAGE).unwrap();
        let old = arena.push(&[0xc3]).unwrap();
        assert!(arena.resolve(old).is_some());
        arena.flush();
        let new = arena.push(&[0xc3]).unwrap();
        assert_eq!(old.offset, new.offset);
        assert!(arena.resolve(old).is_none());
        assert!(arena.resolve(new).is_some());
    }

    #[test]
    fn no_mapping_is_writable_and_executable() {
        let arena = Arena::new(PAGE).unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let protection = |address: *mut u8| {
            let address = address as usize;
            maps.lines().find_map(|line| {
                let (range, rest) = line.split_once(' ')?;
                let (from, to) = range.split_once('-')?;
                let from = usize::from_str_radix(from, 16).ok()?;
                let to = usize::from_str_radix(to, 16).ok()?;
                (from..to).contains(&address).then(|| rest[..4].to_owned())
            })
        };
        assert_eq!(protection(arena.writable.inner()).as_deref(), Some("rw-s"));
        assert_eq!(
            protection(arena.executable.inner()).as_deref(),
            Some("r-xs")
        );
        let guard = arena.executable.inner().wrapping_add(PAGE);
        assert_eq!(protection(guard).as_deref(), Some("---p"));
        assert_eq!(protection(arena.executable.base).as_deref(), Some("---p"));
    }
}
