//! The settings file: its values as what they must be, and a change of one that leaves the rest as it is.

use super::SettingsError;
use serde_json::{Map, Value};
use std::{
    borrow::Cow,
    io,
    path::{Path, PathBuf},
};

/// The text of the settings file; nothing when there is no file.
pub(super) fn read_text(path: &Path) -> Result<Option<String>, SettingsError> {
    match fs_err::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(SettingsError::Io(error)),
    }
}

/// Its values.
pub(super) fn values(path: &Path, text: Option<&str>) -> Result<Map<String, Value>, SettingsError> {
    parse(text.unwrap_or_default()).map_err(|reason| SettingsError::Syntax { path: path.to_owned(), reason })
}

/// A file with nothing but comments is an empty one.
fn parse(text: &str) -> Result<Map<String, Value>, String> {
    let text = text.trim_start_matches('\u{feff}');
    let says_something = text.lines().any(|line| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with('#') && line != "---"
    });
    if !says_something {
        return Ok(Map::new());
    }
    // Only what is wrong and where: the lines around it may hold a secret.
    let first_line = |why: String| {
        let line = why.lines().next().unwrap_or_default().trim_start_matches("error: ");
        // Without hints for those who call the library.
        let line = line.split(", set DuplicateKeyPolicy").next().unwrap_or_default();
        line.split("; use from_").next().unwrap_or_default().to_owned()
    };
    serde_saphyr::from_str(text).map_err(|error| first_line(error.to_string()))
}

/// The values of the file, read as what they must be.
pub(super) struct File<'path> {
    pub(super) path: &'path Path,
    pub(super) values: Map<String, Value>,
}

impl File<'_> {
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn wrong<T>(
        &self,
        key: &'static str,
        expected: impl Into<Cow<'static, str>>,
    ) -> Result<T, SettingsError> {
        let value = match self.values.get(key) {
            Some(_) if super::SECRET_KEYS.contains(&key) => "(not shown)".into(),
            value => value.map(ToString::to_string).unwrap_or_default(),
        };
        Err(SettingsError::Value { key, value, expected: expected.into() })
    }

    pub(super) fn text(&self, key: &'static str) -> Result<Option<String>, SettingsError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(_) => self.wrong(key, "it must be a text"),
        }
    }

    /// A path; an empty text is none.
    pub(super) fn path(&self, key: &'static str) -> Result<Option<PathBuf>, SettingsError> {
        Ok(self.text(key)?.filter(|text| !text.trim().is_empty()).map(PathBuf::from))
    }

    pub(super) fn texts(&self, key: &'static str) -> Result<Option<Vec<String>>, SettingsError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(items)) => {
                let texts: Option<Vec<String>> = items
                    .iter()
                    .map(|item| match item {
                        Value::String(text) => Some(text.clone()),
                        Value::Number(number) => Some(number.to_string()),
                        _ => None,
                    })
                    .collect();
                texts.map_or_else(|| self.wrong(key, "it must be a list of texts"), |texts| Ok(Some(texts)))
            }
            Some(_) => self.wrong(key, "it must be a list of texts"),
        }
    }

    pub(super) fn truth(&self, key: &'static str) -> Result<Option<bool>, SettingsError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(truth)) => Ok(Some(*truth)),
            Some(_) => self.wrong(key, "it must be true or false"),
        }
    }

    pub(super) fn number(
        &self,
        key: &'static str,
        default: u64,
        (low, high): (u64, u64),
    ) -> Result<u64, SettingsError> {
        let number = match self.get(key) {
            None => return Ok(default),
            Some(Value::Number(number)) => number.as_u64(),
            Some(Value::String(text)) => text.trim().parse().ok(),
            Some(_) => None,
        };
        match number {
            Some(number) if (low..=high).contains(&number) => Ok(number),
            _ => self.wrong(key, format!("it must be a whole number from {low} to {high}")),
        }
    }

    pub(super) fn warnings(&self) -> Vec<String> {
        self.values
            .keys()
            .filter(|key| !super::OUR_KEYS.contains(&key.as_str()) && !super::KEPT_KEYS.contains(&key.as_str()))
            .map(|key| format!("the key `{key}` in {} is not known; it is kept and does nothing", self.path.display()))
            .collect()
    }
}

/// The text with another value of a key. Comments, order and unknown keys stay, and so does what other keys say, or nothing is
/// returned: a file that is written in unusual ways is written anew by [`anew`].
fn with_value(text: &str, key: &str, value: &Value) -> Option<String> {
    let wanted = {
        let mut values = parse(text).ok()?;
        values.insert(key.to_owned(), value.clone());
        values
    };
    let line_end = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let at = lines.iter().position(|line| is_of_key(line.trim_start_matches('\u{feff}'), key));
    let changed = if let Some(at) = at {
        let end = end_of_value(&lines, at);
        let mark = if at == 0 && text.starts_with('\u{feff}') { "\u{feff}" } else { "" };
        let comment = lines[at].trim_end().split_once(" #").filter(|(head, _)| !head.contains(['"', '\'']));
        let comment = comment.map(|(_, comment)| format!(" #{comment}")).unwrap_or_default();
        format!("{}{mark}{key}: {value}{comment}{line_end}{}", lines[..at].concat(), lines[end..].concat())
    } else {
        let gap = if text.is_empty() || text.ends_with('\n') { "" } else { line_end };
        format!("{text}{gap}{key}: {value}{line_end}")
    };
    (parse(&changed).ok()? == wanted).then_some(changed)
}

/// Where the value of the key of a line ends: lines further in belong to it, and items of a list.
fn end_of_value(lines: &[&str], at: usize) -> usize {
    let belongs =
        |line: &str| line.starts_with([' ', '\t', '-']) && !line.starts_with("---") && !line.trim().is_empty();
    let blank = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    let mut end = at + 1;
    for (next, line) in lines.iter().enumerate().skip(at + 1) {
        if belongs(line) {
            end = next + 1;
        } else if !blank(line) {
            break;
        }
    }
    end
}

/// The text with another value of a key, written anew where it is written in unusual ways. The values of it were read before.
pub(super) fn changed(text: &str, key: &str, value: &Value) -> Result<String, String> {
    if let Some(changed) = with_value(text, key, value) {
        return Ok(changed);
    }
    let mut values = parse(text)?;
    values.insert(key.to_owned(), value.clone());
    Ok(anew(&values))
}

/// A file with these values and nothing else.
fn anew(values: &Map<String, Value>) -> String {
    // JSON is YAML.
    let lines: Vec<String> =
        values.iter().map(|(key, value)| format!("{}: {value}\n", Value::from(key.as_str()))).collect();
    lines.concat()
}

/// Whether a line begins the value of a key of the file.
fn is_of_key(line: &str, key: &str) -> bool {
    let bare = ["", "\"", "'"].iter().find_map(|quote| line.strip_prefix(&format!("{quote}{key}{quote}")));
    let value = bare.and_then(|rest| rest.trim_start().strip_prefix(':'));
    value.is_some_and(|value| value.starts_with([' ', '\t', '\r', '\n']) || value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_value_is_changed_and_the_rest_of_the_file_stays() {
        for (text, changed) in [
            ("", "apiKeys: [\"a\"]\n"),
            ("# mine\nmystery: 1", "# mine\nmystery: 1\napiKeys: [\"a\"]\n"),
            ("a: 1\napiKeys: [x] # keys\nb: 2\n", "a: 1\napiKeys: [\"a\"] # keys\nb: 2\n"),
            ("apiKeys:\n  - x\n  # of Eve\n  - y\n\n# other\nb: 2\n", "apiKeys: [\"a\"]\n\n# other\nb: 2\n"),
            ("apiKeys:\n- x\n- y\nb: 2\n", "apiKeys: [\"a\"]\nb: 2\n"),
            ("\u{feff}apiKeys: []\r\nb: 2\r\n", "\u{feff}apiKeys: [\"a\"]\r\nb: 2\r\n"),
            ("'apiKeys': []\n", "apiKeys: [\"a\"]\n"),
            ("apiKeysMore: 3\n", "apiKeysMore: 3\napiKeys: [\"a\"]\n"),
        ] {
            assert_eq!(with_value(text, "apiKeys", &json!(["a"])).as_deref(), Some(changed), "{text}");
        }
    }

    #[test]
    fn what_is_written_in_another_way_is_not_guessed_at() {
        for text in ["{apiKeys: [x], b: 2}\n", "a: [\n1\n]\napiKeys: [\nx]\n", "a: [\n"] {
            assert_eq!(with_value(text, "apiKeys", &json!([])), None, "{text}");
        }
        let values = parse("{apiKeys: [x], \"b c\": 2, d: \"é\\n#\"}").unwrap();
        assert_eq!(parse(&anew(&values)).unwrap(), values);
    }
}
