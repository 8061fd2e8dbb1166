//! The queues of one device, from reset to `DRIVER_OK` and back.

use crate::{ActiveConfig, Config, ConfigError, DeviceQueue, Ring};

/// Queues that are configured, then run, then reset; never two of these at once.
///
/// A queue that does not run is not there: a kick for it finds nothing. One that runs has no
/// configuration to write to.
#[derive(Debug)]
pub struct QueueSet<R> {
    slots: Vec<Slot<R>>,
}

#[derive(Debug)]
enum Slot<R> {
    Configuring(Option<Config>),
    Running(DeviceQueue<R>),
}

impl<R: Ring> QueueSet<R> {
    /// `count` queues after reset.
    #[must_use]
    pub fn new(count: u16) -> Self {
        Self {
            slots: (0..count).map(|_| Slot::Configuring(None)).collect(),
        }
    }

    /// Sets what queue `index` is to be. `false`, and nothing changes, when there is no such queue or
    /// it runs already.
    #[must_use]
    pub fn configure(&mut self, index: u16, config: Config) -> bool {
        match self.slots.get_mut(usize::from(index)) {
            Some(Slot::Configuring(slot)) => {
                *slot = Some(config);
                true
            }
            _ => false,
        }
    }

    /// Starts all queues that were configured, as `DRIVER_OK` does. Those that run go on.
    ///
    /// # Errors
    ///
    /// Names the queue and its broken rule; those before it run then.
    pub fn start(
        &mut self,
        mut make_ring: impl FnMut(&ActiveConfig) -> Result<R, ConfigError>,
    ) -> Result<(), (u16, ConfigError)> {
        for (index, slot) in (0..).zip(&mut self.slots) {
            let Slot::Configuring(Some(config)) = slot else {
                continue;
            };
            let started = config.activate().and_then(|config| {
                let ring = make_ring(&config)?;
                Ok(DeviceQueue::new(&config, ring))
            });
            *slot = Slot::Running(started.map_err(|error| (index, error))?);
        }
        Ok(())
    }

    /// The queue that a kick names, if it runs. The index is whatever the driver wrote.
    pub fn running(&mut self, index: u32) -> Option<&mut DeviceQueue<R>> {
        match self.slots.get_mut(usize::try_from(index).ok()?)? {
            Slot::Running(queue) => Some(queue),
            Slot::Configuring(_) => None,
        }
    }

    /// How many queues there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.slots.len()
    }

    /// Forgets all queues, as a reset of the device does.
    pub fn reset(&mut self) {
        for slot in &mut self.slots {
            *slot = Slot::Configuring(None);
        }
    }
}
