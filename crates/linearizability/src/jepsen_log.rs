//! The log lines that Jepsen wrote of a single register, as in its etcd runs of 2014.
//!
//! `INFO  jepsen.util - 4<tab>:invoke<tab>:cas<tab>[2 4]`; lines of other loggers are passed over.

use crate::read_error::{ReadError, ReadProblem};
use crate::{EventError, History, Recorder, RegisterInput, RegisterOutput};

/// A history of a register of integers.
pub type RegisterHistory = History<RegisterInput<i64>, RegisterOutput<i64>>;

/// Reads a log of one compare-and-set register.
///
/// `:fail` of a `:cas` with its values is the answer that the comparison failed; any other `:fail` is an operation that never
/// happened; `:info` is one that may happen at any later time.
///
/// # Errors
///
/// The first line of `jepsen.util` that is no event, or an event that cannot follow those before it. Time and memory are
/// linear in the text.
pub fn jepsen_log(text: &str) -> Result<RegisterHistory, ReadError> {
    let mut recorder = Recorder::default();
    for (number, line) in text.lines().enumerate() {
        let Some((_, event)) = line.split_once("jepsen.util - ") else {
            continue;
        };
        read_event(event, &mut recorder).map_err(|(rest, problem)| ReadError {
            line: number + 1,
            column: line.chars().count() - rest.chars().count() + 1,
            problem,
        })?;
    }
    Ok(recorder.finish())
}

/// The rest of the line at the wrong place, and what is wrong.
type LineError<'a> = (&'a str, ReadProblem);

fn read_event<'a>(
    event: &'a str,
    recorder: &mut Recorder<RegisterInput<i64>, RegisterOutput<i64>>,
) -> Result<(), LineError<'a>> {
    let (process_text, rest) = field(event)?;
    let process = process_text
        .parse()
        .map_err(|_| (event, ReadProblem::Expected("a process number")))?;
    let (kind, rest) = field(rest)?;
    let (function, value) = field(rest)?;
    let refuse = |error: EventError| (event, ReadProblem::Event(error));
    if kind == ":invoke" {
        return recorder
            .invoke(process, input(function, rest, value)?)
            .map_err(refuse);
    }
    let asked = recorder
        .waiting(process)
        .ok_or_else(|| refuse(EventError::Idle { process }))?;
    let asked_function = match asked {
        RegisterInput::Read => ":read",
        RegisterInput::Write(_) => ":write",
        RegisterInput::CompareAndSet { .. } => ":cas",
    };
    if function != asked_function {
        return Err((rest, ReadProblem::WrongAnswer { process }));
    }
    match (kind, function) {
        (":ok", ":read") => recorder.respond(process, RegisterOutput::Value(optional(value)?)),
        (":ok", ":write") => recorder.respond(process, RegisterOutput::Written),
        (":ok", _) => recorder.respond(process, RegisterOutput::Swapped(true)),
        (":fail", ":cas") if pair(value).is_ok() => {
            recorder.respond(process, RegisterOutput::Swapped(false))
        }
        (":fail", _) => recorder.fail(process),
        (":info", _) => recorder.abandon(process),
        _ => return Err((&event[process_text.len() + 1..], expected_kind())),
    }
    .map_err(refuse)
}

fn expected_kind() -> ReadProblem {
    ReadProblem::Expected(":invoke, :ok, :fail or :info")
}

fn input<'a>(
    function: &str,
    at: &'a str,
    value: &'a str,
) -> Result<RegisterInput<i64>, LineError<'a>> {
    match function {
        ":read" => Ok(RegisterInput::Read),
        ":write" => integer(value).map(RegisterInput::Write),
        ":cas" => pair(value).map(|(expected, new)| RegisterInput::CompareAndSet { expected, new }),
        _ => Err((at, ReadProblem::Expected(":read, :write or :cas"))),
    }
}

/// A field and what follows its tab.
fn field(text: &str) -> Result<(&str, &str), LineError<'_>> {
    text.split_once('\t')
        .ok_or((text, ReadProblem::Expected("a field that ends in a tab")))
}

fn optional(text: &str) -> Result<Option<i64>, LineError<'_>> {
    if text == "nil" {
        Ok(None)
    } else {
        integer(text).map(Some)
    }
}

fn pair(text: &str) -> Result<(i64, i64), LineError<'_>> {
    let inner = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let (first, second) = inner
        .and_then(|inner| inner.split_once(' '))
        .ok_or((text, ReadProblem::Expected("two integers in brackets")))?;
    // The second one's error would point past the bracket: point at the pair.
    Ok((
        integer(first).map_err(|e| (text, e.1))?,
        integer(second).map_err(|e| (text, e.1))?,
    ))
}

fn integer(text: &str) -> Result<i64, LineError<'_>> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err((text, ReadProblem::Expected("an integer")));
    }
    text.parse()
        .map_err(|_| (text, ReadProblem::IntegerTooLarge))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> (usize, usize, ReadProblem) {
        let error = jepsen_log(text).unwrap_err();
        (error.line, error.column, error.problem)
    }

    #[test]
    fn errors_name_line_and_column() {
        let ok = "INFO  jepsen.util - 4\t:invoke\t:read\tnil\n";
        assert_eq!(
            error(&format!("{ok}INFO  jepsen.util - 5\t:invoke\t:write\tx")),
            (2, 38, ReadProblem::Expected("an integer"))
        );
        assert_eq!(
            error(&format!(
                "noise\n{ok}INFO  jepsen.util - 4\t:gone\t:read\tnil"
            )),
            (3, 23, expected_kind())
        );
        assert_eq!(
            error(&format!("{ok}{ok}")),
            (2, 21, ReadProblem::Event(EventError::Busy { process: 4 }))
        );
        assert_eq!(
            error(&format!("{ok}INFO  jepsen.util - 4\t:ok\t:write\t1")),
            (2, 27, ReadProblem::WrongAnswer { process: 4 })
        );
        assert_eq!(
            error("jepsen.util - 1\t:invoke\t:cas\t[1 99999999999999999999]").2,
            ReadProblem::IntegerTooLarge
        );
    }
}
