//! Histories in EDN, one map for each event, as Jepsen stores them.

use std::collections::BTreeMap;

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

/// Reads events of many registers, as Jepsen's `independent` makes them: each `:value` is `[key value]`.
///
/// `{:process 0, :type :invoke, :f :cas, :value [17 [1 2]]}` asks register 17. Keys are integers, strings or keywords, and
/// become text. Each register's history is checked by itself; linearizability is local (Herlihy and Wing 1990, section
/// 3.2). As [`register_history`] otherwise.
///
/// # Errors
///
/// As [`key_value_history`].
pub fn independent_registers(text: &str) -> Result<BTreeMap<String, RegisterHistory>, ReadError> {
    let mut recorders = BTreeMap::new();
    for event in events(read(text)?) {
        if process(&event)?.is_none() {
            continue;
        }
        let value = required(&event, "value")?;
        let (key, value) = match &value.value {
            Value::Vector(items) if items.len() == 2 => (name(&items[0])?, items[1].clone()),
            _ => return Err(value.expected("a key and a value in brackets")),
        };
        let recorder = recorders.entry(key).or_default();
        let event = event.with_field("value", value);
        record(recorder, &event, register_input, register_output)?;
    }
    let finished = |(key, recorder): (String, Recorder<_, _>)| (key, recorder.finish());
    Ok(recorders.into_iter().map(finished).collect())
}

fn name(key: &Edn) -> Result<String, ReadError> {
    match &key.value {
        Value::Integer(number) => Ok(number.to_string()),
        Value::Text(text) | Value::Keyword(text) => Ok(text.clone()),
        _ => Err(key.expected("an integer, a string or a keyword")),
    }
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
    for event in events(read(text)?) {
        record(&mut recorder, &event, &input, &output)?;
    }
    Ok(recorder.finish())
}

/// Events that follow each other or stand in a vector.
fn events(values: Vec<Edn>) -> impl Iterator<Item = Edn> {
    values.into_iter().flat_map(|value| match value.value {
        Value::Vector(events) => events,
        _ => vec![value],
    })
}

/// The client's number; `None` of what is no client.
fn process(event: &Edn) -> Result<Option<u64>, ReadError> {
    let process = required(event, "process")?;
    match process.value {
        Value::Integer(number) => u64::try_from(number)
            .map(Some)
            .map_err(|_| process.expected("a process number that is not negative")),
        _ => Ok(None),
    }
}

fn record<I, O>(
    recorder: &mut Recorder<I, O>,
    event: &Edn,
    input: impl Fn(&Edn) -> Result<I, ReadError>,
    output: impl Fn(&I, &Edn) -> Result<Option<O>, ReadError>,
) -> Result<(), ReadError> {
    let Some(process) = process(event)? else {
        return Ok(());
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
    fn independent_registers_are_told_apart() {
        let histories = independent_registers(
            "{:type :invoke, :f :write, :value [8 3], :process 0}
             {:type :invoke, :f :read, :value [9 nil], :process 1}
             {:type :info, :f :kill, :value nil, :process :nemesis}
             {:type :ok, :f :read, :value [9 nil], :process 1}
             {:type :invoke, :f :cas, :value [8 [3 4]], :process 1}
             {:type :fail, :f :cas, :value [8 [3 4]], :process 1}
             {:type :info, :f :write, :value [8 3], :process 0}",
        )
        .unwrap();
        let keys: Vec<_> = histories.keys().collect();
        assert_eq!(keys, ["8", "9"]);
        let [write] = histories["8"].operations() else {
            panic!("a failed operation never happened: {histories:?}")
        };
        assert_eq!(
            (&write.input, &write.response),
            (&RegisterInput::Write(3), &None)
        );
        let [read] = histories["9"].operations() else {
            panic!("{histories:?}")
        };
        assert_eq!(read.output(), Some(&RegisterOutput::Value(None)));
    }

    #[test]
    fn an_answer_of_another_register_is_refused() {
        let error = independent_registers(
            "{:type :invoke, :f :read, :value [1 nil], :process 0}
             {:type :ok, :f :read, :value [2 5], :process 0}",
        )
        .unwrap_err();
        let idle = ReadProblem::Event(EventError::Idle { process: 0 });
        assert_eq!((error.line, error.problem), (2, idle));
        let flat = independent_registers("{:type :invoke, :f :read, :value 7, :process 0}");
        let expected = ReadProblem::Expected("a key and a value in brackets");
        assert_eq!(flat.unwrap_err().problem, expected);
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
