//! `strftime_now(format)` for templates that print a date.

use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::{Error, ErrorKind};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] =
    ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// The current time in UTC (Python takes the local zone, which the standard library does not know here).
pub(super) fn strftime_now(format: String) -> Result<String, Error> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
    strftime(now, &format)
}

/// `seconds` since 1970 as a date and time of UTC (RFC 3339).
pub fn utc(seconds: u64) -> String {
    let clock = seconds % 86_400;
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (clock / 3600, clock / 60 % 60, clock % 60);
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Formats `seconds` since 1970 (UTC). Unknown directives are an error rather than a guess.
fn strftime(seconds: u64, format: &str) -> Result<String, Error> {
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        match c {
            '%' => out.push_str(&directive(seconds, chars.next())?),
            c => out.push(c),
        }
    }
    Ok(out)
}

fn directive(seconds: u64, letter: Option<char>) -> Result<String, Error> {
    let (days, clock) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let month_name = MONTHS[month - 1];
    let day_name = DAYS[usize::try_from(days % 7).unwrap_or(0)];
    Ok(match letter {
        Some('Y') => year.to_string(),
        Some('y') => format!("{:02}", year % 100),
        Some('m') => format!("{month:02}"),
        Some('d') => format!("{day:02}"),
        Some('B') => month_name.to_owned(),
        Some('b') => month_name[..3].to_owned(),
        Some('A') => day_name.to_owned(),
        Some('a') => day_name[..3].to_owned(),
        Some('H') => format!("{:02}", clock / 3600),
        Some('M') => format!("{:02}", clock / 60 % 60),
        Some('S') => format!("{:02}", clock % 60),
        Some('%') => "%".to_owned(),
        other => {
            let name = other.map(String::from).unwrap_or_default();
            let message = format!("strftime_now: the directive `%{name}` is not supported");
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
    })
}

/// Days since 1970-01-01 to (year, month, day); Howard Hinnant's `civil_from_days` for days after 1970.
fn date(days: u64) -> (u64, usize, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, usize::try_from(month).unwrap_or(1), day)
}

#[cfg(test)]
mod tests {
    use super::{strftime, utc};

    #[test]
    fn dates_agree_with_python() {
        let format = "%A %a %d %B %b %Y %y %m %H:%M:%S %%";
        let cases = [
            (0, "Thursday Thu 01 January Jan 1970 70 01 00:00:00 %"),
            (951_782_399, "Monday Mon 28 February Feb 2000 00 02 23:59:59 %"),
            (951_825_600, "Tuesday Tue 29 February Feb 2000 00 02 12:00:00 %"),
            (1_767_225_599, "Wednesday Wed 31 December Dec 2025 25 12 23:59:59 %"),
        ];
        for (seconds, printed) in cases {
            assert_eq!(strftime(seconds, format).unwrap(), printed);
        }
        assert_eq!(utc(951_782_399), "2000-02-28T23:59:59Z");
        assert!(strftime(0, "%Q").unwrap_err().to_string().contains("%Q"));
    }
}
