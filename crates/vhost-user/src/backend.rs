//! The back end's half of a session: which rings there are, where they lie, whether they run.

use crate::features::{ProtocolFeatures, VHOST_USER_F_PROTOCOL_FEATURES};
use crate::message::{Code, Reply, Request, VringAddresses};
use crate::region::{Region, RegionError, Regions};

/// What a back end knows of its front end. `F` is a file descriptor, which this crate only hands on.
///
/// Each request leads to one [`Outcome`]: something to do, and then something to answer. After an
/// error the session is as it was before the request; a connection is best closed then.
#[derive(Debug)]
pub struct Backend<F> {
    offered: u64,
    features: u64,
    protocol: ProtocolFeatures,
    status: u8,
    regions: Regions,
    vrings: Vec<Vring>,
    // Descriptors pass through.
    descriptors: std::marker::PhantomData<fn(F) -> F>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Vring {
    size: Option<u16>,
    addresses: Option<VringAddresses>,
    base: u32,
    runs: bool,
    /// What the front end said; `None` leaves it to the features.
    enabled: Option<bool>,
}

/// Everything about a ring that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSetup {
    /// Descriptors: 1 to 32768.
    pub size: u16,
    /// Guest physical address of the descriptor area; the first byte lies in memory, and that is all
    /// that is known of it.
    pub descriptors: u64,
    /// Of the driver area, likewise.
    pub driver: u64,
    /// Of the device area, likewise.
    pub device: u64,
    /// Where to begin, as in [`Request::SetVringBase`].
    pub base: u32,
    /// Negotiated virtio features.
    pub features: u64,
}

/// What to do about a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect<F> {
    /// Nothing.
    None,
    /// Map these, in place of all that was mapped. Rings that run lie in the new memory from now on:
    /// ask [`Backend::ring`].
    Map(Vec<(Region, F)>),
    /// Begin with a ring.
    Start {
        /// Its number.
        ring: usize,
        /// All about it.
        setup: RingSetup,
        /// What the driver kicks; without it, poll.
        kick: Option<F>,
    },
    /// Give back what was taken of a ring, and answer with [`Backend::stopped`].
    Stop {
        /// Its number.
        ring: usize,
    },
    /// Interrupt the driver this way; without it, not at all.
    Call {
        /// The ring.
        ring: usize,
        /// What to write to.
        call: Option<F>,
    },
    /// Report a broken ring this way.
    Error {
        /// The ring.
        ring: usize,
        /// What to write to.
        error: Option<F>,
    },
    /// Use a ring's buffers, or do not.
    Enable {
        /// The ring.
        ring: usize,
        /// Whether to use them.
        enabled: bool,
    },
    /// Stop all rings, without an answer.
    Reset,
}

/// What a request leads to.
#[must_use = "a front end waits for its answer"]
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome<F> {
    /// What to do.
    pub effect: Effect<F>,
    /// What to answer then.
    pub answer: Answer,
}

/// An answer that waits for its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    code: Code,
    reply: Option<Reply>,
    wants_ack: bool,
}

impl Answer {
    /// What to send once the effect was tried; nothing when no answer is due.
    #[must_use]
    pub fn message(&self, succeeded: bool) -> Option<Vec<u8>> {
        let ack = self
            .wants_ack
            .then_some(Reply::Number(u64::from(!succeeded)));
        Some(self.reply.or(ack)?.encode(self.code))
    }
}

/// Why a request was turned down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// There is no such ring.
    #[error("ring {ring} does not exist")]
    NoRing {
        /// The ring.
        ring: u32,
    },
    /// Features that were not offered.
    #[error("features {features:#x} were not all offered")]
    NotOffered {
        /// What the front end chose.
        features: u64,
    },
    /// The ring runs; it can be changed when it is stopped.
    #[error("a ring runs and cannot be changed")]
    Running,
    /// The ring does not run, so it cannot be stopped.
    #[error("ring {ring} does not run")]
    NotRunning {
        /// The ring.
        ring: usize,
    },
    /// A size of 0 or above 32768.
    #[error("{size} descriptors")]
    Size {
        /// Descriptors.
        size: u32,
    },
    /// A base that no ring has.
    #[error("base {base:#x}")]
    Base {
        /// The position.
        base: u32,
    },
    /// A log of writes was asked for, which was not offered.
    #[error("a log was not offered")]
    Log,
    /// A ring was to start before its size and its addresses were known.
    #[error("ring {ring} has no size or no addresses")]
    Unconfigured {
        /// The ring.
        ring: usize,
    },
    /// An area of a ring is in no region.
    #[error("address {address:#x} is in no region")]
    Unmapped {
        /// The user address.
        address: u64,
    },
    /// The memory table is wrong.
    #[error("the memory table is wrong")]
    Region(#[from] RegionError),
}

impl<F> Backend<F> {
    /// A session for a device of `rings` rings, at most 256, that offers `features` of virtio.
    ///
    /// # Panics
    ///
    /// On no ring, or more than a message can name.
    #[must_use]
    pub fn new(rings: usize, features: u64) -> Self {
        assert!((1..=256).contains(&rings), "a message can name each ring");
        Self {
            offered: features | VHOST_USER_F_PROTOCOL_FEATURES,
            features: 0,
            protocol: ProtocolFeatures::default(),
            status: 0,
            regions: Regions::default(),
            vrings: vec![Vring::default(); rings],
            descriptors: std::marker::PhantomData,
        }
    }

    /// Takes a request and its descriptors. `needs_reply` is the header's flag.
    ///
    /// # Errors
    ///
    /// Names what is wrong, and nothing has changed.
    ///
    /// # Panics
    ///
    /// When there are not as many descriptors as the request was decoded with.
    pub fn handle(
        &mut self,
        request: Request,
        needs_reply: bool,
        descriptors: Vec<F>,
    ) -> Result<Outcome<F>, SessionError> {
        assert_eq!(
            descriptors.len(),
            request.descriptors(),
            "descriptors as decoded"
        );
        let code = request.code();
        let acks = self.protocol.contains(ProtocolFeatures::REPLY_ACK);
        let wants_ack = needs_reply && acks && !request.has_answer();
        let reply = self.reply(&request);
        let effect = self.apply(request, descriptors)?;
        let answer = Answer {
            code,
            reply,
            wants_ack,
        };
        Ok(Outcome { effect, answer })
    }

    /// The answer to [`Effect::Stop`]: where the ring stopped.
    #[must_use]
    pub fn stopped(&mut self, ring: usize, base: u32) -> Vec<u8> {
        if let Some(vring) = self.vrings.get_mut(ring) {
            vring.base = base;
        }
        let ring = u32::try_from(ring).unwrap_or(u32::MAX);
        Reply::VringBase { ring, base }.encode(Code::VringBase)
    }

    /// All about a ring that runs.
    ///
    /// # Errors
    ///
    /// Fails when it does not run, or its areas are not in the memory there is now.
    pub fn ring(&self, ring: usize) -> Result<RingSetup, SessionError> {
        match self.vrings.get(ring) {
            Some(vring) if vring.runs => self.setup(ring, vring),
            _ => Err(SessionError::NotRunning { ring }),
        }
    }

    /// Whether the buffers of a ring may be used.
    #[must_use]
    pub fn is_enabled(&self, ring: usize) -> bool {
        let by_default = self.features & VHOST_USER_F_PROTOCOL_FEATURES == 0;
        self.vrings
            .get(ring)
            .is_some_and(|vring| vring.runs && vring.enabled.unwrap_or(by_default))
    }

    /// Virtio features that were negotiated.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.features
    }

    /// The memory there is.
    #[must_use]
    pub fn regions(&self) -> &Regions {
        &self.regions
    }

    fn reply(&self, request: &Request) -> Option<Reply> {
        Some(Reply::Number(match request {
            Request::Features => self.offered,
            Request::ProtocolFeatures => ProtocolFeatures::ALL.0,
            Request::QueueCount => u64::try_from(self.vrings.len()).unwrap_or(u64::MAX),
            Request::Status => self.status.into(),
            _ => return None,
        }))
    }

    fn apply(&mut self, request: Request, fds: Vec<F>) -> Result<Effect<F>, SessionError> {
        let fd = |mut fds: Vec<F>| fds.pop();
        match request {
            Request::Features
            | Request::ProtocolFeatures
            | Request::QueueCount
            | Request::Status
            | Request::SetOwner => Ok(Effect::None),
            Request::ResetOwner => Ok(self.reset()),
            Request::SetFeatures(features) => self.set_features(features),
            Request::SetProtocolFeatures(features) => self.set_protocol(features),
            Request::SetStatus(0) => Ok(self.reset()),
            Request::SetStatus(status) => {
                self.status = status;
                Ok(Effect::None)
            }
            Request::SetMemoryTable(regions) => self.set_memory(regions, fds),
            Request::SetVringSize { ring, size } => self.set_size(ring, size),
            Request::SetVringAddresses(addresses) => self.set_addresses(addresses),
            Request::SetVringBase { ring, base } => self.set_base(ring, base),
            Request::VringBase { ring } => self.stop(ring),
            Request::SetVringKick { ring, .. } => self.start(ring.into(), fd(fds)),
            Request::SetVringCall { ring, .. } => {
                let (ring, _) = self.vring(ring.into())?;
                let call = fd(fds);
                Ok(Effect::Call { ring, call })
            }
            Request::SetVringError { ring, .. } => {
                let (ring, _) = self.vring(ring.into())?;
                let error = fd(fds);
                Ok(Effect::Error { ring, error })
            }
            Request::SetVringEnable { ring, enabled } => {
                let (ring, vring) = self.vring(ring)?;
                vring.enabled = Some(enabled);
                Ok(Effect::Enable { ring, enabled })
            }
        }
    }

    fn set_features(&mut self, features: u64) -> Result<Effect<F>, SessionError> {
        if features & !self.offered != 0 {
            return Err(SessionError::NotOffered { features });
        }
        if features != self.features && self.vrings.iter().any(|vring| vring.runs) {
            return Err(SessionError::Running);
        }
        self.features = features;
        Ok(Effect::None)
    }

    fn set_protocol(&mut self, features: u64) -> Result<Effect<F>, SessionError> {
        if !ProtocolFeatures::ALL.contains(ProtocolFeatures(features)) {
            return Err(SessionError::NotOffered { features });
        }
        self.protocol = ProtocolFeatures(features);
        Ok(Effect::None)
    }

    /// A table may come while rings run, if they still lie in it.
    fn set_memory(&mut self, regions: Vec<Region>, fds: Vec<F>) -> Result<Effect<F>, SessionError> {
        let regions = Regions::new(regions)?;
        let before = std::mem::replace(&mut self.regions, regions);
        let lost = self
            .vrings
            .iter()
            .enumerate()
            .filter(|(_, vring)| vring.runs)
            .find_map(|(ring, vring)| self.setup(ring, vring).err());
        if let Some(error) = lost {
            self.regions = before;
            return Err(error);
        }
        let regions = self.regions.as_slice().iter().copied();
        Ok(Effect::Map(regions.zip(fds).collect()))
    }

    fn set_size(&mut self, ring: u32, size: u32) -> Result<Effect<F>, SessionError> {
        let vring = self.stopped_vring(ring)?;
        match u16::try_from(size) {
            Ok(size @ 1..=SIZE_MAX) => vring.size = Some(size),
            _ => return Err(SessionError::Size { size }),
        }
        Ok(Effect::None)
    }

    fn set_addresses(&mut self, addresses: VringAddresses) -> Result<Effect<F>, SessionError> {
        let vring = self.stopped_vring(addresses.ring)?;
        if addresses.flags != 0 {
            return Err(SessionError::Log);
        }
        vring.addresses = Some(addresses);
        Ok(Effect::None)
    }

    fn set_base(&mut self, ring: u32, base: u32) -> Result<Effect<F>, SessionError> {
        let packed = self.features & RING_PACKED != 0;
        let vring = self.stopped_vring(ring)?;
        if !packed && base > u32::from(u16::MAX) {
            return Err(SessionError::Base { base });
        }
        vring.base = base;
        Ok(Effect::None)
    }

    fn start(&mut self, ring: u32, kick: Option<F>) -> Result<Effect<F>, SessionError> {
        let (ring, vring) = self.vring(ring)?;
        if vring.runs {
            return Err(SessionError::Running);
        }
        let vring = *vring;
        let setup = self.setup(ring, &vring)?;
        self.vrings[ring].runs = true;
        Ok(Effect::Start { ring, setup, kick })
    }

    /// A ring that never ran stops as well: front ends ask all of them.
    fn stop(&mut self, ring: u32) -> Result<Effect<F>, SessionError> {
        let (ring, vring) = self.vring(ring)?;
        vring.runs = false;
        Ok(Effect::Stop { ring })
    }

    fn reset(&mut self) -> Effect<F> {
        self.status = 0;
        self.vrings.fill(Vring::default());
        Effect::Reset
    }

    fn setup(&self, ring: usize, vring: &Vring) -> Result<RingSetup, SessionError> {
        let (Some(size), Some(addresses)) = (vring.size, vring.addresses) else {
            return Err(SessionError::Unconfigured { ring });
        };
        let translate = |address| {
            let found = self.regions.guest_address(address);
            found.ok_or(SessionError::Unmapped { address })
        };
        Ok(RingSetup {
            size,
            descriptors: translate(addresses.descriptors)?,
            driver: translate(addresses.driver)?,
            device: translate(addresses.device)?,
            base: vring.base,
            features: self.features,
        })
    }

    fn stopped_vring(&mut self, ring: u32) -> Result<&mut Vring, SessionError> {
        let (_, vring) = self.vring(ring)?;
        if vring.runs {
            return Err(SessionError::Running);
        }
        Ok(vring)
    }

    fn vring(&mut self, ring: u32) -> Result<(usize, &mut Vring), SessionError> {
        let index = usize::try_from(ring).unwrap_or(usize::MAX);
        let vring = self.vrings.get_mut(index);
        Ok((index, vring.ok_or(SessionError::NoRing { ring })?))
    }
}

/// Virtio 1.3, 2.6 and 2.8: the largest ring.
const SIZE_MAX: u16 = 32768;
/// `VIRTIO_F_RING_PACKED`.
const RING_PACKED: u64 = 1 << 34;
