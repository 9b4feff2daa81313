//! Sizes as people write them: `64MB`, `10GiB`, `8388608`.

/// Parses a number of bytes with an optional unit; units are powers of 1024, as PostgreSQL's are.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let rule =
        || format!("`{text}` is not a size; write bytes or a unit, such as 8388608, 64MB or 10GB");
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| rule())?;
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(rule()),
    };
    number.checked_mul(1 << shift).ok_or_else(rule)
}

/// Parses the size of a group, which is fixed once a volume is created: too small a one is refused
/// before it is noted anywhere.
pub(crate) fn parse_group(text: &str) -> Result<u64, String> {
    match parse(text)? {
        bytes if bytes < types::GROUP_BYTES_MIN => {
            Err(format!("`{text}` is too small a group; the least is 1MB"))
        }
        bytes => Ok(bytes),
    }
}

/// A number of bytes for people, in three or four digits.
pub(crate) fn text(bytes: u64) -> String {
    let units = [("TB", 40), ("GB", 30), ("MB", 20), ("kB", 10)];
    for (unit, shift) in units {
        let whole = bytes >> shift;
        if whole >= 10 {
            return format!("{whole}{unit}");
        }
        if whole > 0 {
            let tenths = ((bytes >> (shift - 10)) & 1023) * 10 / 1024;
            return format!("{whole}.{tenths}{unit}");
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::{parse, parse_group, text};

    #[test]
    fn sizes_are_told_in_a_unit_that_fits() {
        let told = [0, 1023, 1024, 1536 << 10, 70 << 20, 10 << 30, 128 << 40].map(text);
        assert_eq!(told, ["0B", "1023B", "1.0kB", "1.5MB", "70MB", "10GB", "128TB"]);
    }

    #[test]
    fn a_group_has_at_least_a_megabyte() {
        assert_eq!(parse_group("1MB"), Ok(1 << 20));
        assert!(parse_group("5").is_err_and(|why| why.contains("least")));
    }

    #[test]
    fn sizes_have_units_of_1024() {
        assert_eq!(parse("8388608"), Ok(8 << 20));
        assert_eq!(parse("32MB"), Ok(32 << 20));
        assert_eq!(parse("10GiB"), Ok(10 << 30));
        assert_eq!(parse(" 1 k"), Ok(1024));
        for bad in ["", "MB", "-1", "1.5GB", "1XB", "99999999999TB"] {
            assert!(parse(bad).is_err(), "{bad} must be refused");
        }
    }
}
