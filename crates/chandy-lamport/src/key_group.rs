//! Key groups: the pieces in which keyed state moves between tasks when their number changes.

use core::ops::Range;

use twox_hash::XxHash3_64;

/// How many key groups a job has. It never changes; how many tasks share them does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyGroups(u32);

impl KeyGroups {
    /// The most there can be.
    pub const MAX: u32 = 32_768;

    /// This many, of 1 to [`MAX`](Self::MAX).
    #[must_use]
    pub fn new(count: u32) -> Option<Self> {
        (1..=Self::MAX).contains(&count).then_some(Self(count))
    }

    /// How many.
    #[must_use]
    pub fn count(self) -> u32 {
        self.0
    }

    /// The group of a key.
    #[must_use]
    pub fn of(self, key: &[u8]) -> u32 {
        self.of_hash(XxHash3_64::oneshot(key))
    }

    /// The group of a key with this hash. Its upper half decides, so tables may use the lower one.
    #[must_use]
    pub fn of_hash(self, hash: u64) -> u32 {
        let scaled = ((hash >> 32) * u64::from(self.0)) >> 32;
        u32::try_from(scaled).unwrap_or(0)
    }

    /// The groups of one of so many tasks: as even as can be, all of them, each once.
    ///
    /// # Panics
    ///
    /// If `tasks` is 0 or there is no such task.
    #[must_use]
    pub fn range(self, task: u32, tasks: u32) -> Range<u32> {
        assert!(task < tasks, "task {task} of {tasks}");
        let start = |task: u32| {
            let start = u64::from(task) * u64::from(self.0) / u64::from(tasks);
            u32::try_from(start).unwrap_or(self.0)
        };
        start(task)..start(task + 1)
    }

    /// The task that has a group, of so many.
    ///
    /// # Panics
    ///
    /// If `tasks` is 0 or there is no such group.
    #[must_use]
    pub fn owner(self, group: u32, tasks: u32) -> u32 {
        assert!(group < self.0 && tasks > 0, "group {group}, {tasks} tasks");
        let owner = ((u64::from(group) + 1) * u64::from(tasks) - 1) / u64::from(self.0);
        u32::try_from(owner).unwrap_or(tasks - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_has_the_one_owner_whose_range_it_is_in() {
        for count in [1, 2, 7, 128, 1_000] {
            let groups = KeyGroups::new(count).unwrap();
            for tasks in 1..=20 {
                let mut next = 0;
                for task in 0..tasks {
                    let range = groups.range(task, tasks);
                    assert_eq!(range.start, next);
                    next = range.end;
                    for group in range {
                        assert_eq!(groups.owner(group, tasks), task);
                    }
                }
                assert_eq!(next, count);
            }
        }
    }

    #[test]
    fn there_are_1_to_32768() {
        assert_eq!(KeyGroups::new(0), None);
        assert_eq!(KeyGroups::new(KeyGroups::MAX + 1), None);
        let all = KeyGroups::new(KeyGroups::MAX).unwrap();
        assert_eq!(all.of_hash(u64::MAX), KeyGroups::MAX - 1);
        assert_eq!(all.of_hash(0), 0);
    }
}
