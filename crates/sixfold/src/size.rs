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

#[cfg(test)]
mod tests {
    use super::parse;

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
