//! (page, record) -> page, exactly as PostgreSQL's own recovery; one module a resource manager.
//!
//! Pure: no I/O, no clock, no state between calls. Every access to a page or a record is checked
//! against its bounds; what does not fit is an error that names it, never a panic, never skipped.
//!
//! Reading order: `engine` (dispatch by key), [`state`] (the server's counters), `slru`
//! (transaction status and its like), `page` (a page's own structure), `rm` (what each resource
//! manager's records do to it), [`mask`] (comparing pages).

pub mod diff;
mod engine;
mod fault;
pub mod mask;
mod page;
mod read;
mod rm;
mod slru;
pub mod state;
mod step;
#[cfg(test)]
mod tests;
mod tuple;

pub use engine::Postgres;
pub use fault::Fault;
pub use state::State;
pub use step::Record;
