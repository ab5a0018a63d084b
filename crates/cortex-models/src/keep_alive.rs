//! How long a model stays in memory when nobody uses it.

use serde_json::Value;
use std::time::Duration;

/// How long a model stays after its last answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepAlive {
    /// So long; no time is until the answer has ended.
    For(Duration),
    /// Until it is stopped, or another needs the memory.
    Forever,
}

/// What no clock reaches is for ever.
const CENTURY: f64 = 100.0 * 365.0 * 86_400.0;

impl KeepAlive {
    /// What [`KeepAlive::parse`] takes, for a person.
    pub const EXPECTED: &str = "seconds, a duration such as \"5m\", 0 or -1";

    /// Reads what a request or a setting says: seconds as a number, a duration such as `5m` or `1h30m` as a text; less
    /// than nothing is for ever.
    pub fn parse(value: &Value) -> Option<Self> {
        let seconds = match value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => match text.trim().parse::<f64>() {
                Ok(seconds) => Some(seconds),
                Err(_) => text.trim().parse::<jiff::SignedDuration>().ok().map(|it| it.as_secs_f64()),
            },
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        };
        let seconds = seconds.filter(|seconds| seconds.is_finite())?;
        let is_forever = !(0.0..=CENTURY).contains(&seconds);
        Some(if is_forever { Self::Forever } else { Self::For(Duration::from_secs_f64(seconds)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn seconds_and_durations_are_understood() {
        let whole = |seconds| Some(KeepAlive::For(Duration::from_secs(seconds)));
        for (value, expected) in [
            (json!(0), whole(0)),
            (json!("0"), whole(0)),
            (json!(90), whole(90)),
            (json!("90"), whole(90)),
            (json!("5m"), whole(300)),
            (json!("1h30m"), whole(5400)),
            (json!("24h"), whole(86_400)),
            (json!("1500ms"), Some(KeepAlive::For(Duration::from_millis(1500)))),
            (json!(0.5), Some(KeepAlive::For(Duration::from_millis(500)))),
            (json!(-1), Some(KeepAlive::Forever)),
            (json!("-1"), Some(KeepAlive::Forever)),
            (json!("-1m"), Some(KeepAlive::Forever)),
            (json!(1e300), Some(KeepAlive::Forever)),
            (json!("soon"), None),
            (json!(""), None),
            (json!("NaN"), None),
            (json!(true), None),
            (json!({}), None),
            (json!(null), None),
        ] {
            assert_eq!(KeepAlive::parse(&value), expected, "{value}");
        }
    }
}
