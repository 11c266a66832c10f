//! Sizes for people.

/// `1.2 GiB`, `340 MiB`, `12 KiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{count} B"),
        _ if value < 10.0 => format!("{value:.2} {}", UNITS[unit]),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

/// Reads `5GB`, `300MiB`, `20KB` or a plain number of bytes.
///
/// # Errors
/// A sentence for anything else.
pub fn parse(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..split], text[split..].trim().to_ascii_lowercase());
    let (unit, base) = match unit.strip_suffix("ib") {
        Some(unit) => (unit, 1024.0f64),
        None => (unit.strip_suffix('b').unwrap_or(&unit), 1000.0),
    };
    let power = ["", "k", "m", "g", "t"].iter().position(|known| *known == unit);
    let bytes = number.parse::<f64>().ok().zip(power).map(|(n, p)| n * base.powi(p as i32));
    match bytes {
        Some(bytes) if bytes >= 1.0 => Ok(bytes as u64),
        _ => Err("it must be a size such as 5GB, 300MiB or a number of bytes".to_owned()),
    }
}

/// As [`parse`], and `0`, `0B`, ... for nothing.
///
/// # Errors
/// As [`parse`].
#[cfg(feature = "server")]
pub fn parse_or_none(text: &str) -> Result<u64, String> {
    match text.trim_start_matches('0').is_empty() || text.eq_ignore_ascii_case("0b") {
        true => Ok(0),
        false => parse(text),
    }
}

/// Reads `640x480`.
///
/// # Errors
/// A sentence for anything else, and for sides that are not from 1 to 8192.
pub fn dimensions(text: &str) -> Result<(u32, u32), String> {
    let sides = text.split_once('x').and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    sides
        .filter(|(w, h)| (1..=8192).contains(w) && (1..=8192).contains(h))
        .ok_or_else(|| "it must be like 640x480, with sides from 1 to 8192".to_owned())
}

/// `1,234,567`.
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Rows with columns as wide as their widest cell.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(1 << 20), "1.00 MiB");
        assert_eq!(bytes(123_456_789_012), "115.0 GiB");
        assert_eq!(grouped(2_127_532_032), "2,127,532,032");
        assert_eq!(grouped(12), "12");
    }

    #[test]
    fn sizes_are_read() {
        let cases = [("5GB", 5_000_000_000), ("1.5 MiB", 1_572_864), ("20kb", 20_000), ("7", 7)];
        for (text, bytes) in cases {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in ["", "GB", "5XB", "-1", "0", "1e3", "5 ibb"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
    #[test]
    fn sides_are_read() {
        assert_eq!(dimensions("640x480"), Ok((640, 480)));
        for text in ["640", "0x1", "9000x1", "axb"] {
            assert!(dimensions(text).is_err(), "{text}");
        }
    }
}
