//! The suites' files: sources and headers of exactly the PostgreSQL that is installed, fetched with
//! the distribution's package manager and kept in a cache directory.
//!
//! Nothing of the system is changed. When its own lists name no sources, an index of them is kept
//! beside the cache and used for this alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::tools::pg_bin;

/// The packages: the server, and its headers (which would bring a whole compiler if installed).
const SERVER: &str = "postgresql-15";
const HEADERS: &str = "postgresql-server-dev-15";
/// Libraries of the server that the regression suite also wants beside its own.
const BORROWED: [&str; 2] = ["autoinc.so", "refint.so"];

/// The suites' files, unpacked where PostgreSQL's user can read them.
#[derive(Debug)]
pub struct Source {
    /// Version of the packages.
    pub version: String,
    /// The source tree: `src/test` and `contrib`.
    pub tree: PathBuf,
    /// Libraries that tests load, `regress.so` among them.
    pub libraries: PathBuf,
}

/// Fetches what is not in `cache` yet and unpacks it into `work`.
///
/// # Errors
/// Saying what is missing on this machine.
pub fn prepare(cache: &Path, work: &Path) -> Result<Source> {
    let version = installed_version()?;
    let fetched = cache.join(&version);
    if !fetched.exists() {
        // Only what was fetched whole gets the final name.
        let draft = cache.join("draft");
        remove(&draft)?;
        fs::create_dir_all(&draft).with_context(|| format!("create {}", draft.display()))?;
        fetch(&draft, &version)?;
        fs::rename(&draft, &fetched)?;
    }
    let (tree, libraries) = (work.join("source"), work.join("lib"));
    fs::create_dir_all(&tree)?;
    fs::create_dir_all(&libraries)?;
    run(Command::new("tar")
        .args(["--no-same-owner", "--strip-components=1", "--wildcards", "-C"])
        .arg(&tree)
        .arg("-xf")
        .arg(find(&fetched, |name| name.contains(".orig.tar."))?)
        .args(["*/src/test", "*/contrib"]))
    .context("unpack the source")?;
    let headers = work.join("headers");
    let package = find(&fetched, |name| name.ends_with(".deb"))?;
    run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&headers))?;
    run(Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-I"])
        .arg(headers.join("usr/include/postgresql/15/server"))
        .arg("-o")
        .arg(libraries.join("regress.so"))
        .arg(tree.join("src/test/regress/regress.c")))?;
    for name in BORROWED {
        let from = pg_bin().join("../lib").join(name);
        fs::copy(&from, libraries.join(name))
            .with_context(|| format!("copy {} (postgresql-15's)", from.display()))?;
    }
    Ok(Source { version, tree, libraries })
}

/// Version of the installed server's package.
fn installed_version() -> Result<String> {
    output(Command::new("dpkg-query").args(["-W", "-f", "${Version}", SERVER])).context(
        "the suites are fetched as Debian packages of the server's own version; install \
         postgresql-15 from Debian's archive",
    )
}

/// Fetches both packages, the source from an index of our own if the system's lists name none.
fn fetch(into: &Path, version: &str) -> Result<()> {
    let get = |options: &[String], arguments: &[&str], package: &str| {
        let package = format!("{package}={version}");
        let mut apt = Command::new("apt-get");
        run(apt.current_dir(into).args(options).arg("-qq").args(arguments).arg(&package))
            .with_context(|| format!("fetch {package} (`apt-get update` as root may be needed)"))
    };
    get(&[], &["download"], HEADERS)?;
    let source = ["source", "--download-only"];
    if get(&[], &source, SERVER).is_err() {
        let index = into.join("index");
        let options = own_index(&index)?;
        run(Command::new("apt-get").args(&options).args(["-qq", "update"]))
            .context("fetch the index of Debian's sources")?;
        get(&options, &source, SERVER)?;
        remove(&index)?;
    }
    Ok(())
}

/// Options with which `apt-get` uses sources where the server's binary packages come from.
fn own_index(index: &Path) -> Result<Vec<String>> {
    let policy = output(Command::new("apt-cache").args(["policy", SERVER]))?;
    let list = source_list(&policy);
    ensure!(
        !list.is_empty(),
        "no archive is known that {SERVER} comes from; run `apt-get update` as root"
    );
    for dir in ["state/lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(index.join(dir))?;
    }
    let file = index.join("sources.list");
    fs::write(&file, list).with_context(|| format!("write {}", file.display()))?;
    let option = |name: &str, value: &str| ["-o".to_owned(), format!("{name}={value}")];
    let path = |below: &str| index.join(below).display().to_string();
    let options = [
        option("Dir::Etc::SourceList", &path("sources.list")),
        option("Dir::Etc::SourceParts", "-"),
        option("Dir::State", &path("state")),
        option("Dir::State::status", "/var/lib/dpkg/status"),
        option("Dir::Cache", &path("cache")),
        // Otherwise a user is taken who cannot write here.
        option("APT::Sandbox::User", "root"),
    ];
    Ok(options.into_iter().flatten().collect())
}

/// The `deb-src` lines for the archives in what `apt-cache policy` says.
fn source_list(policy: &str) -> String {
    let mut lines: Vec<String> = policy
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            let (address, suite) = (words.next()?, words.next()?);
            let (suite, component) = suite.rsplit_once('/')?;
            let archive = address.contains("://") && line.ends_with("Packages");
            archive.then(|| format!("deb-src {address} {suite} {component}\n"))
        })
        .collect();
    lines.sort();
    lines.dedup();
    lines.concat()
}

/// The file of a directory whose name fits.
fn find(dir: &Path, fits: impl Fn(&str) -> bool) -> Result<PathBuf> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(&fits) {
            return Ok(entry.path());
        }
    }
    bail!("{} lacks a file; remove the directory, it is fetched again", dir.display())
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// What a program prints; it must succeed.
fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {}", command.get_program().display()))?;
    if !output.status.success() {
        bail!(
            "{} ended with {}: {}",
            command.get_program().display(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_sought_where_the_server_came_from() {
        let policy = "postgresql-15:\n  Installed: 15.18\n  Version table:\n     15.20 500\n        \
             500 http://deb.debian.org/debian-security bookworm-security/main amd64 Packages\n \
             *** 15.18 500\n        500 http://deb.debian.org/debian bookworm/main amd64 Packages\n        \
             100 /var/lib/dpkg/status\n";
        assert_eq!(
            source_list(policy),
            "deb-src http://deb.debian.org/debian bookworm main\n\
             deb-src http://deb.debian.org/debian-security bookworm-security main\n"
        );
    }
}
