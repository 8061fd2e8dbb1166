//! What the store promises, for the checker: cells of text under keys, each by itself.

use linearizability::Model;

/// What a client asks of one key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ask {
    pub(crate) key: String,
    pub(crate) what: What,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum What {
    Get,
    Put(String),
    Append(String),
    Delete,
    Cas(Option<String>, String),
}

/// What it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Value(Option<String>),
    Done,
    Swapped(bool),
}

/// Cells that hold nothing at first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cells;

impl Model for Cells {
    type Input = Ask;
    type Output = Answer;
    type State = Option<String>;
    type Part = String;

    fn part(&self, ask: &Ask) -> String {
        ask.key.clone()
    }

    fn initial(&self) -> Option<String> {
        None
    }

    fn step(
        &self,
        state: &Option<String>,
        ask: &Ask,
        answer: Option<&Answer>,
        next: &mut Vec<Option<String>>,
    ) {
        let (after, says) = match &ask.what {
            What::Get => (state.clone(), Answer::Value(state.clone())),
            What::Put(value) => (Some(value.clone()), Answer::Done),
            What::Append(value) => {
                let before = state.as_deref().unwrap_or("");
                (Some([before, value].concat()), Answer::Done)
            }
            What::Delete => (None, Answer::Done),
            What::Cas(expected, new) if state == expected => {
                (Some(new.clone()), Answer::Swapped(true))
            }
            What::Cas(..) => (state.clone(), Answer::Swapped(false)),
        };
        if answer.is_none_or(|answer| *answer == says) {
            next.push(after);
        }
    }

    fn never_changes(&self, ask: &Ask, answer: Option<&Answer>) -> bool {
        ask.what == What::Get || answer == Some(&Answer::Swapped(false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use linearizability::{Budget, Outcome, Recorder, check};

    fn ask(what: What) -> Ask {
        let key = "k".to_owned();
        Ask { key, what }
    }

    #[test]
    fn a_stale_read_is_found_and_a_lost_answer_is_no_excuse_for_it() {
        for (read, right) in [(Some("1".to_owned()), true), (None, false)] {
            let mut clients = Recorder::default();
            clients.invoke(1, ask(What::Put("1".to_owned()))).unwrap();
            clients.respond(1, Answer::Done).unwrap();
            clients
                .invoke(2, ask(What::Append("2".to_owned())))
                .unwrap();
            clients.abandon(2).unwrap();
            clients.invoke(1, ask(What::Get)).unwrap();
            clients.respond(1, Answer::Value(read)).unwrap();
            let outcome = check(&Cells, &clients.finish(), Budget::default());
            assert_eq!(matches!(outcome, Outcome::Linearizable(_)), right);
        }
    }
}
