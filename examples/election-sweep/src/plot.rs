//! Unavailability and elections over the timeout, all logarithmic.

use std::fmt::Write;

use crate::sweep::Point;

const LEFT: f64 = 70.0;
const TOP: f64 = 20.0;
/// Pixels of a factor of ten.
const ACROSS: f64 = 70.0;
const DOWN: f64 = 34.0;
/// Decades of microseconds, from 1 ms to above a month.
const FROM: f64 = 3.0;
const TO: f64 = 12.5;
/// Decades of both quantities.
const LEAST: f64 = -7.0;
const MOST: f64 = 5.0;
const TAKES_ALL: &str = "a string takes everything";

fn x(timeout: f64) -> f64 {
    LEFT + (timeout.log10() - FROM) * ACROSS
}

fn y(value: f64) -> f64 {
    TOP + (MOST - value.max(1e-9).log10().max(LEAST)) * DOWN
}

pub(crate) fn svg(points: &[Point]) -> String {
    let (width, bottom) = (LEFT + (TO - FROM) * ACROSS + 20.0, y(0.0));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{}\" font-family=\"monospace\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <rect x=\"{}\" y=\"{TOP}\" width=\"{}\" height=\"{}\" fill=\"#e8f5e9\"/>\n",
        bottom + 60.0,
        x(150e3),
        x(300e3) - x(150e3),
        bottom - TOP,
    );
    for (timeout, name) in [
        (1e3, "1 ms"),
        (10e3, "10 ms"),
        (100e3, "100 ms"),
        (1e6, "1 s"),
        (10e6, "10 s"),
        (60e6, "1 min"),
        (3_600e6, "1 h"),
        (86_400e6, "1 day"),
        (30.0 * 86_400e6, "1 month"),
    ] {
        let x = x(timeout);
        writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{name}</text>",
            bottom + 16.0
        )
        .expect(TAKES_ALL);
    }
    let mut exponent = LEAST;
    while exponent <= MOST {
        let y = TOP + (MOST - exponent) * DOWN;
        writeln!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{width:.1}\" y2=\"{y:.1}\" stroke=\"#eee\"/>\
             <text x=\"8\" y=\"{:.1}\">1e{exponent}</text>",
            y + 4.0
        )
        .expect(TAKES_ALL);
        exponent += 1.0;
    }
    line(&mut svg, points, "#c62828", |point| point.unavailable);
    line(&mut svg, points, "#1565c0", |point| point.elections);
    writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"{:.1}\" fill=\"#c62828\">part of the time without a leader</text>\
         <text x=\"{:.1}\" y=\"{:.1}\" fill=\"#1565c0\">elections a minute while nobody crashes</text>\
         <text x=\"{:.1}\" y=\"{:.1}\" fill=\"#2e7d32\">150 to 300 ms</text>\n</svg>",
        bottom + 40.0,
        LEFT + 260.0,
        bottom + 40.0,
        LEFT + 560.0,
        bottom + 40.0
    )
    .expect(TAKES_ALL);
    svg
}

fn line(svg: &mut String, points: &[Point], colour: &str, value: impl Fn(&Point) -> f64) {
    let points: Vec<_> = points
        .iter()
        .map(|point| format!("{:.1},{:.1}", x(point.timeout as f64), y(value(point))))
        .collect();
    writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
        points.join(" ")
    )
    .expect(TAKES_ALL);
}
