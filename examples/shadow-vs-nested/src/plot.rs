//! Cost against the price of an exit, a panel for each workload.

use std::fmt::Write;

use crate::machine::Cost;

const COLORS: [&str; 8] = [
    "#b2182b", "#e07a5f", "#f2a65a", "#c2a83e", "#7a5195", "#2166ac", "#8cb369", "#3a7d44",
];
const WIDTH: u64 = 420;
const HEIGHT: u64 = 260;
const MARGIN: u64 = 56;
/// The dearest exit that is drawn, in cycles.
const PRICE_MAX: u64 = 4000;

/// Names and costs of one workload.
type Costs = Vec<(&'static str, Cost)>;

pub(crate) fn panels(measured: &[(String, Costs)], reference: u64) -> String {
    let legend = measured.first().map_or(0, |(_, costs)| costs.len()) as u64 * 18 + 24;
    let height = (HEIGHT + MARGIN) * (measured.len() as u64).div_ceil(2) + legend;
    let width = 2 * (WIDTH + MARGIN) + MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n"
    );
    for ((workload, costs), n) in measured.iter().zip(0_u64..) {
        let x = MARGIN + n % 2 * (WIDTH + MARGIN);
        let y = MARGIN / 2 + n / 2 * (HEIGHT + MARGIN);
        panel(&mut svg, [x, y], workload, costs, reference);
    }
    if let Some((_, costs)) = measured.first() {
        let top = height - legend + 16;
        for (n, (name, _)) in costs.iter().enumerate() {
            let y = top + n as u64 * 18;
            let color = COLORS[n % COLORS.len()];
            let name = name.trim_start();
            line(
                &mut svg,
                &format!(
                    "<rect x=\"{MARGIN}\" y=\"{y}\" width=\"12\" height=\"12\" fill=\"{color}\"/>\
                     <text x=\"{}\" y=\"{}\">{name}</text>",
                    MARGIN + 18,
                    y + 11
                ),
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn panel(svg: &mut String, [x, y]: [u64; 2], workload: &str, costs: &Costs, reference: u64) {
    let most = costs
        .iter()
        .map(|(_, cost)| cost.cycles(PRICE_MAX, reference))
        .max()
        .unwrap_or(1)
        .max(1);
    let bottom = y + HEIGHT;
    line(
        svg,
        &format!(
            "<text x=\"{x}\" y=\"{}\" font-weight=\"bold\">{workload}, Mcycles by cycles of an exit</text>\
             <path d=\"M{x} {y}V{bottom}H{}\" fill=\"none\" stroke=\"#555\"/>\
             <text x=\"{x}\" y=\"{}\">0</text>\
             <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{PRICE_MAX}</text>\
             <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            y.saturating_sub(6),
            x + WIDTH,
            bottom + 14,
            x + WIDTH,
            bottom + 14,
            x - 4,
            y + 10,
            most / 1_000_000
        ),
    );
    for (n, (_, cost)) in costs.iter().enumerate() {
        let height = |price| HEIGHT * cost.cycles(price, reference) / most;
        let (left, right) = (bottom - height(0), bottom - height(PRICE_MAX));
        let color = COLORS[n % COLORS.len()];
        line(
            svg,
            &format!(
                "<path d=\"M{x} {left}L{} {right}\" stroke=\"{color}\" stroke-width=\"2\"/>",
                x + WIDTH
            ),
        );
    }
}

fn line(svg: &mut String, text: &str) {
    writeln!(svg, "{text}").expect("a String takes all");
}
