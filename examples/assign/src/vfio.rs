//! A function of the host's own, through the kernel's VFIO.
#![expect(
    unsafe_code,
    reason = "mapping memory for a device takes an ioctl; this module holds the one call"
)]

use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use machine::kernel::Ram;
use machine::{AssignedDevice, DeviceMemory, DmaRange, Signalling};
use vfio_bindings::bindings::vfio::{
    VFIO_BASE, VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE, VFIO_PCI_INTX_IRQ_INDEX,
    VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX, VFIO_TYPE, vfio_iommu_type1_dma_map,
};
use vfio_ioctls::{VfioContainer, VfioDevice, VfioError};
use vm_memory::{GuestAddress, GuestMemoryBackend};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// The function, taken from the host's drivers.
pub struct VfioPciDevice {
    device: VfioDevice,
    container: Arc<VfioContainer>,
    ram: Ram,
    signalling: Option<(u32, Vec<EventFd>)>,
}

impl fmt::Debug for VfioPciDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VfioPciDevice")
            .field("signalling", &self.signalling)
            .finish_non_exhaustive()
    }
}

impl VfioPciDevice {
    /// Opens the function at `place`, such as 0000:01:00.0, which must be bound to vfio-pci, and resets it.
    ///
    /// # Errors
    ///
    /// When the host has no VFIO, no such function, or does not let us.
    pub fn open(place: &str, ram: Ram) -> Result<Self> {
        let path = function_path(place)?;
        let container = VfioContainer::new(None);
        let container = container.context("the host has no VFIO, or does not let us use it")?;
        let container = Arc::new(container);
        let device = VfioDevice::new(&path, Arc::clone(&container) as _, true);
        let device = device
            .with_context(|| format!("{place} is not to be had: is it bound to vfio-pci?"))?;
        device.reset();
        Ok(Self {
            device,
            container,
            ram,
            signalling: None,
        })
    }

    fn signal(&mut self, way: Signalling) -> Result<(), VfioError> {
        if let Some((index, _)) = self.signalling.take() {
            self.device.disable_irq(index)?;
        }
        let (index, count) = match way {
            Signalling::Off => return Ok(()),
            Signalling::Pin => (VFIO_PCI_INTX_IRQ_INDEX, 1),
            Signalling::Msi(count) => (VFIO_PCI_MSI_IRQ_INDEX, count.into()),
            Signalling::MsiX(count) => (VFIO_PCI_MSIX_IRQ_INDEX, count.into()),
        };
        let there = self.device.get_irq_info(index).map_or(0, |irq| irq.count);
        let events = (0..count.min(there)).map(|_| EventFd::new(EFD_NONBLOCK));
        let events: Vec<_> = events
            .collect::<io::Result<_>>()
            .map_err(|_| VfioError::VfioDeviceEnableIrq)?;
        if !events.is_empty() {
            self.device.enable_irq(index, events.iter().collect())?;
            self.signalling = Some((index, events));
        }
        Ok(())
    }
}

impl AssignedDevice for VfioPciDevice {
    fn window(&self, bar: usize) -> u64 {
        u32::try_from(bar).map_or(0, |bar| self.device.get_region_size(bar))
    }

    fn read(
        &mut self,
        region: usize,
        offset: u64,
        data: &mut [u8],
        _: &dyn DeviceMemory,
    ) -> io::Result<()> {
        self.device.region_read(number(region), data, offset);
        Ok(())
    }

    fn write(
        &mut self,
        region: usize,
        offset: u64,
        data: &[u8],
        _: &dyn DeviceMemory,
    ) -> io::Result<()> {
        self.device.region_write(number(region), data, offset);
        Ok(())
    }

    fn set_signalling(&mut self, way: Signalling) -> io::Result<()> {
        self.signal(way).map_err(io::Error::other)
    }

    fn unmask_pin(&mut self) -> io::Result<()> {
        match self.signalling {
            Some((VFIO_PCI_INTX_IRQ_INDEX, _)) => self
                .device
                .unmask_irq(VFIO_PCI_INTX_IRQ_INDEX)
                .map_err(io::Error::other),
            _ => Ok(()),
        }
    }

    fn poll(&mut self, vectors: &mut Vec<u16>, _: &dyn DeviceMemory) -> io::Result<()> {
        if let Some((_, events)) = &self.signalling {
            let told = (0u16..)
                .zip(events)
                .filter(|(_, event)| event.read().is_ok());
            vectors.extend(told.map(|(vector, _)| vector));
        }
        Ok(())
    }

    fn maps_memory(&self) -> bool {
        true
    }

    fn map(&mut self, range: &DmaRange) -> io::Result<()> {
        let pointer = self.ram.get_host_address(GuestAddress(range.address));
        let flag = |set, flag| if set { flag } else { 0 };
        let map = vfio_iommu_type1_dma_map {
            argsz: u32::try_from(size_of::<vfio_iommu_type1_dma_map>()).expect("a few words"),
            flags: flag(range.read, VFIO_DMA_MAP_FLAG_READ)
                | flag(range.write, VFIO_DMA_MAP_FLAG_WRITE),
            vaddr: pointer.map_err(io::Error::other)?.addr() as u64,
            iova: range.iova,
            size: range.size,
        };
        let request = u64::from(VFIO_TYPE) << 8 | u64::from(VFIO_BASE + VFIO_IOMMU_MAP_DMA);
        // SAFETY: the container is open; VFIO_IOMMU_MAP_DMA reads one `vfio_iommu_type1_dma_map`, and the pages that
        // it names are the guest's RAM, which `ram` keeps mapped and nobody here refers to as Rust values.
        let answer = unsafe { libc::ioctl(self.container.as_raw_fd(), request, &map) };
        if answer < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    fn unmap(&mut self, range: &DmaRange) -> io::Result<()> {
        let size = usize::try_from(range.size).map_err(io::Error::other)?;
        let done = self.container.vfio_dma_unmap(range.iova, size);
        done.map_err(io::Error::other)
    }
}

fn function_path(place: &str) -> Result<PathBuf> {
    let name = !place.is_empty()
        && place
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit() || b":.".contains(&byte));
    ensure!(
        name,
        "{place:?} is no place of a PCI function, such as 0000:01:00.0"
    );
    let path = Path::new("/sys/bus/pci/devices").join(place);
    ensure!(path.exists(), "the host has no PCI function {place}");
    Ok(path)
}

fn number(region: usize) -> u32 {
    u32::try_from(region).expect("one of nine")
}

/// After `VFIO_BASE`, `linux/vfio.h`.
const VFIO_IOMMU_MAP_DMA: u32 = 13;
