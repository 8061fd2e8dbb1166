//! A history as a page for people: one row for each client, one bar for each operation.

use std::collections::BTreeMap;
use std::fmt::{Debug, Write};

use crate::{History, Operation, Outcome};

/// Draws `history` and what `outcome` says of it as one HTML page that needs nothing else: no script, no style from elsewhere.
///
/// Time is drawn by rank, so that every event has the same room. In a linearizable history each bar shows its place in the
/// witness; in one that is not, the answers that contradict each other are red, and operations without a say are pale.
/// Size is linear in the history.
///
/// # Panics
///
/// If `outcome` names operations that `history` does not have.
pub fn timeline<I: Debug, O: Debug>(history: &History<I, O>, outcome: &Outcome) -> String {
    let mut page = String::from(HEAD);
    let said = match outcome {
        Outcome::Linearizable(_) => "Linearizable: the numbers give the order.".to_owned(),
        Outcome::NotLinearizable(found) => format!(
            "Not linearizable: the {} answers in red contradict each other{}.",
            found.answered.len(),
            if found.minimal {
                ", and no fewer do"
            } else {
                ""
            }
        ),
        Outcome::Unknown(reason) => format!("Unknown: {reason}."),
    };
    let times = ranks(history.operations());
    let rows = rows(history.operations());
    let marks = marks(outcome, history.operations().len());
    let _ = write!(
        page,
        "<p>{said}</p>\n<div class=t style=\"width:{}em\">\n",
        times.len() * EM + EM
    );
    for (process, row) in rows {
        let _ = write!(page, "<div class=r><b>{process}</b>");
        for index in row {
            bar(
                &mut page,
                &history.operations()[index],
                &times,
                marks[index],
            );
        }
        page.push_str("</div>\n");
    }
    page.push_str("</div>\n</html>\n");
    page
}

/// Room of one event.
const EM: usize = 4;

const HEAD: &str = "<!doctype html>
<html lang=en><meta charset=utf-8><title>history</title>
<style>
body{font:13px sans-serif}
.t{position:relative}
.r{position:relative;height:2.6em;border-top:1px solid #ddd}
.r b{position:sticky;left:0;background:#fff;z-index:1}
.o{position:absolute;top:.3em;height:2em;line-height:2em;overflow:hidden;white-space:nowrap;border-radius:3px;background:#cfe3f7}
.o.bad{background:#f28b82}
.o.pale{background:#eee;color:#777}
.o.open{border-right:3px dotted #555}
.o i{font-weight:bold;margin:0 .4em}
</style>
";

/// How an operation is drawn.
#[derive(Clone, Copy)]
struct Mark {
    class: &'static str,
    /// From 1.
    place: Option<usize>,
}

fn marks(outcome: &Outcome, count: usize) -> Vec<Mark> {
    let plain = Mark {
        class: "",
        place: None,
    };
    let pale = Mark {
        class: " pale",
        place: None,
    };
    let mut marks = vec![pale; count];
    match outcome {
        Outcome::Linearizable(witness) => {
            for (place, &index) in witness.order.iter().enumerate() {
                marks[index].class = "";
                marks[index].place = Some(place + 1);
            }
        }
        Outcome::NotLinearizable(found) => {
            found
                .unanswered
                .iter()
                .for_each(|&index| marks[index] = plain);
            found
                .answered
                .iter()
                .for_each(|&index| marks[index].class = " bad");
        }
        Outcome::Unknown(_) => marks.fill(plain),
    }
    marks
}

fn bar<I: Debug, O: Debug>(
    page: &mut String,
    operation: &Operation<I, O>,
    times: &BTreeMap<u64, usize>,
    mark: Mark,
) {
    let left = times[&operation.invoked];
    let right = operation
        .returned()
        .map_or(times.len(), |returned| times[&returned]);
    let open = if operation.response.is_none() {
        " open"
    } else {
        ""
    };
    let label = match operation.output() {
        Some(output) => escape(&format!("{:?} \u{2192} {output:?}", operation.input)),
        None => escape(&format!("{:?} \u{2192} ?", operation.input)),
    };
    let place = mark
        .place
        .map_or_else(String::new, |place| format!("<i>{place}</i>"));
    let _ = write!(
        page,
        "<div class=\"o{}{open}\" title=\"{label}\" style=\"left:{}em;width:{}em\">{place}{label}</div>",
        mark.class,
        left * EM + EM,
        (right - left).max(1) * EM - 1,
    );
}

fn ranks<I, O>(operations: &[Operation<I, O>]) -> BTreeMap<u64, usize> {
    let times = operations
        .iter()
        .flat_map(|o| o.returned().into_iter().chain([o.invoked]));
    let mut ranks: BTreeMap<u64, usize> = times.map(|time| (time, 0)).collect();
    ranks
        .values_mut()
        .enumerate()
        .for_each(|(rank, place)| *place = rank);
    ranks
}

/// The operations of each client.
fn rows<I, O>(operations: &[Operation<I, O>]) -> BTreeMap<u64, Vec<usize>> {
    let mut rows: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (index, operation) in operations.iter().enumerate() {
        rows.entry(operation.process).or_default().push(index);
    }
    rows
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}
