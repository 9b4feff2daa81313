//! Any bytes as the server's state, and any record applied to it.

#![no_main]

use fuzz::Case;
use fuzz::case::SPAN;
use fuzz::within;
use libfuzzer_sys::fuzz_target;
use pgwal::keys::Key;
use redo::{Postgres, State};
use types::Engine;

fuzz_target!(|input: &[u8]| {
    let case = Case::read(input);
    within((16 << 10) + 32 * input.len(), || {
        let mut states = vec![State::default()];
        if let Ok(state) = State::decode(&case.page[..State::SIZE]) {
            assert_eq!(State::decode(&state.encode()), Ok(state));
            states.push(state);
        }
        for state in states {
            let mut page = state.encode();
            if Postgres.apply(&Key::State.encode(), &mut page, SPAN, &case.body).is_ok() {
                let state = State::decode(&page).expect("a state stays a state");
                assert_eq!(state.encode(), page);
            }
        }
    });
});
