//! Speedup, and the numbers needed for an efficiency, against workers; both axes double from line to line.

use std::fmt::Write;

use crate::threads::Measured;
use crate::{Args, Row};

pub(crate) fn panels(rows: &[Row], measured: &[Measured], args: &Args) -> String {
    let of = |y: fn(&Row) -> f64| -> Vec<Point> {
        rows.iter()
            .map(|row| (f64::from(row.workers), y(row)))
            .collect()
    };
    let most = measured.iter().map(|sum| sum.numbers).max();
    let by_threads = measured
        .iter()
        .filter(|sum| Some(sum.numbers) == most)
        .map(|sum| (f64::from(sum.workers), sum.speedup()))
        .collect();
    let speedups = [
        ("ideal: P".to_owned(), of(|row| f64::from(row.workers))),
        (
            format!("N = {}", args.numbers),
            of(|row| row.fixed.speedup()),
        ),
        (
            format!("N = {}, one worker 10x slow", args.numbers),
            of(|row| row.straggling.speedup()),
        ),
        ("N = P".to_owned(), of(|row| row.one_each.speedup())),
        (format!("threads, N = {}", most.unwrap_or(0)), by_threads),
    ];
    let needed = [
        (
            "P log P".to_owned(),
            of(|row| f64::from(row.workers) * f64::from(row.workers.ilog2())),
        ),
        (
            format!("N for an efficiency of {} %", args.efficiency),
            of(|row| row.isoefficient as f64),
        ),
    ];
    let (width, height) = (2.0 * (SIDE + MARGIN) + MARGIN, SIDE + 2.0 * MARGIN + 90.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    panel(&mut svg, MARGIN, "speedup", &speedups);
    panel(&mut svg, 2.0 * MARGIN + SIDE, "numbers", &needed);
    svg.push_str("</svg>\n");
    svg
}

type Point = (f64, f64);

fn panel(svg: &mut String, left: f64, title: &str, series: &[(String, Vec<Point>)]) {
    // A logarithm has no 0.
    let points = || {
        series
            .iter()
            .flat_map(|(_, points)| points)
            .filter(|(_, y)| *y > 0.0)
    };
    let highest = |of: fn(&Point) -> f64| points().map(of).fold(2.0, f64::max).log2().ceil();
    let (across, up) = (highest(|(x, _)| *x), highest(|(_, y)| *y));
    let low = points().map(|(_, y)| *y).fold(1.0, f64::min).log2().floor();
    let bottom = MARGIN + SIDE;
    let x = |value: f64| left + SIDE * value.log2() / across;
    let y = |value: f64| bottom - SIDE * (value.log2() - low) / (up - low);
    line(
        svg,
        &format!("<text x=\"{left}\" y=\"{}\">{title}</text>", MARGIN - 14.0),
    );
    for value in powers(0.0, across) {
        let (at, label) = (x(value), bottom + 16.0);
        line(
            svg,
            &format!("<text x=\"{at:.1}\" y=\"{label}\" text-anchor=\"middle\">{value}</text>"),
        );
    }
    for value in powers(low, up).step_by(2) {
        let (at, right) = (y(value), left + SIDE);
        line(
            svg,
            &format!(
                "<line x1=\"{left}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
                left - 6.0,
                at + 4.0
            ),
        );
    }
    let mut below = bottom + 34.0;
    for ((name, points), color) in series.iter().zip(COLORS) {
        let drawn = points.iter().filter(|(_, y)| *y > 0.0);
        let path: Vec<String> = drawn
            .map(|(workers, value)| format!("{:.1},{:.1}", x(*workers), y(*value)))
            .collect();
        line(
            svg,
            &format!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\"/>\
                 <text x=\"{left}\" y=\"{below}\" fill=\"{color}\">{name}</text>",
                path.join(" ")
            ),
        );
        below += 16.0;
    }
}

fn powers(least: f64, most: f64) -> impl Iterator<Item = f64> + Clone {
    (0..64)
        .map(move |power| least + f64::from(power))
        .take_while(move |power| *power <= most)
        .map(f64::exp2)
}

fn line(svg: &mut String, text: &str) {
    writeln!(svg, "{text}").expect("a String takes all");
}

const SIDE: f64 = 320.0;
const MARGIN: f64 = 60.0;
const COLORS: [&str; 5] = ["#aaaaaa", "#2166ac", "#b2182b", "#3a7d44", "#7a5195"];
