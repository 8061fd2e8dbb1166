//! Who can reach what, as a picture: a column for each design, a box for each owner.

use std::fmt::Write;

use crate::{Reached, world::Owner};

const WIDTH: u64 = 230;
const HEIGHT: u64 = 64;
const LEFT: u64 = 16;
const TOP: u64 = 44;

pub(crate) fn picture(columns: &[(&str, Reached)]) -> String {
    let count = u64::try_from(columns.len()).expect("a few");
    let (width, height) = (LEFT + count * WIDTH, TOP + 4 * HEIGHT + 40);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (x, (name, reached)) in (LEFT..).step_by(230).zip(columns) {
        column(&mut svg, x, name, reached).expect("a String takes all");
    }
    let y = height - 12;
    writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"{y}\">Pages that the card reads / writes. Red: it should not. Green: they are its own. Grey: it cannot.</text>\n</svg>"
    )
    .expect("a String takes all");
    svg
}

fn column(svg: &mut String, x: u64, name: &str, reached: &Reached) -> std::fmt::Result {
    let middle = x + 104;
    writeln!(
        svg,
        "<text x=\"{middle}\" y=\"28\" text-anchor=\"middle\" font-weight=\"bold\">{name}</text>"
    )?;
    for (y, owner) in (TOP..).step_by(64).zip(Owner::ALL) {
        let [read, written] = reached.of(owner);
        let color = match (owner, read + written) {
            (_, 0) => "#e4e4e4",
            (Owner::Buffer, _) => "#8cc084",
            _ => "#e0705c",
        };
        let box_height = HEIGHT - 8;
        let (first, second) = (y + 24, y + 42);
        writeln!(
            svg,
            "<rect x=\"{x}\" y=\"{y}\" width=\"208\" height=\"{box_height}\" rx=\"5\" fill=\"{color}\" stroke=\"#555\"/>\
             <text x=\"{middle}\" y=\"{first}\" text-anchor=\"middle\">{}</text>\
             <text x=\"{middle}\" y=\"{second}\" text-anchor=\"middle\">{read} / {written} of {}</text>",
            owner.name(),
            owner.pages(),
        )?;
    }
    Ok(())
}
