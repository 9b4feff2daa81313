//! Results: a JSON line each as they come, and tables at the end.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use serde_json::Value;

/// A column: its title, the field of the results, digits behind the point.
pub type Column = (&'static str, &'static str, usize);

/// The results so far.
#[derive(Default)]
pub struct Report {
    results: Vec<Value>,
}

impl Report {
    /// Prints a result and keeps it.
    ///
    /// # Errors
    /// When standard output is gone.
    pub fn add(&mut self, result: Value) -> Result<()> {
        use std::io::Write;
        writeln!(std::io::stdout(), "{result}")?;
        self.results.push(result);
        Ok(())
    }

    /// What was added so far.
    #[must_use]
    pub fn results(&self) -> &[Value] {
        &self.results
    }

    /// A table of all results of one measure.
    #[must_use]
    pub fn rows(&self, measure: &str, columns: &[Column]) -> String {
        let titles: Vec<&str> = columns.iter().map(|(title, _, _)| *title).collect();
        let mut text = format!("| {} |\n|{}\n", titles.join(" | "), "---|".repeat(titles.len()));
        for result in self.results.iter().filter(|result| result["measure"] == measure) {
            let cell = |(_, field, digits): &Column| match &result[*field] {
                Value::String(word) => word.clone(),
                other => number(other, *digits),
            };
            let cells: Vec<String> = columns.iter().map(cell).collect();
            text += &format!("| {} |\n", cells.join(" | "));
        }
        text
    }

    /// Writes a comparison's own table.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_text(&self, path: &Path, text: &str) -> Result<()> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        std::fs::write(path, text)?;
        eprintln!("tables are in {}", path.display());
        Ok(())
    }

    /// Writes the tables as Markdown.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_table(&self, path: &Path) -> Result<()> {
        let mut text = String::new();
        self.loads(&mut text)?;
        self.measures(&mut text)?;
        self.write_text(path, &text)
    }

    fn loads(&self, text: &mut String) -> Result<()> {
        let loads: Vec<&Value> =
            self.results.iter().filter(|result| result["measure"].is_null()).collect();
        if loads.is_empty() {
            return Ok(());
        }
        writeln!(
            text,
            "| workload | clients | system | tps | of alone | p50 ms | p99 ms | WAL B/tx | shipped B/tx/copy | compute CPU us/tx | storage CPU us/tx |\n|---|---|---|---|---|---|---|---|---|---|---|"
        )?;
        for result in &loads {
            let alone = loads.iter().find(|other| {
                other["system"] == "alone"
                    && other["workload"] == result["workload"]
                    && other["clients"] == result["clients"]
            });
            let ratio = alone
                .and_then(|alone| Some(result["tps"].as_f64()? / alone["tps"].as_f64()?))
                .map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
            writeln!(
                text,
                "| {} | {} | {} | {} | {ratio} | {} | {} | {} | {} | {} | {} |",
                plain(&result["workload"]),
                result["clients"],
                plain(&result["system"]),
                number(&result["tps"], 0),
                number(&result["p50_ms"], 2),
                number(&result["p99_ms"], 2),
                number(&result["wal_bytes_per_tx"], 0),
                number(&result["shipped_bytes_per_tx_and_copy"], 0),
                number(&result["compute_cpu_us_per_tx"], 0),
                number(&result["storage_cpu_us_per_tx"], 0),
            )?;
        }
        Ok(())
    }

    fn measures(&self, text: &mut String) -> Result<()> {
        let rows: Vec<&Value> =
            self.results.iter().filter(|result| !result["measure"].is_null()).collect();
        if rows.is_empty() {
            return Ok(());
        }
        writeln!(
            text,
            "\n| measure | system | after WAL, MB | seconds | tps |\n|---|---|---|---|---|"
        )?;
        for row in rows {
            writeln!(
                text,
                "| {} | {} | {} | {} | {} |",
                plain(&row["measure"]),
                plain(&row["system"]),
                number(&row["wal_mb"], 0),
                number(&row["seconds"], 3),
                number(&row["tps"], 0),
            )?;
        }
        Ok(())
    }
}

/// A word.
pub fn plain(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

/// A number with so many digits behind the point.
pub fn number(value: &Value, digits: usize) -> String {
    value.as_f64().map_or("-".to_owned(), |number| format!("{number:.digits$}"))
}
