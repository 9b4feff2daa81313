//! Any bytes as a WAL stream, fed in pieces of any size: no panic, no memory beyond a multiple of what
//! was fed, the same answer when asked again, and records lent are those handed out.

#![no_main]

use fuzz::within;
use libfuzzer_sys::fuzz_target;
use pgwal::Decoder;
use types::Lsn;

fuzz_target!(|input: &[u8]| {
    let Some((head, bytes)) = input.split_first_chunk::<2>() else { return };
    let piece = usize::from(u16::from_le_bytes(*head)).max(16);
    // The decoder's buffer grows by doubling; a page may be all marks and small records.
    within((384 << 10) + 16 * bytes.len(), || {
        let start = Lsn(0x90_0000);
        let mut decoder = Decoder::new(start, None, 1 << 20, None, None);
        let mut lending = Decoder::new(start, None, 1 << 20, None, None);
        for piece in bytes.chunks(piece) {
            let fed = decoder.feed(decoder.wants(), piece);
            assert!(fed == lending.feed(lending.wants(), piece));
            if fed.is_err() {
                return;
            }
            loop {
                let next = decoder.next();
                let lent = lending.next_borrowed();
                match (&next, &lent) {
                    (Ok(Some(record)), Ok(Some(lent))) => {
                        assert!(record.bytes.len() <= bytes.len());
                        assert!(lent.bytes == record.bytes && lent.span == record.span);
                    }
                    (Ok(None), Ok(None)) => {}
                    (Err(error), Err(same)) => assert!(error == same),
                    _ => panic!("lent and handed out differ"),
                }
                drop(lent);
                match next {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(error) => {
                        assert!(decoder.next().err() == Some(error), "not repeated");
                        assert!(decoder.rewind() == lending.rewind());
                        return;
                    }
                }
            }
        }
    });
});
