//! How the rings of virtqueues are reached: their places are looked up once, or through the remapping unit at
//! each access, since the driver may lead them elsewhere at any time.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use virtqueue::{ActiveConfig, Area, ConfigError, Fault, GuestRing, HostRing, RawDescriptor, Ring};

use super::dma::Dma;
use crate::kernel::Ram;

/// What rings are made over.
#[derive(Clone, Debug)]
pub(super) enum RingMemory {
    /// Memory as it is.
    Plain(Arc<Ram>),
    /// Memory behind the remapping unit.
    Translated(Rc<Dma>),
}

impl RingMemory {
    pub(super) fn ring(&self, config: &ActiveConfig) -> Result<AnyRing, ConfigError> {
        Ok(match self {
            Self::Plain(ram) => AnyRing::Plain(HostRing::new(config, Arc::clone(ram))?),
            Self::Translated(memory) => {
                AnyRing::Translated(GuestRing::new(config, Rc::clone(memory)))
            }
        })
    }
}

/// A ring of either kind.
#[derive(Debug)]
pub(super) enum AnyRing {
    Plain(HostRing<Arc<Ram>>),
    Translated(GuestRing<Rc<Dma>>),
}

macro_rules! either {
    ($self:ident, $ring:ident => $call:expr) => {
        match $self {
            Self::Plain($ring) => $call,
            Self::Translated($ring) => $call,
        }
    };
}

impl Ring for AnyRing {
    #[inline]
    fn load_u16(&self, area: Area, index: usize, order: Ordering) -> Result<u16, Fault> {
        either!(self, ring => ring.load_u16(area, index, order))
    }

    #[inline]
    fn load_u32(&self, area: Area, index: usize, order: Ordering) -> Result<u32, Fault> {
        either!(self, ring => ring.load_u32(area, index, order))
    }

    #[inline]
    fn load_u64(&self, area: Area, index: usize, order: Ordering) -> Result<u64, Fault> {
        either!(self, ring => ring.load_u64(area, index, order))
    }

    #[inline]
    fn store_u16(&self, area: Area, index: usize, value: u16, o: Ordering) -> Result<(), Fault> {
        either!(self, ring => ring.store_u16(area, index, value, o))
    }

    #[inline]
    fn store_u32(&self, area: Area, index: usize, value: u32, o: Ordering) -> Result<(), Fault> {
        either!(self, ring => ring.store_u32(area, index, value, o))
    }

    #[inline]
    fn store_u64(&self, area: Area, index: usize, value: u64, o: Ordering) -> Result<(), Fault> {
        either!(self, ring => ring.store_u64(area, index, value, o))
    }

    #[inline]
    fn fence(&self) -> Result<(), Fault> {
        either!(self, ring => ring.fence())
    }

    fn read_table(&self, table: u64, into: &mut [RawDescriptor]) -> Result<(), Fault> {
        either!(self, ring => ring.read_table(table, into))
    }

    fn write_table(&self, table: u64, from: &[RawDescriptor]) -> Result<(), Fault> {
        either!(self, ring => ring.write_table(table, from))
    }
}
