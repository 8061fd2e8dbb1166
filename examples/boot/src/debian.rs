//! Debian's kernel and busybox, by package name through apt, without root and kept under `target/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail, ensure};
use sha2::{Digest, Sha256};

use crate::{Flavour, Net};

/// What a boot needs.
#[derive(Debug)]
pub struct Files {
    /// The kernel image.
    pub kernel: PathBuf,
    /// The busybox program.
    pub busybox: PathBuf,
    /// Modules for the adapter, in the order in which they go in.
    pub modules: Vec<PathBuf>,
}

/// Downloads the packages unless they are there, checks them against the package index, and unpacks them.
///
/// # Errors
///
/// Without apt, network or room, and when a package is not what the index says.
pub fn obtain(flavour: Flavour, net: Option<Net>) -> Result<Files> {
    let apt = Apt::new(cache_directory()?);
    let kernel = apt.kernel_package(flavour)?;
    let kernel_files = apt.unpacked(&kernel)?;
    let busybox = apt.unpacked("busybox-static")?.join("bin/busybox");
    let kernel = only_kernel(&kernel_files.join("boot"))?;
    let names: &[&str] = match net {
        Some(Net::E1000) => &["e1000.ko"],
        Some(_) => &VIRTIO_MODULES,
        None => &[],
    };
    let tree = kernel_files.join("lib/modules");
    let modules = names.iter().map(|name| module(&tree, name));
    Ok(Files {
        kernel,
        busybox,
        modules: modules.collect::<Result<_>>()?,
    })
}

struct Apt {
    cache: PathBuf,
}

impl Apt {
    fn new(cache: PathBuf) -> Self {
        Self { cache }
    }

    /// The package that the flavour's meta-package depends on.
    fn kernel_package(&self, flavour: Flavour) -> Result<String> {
        let meta = match flavour {
            Flavour::Full => "linux-image-amd64",
            _ => "linux-image-cloud-amd64",
        };
        let depends = self.query(&["depends", "--no-recommends", "--no-suggests", meta])?;
        let package = depends
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .find(|name| name.starts_with("linux-image-"));
        package
            .map(str::to_owned)
            .ok_or_else(|| anyhow!("{meta} names no kernel package"))
    }

    /// The directory that `package` is unpacked in.
    fn unpacked(&self, package: &str) -> Result<PathBuf> {
        let record = self.query(&["show", "--no-all-versions", package])?;
        let field = |name: &str| {
            let found = record.lines().find_map(|line| line.strip_prefix(name));
            found
                .map(|value| value.trim().to_owned())
                .ok_or_else(|| anyhow!("{package}: no {name} in the index"))
        };
        let (version, expected) = (field("Version:")?, field("SHA256:")?);
        let directory = self
            .cache
            .join(format!("{package}_{}", version.replace(':', "_")));
        let done = directory.join(".sha256");
        if fs::read_to_string(&done).is_ok_and(|sum| sum == expected) {
            eprintln!("package: {package} {version}, kept from before, sha256 {expected}");
            return Ok(directory);
        }
        eprintln!("package: {package} {version}, downloading");
        let archive = self.download(package)?;
        let sum = sha256(&archive)?;
        ensure!(
            sum == expected,
            "{package}: sha256 is {sum}, the index says {expected}"
        );
        eprintln!("package: {package}, sha256 {sum} as in the index");
        let _ = fs::remove_dir_all(&directory);
        run(Command::new("dpkg-deb")
            .arg("-x")
            .arg(&archive)
            .arg(&directory))?;
        fs::write(done, sum)?;
        fs::remove_file(archive)?;
        Ok(directory)
    }

    fn download(&self, package: &str) -> Result<PathBuf> {
        let directory = self.cache.join("download");
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory)?;
        let mut command = self.command("apt-get");
        run(command
            .args(["download", "-q", package])
            .current_dir(&directory))?;
        let mut files = fs::read_dir(&directory)?;
        let file = files
            .next()
            .ok_or_else(|| anyhow!("apt-get downloaded nothing"))??;
        Ok(file.path())
    }

    /// Asks the package index; where there is none yet, one of our own is fetched.
    fn query(&self, arguments: &[&str]) -> Result<String> {
        let ask = || run(self.command("apt-cache").args(arguments));
        match ask() {
            Ok(answer) if !answer.trim().is_empty() => Ok(answer),
            _ if self.own_lists().exists() => ask(),
            _ => {
                eprintln!("package: no package index yet, fetching one");
                fs::create_dir_all(self.own_lists().join("partial"))?;
                run(self.command("apt-get").args(["update", "-q"]))?;
                ask()
            }
        }
    }

    /// A user who is not root, and a container without lists, keep the index under `target/`.
    fn own_lists(&self) -> PathBuf {
        self.cache.join("lists")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C");
        // Downloads go to our own directory, which apt's sandbox user may not be able to write.
        command.args(["-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1"]);
        if self.own_lists().exists() {
            for (key, place) in [("State::lists", "lists"), ("Cache", "cache")] {
                let place = self.cache.join(place);
                let _ = fs::create_dir_all(place.join("archives/partial"));
                command
                    .arg("-o")
                    .arg(format!("Dir::{key}={}", place.display()));
            }
        }
        command
    }
}

/// The one `vmlinuz-*` of a package.
fn only_kernel(directory: &Path) -> Result<PathBuf> {
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        if name.is_some_and(|name| name.starts_with("vmlinuz-")) {
            return Ok(path);
        }
    }
    bail!("no vmlinuz in {}", directory.display())
}

/// The file called `name` somewhere under `tree`.
fn module(tree: &Path, name: &str) -> Result<PathBuf> {
    let mut open = vec![tree.to_path_buf()];
    while let Some(directory) = open.pop() {
        let entries = fs::read_dir(&directory).with_context(|| directory.display().to_string())?;
        for entry in entries {
            let path = entry?.path();
            if path.file_name().is_some_and(|found| found == name) {
                return Ok(path);
            }
            // Links lead out of the tree.
            if path.is_dir() && !path.is_symlink() {
                open.push(path);
            }
        }
    }
    bail!("this kernel has no {name}: e1000 comes with --guest full")
}

/// `target/guests` of the workspace, wherever the build put it.
fn cache_directory() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program
        .ancestors()
        .find(|path| path.join("CACHEDIR.TAG").exists());
    let cache = target
        .map_or_else(|| std::env::temp_dir().join("softmetal"), Path::to_path_buf)
        .join("guests");
    fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
    Ok(cache)
}

fn sha256(path: &Path) -> Result<String> {
    let sum = Sha256::digest(fs::read(path)?);
    Ok(sum.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Runs a command to its end; its output, or its complaint as the error.
fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("cannot run {name}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let line = complaint
        .lines()
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or("no message");
    bail!("{name}: {}", line.trim())
}

/// Each after those it depends on.
const VIRTIO_MODULES: [&str; 8] = [
    "virtio_ring.ko",
    "virtio.ko",
    "virtio_pci_modern_dev.ko",
    "virtio_pci_legacy_dev.ko",
    "virtio_pci.ko",
    "failover.ko",
    "net_failover.ko",
    "virtio_net.ko",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_gives_its_last_line() {
        let error =
            run(Command::new("sh").args(["-c", "echo one >&2; echo two >&2; exit 3"])).unwrap_err();
        assert_eq!(error.to_string(), "sh: two");
    }

    #[test]
    fn a_missing_command_is_named() {
        let error = run(&mut Command::new("softmetal-no-such-program")).unwrap_err();
        assert!(error.to_string().contains("softmetal-no-such-program"));
    }

    #[test]
    fn a_directory_without_a_kernel_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        assert!(only_kernel(directory.path()).is_err());
        let kernel = directory.path().join("vmlinuz-6.1");
        fs::write(&kernel, "").unwrap();
        assert_eq!(only_kernel(directory.path()).unwrap(), kernel);
    }
}
