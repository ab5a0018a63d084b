//! Grammars in llama.cpp's GBNF, as something that llguidance follows. Pure.
//!
//! GBNF knows no words: it describes texts character by character. llguidance parses words that a lexer finds, and a lexer takes the
//! longest word. So everything between references to rules that contain themselves becomes one regular expression: whole rules, and
//! what stands beside each other in the others. What is not recursive at all is one expression.
//! Source of the syntax: llama.cpp's grammars/README.md.

use cortex_api::worker::Constraint;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

/// Bytes of an expression, and of a grammar, that come of it.
const LARGEST: usize = 256 * 1024;
/// Groups in groups, and rules that lead to rules.
const DEEPEST: usize = 64;
/// Rules of a grammar.
const MOST_RULES: usize = 4096;
/// Signs behind one part that say how often it may come.
const MOST_SIGNS: usize = 4;
/// Repetitions of one thing.
const MOST_REPETITIONS: u32 = 2000;
/// The rule that a text follows.
const ROOT: &str = "root";

/// What a part of a rule matches.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    /// A text, perhaps none.
    Text(String),
    /// One character of these ranges, or of none of them.
    Class { is_negated: bool, ranges: Vec<(char, char)> },
    /// Any character.
    Any,
    /// What a rule matches.
    Rule(String),
    /// One after the other.
    Sequence(Vec<Node>),
    /// One of them.
    Choice(Vec<Node>),
    /// So many times; without a second number, as often as one likes.
    Repeat(Box<Node>, u32, Option<u32>),
}

type Rules = BTreeMap<String, Node>;

/// What the answer must be, or why the grammar makes no sense.
pub(super) fn constraint(grammar: &str) -> Result<Constraint, String> {
    let rules = Parser { text: grammar, at: 0 }.rules()?;
    let root = rules.get(ROOT).ok_or("it has no rule `root`")?;
    for (name, node) in &rules {
        let mut used = BTreeSet::new();
        references(node, &mut used);
        if let Some(unknown) = used.into_iter().find(|used| !rules.contains_key(used)) {
            return Err(format!("the rule `{name}` names `{unknown}`, which is none"));
        }
    }
    let writer = Writer { regular: regular(&rules), rules: &rules };
    if writer.is_regular(root) {
        return Ok(Constraint::Regex { pattern: writer.expression(root)? });
    }
    Ok(Constraint::Lark { grammar: writer.grammar()? })
}

/// The rules that a part names.
fn references(node: &Node, found: &mut BTreeSet<String>) {
    match node {
        Node::Text(_) | Node::Class { .. } | Node::Any => {}
        Node::Rule(name) => {
            found.insert(name.clone());
        }
        Node::Sequence(nodes) | Node::Choice(nodes) => nodes.iter().for_each(|node| references(node, found)),
        Node::Repeat(node, ..) => references(node, found),
    }
}

/// The rules that lead to no rule that contains itself: found from those that name none, as far as they lead.
fn regular(rules: &Rules) -> BTreeSet<String> {
    // For each rule, those that name it, and how many of the rules that it names are not known to be regular.
    let mut users: BTreeMap<String, Vec<&String>> = BTreeMap::new();
    let (mut open, mut ready): (BTreeMap<&String, usize>, Vec<&String>) = (BTreeMap::new(), vec![]);
    for (name, node) in rules {
        let mut used = BTreeSet::new();
        references(node, &mut used);
        open.insert(name, used.len());
        if used.is_empty() {
            ready.push(name);
        }
        for used in used {
            users.entry(used).or_default().push(name);
        }
    }
    let mut regular = BTreeSet::new();
    while let Some(name) = ready.pop() {
        regular.insert(name.clone());
        for user in users.get(name).into_iter().flatten() {
            let Some(left) = open.get_mut(user) else { continue };
            *left -= 1;
            if *left == 0 {
                ready.push(user);
            }
        }
    }
    regular
}

/// Writes what rules say in the words of llguidance.
struct Writer<'rules> {
    rules: &'rules Rules,
    regular: BTreeSet<String>,
}

impl Writer<'_> {
    fn is_regular(&self, node: &Node) -> bool {
        let mut used = BTreeSet::new();
        references(node, &mut used);
        used.is_subset(&self.regular)
    }

    /// A regular part as an expression.
    fn expression(&self, node: &Node) -> Result<String, String> {
        let mut text = String::new();
        self.write_expression(node, 0, &mut text)?;
        Ok(text)
    }

    /// `depth` is how many rules have led here.
    fn write_expression(&self, node: &Node, depth: usize, text: &mut String) -> Result<(), String> {
        if depth > DEEPEST {
            return Err(format!("more than {DEEPEST} rules lead to each other"));
        }
        match node {
            Node::Text(literal) => literal.chars().for_each(|letter| write_letter(letter, text)),
            Node::Any => text.push_str("(?s:.)"),
            Node::Class { is_negated, ranges } => {
                text.push_str(if *is_negated { "[^" } else { "[" });
                for &(first, last) in ranges {
                    write_letter(first, text);
                    text.push('-');
                    write_letter(last, text);
                }
                text.push(']');
            }
            Node::Rule(name) => {
                text.push_str("(?:");
                self.write_expression(&self.rules[name], depth + 1, text)?;
                text.push(')');
            }
            Node::Sequence(nodes) => {
                for node in nodes {
                    let is_choice = matches!(node, Node::Choice(_));
                    text.push_str(if is_choice { "(?:" } else { "" });
                    self.write_expression(node, depth, text)?;
                    text.push_str(if is_choice { ")" } else { "" });
                }
            }
            Node::Choice(nodes) => {
                for (at, node) in nodes.iter().enumerate() {
                    text.push_str(if at > 0 { "|" } else { "" });
                    self.write_expression(node, depth, text)?;
                }
            }
            Node::Repeat(node, least, most) => {
                text.push_str("(?:");
                self.write_expression(node, depth, text)?;
                text.push(')');
                text.push_str(&repetition(*least, *most));
            }
        }
        if text.len() > LARGEST {
            return Err(format!("it becomes larger than {LARGEST} bytes when rules are put in where they are named"));
        }
        Ok(())
    }

    /// All rules that are needed, as a grammar in Lark.
    fn grammar(&self) -> Result<String, String> {
        let (mut text, mut wanted, mut done) = (String::from("start: root\n"), vec![ROOT.to_owned()], BTreeSet::new());
        while let Some(name) = wanted.pop() {
            if !done.insert(name.clone()) {
                continue;
            }
            let node = &self.rules[&name];
            let _ = write!(text, "{}: ", lark_name(&name));
            self.write_rule(node, &mut text)?;
            text.push('\n');
            let mut used = BTreeSet::new();
            references(node, &mut used);
            wanted.extend(used.difference(&self.regular).cloned());
        }
        Ok(text)
    }

    fn write_rule(&self, node: &Node, text: &mut String) -> Result<(), String> {
        if self.is_regular(node) {
            return self.write_word(node, text);
        }
        match node {
            Node::Text(_) | Node::Class { .. } | Node::Any => self.write_word(node, text),
            Node::Rule(name) => {
                text.push_str(&lark_name(name));
                Ok(())
            }
            Node::Sequence(nodes) => {
                // What stands beside each other and is regular is one word.
                let mut at = 0;
                while at < nodes.len() {
                    let run = nodes[at..].iter().take_while(|node| self.is_regular(node)).count();
                    if run > 0 {
                        self.write_word(&Node::Sequence(nodes[at..at + run].to_vec()), text)?;
                    } else {
                        text.push('(');
                        self.write_rule(&nodes[at], text)?;
                        text.push(')');
                    }
                    at += run.max(1);
                    text.push(' ');
                }
                Ok(())
            }
            Node::Choice(nodes) => {
                text.push('(');
                for (at, node) in nodes.iter().enumerate() {
                    text.push_str(if at > 0 { " | " } else { "" });
                    self.write_rule(node, text)?;
                }
                text.push(')');
                Ok(())
            }
            Node::Repeat(node, least, most) => {
                text.push('(');
                self.write_rule(node, text)?;
                text.push(')');
                text.push_str(&repetition(*least, *most));
                Ok(())
            }
        }
    }

    /// A regular part as a word of the lexer.
    fn write_word(&self, node: &Node, text: &mut String) -> Result<(), String> {
        let expression = self.expression(node)?;
        if expression.is_empty() {
            text.push_str("\"\"");
        } else {
            let _ = write!(text, "/{expression}/");
        }
        if text.len() > LARGEST {
            return Err(format!("it becomes larger than {LARGEST} bytes"));
        }
        Ok(())
    }
}

/// A rule's name as Lark knows them.
fn lark_name(name: &str) -> String {
    if name == ROOT {
        return name.into();
    }
    // Case and signs count in GBNF.
    let mut lark = String::from("rule_");
    for letter in name.chars() {
        match letter {
            'a'..='z' | '0'..='9' => lark.push(letter),
            other => {
                let _ = write!(lark, "_{:x}_", u32::from(other));
            }
        }
    }
    lark
}

fn repetition(least: u32, most: Option<u32>) -> String {
    match (least, most) {
        (0, None) => "*".into(),
        (1, None) => "+".into(),
        (0, Some(1)) => "?".into(),
        (least, None) => format!("{{{least},}}"),
        (least, Some(most)) => format!("{{{least},{most}}}"),
    }
}

/// A character in an expression, also between the slashes of Lark.
fn write_letter(letter: char, text: &mut String) {
    if letter.is_ascii_alphanumeric() || letter == ' ' || letter == '_' {
        text.push(letter);
    } else {
        let _ = write!(text, "\\x{{{:x}}}", u32::from(letter));
    }
}

/// Reads a grammar.
struct Parser<'text> {
    text: &'text str,
    at: usize,
}

impl Parser<'_> {
    fn rules(&mut self) -> Result<Rules, String> {
        let mut rules = Rules::new();
        loop {
            self.skip(true);
            if self.rest().is_empty() {
                return Ok(rules);
            }
            let name = self.name().ok_or_else(|| self.error("a rule should begin here with its name"))?;
            self.skip(false);
            if !self.take("::=") {
                return Err(self.error(&format!("`::=` should follow the name `{name}`")));
            }
            self.skip(true);
            let node = self.choice(0)?;
            self.skip(false);
            if !self.rest().is_empty() && !self.rest().starts_with(['\n', '\r']) {
                return Err(self.error("this belongs to no rule"));
            }
            if rules.len() >= MOST_RULES {
                return Err(self.error(&format!("there are more than {MOST_RULES} rules")));
            }
            if rules.insert(name.clone(), node).is_some() {
                return Err(self.error(&format!("the rule `{name}` is there already")));
            }
        }
    }

    fn choice(&mut self, depth: usize) -> Result<Node, String> {
        if depth > DEEPEST {
            return Err(self.error(&format!("there are more than {DEEPEST} groups in each other")));
        }
        let mut nodes = vec![self.sequence(depth)?];
        loop {
            // A choice may go on in the next line.
            let before = self.at;
            self.skip(true);
            if !self.take("|") {
                self.at = before;
                break;
            }
            self.skip(true);
            nodes.push(self.sequence(depth)?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::Choice(nodes) })
    }

    fn sequence(&mut self, depth: usize) -> Result<Node, String> {
        let mut nodes = Vec::new();
        loop {
            self.skip(depth > 0);
            let Some(node) = self.item(depth)? else { break };
            nodes.push(self.repeated(node, 0)?);
        }
        Ok(match nodes.len() {
            0 => Node::Text(String::new()),
            1 => nodes.remove(0),
            _ => Node::Sequence(nodes),
        })
    }

    fn item(&mut self, depth: usize) -> Result<Option<Node>, String> {
        if self.take("\"") {
            let mut text = String::new();
            while !self.take("\"") {
                text.push(self.letter()?);
            }
            return Ok(Some(Node::Text(text)));
        }
        if self.take("[") {
            let is_negated = self.take("^");
            let mut ranges = Vec::new();
            while !self.take("]") {
                let first = self.letter()?;
                let is_range = self.rest().starts_with('-') && !self.rest().starts_with("-]");
                let last = if is_range && self.take("-") { self.letter()? } else { first };
                if last < first {
                    return Err(self.error(&format!("the range {first}-{last} has no characters")));
                }
                ranges.push((first, last));
            }
            return match (ranges.is_empty(), is_negated) {
                (true, true) => Ok(Some(Node::Any)),
                (true, false) => Err(self.error("`[]` has no characters")),
                _ => Ok(Some(Node::Class { is_negated, ranges })),
            };
        }
        if self.take("(") {
            self.skip(true);
            let node = self.choice(depth + 1)?;
            self.skip(true);
            if !self.take(")") {
                return Err(self.error("a `)` is missing"));
            }
            return Ok(Some(node));
        }
        if self.take(".") {
            return Ok(Some(Node::Any));
        }
        if self.rest().starts_with(['<', '!']) {
            return Err(self.error("tokens (`<…>`) are not supported; write their text"));
        }
        // The name of a rule, unless that rule begins here.
        let before = self.at;
        let Some(name) = self.name() else { return Ok(None) };
        let end = self.at;
        self.skip(false);
        if self.rest().starts_with("::=") {
            self.at = before;
            return Ok(None);
        }
        self.at = end;
        Ok(Some(Node::Rule(name)))
    }

    /// What stands behind a part says how often it may come.
    fn repeated(&mut self, node: Node, signs: usize) -> Result<Node, String> {
        let (least, most) = match self.rest().chars().next() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => {
                let end = self.rest().find('}').ok_or_else(|| self.error("a `}` is missing"))?;
                let inside = self.rest()[1..end].to_owned();
                let number = |text: &str| text.trim().parse::<u32>().ok().filter(|&number| number <= MOST_REPETITIONS);
                let found = match inside.split_once(',') {
                    None => number(&inside).map(|count| (count, Some(count))),
                    Some((least, most)) => {
                        let least = if least.trim().is_empty() { Some(0) } else { number(least) };
                        let most = if most.trim().is_empty() { Some(None) } else { number(most).map(Some) };
                        least.zip(most)
                    }
                };
                let found = found.filter(|(least, most)| most.is_none_or(|most| *least <= most));
                let (least, most) = found.ok_or_else(|| {
                    self.error(&format!("`{{{inside}}}` is no number of repetitions up to {MOST_REPETITIONS}"))
                })?;
                self.at += end;
                (least, most)
            }
            _ => return Ok(node),
        };
        self.at += 1;
        if signs >= MOST_SIGNS {
            return Err(self.error("there are too many signs that say how often it may come"));
        }
        // `a*?` is a choice of none or many.
        self.repeated(Node::Repeat(Box::new(node), least, most), signs + 1)
    }

    /// A character of a text or a class, written as itself or escaped.
    fn letter(&mut self) -> Result<char, String> {
        let mut letters = self.rest().chars();
        let letter = match letters.next() {
            None | Some('\n' | '\r') => return Err(self.error("a text or a class does not end")),
            Some('\\') => letters.next(),
            Some(plain) => {
                self.at += plain.len_utf8();
                return Ok(plain);
            }
        };
        let digits = match letter {
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            Some('n') => return Ok(self.escaped('\n')),
            Some('r') => return Ok(self.escaped('\r')),
            Some('t') => return Ok(self.escaped('\t')),
            Some(sign @ ('\\' | '"' | '[' | ']' | '-' | '^' | '/')) => return Ok(self.escaped(sign)),
            _ => return Err(self.error("there is no such escape")),
        };
        let number = self.rest().get(2..2 + digits).and_then(|number| u32::from_str_radix(number, 16).ok());
        let letter = number.and_then(char::from_u32).ok_or_else(|| self.error("there is no such character"))?;
        self.at += 2 + digits;
        Ok(letter)
    }

    fn escaped(&mut self, letter: char) -> char {
        self.at += 2;
        letter
    }

    fn name(&mut self) -> Option<String> {
        let is_of_name = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
        let length = self.rest().find(|letter| !is_of_name(letter)).unwrap_or(self.rest().len());
        let name = self.rest()[..length].to_owned();
        self.at += length;
        (!name.is_empty()).then_some(name)
    }

    /// Skips blanks and comments, and ends of lines where these mean nothing.
    fn skip(&mut self, over_lines: bool) {
        loop {
            let rest = self.rest();
            let blanks = rest.len() - rest.trim_start_matches([' ', '\t']).len();
            if blanks > 0 {
                self.at += blanks;
            } else if rest.starts_with('#') {
                self.at += rest.find(['\n', '\r']).unwrap_or(rest.len());
            } else if over_lines && rest.starts_with(['\n', '\r']) {
                self.at += 1;
            } else {
                return;
            }
        }
    }

    fn take(&mut self, sign: &str) -> bool {
        let is_there = self.rest().starts_with(sign);
        self.at += if is_there { sign.len() } else { 0 };
        is_there
    }

    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn error(&self, why: &str) -> String {
        let line = self.text.get(..self.at).unwrap_or(self.text).matches('\n').count() + 1;
        format!("line {line}: {why}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn regex(grammar: &str, expected: &str) {
        assert_eq!(constraint(grammar), Ok(Constraint::Regex { pattern: expected.into() }), "{grammar}");
    }

    #[test]
    fn what_contains_no_rule_that_contains_itself_is_one_expression() {
        regex("root ::= \"yes\" | \"no\"", "yes|no");
        regex("root ::= [a-z]+ end\nend ::= \".\" | \"!\"", r"(?:[a-z])+(?:\x{2e}|\x{21})");
        regex("# a comment\nroot ::= ( \"a\" # why\n  | \"b\" ){2,3} # then\n\n", "(?:a|b){2,3}");
        regex("root ::= [^\\]\\n\\x41-\\u0043]? .", r"(?:[^\x{5d}-\x{5d}\x{a}-\x{a}A-C])?(?s:.)");
        regex("root ::= a-1 A_2\na-1 ::= \"x\"{3}\nA_2 ::= \"y\"{0,}", "(?:(?:x){3,3})(?:(?:y)*)");
        regex("root ::= \"a\"\n  | \"b\"\n\nother ::= root root", "a|b");
        regex("root ::= | \"a\"", "|a");
    }

    #[test]
    fn rules_that_contain_themselves_are_a_grammar_of_words() {
        let grammar = "root ::= list\nlist ::= \"[\" ws (item (\",\" ws item)*)? \"]\" ws\nitem ::= list | num ws\nnum ::= [0-9]+\nws ::= [ \\n]*";
        let expected = "start: root\nroot: rule_list\n\
            rule_list: /\\x{5b}(?:(?:[ - \\x{a}-\\x{a}])*)/ (((rule_item) ((/\\x{2c}(?:(?:[ - \\x{a}-\\x{a}])*)/ (rule_item) )*) )?) \
            /\\x{5d}(?:(?:[ - \\x{a}-\\x{a}])*)/ \n\
            rule_item: (rule_list | /(?:(?:[0-9])+)(?:(?:[ - \\x{a}-\\x{a}])*)/)\n";
        assert_eq!(constraint(grammar), Ok(Constraint::Lark { grammar: expected.into() }));
    }

    #[test]
    fn what_makes_no_sense_is_told_with_its_line() {
        for (grammar, why) in [
            ("", "no rule `root`"),
            ("a ::= \"b\"", "no rule `root`"),
            ("root ::= nothing", "names `nothing`"),
            ("root = \"a\"", "line 1: `::=`"),
            ("root ::= \"a\"\nroot ::= \"b\"", "there already"),
            ("root ::= \"a\n\"", "line 1: a text or a class does not end"),
            ("root ::= [z-a]", "has no characters"),
            ("root ::= (\"a\"", "`)` is missing"),
            ("root ::= \"a\" )", "belongs to no rule"),
            ("root ::= \"a\"{3,2}", "no number of repetitions"),
            ("root ::= \"a\"{100000}", "no number of repetitions"),
            ("root ::= \"\\q\"", "no such escape"),
            ("root ::= \"\\uD800\"", "no such character"),
            ("root ::= <think>", "tokens"),
            (&format!("root ::= {}", "(".repeat(100)), "groups in each other"),
            (&format!("root ::= \"a\"{}", "*".repeat(100_000)), "too many signs"),
        ] {
            let error = constraint(grammar).expect_err(grammar);
            assert!(error.contains(why), "{grammar}: {error}");
        }
        // Each rule doubles the one before it.
        let mut doubling = String::from("r0 ::= \"a\"\n");
        for number in 1..40 {
            let _ = writeln!(doubling, "r{number} ::= r{0} r{0}", number - 1);
        }
        assert!(constraint(&format!("{doubling}root ::= r39")).expect_err("too large").contains("larger than"));
        // The same in each of many words.
        let words = "root r12 ".repeat(1000);
        let error = constraint(&format!("{doubling}root ::= \"b\" | {words}")).expect_err("too large");
        assert!(error.contains("larger than"), "{error}");
        // Each leads to the next one, and there are very many.
        for (count, why) in [(1000, "rules lead to each other"), (10_000, "more than")] {
            let mut chain = String::from("root ::= a0\n");
            for number in 0..count {
                let _ = writeln!(chain, "a{number} ::= a{}", number + 1);
            }
            let _ = writeln!(chain, "a{count} ::= \"a\"");
            let error = constraint(&chain).expect_err("too long");
            assert!(error.contains(why), "{error}");
        }
    }
}
