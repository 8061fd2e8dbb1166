//! Unpacking the ELF kernel inside a bzImage, so that the guest need not do it instruction by instruction.

use std::io::{Cursor, Read};

use super::bzimage::is_bzimage;
use super::{KernelImage, u32_at};

impl KernelImage {
    /// The ELF kernel that this bzImage carries, if it is packed in a way that we know (LZ4 or XZ).
    ///
    /// The kernel starts the same; only its own unpacking, and with it the choice of a random address, is left out.
    #[must_use]
    pub fn unpacked(&self) -> Option<Self> {
        if !is_bzimage(&self.bytes) {
            return None;
        }
        let payload = payload(&self.bytes)?;
        let bytes = if payload.starts_with(&LZ4_LEGACY) {
            unpack_lz4(&payload[LZ4_LEGACY.len()..])?
        } else if payload.starts_with(&XZ) {
            unpack_xz(payload)?
        } else {
            return None;
        };
        Some(Self {
            name: self.name.clone(),
            bytes,
        })
    }
}

/// boot.rst: `payload_offset` counts from the protected-mode code; the last four bytes are the unpacked size.
fn payload(image: &[u8]) -> Option<&[u8]> {
    let setup_sectors = match usize::from(*image.get(SETUP_SECTS)?) {
        0 => 4,
        sectors => sectors,
    };
    let offset = usize::try_from(u32_at(image, PAYLOAD_OFFSET)?).ok()?;
    let length = usize::try_from(u32_at(image, PAYLOAD_LENGTH)?).ok()?;
    let start = (setup_sectors + 1) * 512 + offset;
    let packed = length.checked_sub(4)?;
    image.get(start..start.checked_add(packed)?)
}

/// The legacy frame: blocks of a 32-bit length and that many bytes.
fn unpack_lz4(mut blocks: &[u8]) -> Option<Vec<u8>> {
    let mut unpacked = Vec::new();
    let mut block = vec![0; LZ4_BLOCK];
    while !blocks.is_empty() {
        let length = usize::try_from(u32_at(blocks, 0)?).ok()?;
        let packed = blocks.get(4..length.checked_add(4)?)?;
        let written = lz4_flex::block::decompress_into(packed, &mut block).ok()?;
        unpacked.extend_from_slice(&block[..written]);
        if unpacked.len() > UNPACKED_MAX {
            return None;
        }
        blocks = &blocks[4 + length..];
    }
    Some(unpacked)
}

fn unpack_xz(packed: &[u8]) -> Option<Vec<u8>> {
    let mut unpacked = Vec::new();
    let decoder = liblzma::read::XzDecoder::new(Cursor::new(packed));
    let limit = u64::try_from(UNPACKED_MAX).ok()?;
    decoder.take(limit).read_to_end(&mut unpacked).ok()?;
    Some(unpacked)
}

const LZ4_LEGACY: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
/// What the legacy frame unpacks to at most, block by block.
const LZ4_BLOCK: usize = 8 << 20;
const XZ: [u8; 6] = [0xfd, b'7', b'z', b'X', b'Z', 0];
/// No kernel is larger; a forged image must not take all memory.
const UNPACKED_MAX: usize = 512 << 20;
const SETUP_SECTS: usize = 0x1f1;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

#[cfg(test)]
mod tests {
    use super::*;

    /// A bzImage of nothing but the header and a payload.
    fn image(payload: &[u8]) -> KernelImage {
        let mut bytes = vec![0; 1024];
        bytes[SETUP_SECTS] = 1;
        bytes[0x1fe..0x200].copy_from_slice(&0xaa55u16.to_le_bytes());
        bytes[0x202..0x206].copy_from_slice(b"HdrS");
        bytes[0x206..0x208].copy_from_slice(&0x020fu16.to_le_bytes());
        let length = u32::try_from(payload.len() + 4).unwrap();
        bytes[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(payload);
        bytes.extend_from_slice(&[0; 4]);
        KernelImage {
            name: "test".into(),
            bytes,
        }
    }

    #[test]
    fn an_lz4_payload_is_unpacked() {
        let packed = lz4_flex::block::compress(b"a kernel, a kernel, a kernel");
        let mut payload = LZ4_LEGACY.to_vec();
        payload.extend_from_slice(&u32::try_from(packed.len()).unwrap().to_le_bytes());
        payload.extend_from_slice(&packed);
        let unpacked = image(&payload).unpacked().unwrap();
        assert_eq!(unpacked.bytes, b"a kernel, a kernel, a kernel");
    }

    #[test]
    fn damaged_payloads_are_refused() {
        let mut payload = LZ4_LEGACY.to_vec();
        payload.extend_from_slice(&[0xff; 12]);
        assert!(image(&payload).unpacked().is_none());
        let mut payload = XZ.to_vec();
        payload.extend_from_slice(&[0x55; 64]);
        assert!(image(&payload).unpacked().is_none());
        let mut cut = image(b"whatever this is");
        cut.bytes.truncate(1030);
        assert!(cut.unpacked().is_none());
    }
}
