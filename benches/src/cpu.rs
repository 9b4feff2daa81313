//! Processor time of process trees, from /proc.

use std::collections::BTreeMap;

use anyhow::Result;

struct Process {
    parent: u32,
    ticks: u64,
}

/// Processor seconds used so far by these processes, their living descendants and the descendants
/// that they have already waited for.
///
/// # Errors
/// When /proc cannot be read.
pub fn seconds_of(roots: &[u32]) -> Result<f64> {
    let mut processes = BTreeMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else { continue };
        if let Some(process) = read(pid) {
            processes.insert(pid, process);
        }
    }
    let belongs = |mut pid: u32| {
        for _ in 0..64 {
            if roots.contains(&pid) {
                return true;
            }
            match processes.get(&pid) {
                Some(process) => pid = process.parent,
                None => return false,
            }
        }
        false
    };
    let ticks: u64 =
        processes.iter().filter(|(pid, _)| belongs(**pid)).map(|(_, process)| process.ticks).sum();
    // SAFETY: sysconf(3) has no preconditions.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Ok(ticks as f64 / per_second as f64)
}

fn read(pid: u32) -> Option<Process> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name may hold spaces; the fields after it are numbered from 3 (state).
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let ticks = field(14)? + field(15)? + field(16)? + field(17)?;
    Some(Process { parent: u32::try_from(field(4)?).ok()?, ticks })
}
