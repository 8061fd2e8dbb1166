//! How a device's interrupts are told of.

use crate::message::SetIrqs;
use crate::reply::IrqInfo;

/// The interrupts of one device. `F` is an event descriptor, which this crate only keeps.
#[derive(Debug)]
pub struct Interrupts<F> {
    kinds: Vec<Kind<F>>,
}

#[derive(Debug)]
struct Kind<F> {
    info: IrqInfo,
    vectors: Vec<Vector<F>>,
}

#[derive(Debug)]
struct Vector<F> {
    event: Option<F>,
    masked: bool,
    /// Raised while it was masked.
    pending: bool,
}

/// What a request for interrupts leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterruptAction {
    /// Interrupts of this kind are told of otherwise than before, or may be told of again: a device whose level
    /// is up tells of it now, and what [`Interrupts::take_pending`] answers is told of.
    Changed {
        /// The kind.
        index: u32,
    },
    /// Raise these as if the device had.
    Raise {
        /// The kind.
        index: u32,
        /// Which.
        vectors: Vec<u32>,
    },
}

/// Why interrupts cannot be set so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IrqError {
    /// The device has no such interrupts.
    #[error("interrupts {start} and {count} from there of kind {index} do not exist")]
    Range {
        /// The kind.
        index: u32,
        /// The first.
        start: u32,
        /// How many.
        count: u32,
    },
    /// Not one action with one kind of data.
    #[error("flags {flags:#x} are no action with its data")]
    Flags {
        /// All flags.
        flags: u32,
    },
    /// This kind is never held back.
    #[error("interrupts of kind {index} are not masked")]
    Unmaskable {
        /// The kind.
        index: u32,
    },
}

/// The data of a request, which its flags and its descriptors say.
#[derive(Debug)]
enum Data<F> {
    /// None.
    None,
    /// A byte for each.
    Bools(Vec<u8>),
    /// A descriptor for each.
    Events(Vec<F>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Mask,
    Unmask,
    Trigger,
}

impl<F> Interrupts<F> {
    pub(crate) fn new(kinds: &[IrqInfo]) -> Self {
        let vector = || Vector {
            event: None,
            masked: false,
            pending: false,
        };
        let kind = |&info: &IrqInfo| Kind {
            info,
            vectors: (0..info.count).map(|_| vector()).collect(),
        };
        Self {
            kinds: kinds.iter().map(kind).collect(),
        }
    }

    /// Whether anybody is told of this kind.
    #[must_use]
    pub fn is_enabled(&self, index: u32) -> bool {
        self.kind(index)
            .is_some_and(|kind| kind.vectors.iter().any(|vector| vector.event.is_some()))
    }

    /// The device raises an interrupt: the event to signal, unless nobody is told, or it is held back until
    /// it is unmasked.
    ///
    /// The pin is a level: call this whenever it is up, and it is told of once for each unmasking.
    pub fn raise(&mut self, index: u32, vector: u32) -> Option<&F> {
        let kind = self.kinds.get_mut(usize::try_from(index).ok()?)?;
        let automasked = kind.info.automasked;
        let vector = kind.vectors.get_mut(usize::try_from(vector).ok()?)?;
        if vector.masked {
            // A level that is still up then is told of by whoever looks at it then.
            vector.pending |= !automasked && vector.event.is_some();
            return None;
        }
        vector.masked = automasked && vector.event.is_some();
        vector.event.as_ref()
    }

    /// An interrupt that was raised while it was masked and is not any more; ask until `None`.
    pub fn take_pending(&mut self, index: u32) -> Option<&F> {
        let kind = self.kinds.get_mut(usize::try_from(index).ok()?)?;
        let mut vectors = kind.vectors.iter_mut();
        let vector = vectors.find(|vector| vector.pending && !vector.masked)?;
        vector.pending = false;
        vector.event.as_ref()
    }

    /// Forgets all events and masks.
    pub(crate) fn reset(&mut self) {
        for vector in self.kinds.iter_mut().flat_map(|kind| &mut kind.vectors) {
            vector.clear();
        }
    }

    pub(crate) fn info(&self, index: u32) -> Option<IrqInfo> {
        self.kind(index).map(|kind| kind.info)
    }

    /// Does what is asked; nothing has changed after an error.
    pub(crate) fn set(
        &mut self,
        irqs: &SetIrqs,
        descriptors: Vec<F>,
    ) -> Result<InterruptAction, IrqError> {
        let &SetIrqs {
            index,
            start,
            count,
            flags,
            ..
        } = irqs;
        let (action, data) = split(irqs, descriptors)?;
        let range = IrqError::Range {
            index,
            start,
            count,
        };
        let kind = usize::try_from(index).ok();
        let kind = kind
            .and_then(|index| self.kinds.get_mut(index))
            .ok_or(range)?;
        let end = start
            .checked_add(count)
            .filter(|&end| end <= kind.info.count);
        let (Some(end), true) = (end, start < kind.info.count) else {
            return Err(range);
        };
        if action != Action::Trigger && !kind.info.maskable {
            return Err(IrqError::Unmaskable { index });
        }
        let numbers = start..end;
        match (action, data) {
            (Action::Trigger, Data::Events(events)) => {
                for (number, event) in numbers.zip(events) {
                    let vector = &mut kind.vectors[number as usize];
                    vector.clear();
                    vector.event = Some(event);
                }
            }
            (Action::Trigger, Data::None) if count == 0 => {
                kind.vectors.iter_mut().for_each(Vector::clear);
            }
            (Action::Trigger, data) => {
                let vectors = chosen(numbers, &data);
                return Ok(InterruptAction::Raise { index, vectors });
            }
            // The pin's own way back to life by an event belongs to kernels.
            (_, Data::Events(_)) => return Err(IrqError::Flags { flags }),
            (action, data) => {
                for number in chosen(numbers, &data) {
                    kind.vectors[number as usize].masked = action == Action::Mask;
                }
            }
        }
        Ok(InterruptAction::Changed { index })
    }

    fn kind(&self, index: u32) -> Option<&Kind<F>> {
        self.kinds.get(usize::try_from(index).ok()?)
    }
}

impl<F> Vector<F> {
    fn clear(&mut self) {
        *self = Self {
            event: None,
            masked: false,
            pending: false,
        };
    }
}

fn split<F>(irqs: &SetIrqs, descriptors: Vec<F>) -> Result<(Action, Data<F>), IrqError> {
    let flags = irqs.flags;
    let data = match flags & DATA {
        SetIrqs::NONE => Data::None,
        SetIrqs::BOOL => Data::Bools(irqs.bools.clone()),
        SetIrqs::EVENTFD => Data::Events(descriptors),
        _ => return Err(IrqError::Flags { flags }),
    };
    let action = match flags & !DATA {
        SetIrqs::MASK => Action::Mask,
        SetIrqs::UNMASK => Action::Unmask,
        SetIrqs::TRIGGER => Action::Trigger,
        _ => return Err(IrqError::Flags { flags }),
    };
    Ok((action, data))
}

/// The numbers that the data picks: all of them, unless a byte says no.
fn chosen<F>(numbers: std::ops::Range<u32>, data: &Data<F>) -> Vec<u32> {
    match data {
        Data::Bools(bools) => numbers
            .zip(bools)
            .filter_map(|(number, &yes)| (yes != 0).then_some(number))
            .collect(),
        _ => numbers.collect(),
    }
}

const DATA: u32 = SetIrqs::NONE | SetIrqs::BOOL | SetIrqs::EVENTFD;

#[cfg(test)]
mod tests {
    use super::*;

    const PIN: u32 = 0;
    const MSI: u32 = 1;

    fn interrupts() -> Interrupts<u8> {
        let pin = IrqInfo {
            index: PIN,
            eventfd: true,
            maskable: true,
            automasked: true,
            count: 1,
        };
        let msi = IrqInfo {
            index: MSI,
            automasked: false,
            count: 4,
            ..pin
        };
        let absent = IrqInfo {
            index: 2,
            count: 0,
            ..msi
        };
        Interrupts::new(&[pin, msi, absent])
    }

    fn set(
        interrupts: &mut Interrupts<u8>,
        index: u32,
        range: (u32, u32),
        flags: u32,
        events: &[u8],
    ) -> Result<InterruptAction, IrqError> {
        let irqs = SetIrqs {
            index,
            start: range.0,
            count: range.1,
            flags,
            bools: Vec::new(),
        };
        interrupts.set(&irqs, events.to_vec())
    }

    const EVENTS: u32 = SetIrqs::EVENTFD | SetIrqs::TRIGGER;

    #[test]
    fn a_pin_is_told_of_once_for_each_unmasking() {
        let mut interrupts = interrupts();
        assert_eq!(interrupts.raise(PIN, 0), None, "nobody is told");
        set(&mut interrupts, PIN, (0, 1), EVENTS, &[7]).unwrap();
        assert!(interrupts.is_enabled(PIN));
        assert_eq!(interrupts.raise(PIN, 0), Some(&7));
        assert_eq!(interrupts.raise(PIN, 0), None);
        let flags = SetIrqs::NONE | SetIrqs::UNMASK;
        let changed = set(&mut interrupts, PIN, (0, 1), flags, &[]);
        assert_eq!(changed, Ok(InterruptAction::Changed { index: PIN }));
        assert_eq!(interrupts.take_pending(PIN), None, "the level decides");
        assert_eq!(interrupts.raise(PIN, 0), Some(&7));
    }

    #[test]
    fn a_masked_message_is_told_of_when_it_is_unmasked() {
        let mut interrupts = interrupts();
        set(&mut interrupts, MSI, (1, 2), EVENTS, &[5, 6]).unwrap();
        set(
            &mut interrupts,
            MSI,
            (2, 1),
            SetIrqs::NONE | SetIrqs::MASK,
            &[],
        )
        .unwrap();
        assert_eq!(interrupts.raise(MSI, 1), Some(&5));
        assert_eq!(interrupts.raise(MSI, 1), Some(&5), "messages are edges");
        assert_eq!(interrupts.raise(MSI, 2), None);
        assert_eq!(interrupts.raise(MSI, 0), None, "without an event");
        set(
            &mut interrupts,
            MSI,
            (2, 1),
            SetIrqs::NONE | SetIrqs::UNMASK,
            &[],
        )
        .unwrap();
        assert_eq!(interrupts.take_pending(MSI), Some(&6));
        assert_eq!(interrupts.take_pending(MSI), None);
    }

    #[test]
    fn no_interrupts_from_zero_on_switches_a_kind_off() {
        let mut interrupts = interrupts();
        set(&mut interrupts, MSI, (0, 2), EVENTS, &[5, 6]).unwrap();
        let off = SetIrqs::NONE | SetIrqs::TRIGGER;
        set(&mut interrupts, MSI, (0, 0), off, &[]).unwrap();
        assert!(!interrupts.is_enabled(MSI));
        assert_eq!(interrupts.raise(MSI, 0), None);
    }

    #[test]
    fn a_client_may_raise_interrupts_itself() {
        let mut interrupts = interrupts();
        let irqs = SetIrqs {
            index: MSI,
            start: 1,
            count: 3,
            flags: SetIrqs::BOOL | SetIrqs::TRIGGER,
            bools: vec![1, 0, 1],
        };
        let raise = InterruptAction::Raise {
            index: MSI,
            vectors: vec![1, 3],
        };
        assert_eq!(interrupts.set(&irqs, vec![]), Ok(raise));
    }

    #[test]
    fn ranges_past_the_end_are_refused() {
        let mut interrupts = interrupts();
        for (index, start, count) in [
            (PIN, 0, 2),
            (PIN, 1, 0),
            (MSI, 3, u32::MAX),
            (2, 0, 0),
            (3, 0, 1),
            (u32::MAX, 0, 1),
        ] {
            let flags = SetIrqs::NONE | SetIrqs::TRIGGER;
            let refused = set(&mut interrupts, index, (start, count), flags, &[]);
            let range = IrqError::Range {
                index,
                start,
                count,
            };
            assert_eq!(refused, Err(range));
        }
    }

    #[test]
    fn flags_are_one_action_with_one_kind_of_data() {
        let mut interrupts = interrupts();
        for flags in [
            0,
            SetIrqs::NONE,
            SetIrqs::TRIGGER,
            SetIrqs::NONE | SetIrqs::BOOL | SetIrqs::TRIGGER,
            SetIrqs::NONE | SetIrqs::MASK | SetIrqs::UNMASK,
            SetIrqs::NONE | SetIrqs::TRIGGER | 1 << 6,
            SetIrqs::EVENTFD | SetIrqs::UNMASK,
        ] {
            let refused = set(&mut interrupts, PIN, (0, 1), flags, &[1]);
            assert_eq!(refused, Err(IrqError::Flags { flags }));
        }
    }
}
