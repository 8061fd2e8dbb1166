//! Loading a kernel: a Linux bzImage, a 64-bit ELF image or a Multiboot image, its command line,
//! initial RAM disk and the tables that the boot protocols ask for.
//!
//! References: Linux Documentation/arch/x86/boot.rst and zero-page.rst (boot protocol 2.15); Xen
//! docs/misc/pvh.pandoc.

mod boot_data;
mod bzimage;
mod elf;
mod firmware;
mod multiboot;
#[cfg(test)]
mod tests;
mod unpack;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use linux_loader::loader;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

pub use boot_data::write_boot_tables;
pub use firmware::load_firmware;

use crate::layout::{HIGH_RAM, LOW_RAM_END};
use crate::start_state::StartState;

/// Guest RAM.
pub type Ram = GuestMemoryMmap<()>;

/// Allocates `size` bytes of RAM: contiguous from zero up to 3 GiB, the rest above 4 GiB.
///
/// # Errors
///
/// When the host has no such memory, or `size` is zero.
pub fn allocate_ram(size: u64) -> Result<Ram, LoadError> {
    Ram::from_ranges(&ranges(size)).map_err(|source| LoadError::Ram { size, source })
}

/// The same, in files that another process can map and whose size nobody can change.
///
/// # Errors
///
/// When the host does not give it.
pub fn allocate_shared_ram(size: u64) -> Result<Ram, LoadError> {
    let file = |&(start, length): &(GuestAddress, usize)| {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = memfd_create("guest-ram", flags)?;
        ftruncate(&file, length as u64)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW)?;
        let file = FileOffset::new(File::from(file), 0);
        Ok((start, length, Some(file)))
    };
    let files: rustix::io::Result<Vec<_>> = ranges(size).iter().map(file).collect();
    let files = files.map_err(|errno| LoadError::SharedRam {
        size,
        source: errno.into(),
    })?;
    Ram::from_ranges_with_files(files).map_err(|source| LoadError::Ram { size, source })
}

/// Where `size` bytes of RAM lie.
fn ranges(size: u64) -> Vec<(GuestAddress, usize)> {
    let piece =
        |start: u64, size: u64| usize::try_from(size).map(|size| (GuestAddress(start), size));
    let high = size.saturating_sub(LOW_RAM_END);
    let pieces = [piece(0, size.min(LOW_RAM_END)), piece(HIGH_RAM, high)];
    pieces
        .into_iter()
        .flatten()
        .filter(|&(_, size)| size > 0)
        .collect()
}

/// Why a guest cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The host gives no memory that could be shared.
    #[error("cannot allocate {size} bytes of shared guest memory")]
    SharedRam {
        /// Bytes asked for.
        size: u64,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// The host cannot give that much memory.
    #[error("cannot allocate {size} bytes of guest memory")]
    Ram {
        /// Bytes asked for.
        size: u64,
        /// What the host said.
        source: vm_memory::mmap::FromRangesError,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// Neither boot sector nor ELF header.
    #[error("{name} is neither a Linux bzImage nor a 64-bit x86 ELF kernel nor a Multiboot image")]
    NotAKernel {
        /// The image.
        name: String,
    },
    /// Not a ROM that a PC could start from.
    #[error("{name} is no firmware: a ROM of whole 64 KiB with a jump 16 bytes before its end")]
    NotFirmware {
        /// The image.
        name: String,
    },
    /// The header promises more than there is.
    #[error("{name} is truncated: {needed} bytes are needed, {found} are there")]
    Truncated {
        /// The image.
        name: String,
        /// Bytes the header asks for.
        needed: u64,
        /// Bytes there are.
        found: u64,
    },
    /// A bzImage for 32-bit processors, or from before boot protocol 2.12.
    #[error("{name} has no 64-bit entry point")]
    No64BitEntry {
        /// The image.
        name: String,
    },
    /// Kernel and RAM disk do not fit.
    #[error("{given} bytes of memory are too little: kernel and RAM disk need {needed}")]
    TooLittleMemory {
        /// Bytes needed below 3 GiB.
        needed: u64,
        /// Bytes of RAM.
        given: u64,
    },
    /// The kernel keeps only so much of a command line.
    #[error("the command line has {length} bytes, the kernel takes {limit}")]
    CommandLineTooLong {
        /// Bytes given.
        length: usize,
        /// Bytes the kernel takes.
        limit: usize,
    },
    /// A zero byte or another control character.
    #[error("the command line has a control character at byte {at}")]
    CommandLineCharacter {
        /// Where.
        at: usize,
    },
    /// The loader found the image malformed.
    #[error("{name} cannot be loaded")]
    Loader {
        /// The image.
        name: String,
        /// What the loader said.
        source: loader::Error,
    },
    /// Boot data lies outside RAM.
    #[error("boot data does not fit in memory")]
    BootData(#[source] vm_memory::GuestMemoryError),
}

/// A kernel image in memory.
#[derive(Clone, Debug)]
pub struct KernelImage {
    /// What messages call it.
    pub name: String,
    /// The file.
    pub bytes: Vec<u8>,
}

impl KernelImage {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// [`LoadError::File`].
    pub fn read(path: &Path) -> Result<Self, LoadError> {
        let bytes = read_file(path)?;
        Ok(Self {
            name: path.display().to_string(),
            bytes,
        })
    }
}

/// Reads a file, naming it in the error.
///
/// # Errors
///
/// [`LoadError::File`].
pub fn read_file(path: &Path) -> Result<Vec<u8>, LoadError> {
    std::fs::read(path).map_err(|source| LoadError::File {
        path: path.to_path_buf(),
        source,
    })
}

/// Which entry of an ELF image to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ElfEntry {
    /// The PVH note's when there is one, else the header's as a 64-bit Linux entry.
    #[default]
    Auto,
    /// The ELF header's, entered by the 64-bit Linux protocol.
    Linux64,
}

/// What goes into the guest.
#[derive(Clone, Copy, Debug)]
pub struct Guest<'a> {
    /// The kernel.
    pub kernel: &'a KernelImage,
    /// The initial RAM disk.
    pub initrd: Option<&'a [u8]>,
    /// The command line.
    pub command_line: &'a str,
    /// Which entry of an ELF image to use.
    pub entry: ElfEntry,
    /// ACPI tables to put at [`ACPI_TABLES`](crate::layout::ACPI_TABLES).
    pub acpi: Option<&'a [u8]>,
}

/// Loads `guest` into `ram` and answers how its processor starts.
///
/// # Errors
///
/// When the image is not a kernel, does not fit, or the command line does not suit it.
pub fn load(ram: &Ram, guest: &Guest<'_>) -> Result<StartState, LoadError> {
    if let Some(at) = guest
        .command_line
        .bytes()
        .position(|byte| byte < 0x20 || byte == 0x7f)
    {
        return Err(LoadError::CommandLineCharacter { at });
    }
    if bzimage::is_bzimage(&guest.kernel.bytes) {
        bzimage::load(ram, guest)
    } else if elf::is_elf_kernel(&guest.kernel.bytes) {
        elf::load(ram, guest)
    } else if multiboot::is_multiboot(&guest.kernel.bytes) {
        multiboot::load(ram, guest)
    } else {
        Err(LoadError::NotAKernel {
            name: guest.kernel.name.clone(),
        })
    }
}

fn check_command_line(command_line: &str, limit: usize) -> Result<(), LoadError> {
    let length = command_line.len();
    if length > limit {
        Err(LoadError::CommandLineTooLong { length, limit })
    } else {
        Ok(())
    }
}

/// Little-endian numbers of an image; `None` past its end.
fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(
        bytes.get(at..at.checked_add(2)?)?.try_into().ok()?,
    ))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(
        bytes.get(at..at.checked_add(4)?)?.try_into().ok()?,
    ))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(
        bytes.get(at..at.checked_add(8)?)?.try_into().ok()?,
    ))
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).expect("a length fits 64 bits")
}
