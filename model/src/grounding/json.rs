//! JSON as models write it: with its place in the text, and with what is wrong told instead of refused.
//!
//! Read beside strict JSON: single quotes, bare keys, quotes inside strings, missing, doubled and trailing commas,
//! `// comments`, `None`/`True`/`False`, `NaN` and `Infinity`, and an end in the middle (an answer cut at its
//! token limit). Nothing is repaired by guessing numbers.

use std::ops::Range;

use super::quoted::{self, Place};

/// Containers inside containers that are followed; deeper ones are a fault.
const MAX_DEPTH: usize = 32;

/// A value and the bytes of the text it was read from.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub tree: Tree,
    pub range: Range<usize>,
    /// Why reading stopped inside the value, `None` where it is whole.
    pub fault: Option<Fault>,
}

/// What a [`Node`] holds; a faulty container holds what was read before its fault.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Tree {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

/// Why a value is not whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The text ends inside it.
    Cut,
    /// At this byte stands something else than what is named.
    Syntax { at: usize, expected: &'static str },
}

impl Node {
    /// The value as `serde_json` has it; numbers without fraction become integers, non-finite ones text.
    pub(super) fn to_json(&self) -> serde_json::Value {
        use serde_json::Value;
        match &self.tree {
            Tree::Null => Value::Null,
            Tree::Bool(value) => Value::Bool(*value),
            Tree::Number(value) => number_to_json(*value),
            Tree::Text(text) => Value::String(text.clone()),
            Tree::List(items) => items.iter().map(Node::to_json).collect(),
            Tree::Object(members) => {
                Value::Object(members.iter().map(|(k, v)| (k.clone(), v.to_json())).collect())
            }
        }
    }

    /// The members, for an object.
    pub(super) fn members(&self) -> &[(String, Node)] {
        match &self.tree {
            Tree::Object(members) => members,
            _ => &[],
        }
    }

    /// Whether this or anything in it is an object.
    pub(super) fn has_object(&self) -> bool {
        match &self.tree {
            Tree::Object(_) => true,
            Tree::List(items) => items.iter().any(Node::has_object),
            _ => false,
        }
    }
}

fn number_to_json(value: f64) -> serde_json::Value {
    match value {
        whole if whole.fract() == 0.0 && whole.abs() < 9e15 => (whole as i64).into(),
        finite if finite.is_finite() => finite.into(),
        other => other.to_string().into(),
    }
}

/// Reads one value at a time from `text`, which may be a part of an answer that starts at byte `base`.
pub(super) struct Reader<'a> {
    text: &'a str,
    base: usize,
    pos: usize,
    depth: usize,
}

impl<'a> Reader<'a> {
    /// A reader that starts at byte `pos` of `text`.
    pub(super) fn new(text: &'a str, base: usize, pos: usize) -> Self {
        Self { text, base, pos, depth: 0 }
    }

    /// The byte after what was read, within `text`.
    pub(super) fn pos(&self) -> usize {
        self.pos
    }

    /// Reads the value that starts here; never fails, see [`Node::fault`].
    pub(super) fn value(&mut self) -> Node {
        self.value_in(Place::Element)
    }

    fn value_in(&mut self, place: Place) -> Node {
        let start = self.pos;
        let (tree, fault) = match self.peek() {
            None => (Tree::Null, Some(Fault::Cut)),
            Some(b'{' | b'[') if self.depth == MAX_DEPTH => {
                (Tree::Null, Some(self.syntax("fewer levels of brackets")))
            }
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::list),
            Some(quote @ (b'"' | b'\'')) => self.string(quote, place),
            Some(_) => self.word(),
        };
        Node { tree, range: self.base + start..self.base + self.pos, fault }
    }

    fn nested(&mut self, read: fn(&mut Self) -> (Tree, Option<Fault>)) -> (Tree, Option<Fault>) {
        self.depth += 1;
        self.pos += 1;
        let result = read(self);
        self.depth -= 1;
        result
    }

    fn list(&mut self) -> (Tree, Option<Fault>) {
        let mut items = Vec::new();
        let fault = loop {
            self.skip_separators();
            match self.peek() {
                None => break Some(Fault::Cut),
                Some(b']') => {
                    self.pos += 1;
                    break None;
                }
                Some(b'}') => break Some(self.syntax("a closing ]")),
                Some(_) => {}
            }
            let mut item = self.value_in(Place::Element);
            let resumed = item.fault.is_none() || self.leave_faulty(&mut item);
            let fault = item.fault;
            items.push(item);
            if !resumed {
                break fault;
            }
        };
        (Tree::List(items), fault)
    }

    /// After an object that cannot be read: goes to its end or to the next object, if there is one.
    fn leave_faulty(&mut self, item: &mut Node) -> bool {
        if item.fault == Some(Fault::Cut) || !matches!(item.tree, Tree::Object(_)) {
            return false;
        }
        match self.text.as_bytes()[self.pos..].iter().position(|b| matches!(b, b'{' | b'}')) {
            None => false,
            Some(skipped) => {
                self.pos += skipped;
                self.pos += usize::from(self.peek() == Some(b'}'));
                item.range.end = self.base + self.pos;
                true
            }
        }
    }

    fn object(&mut self) -> (Tree, Option<Fault>) {
        let mut members = Vec::new();
        let fault = loop {
            self.skip_separators();
            match self.peek() {
                None => break Some(Fault::Cut),
                Some(b'}') => {
                    self.pos += 1;
                    break None;
                }
                Some(_) => {}
            }
            let key = match self.key() {
                Ok(key) => key,
                Err(fault) => break Some(fault),
            };
            let value = self.value_in(Place::Member);
            let fault = value.fault;
            members.push((key, value));
            if fault.is_some() {
                break fault;
            }
        };
        (Tree::Object(members), fault)
    }

    /// A quoted or bare key and its colon.
    fn key(&mut self) -> Result<String, Fault> {
        let key = match self.peek() {
            Some(quote @ (b'"' | b'\'')) => match self.string(quote, Place::Key) {
                (Tree::Text(key), None) => key,
                (_, fault) => return Err(fault.unwrap_or(Fault::Cut)),
            },
            _ => self.bare_word().to_owned(),
        };
        if key.is_empty() {
            return Err(self.syntax("a key"));
        }
        self.skip_blank();
        match self.peek() {
            None => Err(Fault::Cut),
            Some(b':') => {
                self.pos += 1;
                self.skip_blank();
                Ok(key)
            }
            Some(_) => Err(self.syntax("a colon after the key")),
        }
    }

    /// A quoted string, its escapes resolved.
    fn string(&mut self, quote: u8, place: Place) -> (Tree, Option<Fault>) {
        let start = self.pos + 1;
        let end = quoted::end(self.text, start, quote, place);
        self.pos = end.map_or(self.text.len(), |end| end + 1);
        let raw = &self.text[start..end.unwrap_or(self.text.len())];
        (Tree::Text(quoted::unescape(raw)), end.is_none().then_some(Fault::Cut))
    }

    fn word(&mut self) -> (Tree, Option<Fault>) {
        let start = self.pos;
        let word = self.bare_word();
        let tree = match word {
            "null" | "None" => Tree::Null,
            "true" | "True" => Tree::Bool(true),
            "false" | "False" => Tree::Bool(false),
            _ => match word.parse() {
                Ok(number) => Tree::Number(number),
                Err(_) if self.pos == self.text.len() => return (Tree::Null, Some(Fault::Cut)),
                Err(_) => {
                    self.pos = start;
                    return (Tree::Null, Some(self.syntax("a JSON value")));
                }
            },
        };
        (tree, None)
    }

    fn bare_word(&mut self) -> &'a str {
        let rest = &self.text[self.pos..];
        let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '+' | '-');
        let word = &rest[..rest.find(|c| !is_word(c)).unwrap_or(rest.len())];
        self.pos += word.len();
        word
    }

    fn skip_separators(&mut self) {
        self.skip_blank();
        while self.peek() == Some(b',') {
            self.pos += 1;
            self.skip_blank();
        }
    }

    /// Skips blanks and `// comments`.
    fn skip_blank(&mut self) {
        loop {
            self.pos = quoted::blank_end(self.text, self.pos);
            if !self.text[self.pos..].starts_with("//") {
                return;
            }
            self.pos += self.text[self.pos..].find('\n').unwrap_or(self.text.len() - self.pos);
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.pos).copied()
    }

    fn syntax(&self, expected: &'static str) -> Fault {
        Fault::Syntax { at: self.base + self.pos, expected }
    }
}
