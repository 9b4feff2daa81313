//! Plants one bug after another into a copy of the sources, in the store below the protocol, and demands
//! that the simulator notices each. (Bugs of the protocol's decisions need no copy: `protocol::Rules`.)

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// What a copy needs to be a workspace.
const SOURCES: [&str; 7] =
    ["Cargo.toml", "Cargo.lock", ".cargo", "crates", "tests", "benches", "xtask"];

/// A line of code made wrong.
struct Plant {
    name: &'static str,
    file: &'static str,
    from: &'static str,
    to: &'static str,
}

const PLANTS: [Plant; 16] = [
    Plant {
        name: "a block's checksum is not looked at",
        file: "crates/segstore/src/pages/block.rs",
        from: "if *crc != self.crc(offset, &block).to_le_bytes() {",
        to: "if false && *crc != self.crc(offset, &block).to_le_bytes() {",
    },
    Plant {
        name: "a log unit's checksum is not looked at",
        file: "crates/segstore/src/log/unit.rs",
        from: "if crc32c::crc32c_append(seed(incarnation, self.at), body) != self.body_crc {",
        to: "if false {",
    },
    Plant {
        name: "appends are not durable",
        file: "crates/segstore/src/log/ring.rs",
        from: "self.active.file.write_at_durable(self.at.offset,",
        to: "self.active.file.write_at(self.at.offset,",
    },
    Plant {
        name: "page files are not synced",
        file: "crates/env/src/recipes.rs",
        from: "-> Result<(), DiskError> {\n    file.sync()?;\n    disk.sync_dir(parent(path))",
        to: "-> Result<(), DiskError> {\n    file.len()?;\n    disk.sync_dir(parent(path))",
    },
    Plant {
        name: "a manifest's new name is not synced",
        file: "crates/env/src/recipes.rs",
        from: "disk.rename(&aside, path)?;\n    disk.sync_dir(parent(path))",
        to: "disk.rename(&aside, path)",
    },
    Plant {
        name: "a life of the log goes while it is needed",
        file: "crates/segstore/src/log/ring.rs",
        from: "self.oldest_needed = self.oldest_needed.max(life + 1);",
        to: "self.oldest_needed = self.oldest_needed.max(life + 2);",
    },
    Plant {
        name: "what an opening believes it does not make durable",
        file: "crates/segstore/src/log/ring.rs",
        from: "for (life, offset, bytes) in &tail.last {",
        to: "for (life, offset, bytes) in tail.last.iter().take(0) {",
    },
    Plant {
        name: "spare files are believed to be durable",
        file: "crates/segstore/src/log/ring.rs",
        from: "for file in &spare {",
        to: "for file in spare.iter().take(0) {",
    },
    Plant {
        name: "a damaged segment stays full",
        file: "crates/segstore/src/recover.rs",
        from: "        if self.damage.is_some() {\n            self.index.state.full = false;",
        to: "        if self.damage.is_some() {",
    },
    Plant {
        name: "an earlier copy of a directory is believed",
        file: "crates/segstore/src/ledger.rs",
        from: "manifest.origin == self.origin && manifest.generation >= self.generation",
        to: "manifest.generation >= 1",
    },
    Plant {
        name: "a scrub passes page files by",
        file: "crates/segstore/src/scrub.rs",
        from: "let waiting = segment.read().files.iter().cloned().collect();",
        to: "let waiting = VecDeque::new();",
    },
    Plant {
        name: "a mend leaves out what peers gave",
        file: "crates/segstore/src/merge.rs",
        from: "versions.splice(..0, page);",
        to: "drop(page);",
    },
    Plant {
        name: "a copied file is not verified",
        file: "crates/segstore/src/hydrate.rs",
        from: "        whole.verify_written()?;\n",
        to: "",
    },
    // That a copy voids what its history voids no world can notice: copies are made only by the history that
    // the segment follows already. The store's own tests do (`hydrate.rs`).
    Plant {
        name: "a copy takes back what was flushed meanwhile",
        file: "crates/segstore/src/hydrate.rs",
        from: "            if flushed < index.flushed {",
        to: "            if false {",
    },
    Plant {
        name: "versions below the horizon are answered for",
        file: "crates/segstore/src/merge.rs",
        from: "let horizon = self.low_water.max(read_point);",
        to: "let horizon = read_point;",
    },
    Plant {
        name: "what is not durable is flushed",
        file: "crates/segstore/src/index.rs",
        from: "let limit = self.contiguous.min(self.state.vdl.end);",
        to: "let limit = self.contiguous;",
    },
];

/// Complaints about bugs that were not noticed within so many seeds, of those whose names contain a word.
pub fn run(root: &Path, seeds: u64, word: &str) -> Result<Vec<String>> {
    let copy = root.join("target/plants/sources");
    if copy.exists() {
        fs::remove_dir_all(&copy)?;
    }
    fs::create_dir_all(&copy)?;
    for name in SOURCES {
        copy_all(&root.join(name), &copy.join(name)).with_context(|| format!("copying {name}"))?;
    }
    let mut complaints = Vec::new();
    if let Some(why) = play(&copy, seeds.min(300))? {
        return Ok(vec![format!("nothing is planted, and yet: {why}")]);
    }
    for plant in PLANTS.iter().filter(|plant| plant.name.contains(word)) {
        let path = copy.join(plant.file);
        let sound = fs::read_to_string(&path).with_context(|| plant.file)?;
        let places = sound.matches(plant.from).count();
        ensure!(places == 1, "\"{}\": {} has its line {places} times", plant.name, plant.file);
        fs::write(&path, sound.replacen(plant.from, plant.to, 1))?;
        match play(&copy, seeds)? {
            Some(what) => println!("{}: noticed: {what}", plant.name),
            None => complaints.push(format!("{}: not noticed in {seeds} seeds", plant.name)),
        }
        fs::write(&path, sound)?;
    }
    Ok(complaints)
}

/// Builds the copy's simulator and runs it; the first failure, shortened.
fn play(copy: &Path, seeds: u64) -> Result<Option<String>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target = copy.with_file_name("build");
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--locked", "-p", "sixfold-sim"])
        .current_dir(copy)
        .env("CARGO_TARGET_DIR", &target)
        .env("RUSTFLAGS", "-Awarnings")
        .status()?;
    ensure!(built.success(), "the planted copy in {} does not compile", copy.display());
    let played = Command::new(target.join("debug/sixfold-sim"))
        .args(["--seeds", &seeds.to_string()])
        .output()
        .context("sixfold-sim")?;
    let said = String::from_utf8_lossy(&played.stdout);
    let first = said.lines().find(|line| line.starts_with("seed "));
    Ok(first.map(|line| line.chars().take(160).collect()))
}

fn copy_all(from: &Path, to: &Path) -> Result<()> {
    if from.is_file() {
        fs::copy(from, to)?;
        return Ok(());
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let name = entry?.file_name();
        copy_all(&from.join(&name), &to.join(&name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line that was rewritten leaves its plant behind, which nobody sees before `make plants` is run.
    #[test]
    fn every_plant_finds_its_line_once() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("in the workspace");
        for plant in &PLANTS {
            let sound = fs::read_to_string(root.join(plant.file)).expect(plant.file);
            let places = sound.matches(plant.from).count();
            assert_eq!(places, 1, "\"{}\" in {}", plant.name, plant.file);
        }
    }
}
