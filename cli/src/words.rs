//! Numbers, times and rates as people read them.

use std::time::Duration;

/// `3,005`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 epoch`, `3,005 rows`.
pub fn counted(n: u64, what: &str) -> String {
    format!("{} {what}{}", count(n), if n == 1 { "" } else { "s" })
}

/// Rows a second: `950`, `12.3 k`, `1.23 M`.
pub fn rate(rows: u64, seconds: f64) -> String {
    let rate = rows as f64 / seconds;
    match rate {
        rate if !rate.is_finite() || seconds <= 0.0 => "-".into(),
        rate if rate < 1e4 => format!("{rate:.0}"),
        rate if rate < 1e6 => format!("{:.1} k", rate / 1e3),
        rate => format!("{:.2} M", rate / 1e6),
    }
}

/// `0.8 s`, `42 s`, `3:05`, `1:02:03`.
pub fn span(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "-".into();
    }
    if seconds < 9.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{}:{:02}", whole / 60, whole % 60),
        _ => format!("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60),
    }
}

/// `0.31 s`, `42 s`: of what usually takes less than a second.
pub fn moments(seconds: f64) -> String {
    if (0.0..9.995).contains(&seconds) { format!("{seconds:.2} s") } else { span(seconds) }
}

/// Five significant digits, or an exponent where that says more.
pub fn loss(loss: f64) -> String {
    match loss.abs() {
        size if !size.is_finite() => loss.to_string(),
        size if size == 0.0 || (1e-3..1e3).contains(&size) => format!("{loss:.5}"),
        _ => format!("{loss:.4e}"),
    }
}

/// How long ago, and the moment itself: `2026-11-24T17:22:13Z`.
pub fn moment(unix_micros: u64) -> String {
    let at = std::time::UNIX_EPOCH + Duration::from_micros(unix_micros);
    humantime::format_rfc3339_seconds(at).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(counted(1, "epoch"), "1 epoch");
        assert_eq!(counted(3005, "row"), "3,005 rows");
        assert_eq!(
            [(95, 0.1), (12_345, 1.0), (2_000_000, 1.0), (1, 0.0)].map(|(n, s)| rate(n, s)),
            ["950", "12.3 k", "2.00 M", "-"]
        );
        assert_eq!(
            [0.83, 9.96, 42.4, 185.0, 3723.0, f64::NAN].map(span),
            ["0.8 s", "10 s", "42 s", "3:05", "1:02:03", "-"]
        );
        assert_eq!([0.314, 12.0, 75.0].map(moments), ["0.31 s", "12 s", "1:15"]);
        assert_eq!(
            [0.612_347_18, 12.5, 1e-7, 0.0, f64::NAN].map(loss),
            ["0.61235", "12.50000", "1.0000e-7", "0.00000", "NaN"]
        );
        assert_eq!(moment(1_795_541_333_000_000), "2026-11-24T17:28:53Z");
    }
}
