//! The text file that describes tables.

use guest_paging::ept;
use guest_paging::npt;
use guest_paging::x86::{AccessKind, Context, Processor, Registers, Vendor};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// What a file says.
#[derive(Debug)]
pub(crate) struct Tables {
    pub(crate) guest: Context,
    pub(crate) stages: Vec<Stage>,
    pub(crate) gva: u64,
    pub(crate) kind: AccessKind,
    pub(crate) memory: GuestMemoryMmap,
}

#[derive(Debug)]
pub(crate) enum Stage {
    Ept(Box<ept::Context>),
    Npt(Box<npt::Context>),
}

/// Where a file is wrong, and why. Lines and columns count from 1.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {reason}")]
pub(crate) struct Wrong {
    pub(crate) line: usize,
    pub(crate) column: usize,
    reason: String,
}

/// A word and where it begins.
#[derive(Clone, Copy)]
struct Word<'t> {
    text: &'t str,
    line: usize,
    column: usize,
}

impl Word<'_> {
    fn wrong(&self, reason: impl Into<String>) -> Wrong {
        Wrong {
            line: self.line,
            column: self.column,
            reason: reason.into(),
        }
    }

    fn number(&self) -> Result<u64, Wrong> {
        let parsed = match self.text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => self.text.parse(),
        };
        parsed.map_err(|_| self.wrong(format!("'{}' is not a number", self.text)))
    }
}

#[derive(Default)]
struct Draft<'t> {
    stages: Vec<(Word<'t>, u64)>,
    walk: Option<(u64, AccessKind)>,
}

pub(crate) fn parse(text: &str) -> Result<Tables, Wrong> {
    let memory =
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("16 MiB can be mapped");
    let mut draft = Draft::default();
    let mut end = 1;
    for (line, content) in (1..).zip(text.lines()) {
        end = line;
        let words = words(line, content);
        if let Some(first) = words.first() {
            statement(&mut draft, &memory, *first, &words[1..])?;
        }
    }
    let missing = |reason: &str| Wrong {
        line: end,
        column: 1,
        reason: reason.to_owned(),
    };
    let (gva, kind) = draft.walk.ok_or_else(|| missing("no 'walk' in the file"))?;
    let (&(format, root), stages) = draft
        .stages
        .split_first()
        .ok_or_else(|| missing("no 'stage' in the file"))?;
    let registers =
        x86(format.text, root).ok_or_else(|| format.wrong("the guest cannot use this format"))?;
    Ok(Tables {
        guest: Context::new(&PROCESSOR, &registers),
        stages: stages
            .iter()
            .map(|(format, root)| stage(*format, *root))
            .collect::<Result<_, _>>()?,
        gva,
        kind,
        memory,
    })
}

fn words(line: usize, content: &str) -> Vec<Word<'_>> {
    let content = content.split('#').next().unwrap_or_default();
    content
        .split_whitespace()
        .map(|text| Word {
            text,
            line,
            // `text` is a part of `content`, so this is its offset in bytes.
            column: content[..text.as_ptr() as usize - content.as_ptr() as usize]
                .chars()
                .count()
                + 1,
        })
        .collect()
}

fn statement<'t>(
    draft: &mut Draft<'t>,
    memory: &GuestMemoryMmap,
    name: Word<'t>,
    arguments: &[Word<'t>],
) -> Result<(), Wrong> {
    let [one, two] = arguments else {
        return Err(match arguments.get(2) {
            Some(extra) => extra.wrong("one word too many"),
            None => name.wrong(format!("'{}' needs two words after it", name.text)),
        });
    };
    match name.text {
        "stage" if draft.stages.len() == DIMENSIONS_MAX => {
            return Err(name.wrong(format!("more than {DIMENSIONS_MAX} stages")));
        }
        "stage" => draft.stages.push((*one, two.number()?)),
        "walk" if draft.walk.is_some() => return Err(name.wrong("a second 'walk'")),
        "walk" => draft.walk = Some((one.number()?, kind(two)?)),
        "entry32" => {
            let value = u32::try_from(two.number()?).map_err(|_| two.wrong("more than 32 bits"))?;
            let at = GuestAddress(aligned(one, 4)?);
            memory
                .write_obj(value, at)
                .map_err(|_| one.wrong("not below 16 MiB"))?;
        }
        "entry64" => {
            let at = GuestAddress(aligned(one, 8)?);
            memory
                .write_obj(two.number()?, at)
                .map_err(|_| one.wrong("not below 16 MiB"))?;
        }
        other => {
            return Err(name.wrong(format!(
                "'{other}' is not one of stage, walk, entry32, entry64"
            )));
        }
    }
    Ok(())
}

fn aligned(word: &Word<'_>, size: u64) -> Result<u64, Wrong> {
    let address = word.number()?;
    if address.is_multiple_of(size) {
        Ok(address)
    } else {
        Err(word.wrong(format!("not a multiple of {size}")))
    }
}

fn kind(word: &Word<'_>) -> Result<AccessKind, Wrong> {
    match word.text {
        "read" => Ok(AccessKind::Read),
        "write" => Ok(AccessKind::Write),
        "fetch" => Ok(AccessKind::Fetch),
        _ => Err(word.wrong("not one of read, write, fetch")),
    }
}

fn stage(format: Word<'_>, root: u64) -> Result<Stage, Wrong> {
    let levels = match format.text {
        "ept4" => 4,
        "ept5" => 5,
        other => {
            let registers = x86(other, root)
                .ok_or_else(|| format.wrong("not one of legacy, 4-level, 5-level, ept4, ept5"))?;
            return Ok(Stage::Npt(Box::new(npt::Context::new(
                &PROCESSOR, &registers,
            ))));
        }
    };
    let eptp = root & !0xfff | (levels - 1) << 3 | 1 << 6;
    Ok(Stage::Ept(Box::new(ept::Context::new(&CAPABILITIES, eptp))))
}

fn x86(format: &str, root: u64) -> Option<Registers> {
    let (cr4, efer) = match format {
        "legacy" => (0, 0),
        "4-level" => (1 << 5, 0xd00),
        "5-level" => (1 << 5 | 1 << 12, 0xd00),
        _ => return None,
    };
    Some(Registers {
        cr0: 1 << 31 | 1 << 16 | 1,
        cr3: root,
        cr4,
        efer,
        ..Registers::default()
    })
}

const MEMORY: usize = 16 << 20;
const DIMENSIONS_MAX: usize = 4;
const PROCESSOR: Processor = Processor {
    vendor: Vendor::Intel,
    maxphyaddr: 46,
    gib_pages: true,
    pse36: true,
};
const CAPABILITIES: ept::Capabilities = ept::Capabilities {
    maxphyaddr: 46,
    execute_only: true,
    mib_pages: true,
    gib_pages: true,
    mode_based_execute: false,
};

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_wrong_word_is_found_by_line_and_column() {
        for (text, line, column) in [
            ("stage legacy 0x1000\n  walk 0x10 jump", 2, 13),
            ("entry32 0x1001 0", 1, 9),
            ("entry32 0x1000 0x100000000", 1, 16),
            ("entry64 0x1000000 0", 1, 9),
            ("stage ept4 0\nwalk 0 read", 1, 7),
            ("walk 0 read # but no stage", 1, 1),
            ("\u{fc}\u{fc} 1 zwei", 1, 1),
            ("stage 4-level 0 more", 1, 17),
        ] {
            let wrong = parse(text).unwrap_err();
            assert_eq!(
                (wrong.line, wrong.column),
                (line, column),
                "{text}: {wrong}"
            );
        }
    }
}
