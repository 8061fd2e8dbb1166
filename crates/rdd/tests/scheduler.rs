//! The scheduler alone, event by event.

use rdd::scheduler::{
    Action, AttemptId, Event, Failure, Limits, Scheduler, StageId, StagePlan, WorkerId,
};

fn joined(worker: u32, memory_bytes: u64) -> Event {
    Event::WorkerJoined {
        worker: WorkerId(worker),
        slots: 2,
        memory_bytes,
    }
}

fn done(attempt: u64, digest: u64) -> Event {
    Event::Done {
        attempt: AttemptId(attempt),
        records: 100,
        digest: Some(digest),
    }
}

fn handle(scheduler: &mut Scheduler, event: Event, now: u64) -> Vec<Action> {
    let mut out = Vec::new();
    scheduler.handle(event, now, &mut out);
    out
}

fn launches(actions: &[Action]) -> Vec<(u64, usize, usize, u32)> {
    let launch = |action: &Action| match action {
        Action::Launch {
            attempt,
            stage,
            partition,
            worker,
            ..
        } => Some((attempt.0, stage.0, *partition, worker.0)),
        _ => None,
    };
    actions.iter().filter_map(launch).collect()
}

/// Two stages; the second reads the first.
fn plan(maps: usize, reduces: usize) -> Vec<StagePlan> {
    vec![
        StagePlan::new(maps, vec![]),
        StagePlan::new(reduces, vec![StageId(0)]),
    ]
}

#[test]
fn a_stage_waits_for_all_outputs_it_reads() {
    let mut scheduler = Scheduler::new(plan(2, 1), Limits::default(), 0);
    assert_eq!(launches(&handle(&mut scheduler, joined(0, 0), 0)).len(), 2);
    assert_eq!(launches(&handle(&mut scheduler, done(1, 1), 1)), []);
    assert_eq!(
        launches(&handle(&mut scheduler, done(2, 2), 2)),
        [(3, 1, 0, 0)]
    );
    let end = handle(&mut scheduler, done(3, 3), 3);
    assert_eq!(
        end[1..],
        [
            Action::Commit {
                partition: 0,
                attempt: AttemptId(3)
            },
            Action::JobDone
        ]
    );
    assert_eq!(
        (
            handle(&mut scheduler, done(3, 3), 4),
            scheduler.next_deadline()
        ),
        (vec![], None)
    );
}

#[test]
fn outputs_of_an_earlier_job_are_not_made_again_until_they_are_lost() {
    let mut stages = plan(2, 1);
    stages[0].available = vec![Some(WorkerId(1)), Some(WorkerId(1))];
    let mut scheduler = Scheduler::new(stages, Limits::default(), 0);
    assert_eq!(
        launches(&handle(&mut scheduler, joined(0, 0), 0)),
        [(1, 1, 0, 0)]
    );
    let missing = Event::FetchFailed {
        attempt: AttemptId(1),
        stage: StageId(0),
        partition: 1,
    };
    assert_eq!(
        launches(&handle(&mut scheduler, missing, 1)),
        [(2, 0, 1, 0)]
    );
    assert_eq!(
        launches(&handle(&mut scheduler, done(2, 0), 2)),
        [(3, 1, 0, 0)]
    );
}

#[test]
fn a_recomputed_output_that_differs_rolls_its_readers_back() {
    let mut scheduler = Scheduler::new(
        plan(1, 2),
        Limits {
            backup_percent: 0,
            ..Limits::default()
        },
        0,
    );
    handle(&mut scheduler, joined(0, 0), 0);
    handle(&mut scheduler, joined(1, 0), 0);
    handle(&mut scheduler, done(1, 7), 1);
    // One reader is done; the other finds the output gone.
    handle(&mut scheduler, done(2, 8), 2);
    let missing = Event::FetchFailed {
        attempt: AttemptId(3),
        stage: StageId(0),
        partition: 0,
    };
    assert_eq!(launches(&handle(&mut scheduler, missing, 3)).len(), 1);
    let actions = handle(&mut scheduler, done(4, 70), 4);
    assert!(actions.contains(&Action::NotDeterministic {
        stage: StageId(0),
        partition: 0
    }));
    assert_eq!(
        launches(&actions)
            .iter()
            .map(|l| (l.1, l.2))
            .collect::<Vec<_>>(),
        [(1, 0), (1, 1)]
    );
    handle(&mut scheduler, done(5, 80), 5);
    let end = handle(&mut scheduler, done(6, 90), 6);
    assert!(
        end.contains(&Action::Commit {
            partition: 0,
            attempt: AttemptId(5)
        }),
        "not attempt 2: {end:?}"
    );
}

#[test]
fn a_job_whose_outputs_never_agree_is_given_up() {
    let mut scheduler = Scheduler::new(
        plan(1, 2),
        Limits {
            rollbacks_max: 0,
            ..Limits::default()
        },
        0,
    );
    handle(&mut scheduler, joined(0, 0), 0);
    handle(&mut scheduler, done(1, 7), 1);
    let missing = Event::FetchFailed {
        attempt: AttemptId(2),
        stage: StageId(0),
        partition: 0,
    };
    handle(&mut scheduler, missing, 2);
    let end = handle(&mut scheduler, done(4, 70), 3);
    let failure = Failure::Indeterminate {
        stage: StageId(0),
        partition: 0,
    };
    assert_eq!(end.last(), Some(&Action::JobFailed(failure)));
}

#[test]
fn a_task_gets_a_backup_when_it_would_take_longer_than_a_fresh_copy() {
    let mut scheduler = Scheduler::new(vec![StagePlan::new(4, vec![])], Limits::default(), 0);
    handle(&mut scheduler, joined(0, 0), 0);
    handle(&mut scheduler, joined(1, 0), 0);
    for attempt in 1..=3 {
        handle(&mut scheduler, done(attempt, 0), 100_000);
    }
    let progress = |records| Event::Progress {
        attempt: AttemptId(4),
        records,
    };
    // 90 of 100 records in 100 ms: 11 ms to go, no need.
    assert_eq!(launches(&handle(&mut scheduler, progress(90), 120_000)), []);
    let mut slow = scheduler.clone();
    assert_eq!(launches(&handle(&mut slow, Event::Tick, 150_000)), []);
    // 100 records would have taken 1.1 s.
    let mut scheduler = Scheduler::new(vec![StagePlan::new(4, vec![])], Limits::default(), 0);
    handle(&mut scheduler, joined(0, 0), 0);
    handle(&mut scheduler, joined(1, 0), 0);
    for attempt in 1..=3 {
        handle(&mut scheduler, done(attempt, 0), 100_000);
    }
    let actions = handle(&mut scheduler, progress(10), 120_000);
    assert!(
        matches!(actions[..], [Action::Launch { backup: true, .. }]),
        "{actions:?}"
    );
    let end = handle(&mut scheduler, done(5, 0), 220_000);
    assert!(end.iter().any(|action| matches!(
        action,
        Action::Cancel {
            attempt: AttemptId(4),
            ..
        }
    )));
}

#[test]
fn tasks_are_admitted_by_memory_and_the_largest_runs_alone() {
    let mut stage = StagePlan::new(3, vec![]);
    stage.memory_bytes = 60;
    let mut scheduler = Scheduler::new(vec![stage], Limits::default(), 0);
    assert_eq!(
        launches(&handle(&mut scheduler, joined(0, 100), 0)).len(),
        1
    );
    assert_eq!(launches(&handle(&mut scheduler, joined(1, 10), 0)).len(), 1);
    assert_eq!(
        launches(&handle(&mut scheduler, joined(2, 200), 0)).len(),
        1
    );
}

#[test]
fn a_task_runs_where_its_input_is_and_not_where_it_failed() {
    let mut stages = plan(1, 1);
    stages[0].available = vec![Some(WorkerId(0))];
    stages[1].preferred = vec![vec![WorkerId(2)]];
    let mut scheduler = Scheduler::new(stages, Limits::default(), 0);
    assert_eq!(
        launches(&handle(&mut scheduler, joined(2, 0), 0)),
        [(1, 1, 0, 2)]
    );
    handle(&mut scheduler, joined(1, 0), 0);
    let failed = Event::Failed {
        attempt: AttemptId(1),
        message: "no".to_owned(),
    };
    assert_eq!(launches(&handle(&mut scheduler, failed, 1)), [(2, 1, 0, 1)]);
}

#[test]
fn a_job_without_workers_is_given_up_in_time() {
    let limits = Limits {
        no_workers_for: 500,
        ..Limits::default()
    };
    let mut scheduler = Scheduler::new(plan(1, 1), limits, 0);
    assert_eq!(handle(&mut scheduler, Event::Tick, 100), []);
    assert_eq!(scheduler.next_deadline(), Some(600));
    assert_eq!(
        handle(&mut scheduler, Event::Tick, 600),
        [Action::JobFailed(Failure::NoWorkers)]
    );
}
