//! Full-page images: from their stored form to the 8 KiB of the page.

use crate::layout::BLOCK_SIZE;
use crate::pglz;
use crate::record::{BlockImage, Compression, Source};

/// An image that cannot be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("full-page image ({compression:?}, {stored} bytes stored): {what}")]
pub struct ImageError {
    /// How it is compressed.
    pub compression: Compression,
    /// Length as stored.
    pub stored: usize,
    /// What is wrong.
    pub what: &'static str,
}

impl<B: Source> BlockImage<B> {
    /// Writes the page to `page`. On an error the content of `page` is not defined.
    ///
    /// # Errors
    /// [`ImageError`] when the stored bytes do not give a page.
    pub fn restore(&self, page: &mut [u8; BLOCK_SIZE]) -> Result<(), ImageError> {
        let wrong =
            |what| ImageError { compression: self.compression, stored: self.stored.len(), what };
        let (hole, hole_length) = (usize::from(self.hole_offset), usize::from(self.hole_length));
        let length = BLOCK_SIZE.checked_sub(hole_length).ok_or(wrong("hole too long"))?;
        if hole > length {
            return Err(wrong("hole beyond the page"));
        }
        // Unpack to the front, then move what lies behind the hole into place.
        let target = &mut page[..length];
        let unpacked = match self.compression {
            Compression::None => {
                if self.stored.len() != length {
                    return Err(wrong("length and hole do not make a page"));
                }
                target.copy_from_slice(&self.stored);
                length
            }
            Compression::Pglz => {
                pglz::decompress(&self.stored, target).ok_or(wrong("corrupt pglz data"))?
            }
            Compression::Lz4 => lz4_flex::block::decompress_into(&self.stored, target)
                .map_err(|_| wrong("corrupt LZ4 data"))?,
            Compression::Zstd => zstd::bulk::decompress_to_buffer(&self.stored, target)
                .map_err(|_| wrong("corrupt Zstandard data"))?,
        };
        if unpacked != length {
            return Err(wrong("unpacks to less than a page"));
        }
        page.copy_within(hole..length, hole + hole_length);
        page[hole..hole + hole_length].fill(0);
        Ok(())
    }
}

impl BlockImage {
    /// The image of a whole page, uncompressed: without the hole when the page has one that
    /// PostgreSQL would leave out (`standard`: between `pd_lower` and `pd_upper`).
    #[must_use]
    pub fn of_page(page: &[u8; BLOCK_SIZE], standard: bool, apply: bool) -> BlockImage {
        let word = |at: usize| u16::from_le_bytes([page[at], page[at + 1]]);
        // pd_lower and pd_upper.
        let (lower, upper) = (word(12), word(14));
        let sane = usize::from(lower) >= crate::layout::PAGE_HEADER_SIZE
            && lower < upper
            && usize::from(upper) <= BLOCK_SIZE;
        let (hole_offset, hole_length) =
            if standard && sane { (lower, upper - lower) } else { (0, 0) };
        let mut stored = Vec::with_capacity(BLOCK_SIZE - usize::from(hole_length));
        stored.extend_from_slice(&page[..usize::from(hole_offset)]);
        stored.extend_from_slice(&page[usize::from(hole_offset) + usize::from(hole_length)..]);
        let stored = stored.into();
        BlockImage { stored, hole_offset, hole_length, compression: Compression::None, apply }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn page() -> [u8; BLOCK_SIZE] {
        let mut page = [0; BLOCK_SIZE];
        for (at, byte) in page.iter_mut().enumerate() {
            *byte = (at % 253) as u8;
        }
        page[12..16].copy_from_slice(&[100, 0, 0, 0x1f]);
        page[100..0x1f00].fill(0);
        page
    }

    #[test]
    fn an_image_gives_its_page_back_whatever_the_compression() {
        let page = page();
        let plain = BlockImage::of_page(&page, true, true);
        assert_eq!((plain.hole_offset, plain.hole_length), (100, 0x1f00 - 100));
        let lz4 = Bytes::from(lz4_flex::block::compress(&plain.stored));
        let zstd = Bytes::from(zstd::bulk::compress(&plain.stored, 3).expect("compressible"));
        // One literal group at a time: what a pglz compressor writes that finds nothing.
        let pglz: Bytes = plain.stored.chunks(8).flat_map(|group| [&[0], group].concat()).collect();
        for (compression, stored) in [
            (Compression::None, plain.stored.clone()),
            (Compression::Lz4, lz4),
            (Compression::Zstd, zstd),
            (Compression::Pglz, pglz),
        ] {
            let image = BlockImage { stored, compression, ..plain.clone() };
            let mut restored = [0xee; BLOCK_SIZE];
            assert_eq!(image.restore(&mut restored), Ok(()), "{compression:?}");
            assert!(restored == page, "{compression:?}");
        }
        let whole = BlockImage::of_page(&page, false, true);
        assert_eq!(whole.stored.len(), BLOCK_SIZE);
    }

    proptest! {
        #[test]
        fn arbitrary_images_never_panic(
            stored in prop::collection::vec(any::<u8>(), 0..9000),
            hole_offset: u16,
            hole_length: u16,
            which in 0usize..4,
        ) {
            let compression =
                [Compression::None, Compression::Pglz, Compression::Lz4, Compression::Zstd][which];
            let stored = Bytes::from(stored);
            let image = BlockImage { stored, hole_offset, hole_length, compression, apply: true };
            let mut page = [0; BLOCK_SIZE];
            prop_assert!(image.restore(&mut page).is_ok() || image.restore(&mut page).is_err());
        }
    }
}
