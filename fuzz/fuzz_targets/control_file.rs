//! Any bytes as `pg_control`: an error, or a file that survives encoding.

#![no_main]

use fuzz::within;
use libfuzzer_sys::fuzz_target;
use pgwal::ControlFile;

fuzz_target!(|bytes: &[u8]| {
    within(32 << 10, || {
        if let Ok(control) = ControlFile::decode(bytes) {
            assert!(ControlFile::decode(&control.encode()).is_ok());
        }
    });
});
