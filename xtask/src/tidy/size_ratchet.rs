//! Files stay short. Those that are not are listed here with their length, and may only shrink.

/// Longest file, lines.
const LINES_MAX: usize = 600;
/// Longer ones, with their length. Split them when you touch them; never add to the list lightly.
const LONGER: &[(&str, usize)] = &[];

/// Complaints about the lengths of these files.
pub(super) fn check(sizes: &[(String, usize)]) -> Vec<String> {
    against(LONGER, sizes)
}

fn against(longer: &[(&str, usize)], sizes: &[(String, usize)]) -> Vec<String> {
    let listed = |name: &str| longer.iter().find(|(known, _)| *known == name);
    let mut complaints = Vec::new();
    for (name, lines) in sizes {
        match listed(name) {
            None if *lines > LINES_MAX => complaints.push(format!(
                "{name}: {lines} lines, {LINES_MAX} are the most; split it by what its parts do"
            )),
            Some((_, allowed)) if lines > allowed => complaints.push(format!(
                "{name}: grew from {allowed} to {lines} lines; take something out of it instead"
            )),
            Some((_, allowed)) if *lines <= LINES_MAX => complaints.push(format!(
                "{name}: {lines} lines now, {allowed} listed; take it off the list in {}",
                file!()
            )),
            Some((_, allowed)) if lines + 20 < *allowed => complaints.push(format!(
                "{name}: {lines} lines now, {allowed} listed; lower the number in {}",
                file!()
            )),
            _ => {}
        }
    }
    for (name, _) in longer.iter().filter(|(known, _)| sizes.iter().all(|(name, _)| name != known))
    {
        complaints.push(format!("{name}: is gone; take it off the list in {}", file!()));
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_files_may_only_shrink() {
        let sizes = |lines| vec![("a.rs".to_owned(), lines)];
        assert!(against(&[], &sizes(600)).is_empty());
        assert_eq!(against(&[], &sizes(601)).len(), 1);
        let list = [("a.rs", 700)];
        assert!(against(&list, &sizes(700)).is_empty());
        assert!(against(&list, &sizes(690)).is_empty());
        for wrong in [701, 650, 500] {
            assert_eq!(against(&list, &sizes(wrong)).len(), 1, "{wrong}");
        }
        assert_eq!(against(&list, &[]).len(), 1);
    }
}
