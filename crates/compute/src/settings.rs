//! PostgreSQL's settings: the ones the driver owns, the user's, and which of those are refused.
//!
//! - D5: what a promise rests on is given on the server's command line, where neither a
//!   configuration file nor `ALTER SYSTEM` can change it.
//! - D6: a user setting that contradicts it is refused with the reason before the server starts;
//!   in `postgresql.auto.conf`, which must not make a volume unopenable, it is dropped and logged.

use std::fmt::Write as _;

/// Settings on the command line: a promise rests on each.
pub const OWNED: &[(&str, &str)] = &[
    ("fsync", "on"),
    ("wal_sync_method", "fdatasync"),
    // A writer answers only once it may write, not between its start and its new timeline.
    ("hot_standby", "off"),
    ("wal_init_zero", "off"),
    ("recovery_target_timeline", "current"),
    ("restore_command", "false"),
    ("recovery_target_action", "promote"),
    ("ignore_invalid_pages", "off"),
    ("zero_damaged_pages", "off"),
];

/// Settings that the user may override.
const DEFAULTS: &[(&str, &str)] = &[
    ("wal_level", "replica"),
    ("full_page_writes", "off"),
    ("wal_recycle", "on"),
    // No opening replays anything; but free space maps are as stale as the last checkpoint (D22).
    ("checkpoint_timeout", "5min"),
    ("max_wal_size", "2GB"),
    ("min_wal_size", "80MB"),
    ("archive_mode", "off"),
    ("max_wal_senders", "10"),
    ("log_timezone", "'UTC'"),
    ("timezone", "'UTC'"),
    ("log_line_prefix", "'%m [%p] '"),
    ("lc_messages", "'C.UTF-8'"),
    ("dynamic_shared_memory_type", "posix"),
];

/// A user setting that cannot be granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("setting `{name} = {value}` is refused: {reason}")]
pub struct Refused {
    name: String,
    value: String,
    reason: &'static str,
}

/// Checks one user setting.
///
/// # Errors
/// When it would break a promise, or is the driver's to choose.
pub fn check(name: &str, value: &str) -> Result<(), Refused> {
    let name = name.trim().to_ascii_lowercase();
    let plain = value.trim().trim_matches('\'').to_ascii_lowercase();
    let on = ["on", "true", "yes", "1"].contains(&plain.as_str());
    let reason = match name.as_str() {
        "fsync" if !on => Some("without it PostgreSQL asks for no durability at all; leave it on"),
        "wal_sync_method" if plain != "fdatasync" => {
            Some("the log becomes durable by fdatasync only; leave it out")
        }
        "wal_level" if plain == "minimal" => {
            Some("minimal logs too little to build pages from; use replica or logical")
        }
        "hot_standby" => Some("it follows from the instance's role; leave it out"),
        "wal_init_zero" if on => Some("the driver switches it off; leave it out"),
        "data_directory" | "config_file" | "hba_file" | "ident_file" | "external_pid_file" => {
            Some("the data directory is a cache that the driver lays out; leave it out")
        }
        "port" | "listen_addresses" | "unix_socket_directories" => {
            Some("it is given to the daemon (--port, --listen); leave it out")
        }
        "restore_command"
        | "primary_conninfo"
        | "primary_slot_name"
        | "promote_trigger_file"
        | "archive_cleanup_command"
        | "recovery_end_command" => {
            Some("opening a volume replays nothing, and the driver runs it; leave it out")
        }
        "zero_damaged_pages" | "ignore_invalid_pages" if on => {
            Some("it turns damage into silent loss; storage repairs pages instead")
        }
        name if name.starts_with("recovery_target") => {
            Some("restores to a point in time are made by the volume, not by replay; leave it out")
        }
        _ => None,
    };
    match reason {
        None => Ok(()),
        Some(reason) => Err(Refused { name, value: value.to_owned(), reason }),
    }
}

/// Content of `postgresql.conf`.
///
/// # Errors
/// When a user setting is refused.
pub fn configuration(user: &[(String, String)]) -> Result<String, Refused> {
    for (name, value) in user {
        check(name, value)?;
    }
    let mut text = "# Written by the driver at every open; ALTER SYSTEM is kept.\n".to_owned();
    for (name, value) in DEFAULTS {
        writeln!(text, "{name} = {value}").expect("writing to a String does not fail");
    }
    for (name, value) in user {
        writeln!(text, "{name} = {}", quoted(value)).expect("writing to a String does not fail");
    }
    Ok(text)
}

/// A value as the configuration file wants it.
fn quoted(value: &str) -> String {
    let inner = value.trim();
    let inner = inner.strip_prefix('\'').and_then(|v| v.strip_suffix('\'')).unwrap_or(inner);
    format!("'{}'", inner.replace('\'', "''"))
}

/// `postgresql.auto.conf` without the lines that are refused, and why they are.
#[must_use]
pub fn accepted_auto_conf(text: &str) -> (String, Vec<Refused>) {
    let mut kept = String::new();
    let mut refused = Vec::new();
    for line in text.lines() {
        let setting = line.split_once('=').filter(|_| !line.trim_start().starts_with('#'));
        match setting.map(|(name, value)| check(name, value)) {
            Some(Err(reason)) => refused.push(reason),
            _ => {
                kept.push_str(line);
                kept.push('\n');
            }
        }
    }
    (kept, refused)
}

/// `pg_hba.conf`: whoever is on this machine is trusted, everyone else needs a password.
pub const HBA: &str = "\
local all         all               trust
host  all         all 127.0.0.1/32  trust
host  all         all ::1/128       trust
local replication all               trust
host  replication all 127.0.0.1/32  trust
host  replication all ::1/128       trust
host  all         all all           scram-sha-256
host  replication all all           scram-sha-256
";

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(name: &str, value: &str) -> bool {
        check(name, value).is_err()
    }

    #[test]
    fn settings_that_break_a_promise_are_refused() {
        assert!(refused("fsync", "off") && refused("FSYNC", "'off'"));
        assert!(refused("wal_sync_method", "open_datasync"));
        assert!(refused("wal_level", "minimal"));
        assert!(refused("port", "1"));
        assert!(refused("recovery_target_lsn", "0/1"));
        for (name, value) in [
            ("fsync", "on"),
            ("wal_level", "logical"),
            ("full_page_writes", "on"),
            ("work_mem", "1GB"),
        ] {
            assert!(!refused(name, value), "{name} = {value} is harmless");
        }
    }

    #[test]
    fn a_refused_line_of_auto_conf_is_dropped_and_the_rest_kept() {
        let (kept, refused) =
            accepted_auto_conf("# comment = x\nfsync = 'off'\nwork_mem = '64MB'\n");
        assert_eq!(kept, "# comment = x\nwork_mem = '64MB'\n");
        assert_eq!(refused.len(), 1);
    }

    #[test]
    fn user_settings_come_last_and_quoted() {
        let text = configuration(&[("search_path".into(), "a'b".into())]).expect("harmless");
        assert!(text.ends_with("search_path = 'a''b'\n"), "{text}");
    }
}
