//! The initial RAM disk: busybox as init and shell, in a cpio archive.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use cpio::newc;

/// What the guest prints when user space is up; the session takes the time then.
pub const READY: &str = "softmetal: user space is up";

/// How the guest's interface gets its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressing {
    /// It asks for one.
    Dhcp,
    /// The guest's commands see to it.
    Manual,
}

/// Builds the archive. With `commands` the guest runs them and powers off, else it offers a shell. With
/// `modules` it loads them in this order, and brings the interface up.
///
/// # Errors
///
/// When a module cannot be read.
pub fn build(
    busybox: &[u8],
    commands: Option<&str>,
    modules: &[PathBuf],
    addressing: Addressing,
) -> io::Result<Vec<u8>> {
    let mut archive = Archive {
        bytes: Vec::new(),
        inode: 0,
    };
    for directory in [
        "bin", "dev", "etc", "lib", "proc", "root", "sbin", "sys", "tmp", "usr", "usr/bin",
        "usr/sbin",
    ] {
        archive.add(directory, DIRECTORY, b"")?;
    }
    archive.add("bin/busybox", EXECUTABLE, busybox)?;
    archive.add("bin/sh", LINK, b"busybox")?;
    // The kernel starts /init; as PID 1 under this name, busybox is an init with an inittab.
    archive.add("init", LINK, b"bin/busybox")?;
    let mut network = String::new();
    for module in modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.add(&format!("lib/{name}"), FILE, &fs::read(module)?)?;
        network += &format!("/bin/busybox insmod /lib/{name}\n");
    }
    if !modules.is_empty() {
        network += UP;
        if addressing == Addressing::Dhcp {
            network += DHCP;
        }
        archive.add("etc/udhcpc", EXECUTABLE, UDHCPC.as_bytes())?;
    }
    let rc = RC.replace("@READY@", READY).replace("@NETWORK@", &network);
    archive.add("etc/rc", EXECUTABLE, rc.as_bytes())?;
    let (inittab, run) = match commands {
        Some(commands) => (INITTAB_RUN, format!("#!/bin/sh\n{commands}\n")),
        None => (INITTAB_SHELL, String::new()),
    };
    archive.add("etc/inittab", FILE, inittab.as_bytes())?;
    archive.add("etc/run", EXECUTABLE, run.as_bytes())?;
    archive.add(
        "etc/profile",
        FILE,
        b"export PS1='softmetal:\\w# ' HOME=/root\n",
    )?;
    newc::trailer(archive.bytes)
}

struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, contents: &[u8]) -> io::Result<()> {
        self.inode += 1;
        let size = u32::try_from(contents.len()).map_err(io::Error::other)?;
        let entry = newc::Builder::new(name).ino(self.inode).mode(mode).nlink(1);
        let mut writer = entry.write(std::mem::take(&mut self.bytes), size);
        writer.write_all(contents)?;
        self.bytes = writer.finish()?;
        Ok(())
    }
}

const RC: &str = "\
#!/bin/sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox --install -s
@NETWORK@echo '@READY@'
";
const UP: &str = "\
ip link set lo up
ip link set eth0 up
";
const DHCP: &str = "\
udhcpc -i eth0 -n -q -t 10 -T 1 -s /etc/udhcpc
";
/// What udhcpc runs when it has an address.
const UDHCPC: &str = "\
#!/bin/sh
[ \"$1\" = bound ] || exit 0
ip address add \"$ip/$mask\" dev \"$interface\"
ip route add default via \"$router\"
echo \"nameserver $dns\" > /etc/resolv.conf
echo \"softmetal: $interface has $ip\"
";
const INITTAB_SHELL: &str = "\
::sysinit:/etc/rc
ttyS0::respawn:-/bin/sh
::shutdown:/bin/busybox sync
";
const INITTAB_RUN: &str = "\
::sysinit:/etc/rc
ttyS0::wait:/etc/run
ttyS0::wait:/bin/busybox poweroff
::shutdown:/bin/busybox sync
";
const DIRECTORY: u32 = 0o040_755;
const EXECUTABLE: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const LINK: u32 = 0o120_777;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_holds_what_init_needs() {
        let bytes = build(b"ELF", Some("uname -a"), &[], Addressing::Dhcp).unwrap();
        let mut rest = io::Cursor::new(bytes);
        let mut names = Vec::new();
        loop {
            let reader = newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            names.push(reader.entry().name().to_owned());
            rest = reader.finish().unwrap();
        }
        for name in ["init", "bin/busybox", "etc/inittab", "etc/run"] {
            assert!(names.iter().any(|found| found == name), "{name} is missing");
        }
    }
}
