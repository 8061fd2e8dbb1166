//! The part of EDN in which histories are written: nil, booleans, integers, strings, keywords, vectors and maps.

use std::iter::Peekable;
use std::str::Chars;

use crate::read_error::{ReadError, ReadProblem};

/// The deepest nesting of vectors and maps.
pub const DEPTH_MAX: usize = 32;

/// A value and where it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Edn {
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Nil,
    Boolean(bool),
    Integer(i64),
    Text(String),
    /// Without its colon.
    Keyword(String),
    Vector(Vec<Edn>),
    Map(Vec<(Edn, Edn)>),
}

impl Edn {
    pub(crate) fn error(&self, problem: ReadProblem) -> ReadError {
        ReadError {
            line: self.line,
            column: self.column,
            problem,
        }
    }

    pub(crate) fn expected(&self, what: &'static str) -> ReadError {
        self.error(ReadProblem::Expected(what))
    }

    /// This map with another value under a keyword that it has.
    pub(crate) fn with_field(mut self, name: &str, value: Self) -> Self {
        if let Value::Map(pairs) = &mut self.value {
            let named = |key: &Self| matches!(&key.value, Value::Keyword(word) if word == name);
            if let Some((_, old)) = pairs.iter_mut().find(|(key, _)| named(key)) {
                *old = value;
            }
        }
        self
    }

    /// The value under a keyword of this map.
    pub(crate) fn field(&self, name: &str) -> Option<&Self> {
        let Value::Map(pairs) = &self.value else {
            return None;
        };
        let named = |key: &Self| matches!(&key.value, Value::Keyword(word) if word == name);
        pairs
            .iter()
            .find(|(key, _)| named(key))
            .map(|(_, value)| value)
    }
}

/// Reads all values of `text`.
pub(crate) fn read(text: &str) -> Result<Vec<Edn>, ReadError> {
    let mut reader = Reader {
        rest: text.chars().peekable(),
        line: 1,
        column: 1,
    };
    let mut values = Vec::new();
    while reader.skip_blank().is_some() {
        values.push(reader.value(0)?);
    }
    Ok(values)
}

struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
    line: usize,
    column: usize,
}

impl Reader<'_> {
    fn value(&mut self, depth: usize) -> Result<Edn, ReadError> {
        let (line, column) = (self.line, self.column);
        let at = |problem| ReadError {
            line,
            column,
            problem,
        };
        let value = match self.rest.peek() {
            Some('[' | '{') if depth == DEPTH_MAX => return Err(at(ReadProblem::TooDeep)),
            Some('[') => Value::Vector(self.sequence(']', depth)?),
            Some('{') => Value::Map(self.pairs(depth)?),
            Some('"') => Value::Text(self.text()?),
            _ => word(&self.word()).map_err(at)?,
        };
        Ok(Edn {
            line,
            column,
            value,
        })
    }

    /// Values up to `end`, after the bracket under the cursor.
    fn sequence(&mut self, end: char, depth: usize) -> Result<Vec<Edn>, ReadError> {
        self.bump();
        let mut values = Vec::new();
        loop {
            match self.skip_blank() {
                Some(next) if next == end => {
                    self.bump();
                    return Ok(values);
                }
                Some(_) => values.push(self.value(depth + 1)?),
                None => return Err(self.expected("a closing bracket")),
            }
        }
    }

    fn pairs(&mut self, depth: usize) -> Result<Vec<(Edn, Edn)>, ReadError> {
        let mut values = self.sequence('}', depth)?.into_iter();
        let mut pairs = Vec::with_capacity(values.len() / 2);
        while let Some(key) = values.next() {
            let value = values
                .next()
                .ok_or_else(|| key.expected("a key with its value"))?;
            pairs.push((key, value));
        }
        Ok(pairs)
    }

    fn text(&mut self) -> Result<String, ReadError> {
        self.bump();
        let mut text = String::new();
        loop {
            match self.bump() {
                Some('"') => return Ok(text),
                Some('\\') => text.push(self.escaped()?),
                Some(other) => text.push(other),
                None => return Err(self.expected("the end of a string")),
            }
        }
    }

    fn escaped(&mut self) -> Result<char, ReadError> {
        let error = self.expected("one of \\\" \\\\ \\n \\t \\r");
        match self.bump() {
            Some(same @ ('"' | '\\')) => Ok(same),
            Some('n') => Ok('\n'),
            Some('t') => Ok('\t'),
            Some('r') => Ok('\r'),
            _ => Err(error),
        }
    }

    fn word(&mut self) -> String {
        let mut word = String::new();
        while let Some(&next) = self.rest.peek() {
            if next.is_whitespace() || ",;\"[]{}()".contains(next) {
                break;
            }
            word.push(next);
            self.bump();
        }
        word
    }

    /// Passes over blanks, commas and comments; the next character, if there is one.
    fn skip_blank(&mut self) -> Option<char> {
        let mut comment = false;
        while let Some(&next) = self.rest.peek() {
            comment = (comment || next == ';') && next != '\n';
            if !comment && !next.is_whitespace() && next != ',' {
                return Some(next);
            }
            self.bump();
        }
        None
    }

    fn bump(&mut self) -> Option<char> {
        let next = self.rest.next()?;
        if next == '\n' {
            (self.line, self.column) = (self.line + 1, 1);
        } else {
            self.column += 1;
        }
        Some(next)
    }

    fn expected(&self, what: &'static str) -> ReadError {
        ReadError {
            line: self.line,
            column: self.column,
            problem: ReadProblem::Expected(what),
        }
    }
}

fn word(word: &str) -> Result<Value, ReadProblem> {
    if let Some(name) = word.strip_prefix(':').filter(|name| !name.is_empty()) {
        return Ok(Value::Keyword(name.to_owned()));
    }
    match word {
        "nil" => Ok(Value::Nil),
        "true" => Ok(Value::Boolean(true)),
        "false" => Ok(Value::Boolean(false)),
        _ => integer(word),
    }
}

fn integer(word: &str) -> Result<Value, ReadProblem> {
    let digits = word.strip_prefix(['-', '+']).unwrap_or(word);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ReadProblem::Expected("a value"));
    }
    word.parse()
        .map(Value::Integer)
        .map_err(|_| ReadProblem::IntegerTooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> (usize, usize, ReadProblem) {
        let error = read(text).unwrap_err();
        (error.line, error.column, error.problem)
    }

    #[test]
    fn values_are_read_with_their_places() {
        let values = read("; a comment\n {:a [1 -2 nil true], :b \"x\\n\"}").unwrap();
        assert_eq!(values.len(), 1);
        let vector = values[0].field("a").unwrap();
        assert_eq!((vector.line, vector.column), (2, 6));
        let Value::Vector(items) = &vector.value else {
            panic!("{vector:?}")
        };
        let items: Vec<_> = items.iter().map(|item| &item.value).collect();
        let expected = [
            Value::Integer(1),
            Value::Integer(-2),
            Value::Nil,
            Value::Boolean(true),
        ];
        assert_eq!(items, expected.each_ref());
        assert_eq!(
            values[0].field("b").unwrap().value,
            Value::Text("x\n".to_owned())
        );
    }

    #[test]
    fn errors_name_line_and_column() {
        assert_eq!(
            error("{:a 1\n :b}"),
            (2, 2, ReadProblem::Expected("a key with its value"))
        );
        assert_eq!(
            error("[1 2"),
            (1, 5, ReadProblem::Expected("a closing bracket"))
        );
        assert_eq!(
            error("\"ab\\q\""),
            (1, 5, ReadProblem::Expected("one of \\\" \\\\ \\n \\t \\r"))
        );
        assert_eq!(error(" 1.5"), (1, 2, ReadProblem::Expected("a value")));
        assert_eq!(error("]"), (1, 1, ReadProblem::Expected("a value")));
        assert_eq!(
            error("9223372036854775808"),
            (1, 1, ReadProblem::IntegerTooLarge)
        );
        assert_eq!(error(&"[".repeat(33)), (1, 33, ReadProblem::TooDeep));
    }
}
