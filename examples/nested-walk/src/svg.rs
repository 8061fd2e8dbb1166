//! The walk as a grid: each row ends with a reference of the guest's own tables.

use std::fmt::Write;

use guest_paging::Reference;

const COLORS: [&str; 4] = ["#e07a5f", "#81b29a", "#6d8fc9", "#f2cc8f"];
const SPACING: [usize; 2] = [96, 44];

pub(crate) fn grid(references: &[Reference], spaces: &[&str]) -> String {
    let rows: Vec<&[Reference]> = references.split_inclusive(|r| r.dimension == 0).collect();
    let columns = rows.iter().map(|row| row.len()).max().unwrap_or(0);
    let (width, height) = (
        columns.max(spaces.len()) * SPACING[0] + 16,
        rows.len() * SPACING[1] + 48,
    );
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"monospace\" font-size=\"11\">\n"
    );
    for (n, space) in spaces.iter().enumerate() {
        square(
            &mut svg,
            [n * SPACING[0] + 8, 8],
            COLORS[n % COLORS.len()],
            space,
            "",
        );
    }
    let mut number = 0;
    for (y, row) in rows.iter().enumerate() {
        for (x, reference) in row.iter().enumerate() {
            number += 1;
            let color = COLORS[usize::from(reference.dimension) % COLORS.len()];
            let title = format!("{number}: level {}", reference.level);
            let at = [x * SPACING[0] + 8, y * SPACING[1] + 44];
            square(&mut svg, at, color, &title, &reference.at.to_string());
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn square(svg: &mut String, [x, y]: [usize; 2], color: &str, first: &str, second: &str) {
    let height = if second.is_empty() { 24 } else { 36 };
    let (text_x, first_y, second_y) = (x + 6, y + 15, y + 29);
    writeln!(
        svg,
        "<rect x=\"{x}\" y=\"{y}\" width=\"88\" height=\"{height}\" rx=\"4\" fill=\"{color}\"/>\
         <text x=\"{text_x}\" y=\"{first_y}\">{first}</text>\
         <text x=\"{text_x}\" y=\"{second_y}\">{second}</text>"
    )
    .expect("a String takes all");
}
