//! The way of an interrupt in each design, and its exits, as an SVG.

use std::fmt::Write;

use apic::Design;

use crate::measure::Row;

const STATIONS: [&str; 6] = [
    "device",
    "I/O APIC or MSI",
    "IOMMU",
    "host",
    "virtual-APIC page",
    "guest",
];
const LEFT: usize = 170;
const STEP: usize = 130;
const ROW: usize = 56;

/// Where an interrupt goes through, by its place in [`STATIONS`].
fn way(design: Design) -> &'static [usize] {
    match design {
        Design::Pic | Design::XApic | Design::X2Apic => &[0, 1, 3, 5],
        Design::VirtualPage | Design::Posted => &[0, 1, 3, 4, 5],
        Design::RemappedPosted => &[0, 1, 2, 4, 5],
    }
}

/// One block for each load, one line for each design.
pub(crate) fn paths(loads: &[(&str, Vec<Row>)]) -> String {
    let lines: usize = loads.iter().map(|(_, rows)| rows.len() + 1).sum();
    let (width, height) = (LEFT + STEP * 7 + 40, 60 + lines * ROW);
    let mut out = String::new();
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"20\" font-size=\"15\">The way of an interrupt, and exits of the guest for each</text>"
    );
    let mut y = 50;
    for (name, rows) in loads {
        let _ = writeln!(
            out,
            "<text x=\"10\" y=\"{y}\" font-weight=\"bold\">{name}</text>"
        );
        for (station, label) in STATIONS.iter().enumerate() {
            let x = LEFT + station * STEP;
            let _ = writeln!(
                out,
                "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\" fill=\"#666\">{label}</text>"
            );
        }
        y += ROW;
        for row in rows {
            line(&mut out, row, y - ROW / 2);
            y += ROW;
        }
    }
    out.push_str("</svg>\n");
    out
}

fn line(out: &mut String, row: &Row, y: usize) {
    let _ = writeln!(out, "<text x=\"10\" y=\"{}\">{}</text>", y + 4, row.name());
    let way = way(row.design);
    for pair in way.windows(2) {
        let (from, to) = (LEFT + pair[0] * STEP, LEFT + pair[1] * STEP);
        let _ = writeln!(
            out,
            "<line x1=\"{from}\" y1=\"{y}\" x2=\"{to}\" y2=\"{y}\" stroke=\"#888\" stroke-width=\"2\"/>"
        );
    }
    for &station in way {
        let colour = if STATIONS[station] == "host" {
            "#d62728"
        } else {
            "#1f77b4"
        };
        let x = LEFT + station * STEP;
        let _ = writeln!(
            out,
            "<circle cx=\"{x}\" cy=\"{y}\" r=\"8\" fill=\"{colour}\"/>"
        );
    }
    bar(out, row, LEFT + STEP * 6 - 30, y);
}

/// Exits by cause, one after another.
fn bar(out: &mut String, row: &Row, left: usize, y: usize) {
    const SCALE: f64 = 40.0;
    let c = &row.counters;
    let parts = [
        ("injection", c.interrupted, "#d62728"),
        ("window", c.window, "#ff7f0e"),
        ("end", c.end_of_interrupt, "#9467bd"),
        ("priority", c.task_priority, "#8c564b"),
        ("timer", c.timer, "#2ca02c"),
        ("IPI", c.interprocessor, "#17becf"),
        ("other", c.other, "#7f7f7f"),
    ];
    let mut at = 0.0;
    for (name, count, colour) in parts {
        let each = row.each(count);
        let _ = writeln!(
            out,
            "<rect x=\"{:.1}\" y=\"{}\" width=\"{:.1}\" height=\"14\" fill=\"{colour}\"><title>{name}: {each:.3}</title></rect>",
            at * SCALE + f64::from(u32::try_from(left).unwrap_or(0)),
            y - 7,
            each * SCALE
        );
        at += each;
    }
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{}\">{:.2}</text>",
        at * SCALE + f64::from(u32::try_from(left).unwrap_or(0)) + 6.0,
        y + 4,
        row.each(c.exits())
    );
}
