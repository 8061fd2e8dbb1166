//! Lai and Yang 1987: messages carry the colour of their sender, so channels need not keep their order. That all
//! messages from before the cut have come is known by counting them (Mattern 1993, section 4).

use crate::mutation::broken;
use crate::{Channel, Output, Place, Process, SnapshotId, StepError};

impl<M: Clone> Process<M> {
    /// A message from after its sender's cut must not be received before one's own.
    pub(crate) fn deliver_coloured(&mut self, from: Channel, colour: SnapshotId, message: M) {
        if colour > self.colour && !broken!(self.options, IgnoreColour) && !self.known(colour) {
            self.begin(colour);
        }
        self.colour = self.colour.max(colour);
        self.inputs[from].received += 1;
        for (&id, cut) in &mut self.cuts {
            if colour >= id {
                continue;
            }
            if let Some(count) = cut.counts.get_mut(&from) {
                count.received += 1;
            }
            if !broken!(self.options, ForgetChannels) {
                self.to_do.push_back(Output::Record {
                    id,
                    place: Place::In(from),
                    message: message.clone(),
                });
            }
        }
        self.complete_counted(from);
        self.to_do.push_back(Output::Deliver { from, message });
    }

    /// A sender says how much it sent before its cut.
    pub(crate) fn counted(
        &mut self,
        from: Channel,
        id: SnapshotId,
        sent: u64,
    ) -> Result<(), StepError> {
        let input = &self.inputs[from];
        let sent = sent.saturating_add(input.restored);
        let cut = self.cuts.get(&id);
        let count = cut.and_then(|cut| cut.counts.get(&from));
        let received = count.map_or(input.received, |count| count.received);
        if self.finished.contains(id) && cut.is_none() {
            return Ok(());
        }
        if cut.is_none() && id < self.colour {
            // Something from after a later cut has been received: this one would not be consistent.
            self.decline(id);
            return Ok(());
        }
        if sent < received && !broken!(self.options, IgnoreColour) {
            return Err(StepError::Count {
                from,
                sent,
                received,
            });
        }
        if cut.is_none() {
            self.begin(id);
        }
        if let Some(cut) = self.cuts.get_mut(&id) {
            cut.counts.entry(from).or_default().sent = Some(sent);
        }
        self.complete_counted(from);
        Ok(())
    }

    fn complete_counted(&mut self, from: Channel) {
        let ignore = broken!(self.options, IgnoreCount);
        let ids: alloc::vec::Vec<_> = self.cuts.keys().copied().collect();
        for id in ids {
            let counts = self.cuts.get(&id).and_then(|cut| cut.counts.get(&from));
            let all = |count: &crate::cut::Count| {
                count.sent == Some(count.received) || (ignore && count.sent.is_some())
            };
            if counts.is_some_and(all) {
                self.came(from, id);
            }
        }
    }
}
