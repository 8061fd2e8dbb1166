//! Histories in EDN, one map for each event, as Jepsen stores them.

use crate::edn::{Edn, Value, read};
use crate::jepsen_log::RegisterHistory;
use crate::read_error::{ReadError, ReadProblem};
use crate::{
    EventError, History, KeyValueInput, KeyValueOutput, KeyValueRequest, Recorder, RegisterInput,
    RegisterOutput,
};

/// A history of strings under keys.
pub type KeyValueHistory = History<KeyValueInput, KeyValueOutput>;

/// Reads events such as `{:process 0, :type :invoke, :f :append, :key "7", :value "x"}`, with `:get`, `:put` and `:append`.
///
/// The events follow each other or stand in one vector. `:fail` is an operation that never happened, `:info` one that may
/// happen at any later time; events of a process that is no number, such as `:nemesis`, are passed over, and so are other
/// keys of the maps.
///
/// # Errors
///
/// The first place that cannot be read, or an event that cannot follow those before it. Time and memory are linear in the
/// text.
pub fn key_value_history(text: &str) -> Result<KeyValueHistory, ReadError> {
    history(text, key_value_input, key_value_output)
}

/// Reads events of one register, such as `{:process 0, :type :invoke, :f :cas, :value [1 2]}`, with `:read`, `:write` and `:cas`.
///
/// As [`key_value_history`] otherwise. Unlike [`jepsen_log`](crate::jepsen_log), a `:fail` of a `:cas` says nothing of the
/// value: Jepsen uses it for whatever surely did not happen.
///
/// # Errors
///
/// As [`key_value_history`].
pub fn register_history(text: &str) -> Result<RegisterHistory, ReadError> {
    history(text, register_input, register_output)
}

fn key_value_input(event: &Edn) -> Result<KeyValueInput, ReadError> {
    let key = text(required(event, "key")?)?.to_owned();
    let function = required(event, "f")?;
    let value = || required(event, "value").and_then(text).map(str::to_owned);
    let request = match keyword(function)? {
        "get" => KeyValueRequest::Get,
        "put" => KeyValueRequest::Put(value()?),
        "append" => KeyValueRequest::Append(value()?),
        _ => return Err(function.expected(":get, :put or :append")),
    };
    Ok(KeyValueInput { key, request })
}

/// The answer in `event`; `None` if it is to another question.
fn key_value_output(
    asked: &KeyValueInput,
    event: &Edn,
) -> Result<Option<KeyValueOutput>, ReadError> {
    if text(required(event, "key")?)? != asked.key {
        return Ok(None);
    }
    let function = keyword(required(event, "f")?)?;
    match (&asked.request, function) {
        (KeyValueRequest::Get, "get") => {
            let value = text(required(event, "value")?)?.to_owned();
            Ok(Some(KeyValueOutput::Value(value)))
        }
        (KeyValueRequest::Put(_), "put") | (KeyValueRequest::Append(_), "append") => {
            Ok(Some(KeyValueOutput::Done))
        }
        _ => Ok(None),
    }
}

fn register_input(event: &Edn) -> Result<RegisterInput<i64>, ReadError> {
    let function = required(event, "f")?;
    let value = || required(event, "value");
    match keyword(function)? {
        "read" => Ok(RegisterInput::Read),
        "write" => value().and_then(integer).map(RegisterInput::Write),
        "cas" => {
            let (expected, new) = pair(value()?)?;
            Ok(RegisterInput::CompareAndSet { expected, new })
        }
        _ => Err(function.expected(":read, :write or :cas")),
    }
}

fn register_output(
    asked: &RegisterInput<i64>,
    event: &Edn,
) -> Result<Option<RegisterOutput<i64>>, ReadError> {
    let function = keyword(required(event, "f")?)?;
    match (asked, function) {
        (RegisterInput::Read, "read") => {
            let value = required(event, "value")?;
            let value = if value.value == Value::Nil {
                None
            } else {
                Some(integer(value)?)
            };
            Ok(Some(RegisterOutput::Value(value)))
        }
        (RegisterInput::Write(_), "write") => Ok(Some(RegisterOutput::Written)),
        (RegisterInput::CompareAndSet { .. }, "cas") => Ok(Some(RegisterOutput::Swapped(true))),
        _ => Ok(None),
    }
}

fn history<I, O>(
    text: &str,
    input: impl Fn(&Edn) -> Result<I, ReadError>,
    output: impl Fn(&I, &Edn) -> Result<Option<O>, ReadError>,
) -> Result<History<I, O>, ReadError> {
    let mut recorder = Recorder::default();
    for value in read(text)? {
        match value.value {
            Value::Vector(events) => {
                for event in &events {
                    record(&mut recorder, event, &input, &output)?;
                }
            }
            _ => record(&mut recorder, &value, &input, &output)?,
        }
    }
    Ok(recorder.finish())
}

fn record<I, O>(
    recorder: &mut Recorder<I, O>,
    event: &Edn,
    input: impl Fn(&Edn) -> Result<I, ReadError>,
    output: impl Fn(&I, &Edn) -> Result<Option<O>, ReadError>,
) -> Result<(), ReadError> {
    let process = required(event, "process")?;
    let process = match process.value {
        Value::Integer(number) => u64::try_from(number)
            .map_err(|_| process.expected("a process number that is not negative"))?,
        _ => return Ok(()),
    };
    let kind = required(event, "type")?;
    let done = match keyword(kind)? {
        "invoke" => recorder.invoke(process, input(event)?),
        "ok" => {
            let idle = ReadProblem::Event(EventError::Idle { process });
            let asked = recorder.waiting(process).ok_or_else(|| event.error(idle))?;
            let wrong = ReadProblem::WrongAnswer { process };
            let answer = output(asked, event)?.ok_or_else(|| event.error(wrong))?;
            recorder.respond(process, answer)
        }
        "fail" => recorder.fail(process),
        "info" => recorder.abandon(process),
        _ => return Err(kind.expected(":invoke, :ok, :fail or :info")),
    };
    done.map_err(|error| event.error(ReadProblem::Event(error)))
}

fn required<'e>(event: &'e Edn, name: &'static str) -> Result<&'e Edn, ReadError> {
    event.field(name).ok_or_else(|| {
        event.expected(match name {
            "process" => "a map with :process",
            "type" => "a map with :type",
            "f" => "a map with :f",
            "key" => "a map with :key",
            _ => "a map with :value",
        })
    })
}

fn keyword(edn: &Edn) -> Result<&str, ReadError> {
    match &edn.value {
        Value::Keyword(word) => Ok(word),
        _ => Err(edn.expected("a keyword")),
    }
}

fn text(edn: &Edn) -> Result<&str, ReadError> {
    match &edn.value {
        Value::Text(text) => Ok(text),
        _ => Err(edn.expected("a string")),
    }
}

fn integer(edn: &Edn) -> Result<i64, ReadError> {
    match edn.value {
        Value::Integer(integer) => Ok(integer),
        _ => Err(edn.expected("an integer")),
    }
}

fn pair(edn: &Edn) -> Result<(i64, i64), ReadError> {
    match &edn.value {
        Value::Vector(items) if items.len() == 2 => Ok((integer(&items[0])?, integer(&items[1])?)),
        _ => Err(edn.expected("two integers in brackets")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jepsen_register_events_are_read() {
        let history = register_history(
            "[{:type :invoke, :f :cas, :value [1 2], :process 0, :time 12, :index 0}
              {:type :info, :f :start, :process :nemesis}
              {:type :invoke, :f :read, :value nil, :process 1}
              {:type :ok, :f :read, :value 2, :process 1}
              {:type :info, :f :cas, :value [1 2], :process 0}]",
        )
        .unwrap();
        let [cas, read] = history.operations() else {
            panic!("{history:?}")
        };
        assert_eq!(
            cas.input,
            RegisterInput::CompareAndSet {
                expected: 1,
                new: 2
            }
        );
        assert_eq!(cas.response, None);
        assert_eq!(read.output(), Some(&RegisterOutput::Value(Some(2))));
    }

    #[test]
    fn errors_name_line_and_column() {
        let error = |text| key_value_history(text).unwrap_err();
        let get = "{:process 0 :type :invoke :f :get :key \"a\" :value nil}\n";
        let wrong = format!("{get}{{:process 0 :type :ok :f :get :key \"b\" :value \"\"}}");
        assert_eq!(
            error(&wrong),
            ReadError {
                line: 2,
                column: 1,
                problem: ReadProblem::WrongAnswer { process: 0 }
            }
        );
        assert_eq!(
            error("{:process 0 :type :invoke :f :pop :key \"a\"}"),
            ReadError {
                line: 1,
                column: 30,
                problem: ReadProblem::Expected(":get, :put or :append")
            }
        );
    }
}
