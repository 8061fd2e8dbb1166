//! Debian's cloud kernel with busybox: processor time of the whole process, to power-off.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::median;
use crate::process::child_time;

/// The boot alone, `runs` of each, with the default command line and without the crypto self-tests.
pub(crate) fn run(runs: f64) {
    let guest = Guest::new();
    for extra in ["", "cryptomgr.notests"] {
        let [ours, tcg] = guest.compare("true", extra, runs as usize);
        println!(
            "boot {extra:<18} ours {ours:.2} s, TCG {tcg:.2} s of processor time: {:.2}",
            ours / tcg
        );
    }
}

const WORKLOADS: [(&str, &str); 4] = [
    (
        "sha256sum",
        "dd if=/dev/zero bs=1M count=64 2>/dev/null | sha256sum",
    ),
    (
        "gzip",
        "i=0; while [ $i -lt 64 ]; do dd if=/bin/busybox bs=1M count=1 2>/dev/null; i=$((i + 1)); done | gzip | wc -c",
    ),
    (
        "awk",
        "dd if=/dev/zero bs=1M count=64 2>/dev/null | tr '\\0' 'a' | fold -w 60 | awk '{ n += length($0) } END { print n }'",
    ),
    (
        "fork",
        "i=0; while [ $i -lt 2000 ]; do /bin/busybox true; i=$((i + 1)); done",
    ),
];

/// What busybox does in the guest, the boot subtracted.
pub(crate) fn workloads(runs: f64) {
    let guest = Guest::new();
    let [ours_boot, tcg_boot] = guest.compare("true", "cryptomgr.notests", runs as usize);
    let mut logarithms = 0.0;
    for (name, commands) in WORKLOADS {
        let [ours, tcg] = guest.compare(commands, "cryptomgr.notests", runs as usize);
        let (ours, tcg) = (ours - ours_boot, tcg - tcg_boot);
        logarithms += (tcg / ours).ln();
        println!(
            "{name:<10} ours {ours:.2} s, TCG {tcg:.2} s of processor time: {:.1} times faster",
            tcg / ours
        );
    }
    let mean = (logarithms / WORKLOADS.len() as f64).exp();
    println!("geomean {mean:.1} (goal 3)");
}

struct Guest {
    boot: PathBuf,
    kernel: PathBuf,
    /// For the initial RAM disk.
    directory: PathBuf,
}

impl Guest {
    fn new() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let boot = root.join("target/release/boot");
        assert!(
            boot.exists(),
            "build it first: cargo build --release -p boot"
        );
        let directory = std::env::temp_dir().join(format!("tcg-boot-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let mut guest = Self {
            boot,
            kernel: PathBuf::new(),
            directory,
        };
        // Fetches the packages.
        guest.write_initrd("true");
        guest.kernel = kernel(&root.join("target/guests"));
        guest
    }

    fn write_initrd(&self, commands: &str) -> PathBuf {
        let initrd = self.directory.join("initrd");
        let mut write = Command::new(&self.boot);
        write
            .args(["--run", commands, "--write-initrd"])
            .arg(&initrd);
        assert!(quiet(&mut write).status().expect("boot runs").success());
        initrd
    }

    /// Median seconds of ours and of TCG, interleaved.
    fn compare(&self, commands: &str, extra: &str, runs: usize) -> [f64; 2] {
        let initrd = self.write_initrd(commands);
        let line = format!("console=ttyS0 quiet panic=-1 {extra}");
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..runs.max(1) {
            let mut ours = Command::new(&self.boot);
            ours.args(["--engine", "dbt", "--cmdline", &line, "--kernel"]);
            ours.arg(&self.kernel).arg("--initrd").arg(&initrd);
            times[0].push(child_time(quiet(&mut ours)));
            let mut tcg = Command::new("qemu-system-x86_64");
            tcg.args("-accel tcg -m 512 -nographic -no-reboot -kernel".split_whitespace());
            tcg.arg(&self.kernel)
                .arg("-initrd")
                .arg(&initrd)
                .args(["-append", &line]);
            times[1].push(child_time(quiet(&mut tcg)));
        }
        times.map(|mut times| median(&mut times))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn quiet(command: &mut Command) -> &mut Command {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
}

fn kernel(guests: &Path) -> PathBuf {
    let packages = std::fs::read_dir(guests).expect("packages that boot has fetched");
    let cloud = packages
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().contains("cloud"))
        .expect("the cloud kernel's package");
    let boot = std::fs::read_dir(cloud.path().join("boot")).expect("a boot directory");
    boot.flatten()
        .map(|entry| entry.path())
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"))
        })
        .expect("a kernel")
}
