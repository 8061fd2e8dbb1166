//! Exits and interrupts per segment against the adapter's delay, on logarithmic axes.

use std::fmt::Write;

use crate::Point;

const COLORS: [&str; 4] = ["#b2182b", "#2166ac", "#3a7d44", "#c2a83e"];
const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 300.0;
const MARGIN: f64 = 64.0;
/// Per segment, the least and the most that are drawn.
const LEAST: f64 = 0.005;
const MOST: f64 = 20.0;

/// Which of two counts a panel shows, and what the notes' table has for e1000 and virtio.
struct Panel {
    title: &'static str,
    value: fn(&Point) -> f64,
    notes: [(f64, &'static str); 2],
}

const PANELS: [Panel; 2] = [
    Panel {
        title: "exits per segment",
        value: |point| point.exits_per_segment,
        notes: [
            (9.0, "notes, e1000: 9"),
            (1.0 / 25.0, "notes, virtio: 1/25"),
        ],
    },
    Panel {
        title: "interrupts per segment",
        value: |point| point.interrupts_per_segment,
        notes: [
            (1.0, "notes, e1000: 1"),
            (1.0 / 118.0, "notes, virtio: 1/118"),
        ],
    },
];

pub(crate) fn curves(points: &[Point]) -> String {
    let width = 2.0 * (WIDTH + MARGIN) + MARGIN;
    let height = HEIGHT + 3.0 * MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n"
    );
    let mut adapters: Vec<&str> = points.iter().map(|point| point.adapter).collect();
    adapters.dedup();
    for (panel, x) in PANELS.iter().zip([MARGIN, 2.0 * MARGIN + WIDTH]) {
        frame(&mut svg, panel, x);
        for (adapter, color) in adapters.iter().zip(COLORS) {
            let curve: Vec<_> = points
                .iter()
                .filter(|point| point.adapter == *adapter)
                .map(|point| (across(x, point.delay_us), up((panel.value)(point))))
                .collect();
            draw(&mut svg, &curve, color);
        }
    }
    let mut y = HEIGHT + 2.0 * MARGIN;
    for (adapter, color) in adapters.iter().zip(COLORS) {
        line(
            &mut svg,
            &format!(
                "<rect x=\"{MARGIN}\" y=\"{}\" width=\"12\" height=\"12\" fill=\"{color}\"/><text x=\"{}\" y=\"{y}\">{adapter}</text>",
                y - 10.0,
                MARGIN + 18.0
            ),
        );
        y += 16.0;
    }
    svg.push_str("</svg>\n");
    svg
}

fn frame(svg: &mut String, panel: &Panel, x: f64) {
    let (top, bottom) = (MARGIN, MARGIN + HEIGHT);
    let right = x + WIDTH;
    line(
        svg,
        &format!(
            "<text x=\"{x}\" y=\"{}\" font-weight=\"bold\">{}, by the adapter's delay in us</text><path d=\"M{x} {top}V{bottom}H{right}\" fill=\"none\" stroke=\"#555\"/>",
            top - 12.0,
            panel.title
        ),
    );
    for value in [0.01, 0.1, 1.0, 10.0] {
        let y = up(value);
        line(
            svg,
            &format!(
                "<path d=\"M{x} {y}H{right}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{}\" text-anchor=\"end\">{value}</text>",
                x - 6.0,
                y + 4.0
            ),
        );
    }
    for delay in [0, 10, 100, 1000] {
        line(
            svg,
            &format!(
                "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{delay}</text>",
                across(x, delay),
                bottom + 16.0
            ),
        );
    }
    for (value, name) in panel.notes {
        let y = up(value);
        line(
            svg,
            &format!(
                "<path d=\"M{x} {y}H{right}\" stroke=\"#888\" stroke-dasharray=\"4 4\"/><text x=\"{right}\" y=\"{}\" text-anchor=\"end\" fill=\"#666\">{name}</text>",
                y - 4.0
            ),
        );
    }
}

fn draw(svg: &mut String, curve: &[(f64, f64)], color: &str) {
    let mut path = String::new();
    for (index, (x, y)) in curve.iter().enumerate() {
        let step = if index == 0 { 'M' } else { 'L' };
        write!(path, "{step}{x:.1} {y:.1}").expect("a String takes all");
        line(
            svg,
            &format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{color}\"/>"),
        );
    }
    line(
        svg,
        &format!("<path d=\"{path}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>"),
    );
}

/// No delay is at the left, then decades.
fn across(x: f64, delay_us: u32) -> f64 {
    let decades = (f64::from(delay_us) + 1.0).log10() / 1001_f64.log10();
    x + WIDTH * decades.min(1.0)
}

fn up(value: f64) -> f64 {
    let share = (value.clamp(LEAST, MOST) / LEAST).ln() / (MOST / LEAST).ln();
    MARGIN + HEIGHT * (1.0 - share)
}

fn line(svg: &mut String, text: &str) {
    writeln!(svg, "{text}").expect("a String takes all");
}
