//! DPDK's packet generator as a process that takes commands.

use std::env;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::layout::RingKind;

/// Which of DPDK's drivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// `net_virtio_user`: the driver's side, a front end.
    VirtioUser {
        /// Ring format.
        kind: RingKind,
        /// Whether buffers are to be used in order.
        in_order: bool,
    },
    /// `net_vhost`: the device's side, a back end.
    Vhost,
}

/// What the generator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// Sends as fast as it can.
    Transmit,
    /// Receives.
    Receive,
    /// Sends back what it receives.
    Io,
}

/// Packets that went through the port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounts {
    /// Received.
    pub received: u64,
    /// Sent.
    pub sent: u64,
}

/// A running generator; dropping it ends it.
#[derive(Debug)]
pub struct Testpmd {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Testpmd {
    /// Whether there is one on this machine.
    #[must_use]
    pub fn is_installed() -> bool {
        let paths = env::var_os("PATH").unwrap_or_default();
        let mut folders = env::split_paths(&paths);
        folders.any(|folder| folder.join(PROGRAM).is_file())
    }

    /// Starts one on the processor `cpu`, at the socket `path`. It has files of its own in `folder`.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be started.
    pub fn start(peer: Peer, forward: Forward, path: &Path, cpu: usize) -> Result<Self> {
        let (prefix, device) = match peer {
            Peer::VirtioUser { kind, in_order } => {
                let mut device = format!(
                    "net_virtio_user0,path={},queues=1,queue_size=256",
                    path.display()
                );
                if kind == RingKind::Packed {
                    device += ",packed_vq=1";
                }
                let _ = write!(device, ",in_order={}", u8::from(in_order));
                ("user", device)
            }
            Peer::Vhost => (
                "host",
                format!("net_vhost0,iface={},queues=1", path.display()),
            ),
        };
        // Two files of one name would be one: tests run beside each other.
        let prefix = format!("{prefix}-{}", path_digits(path));
        let mode = match forward {
            Forward::Transmit => "txonly",
            Forward::Receive => "rxonly",
            Forward::Io => "io",
        };
        let mut command = Command::new("stdbuf");
        command
            .args(["-oL", PROGRAM])
            .arg("--lcores")
            .arg(format!("0@{cpu},1@{cpu}"))
            .args(["--no-huge", "-m", "192", "--no-pci", "--no-telemetry"])
            .args(["--file-prefix", &prefix, "--vdev", &device, "--"])
            .args(["-i", "--nb-cores=1", "--no-flush-rx", "--txpkts=64"])
            .args(["--total-num-mbufs=4096", &format!("--forward-mode={mode}")]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("starting dpdk-testpmd")?;
        let input = child.stdin.take().context("its input")?;
        let output = child.stdout.take().context("its output")?;
        Ok(Self {
            child,
            input,
            output: BufReader::new(output),
        })
    }

    /// Begins to forward.
    ///
    /// # Errors
    ///
    /// Fails when it has gone.
    pub fn forward(&mut self) -> Result<()> {
        self.command("start")
    }

    /// Ends what [`forward`](Self::forward) began, and waits for that.
    ///
    /// # Errors
    ///
    /// Fails when it has gone.
    pub fn stop(&mut self) -> Result<()> {
        self.command("stop")?;
        self.lines_until("Done.").map(drop)
    }

    /// Packets so far. Waits until it answers, which is once its port is there.
    ///
    /// # Errors
    ///
    /// Fails when it has gone.
    pub fn counts(&mut self) -> Result<PortCounts> {
        self.command("show port stats 0")?;
        let lines = self.lines_until("Tx-pps:")?;
        let number = |label: &str| {
            let rest = lines.rsplit_once(label).map_or("", |(_, rest)| rest);
            let word = rest.split_whitespace().next().unwrap_or("");
            word.parse().with_context(|| format!("{label} in {lines}"))
        };
        Ok(PortCounts {
            received: number("RX-packets:")?,
            sent: number("TX-packets:")?,
        })
    }

    fn command(&mut self, command: &str) -> Result<()> {
        writeln!(self.input, "{command}").context("dpdk-testpmd has gone")?;
        Ok(())
    }

    fn lines_until(&mut self, mark: &str) -> Result<String> {
        let mut lines = String::new();
        loop {
            let before = lines.len();
            if self.output.read_line(&mut lines)? == 0 {
                bail!("dpdk-testpmd has gone: {lines}");
            }
            if lines[before..].contains(mark) {
                return Ok(lines);
            }
        }
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        let _ = self.command("quit");
        // Its farewell must not fill the pipe.
        let _ = std::io::copy(&mut self.output, &mut std::io::sink());
        let _ = self.child.wait();
    }
}

/// A folder for a socket and what it is called.
///
/// # Errors
///
/// Fails when there is no room for one.
pub fn socket_path() -> Result<(tempfile::TempDir, PathBuf)> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("vhost.sock");
    Ok((folder, path))
}

fn path_digits(path: &Path) -> String {
    let name = path.parent().unwrap_or(path).to_string_lossy();
    name.chars().filter(char::is_ascii_alphanumeric).collect()
}

const PROGRAM: &str = "dpdk-testpmd";
