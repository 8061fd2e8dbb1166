//! Jobs on threads that are lost at any moment.
#![cfg(all(feature = "threads", feature = "files"))]

use std::fs;
use std::io;
use std::path::Path;
use std::thread;

use chandy_lamport::{KeyGroups, MemoryStorage, Protocol, Storage};
use dataflow::{
    Continuous, Ended, FileOutput, Generator, Job, Lines, Local, Program, Report, Stopper,
    TaskError,
};

const PROTOCOLS: [Protocol; 4] = [
    Protocol::AlignedCyclic,
    Protocol::Unaligned,
    Protocol::AlignedWithTimeout { timeout: 1 },
    Protocol::StopTheWorld,
];
const NUMBERS: u64 = 30_000;

fn line<T: std::fmt::Debug>(record: &T, bytes: &mut Vec<u8>) {
    bytes.extend(format!("{record:?}\n").into_bytes());
}

fn program() -> Program {
    Program::new(KeyGroups::new(64).expect("allowed"))
}

/// One task each, so that the order is always the same.
fn sums(output: &Path) -> Job {
    let output = output.to_owned();
    let program = program();
    program
        .source("numbers", 1, 64, |_| Generator::new(0, 1, NUMBERS, |n| n))
        .key_by(|n| n % 101)
        .stateful(
            "sum",
            1,
            || 0u64,
            |key, sum, n, out| {
                *sum += n;
                out.push((*key, *sum));
            },
        )
        .sink(move |_| FileOutput::new(&output), line);
    program.job()
}

fn expected_sums() -> String {
    let mut sums = [0; 101];
    let line = |n: u64| {
        let key = n % 101;
        let sum = &mut sums[usize::try_from(key).unwrap()];
        *sum += n;
        format!("{:?}\n", (key, *sum))
    };
    (0..NUMBERS).map(line).collect()
}

fn quick(protocol: Protocol) -> Continuous {
    Continuous {
        protocol,
        interval: std::time::Duration::from_millis(5),
        ..Continuous::new()
    }
}

/// A storage that several runs share, as a disk is.
#[derive(Clone, Debug, Default)]
struct Disk {
    files: std::sync::Arc<std::sync::Mutex<MemoryStorage>>,
    /// What is left of it.
    room: Option<usize>,
}

impl Storage for Disk {
    type Error = io::Error;

    fn put(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if let Some(room) = &mut self.room {
            *room = room
                .checked_sub(bytes.len())
                .ok_or_else(|| io::Error::from(io::ErrorKind::StorageFull))?;
        }
        let Ok(()) = self.files.lock().unwrap().put(name, bytes);
        Ok(())
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let Ok(read) = self.files.lock().unwrap().read(name);
        Ok(read)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let Ok(names) = self.files.lock().unwrap().names();
        Ok(names)
    }

    fn delete(&mut self, name: &str) -> io::Result<()> {
        let Ok(()) = self.files.lock().unwrap().delete(name);
        Ok(())
    }
}

/// Runs until the job is finished, stopping it whenever the output has grown by some.
fn run_with_stops(job: &Job, continuous: &Continuous, output: &Path, step: u64) -> Vec<Report> {
    let disk = Disk::default();
    let mut reports = Vec::new();
    loop {
        let stopper = Stopper::default();
        let length = || fs::metadata(output).map_or(0, |file| file.len());
        let enough = length() + step;
        let report = thread::scope(|scope| {
            let run = scope.spawn(|| continuous.run(job, disk.clone(), &stopper));
            while length() < enough && !run.is_finished() {
                thread::yield_now();
            }
            stopper.stop();
            run.join().expect("no panic").expect("no error")
        });
        let ended = report.ended;
        reports.push(report);
        if ended == Ended::Finished {
            return reports;
        }
    }
}

#[test]
fn a_file_has_each_record_once_however_often_all_threads_are_lost() {
    let folder = tempfile::tempdir().unwrap();
    for protocol in PROTOCOLS {
        let output = folder.path().join("sums");
        let job = sums(&output);
        let reports = run_with_stops(&job, &quick(protocol), &output, 50_000);
        assert!(
            reports
                .iter()
                .skip(1)
                .all(|report| report.restored.is_some())
        );
        let written = fs::read_to_string(&output).unwrap();
        assert!(
            written == expected_sums(),
            "{protocol:?}, {} runs",
            reports.len()
        );
        fs::remove_file(&output).unwrap();
    }
}

#[test]
fn lines_of_a_file_are_counted_by_several_tasks() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("input");
    let text: String = (0..20_000u64)
        .map(|n| format!("w{} w{}\n", n % 13, n % 7))
        .collect();
    fs::write(&input, text).unwrap();
    for protocol in PROTOCOLS {
        let outputs: Vec<_> = (0..2)
            .map(|n| folder.path().join(format!("count-{n}")))
            .collect();
        let (input, sinks) = (input.clone(), outputs.clone());
        let program = program();
        program
            .source("lines", 1, 32, move |_| Lines::of(&input))
            .rebalance("split", 2)
            .flat_map(|line, words| words.extend(line.split(' ').map(str::to_owned)))
            .key_by(String::clone)
            .stateful(
                "count",
                2,
                || 0u64,
                |word, count, _, out| {
                    *count += 1;
                    out.push((word.clone(), *count));
                },
            )
            .sink(move |task| FileOutput::new(&sinks[task as usize]), line);
        let reports = run_with_stops(&program.job(), &quick(protocol), &outputs[0], 100_000);
        let mut lines: Vec<_> = outputs
            .iter()
            .flat_map(|path| {
                fs::read_to_string(path)
                    .unwrap()
                    .lines()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            })
            .collect();
        lines.sort();
        let count = |word: u64| {
            let times = |of| (20_000 - word).div_ceil(of);
            times(13) + if word < 7 { times(7) } else { 0 }
        };
        let mut expected: Vec<_> = (0..13)
            .flat_map(|word| {
                (1..=count(word)).map(move |n| format!("{:?}", (format!("w{word}"), n)))
            })
            .collect();
        expected.sort();
        assert!(lines == expected, "{protocol:?}, {} runs", reports.len());
        outputs
            .iter()
            .for_each(|path| fs::remove_file(path).unwrap());
    }
}

#[test]
fn cycles_end_when_nothing_goes_round() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("collatz");
    let sink = output.clone();
    let program = program();
    program
        .source("numbers", 1, 16, |_| {
            Generator::new(1, 1, 2_000, |n| (n, n, 0u64))
        })
        .key_by(|(_, at, _)| *at)
        .iterate(
            "step",
            2,
            || (),
            |_, (), (n, at, steps), again, done| match (at, at % 2) {
                (1, _) => done.push((n, steps)),
                (_, 0) => again.push((n, at / 2, steps + 1)),
                _ => again.push((n, 3 * at + 1, steps + 1)),
            },
        )
        .rebalance("write", 1)
        .sink(move |_| FileOutput::new(&sink), line);
    let job = program.job();
    for protocol in PROTOCOLS {
        run_with_stops(&job, &quick(protocol), &output, 8_000);
        let text = fs::read_to_string(&output).unwrap();
        let mut lines: Vec<_> = text.lines().collect();
        lines.sort_unstable();
        lines.dedup();
        assert_eq!(
            (lines.len(), text.lines().count()),
            (1_999, 1_999),
            "{protocol:?}"
        );
        assert!(lines.contains(&"(27, 111)"));
        fs::remove_file(&output).unwrap();
    }
}

#[test]
fn a_full_disk_is_an_error_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("sums");
    let job = sums(&output);
    let files = Disk::default().files;
    let small = Disk {
        files: files.clone(),
        room: Some(10_000),
    };
    let error = quick(Protocol::AlignedCyclic).run(&job, small, &Stopper::default());
    let error = error.expect_err("the disk is full");
    assert!(matches!(error, TaskError::Io { .. }));
    let source = std::error::Error::source(&error).map(ToString::to_string);
    assert!(
        source.is_some_and(|text| text.contains("no storage space")),
        "{error}"
    );
    let disk = Disk { files, room: None };
    quick(Protocol::AlignedCyclic)
        .run(&job, disk, &Stopper::default())
        .unwrap();
    assert!(fs::read_to_string(&output).unwrap() == expected_sums());
}

#[test]
fn a_source_that_is_gone_is_an_error_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("input"), folder.path().join("output"));
    let (from, to) = (input.clone(), output.clone());
    let program = program();
    program
        .source("lines", 1, 32, move |_| Lines::of(&from))
        .sink(move |_| FileOutput::new(&to), line);
    let job = program.job();
    let disk = Disk::default();
    let run = || quick(Protocol::AlignedCyclic).run(&job, disk.clone(), &Stopper::default());
    let error = run().expect_err("there is no such file");
    assert!(error.to_string().contains("input"), "{error}");
    fs::write(&input, "one\ntwo\n").unwrap();
    run().unwrap();
    fs::write(&input, "one\ntwo\nthree\n").unwrap();
    run().unwrap();
    assert_eq!(
        fs::read_to_string(&output).unwrap(),
        "\"one\"\n\"two\"\n\"three\"\n"
    );
    fs::write(&input, "on").unwrap();
    assert!(run().is_err(), "the file is not the one that was read");
}

#[test]
fn a_panic_of_the_program_is_an_error() {
    let program = program();
    program
        .source("numbers", 1, 8, |_| Generator::new(0, 1, 100, |n| n))
        .map(|n| assert!(n < 50, "a bug of the program"))
        .for_each(|_| |_: Vec<()>| ());
    let run = Continuous::new().run(
        &program.job(),
        MemoryStorage::default(),
        &Stopper::default(),
    );
    assert!(matches!(run, Err(TaskError::Panicked)));
}

/// The runtime without threads goes on from what the one with threads has written.
#[test]
fn runtimes_share_snapshots() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("sums");
    let job = sums(&output);
    let disk = Disk::default();
    let stopper = Stopper::default();
    thread::scope(|scope| {
        let run = scope.spawn(|| quick(Protocol::Unaligned).run(&job, disk.clone(), &stopper));
        while fs::metadata(&output).map_or(0, |file| file.len()) < 10_000 && !run.is_finished() {
            thread::yield_now();
        }
        stopper.stop();
        run.join().expect("no panic").expect("no error");
    });
    let mut storage = disk.files.lock().unwrap();
    Local::new(Protocol::AlignedCyclic, 1)
        .run_on(&job, &mut storage)
        .unwrap();
    assert!(fs::read_to_string(&output).unwrap() == expected_sums());
}
