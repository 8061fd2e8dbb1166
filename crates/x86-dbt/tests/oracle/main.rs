//! The host's processor as the oracle for single instructions.
//!
//! `SOFTMETAL_ORACLE_CASES` sets the number of cases of each form, `SOFTMETAL_ORACLE_SEED` the seed.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "registers and their parts are reinterpreted throughout"
)]

mod case;
mod compare;
mod encode;
mod forms;
mod generate;
mod host;
mod interpreter;
mod native_unit;
mod operands;
mod rng;
mod run;
mod segments;
mod values;

use std::collections::{BTreeMap, BTreeSet};

use case::{Event, Outcome, State, Subject};
use forms::Catalogue;
use host::Unavailable;
use interpreter::{Interpreter, Translator};
use native_unit::NativeSubject;
use run::{Effort, Report};

#[test]
fn forms_are_many_and_what_is_left_out_has_a_reason() {
    let catalogue = Catalogue::new(run::modes());
    let distinct: BTreeSet<_> = catalogue
        .forms
        .keys()
        .map(|form| (form.code, form.memory))
        .collect();
    eprintln!(
        "{} forms, {} without regard to mode",
        catalogue.forms.len(),
        distinct.len()
    );
    for (reason, codes) in &catalogue.left_out {
        let names: Vec<_> = codes
            .iter()
            .take(40)
            .map(|code| format!("{code:?}"))
            .collect();
        eprintln!(
            "not covered, {}: {} {}",
            reason,
            codes.len(),
            names.join(" ")
        );
    }
    assert!(distinct.len() >= 1500, "{} distinct forms", distinct.len());
}

#[test]
fn every_form_yields_a_case() {
    let made: BTreeSet<_> = run::cases(Effort {
        cases_per_form: 1,
        seed: 1,
    })
    .map(|(form, _)| form)
    .collect();
    let missing: Vec<_> = Catalogue::new(run::modes())
        .forms
        .into_keys()
        .filter(|form| !made.contains(form))
        .collect();
    assert!(missing.is_empty(), "no case found for {missing:?}");
}

#[test]
fn the_native_unit_agrees_with_the_host() {
    let Some(report) = compared(&mut NativeSubject::new(), Effort::from_environment(5)) else {
        return;
    };
    eprintln!(
        "{} cases of {} x87, MMX and SSE forms",
        report.cases,
        report.forms.len()
    );
    report.assert_agreement();
    assert!(report.forms.len() > 1500, "{} forms", report.forms.len());
}

#[test]
fn the_interpreter_agrees_with_the_host() {
    let Some(report) = compared(&mut Interpreter::new(), Effort::from_environment(5)) else {
        return;
    };
    eprintln!("{} cases of {} forms", report.cases, report.forms.len());
    report.assert_agreement();
    assert!(report.forms.len() > 1500, "{} forms", report.forms.len());
}

#[test]
fn the_translator_agrees_with_the_host() {
    let mut translator = Translator::new();
    let Some(report) = compared(&mut translator, Effort::from_environment(5)) else {
        return;
    };
    let (units, interpreted) = translator.translated();
    eprintln!(
        "{} cases of {} forms; {units} translated, of them {interpreted} as a call of the interpreter",
        report.cases,
        report.forms.len()
    );
    report.assert_agreement();
    assert!(report.forms.len() > 1200, "{} forms", report.forms.len());
    assert!(units - interpreted > 3000, "{units} {interpreted}");
}

#[test]
fn two_runs_of_every_form_on_the_host_agree() {
    let cases: Vec<_> = run::cases(Effort::from_environment(1)).collect();
    let mut endings = BTreeMap::new();
    for batch in cases.chunks(512) {
        let states: Vec<&State> = batch.iter().map(|(_, state)| &**state).collect();
        let (Ok(first), Ok(second)) = (host::run(&states), host::run(&states)) else {
            eprintln!("SKIPPED: the host's processor cannot be stepped here");
            return;
        };
        for (state, (first, second)) in states.iter().zip(first.iter().zip(&second)) {
            let found = compare::differences(state, first, second);
            assert!(
                found.is_empty(),
                "{}\n{}",
                compare::describe(state),
                found.join("\n")
            );
            let ending = match first.event {
                Event::Retired => "retired".to_owned(),
                Event::Exception { vector, .. } => format!("vector {vector}"),
            };
            *endings.entry(ending).or_insert(0) += 1;
        }
    }
    eprintln!("{} cases: {endings:?}", cases.len());
    assert!(
        endings["retired"] * 2 > cases.len(),
        "most cases complete: {endings:?}"
    );
}

#[test]
fn planted_differences_are_found() {
    /// The native unit with one thing done wrong in every outcome.
    struct Wrong(NativeSubject, fn(&mut Outcome));
    impl Subject for Wrong {
        fn step(&mut self, state: &State) -> Option<Outcome> {
            let mut outcome = self.0.step(state)?;
            (self.1)(&mut outcome);
            Some(outcome)
        }
    }
    type Plant = (&'static str, fn(&mut Outcome));
    let plants: [Plant; 12] = [
        ("rax", |o| o.gpr[0] ^= 1 << 31),
        ("rip", |o| o.rip += 1),
        ("flags 0x1", |o| o.rflags ^= 1),
        ("flags 0x400", |o| o.rflags ^= 1 << 10),
        ("selectors", |o| o.selectors[2] ^= 8),
        ("fcw", |o| o.fx[0] ^= 1),
        ("fsw", |o| o.fx[3] ^= 1),
        ("mxcsr", |o| o.fx[25] ^= 0x40),
        ("st7", |o| o.fx[32 + 7 * 16] ^= 1),
        ("xmm7", |o| o.fx[160 + 7 * 16 + 15] ^= 1),
        ("data+0xfff", |o| o.data[0xfff] ^= 1),
        ("event", |o| {
            o.event = Event::Exception {
                vector: 6,
                error_code: 0,
                cr2: 0,
            }
        }),
    ];
    let effort = Effort {
        cases_per_form: 1,
        seed: 3,
    };
    let cases: Vec<_> = run::cases(effort).step_by(97).collect();
    for (name, plant) in plants {
        let mut wrong = Wrong(NativeSubject::new(), plant);
        let Some(report) = skipping(run::compare_cases(&mut wrong, cases.iter().cloned())) else {
            return;
        };
        let found = report
            .failures
            .iter()
            .filter(|failure| failure.text.contains(name))
            .count();
        assert_eq!(
            found,
            report.forms.len(),
            "{name} was planted in every form"
        );
    }
}

/// Subjects build their tables from these descriptors.
#[test]
fn the_host_has_the_segments_that_cases_use() {
    const LAR_EAX_ECX: [u8; 3] = [0x0f, 0x02, 0xc1];
    const LSL_EDX_ECX: [u8; 3] = [0x0f, 0x03, 0xd1];
    let Some((_, mut state)) = run::cases(Effort {
        cases_per_form: 1,
        seed: 1,
    })
    .next() else {
        unreachable!("there are forms")
    };
    let ldt = if host::offers_ldt() {
        &segments::LDT[..]
    } else {
        &[]
    };
    for segment in segments::GDT[2..].iter().chain(ldt) {
        state.gpr[1] = u64::from(segment.selector);
        let [rights, limit] = [LAR_EAX_ECX, LSL_EDX_ECX].map(|code| {
            state.code[..3].copy_from_slice(&code);
            state.len = 3;
            host::run(&[&state]).map(|mut outcomes| outcomes.remove(0))
        });
        let (rights, limit) = match (rights, limit) {
            (Ok(rights), Ok(limit)) => (rights.gpr[0], limit.gpr[2]),
            (Err(reason), _) | (_, Err(reason)) => {
                skipping(Err(reason));
                return;
            }
        };
        assert_eq!(
            rights & 0xf0_ff00,
            segment.descriptor() >> 32 & 0xf0_ff00,
            "{segment:x?}"
        );
        assert_eq!(limit, u64::from(segment.limit), "{segment:x?}");
    }
}

fn compared(subject: &mut dyn Subject, effort: Effort) -> Option<Report> {
    skipping(run::compare_cases(subject, run::cases(effort)))
}

/// `None`, said aloud, where the host cannot be an oracle.
fn skipping(result: Result<Report, Unavailable>) -> Option<Report> {
    match result {
        Ok(report) => Some(report),
        Err(reason) => {
            eprintln!("SKIPPED: the host's processor cannot be stepped here: {reason}");
            None
        }
    }
}
