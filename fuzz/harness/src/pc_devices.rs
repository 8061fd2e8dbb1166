//! The legacy devices under a guest that writes anything, a clock that jumps and saved states
//! that lie.

use arbitrary::{Result, Unstructured};
use pc_devices::{
    AcpiPm, Ata, Button, DebugConsole, FwCfg, I8042, I8254, I8259Pair, Mc146818, ResetControl,
    SECTOR, SystemControlA, TestDevice, TimerWidth,
};

use crate::hostile_state::hostile;

struct Devices {
    pic: I8259Pair,
    pit: I8254,
    rtc: Mc146818,
    kbc: I8042,
    pm: AcpiPm,
    port_92: SystemControlA,
    reset: ResetControl,
    console: DebugConsole,
    disk: Ata<Vec<u8>>,
    fw_cfg: FwCfg,
    test: TestDevice,
    now: u64,
}

/// Drives all devices with `data`.
pub fn pc_devices(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let mut devices = Devices {
        pic: I8259Pair::new(),
        pit: I8254::new(),
        rtc: Mc146818::new(951_827_696),
        kbc: I8042::new(),
        pm: AcpiPm::new(0x600, TimerWidth::Bits24),
        port_92: SystemControlA::default(),
        reset: ResetControl::default(),
        console: DebugConsole::default(),
        disk: Ata::new(vec![0x5a; 40 * SECTOR]),
        fw_cfg: FwCfg::new(),
        test: TestDevice::new(),
        now: 0,
    };
    // Running out of data ends the run.
    while !u.is_empty() && devices.step(&mut u).is_ok() {}
}

impl Devices {
    fn step(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        match u.int_in_range(0..=9)? {
            0..=3 => self.write(u)?,
            4..=5 => self.read(u)?,
            6 => self.pass(u)?,
            7 => self.pic.set_line(u.int_in_range(0..=15)?, u.arbitrary()?),
            8 => self.host(u)?,
            _ => self.restore(u)?,
        }
        Ok(())
    }

    fn write(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let port = port(u)?;
        let length = u.int_in_range(0..=8)?;
        let data = u.bytes(length)?;
        self.pic.write(port, data);
        self.pit.write(port, data);
        self.rtc.write(port, data);
        self.kbc.write(port, data);
        self.pm.write(port, data);
        self.port_92.write(port, data);
        self.reset.write(port, data);
        self.console.write(port, data);
        self.disk.write(port, data);
        self.fw_cfg.write(port, data);
        self.test.write(port, data);
        Ok(())
    }

    fn read(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let port = port(u)?;
        let mut data = vec![0; u.int_in_range(0..=8)?];
        self.pic.read(port, &mut data);
        self.pit.read(port, &mut data);
        self.rtc.read(port, &mut data);
        self.kbc.read(port, &mut data);
        self.pm.read(port, &mut data);
        self.port_92.read(port, &mut data);
        self.reset.read(port, &mut data);
        self.disk.read(port, &mut data);
        self.fw_cfg.read(port, &mut data);
        self.test.read(port, &mut data);
        Ok(())
    }

    /// Lets time pass, or jump to the next deadline, which must then lie behind.
    fn pass(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let earliest = self.deadlines().into_iter().flatten().min();
        self.now = match (earliest, u.int_in_range(0..=3)?) {
            (Some(deadline), 0..=1) => self.now.max(deadline),
            (_, 3) => u.arbitrary()?,
            _ => self.now.saturating_add(u.arbitrary::<u32>()?.into()),
        };
        self.advance();
        // Past 2^62 ns (146 years) times saturate.
        if self.now < 1 << 62 && self.is_on_time() {
            for deadline in self.deadlines().into_iter().flatten() {
                assert!(deadline > self.now, "a deadline that is met must go away");
            }
        }
        Ok(())
    }

    fn advance(&mut self) {
        self.pit.advance(self.now);
        self.rtc.advance(self.now);
        self.kbc.advance(self.now);
        self.pm.advance(self.now);
    }

    fn deadlines(&self) -> [Option<u64>; 4] {
        [
            self.pit.next_deadline(),
            self.rtc.next_deadline(),
            self.kbc.next_deadline(),
            self.pm.next_deadline(),
        ]
    }

    /// A restored device may have seen a later time than ours; it then ignores us.
    fn is_on_time(&self) -> bool {
        let ticks = |ns: u64, per_88_us: u128| u128::from(ns) * per_88_us / 88_000;
        u128::from(self.pit.state().tick) <= ticks(self.now, 105)
            && u128::from(self.pm.state().tick) <= ticks(self.now, 315)
            && self.rtc.state().now <= self.now
            && self.kbc.state().now <= self.now
    }

    fn host(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        match u.int_in_range(0..=4)? {
            0 => drop(self.kbc.key(u.bytes(2)?)),
            1 => self
                .kbc
                .move_mouse(u.arbitrary()?, u.arbitrary()?, u.arbitrary()?),
            2 => self.pm.press(Button::Power),
            3 => drop(self.console.take_output()),
            _ => drop(self.pic.intr().then(|| self.pic.acknowledge())),
        }
        let _ = self.kbc.take_reset() | self.port_92.take_reset() | self.reset.take_reset();
        self.pm.take_sleep();
        Ok(())
    }

    fn restore(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        match u.int_in_range(0..=5)? {
            5 => {
                let state = hostile(u, &self.disk.state())?;
                let disk = vec![0; 40 * SECTOR];
                if let Some(restored) = state.and_then(|state| Ata::restore(disk, state).ok()) {
                    self.disk = restored;
                }
            }
            0 => {
                let state = hostile(u, &self.pic.state())?;
                take(&mut self.pic, state);
            }
            1 => {
                let state = hostile(u, &self.pit.state())?;
                take(&mut self.pit, state);
            }
            2 => {
                let state = hostile(u, &self.rtc.state())?;
                take(&mut self.rtc, state);
            }
            3 => {
                let state = hostile(u, &self.kbc.state())?;
                take(&mut self.kbc, state);
            }
            _ => {
                let state = hostile(u, &self.pm.state())?;
                take(&mut self.pm, state);
            }
        }
        Ok(())
    }
}

fn take<D: TryFrom<S>, S>(device: &mut D, state: Option<S>) {
    if let Some(restored) = state.and_then(|state| D::try_from(state).ok()) {
        *device = restored;
    }
}

/// A port of some device, or any.
fn port(u: &mut Unstructured<'_>) -> Result<u16> {
    const PORTS: [u16; 32] = [
        0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x40, 0x41, 0x42, 0x43, 0x61, 0x70, 0x71, 0x60, 0x64, 0x600,
        0x602, 0x604, 0x608, 0x92, 0xcf9, 0x1f0, 0x1f0, 0x1f1, 0x1f2, 0x1f3, 0x1f4, 0x1f5, 0x1f6,
        0x1f7, 0x3f6, 0x510, 0x2001,
    ];
    if u.ratio(1, 20)? {
        u.arbitrary()
    } else {
        u.choose(&PORTS).copied()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn smoke() {
        arbtest::arbtest(|u| {
            super::pc_devices(u.bytes(u.len())?);
            Ok(())
        })
        .budget_ms(1_000);
    }
}
