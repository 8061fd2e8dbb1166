//! Access rights (SDM 4.6), decided for every case when the control registers are set.

use super::access::{ACCESS_INDEX_COUNT, Access, AccessKind, Privilege};
use super::spec::{CR0_WP, CR4_SMAP, CR4_SMEP};
use super::translation::Attributes;

/// What the page's rights and its protection key forbid, per kind of access.
#[derive(Clone, Debug)]
pub(super) struct Permissions {
    /// By [`Access::index`]: bit n is set if rights n, as [`Attributes`] bits, deny the access.
    denied: [u16; ACCESS_INDEX_COUNT],
    /// By [`Access::index`]: the bits of a key's pair in PKRU that deny the access.
    key_denied: [u8; ACCESS_INDEX_COUNT],
}

impl Permissions {
    pub(super) fn new(cr0: u64, cr4: u64) -> Self {
        let mut permissions = Self {
            denied: [0; ACCESS_INDEX_COUNT],
            key_denied: [0; ACCESS_INDEX_COUNT],
        };
        for access in Access::ALL {
            let denied = (0..=RIGHTS_MAX).filter(|&bits| {
                !rights_permit(Attributes::from_bits_retain(bits), access, cr0, cr4)
            });
            permissions.denied[access.index()] = denied.fold(0, |all, bits| all | 1 << bits);
            permissions.key_denied[access.index()] = key_denied(access, cr0);
        }
        permissions
    }

    /// `rights` are the low bits of [`Attributes`].
    #[inline]
    pub(super) fn deny(&self, rights: u8, access: Access) -> bool {
        self.denied[access.index()] >> (rights & RIGHTS_MAX) & 1 != 0
    }

    /// `key_rights` is the key's pair in PKRU or `IA32_PKRS`: access-disable, write-disable.
    #[inline]
    pub(super) fn key_denies(&self, key_rights: u8, access: Access) -> bool {
        self.key_denied[access.index()] & key_rights != 0
    }
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

/// SDM 4.6.2: keys bind data accesses only, and a write-disabled key binds the supervisor only
/// under CR0.WP.
fn key_denied(access: Access, cr0: u64) -> u8 {
    match access.kind {
        AccessKind::Fetch => 0,
        AccessKind::Write if access.is_user() || cr0 & CR0_WP != 0 => {
            ACCESS_DISABLE | WRITE_DISABLE
        }
        AccessKind::Read | AccessKind::Write => ACCESS_DISABLE,
    }
}

/// All rights of [`Attributes`]; bit 1 is unused.
const RIGHTS_MAX: u8 = 0b1111;
const ACCESS_DISABLE: u8 = 1 << 0;
const WRITE_DISABLE: u8 = 1 << 1;
