//! Decoder of PostgreSQL's own compression (`common/pg_lzcompress.c`).
//!
//! Groups of a control byte and eight items, the control byte's lowest bit for the first. Bit 0: a
//! literal byte. Bit 1: a copy from the output, two bytes `LLLL oooo` (high nibble of the first
//! byte: upper four bits of the twelve-bit distance; low nibble: length minus 3) `OOOO OOOO` (lower
//! eight bits of the distance), and when the nibble is 15 a third byte that is added to the length.

/// Unpacks `stored` into `out`; the number of bytes, which is never more than `out` holds. `None`
/// when the data is corrupt: it ends early, reaches before its start or goes on when `out` is full.
#[must_use]
pub fn decompress(stored: &[u8], out: &mut [u8]) -> Option<usize> {
    let mut input = stored.iter().copied();
    let mut filled = 0;
    'groups: while let Some(mut control) = input.next() {
        for _ in 0..8 {
            if control & 1 == 0 {
                let Some(literal) = input.next() else { break 'groups };
                *out.get_mut(filled)? = literal;
                filled += 1;
            } else {
                let first = input.next()?;
                let mut length = usize::from(first & 0x0f) + 3;
                let distance = usize::from(first & 0xf0) << 4 | usize::from(input.next()?);
                if length == 18 {
                    length += usize::from(input.next()?);
                }
                if distance == 0 || distance > filled {
                    return None;
                }
                // The last copy may be longer than the page; PostgreSQL cuts it too.
                let length = length.min(out.len() - filled);
                copy(out, filled, distance, length);
                filled += length;
            }
            control >>= 1;
            if filled == out.len() {
                break 'groups;
            }
        }
    }
    input.next().is_none().then_some(filled)
}

/// Repeats what lies `distance` back; source and target may overlap, then the copy repeats itself.
fn copy(out: &mut [u8], at: usize, distance: usize, length: usize) {
    let from = at - distance;
    let mut done = 0;
    while done < length {
        // Everything between source and target is there already; it doubles with every round.
        let count = (distance + done).min(length - done);
        out.copy_within(from..from + count, at + done);
        done += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn copies_may_overlap_themselves() {
        // Literal "ab", then 2 back for 3+4 bytes.
        let mut out = [0; 9];
        assert_eq!(decompress(&[0b100, b'a', b'b', 0x04, 0x02], &mut out), Some(9));
        assert_eq!(&out, b"ababababa");
        // A long copy: nibble 15 and one more byte.
        let mut out = [0; 1 + 18 + 200];
        assert_eq!(decompress(&[0b10, b'x', 0x0f, 0x01, 200], &mut out), Some(219));
        assert!(out.iter().all(|byte| *byte == b'x'));
    }

    #[test]
    fn corrupt_data_is_refused() {
        let mut out = [0; 16];
        for bad in [
            &[0b1u8, 0x00, 0x01][..],
            &[0b10, b'a', 0x00, 0x00],
            &[0b10, b'a', 0x00, 0x02],
            &[0b10, b'a', 0x0f, 0x01],
            &[0b10, b'a', 0x00],
            &[0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1],
        ] {
            assert_eq!(decompress(bad, &mut out), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            stored in prop::collection::vec(any::<u8>(), 0..300),
            size in 0usize..600,
        ) {
            let mut out = vec![0; size];
            if let Some(filled) = decompress(&stored, &mut out) {
                prop_assert!(filled <= size);
            }
        }
    }
}
