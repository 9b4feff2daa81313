//! Clusters that begin with counters near the end of their range.
//!
//! A volume begins as what `initdb` makes. A directory of programs stands in for PostgreSQL's, in which
//! `initdb` is a script: the real one, then `pg_resetwal` to the counters wanted. Ids may be at most
//! half the circle ahead of the oldest one alive, so it goes in steps, with everything frozen in between.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::Options;
use crate::tools::pg_bin;

/// Counters of a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Counters {
    /// Next transaction id.
    pub xid: u32,
    /// Next multixact.
    pub multi: u32,
    /// Offset of its first member.
    pub member: u32,
    /// Next object id.
    pub oid: u32,
}

/// The script's functions: segments of zeros where the server expects its counters' pages, counters
/// set, everything frozen.
const FUNCTIONS: &str = r#"
zeros() { # directory, counter, entries a page
  local file="$data/$1/$(printf %04X $(($2 / $3 / 32)))"
  [ -e "$file" ] && [ "$(stat -c %s "$file")" -ge 262144 ] || truncate -s 262144 "$file"
}
age() { # xid, multixact, member, oid
  "$bin/pg_resetwal" -D "$data" -x "$1" -m "$2,$2" -O "$3" -o "$4" >/dev/null
  zeros pg_xact "$1" 32768
  zeros pg_multixact/offsets "$2" 2048
  zeros pg_multixact/members "$3" 1636
}
single() { # database, statements
  echo "$2" | "$bin/postgres" --single -D "$data" "$1" >/dev/null
}
freeze() { for database in template0 template1 postgres; do single $database "vacuum freeze"; done; }
"#;

/// Options of a cluster that begins with these counters. `before` runs, a statement a line, in
/// the database `postgres` of the new directory while its object ids still begin at 16384.
///
/// # Errors
/// When the directory of programs cannot be made.
pub fn with_counters(mut options: Options, steps: &[Counters], before: &[&str]) -> Result<Options> {
    let dir = tempfile::Builder::new().prefix("sixfold-aged-").tempdir()?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    let real = pg_bin();
    for entry in fs::read_dir(&real).with_context(|| format!("list {}", real.display()))? {
        let entry = entry?;
        if entry.file_name() != "initdb" {
            symlink(entry.path(), dir.path().join(entry.file_name()))?;
        }
    }
    let mut script = format!("#!/bin/bash\nset -euo pipefail\nbin='{}'\n", real.display());
    script += "\"$bin/initdb\" \"$@\"\nwhile [ \"$1\" != -D ]; do shift; done\ndata=$2\n";
    script += FUNCTIONS;
    script += "\"$bin/pg_resetwal\" -D \"$data\" -o 16384 >/dev/null\n";
    if !before.is_empty() {
        writeln!(script, "single postgres \"{}\"", before.join("\n"))?;
    }
    for (index, step) in steps.iter().enumerate() {
        if index > 0 {
            script += "freeze\n";
        }
        let Counters { xid, multi, member, oid } = step;
        writeln!(script, "age {xid} {multi} {member} {oid}")?;
    }
    let initdb = dir.path().join("initdb");
    fs::write(&initdb, script)?;
    fs::set_permissions(&initdb, fs::Permissions::from_mode(0o755))?;
    let path = dir.path().to_str().context("a path of UTF-8")?.to_owned();
    options.environment.push(("SIXFOLD_PG_BIN".to_owned(), path));
    options.programs = Some(Arc::new(dir));
    Ok(options)
}
