//! Where the scripts come from.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use crate::script::Script;

const PACKAGE: &str = "golang-etcd-server-dev";
const IN_PACKAGE: &str = "usr/share/gocode/src/go.etcd.io/etcd/raft";

/// All scripts of one kind; none, and why, where they cannot be had.
pub(crate) fn scripts(kind: &str) -> Vec<Script> {
    let folder = match env::var_os("ETCD_SCRIPTS") {
        Some(folder) => PathBuf::from(folder),
        None => match download() {
            Ok(folder) => folder,
            Err(reason) => {
                eprintln!("skipped: no {PACKAGE}, so etcd's {kind} is not run: {reason}");
                return Vec::new();
            }
        },
    };
    let files = fs::read_dir(folder.join(kind)).expect("the scripts' folder");
    let paths = files.map(|file| file.expect("a file").path());
    let mut paths: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|ending| ending == "txt"))
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "no scripts in {kind}");
    eprintln!("{} scripts of {kind}", paths.len());
    paths.iter().map(|path| Script::read(path)).collect()
}

/// Once for all tests, which may run at the same time.
fn download() -> Result<PathBuf, String> {
    let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let done = base.join("etcd-scripts");
    if !done.exists() {
        let part = tempfile::tempdir_in(base).map_err(|error| error.to_string())?;
        command(part.path(), "apt-get", &["download", "-q", PACKAGE])?;
        let package = fs::read_dir(part.path())
            .map_err(|error| error.to_string())?
            .filter_map(Result::ok)
            .find(|file| {
                file.path()
                    .extension()
                    .is_some_and(|ending| ending == "deb")
            })
            .ok_or("nothing was downloaded")?;
        let package = package.path();
        let package = package.to_str().ok_or("a strange name")?;
        command(part.path(), "dpkg", &["-x", package, "."])?;
        // Another test may have been faster.
        let _ = fs::rename(part.path(), &done);
    }
    Ok(done.join(IN_PACKAGE))
}

fn command(folder: &Path, name: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(name)
        .args(arguments)
        .current_dir(folder)
        .output()
        .map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!(
            "{name}: {}",
            String::from_utf8_lossy(&output.stderr)
        ))
    }
}
