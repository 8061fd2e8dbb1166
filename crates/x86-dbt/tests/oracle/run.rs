//! Running every form through a subject and the host.

use std::collections::BTreeSet;

use super::case::{Mode, Outcome, State, Subject};
use super::compare::{describe, differences};
use super::forms::{Catalogue, Form};
use super::generate::Generator;
use super::host::{self, Unavailable};
use super::rng::Rng;

/// How much to run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    pub(crate) cases_per_form: u64,
    pub(crate) seed: u64,
}

impl Effort {
    /// `cases_per_form`, unless `SOFTMETAL_ORACLE_CASES` and `SOFTMETAL_ORACLE_SEED` ask for another run.
    pub(crate) fn from_environment(cases_per_form: u64) -> Self {
        let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
        Self {
            cases_per_form: number("SOFTMETAL_ORACLE_CASES").unwrap_or(cases_per_form),
            seed: number("SOFTMETAL_ORACLE_SEED").unwrap_or(1),
        }
    }
}

/// What a run found.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) cases: usize,
    pub(crate) forms: BTreeSet<Form>,
    /// Forms that the subject does not claim.
    pub(crate) unclaimed: BTreeSet<Form>,
    /// One entry for each form that differed: how often, and one case in words.
    pub(crate) failures: Vec<Failure>,
}

#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) form: Form,
    pub(crate) count: usize,
    pub(crate) text: String,
}

impl Report {
    /// Panics with the first failures, if there are any.
    pub(crate) fn assert_agreement(&self) {
        let texts: Vec<_> = self
            .failures
            .iter()
            .take(FAILURES_SHOWN)
            .map(|f| format!("{} x {}", f.count, f.text))
            .collect();
        assert!(
            self.failures.is_empty(),
            "{} of {} forms differ, for example\n{}",
            self.failures.len(),
            self.forms.len(),
            texts.join("\n")
        );
    }

    fn add(&mut self, form: Form, state: &State, found: &[String]) {
        self.cases += 1;
        self.forms.insert(form);
        if found.is_empty() {
            return;
        }
        match self
            .failures
            .iter_mut()
            .find(|failure| failure.form == form)
        {
            Some(failure) => failure.count += 1,
            None => {
                let text = format!(
                    "{:?}: {}\n    {}",
                    form.code,
                    describe(state),
                    found.join("\n    ")
                );
                self.failures.push(Failure {
                    form,
                    count: 1,
                    text,
                });
            }
        }
    }
}

/// Compares `subject` with the host on the cases that it claims.
pub(crate) fn compare_cases(
    subject: &mut dyn Subject,
    cases: impl Iterator<Item = (Form, Box<State>)>,
) -> Result<Report, Unavailable> {
    let mut report = Report::default();
    let mut batch = Vec::new();
    for (form, state) in cases {
        match subject.step(&state) {
            Some(outcome) => batch.push((form, state, outcome)),
            None => {
                report.unclaimed.insert(form);
            }
        }
        if batch.len() == BATCH {
            finish(&mut batch, &mut report)?;
        }
    }
    finish(&mut batch, &mut report)?;
    Ok(report)
}

type Pending = (Form, Box<State>, Outcome);

fn finish(batch: &mut Vec<Pending>, report: &mut Report) -> Result<(), Unavailable> {
    let states: Vec<&State> = batch.iter().map(|(_, state, _)| &**state).collect();
    let outcomes = host::run(&states)?;
    for ((form, state, subject), host) in batch.drain(..).zip(outcomes) {
        report.add(form, &state, &differences(&state, &host, &subject));
    }
    Ok(())
}

/// The cases of every form, form by form.
pub(crate) fn cases(effort: Effort) -> impl Iterator<Item = (Form, Box<State>)> {
    let catalogue = Catalogue::new(modes());
    let seed = Rng::new(effort.seed);
    let mut generator = Generator::new(host::offers_ldt());
    catalogue
        .forms
        .into_iter()
        .enumerate()
        .flat_map(move |(n, (form, templates))| {
            let rng = seed.fork(n as u64);
            let made: Vec<_> = (0..effort.cases_per_form)
                .filter_map(|case| generator.case(form, &templates, &mut rng.fork(case)))
                .collect();
            made.into_iter().map(move |state| (form, state))
        })
}

/// The modes that the host can run.
pub(crate) fn modes() -> &'static [Mode] {
    const ALL: [Mode; 3] = [Mode::Long, Mode::Compat, Mode::Word];
    if host::offers_ldt() {
        return &ALL;
    }
    eprintln!(
        "SKIPPED: 16-bit code and segments with limits, since the kernel does not offer an LDT"
    );
    &ALL[..2]
}

const BATCH: usize = 512;
const FAILURES_SHOWN: usize = 12;
