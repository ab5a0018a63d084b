//! `models.list`: which models there are, one on a line, for people to read and edit. Pure.
//!
//! `id author_repo branch path alias status`, with shell quoting; `id path` is enough. Several aliases
//! are separated by commas. Comments, order and lines that make no sense are kept as they are.

use crate::ModelId;
use std::{borrow::Cow, collections::HashMap, fmt::Write as _};

/// The first lines of a new file.
const HEADER: &str = "# cortex models.list v1\n# id author_repo branch path alias status; `id path` is enough. Edit freely: changes count at once.\n";

/// One model of the list. Words without quotes are those of the text: a list of ten thousand is read
/// in a few milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry<'text> {
    pub(crate) id: Cow<'text, str>,
    pub(crate) author_repo: Cow<'text, str>,
    pub(crate) branch: Cow<'text, str>,
    /// A GGUF or a model.yaml; relative to the data folder, or absolute.
    pub(crate) path: Cow<'text, str>,
    pub(crate) aliases: Vec<String>,
    pub(crate) status: Cow<'text, str>,
}

impl Entry<'_> {
    /// A model on this machine that came `branch`: `imported` or `copied`.
    pub(crate) fn local(id: &ModelId, branch: &'static str, path: String) -> Entry<'static> {
        Entry {
            id: Cow::Owned(id.to_string()),
            author_repo: Cow::Borrowed("local"),
            branch: Cow::Borrowed(branch),
            path: Cow::Owned(path),
            aliases: vec![],
            status: Cow::Borrowed("downloaded"),
        }
    }

    /// The id.
    pub(crate) fn model_id(&self) -> ModelId {
        ModelId::existing(&*self.id)
    }
}

/// A line that is not a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListProblem {
    /// Number of the line, from 1.
    pub line: usize,
    /// The line.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Line<'text> {
    /// The line as it stands in the file, its end included.
    raw: Cow<'text, str>,
    entry: Option<Entry<'text>>,
}

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ModelsList<'text> {
    lines: Vec<Line<'text>>,
    /// The line of each id.
    places: HashMap<Cow<'text, str>, usize>,
    /// The line of each alias.
    aliases: HashMap<String, usize>,
    /// Lines that make no sense.
    pub(crate) problems: Vec<ListProblem>,
    /// What was done to it since it was read.
    edits: Edits,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Edits {
    /// Where new lines begin.
    appended: Option<usize>,
    /// A line that was there is another one or gone.
    rewritten: bool,
}

/// Bytes that are not UTF-8 stand in memory as letters that nobody uses, the last of plane 16, so that a list
/// is written back byte for byte. Such letters themselves are taken for such bytes, too.
const ESCAPED: u32 = 0x10_ff00;

/// The first byte of such letters, and of hardly any other.
const FIRST_ESCAPED_BYTE: u8 = 0xf4;

/// The text of a file's bytes.
pub(crate) fn decode(bytes: Vec<u8>) -> String {
    let bytes = if bytes.contains(&FIRST_ESCAPED_BYTE) {
        bytes
    } else {
        match String::from_utf8(bytes) {
            Ok(text) => return text,
            Err(error) => error.into_bytes(),
        }
    };
    let escape = |bytes: &[u8], text: &mut String| {
        text.extend(bytes.iter().filter_map(|&byte| char::from_u32(ESCAPED + u32::from(byte))));
    };
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        let mut rest = chunk.valid();
        while let Some(at) = rest.find(is_escaped) {
            let (before, after) = rest.split_at(at);
            let (letter, after) = after.split_at(4);
            text.push_str(before);
            escape(letter.as_bytes(), &mut text);
            rest = after;
        }
        text.push_str(rest);
        escape(chunk.invalid(), &mut text);
    }
    text
}

/// The bytes of a text that was decoded.
pub(crate) fn encode(text: &str) -> Vec<u8> {
    if !text.as_bytes().contains(&FIRST_ESCAPED_BYTE) {
        return text.as_bytes().to_vec();
    }
    let mut bytes = Vec::with_capacity(text.len());
    for letter in text.chars() {
        if is_escaped(letter) {
            bytes.extend(u8::try_from(u32::from(letter) - ESCAPED));
        } else {
            bytes.extend(letter.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    bytes
}

fn is_escaped(letter: char) -> bool {
    (ESCAPED + 0x80..=ESCAPED + 0xff).contains(&u32::from(letter))
}

/// Reads the text of a list. Never fails: what makes no sense becomes a problem.
pub(crate) fn parse(text: &str) -> ModelsList<'_> {
    let mut list = ModelsList::default();
    let mut words = Vec::new();
    for (at, raw) in text.split_inclusive('\n').enumerate() {
        let content = raw.trim_start_matches('\u{feff}').trim();
        let mut entry = None;
        if !content.is_empty() && !content.starts_with('#') {
            match parse_entry(content, &mut words) {
                _ if content.as_bytes().contains(&FIRST_ESCAPED_BYTE) && content.contains(is_escaped) => {
                    list.problem(
                        at,
                        content,
                        "it is not UTF-8 text: write the line again, rename the file if need be".into(),
                    );
                }
                Ok(parsed) if list.places.contains_key(&parsed.id) => {
                    list.problem(at, content, format!("the id `{}` is already on an earlier line", parsed.id));
                }
                Ok(parsed) => {
                    list.places.insert(parsed.id.clone(), at);
                    entry = Some(parsed);
                }
                Err(reason) => list.problem(at, content, reason),
            }
        }
        if let Some(entry) = &entry {
            list.note_aliases(entry, at);
        }
        list.lines.push(Line { raw: Cow::Borrowed(raw), entry });
    }
    list.report_aliases();
    list
}

impl<'text> ModelsList<'text> {
    /// The models, in the order of the file.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry<'text>> {
        self.lines.iter().filter_map(|line| line.entry.as_ref())
    }

    /// The models, in the order of the file.
    pub(crate) fn into_entries(self) -> impl Iterator<Item = Entry<'text>> {
        self.lines.into_iter().filter_map(|line| line.entry)
    }

    /// The models that were added since it was read, when nothing else was done to it.
    pub(crate) fn only_added(&self) -> Option<impl Iterator<Item = &Entry<'text>>> {
        let from = self.edits.appended.filter(|_| !self.edits.rewritten)?;
        Some(self.lines.get(from..)?.iter().filter_map(|line| line.entry.as_ref()))
    }

    /// How many models there are.
    pub(crate) fn count(&self) -> usize {
        self.places.len()
    }

    /// The model with this id.
    pub(crate) fn get(&self, id: &str) -> Option<&Entry<'text>> {
        self.lines.get(*self.places.get(id)?)?.entry.as_ref()
    }

    /// The model that has this name as an alias.
    pub(crate) fn owner_of_alias(&self, alias: &str) -> Option<&Entry<'text>> {
        let entry = self.lines.get(*self.aliases.get(alias)?)?.entry.as_ref()?;
        entry.aliases.iter().any(|own| own == alias).then_some(entry)
    }

    fn note_aliases(&mut self, entry: &Entry<'_>, at: usize) {
        for alias in &entry.aliases {
            self.aliases.entry(alias.clone()).or_insert(at);
        }
    }

    /// Aliases that mean another model: its id, or its alias on an earlier line.
    fn report_aliases(&mut self) {
        let mut problems = Vec::new();
        for (at, line) in self.lines.iter().enumerate() {
            for alias in line.entry.iter().flat_map(|entry| &entry.aliases) {
                let place = self.places.get(alias.as_str()).or_else(|| self.aliases.get(alias));
                if let Some(owner) =
                    place.filter(|&&place| place != at).and_then(|&place| self.lines[place].entry.as_ref())
                {
                    problems.push((at, format!("the alias `{alias}` means nothing: it is a name of `{}`", owner.id)));
                }
            }
        }
        for (at, reason) in problems {
            let text = self.lines[at].raw.trim().to_owned();
            self.problem(at, &text, reason);
        }
        self.problems.sort_by_key(|problem| problem.line);
    }

    /// Adds a model, or replaces the line of the one with this id.
    pub(crate) fn upsert(&mut self, entry: Entry<'text>) {
        let raw = Cow::Owned(format!("{}\n", print_entry(&entry)));
        if let Some(&place) = self.places.get(&entry.id) {
            self.edits.rewritten = true;
            self.note_aliases(&entry, place);
            self.lines[place] = Line { raw, entry: Some(entry) };
            return;
        }
        if let Some(last) = self.lines.iter_mut().rev().find(|line| !line.raw.is_empty())
            && !last.raw.ends_with('\n')
        {
            last.raw.to_mut().push('\n');
        }
        self.note_aliases(&entry, self.lines.len());
        self.places.insert(entry.id.clone(), self.lines.len());
        self.edits.appended.get_or_insert(self.lines.len());
        self.lines.push(Line { raw, entry: Some(entry) });
    }

    /// Removes the line of a model; false when there is none.
    pub(crate) fn remove(&mut self, id: &str) -> bool {
        let Some(place) = self.places.remove(id) else { return false };
        self.edits.rewritten = true;
        // The line stays, empty: the places of the others hold.
        self.lines[place] = Line { raw: Cow::Borrowed(""), entry: None };
        true
    }

    /// The text of the file.
    pub(crate) fn print(&self) -> String {
        let length = self.lines.iter().map(|line| line.raw.len()).sum::<usize>() + HEADER.len();
        let mut text = String::with_capacity(length);
        if !self.lines.iter().any(|line| line.entry.is_none() && !line.raw.is_empty()) {
            text.push_str(HEADER);
        }
        for line in &self.lines {
            text.push_str(&line.raw);
        }
        text
    }

    fn problem(&mut self, at: usize, text: &str, reason: String) {
        self.problems.push(ListProblem { line: at + 1, text: text.to_owned(), reason });
    }
}

/// `words` is only room to work in.
fn parse_entry<'text>(line: &'text str, words: &mut Vec<Cow<'text, str>>) -> Result<Entry<'text>, String> {
    words.clear();
    split_words(line, words)?;
    let aliases = |text: &str| text.split(',').filter(|alias| !alias.is_empty()).map(str::to_owned).collect();
    let mut entry = Entry {
        id: Cow::Borrowed(""),
        author_repo: Cow::Borrowed("local"),
        branch: Cow::Borrowed("imported"),
        path: Cow::Borrowed(""),
        aliases: vec![],
        status: Cow::Borrowed("downloaded"),
    };
    match words.as_mut_slice() {
        [id, path] => (entry.id, entry.path) = (std::mem::take(id), std::mem::take(path)),
        [id, author_repo, branch, path, rest @ ..] if rest.len() <= 2 => {
            (entry.id, entry.path) = (std::mem::take(id), std::mem::take(path));
            (entry.author_repo, entry.branch) = (std::mem::take(author_repo), std::mem::take(branch));
            if let Some(text) = rest.first() {
                entry.aliases = aliases(text);
            }
            if let Some(status) = rest.get_mut(1) {
                entry.status = std::mem::take(status);
            }
        }
        _ => {
            return Err(format!(
                "a line has 2 words (id path) or 4 to 6 (id author_repo branch path alias status), this one has {}; put quotes around words with spaces",
                words.len()
            ));
        }
    }
    if entry.id.is_empty() || entry.path.is_empty() {
        return Err("the id and the path cannot be empty".into());
    }
    Ok(entry)
}

/// Splits like a shell: quotes and backslashes, nothing else.
fn split_words<'line>(line: &'line str, words: &mut Vec<Cow<'line, str>>) -> Result<(), String> {
    // All of them are one byte long, and no part of any other letter.
    let is_special = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\'' | b'"' | b'\\');
    let mut rest = line.trim_start_matches([' ', '\t']);
    // As in a shell, a word that begins with `#` begins a comment.
    while !rest.is_empty() && !rest.starts_with('#') {
        let mut word = Cow::Borrowed("");
        // Pieces of one word, quoted or not, up to the next space.
        loop {
            let (plain, after) = rest.split_at(rest.bytes().position(|byte| is_special(&byte)).unwrap_or(rest.len()));
            if word.is_empty() {
                word = Cow::Borrowed(plain);
            } else {
                word.to_mut().push_str(plain);
            }
            let mut letters = after.chars();
            match letters.next() {
                None | Some(' ' | '\t') => {
                    rest = after;
                    break;
                }
                Some('\'') => {
                    let (inside, after) = letters.as_str().split_once('\'').ok_or("a single quote is not closed")?;
                    word.to_mut().push_str(inside);
                    rest = after;
                }
                Some('"') => rest = double_quoted(letters.as_str(), &mut word)?,
                // A backslash: the next letter stands for itself.
                Some(_) => {
                    word.to_mut().push(letters.next().ok_or("the line ends in a backslash")?);
                    rest = letters.as_str();
                }
            }
        }
        words.push(word);
        rest = rest.trim_start_matches([' ', '\t']);
    }
    Ok(())
}

/// Adds what stands before the closing quote to the word, and returns what stands behind it.
fn double_quoted<'line>(mut rest: &'line str, word: &mut Cow<'_, str>) -> Result<&'line str, String> {
    loop {
        let end = rest.find(['"', '\\']).ok_or("a double quote is not closed")?;
        word.to_mut().push_str(&rest[..end]);
        let mut letters = rest[end..].chars();
        if letters.next() == Some('"') {
            return Ok(letters.as_str());
        }
        word.to_mut().push(letters.next().ok_or("a double quote is not closed")?);
        rest = letters.as_str();
    }
}

fn print_entry(entry: &Entry<'_>) -> String {
    let aliases = entry.aliases.join(",");
    let mut line = String::new();
    for word in [&*entry.id, &entry.author_repo, &entry.branch, &entry.path, &aliases, &entry.status] {
        if !line.is_empty() {
            line.push(' ');
        }
        let _ = write!(line, "{}", quote(word));
    }
    line
}

fn quote(word: &str) -> String {
    let plain = |letter: char| !letter.is_whitespace() && !"'\"\\#".contains(letter) && letter != '\u{feff}';
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(id: &str, path: &str) -> Entry<'static> {
        Entry::local(&ModelId::existing(id), "imported", path.into())
    }

    #[test]
    fn hand_written_lines_are_understood() {
        let list = parse(
            "\u{feff}# mine\r\na /m/a.gguf\r\n\r\n\"b c\" '/m/my models/b.gguf'\nd x main /d.gguf one,two READY # why",
        );
        let seen: Vec<(&str, &str)> = list.entries().map(|entry| (&*entry.id, &*entry.path)).collect();
        assert_eq!(seen, [("a", "/m/a.gguf"), ("b c", "/m/my models/b.gguf"), ("d", "/d.gguf")]);
        assert_eq!(list.entries().last().map(|entry| entry.aliases.clone()), Some(vec!["one".into(), "two".into()]));
        assert!(list.problems.is_empty());
    }

    #[test]
    fn lines_that_make_no_sense_are_kept_and_reported() {
        let text = "a /a.gguf\nlonely\na /other.gguf\n'open /x\n";
        let mut list = parse(text);
        let lines: Vec<usize> = list.problems.iter().map(|problem| problem.line).collect();
        assert_eq!(lines, [2, 3, 4]);
        list.upsert(entry("new", "/new.gguf"));
        assert_eq!(list.print(), format!("{text}new local imported /new.gguf \"\" downloaded\n"));
    }

    #[test]
    fn a_new_list_begins_with_what_it_is() {
        let mut list = parse("");
        list.upsert(entry("a", "/a b.gguf"));
        assert_eq!(list.print(), format!("{HEADER}a local imported \"/a b.gguf\" \"\" downloaded\n"));
    }

    #[test]
    fn a_removed_model_leaves_the_other_lines_as_they_were() {
        let mut list = parse("# mine\na /a.gguf\nnonsense\nb /b.gguf");
        assert!(list.remove("a"));
        assert!(!list.remove("a"));
        assert_eq!(list.print(), "# mine\nnonsense\nb /b.gguf");
        list.upsert(entry("c", "/c.gguf"));
        assert_eq!(list.print(), "# mine\nnonsense\nb /b.gguf\nc local imported /c.gguf \"\" downloaded\n");
        assert_eq!(list.get("c").map(|entry| &*entry.path), Some("/c.gguf"));
        assert_eq!(list.count(), 2);
    }

    #[test]
    fn an_alias_that_means_another_model_is_reported() {
        let list = parse("a x main /a.gguf one,b\nb x main /b.gguf two,one\n");
        let seen: Vec<(usize, bool)> =
            list.problems.iter().map(|problem| (problem.line, problem.reason.contains("a name of"))).collect();
        assert_eq!(seen, [(1, true), (2, true)]);
        assert_eq!(list.owner_of_alias("one").map(|entry| &*entry.id), Some("a"));
        assert_eq!(list.count(), 2);
    }

    #[test]
    fn what_was_only_added_is_told_apart() {
        let mut list = parse("a /a.gguf\n");
        assert!(list.only_added().is_none());
        list.upsert(entry("b", "/b.gguf"));
        list.upsert(entry("c", "/c.gguf"));
        let added: Vec<&str> = list.only_added().unwrap().map(|entry| &*entry.id).collect();
        assert_eq!(added, ["b", "c"]);
        list.upsert(entry("a", "/other.gguf"));
        assert!(list.only_added().is_none());
    }

    #[test]
    fn a_missing_final_newline_joins_no_lines() {
        let mut list = parse("a /a.gguf");
        list.upsert(entry("b", "/b.gguf"));
        assert_eq!(parse(&list.print()).entries().count(), 2);
    }

    #[test]
    fn bytes_that_are_not_text_come_back_and_their_lines_are_reported() {
        let bytes = b"a /a.gguf\ncaf /m/caf\xe9.gguf\n# \xff\xfe\n\xf4\x8f\xbe\x80 /x\n";
        let text = decode(bytes.to_vec());
        assert_eq!(encode(&text), bytes);
        let list = parse(&text);
        assert_eq!(list.problems.iter().map(|problem| problem.line).collect::<Vec<_>>(), [2, 4]);
        assert_eq!(list.count(), 1);
    }

    proptest! {
        #[test]
        fn whatever_bytes_are_in_the_file_come_back(bytes in prop::collection::vec(prop::num::u8::ANY, 0..60)) {
            prop_assert_eq!(encode(&decode(bytes.clone())), bytes);
        }

        #[test]
        fn whatever_is_in_the_file_is_printed_as_it_was(lines in prop::collection::vec("[ -~\té\u{feff}\r]{0,30}", 0..12), end in "\n?") {
            let text = format!("# first\n{}{end}", lines.join("\n"));
            prop_assert_eq!(parse(&text).print(), text);
        }

        #[test]
        fn what_is_printed_is_read_again(words in prop::collection::vec("[ -~é\u{feff}\u{3000}]{0,8}", 6), more in "[ -~]{0,20}") {
            let written = Entry {
                id: format!("i{}", words[0]).into(),
                author_repo: words[1].clone().into(),
                branch: words[2].clone().into(),
                path: format!("/{}", words[3]).into(),
                aliases: vec![words[4].replace(',', "")].into_iter().filter(|alias| !alias.is_empty()).collect(),
                status: words[5].clone().into(),
            };
            let text = format!("# {more}\n{more}\n");
            let mut list = parse(&text);
            let before = list.print();
            list.upsert(written.clone());
            let text = list.print();
            prop_assert!(text.starts_with(&before));
            prop_assert!(parse(&text).entries().any(|read| *read == written));
        }
    }
}
