//! From a requester to the paging structures it is to use: root, context and PASID tables (VT-d chapter 3
//! and 9.1 to 9.6).

use guest_paging::vtd::{Capabilities as StageCapabilities, Context as SecondStage, FirstStage};
use guest_paging::{Gpa, TableMemory, x86};

use crate::capabilities::{Capabilities, Features};
use crate::fault::Reason;
use crate::ids::{DomainId, Pasid, SourceId, u16_at};
use crate::iotlb::{Kind, Space};

/// What tables say of a requester, or of a process on it.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) source_id: SourceId,
    /// The PASID that the request named.
    pub(crate) named: Option<Pasid>,
    /// The PASID that is used: `RID_PASID` where the request names none.
    pub(crate) pasid: Pasid,
    pub(crate) domain: DomainId,
    /// Faults are not to be recorded.
    pub(crate) unrecorded: bool,
    /// Translation requests and translated requests are let through.
    pub(crate) device_tlb: bool,
    /// Page requests are let through.
    pub(crate) page_requests: bool,
    /// Requests may ask for privilege.
    pub(crate) privileged: bool,
    pub(crate) scalable: bool,
    /// Where its translations are cached; `None` if nothing is translated.
    pub(crate) space: Option<Space>,
    /// Bits at the top of an address that must be clear, or, if it is to be canonical, like the one below.
    pub(crate) unused: u8,
    pub(crate) canonical: bool,
    pub(crate) way: Way,
}

impl Context {
    /// One that says no more than this.
    fn new(source_id: SourceId, pasid: Pasid, domain: DomainId, way: Way) -> Self {
        let kind = match &way {
            Way::PassThrough => None,
            Way::Second(second) if second.flags => Some(Kind::SecondFlags),
            Way::Second(_) => Some(Kind::Second),
            Way::First(_) => Some(Kind::First),
            Way::Nested(..) => Some(Kind::Nested),
        };
        let (unused, canonical) = match &way {
            Way::PassThrough => (0, false),
            Way::Second(second) => (64 - second.width, false),
            Way::First(first) | Way::Nested(first, _) => (64 - (12 + 9 * first.levels), true),
        };
        Self {
            source_id,
            named: None,
            pasid,
            domain,
            unrecorded: false,
            device_tlb: false,
            page_requests: false,
            privileged: false,
            scalable: false,
            space: kind.map(|kind| Space {
                domain: domain.0,
                pasid: pasid.number(),
                kind,
            }),
            unused,
            canonical,
            way,
        }
    }
}

/// How addresses are translated.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    PassThrough,
    Second(Second),
    First(First),
    Nested(First, Second),
}

#[derive(Clone, Debug)]
pub(crate) struct Second {
    pub(crate) context: SecondStage,
    /// Bits of an address: 39, 48 or 57.
    pub(crate) width: u8,
    pub(crate) flags: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct First {
    pub(crate) context: x86::Context,
    pub(crate) levels: u8,
    /// WPE: R/W binds privileged requests too.
    pub(crate) write_protect: bool,
}

/// Why there is no context, and whether that is not to be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: Reason,
    pub(crate) unrecorded: bool,
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self {
            reason,
            unrecorded: false,
        }
    }
}

/// Leads a requester through the tables below a root-table address.
pub(crate) struct Lookup<'a, T> {
    pub(crate) memory: &'a T,
    pub(crate) capabilities: &'a Capabilities,
    /// RTADDR as it was when SRTP was given.
    pub(crate) root: u64,
}

type Found<T> = Result<T, Refusal>;

impl<T: TableMemory> Lookup<'_, T> {
    pub(crate) fn find(&self, source_id: SourceId, pasid: Option<Pasid>) -> Found<Context> {
        match self.root >> 10 & 3 {
            0 if pasid.is_some() => Err(Reason::PasidInLegacyMode.into()),
            0 => self.legacy(source_id),
            1 if self.capabilities.has(Features::SCALABLE) => self.scalable(source_id, pasid),
            _ => Err(Reason::RootAddress.into()),
        }
    }

    /// The words of an entry, each loaded once.
    fn load<const N: usize>(&self, table: u64, offset: u64, otherwise: Reason) -> Found<[u64; N]> {
        let mut words = [0; N];
        for (at, word) in (offset..).step_by(8).zip(&mut words) {
            let at = Gpa((table & PAGE) + at);
            *word = self
                .memory
                .load_u64(at)
                .map_err(|_| Refusal::from(otherwise))?;
        }
        Ok(words)
    }

    /// Bits of an address that the host does not have.
    fn beyond_host(&self) -> u64 {
        !0 << self.capabilities.host_address_bits
    }

    fn legacy(&self, source_id: SourceId) -> Found<Context> {
        let offset = u64::from(source_id.bus()) * 16;
        let [low, high] = self.load(self.root, offset, Reason::RootInaccessible)?;
        if low & PRESENT == 0 {
            return Err(Reason::RootNotPresent.into());
        }
        if low & (0xffe | self.beyond_host()) != 0 || high != 0 {
            return Err(Reason::RootReserved.into());
        }
        let offset = u64::from(source_id.function()) * 16;
        let entry = self.load(low, offset, Reason::ContextInaccessible)?;
        self.legacy_context(source_id, entry)
            .map_err(|reason| Refusal {
                reason,
                unrecorded: entry[0] & FPD != 0,
            })
    }

    fn legacy_context(
        &self,
        source_id: SourceId,
        [low, high]: [u64; 2],
    ) -> Result<Context, Reason> {
        if low & PRESENT == 0 {
            return Err(Reason::ContextNotPresent);
        }
        if low & (0xff0 | self.beyond_host()) != 0 || high & 0xffff_ffff_ff00_0080 != 0 {
            return Err(Reason::ContextReserved);
        }
        let translation_type = low >> 2 & 3;
        let supported = match translation_type {
            0 => true,
            1 => self.capabilities.has(Features::DEVICE_TLB),
            2 => self.capabilities.has(Features::PASS_THROUGH),
            _ => false,
        };
        let second = self.second(low, high & 7, false);
        let second = second.filter(|_| supported).ok_or(Reason::ContextInvalid)?;
        let domain = self.domain(u16_at(high, 8)).ok_or(Reason::ContextInvalid)?;
        let way = if translation_type == 2 {
            Way::PassThrough
        } else {
            Way::Second(second)
        };
        Ok(Context {
            unrecorded: low & FPD != 0,
            device_tlb: translation_type == 1,
            ..Context::new(source_id, NO_PASID, domain, way)
        })
    }

    /// The second stage of a table pointer and the code of its width.
    fn second(&self, pointer: u64, width: u64, flags: bool) -> Option<Second> {
        let levels = u8::try_from(width).ok()? + 2;
        let capabilities = StageCapabilities {
            haw: self.capabilities.host_address_bits,
            mib_pages: self.capabilities.has(Features::PAGES_2M),
            gib_pages: self.capabilities.has(Features::PAGES_1G),
            snoop_control: self.capabilities.has(Features::SNOOP_CONTROL),
            flags,
        };
        self.capabilities.has_levels(levels).then(|| Second {
            context: SecondStage::new(&capabilities, Gpa(pointer & PAGE), levels),
            width: 12 + 9 * levels,
            flags,
        })
    }

    fn domain(&self, domain: u16) -> Option<DomainId> {
        let legal = u32::from(domain) >> self.capabilities.domain_bits == 0;
        legal.then_some(DomainId(domain))
    }

    fn scalable(&self, source_id: SourceId, pasid: Option<Pasid>) -> Found<Context> {
        let offset = u64::from(source_id.bus()) * 16;
        let root: [u64; 2] = self.load(self.root, offset, Reason::ScalableRootInaccessible)?;
        let half = root[usize::from(source_id.function() >> 7)];
        if half & PRESENT == 0 {
            return Err(Reason::ScalableRootNotPresent.into());
        }
        if half & (0xffe | self.beyond_host()) != 0 {
            return Err(Reason::ScalableRootReserved.into());
        }
        let offset = u64::from(source_id.function() & 0x7f) * 32;
        let entry = self.load(half, offset, Reason::ScalableContextInaccessible)?;
        self.scalable_context(source_id, pasid, entry)
    }

    fn scalable_context(
        &self,
        source_id: SourceId,
        named: Option<Pasid>,
        entry: [u64; 4],
    ) -> Found<Context> {
        let [low, high, ..] = entry;
        let refuse = |reason| {
            Err(Refusal {
                reason,
                unrecorded: low & FPD != 0,
            })
        };
        if low & PRESENT == 0 {
            return refuse(Reason::ScalableContextNotPresent);
        }
        let reserved = low & (0x1e0 | self.beyond_host()) | high & !0x1f_ffff | entry[2] | entry[3];
        if reserved != 0 {
            return refuse(Reason::ScalableContextReserved);
        }
        let flag = |place: u32| low & 1 << place != 0;
        let (device_tlb, page_requests) = (flag(2), flag(4));
        let invalid = device_tlb && !self.capabilities.has(Features::DEVICE_TLB)
            || page_requests && !self.capabilities.has(Features::PAGE_REQUESTS)
            || page_requests && !device_tlb;
        if invalid {
            return refuse(Reason::ScalableContextInvalid);
        }
        if named.is_some() && !flag(3) {
            return refuse(Reason::PasidDisabled);
        }
        let pasid = named.unwrap_or_else(|| Pasid::from_bits(high, 0));
        let directory_bits = 7 + (low >> 9 & 7);
        if u64::from(pasid.number()) >> (directory_bits + 6) != 0 {
            return refuse(match named {
                Some(_) => Reason::PasidBeyondDirectory,
                None => Reason::RidPasid,
            });
        }
        let mut context = self.process(low, source_id, pasid).map_err(|mut refusal| {
            refusal.unrecorded |= low & FPD != 0;
            refusal
        })?;
        context.named = named;
        context.device_tlb = device_tlb;
        context.page_requests = page_requests;
        context.unrecorded |= low & FPD != 0;
        Ok(context)
    }

    fn process(&self, directory: u64, source_id: SourceId, pasid: Pasid) -> Found<Context> {
        let number = u64::from(pasid.number());
        let offset = (number >> 6) * 8;
        let [entry] = self.load(directory, offset, Reason::DirectoryInaccessible)?;
        let refuse = |reason| {
            Err(Refusal {
                reason,
                unrecorded: entry & FPD != 0,
            })
        };
        if entry & PRESENT == 0 {
            return refuse(Reason::DirectoryNotPresent);
        }
        if entry & (0xffc | self.beyond_host()) != 0 {
            return refuse(Reason::DirectoryReserved);
        }
        let offset = (number & 0x3f) * 64;
        let words: [u64; 8] = self.load(entry, offset, Reason::PasidInaccessible)?;
        let unrecorded = (entry | words[0]) & FPD != 0;
        let mut context = self
            .pasid_entry(source_id, pasid, &words)
            .map_err(|reason| Refusal { reason, unrecorded })?;
        context.unrecorded = unrecorded;
        Ok(context)
    }

    fn pasid_entry(
        &self,
        source_id: SourceId,
        pasid: Pasid,
        words: &[u64; 8],
    ) -> Result<Context, Reason> {
        let [w0, w1, w2, w3, rest @ ..] = *words;
        if w0 & PRESENT == 0 {
            return Err(Reason::PasidNotPresent);
        }
        let beyond = self.beyond_host();
        // Bit 5 of the first word was execute enable; memory types and snooping mean nothing here. Of the
        // third, ERE, SMEP and EAFE belong to what no unit of ours offers; NXE, which Linux sets, only says
        // that bit 63 of first-stage entries is not reserved, and none of our requests executes.
        let reserved = w0 & (0xc20 | beyond) | w1 & 0x0000_0000_007f_0000 | w2 & (0xfc2 | beyond);
        if reserved | w3 | rest.iter().fold(0, |all, word| all | word) != 0 {
            return Err(Reason::PasidReserved);
        }
        let second = || self.nested_second(w0);
        let first = || self.first(w2);
        let has = |feature| self.capabilities.has(feature);
        let way = match w0 >> 6 & 7 {
            1 if has(Features::FIRST_STAGE) => first().map(Way::First),
            2 => second().map(Way::Second),
            3 if has(Features::NESTED) => first().zip(second()).map(|(f, s)| Way::Nested(f, s)),
            4 if has(Features::PASS_THROUGH) => Some(Way::PassThrough),
            _ => None,
        };
        let domain = self.domain(u16_at(w1, 0));
        let (way, domain) = way.zip(domain).ok_or(Reason::PasidInvalid)?;
        Ok(Context {
            privileged: has(Features::PRIVILEGED) && w2 & 1 != 0,
            scalable: true,
            ..Context::new(source_id, pasid, domain, way)
        })
    }

    fn nested_second(&self, w0: u64) -> Option<Second> {
        let flags = w0 & 1 << 9 != 0;
        let supported = !flags || self.capabilities.has(Features::ACCESSED_DIRTY);
        self.second(w0, w0 >> 2 & 7, flags).filter(|_| supported)
    }

    fn first(&self, w2: u64) -> Option<First> {
        let five_levels = match w2 >> 2 & 3 {
            0 => false,
            1 if self.capabilities.has(Features::FIRST_5_LEVELS) => true,
            _ => return None,
        };
        let write_protect = w2 & 1 << 4 != 0;
        let context = FirstStage {
            table: w2 & PAGE,
            five_levels,
            write_protect,
            haw: self.capabilities.host_address_bits,
            gib_pages: self.capabilities.has(Features::FIRST_1G),
        }
        .context();
        Some(First {
            context,
            levels: if five_levels { 5 } else { 4 },
            write_protect,
        })
    }
}

/// Where a table begins: bits 63:12.
const PAGE: u64 = !0xfff;
const PRESENT: u64 = 1 << 0;
/// Fault processing disable.
const FPD: u64 = 1 << 1;
/// Tags what has no PASID.
const NO_PASID: Pasid = Pasid::new(0).unwrap();
