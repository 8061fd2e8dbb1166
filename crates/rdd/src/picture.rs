//! Lineage as a drawing.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use crate::data::RddId;
use crate::lineage::{Dependency, Lineage};
use crate::task::StorageLevel;

impl Lineage {
    /// The lineage as an SVG drawing: sources on the left, a column for each step, dashed lines where a shuffle lies
    /// between, grey boxes for what is kept.
    pub fn to_svg(self: &Arc<Self>) -> String {
        let (mut places, mut heights) = (BTreeMap::<RddId, (usize, usize)>::new(), Vec::new());
        let (mut lines, mut boxes) = (String::new(), String::new());
        for rdd in self.ancestry() {
            let column = rdd
                .dependencies()
                .iter()
                .map(|dependency| places[&dependency.parent().id()].0 + 1)
                .max()
                .unwrap_or(0);
            if heights.len() <= column {
                heights.resize(column + 1, 0usize);
            }
            let row = heights[column];
            heights[column] += 1;
            places.insert(rdd.id(), (column, row));
            for dependency in rdd.dependencies() {
                draw_line(
                    &mut lines,
                    places[&dependency.parent().id()],
                    (column, row),
                    dependency,
                );
            }
            draw_box(&mut boxes, &rdd, (column, row));
        }
        let width = heights.len() * COLUMN + MARGIN;
        let height = heights.iter().max().unwrap_or(&0) * ROW + MARGIN;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             font-family=\"sans-serif\" font-size=\"11\">\n{lines}{boxes}</svg>\n"
        )
    }
}

fn corner((column, row): (usize, usize)) -> (usize, usize) {
    (MARGIN + column * COLUMN, MARGIN + row * ROW)
}

fn draw_line(text: &mut String, from: (usize, usize), to: (usize, usize), dependency: &Dependency) {
    let ((x1, y1), (x2, y2)) = (corner(from), corner(to));
    let style = match dependency {
        Dependency::Narrow(_) => "",
        Dependency::Wide(_) => " stroke-dasharray=\"4 3\"",
    };
    let _ = writeln!(
        text,
        "<line x1=\"{}\" y1=\"{}\" x2=\"{x2}\" y2=\"{}\" stroke=\"black\"{style}/>",
        x1 + BOX.0,
        y1 + BOX.1 / 2,
        y2 + BOX.1 / 2
    );
}

fn draw_box(text: &mut String, rdd: &Lineage, at: (usize, usize)) {
    let (x, y) = corner(at);
    let fill = if rdd.level() == StorageLevel::None {
        "white"
    } else {
        "lightgrey"
    };
    let label = rdd.label().replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        text,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\" fill=\"{fill}\" stroke=\"black\"/>\n\
         <text x=\"{}\" y=\"{}\">{label}</text><text x=\"{}\" y=\"{}\">{} partitions</text>",
        BOX.0,
        BOX.1,
        x + 5,
        y + 14,
        x + 5,
        y + 28,
        rdd.partitions()
    );
}

const BOX: (usize, usize) = (130, 36);
const COLUMN: usize = 170;
const ROW: usize = 52;
const MARGIN: usize = 16;
