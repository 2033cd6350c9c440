//! Spans of time as Backstage writes them: `30s`, `PT30S`, `{ seconds: 30 }`.

use std::time::Duration;

use serde_json::Value;

use crate::config::javascript::trim;

const SECOND: f64 = 1.0;
const MINUTE: f64 = 60.0 * SECOND;
const HOUR: f64 = 60.0 * MINUTE;
const DAY: f64 = 24.0 * HOUR;

/// Far above every bound of ours, so that arithmetic on a duration never overflows.
const SECONDS_MAX: f64 = 366.0 * DAY;

/// Reads a duration.
///
/// # Errors
/// What is wrong with it. A bare number is refused: it does not say of what.
pub fn parse(value: &Value) -> Result<Duration, String> {
    let seconds = match value {
        Value::String(text) => of_text(trim(text)),
        Value::Object(parts) => {
            let each = parts.iter().map(|(unit, value)| Some(unit_seconds(unit)? * number(value)?));
            each.sum::<Option<f64>>().filter(|_| !parts.is_empty())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => None,
    };
    match seconds {
        Some(seconds) if (0.0..=SECONDS_MAX).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        Some(_) => Err("is not between nothing and a year".to_owned()),
        None => Err("is not a duration like `30s`, `PT30S` or `{ seconds: 30 }`".to_owned()),
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => trim(text).parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

fn of_text(text: &str) -> Option<f64> {
    if let Some(iso) = text.strip_prefix('P') {
        return of_iso(iso);
    }
    let at = text.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
    let (amount, unit) = text.split_at_checked(at)?;
    let amount: f64 = amount.parse().ok()?;
    Some(amount * unit_seconds(&trim(unit).to_ascii_lowercase())?)
}

/// What npm's `ms` understands, and the keys of a Backstage duration.
fn unit_seconds(unit: &str) -> Option<f64> {
    Some(match unit {
        "ms" | "msec" | "msecs" | "millisecond" | "milliseconds" => SECOND / 1000.0,
        "s" | "sec" | "secs" | "second" | "seconds" => SECOND,
        "m" | "min" | "mins" | "minute" | "minutes" => MINUTE,
        "h" | "hr" | "hrs" | "hour" | "hours" => HOUR,
        "d" | "day" | "days" => DAY,
        "w" | "week" | "weeks" => 7.0 * DAY,
        "month" | "months" => 30.0 * DAY,
        "y" | "yr" | "yrs" | "year" | "years" => 365.0 * DAY,
        _ => return None,
    })
}

/// ISO 8601 after its `P`: a number and a letter each, and after `T` other letters.
fn of_iso(text: &str) -> Option<f64> {
    let (date, time) = text.split_once('T').unwrap_or((text, ""));
    let date = iso_parts(date, |letter| {
        unit_seconds(match letter {
            'Y' => "y",
            'M' => "months",
            'W' => "w",
            'D' => "d",
            _ => return None,
        })
    })?;
    let time = iso_parts(time, |letter| {
        unit_seconds(match letter {
            'H' => "h",
            'M' => "m",
            'S' => "s",
            _ => return None,
        })
    })?;
    (!text.is_empty() && !text.ends_with('T')).then_some(date + time)
}

fn iso_parts(text: &str, unit: impl Fn(char) -> Option<f64>) -> Option<f64> {
    let mut amount = String::new();
    let mut sum = 0.0;
    for letter in text.chars() {
        if letter.is_ascii_digit() || matches!(letter, '.' | ',') {
            amount.push(if letter == ',' { '.' } else { letter });
        } else {
            sum += amount.parse::<f64>().ok()? * unit(letter)?;
            amount.clear();
        }
    }
    amount.is_empty().then_some(sum)
}

/// A duration as a person would write it.
#[must_use]
pub fn show(duration: Duration) -> String {
    let ms = duration.as_millis();
    for (unit, size) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if ms != 0 && ms.is_multiple_of(size) {
            return format!("{}{unit}", ms / size);
        }
    }
    format!("{ms}ms")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations_are_those_of_backstage() {
        for (value, ms) in [
            (json!("30s"), Some(30_000)),
            (json!("5m"), Some(300_000)),
            (json!("1.5 hours"), Some(5_400_000)),
            (json!(" 250ms "), Some(250)),
            (json!("PT30S"), Some(30_000)),
            (json!("P1DT1H1M0.5S"), Some(90_060_500)),
            (json!({ "seconds": 30 }), Some(30_000)),
            (json!({ "minutes": 1, "seconds": "30" }), Some(90_000)),
            (json!("0s"), Some(0)),
            (json!(30), None),
            (json!("30"), None),
            (json!("30 parsecs"), None),
            (json!("-1s"), None),
            (json!("P"), None),
            (json!("PT"), None),
            (json!({}), None),
            (json!({ "second": [] }), None),
            (json!("99999999999d"), None),
        ] {
            let parsed = parse(&value).ok().map(|duration| duration.as_millis());
            assert_eq!(parsed, ms, "{value}");
        }
        assert_eq!(show(Duration::from_secs(90)), "90s");
        assert_eq!(show(Duration::from_secs(3600)), "1h");
    }
}
