//! The memory that an interpreted program sees: pieces that don't touch, so that what goes past the end
//! of one is noticed.

use anyhow::Context as _;

/// A piece has its number in the upper half of its addresses, from 1 on: 0 is no address.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pieces: Vec<Vec<u8>>,
}

impl Memory {
    /// Adds a piece, and gives its address.
    pub(crate) fn add(&mut self, bytes: Vec<u8>) -> u64 {
        self.pieces.push(bytes);
        (self.pieces.len() as u64) << 32
    }

    pub(crate) fn bytes(&self, address: u64, size: usize) -> anyhow::Result<&[u8]> {
        let (piece, offset) = split(address);
        self.pieces
            .get(piece)
            .and_then(|piece| piece.get(offset..offset + size))
            .with_context(|| format!("reads {size} bytes at {address:#x}, where there is nothing"))
    }

    pub(crate) fn bytes_mut(&mut self, address: u64, size: usize) -> anyhow::Result<&mut [u8]> {
        let (piece, offset) = split(address);
        self.pieces
            .get_mut(piece)
            .and_then(|piece| piece.get_mut(offset..offset + size))
            .with_context(|| format!("writes {size} bytes at {address:#x}, where there is nothing"))
    }

    /// A number of up to 8 bytes.
    pub(crate) fn number(&self, address: u64, size: usize) -> anyhow::Result<u64> {
        let mut number = [0; 8];
        number[..size].copy_from_slice(self.bytes(address, size)?);
        Ok(u64::from_le_bytes(number))
    }

    pub(crate) fn set_number(
        &mut self,
        address: u64,
        size: usize,
        number: u64,
    ) -> anyhow::Result<()> {
        self.bytes_mut(address, size)?
            .copy_from_slice(&number.to_le_bytes()[..size]);
        Ok(())
    }
}

fn split(address: u64) -> (usize, usize) {
    let piece = (address >> 32).wrapping_sub(1) as usize;
    (piece, (address & 0xffff_ffff) as usize)
}
