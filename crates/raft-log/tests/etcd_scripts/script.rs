//! The format of cockroachdb/datadriven: a command, perhaps lines of input, four dashes, what it prints.

use std::fs;
use std::path::Path;

/// One file.
pub(crate) struct Script {
    pub(crate) name: String,
    pub(crate) steps: Vec<Step>,
}

/// One command and what etcd prints for it.
pub(crate) struct Step {
    pub(crate) line: usize,
    pub(crate) command: String,
    pub(crate) arguments: Vec<Argument>,
    pub(crate) input: String,
    pub(crate) expected: String,
}

/// `name`, `name=value` or `name=(value, value)`.
pub(crate) struct Argument {
    pub(crate) name: String,
    pub(crate) values: Vec<String>,
}

impl Script {
    pub(crate) fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).expect("a script");
        let name = path.file_stem().expect("a name").to_string_lossy();
        Self {
            name: name.into_owned(),
            steps: steps(&text),
        }
    }
}

fn steps(text: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut lines = text.lines().zip(1..).peekable();
    while let Some((line, number)) = lines.next() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let mut directive = line.to_owned();
        while let Some(part) = directive.strip_suffix('\\') {
            let (next, _) = lines.next().expect("a line after a backslash");
            directive = format!("{part} {next}");
        }
        let mut input = Vec::new();
        loop {
            let (line, _) = lines
                .next()
                .unwrap_or_else(|| panic!("line {number}: no output follows"));
            if line == "----" {
                break;
            }
            input.push(line);
        }
        let mut expected = Vec::new();
        // With blank lines in it, the output stands between doubled dashes.
        if lines.next_if(|(line, _)| *line == "----").is_some() {
            while let Some((line, _)) = lines.next() {
                if line == "----" && lines.next_if(|(line, _)| *line == "----").is_some() {
                    break;
                }
                expected.push(line);
            }
        } else {
            while let Some((line, _)) = lines.next_if(|(line, _)| !line.trim().is_empty()) {
                expected.push(line);
            }
        }
        let (command, arguments) = arguments(&directive);
        steps.push(Step {
            line: number,
            command,
            arguments,
            input: input.join("\n"),
            expected: expected.join("\n"),
        });
    }
    steps
}

fn arguments(directive: &str) -> (String, Vec<Argument>) {
    let mut words: Vec<String> = Vec::new();
    let mut open = false;
    for part in directive.split_inclusive([' ', '(', ')']) {
        open = (open || part.ends_with('(')) && !part.ends_with(')');
        match words.last_mut() {
            Some(word) if !word.ends_with(' ') => word.push_str(part),
            _ => words.push(part.to_owned()),
        }
        if open && let Some(word) = words.last_mut() {
            word.truncate(word.trim_end().len());
        }
    }
    let mut words = words
        .iter()
        .map(|word| word.trim())
        .filter(|word| !word.is_empty());
    let command = words.next().expect("a command").to_owned();
    let arguments = words.map(|word| {
        let (name, values) = word.split_once('=').unwrap_or((word, ""));
        let values = values.trim_matches(['(', ')']).split(',');
        Argument {
            name: name.to_owned(),
            values: values
                .map(|value| value.trim().to_owned())
                .filter(|value| !value.is_empty())
                .collect(),
        }
    });
    (command, arguments.collect())
}

impl Step {
    /// The values of an argument.
    pub(crate) fn values(&self, name: &str) -> Option<&[String]> {
        let mut arguments = self.arguments.iter();
        let found = arguments.find(|argument| argument.name == name)?;
        Some(&found.values)
    }

    /// The arguments without values that are numbers: servers, as a rule.
    pub(crate) fn numbers(&self) -> Vec<u64> {
        let arguments = self.arguments.iter();
        let bare = arguments.filter(|argument| argument.values.is_empty());
        bare.filter_map(|argument| argument.name.parse().ok())
            .collect()
    }
}

pub(crate) fn number(text: &str) -> u64 {
    text.parse()
        .unwrap_or_else(|_| panic!("'{text}' is no number"))
}
