//! Debian's cloud kernel with busybox to power-off: processor time of the whole process.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::median;
use crate::process::child_time;

/// `runs` of each, interleaved, for the default command line and without the crypto self-tests.
pub(crate) fn run(runs: f64) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let boot = root.join("target/release/boot");
    assert!(boot.exists(), "build it first: cargo build --release -p boot");
    let guests = root.join("target/guests");
    let files = std::env::temp_dir().join(format!("tcg-boot-{}", std::process::id()));
    std::fs::create_dir_all(&files).expect("a directory");
    let initrd = files.join("initrd");
    let mut write = Command::new(&boot);
    write.args(["--run", "true", "--write-initrd"]).arg(&initrd);
    assert!(quiet(&mut write).status().expect("boot runs").success());
    for extra in ["", "cryptomgr.notests"] {
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..runs as usize {
            let line = format!("{COMMAND_LINE} {extra}");
            let mut ours = Command::new(&boot);
            ours.args(["--engine", "dbt", "--run", "true", "--cmdline", &line]);
            times[0].push(child_time(quiet(&mut ours)));
            let mut tcg = Command::new("qemu-system-x86_64");
            tcg.args("-accel tcg -m 512 -nographic -no-reboot -kernel".split_whitespace());
            tcg.arg(kernel(&guests)).arg("-initrd").arg(&initrd).args(["-append", &line]);
            times[1].push(child_time(quiet(&mut tcg)));
        }
        let [ours, tcg] = times.map(|mut times| median(&mut times));
        println!("boot {extra:<18} ours {ours:.2} s, TCG {tcg:.2} s of processor time: {:.2}", ours / tcg);
    }
    let _ = std::fs::remove_dir_all(files);
}

const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1";

fn quiet(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
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
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")))
        .expect("a kernel")
}
