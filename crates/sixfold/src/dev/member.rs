//! Who belongs to a development cluster, and the command that starts each.

use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use super::layout::{CONTROL, Layout, Saved, WRITER};
use crate::processes::{INSTANCE_PROGRAMS, Process, working_in};

/// What a member does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Control,
    Node,
    Compute,
}

impl Role {
    /// As the subcommand is called.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Control => "control",
            Role::Node => "node",
            Role::Compute => "compute",
        }
    }
}

/// One process that `dev up` starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub name: &'static str,
    pub role: Role,
}

/// All of them, in the order they are started.
pub(crate) fn all(saved: &Saved) -> impl Iterator<Item = Member> + use<> {
    let nodes = saved.nodes().map(|name| Member { name, role: Role::Node });
    [Member { name: CONTROL, role: Role::Control }]
        .into_iter()
        .chain(nodes)
        .chain([Member { name: WRITER, role: Role::Compute }])
}

/// The member of this name.
pub(crate) fn find(saved: &Saved, name: &str) -> anyhow::Result<Member> {
    match all(saved).find(|member| member.name == name) {
        Some(member) => Ok(member),
        None => {
            let names: Vec<_> = all(saved).map(|member| member.name).collect();
            bail!("there is no `{name}` in this cluster; it has {}", names.join(" "))
        }
    }
}

impl Member {
    /// Its zone; the control plane has none.
    pub fn az(self) -> Option<&'static str> {
        match self.role {
            Role::Control => None,
            Role::Node => self.name.get(..1),
            Role::Compute => Some("a"),
        }
    }

    /// Its directory.
    pub fn dir(self, layout: &Layout, saved: &Saved) -> PathBuf {
        match self.role {
            Role::Control => layout.control(),
            Role::Node => layout.node(self.name),
            Role::Compute => saved.instance(self.name),
        }
    }

    /// Where it is reached.
    pub fn address(self, saved: &Saved) -> String {
        match self.role {
            Role::Compute => saved.endpoint(),
            Role::Control | Role::Node => saved.address(self.name).to_owned(),
        }
    }

    /// Its own process, if it runs.
    pub fn process(self, layout: &Layout) -> Option<Process> {
        Process::from_file(&layout.pid_file(self.name))
    }

    /// Its own process and, of an instance, every process that works in its directory (rule V4).
    pub fn processes(self, layout: &Layout, saved: &Saved) -> Vec<Process> {
        let mut found: Vec<Process> = self.process(layout).into_iter().collect();
        if self.role == Role::Compute {
            found.extend(working_in(&self.dir(layout, saved), INSTANCE_PROGRAMS));
        }
        found.sort_by_key(|process| process.pid);
        found.dedup();
        found
    }

    /// Starts it as a child of this process, its output appended to its log.
    pub fn spawn(self, layout: &Layout, saved: &Saved) -> anyhow::Result<Process> {
        let dir = self.dir(layout, saved);
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let path = layout.log(self.name);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let mut command = Command::new(&program);
        command.args(self.arguments(saved)).arg("--dir").arg(&dir);
        command.args(["--supervisor", &std::process::id().to_string()]);
        // A group of its own keeps the terminal's Ctrl-C from it: `dev up` stops it in order.
        command.process_group(0).current_dir(&dir).stdin(Stdio::null());
        command.stdout(log.try_clone().context("cannot share the log")?).stderr(log);
        let child =
            command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        // The child is collected by the supervisor, which collects orphans as well.
        let process = Process::of_child(child.id())
            .with_context(|| format!("cannot see {} in /proc", self.name))?;
        process.write_file(&layout.pid_file(self.name))?;
        Ok(process)
    }

    fn arguments(self, saved: &Saved) -> Vec<String> {
        let mut arguments = vec![self.role.as_str().to_owned()];
        let mut flag = |name: &str, value: &str| {
            arguments.push(format!("--{name}={value}"));
        };
        match self.role {
            Role::Control => {
                flag("listen", saved.control());
                if let Some(seconds) = saved.replace_after {
                    flag("replace-after", &seconds.to_string());
                }
                if let Some(seconds) = saved.replace_slow_after {
                    flag("replace-slow-after", &seconds.to_string());
                }
            }
            Role::Node => {
                flag("name", self.name);
                flag("listen", saved.address(self.name));
                if let Some(address) = saved.through.get(self.name) {
                    flag("advertise", address);
                }
            }
            Role::Compute => {
                flag("name", self.name);
                flag("port", &saved.port.to_string());
                if let Some(bytes) = saved.group_size {
                    flag("group-size", &bytes.to_string());
                }
                if let Some(bytes) = saved.cache_size {
                    flag("cache-size", &bytes.to_string());
                }
                if let Some(bytes) = saved.cache_limit {
                    flag("cache-limit", &bytes.to_string());
                }
                for (name, value) in &saved.settings {
                    flag("set", &format!("{name}={value}"));
                }
            }
        }
        if self.role != Role::Control {
            let control = saved.through.get(super::layout::CONTROL);
            flag("control", control.map_or(saved.control(), String::as_str));
            flag("az", self.az().unwrap_or("a"));
            flag("az-latency", &saved.az_latency.to_string());
            if let Some(http) = saved.http.get(self.name) {
                flag("http", http);
            }
        }
        arguments
    }
}

/// The last lines of a log that the last process wrote, for a failure's message.
pub(crate) fn log_tail(path: &Path, lines_max: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let last = text.rfind("process starts").and_then(|at| text.get(..at)?.rfind('\n'));
    let lines: Vec<&str> = text.get(last.map_or(0, |at| at + 1)..).unwrap_or("").lines().collect();
    let tail = lines.iter().skip(lines.len().saturating_sub(lines_max));
    tail.map(|line| format!("  {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_is_control_six_nodes_in_three_zones_and_a_writer() {
        let mut saved = super::super::layout::tests::saved();
        let names: Vec<_> = all(&saved).map(|member| member.name).collect();
        assert_eq!(names, ["control", "a1", "a2", "b1", "b2", "c1", "c2", "writer"]);
        assert_eq!(find(&saved, "b2").expect("there").az(), Some("b"));
        assert!(find(&saved, "b3").is_err());
        saved.spares = true;
        assert_eq!(find(&saved, "b3").expect("there").az(), Some("b"));
        let error = find(&saved, "nobody").expect_err("absent").to_string();
        assert!(error.contains("nobody") && error.contains("a1 a2"), "{error}");
    }
}
