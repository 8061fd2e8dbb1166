//! x86-dbt beside QEMU's TCG and the bare processor, interleaved, in one run.
//!
//! `dbt_vs_tcg kernels [SECONDS]`: ten freestanding kernels. `dbt_vs_tcg boot [RUNS]`: Debian to power-off.
//! `dbt_vs_tcg exits`: accesses to a device that does nothing.
//! `dbt_vs_tcg workloads [RUNS]`: what busybox does in it.
//! Needs gcc and qemu-system-x86_64.

mod boot;
mod image;
mod kernels;
mod process;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |default: f64| -> f64 {
        arguments
            .get(1)
            .map_or(default, |text| text.parse().expect("a number"))
    };
    match arguments.first().map(String::as_str) {
        Some("kernels") => kernels::run(number(0.3)),
        Some("exits") => kernels::exits(),
        Some("boot") => boot::run(number(3.0)),
        Some("workloads") => boot::workloads(number(3.0)),
        _ => {
            eprintln!("usage: dbt_vs_tcg kernels [SECONDS] | exits | boot [RUNS] | workloads [RUNS]");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// The middle one.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
