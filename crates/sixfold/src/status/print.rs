//! The status for people: short tables, aligned.

use std::fmt::Write as _;

use super::report::Report;

/// The report as text.
pub(crate) fn text(report: &Report) -> String {
    let mut out = String::new();
    let volume = &report.volume;
    let number = |n: Option<u64>| n.map_or_else(|| "?".to_owned(), |n| n.to_string());
    let lsn = |lsn: &Option<String>| lsn.clone().unwrap_or_else(|| "?".to_owned());
    let line = format!(
        "volume {}: {}; epoch {}, timeline {}, VCL {}, VDL {}, low-water mark {}\n",
        volume.name,
        volume.state,
        number(volume.epoch),
        number(volume.timeline.map(u64::from)),
        lsn(&volume.vcl),
        lsn(&volume.vdl),
        lsn(&volume.low_water_mark),
    );
    out.push_str(&line);
    let mut rows = vec![row(["process", "role", "az", "pid", "address", "state"])];
    rows.extend(report.processes.iter().map(|p| {
        let az = p.az.as_deref().unwrap_or("-");
        row([&p.name, &p.role, az, &optional(p.pid), &p.address, &p.state])
    }));
    table(&mut out, &rows);
    let mut rows = vec![row(["group", "member", "SCL", "state"])];
    for group in &report.groups {
        rows.extend(group.members.iter().map(|m| {
            row([&group.id.to_string(), &m.node, m.scl.as_deref().unwrap_or("-"), &m.state])
        }));
        rows.extend(group.joining.iter().map(|m| {
            let state = format!("joining, {}", m.state);
            row([&group.id.to_string(), &m.node, m.scl.as_deref().unwrap_or("-"), &state])
        }));
    }
    table(&mut out, &rows);
    let mut rows = vec![row(["instance", "role", "endpoint", "postgres", "daemon", "state"])];
    rows.extend(report.instances.iter().map(|i| {
        row([&i.name, &i.role, &i.endpoint, &optional(i.pid), &optional(i.daemon_pid), &i.state])
    }));
    table(&mut out, &rows);
    out
}

fn optional(number: Option<u32>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

/// A line of a table.
pub(crate) fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(ToOwned::to_owned).into()
}

/// Lines under each other, aligned, after an empty one.
pub(crate) fn table(out: &mut String, rows: &[Vec<String>]) {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    out.push('\n');
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            write!(line, "{cell:width$}  ").expect("writing to a String does not fail");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::{Group, GroupMember, Instance, ProcessLine};
    use super::*;

    #[test]
    fn the_json_has_exactly_the_fields_that_scripts_rely_on() {
        let report = Report {
            processes: vec![ProcessLine::default()],
            groups: vec![Group { members: vec![GroupMember::default()], ..Group::default() }],
            instances: vec![Instance::default()],
            ..Report::default()
        };
        let json = serde_json::to_value(&report).expect("plain values");
        for (pointer, fields) in [
            ("/volume", "epoch timeline vcl vdl low_water_mark"),
            ("/processes/0", "role name az pid address state"),
            ("/groups/0", "id membership_epoch members joining"),
            ("/groups/0/members/0", "node scl state"),
            ("/instances/0", "name role endpoint pid daemon_pid data_dir replay_lsn lag_ms"),
        ] {
            for field in fields.split(' ') {
                assert!(json.pointer(pointer).expect(pointer).get(field).is_some(), "{field}");
            }
        }
    }

    #[test]
    fn columns_are_aligned() {
        let mut out = String::new();
        table(&mut out, &[row(["a", "b"]), row(["long", "c"])]);
        assert_eq!(out, "\na     b\nlong  c\n");
    }
}
