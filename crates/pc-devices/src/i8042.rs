//! The i8042 keyboard controller with a keyboard and a mouse, its reset pulse and its A20 gate.
//!
//! Reference: IBM PS/2 Hardware Interface Technical Reference (1988), "Keyboard and Auxiliary
//! Device Controller".

use crate::accesses::{Accesses, each_byte_read, each_byte_write};
use crate::ps2::{Keyboard, KeyboardState, Mouse, MouseState, SET_2_TO_1};
use crate::state_error::{InvalidState, check};

/// Saved state of an [`I8042`]; untrusted until `TryFrom` accepts it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct I8042State {
    /// Command byte: interrupt enables, system flag, disables, translation.
    pub command_byte: u8,
    /// Output port: bit 1 is the A20 gate.
    pub output_port: u8,
    /// Byte in the output buffer.
    pub output: Option<u8>,
    /// Whether that byte came from the mouse.
    pub output_is_aux: bool,
    /// Controller command whose parameter is the next byte written at 0x60.
    pub awaiting: Option<u8>,
    /// Whether the last write went to 0x64.
    pub last_was_command: bool,
    /// 0xf0 was taken from the keyboard: the next byte is translated to a release.
    pub release_prefix: bool,
    /// No byte is taken from a device before this time, in nanoseconds.
    pub wire_free_at: u64,
    /// The last time handed in, in nanoseconds.
    pub now: u64,
    /// A reset was asked for and not yet taken.
    pub reset_requested: bool,
    /// The keyboard.
    pub keyboard: KeyboardState,
    /// The mouse.
    pub mouse: MouseState,
}

/// Keyboard controller at ports 0x60 and 0x64; IRQ 1 for the keyboard, IRQ 12 for the mouse.
///
/// A byte from a device reaches the output buffer some time after the one before it was read, so
/// that each makes an edge of its interrupt line.
#[derive(Clone, Debug)]
pub struct I8042 {
    s: Registers,
    keyboard: Keyboard,
    mouse: Mouse,
    accesses: Accesses<2>,
    interrupts: [u64; 2],
}

#[derive(Clone, Debug)]
struct Registers {
    command_byte: u8,
    output_port: u8,
    output: Option<u8>,
    output_is_aux: bool,
    awaiting: Option<u8>,
    last_was_command: bool,
    release_prefix: bool,
    wire_free_at: u64,
    now: u64,
    reset_requested: bool,
}

impl Default for I8042 {
    fn default() -> Self {
        Self::new()
    }
}

impl I8042 {
    /// The port ranges of the device: first port and count.
    pub const PORTS: &'static [(u16, u16)] = &[(0x60, 1), (0x64, 1)];
    /// Nanoseconds a byte takes from a device to the controller.
    pub const WIRE_NS: u64 = 100_000;

    /// The controller as firmware leaves it: self-test passed, A20 let through, translation on.
    #[must_use]
    pub fn new() -> Self {
        let s = Registers {
            command_byte: SYSTEM_FLAG | KEYBOARD_INTERRUPT | TRANSLATE,
            output_port: OUTPUT_PORT_RUN | OUTPUT_PORT_A20,
            output: None,
            output_is_aux: false,
            awaiting: None,
            last_was_command: false,
            release_prefix: false,
            wire_free_at: 0,
            now: 0,
            reset_requested: false,
        };
        Self::with(s, Keyboard::new(), Mouse::new())
    }

    fn with(s: Registers, keyboard: Keyboard, mouse: Mouse) -> Self {
        Self {
            s,
            keyboard,
            mouse,
            accesses: Accesses::default(),
            interrupts: [0; 2],
        }
    }

    /// Moves time to `now` nanoseconds; an earlier time than the last one changes nothing.
    pub fn advance(&mut self, now: u64) {
        self.s.now = self.s.now.max(now);
        if self.s.output.is_none() && self.s.now >= self.s.wire_free_at {
            self.take_from_device();
        }
    }

    /// When a waiting byte reaches the output buffer, in nanoseconds.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        let waits = self.keyboard_waits() || self.mouse_waits();
        (waits && self.s.output.is_none()).then_some(self.s.wire_free_at)
    }

    /// Reads bytes from consecutive ports; a port that is not the device's reads as 0xff.
    pub fn read(&mut self, port: u16, data: &mut [u8]) {
        each_byte_read(port, data, |port| match port {
            0x60 => {
                self.accesses.count_read(0);
                self.read_data()
            }
            0x64 => {
                self.accesses.count_read(1);
                self.status()
            }
            _ => 0xff,
        });
    }

    /// Writes bytes to consecutive ports; a port that is not the device's ignores them.
    pub fn write(&mut self, port: u16, data: &[u8]) {
        each_byte_write(port, data, |port, value| match port {
            0x60 => {
                self.accesses.count_write(0);
                self.write_data(value);
            }
            0x64 => {
                self.accesses.count_write(1);
                self.write_command(value);
            }
            _ => {}
        });
    }

    /// The keyboard's interrupt, IRQ 1.
    #[must_use]
    pub fn keyboard_irq(&self) -> bool {
        let s = &self.s;
        s.output.is_some() && !s.output_is_aux && s.command_byte & KEYBOARD_INTERRUPT != 0
    }

    /// The mouse's interrupt, IRQ 12.
    #[must_use]
    pub fn mouse_irq(&self) -> bool {
        let s = &self.s;
        s.output.is_some() && s.output_is_aux && s.command_byte & MOUSE_INTERRUPT != 0
    }

    /// Whether address line 20 is let through.
    #[must_use]
    pub fn a20(&self) -> bool {
        self.s.output_port & OUTPUT_PORT_A20 != 0
    }

    /// Takes a pending request to reset the processor.
    pub fn take_reset(&mut self) -> bool {
        std::mem::take(&mut self.s.reset_requested)
    }

    /// Presses or releases a key, given as its whole scan code of set 2 (at most 8 bytes).
    ///
    /// Answers `false`, having done nothing, when the keyboard's queue of 16 bytes has no room.
    pub fn key(&mut self, scan_codes: &[u8]) -> bool {
        self.keyboard.key(scan_codes)
    }

    /// Moves the mouse to the right and upwards; `buttons` are left, right, middle in bits 0 to 2.
    pub fn move_mouse(&mut self, dx: i16, dy: i16, buttons: u8) {
        self.mouse.moved(dx, dy, buttons);
    }

    /// Byte accesses by register: 0x60, 0x64.
    #[must_use]
    pub fn accesses(&self) -> &Accesses<2> {
        &self.accesses
    }

    /// Bytes that raised IRQ 1 and IRQ 12.
    #[must_use]
    pub fn interrupts(&self) -> [u64; 2] {
        self.interrupts
    }

    /// A copy of the architectural state.
    #[must_use]
    pub fn state(&self) -> I8042State {
        let s = &self.s;
        I8042State {
            command_byte: s.command_byte,
            output_port: s.output_port,
            output: s.output,
            output_is_aux: s.output_is_aux,
            awaiting: s.awaiting,
            last_was_command: s.last_was_command,
            release_prefix: s.release_prefix,
            wire_free_at: s.wire_free_at,
            now: s.now,
            reset_requested: s.reset_requested,
            keyboard: self.keyboard.s.clone(),
            mouse: self.mouse.s.clone(),
        }
    }

    fn status(&self) -> u8 {
        let s = &self.s;
        u8::from(s.output.is_some())
            | s.command_byte & SYSTEM_FLAG
            | u8::from(s.last_was_command) << 3
            | STATUS_UNLOCKED
            | u8::from(s.output.is_some() && s.output_is_aux) << 5
    }

    fn read_data(&mut self) -> u8 {
        // An empty buffer reads as the last byte on real controllers; zero is as good.
        let byte = self.s.output.take().unwrap_or(0);
        self.s.wire_free_at = self
            .s
            .wire_free_at
            .max(self.s.now.saturating_add(Self::WIRE_NS));
        byte
    }

    fn write_command(&mut self, command: u8) {
        self.s.last_was_command = true;
        self.s.awaiting = None;
        match command {
            0x20 => self.put(self.s.command_byte, false),
            0x60 | 0xd1..=0xd4 => self.s.awaiting = Some(command),
            0xa7 => self.s.command_byte |= MOUSE_DISABLED,
            0xa8 => self.s.command_byte &= !MOUSE_DISABLED,
            0xa9 | 0xab => self.put(0, false),
            0xaa => {
                self.s.command_byte |= SYSTEM_FLAG;
                self.put(0x55, false);
            }
            0xad => self.s.command_byte |= KEYBOARD_DISABLED,
            0xae => self.s.command_byte &= !KEYBOARD_DISABLED,
            0xc0 => self.put(INPUT_PORT, false),
            0xd0 => self.put(self.s.output_port, false),
            // Pulses the output port bits that are 0 in the command: bit 0 is the reset line.
            0xf0..=0xff => self.s.reset_requested |= command & 1 == 0,
            _ => {}
        }
    }

    fn write_data(&mut self, value: u8) {
        self.s.last_was_command = false;
        match self.s.awaiting.take() {
            Some(0x60) => self.s.command_byte = value,
            Some(0xd1) => {
                self.s.output_port = value;
                self.s.reset_requested |= value & OUTPUT_PORT_RUN == 0;
            }
            Some(0xd2) => self.put(value, false),
            Some(0xd3) => self.put(value, true),
            Some(_) => {
                self.s.command_byte &= !MOUSE_DISABLED;
                self.mouse.receive(value);
                self.hold_wire();
            }
            None => {
                self.s.command_byte &= !KEYBOARD_DISABLED;
                self.keyboard.receive(value);
                self.hold_wire();
            }
        }
    }

    fn hold_wire(&mut self) {
        self.s.wire_free_at = self
            .s
            .wire_free_at
            .max(self.s.now.saturating_add(Self::WIRE_NS));
    }

    /// Puts a byte of the controller's own into the output buffer, over what is there.
    fn put(&mut self, byte: u8, aux: bool) {
        self.s.output = Some(byte);
        self.s.output_is_aux = aux;
        self.interrupts[0] += u64::from(self.keyboard_irq());
        self.interrupts[1] += u64::from(self.mouse_irq());
    }

    fn keyboard_waits(&self) -> bool {
        self.s.command_byte & KEYBOARD_DISABLED == 0 && !self.keyboard.s.queue.is_empty()
    }

    fn mouse_waits(&self) -> bool {
        self.s.command_byte & MOUSE_DISABLED == 0 && !self.mouse.s.queue.is_empty()
    }

    fn take_from_device(&mut self) {
        if self.keyboard_waits() {
            let byte = self.keyboard.s.queue.remove(0);
            match self.translate(byte) {
                Some(byte) => self.put(byte, false),
                // A prefix alone tells the guest nothing: go on to the byte behind it.
                None => self.take_from_device(),
            }
        } else if self.mouse_waits() {
            let byte = self.mouse.s.queue.remove(0);
            self.put(byte, true);
        }
    }

    fn translate(&mut self, byte: u8) -> Option<u8> {
        if self.s.command_byte & TRANSLATE == 0 {
            self.s.release_prefix = false;
            return Some(byte);
        }
        if byte == 0xf0 {
            self.s.release_prefix = true;
            return None;
        }
        let release = if std::mem::take(&mut self.s.release_prefix) {
            0x80
        } else {
            0
        };
        Some(match byte {
            0x83 => 0x41 | release,
            0x84 => 0x54 | release,
            _ => SET_2_TO_1
                .get(usize::from(byte))
                .map_or(byte, |&code| code | release),
        })
    }
}

impl TryFrom<I8042State> for I8042 {
    type Error = InvalidState;

    fn try_from(state: I8042State) -> Result<Self, InvalidState> {
        let known = state
            .awaiting
            .is_none_or(|command| matches!(command, 0x60 | 0xd1..=0xd4));
        check(known, "i8042", "awaiting")?;
        let s = Registers {
            command_byte: state.command_byte,
            output_port: state.output_port,
            output: state.output,
            output_is_aux: state.output_is_aux,
            awaiting: state.awaiting,
            last_was_command: state.last_was_command,
            release_prefix: state.release_prefix,
            wire_free_at: state.wire_free_at,
            now: state.now,
            reset_requested: state.reset_requested,
        };
        Ok(Self::with(
            s,
            Keyboard::restore(state.keyboard)?,
            Mouse::restore(state.mouse)?,
        ))
    }
}

// Command byte.
const KEYBOARD_INTERRUPT: u8 = 1 << 0;
const MOUSE_INTERRUPT: u8 = 1 << 1;
const SYSTEM_FLAG: u8 = 1 << 2;
const KEYBOARD_DISABLED: u8 = 1 << 4;
const MOUSE_DISABLED: u8 = 1 << 5;
const TRANSLATE: u8 = 1 << 6;
// Status register.
const STATUS_UNLOCKED: u8 = 1 << 4;
// Output port.
const OUTPUT_PORT_RUN: u8 = 1 << 0;
const OUTPUT_PORT_A20: u8 = 1 << 1;
/// Input port: keyboard not inhibited.
const INPUT_PORT: u8 = 1 << 7;

#[cfg(test)]
mod tests {
    use super::*;

    fn inb(kbc: &mut I8042, port: u16) -> u8 {
        let mut data = [0];
        kbc.read(port, &mut data);
        data[0]
    }

    /// Reads a byte as a polling driver does, letting time pass while the buffer is empty.
    fn poll(kbc: &mut I8042) -> u8 {
        for _ in 0..4 {
            if inb(kbc, 0x64) & 1 != 0 {
                return inb(kbc, 0x60);
            }
            let at = kbc.next_deadline().expect("a byte is on its way");
            kbc.advance(at);
        }
        panic!("no byte came");
    }

    #[test]
    fn the_controller_tests_and_its_command_byte_answer() {
        let mut kbc = I8042::new();
        kbc.write(0x64, &[0xaa]);
        assert_eq!(inb(&mut kbc, 0x64) & 0x29, 0x09);
        assert_eq!(inb(&mut kbc, 0x60), 0x55);
        kbc.write(0x64, &[0x60]);
        kbc.write(0x60, &[0x74]);
        kbc.write(0x64, &[0x20]);
        assert_eq!(inb(&mut kbc, 0x60), 0x74);
        assert!(!kbc.keyboard_irq());
    }

    #[test]
    fn the_aux_loopback_that_linux_probes_with_comes_back_as_aux() {
        let mut kbc = I8042::new();
        kbc.write(0x64, &[0xd3]);
        kbc.write(0x60, &[0x5a]);
        assert_eq!(inb(&mut kbc, 0x64) & 0x21, 0x21);
        assert_eq!(inb(&mut kbc, 0x60), 0x5a);
    }

    #[test]
    fn the_keyboard_resets_and_identifies_itself() {
        let mut kbc = I8042::new();
        kbc.write(0x64, &[0x60]);
        kbc.write(0x60, &[0x05]);
        kbc.write(0x60, &[0xff]);
        assert!(!kbc.keyboard_irq(), "the answer takes its time");
        assert_eq!([poll(&mut kbc), poll(&mut kbc)], [0xfa, 0xaa]);
        kbc.write(0x60, &[0xf2]);
        assert_eq!(
            [poll(&mut kbc), poll(&mut kbc), poll(&mut kbc)],
            [0xfa, 0xab, 0x83]
        );
        kbc.write(0x60, &[0xed]);
        assert_eq!(poll(&mut kbc), 0xfa);
        kbc.write(0x60, &[0x02]);
        assert_eq!(poll(&mut kbc), 0xfa);
        assert_eq!(kbc.state().keyboard.leds, 2);
    }

    #[test]
    fn each_key_byte_makes_an_edge_and_is_translated() {
        let mut kbc = I8042::new();
        assert!(kbc.key(&[0x1c]), "A");
        assert!(kbc.key(&[0xf0, 0x1c]));
        kbc.advance(0);
        assert!(kbc.keyboard_irq());
        assert_eq!(inb(&mut kbc, 0x60), 0x1e);
        assert!(!kbc.keyboard_irq());
        kbc.advance(I8042::WIRE_NS);
        assert!(kbc.keyboard_irq());
        assert_eq!(inb(&mut kbc, 0x60), 0x9e);
        assert_eq!(kbc.next_deadline(), None);
    }

    #[test]
    fn the_mouse_answers_and_reports() {
        let mut kbc = I8042::new();
        kbc.write(0x64, &[0x60]);
        kbc.write(0x60, &[0x47]);
        for (command, answer) in [
            (0xff, &[0xfa, 0xaa, 0x00][..]),
            (0xf2, &[0xfa, 0x00]),
            (0xf4, &[0xfa]),
        ] {
            kbc.write(0x64, &[0xd4]);
            kbc.write(0x60, &[command]);
            for &byte in answer {
                assert_eq!(poll(&mut kbc), byte);
            }
        }
        kbc.move_mouse(-3, 300, 1);
        assert_eq!(
            [poll(&mut kbc), poll(&mut kbc), poll(&mut kbc)],
            [0x19, 0xfd, 0xff]
        );
        assert_eq!(kbc.state().mouse.dy, 45);
    }

    #[test]
    fn resets_by_pulse_and_by_output_port() {
        let mut kbc = I8042::new();
        kbc.write(0x64, &[0xff]);
        assert!(!kbc.take_reset());
        kbc.write(0x64, &[0xfe]);
        assert!(kbc.take_reset());
        kbc.write(0x64, &[0xd1]);
        kbc.write(0x60, &[0xdd]);
        assert!(!kbc.a20());
        assert!(!kbc.take_reset());
        kbc.write(0x64, &[0xd1]);
        kbc.write(0x60, &[0xde]);
        assert!(kbc.take_reset());
    }

    #[test]
    fn queues_are_bounded() {
        let mut kbc = I8042::new();
        (0..100).for_each(|_| kbc.write(0x60, &[0xf2]));
        assert_eq!(kbc.state().keyboard.queue.len(), 16);
        assert!(!kbc.key(&[0x1c]));
        let mut state = kbc.state();
        state.keyboard.queue = vec![0xf0; 17];
        assert_eq!(I8042::try_from(state).unwrap_err().field, "queue");
    }
}
