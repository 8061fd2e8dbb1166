//! Tasks that run again, against the moment at which a worker is lost.

use std::fmt::Write;

/// One way to recover: its name, its colour, and (moment, tasks again).
pub(crate) type Series = (&'static str, &'static str, Vec<(u64, u64)>);

pub(crate) fn svg(series: &[Series]) -> String {
    let points = || series.iter().flat_map(|(_, _, points)| points);
    let (mut right, mut top) = (1, 1);
    points().for_each(|(x, y)| (right, top) = (right.max(*x), top.max(*y)));
    let x = |at: u64| MARGIN + at as f64 / right as f64 * WIDTH;
    let y = |tasks: u64| MARGIN + HEIGHT - tasks as f64 / top as f64 * HEIGHT;
    let (width, height) = (WIDTH + 2.0 * MARGIN, HEIGHT + 2.0 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n\
         <path d=\"M{MARGIN} {MARGIN} V{0} H{1}\" fill=\"none\" stroke=\"black\"/>\n\
         <text x=\"{MARGIN}\" y=\"{2}\">tasks again, up to {top}, against tasks done when a worker is lost, \
         up to {right}</text>\n",
        MARGIN + HEIGHT,
        MARGIN + WIDTH,
        MARGIN + HEIGHT + 24.0
    );
    for (row, (name, colour, points)) in (0u32..).zip(series) {
        let line: Vec<String> = points
            .iter()
            .map(|(at, tasks)| format!("{:.1},{:.1}", x(*at), y(*tasks)))
            .collect();
        let label = MARGIN + 14.0 * f64::from(row);
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\"/>\n\
             <text x=\"{}\" y=\"{label}\" fill=\"{colour}\">{name}</text>",
            line.join(" "),
            MARGIN + 12.0
        );
    }
    svg.push_str("</svg>\n");
    svg
}

const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 300.0;
const MARGIN: f64 = 40.0;
