//! What an access asks for.

/// One access to a linear address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    /// What is done.
    pub kind: AccessKind,
    /// On whose behalf.
    pub privilege: Privilege,
    /// EFLAGS.AC. Lifts SMAP for [`Privilege::Supervisor`] data accesses and means nothing else.
    pub ac: bool,
}

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum AccessKind {
    /// A data read.
    Read = 0,
    /// A data write. A read-modify-write counts as a write alone.
    Write = 1,
    /// An instruction fetch.
    Fetch = 2,
}

/// On whose behalf an access is made (SDM 4.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Privilege {
    /// A user-mode access: explicit, with CPL 3.
    User = 0,
    /// An explicit supervisor-mode access: CPL below 3.
    Supervisor = 1,
    /// An implicit supervisor-mode access, whatever the CPL: to the GDT, LDT, IDT or a TSS.
    ImplicitSupervisor = 2,
}

impl Access {
    /// Every access, with EFLAGS.AC clear and set.
    pub const ALL: [Self; 18] = Self::all();

    /// An access with EFLAGS.AC clear.
    #[inline(always)]
    pub const fn new(kind: AccessKind, privilege: Privilege) -> Self {
        Self {
            kind,
            privilege,
            ac: false,
        }
    }

    /// The same access with EFLAGS.AC as given.
    #[inline(always)]
    pub const fn with_ac(self, ac: bool) -> Self {
        Self { ac, ..self }
    }

    /// Whether this is a user-mode access.
    #[inline(always)]
    pub fn is_user(self) -> bool {
        self.privilege == Privilege::User
    }

    /// Index into tables over all accesses that differ in what they may do: below
    /// [`ACCESS_INDEX_COUNT`].
    #[inline(always)]
    pub(crate) fn index(self) -> usize {
        // An explicit access with AC set takes the place of its own; AC changes no other.
        let class = if self.privilege == Privilege::Supervisor && self.ac {
            3
        } else {
            self.privilege as usize
        };
        class * 4 + self.kind as usize
    }

    const fn all() -> [Self; 18] {
        let kinds = [AccessKind::Read, AccessKind::Write, AccessKind::Fetch];
        let privileges = [
            Privilege::User,
            Privilege::Supervisor,
            Privilege::ImplicitSupervisor,
        ];
        let mut all = [Self::new(AccessKind::Read, Privilege::User); 18];
        let mut i = 0;
        while i < all.len() {
            all[i] = Self::new(kinds[i % 3], privileges[i / 3 % 3]).with_ac(i >= 9);
            i += 1;
        }
        all
    }
}

/// How many values [`Access::index`] can take; a power of two.
pub(crate) const ACCESS_INDEX_COUNT: usize = 16;
