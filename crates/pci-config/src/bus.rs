//! Functions by bus, device and function number.

use std::collections::BTreeMap;

/// A function's configuration space as the bus sees it. Offsets are 0 to 255, or 4,095 by way of an
/// [`Ecam`](crate::Ecam).
pub trait Function {
    /// Reads at `offset`.
    fn read_config(&mut self, offset: u16, data: &mut [u8]);
    /// Writes at `offset`.
    fn write_config(&mut self, offset: u16, data: &[u8]);

    /// Reads the space of a virtual function of this one, which is at `own`; `false` if none is at `wanted`.
    fn read_virtual(&mut self, own: Bdf, wanted: Bdf, offset: u16, data: &mut [u8]) -> bool {
        let _ = (own, wanted, offset, data);
        false
    }

    /// Writes it likewise.
    fn write_virtual(&mut self, own: Bdf, wanted: Bdf, offset: u16, data: &[u8]) -> bool {
        let _ = (own, wanted, offset, data);
        false
    }
}

/// Bus, device and function number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bdf(u16);

impl Bdf {
    /// Joins the numbers; `None` when `device` is above 31 or `function` above 7.
    #[must_use]
    pub fn new(bus: u8, device: u8, function: u8) -> Option<Self> {
        let fits = device < 32 && function < 8;
        fits.then(|| Self(u16::from(bus) << 8 | u16::from(device) << 3 | u16::from(function)))
    }

    /// The requester id: bus in bits 15:8, device in 7:3, function in 2:0.
    #[must_use]
    pub fn requester_id(self) -> u16 {
        self.0
    }

    /// From a requester id.
    #[must_use]
    pub fn from_requester_id(id: u16) -> Self {
        Self(id)
    }
}

/// The place already has a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("function {:02x}:{:02x}.{} is taken", .bdf.0 >> 8, .bdf.0 >> 3 & 31, .bdf.0 & 7)]
pub struct Occupied {
    /// The place.
    pub bdf: Bdf,
}

/// The functions of a machine.
#[derive(Clone, Debug)]
pub struct Bus<F> {
    functions: BTreeMap<Bdf, F>,
}

impl<F> Default for Bus<F> {
    fn default() -> Self {
        Self {
            functions: BTreeMap::new(),
        }
    }
}

impl<F> Bus<F> {
    /// Puts a function at `bdf`.
    ///
    /// # Errors
    ///
    /// When there is one already.
    pub fn insert(&mut self, bdf: Bdf, function: F) -> Result<(), Occupied> {
        if self.functions.contains_key(&bdf) {
            return Err(Occupied { bdf });
        }
        self.functions.insert(bdf, function);
        Ok(())
    }

    /// The function at `bdf`.
    #[must_use]
    pub fn function(&self, bdf: Bdf) -> Option<&F> {
        self.functions.get(&bdf)
    }

    /// The function at `bdf`, to change.
    pub fn function_mut(&mut self, bdf: Bdf) -> Option<&mut F> {
        self.functions.get_mut(&bdf)
    }

    /// All functions in order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (Bdf, &F)> {
        self.functions
            .iter()
            .map(|(&bdf, function)| (bdf, function))
    }
}

impl<F: Function> Bus<F> {
    /// Reads configuration space; an absent function answers all ones (PCI 3.0, 6.1).
    pub fn read(&mut self, bdf: Bdf, offset: u16, data: &mut [u8]) {
        match self.functions.get_mut(&bdf) {
            Some(function) => function.read_config(offset, data),
            None => {
                let mut functions = self.functions.iter_mut();
                if !functions.any(|(&own, function)| function.read_virtual(own, bdf, offset, data))
                {
                    data.fill(0xff);
                }
            }
        }
    }

    /// Writes configuration space; an absent function ignores it.
    pub fn write(&mut self, bdf: Bdf, offset: u16, data: &[u8]) {
        match self.functions.get_mut(&bdf) {
            Some(function) => function.write_config(offset, data),
            None => {
                let mut functions = self.functions.iter_mut();
                functions.any(|(&own, function)| function.write_virtual(own, bdf, offset, data));
            }
        }
    }
}
