//! Stateright goes through every state of raft-log's model, and so does the crate's own explorer: the same states, with no
//! rule broken.

use std::time::Instant;

use raft_log::model::{Bounds, Event, State, explore};
use stateright::{Checker, Model, Property};

struct Cluster(Bounds);

impl Model for Cluster {
    type State = State;
    type Action = Event;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self.0)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Event>) {
        actions.extend(state.events());
    }

    fn next_state(&self, last: &State, action: Event) -> Option<State> {
        last.after(&action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("every rule holds", |_, state: &State| state.check().is_ok()),
            Property::sometimes("all terms are led", |Self(bounds), state: &State| {
                state.reached().0 == bounds.terms
            }),
            Property::sometimes(
                "all commands are committed",
                |Self(bounds), state: &State| state.reached().1 as u64 > bounds.commands,
            ),
        ]
    }
}

fn main() {
    let late = Bounds {
        late_disks: true,
        ..Bounds::terms(1)
    };
    for bounds in [
        Bounds::terms(2),
        Bounds {
            commands: 1,
            ..late
        },
        Bounds { crashes: 1, ..late },
        Bounds {
            reads: 1,
            heartbeats: 1,
            ..Bounds::terms(1)
        },
        Bounds {
            crashes: 1,
            ..Bounds::terms(2)
        },
        Bounds {
            elections: 3,
            ..Bounds::terms(3)
        },
    ] {
        let began = Instant::now();
        let checker = Cluster(bounds).checker().threads(2).spawn_dfs().join();
        checker.assert_properties();
        let (states, took) = (checker.unique_state_count(), began.elapsed());
        let began = Instant::now();
        let explored = explore(bounds, usize::MAX);
        assert!(explored.complete && explored.violation.is_none());
        assert_eq!(explored.states, states, "{bounds:?}");
        println!(
            "{bounds:?}: {states} states; Stateright {took:.1?}, raft-model {:.1?}",
            began.elapsed()
        );
    }
}
