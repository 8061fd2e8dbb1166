//! A space-time diagram: a line for each branch, an arrow for each payment, and the cuts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::bank::Event;

/// Time goes to the right. A payment that a snapshot recorded is drawn in the colour of cuts.
pub(crate) fn space_time(branches: usize, events: &[Event]) -> String {
    let drawn = events
        .iter()
        .filter(|event| !matches!(event, Event::Recorded { .. }));
    let (width, height) = (LEFT + STEP * (drawn.count() + 1), TOP + ROW * branches);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"monospace\" font-size=\"11\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for branch in 0..branches {
        let y = row(branch);
        let text = y + 4;
        line(&mut svg, [LEFT - 8, y], [width - 8, y], "#999");
        writeln!(svg, "<text x=\"4\" y=\"{text}\">branch {branch}</text>").expect(TAKES_ALL);
    }
    let mut recorded: BTreeSet<&usize> = BTreeSet::new();
    let mut paid = BTreeMap::new();
    let mut cuts: BTreeMap<u64, BTreeMap<usize, usize>> = BTreeMap::new();
    recorded.extend(events.iter().filter_map(|event| match event {
        Event::Recorded { payment } => Some(payment),
        _ => None,
    }));
    let mut x = LEFT;
    for event in events {
        match event {
            Event::Paid { payment, branch } => {
                paid.insert(payment, [x, row(*branch)]);
            }
            Event::Received { payment, branch } => {
                let crosses = recorded.contains(payment);
                let color = if crosses { CUT } else { PAYMENT };
                arrow(&mut svg, paid[payment], [x, row(*branch)], color);
            }
            Event::Cut { id, branch } => {
                cuts.entry(*id).or_default().insert(*branch, x);
            }
            Event::Recorded { .. } => continue,
        }
        x += STEP;
    }
    for (id, cut) in &cuts {
        let points = cut
            .iter()
            .map(|(branch, x)| format!("{x},{}", row(*branch)));
        let points: Vec<_> = points.collect();
        writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{CUT}\" stroke-width=\"2\" stroke-dasharray=\"6 3\"/>",
            points.join(" ")
        )
        .expect(TAKES_ALL);
        if let Some(x) = cut.get(&0) {
            writeln!(
                svg,
                "<text x=\"{x}\" y=\"14\" fill=\"{CUT}\">cut {id}</text>"
            )
            .expect(TAKES_ALL);
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn row(branch: usize) -> usize {
    TOP + ROW * branch
}

fn arrow(svg: &mut String, from: [usize; 2], to: [usize; 2], color: &str) {
    line(svg, from, to, color);
    let [x, y] = to;
    writeln!(
        svg,
        "<circle cx=\"{x}\" cy=\"{y}\" r=\"3\" fill=\"{color}\"/>"
    )
    .expect(TAKES_ALL);
}

fn line(svg: &mut String, [x1, y1]: [usize; 2], [x2, y2]: [usize; 2], color: &str) {
    writeln!(
        svg,
        "<line x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\" stroke=\"{color}\"/>"
    )
    .expect(TAKES_ALL);
}

const LEFT: usize = 80;
const TOP: usize = 36;
const ROW: usize = 48;
const STEP: usize = 9;
const PAYMENT: &str = "#6d8fc9";
const CUT: &str = "#d1495b";
const TAKES_ALL: &str = "a String takes all";
