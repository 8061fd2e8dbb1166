//! A PS/2 keyboard and a PS/2 mouse, as far as the wire to the i8042 shows them.
//!
//! Reference: IBM PS/2 Hardware Interface Technical Reference (1988), "Keyboard" and
//! "Auxiliary Device".

use crate::state_error::{InvalidState, check};

/// Bytes that a device keeps for the controller. What comes when it is full is lost.
pub(crate) const QUEUE_SIZE: usize = 16;

/// Saved state of the keyboard.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct KeyboardState {
    /// Bytes on their way to the controller, at most 16.
    pub queue: Vec<u8>,
    /// Command whose parameter is the next byte.
    pub awaiting: Option<u8>,
    /// Whether keys are reported.
    pub scanning: bool,
    /// Scan code set, 1 to 3; the host hands in set 2.
    pub scan_code_set: u8,
    /// Indicator lights: scroll, num, caps lock in bits 0 to 2.
    pub leds: u8,
}

/// Saved state of the mouse.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct MouseState {
    /// Bytes on their way to the controller, at most 16.
    pub queue: Vec<u8>,
    /// Command whose parameter is the next byte.
    pub awaiting: Option<u8>,
    /// Whether movements are reported as they come (stream mode, data reporting enabled).
    pub reporting: bool,
    /// Remote mode: reports are sent only when asked for.
    pub remote: bool,
    /// Wrap mode: bytes are echoed.
    pub wrap: bool,
    /// Two-to-one scaling is noted, not applied.
    pub scaling: bool,
    /// Samples a second, as set.
    pub sample_rate: u8,
    /// Resolution code, as set.
    pub resolution: u8,
    /// Buttons: left, right, middle in bits 0 to 2.
    pub buttons: u8,
    /// Movement to the right not yet reported.
    pub dx: i16,
    /// Movement upwards not yet reported.
    pub dy: i16,
}

#[derive(Clone, Debug)]
pub(crate) struct Keyboard {
    pub(crate) s: KeyboardState,
}

impl Keyboard {
    pub(crate) fn new() -> Self {
        Self {
            s: KeyboardState {
                queue: Vec::new(),
                awaiting: None,
                scanning: true,
                scan_code_set: 2,
                leds: 0,
            },
        }
    }

    pub(crate) fn restore(s: KeyboardState) -> Result<Self, InvalidState> {
        let ok = |valid, field| check(valid, "keyboard", field);
        ok(s.queue.len() <= QUEUE_SIZE, "queue")?;
        ok((1..=3).contains(&s.scan_code_set), "scan_code_set")?;
        Ok(Self { s })
    }

    /// Queues a whole key event; answers whether it fitted.
    pub(crate) fn key(&mut self, scan_codes: &[u8]) -> bool {
        let fits = self.s.queue.len() + scan_codes.len() <= QUEUE_SIZE;
        if fits && self.s.scanning {
            self.s.queue.extend_from_slice(scan_codes);
        }
        fits
    }

    pub(crate) fn receive(&mut self, byte: u8) {
        match self.s.awaiting.take() {
            Some(command) => self.parameter(command, byte),
            None => self.command(byte),
        }
    }

    fn command(&mut self, command: u8) {
        match command {
            0xff => {
                *self = Self::new();
                self.answer(&[ACK, SELF_TEST_PASSED]);
            }
            0xf2 => self.answer(&[ACK, 0xab, 0x83]),
            0xee => self.answer(&[0xee]),
            0xed | 0xf0 | 0xf3 => {
                self.s.awaiting = Some(command);
                self.answer(&[ACK]);
            }
            0xf4 => {
                self.s.scanning = true;
                self.answer(&[ACK]);
            }
            0xf5 | 0xf6 => {
                self.s = KeyboardState {
                    scanning: command == 0xf6,
                    ..Self::new().s
                };
                self.answer(&[ACK]);
            }
            // Set all or single keys' typematic behaviour (set 3): accepted, without effect.
            0xf7..=0xfa => self.answer(&[ACK]),
            _ => self.answer(&[RESEND]),
        }
    }

    fn parameter(&mut self, command: u8, value: u8) {
        match command {
            0xed => self.s.leds = value & 7,
            0xf0 if value == 0 => return self.answer(&[ACK, self.s.scan_code_set]),
            0xf0 if value <= 3 => self.s.scan_code_set = value,
            0xf0 => return self.answer(&[RESEND]),
            _ => {}
        }
        self.answer(&[ACK]);
    }

    fn answer(&mut self, bytes: &[u8]) {
        push(&mut self.s.queue, bytes);
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Mouse {
    pub(crate) s: MouseState,
}

impl Mouse {
    pub(crate) fn new() -> Self {
        Self {
            s: MouseState {
                queue: Vec::new(),
                awaiting: None,
                reporting: false,
                remote: false,
                wrap: false,
                scaling: false,
                sample_rate: 100,
                resolution: 2,
                buttons: 0,
                dx: 0,
                dy: 0,
            },
        }
    }

    pub(crate) fn restore(s: MouseState) -> Result<Self, InvalidState> {
        let ok = |valid, field| check(valid, "mouse", field);
        ok(s.queue.len() <= QUEUE_SIZE, "queue")?;
        ok(s.buttons < 8, "buttons")?;
        Ok(Self { s })
    }

    /// Notes a movement and reports it when reporting is on and the packet fits.
    pub(crate) fn moved(&mut self, dx: i16, dy: i16, buttons: u8) {
        self.s.dx = self.s.dx.saturating_add(dx);
        self.s.dy = self.s.dy.saturating_add(dy);
        self.s.buttons = buttons & 7;
        if self.s.reporting && !self.s.remote && self.s.queue.len() + 3 <= QUEUE_SIZE {
            self.report();
        }
    }

    pub(crate) fn receive(&mut self, byte: u8) {
        if self.s.wrap && !matches!(byte, 0xff | 0xec) {
            return self.answer(&[byte]);
        }
        match self.s.awaiting.take() {
            Some(command) => {
                match command {
                    0xf3 => self.s.sample_rate = byte,
                    _ => self.s.resolution = byte & 3,
                }
                self.answer(&[ACK]);
            }
            None => self.command(byte),
        }
    }

    fn command(&mut self, command: u8) {
        if command == 0xff {
            *self = Self::new();
            return self.answer(&[ACK, SELF_TEST_PASSED, 0]);
        }
        let known = matches!(command, 0xe6..=0xec | 0xee | 0xf0 | 0xf2..=0xf6);
        self.answer(&[if known { ACK } else { RESEND }]);
        match command {
            0xe6 | 0xe7 => self.s.scaling = command == 0xe7,
            0xe8 | 0xf3 => self.s.awaiting = Some(command),
            0xe9 => self.report_status(),
            0xea => self.s.remote = false,
            0xeb => self.report(),
            0xec | 0xee => self.s.wrap = command == 0xee,
            0xf0 => self.s.remote = true,
            // Device id 0: three bytes a packet, no wheel.
            0xf2 => self.answer(&[0]),
            0xf4 | 0xf5 => self.s.reporting = command == 0xf4,
            0xf6 => {
                self.s = MouseState {
                    queue: std::mem::take(&mut self.s.queue),
                    ..Self::new().s
                }
            }
            _ => {}
        }
    }

    fn report_status(&mut self) {
        let s = &self.s;
        let right_left = s.buttons >> 1 & 1 | (s.buttons & 1) << 2 | s.buttons >> 2 << 1;
        let modes = u8::from(s.scaling) << 4 | u8::from(s.reporting) << 5 | u8::from(s.remote) << 6;
        let status = [modes | right_left, s.resolution, s.sample_rate];
        self.answer(&status);
    }

    /// One movement packet: what does not fit nine bits stays for the next.
    fn report(&mut self) {
        let dx = self.s.dx.clamp(-256, 255);
        let dy = self.s.dy.clamp(-256, 255);
        self.s.dx -= dx;
        self.s.dy -= dy;
        let signs = u8::from(dx < 0) << 4 | u8::from(dy < 0) << 5;
        let packet = [
            8 | signs | self.s.buttons,
            dx.to_le_bytes()[0],
            dy.to_le_bytes()[0],
        ];
        self.answer(&packet);
    }

    fn answer(&mut self, bytes: &[u8]) {
        push(&mut self.s.queue, bytes);
    }
}

/// Appends what fits.
fn push(queue: &mut Vec<u8>, bytes: &[u8]) {
    let room = QUEUE_SIZE - queue.len();
    queue.extend(bytes.iter().take(room));
}

const ACK: u8 = 0xfa;
const RESEND: u8 = 0xfe;
const SELF_TEST_PASSED: u8 = 0xaa;

/// Scan code set 2 to set 1, as the controller translates (Microsoft, "Keyboard Scan Code
/// Specification", revision 1.3a, appendix A).
pub(crate) const SET_2_TO_1: [u8; 128] = [
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59,
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b,
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d,
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f,
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61,
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76,
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f,
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
];
