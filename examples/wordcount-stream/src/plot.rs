//! Latency over time: the slowest hundredth of each twentieth of a second, on a logarithmic scale.

use std::fmt::Write;

use crate::designs::Run;
use crate::percentile;

pub(crate) fn latency(runs: &[Run], kill_at: u64) -> String {
    let last = runs
        .iter()
        .flat_map(|run| run.meter.latencies())
        .map(|(due, _)| due)
        .max();
    let buckets = last.unwrap_or(0) / BUCKET + 1;
    let width = LEFT + usize::try_from(buckets).unwrap_or(0) * STEP + 16;
    let height = TOP + DECADE * DECADES + 40 + 16 * runs.len();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"monospace\" font-size=\"11\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (decade, label) in ["10 s", "1 s", "100 ms", "10 ms", "1 ms", "100 us"]
        .iter()
        .enumerate()
    {
        let y = TOP + DECADE * decade;
        writeln!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{y}\" x2=\"{width}\" y2=\"{y}\" stroke=\"#ddd\"/>\
             <text x=\"4\" y=\"{y}\">{label}</text>"
        )
        .expect(TAKES_ALL);
    }
    let crash = LEFT + usize::try_from(kill_at * 1_000_000 / BUCKET).unwrap_or(0) * STEP;
    let bottom = TOP + DECADE * DECADES;
    writeln!(
        svg,
        "<line x1=\"{crash}\" y1=\"{TOP}\" x2=\"{crash}\" y2=\"{bottom}\" stroke=\"black\" \
         stroke-dasharray=\"4 4\"/><text x=\"{crash}\" y=\"{TOP}\">crash</text>"
    )
    .expect(TAKES_ALL);
    for (n, (run, color)) in runs.iter().zip(COLORS).enumerate() {
        let y = bottom + 30 + 16 * n;
        writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\"/>\
             <text x=\"{LEFT}\" y=\"{y}\" fill=\"{color}\">{}</text>",
            points(run).join(" "),
            run.design.name()
        )
        .expect(TAKES_ALL);
    }
    svg.push_str("</svg>\n");
    svg
}

fn points(run: &Run) -> Vec<String> {
    let mut buckets: Vec<Vec<u64>> = Vec::new();
    for (due, latency) in run.meter.latencies() {
        let bucket = usize::try_from(due / BUCKET).unwrap_or(0);
        if buckets.len() <= bucket {
            buckets.resize(bucket + 1, Vec::new());
        }
        buckets[bucket].push(latency);
    }
    let point = |(bucket, latencies): (usize, &mut Vec<u64>)| {
        latencies.sort_unstable();
        let nanos = percentile(latencies, 99)
            .copied()
            .unwrap_or(1)
            .clamp(100_000, 10_000_000_000);
        let nanos = f64::from(u32::try_from(nanos / 1_000).unwrap_or(u32::MAX));
        // 10 s is the top.
        let down = f64::from(u32::try_from(DECADE).unwrap_or(0)) * (7.0 - nanos.log10());
        format!("{},{:.1}", LEFT + bucket * STEP, down + f64::from(TOP_F))
    };
    buckets.iter_mut().enumerate().map(point).collect()
}

const BUCKET: u64 = 50_000_000;
const LEFT: usize = 64;
const TOP: usize = 20;
const TOP_F: u8 = 20;
const STEP: usize = 9;
const DECADE: usize = 60;
const DECADES: usize = 5;
const COLORS: [&str; 6] = [
    "#2a9d8f", "#6d8fc9", "#e07a5f", "#f2a65a", "#7a5195", "#aaaaaa",
];
const TAKES_ALL: &str = "a String takes all";
