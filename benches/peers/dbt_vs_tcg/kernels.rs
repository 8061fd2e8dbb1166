//! Ten kernels: time relative to the bare processor's.

use crate::image::Image;
use crate::median;

const KERNELS: [&str; 10] = [
    "int",
    "sieve",
    "sha256",
    "matmul_sse2",
    "interp_goto",
    "fib_callret",
    "chase",
    "x87",
    "sqrt_fp",
    "icall",
];
const ROUNDS: usize = 3;

/// Each kernel takes about `seconds` natively.
pub(crate) fn run(seconds: f64) {
    let image = Image::build();
    println!(
        "{:<12} {:>10} {:>8} {:>8} {:>8}",
        "kernel", "native ns", "ours", "interp.", "TCG"
    );
    let mut logarithms = [0.0; 2];
    let mut worst = (0.0, "");
    for (number, name) in (0..).zip(KERNELS) {
        let [native, ours, interpreted, tcg] = measure(&image, number, seconds);
        println!(
            "{name:<12} {:>10.2} {:>8.2} {:>8.1} {:>8.2}",
            native * 1e9,
            ours / native,
            interpreted / native,
            tcg / native
        );
        logarithms[0] += (ours / native).ln();
        logarithms[1] += (tcg / native).ln();
        if ours / native > worst.0 {
            worst = (ours / native, name);
        }
    }
    let [ours, tcg] = logarithms.map(|sum| (sum / KERNELS.len() as f64).exp());
    println!(
        "geomean: ours {ours:.2} (goal 2.0), TCG {tcg:.2}; worst {} {:.2} (goal 4)",
        worst.1, worst.0
    );
}

/// What an access to a device costs that does nothing, loop included.
pub(crate) fn exits() {
    const ACCESSES: u64 = 2_000_000;
    let image = Image::build();
    for (kernel, name) in [(10, "port read"), (11, "MMIO read")] {
        let mut times: [Vec<f64>; 2] = Default::default();
        for _ in 0..ROUNDS {
            times[0].push(image.ours(kernel, ACCESSES, true).seconds);
            times[1].push(image.tcg(kernel, ACCESSES) - image.tcg(kernel, 0));
        }
        let [ours, tcg] = times.map(|mut times| median(&mut times) / ACCESSES as f64 * 1e6);
        println!("{name}: ours {ours:.3} us (goal 0.10), TCG {tcg:.3} us");
    }
}

/// Seconds for an iteration: native, translated, interpreted, TCG.
fn measure(image: &Image, kernel: u64, seconds: f64) -> [f64; 4] {
    let mut iterations = 1u64;
    while image.native(kernel, iterations).seconds < seconds / 8.0 {
        iterations *= 2;
    }
    iterations *= 8;
    let slow = (iterations / 32).max(1);
    let expected = image.native(kernel, slow).result;
    let mut times: [Vec<f64>; 4] = Default::default();
    for _ in 0..ROUNDS {
        let native = image.native(kernel, iterations);
        let ours = image.ours(kernel, iterations, true);
        assert_eq!(
            native.result, ours.result,
            "kernel {kernel} is wrong translated"
        );
        let interpreted = image.ours(kernel, slow, false);
        assert_eq!(
            expected, interpreted.result,
            "kernel {kernel} is wrong interpreted"
        );
        let tcg_iterations = (iterations / 4).max(1);
        let tcg = image.tcg(kernel, tcg_iterations) - image.tcg(kernel, 0);
        times[0].push(native.seconds / iterations as f64);
        times[1].push(ours.seconds / iterations as f64);
        times[2].push(interpreted.seconds / slow as f64);
        times[3].push(tcg / tcg_iterations as f64);
    }
    times.map(|mut times| median(&mut times))
}
