//! Translation of DMA requests (VT-d chapter 3).

use guest_paging::nested::{Cause, Ground, Purpose, Stage, StageAccess};
use guest_paging::x86::{Access, AccessKind as PagingKind, Attributes, Privilege};
use guest_paging::{Gpa, Gva, Reference, SearchedMemory, Unbacked, WalkError, vtd, walk};
use vm_memory::GuestMemory;

use crate::context::{Context, First, Lookup, Second, Way};
use crate::fault::{AccessKind, Fault, Reason};
use crate::ids::{Iova, Pasid, SourceId};
use crate::iotlb::{Entry, Rights};
use crate::registers::TE;
use crate::unit::Unit;

/// A DMA request that a device has not translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// Who asks. The bus must know: a device that may say so itself spoofs.
    pub source_id: SourceId,
    /// For which process.
    pub pasid: Option<Pasid>,
    /// Where. A request must not go beyond the page that its translation tells.
    pub address: Iova,
    /// What is to be done.
    pub kind: AccessKind,
    /// Asks for privilege, which needs a PASID; without one it says nothing.
    pub privileged: bool,
}

impl Request {
    /// A request without PASID.
    #[must_use]
    pub fn new(source_id: SourceId, address: Iova, kind: AccessKind) -> Self {
        Self {
            source_id,
            pasid: None,
            address,
            kind,
            privileged: false,
        }
    }

    pub(crate) fn fault(&self, reason: Reason, unrecorded: bool) -> Fault {
        Fault {
            reason,
            source_id: self.source_id,
            pasid: self.pasid,
            address: self.address,
            kind: self.kind,
            privileged: self.privileged && self.pasid.is_some(),
            unrecorded,
        }
    }
}

/// Where a request leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Translation {
    /// The physical address of the byte.
    pub address: u64,
    /// Bits of an address inside the page: all bytes that differ in no others lead on beside it. 64 where
    /// nothing is translated.
    pub inside_bits: u8,
    /// Reads are permitted.
    pub read: bool,
    /// Writes are permitted. May be `false` where the page's dirty flag must be set first: ask again.
    pub write: bool,
    /// The leaf forces snooping.
    pub snoop: bool,
}

impl Translation {
    fn identity(address: u64) -> Self {
        Self {
            address,
            inside_bits: 64,
            read: true,
            write: true,
            snoop: false,
        }
    }

    /// Bytes from here to the end of the page, at least 1; `u64::MAX` if there is no end.
    #[must_use]
    pub fn contiguous(&self) -> u64 {
        if self.inside_bits >= 64 {
            return u64::MAX;
        }
        let page = 1_u64 << self.inside_bits;
        page - (self.address & (page - 1))
    }
}

/// Why a walk found nothing, and what it found.
type Walked = Result<Entry, Reason>;

impl Unit {
    /// Translates a request. Caches the answer; records a fault and sends its message.
    ///
    /// With translation disabled every address is its own translation. A write to the interrupt range
    /// without PASID is an interrupt: hand it to [`remap`](Self::remap), here it is blocked.
    ///
    /// # Errors
    ///
    /// Returns the fault; the device gets no data, or its write is dropped.
    #[inline]
    pub fn translate<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        request: &Request,
    ) -> Result<Translation, Fault> {
        if self.global_status() & TE == 0 {
            return Ok(Translation::identity(request.address.0));
        }
        if let Some(translation) = self.cached(request) {
            return Ok(translation);
        }
        let found = self.find(memory, request);
        found.inspect_err(|fault| self.record_fault(fault))
    }

    /// The answer as far as caches give it.
    #[inline]
    fn cached(&mut self, request: &Request) -> Option<Translation> {
        let context = self.contexts.get(request.source_id, request.pasid)?;
        let space = context.space?;
        let privileged = request.privileged && request.pasid.is_some();
        if !context.takes(request.address.0) || privileged && !context.privileged {
            return None;
        }
        let entry = self.iotlb.lookup(space, request.address.0)?;
        let translation = finish(&entry, request);
        let granted = permits(request.kind, &translation);
        (granted && !in_interrupt_range(translation.address)).then_some(translation)
    }

    /// What the tables say of a requester, from the cache or from memory.
    pub(crate) fn context<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        request: &Request,
    ) -> Result<&Context, Fault> {
        self.cache_context(memory, request)?;
        let cached = self.contexts.get(request.source_id, request.pasid);
        Ok(cached.expect("it was just cached"))
    }

    fn cache_context<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        request: &Request,
    ) -> Result<(), Fault> {
        let cached = self.contexts.get(request.source_id, request.pasid);
        if cached.is_some() {
            self.counters.context_hits += 1;
            return Ok(());
        }
        self.counters.context_misses += 1;
        let lookup = Lookup {
            memory: &SearchedMemory(memory),
            capabilities: &self.capabilities,
            root: self.root,
        };
        let found = lookup.find(request.source_id, request.pasid);
        let context = found.map_err(|refusal| request.fault(refusal.reason, refusal.unrecorded))?;
        self.contexts.insert(context);
        Ok(())
    }

    /// As [`translate`](Self::translate) with translation enabled, but records nothing.
    pub(crate) fn find<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        request: &Request,
    ) -> Result<Translation, Fault> {
        let host_address_bits = self.capabilities.host_address_bits;
        self.cache_context(memory, request)?;
        let cached = self.contexts.get(request.source_id, request.pasid);
        let context = cached.expect("it was just cached");
        let memory = &SearchedMemory(memory);
        let fault = |reason| request.fault(reason, context.unrecorded);
        let beyond = context.beyond();
        if request.pasid.is_none() && in_interrupt_range(request.address.0) {
            return Err(fault(context.interrupt_range()));
        }
        if request.privileged && request.pasid.is_some() && !context.privileged {
            return Err(fault(Reason::PrivilegeDisabled));
        }
        if !context.takes(request.address.0) {
            return Err(fault(beyond));
        }
        let Some(space) = context.space else {
            let passed = pass_through(host_address_bits, request.address.0);
            return passed.ok_or_else(|| fault(beyond));
        };
        self.counters.walks += 1;
        let entry = context.walk(memory, request).map_err(fault)?;
        let translation = finish(&entry, request);
        if in_interrupt_range(translation.address) {
            return Err(fault(context.interrupt_range()));
        }
        self.iotlb.insert(space, request.address.0, entry);
        Ok(translation)
    }
}

/// What passes through reaches no further than the host's addresses do.
fn pass_through(host_address_bits: u8, address: u64) -> Option<Translation> {
    let reached = address >> host_address_bits == 0;
    reached.then(|| Translation {
        inside_bits: 12,
        ..Translation::identity(address)
    })
}

impl Context {
    /// Whether an address has the form that the structures take.
    #[inline]
    fn takes(&self, address: u64) -> bool {
        let unused = self.unused;
        let high = (address << unused).cast_signed() >> unused;
        if self.canonical {
            high == address.cast_signed()
        } else {
            address << unused >> unused == address
        }
    }

    fn beyond(&self) -> Reason {
        match &self.way {
            Way::First(_) | Way::Nested(..) => Reason::NotCanonical,
            _ if self.scalable => Reason::ScalableBeyondWidth,
            _ => Reason::BeyondWidth,
        }
    }

    fn interrupt_range(&self) -> Reason {
        if self.scalable {
            Reason::ScalableInterruptRange
        } else {
            Reason::InterruptRange
        }
    }

    fn walk<M: GuestMemory + ?Sized>(
        &self,
        memory: &SearchedMemory<'_, M>,
        request: &Request,
    ) -> Walked {
        match &self.way {
            Way::PassThrough => unreachable!("nothing is walked"),
            Way::Second(second) => self.walk_second(memory, second, request),
            Way::First(first) => walk_first(memory, first, request),
            Way::Nested(first, second) => walk_nested(memory, first, second, request),
        }
    }

    fn walk_second<M: GuestMemory + ?Sized>(
        &self,
        memory: &SearchedMemory<'_, M>,
        second: &Second,
        request: &Request,
    ) -> Walked {
        let mut found = None;
        // An AtomicOp both reads and writes: the structures must permit both.
        for kind in paging_kinds(request.kind) {
            let access = StageAccess {
                kind,
                purpose: Purpose::Translated,
                user_address: false,
            };
            let input = Gpa(request.address.0);
            match walk(memory, &second.context, input, access, &mut ()) {
                Ok(translation) => found = Some(translation),
                Err(error) => {
                    let absent = self.scalable && is_absent(memory, second, input, access);
                    return Err(second_reason(self.scalable, absent, second.levels(), error));
                }
            }
        }
        let translation = found.expect("one kind at least");
        // A page whose dirty flag is not known to be set is one to ask again for.
        let write = translation.write && (!second.flags || request.kind.writes());
        let mut rights = Rights::USER;
        rights.set(Rights::READ, translation.read);
        rights.set(Rights::WRITE, write);
        rights.set(Rights::PRIVILEGED_WRITE, write);
        rights.set(Rights::SNOOP, translation.snoop);
        Ok(Entry {
            page: page(translation.address.0, translation.size as u8),
            inside_bits: translation.size as u8,
            rights,
        })
    }
}

impl Second {
    pub(crate) fn levels(&self) -> u8 {
        (self.width - 12) / 9
    }
}

/// Whether the walk ends at an entry that permits nothing.
fn is_absent<M: GuestMemory + ?Sized>(
    memory: &SearchedMemory<'_, M>,
    second: &Second,
    input: Gpa,
    access: StageAccess,
) -> bool {
    let mut last = Last(None);
    let _ = guest_paging::probe(memory, &second.context, input, access, &mut last);
    last.0.is_some_and(|reference| reference.entry & 3 == 0)
}

/// The last reference of a walk.
struct Last(Option<Reference>);

impl guest_paging::Observer for Last {
    fn reference(&mut self, reference: Reference) {
        self.0 = Some(reference);
    }
}

fn second_reason(
    scalable: bool,
    absent: bool,
    levels: u8,
    error: WalkError<vtd::Fault, Unbacked>,
) -> Reason {
    match (error, scalable) {
        (WalkError::Fault(vtd::Fault::BeyondWidth), false) => Reason::BeyondWidth,
        (WalkError::Fault(vtd::Fault::BeyondWidth), true) => Reason::ScalableBeyondWidth,
        (WalkError::Fault(vtd::Fault::Reserved), false) => Reason::TableReserved,
        (WalkError::Fault(vtd::Fault::Reserved), true) => Reason::SecondReserved,
        (WalkError::Fault(_), true) if absent => Reason::SecondNotPresent,
        (WalkError::Fault(vtd::Fault::WriteDenied), false) => Reason::WriteDenied,
        (WalkError::Fault(vtd::Fault::WriteDenied), true) => Reason::ScalableWriteDenied,
        (WalkError::Fault(vtd::Fault::ReadDenied), false) => Reason::ReadDenied,
        (WalkError::Fault(vtd::Fault::ReadDenied), true) => Reason::ScalableReadDenied,
        (_, false) => Reason::TableInaccessible,
        (WalkError::Table { level, .. }, true) if level == levels => Reason::SecondTopInaccessible,
        (_, true) => Reason::SecondInaccessible,
    }
}

fn first_access(request: &Request, kind: PagingKind) -> Access {
    let privilege = if request.privileged {
        Privilege::Supervisor
    } else {
        Privilege::User
    };
    Access::new(kind, privilege)
}

fn walk_first<M: GuestMemory + ?Sized>(
    memory: &SearchedMemory<'_, M>,
    first: &First,
    request: &Request,
) -> Walked {
    let mut found = None;
    for kind in paging_kinds(request.kind) {
        let access = first_access(request, kind);
        let walked = walk(
            memory,
            &first.context,
            Gva(request.address.0),
            access,
            &mut (),
        );
        found = Some(walked.map_err(|error| match error {
            WalkError::Fault(fault) => first_fault(memory, first, request, fault),
            WalkError::Table { level, .. } if level == first.levels => Reason::FirstTopInaccessible,
            WalkError::Table { .. } => Reason::FirstInaccessible,
            WalkError::Contended => Reason::FirstUpdateFailed,
        })?);
    }
    let translation = found.expect("one kind at least");
    let size = translation.size as u8;
    Ok(Entry {
        page: page(translation.gpa.0, size),
        inside_bits: size,
        rights: first_rights(first, translation.attributes),
    })
}

fn first_rights(first: &First, attributes: Attributes) -> Rights {
    let has = |flag| attributes.contains(flag);
    let mut rights = Rights::READ;
    rights.set(Rights::USER, has(Attributes::USER));
    rights.set(Rights::WRITE, has(Attributes::WRITE | Attributes::DIRTY));
    let privileged = has(Attributes::WRITE) || !first.write_protect;
    rights.set(
        Rights::PRIVILEGED_WRITE,
        privileged && has(Attributes::DIRTY),
    );
    rights
}

/// A page fault's error code as a reason: which right was missing takes another walk.
fn first_fault<T: guest_paging::TableMemory>(
    memory: &T,
    first: &First,
    request: &Request,
    fault: guest_paging::x86::PageFault,
) -> Reason {
    use guest_paging::x86::ErrorCode;
    let code = fault.error_code;
    if code.contains(ErrorCode::RESERVED) {
        return Reason::FirstReserved;
    }
    if !code.contains(ErrorCode::PRESENT) {
        return Reason::FirstNotPresent;
    }
    // Reads are never denied but for U/S.
    let read = first_access(request, PagingKind::Read);
    let readable = guest_paging::probe(
        memory,
        &first.context,
        Gva(request.address.0),
        read,
        &mut (),
    );
    if readable.is_ok() {
        Reason::ScalableWriteDenied
    } else {
        Reason::UserDenied
    }
}

fn walk_nested<M: GuestMemory + ?Sized>(
    memory: &SearchedMemory<'_, M>,
    first: &First,
    second: &Second,
    request: &Request,
) -> Walked {
    let stage = Stage::new(1, &second.context, Ground::new(memory, 1), ());
    let mut found = None;
    for kind in paging_kinds(request.kind) {
        let access = first_access(request, kind);
        let walked = walk(
            &stage,
            &first.context,
            Gva(request.address.0),
            access,
            &mut (),
        );
        let translation = walked.map_err(|error| match error {
            WalkError::Fault(fault) => first_fault(&stage, first, request, fault),
            WalkError::Table { level, source, .. } => {
                table_reason(level == first.levels, source.cause)
            }
            WalkError::Contended => Reason::FirstUpdateFailed,
        })?;
        let access = StageAccess {
            kind,
            purpose: Purpose::Translated,
            user_address: false,
        };
        let at = translation.gpa;
        // Walked as itself rather than through the stage, for what it says of rights.
        let below = walk(memory, &second.context, at, access, &mut ());
        let below = below.map_err(|error| match error {
            WalkError::Fault(vtd::Fault::BeyondWidth) => Reason::FirstResultBeyondSecond,
            error => {
                let absent = is_absent(memory, second, at, access);
                second_reason(true, absent, second.levels(), error)
            }
        })?;
        found = Some((translation, below));
    }
    let (translation, below) = found.expect("one kind at least");
    let inside_bits = (translation.size as u8).min(below.size as u8);
    let mut rights = first_rights(first, translation.attributes);
    if !below.write || second.flags && !request.kind.writes() {
        rights -= Rights::WRITE | Rights::PRIVILEGED_WRITE;
    }
    rights.set(Rights::READ, below.read);
    rights.set(Rights::SNOOP, below.snoop);
    Ok(Entry {
        page: page(below.address.0, inside_bits),
        inside_bits,
        rights,
    })
}

/// Why an entry of the first stage cannot be reached through the second.
fn table_reason(top: bool, cause: Cause<Unbacked>) -> Reason {
    use guest_paging::nested::StageFault;
    match cause {
        Cause::Stage(StageFault::Vtd(vtd::Fault::BeyondWidth)) => Reason::FirstBeyondSecond,
        Cause::Stage(StageFault::Vtd(vtd::Fault::Reserved)) => Reason::SecondReserved,
        Cause::Stage(StageFault::Vtd(vtd::Fault::WriteDenied)) => Reason::FirstUnwritable,
        Cause::Stage(_) if top => Reason::FirstTopUnreadable,
        Cause::Stage(_) => Reason::FirstUnreadable,
        _ if top => Reason::FirstTopInaccessible,
        _ => Reason::FirstInaccessible,
    }
}

fn paging_kinds(kind: AccessKind) -> impl Iterator<Item = PagingKind> {
    let read = kind.reads().then_some(PagingKind::Read);
    read.into_iter()
        .chain(kind.writes().then_some(PagingKind::Write))
}

/// Rights that make up a read and a write of a request.
#[inline]
fn needed(request: &Request) -> (Rights, Rights) {
    if request.privileged && request.pasid.is_some() {
        (Rights::READ, Rights::PRIVILEGED_WRITE)
    } else {
        (Rights::READ | Rights::USER, Rights::WRITE | Rights::USER)
    }
}

/// Whether a translation lets a request through that its context lets through.
#[inline]
fn permits(kind: AccessKind, translation: &Translation) -> bool {
    (translation.read || !kind.reads()) && (translation.write || !kind.writes())
}

#[inline]
fn finish(entry: &Entry, request: &Request) -> Translation {
    let (read, write) = needed(request);
    let address = entry.translate(request.address.0);
    Translation {
        address,
        inside_bits: outside_interrupts(address, entry.inside_bits),
        read: entry.rights.contains(read),
        write: entry.rights.contains(write),
        snoop: entry.rights.contains(Rights::SNOOP),
    }
}

/// A large page that has the interrupt range in it is handed out in small pieces.
#[inline]
fn outside_interrupts(address: u64, inside_bits: u8) -> u8 {
    if inside_bits > 20 && (address ^ 0xfee0_0000) >> inside_bits == 0 {
        12
    } else {
        inside_bits
    }
}

/// Physical addresses at which writes are interrupts (VT-d 3.14).
#[inline]
pub(crate) fn in_interrupt_range(address: u64) -> bool {
    address >> 20 == 0xfee
}

fn page(address: u64, inside_bits: u8) -> u64 {
    address & !((1 << inside_bits) - 1)
}
