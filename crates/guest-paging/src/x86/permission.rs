//! Access rights (SDM 4.6), decided for every case when the control registers are set.

use super::access::{ACCESS_INDEX_COUNT, Access, AccessKind, Privilege};
use super::spec::{CR0_WP, CR4_SMAP, CR4_SMEP};
use super::translation::Attributes;

/// Which accesses are denied, by rights or by protection key.
#[derive(Clone, Debug)]
pub(super) struct Permissions {
    /// By [`Access::index`], then by rights as the low bits of [`Attributes`]: bit n is set if the
    /// access is denied to a page with key n. One look answers both questions.
    denied: [[u16; RIGHTS_COUNT]; ACCESS_INDEX_COUNT],
    /// By [`Access::index`]: bit n is set if rights n deny the access whatever the key.
    denied_by_rights: [u16; ACCESS_INDEX_COUNT],
    /// Whether CR0.WP is set.
    write_protect: bool,
}

/// PKRU and `IA32_PKRS` as far as they are in force, else zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct KeyRights {
    pub(super) user_pages: u32,
    pub(super) supervisor_pages: u32,
}

impl Permissions {
    pub(super) fn new(cr0: u64, cr4: u64, keys: KeyRights) -> Self {
        let mut permissions = Self {
            denied: [[0; RIGHTS_COUNT]; ACCESS_INDEX_COUNT],
            denied_by_rights: [0; ACCESS_INDEX_COUNT],
            write_protect: cr0 & CR0_WP != 0,
        };
        for access in Access::ALL {
            let denied = all_rights().filter(|&rights| !rights_permit(rights, access, cr0, cr4));
            permissions.denied_by_rights[access.index()] =
                denied.fold(0, |all, rights| all | 1 << rights.bits());
        }
        permissions.set_key_rights(keys);
        permissions
    }

    pub(super) fn set_key_rights(&mut self, keys: KeyRights) {
        for access in Access::ALL {
            let user_pages = self.keys_denying(keys.user_pages, access);
            let supervisor_pages = self.keys_denying(keys.supervisor_pages, access);
            let denied_by_rights = self.denied_by_rights[access.index()];
            for (rights, denied) in all_rights().zip(&mut self.denied[access.index()]) {
                *denied = if denied_by_rights >> rights.bits() & 1 != 0 {
                    ALL_KEYS
                } else if rights.contains(Attributes::USER) {
                    user_pages
                } else {
                    supervisor_pages
                };
            }
        }
    }

    /// `rights` are the low bits of [`Attributes`].
    #[inline(always)]
    pub(super) fn deny(&self, rights: u8, key: u8, access: Access) -> bool {
        let by_rights = &self.denied[access.index() % ACCESS_INDEX_COUNT];
        by_rights[usize::from(rights) % RIGHTS_COUNT] >> (key % 16) & 1 != 0
    }

    /// The keys that deny `access` where `pairs` are their rights, as a bit each (SDM 4.6.2): keys
    /// bind data accesses only, and a write-disabled key binds the supervisor only under CR0.WP.
    pub(super) fn keys_denying(&self, pairs: u32, access: Access) -> u16 {
        let disabling = match access.kind {
            AccessKind::Fetch => 0,
            AccessKind::Write if access.is_user() || self.write_protect => {
                ACCESS_DISABLE | WRITE_DISABLE
            }
            AccessKind::Read | AccessKind::Write => ACCESS_DISABLE,
        };
        if pairs == 0 || disabling == 0 {
            return 0;
        }
        (0..16)
            .filter(|key| pairs >> (2 * key) & disabling != 0)
            .fold(0, |all, key| all | 1 << key)
    }
}

fn all_rights() -> impl Iterator<Item = Attributes> {
    (0..1 << 4).map(Attributes::from_bits_retain)
}

/// SDM 4.6.1. Without NXE no entry that passes lacks [`Attributes::EXECUTE`].
fn rights_permit(rights: Attributes, access: Access, cr0: u64, cr4: u64) -> bool {
    let user_page = rights.contains(Attributes::USER);
    let kind_permitted = match access.kind {
        AccessKind::Read => true,
        AccessKind::Write => {
            rights.contains(Attributes::WRITE) || !access.is_user() && cr0 & CR0_WP == 0
        }
        AccessKind::Fetch => rights.contains(Attributes::EXECUTE),
    };
    let page_permitted = match (access.privilege, access.kind) {
        (Privilege::User, _) => user_page,
        (_, AccessKind::Fetch) => !user_page || cr4 & CR4_SMEP == 0,
        (Privilege::Supervisor, _) => !user_page || cr4 & CR4_SMAP == 0 || access.ac,
        (Privilege::ImplicitSupervisor, _) => !user_page || cr4 & CR4_SMAP == 0,
    };
    kind_permitted && page_permitted
}

/// All combinations of the rights in [`Attributes`]; bit 1 is unused.
const RIGHTS_COUNT: usize = 1 << 4;
const ALL_KEYS: u16 = u16::MAX;
// A key's pair in PKRU, SDM 4.6.2.
const ACCESS_DISABLE: u32 = 1 << 0;
const WRITE_DISABLE: u32 = 1 << 1;
