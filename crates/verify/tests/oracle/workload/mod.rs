//! Statements and events that make PostgreSQL write every type of record.

mod heap;
mod indexes;
mod lifecycle;
mod rest;

use crate::server::Server;

/// Runs all of it.
pub fn run(server: &mut Server) {
    type Part = fn(&mut Server);
    let parts: [(&str, Part); 16] = [
        ("heap", |s| heap::heap_tables(s)),
        ("locks", |s| heap::locks(s)),
        ("btree", |s| indexes::btrees(s)),
        ("hash", |s| indexes::hashes(s)),
        ("gin", |s| indexes::gins(s)),
        ("gist", |s| indexes::gists(s)),
        ("spgist", |s| indexes::spgists(s)),
        ("brin", |s| indexes::brins(s)),
        ("others", |s| rest::others(s)),
        ("databases", |s| rest::databases(s)),
        ("logical", |s| rest::logical(s)),
        ("images", |s| rest::images(s)),
        ("hints", lifecycle::hints),
        ("truncation", lifecycle::truncation),
        ("crash and promotion", lifecycle::crash_and_promotion),
        ("minimal", lifecycle::minimal),
    ];
    for (name, part) in parts {
        let begun = std::time::Instant::now();
        part(server);
        println!("workload {name}: {:?}", begun.elapsed());
    }
}
