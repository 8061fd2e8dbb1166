//! The kernels' image: built by gcc, run natively, by x86-dbt and by QEMU.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use x86_dbt::{Cpu, Cpuid, Exit, Features, Isolated, Ram, Segment, Vendor};

use crate::process::{child_time, thread_time};

const BASE: u64 = 0x40_0000;
const RAM: usize = 64 << 20;
const KERNEL: usize = 64;
const ITERATIONS: usize = 72;
const RESULT: u64 = BASE + 80;
const NATIVE: usize = 88;
const ENTRY: usize = 96;
const TABLES: usize = 104;

pub(crate) struct Image {
    bytes: Vec<u8>,
    directory: PathBuf,
}

/// A run: what the kernel returned and the seconds it took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) result: u64,
    pub(crate) seconds: f64,
}

impl Image {
    pub(crate) fn build() -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
        let directory = std::env::temp_dir().join(format!("kernels-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory for the image");
        let image = directory.join("image.bin");
        let gcc = |input: &str, output: &str| {
            let flags = "-O2 -ffreestanding -fno-pie -fno-stack-protector -fcf-protection=none \
                         -fno-asynchronous-unwind-tables -c -o";
            let mut command = Command::new("gcc");
            command
                .args(flags.split_whitespace())
                .arg(directory.join(output));
            assert!(
                command
                    .arg(source.join(input))
                    .status()
                    .expect("gcc")
                    .success()
            );
        };
        gcc("start.S", "start.o");
        gcc("kernels.c", "kernels.o");
        let linked = Command::new("ld")
            .args(["--oformat", "binary", "--no-warn-rwx-segments", "-T"])
            .arg(source.join("image.ld"))
            .args([directory.join("start.o"), directory.join("kernels.o")])
            .arg("-o")
            .arg(&image)
            .status();
        assert!(linked.expect("ld").success());
        let bytes = std::fs::read(&image).expect("the image");
        Self { bytes, directory }
    }

    fn word(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes[at..at + 8].try_into().expect("eight bytes"))
    }

    fn with_parameters(&self, kernel: u64, iterations: u64) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes[KERNEL..KERNEL + 8].copy_from_slice(&kernel.to_le_bytes());
        bytes[ITERATIONS..ITERATIONS + 8].copy_from_slice(&iterations.to_le_bytes());
        bytes
    }

    /// Calls the kernel in this process.
    pub(crate) fn native(&self, kernel: u64, iterations: u64) -> Run {
        let len = self.bytes.len().next_multiple_of(4096);
        let protection = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        let at = BASE as *mut libc::c_void;
        // SAFETY: MAP_FIXED_NOREPLACE takes the range only if nothing is there.
        let mapped = unsafe { libc::mmap(at, len, protection, flags, -1, 0) };
        assert_eq!(mapped, at, "the image's address is taken");
        // SAFETY: the mapping is as long as the image, and new.
        unsafe {
            at.cast::<u8>()
                .copy_from_nonoverlapping(self.bytes.as_ptr(), self.bytes.len())
        };
        let run = self.word(NATIVE) as *const ();
        // SAFETY: the image says that `run` is a C function of two words.
        let run: extern "sysv64" fn(u64, u64) -> u64 = unsafe { std::mem::transmute(run) };
        let before = thread_time();
        let result = run(kernel, iterations);
        let seconds = thread_time() - before;
        // SAFETY: the mapping was made above and nothing points into it any more.
        unsafe { libc::munmap(at, len) };
        Run { result, seconds }
    }

    /// Runs the kernel on our processor, in long mode.
    pub(crate) fn ours(&self, kernel: u64, iterations: u64, translate: bool) -> Run {
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), RAM)]).expect("RAM");
        let image = self.with_parameters(kernel, iterations);
        memory
            .write_slice(&image, GuestAddress(BASE))
            .expect("inside RAM");
        let ram = Ram::new(memory.clone()).expect("RAM of whole pages");
        let cpuid = Cpuid::new(Vendor::Amd, Features::DEFAULT, 1_000_000_000);
        let mut cpu = Cpu::new(cpuid, ram).expect("executable memory");
        if !translate {
            cpu.set_translation(None);
        }
        let mut state = cpu.state();
        (state.cr0, state.cr3, state.cr4) = (0x8000_0033, self.word(TABLES), 0x620);
        state.efer = 0x500;
        state.segments = [Segment::flat(0x10, 0xc000); 6];
        state.segments[1] = Segment::flat(0x08, 0xa008);
        state.registers.rip = self.word(ENTRY);
        cpu.set_state(&state);
        let before = thread_time();
        let exit = cpu.run(&mut Isolated, u64::MAX);
        let seconds = thread_time() - before;
        assert_eq!(exit, Exit::Halt, "{cpu:?}");
        let result = memory.read_obj(GuestAddress(RESULT)).expect("inside RAM");
        Run { result, seconds }
    }

    /// Runs the kernel under QEMU; the time that starting and stopping takes is included.
    pub(crate) fn tcg(&self, kernel: u64, iterations: u64) -> f64 {
        let path = self.directory.join("parameters.bin");
        std::fs::write(&path, self.with_parameters(kernel, iterations)).expect("the image");
        let mut command = Command::new("qemu-system-x86_64");
        command.args("-accel tcg -m 64 -nographic -no-reboot -nodefaults".split_whitespace());
        command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-kernel"]);
        child_time(command.arg(path).stdin(Stdio::null()).stdout(Stdio::null()))
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
