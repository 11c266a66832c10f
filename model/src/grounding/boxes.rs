//! Boxes and points of an answer.

use std::ops::Range;

use serde_json::{Map, Value};

use super::json::{Fault, Node, Tree};
use super::scan::scan;
use super::shape::{Kind, Shape, bare_box, shapes};

/// One thing that an answer points at.
#[derive(Debug, Clone, PartialEq)]
pub struct Grounding {
    /// Where it is.
    pub shape: Shape,
    /// `label`, where given.
    pub label: Option<String>,
    /// `sub_label`, where given.
    pub sub_label: Option<String>,
    /// All other members of the object, in their order.
    pub attributes: Map<String, Value>,
    /// The picture it belongs to, counted from 0; `None` where the answer does not say.
    ///
    /// Read from `image_index` (counts from 0), `image`, `image_id` or `picture` (count from 1, as the chat
    /// template's `Picture 1:` does; a number, or text such as `Picture 2` or `image 2`).
    pub image: Option<usize>,
    /// It stood without a key: `[x1, y1, x2, y2]`.
    pub bare: bool,
    /// The bytes of the answer it was read from.
    pub text_range: Range<usize>,
}

impl Grounding {
    /// The picture it belongs to, counted from 0: the first one where the answer does not say.
    pub fn image_index(&self) -> usize {
        self.image.unwrap_or(0)
    }

    /// What to write beside it: `label`, `label: sub_label`, or the text it was read as (`text_content`, `text`).
    pub fn caption(&self) -> Option<String> {
        let text = |key| self.attributes.get(key).and_then(Value::as_str).map(str::to_owned);
        match (&self.label, &self.sub_label) {
            (Some(label), Some(sub)) => Some(format!("{label}: {sub}")),
            (Some(one), None) | (None, Some(one)) => Some(one.clone()),
            (None, None) => text("text_content").or_else(|| text("text")),
        }
    }
}

/// What [`parse_grounding`] found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Grounded {
    /// The things pointed at, in the answer's order.
    pub items: Vec<Grounding>,
    /// What was meant to point at something and could not be used, in the answer's order.
    pub problems: Vec<GroundingProblem>,
    /// The answer ends inside its JSON, as one does that reached its token limit: there may have been more.
    pub truncated: bool,
}

impl Grounded {
    /// The items of picture `index`, counted from 0.
    pub fn of_image(&self, index: usize) -> impl Iterator<Item = &Grounding> {
        self.items.iter().filter(move |item| item.image_index() == index)
    }

    /// Turns items of pictures that were not given into problems. `images` is how many there were.
    pub fn check_images(&mut self, images: usize) {
        let (kept, lost) = std::mem::take(&mut self.items)
            .into_iter()
            .partition::<Vec<_>, _>(|item| item.image_index() < images);
        self.items = kept;
        self.problems.extend(lost.into_iter().map(|item| GroundingProblem {
            reason: GroundingReason::NoSuchImage { image: item.image_index() + 1, images },
            text_range: item.text_range,
        }));
        self.problems.sort_by_key(|problem| problem.text_range.start);
    }
}

/// Something in an answer that looks like grounding and could not be used.
#[derive(Debug, Clone, PartialEq)]
pub struct GroundingProblem {
    /// The bytes of the answer it is about.
    pub text_range: Range<usize>,
    pub reason: GroundingReason,
}

/// Why a piece of an answer could not be used as a box or point.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GroundingReason {
    #[error("`{key}` needs {expected} numbers, but the answer gives {found}.")]
    WrongCount { key: String, expected: usize, found: usize },
    #[error("`{key}` is not a list of numbers.")]
    NotNumbers { key: String },
    #[error("`{key}` has a number that is not finite.")]
    NotFinite { key: String },
    #[error("`{key}` has {value}, but coordinates run from 0 to 1000.")]
    OutOfRange { key: String, value: f64 },
    #[error("`{key}` is [{x1}, {y1}, {x2}, {y2}], whose first corner is not the upper left one.")]
    Reversed { key: String, x1: f64, y1: f64, x2: f64, y2: f64 },
    #[error("`bbox_3d` is a box in space; only `bbox_2d` and `point_2d` are read.")]
    ThreeDimensional,
    #[error("`{key}` is {value}, which names no picture.")]
    Image { key: String, value: String },
    #[error("It belongs to picture {image}, but {images} pictures were given.")]
    NoSuchImage { image: usize, images: usize },
    #[error("The JSON is broken at byte {at}: expected {expected}.")]
    Malformed { at: usize, expected: &'static str },
    #[error("The JSON ends before this item does.")]
    Truncated,
}

/// Finds the boxes and points of an answer, in coordinates from 0 to 1000.
///
/// Read are objects with `bbox_2d` (or `bbox`): `[x1, y1, x2, y2]` and `point_2d` (or `point`): `[x, y]`, each also
/// as a list of several, in lists or alone, at any depth, inside code fences or in prose. Only where an answer has
/// no such key, lists of four numbers that make a box are taken ([`Grounding::bare`]).
/// An item that the end of the answer cuts is a problem, the whole ones before it are kept.
pub fn parse_grounding(text: &str) -> Grounded {
    let scan = scan(text);
    let mut found = Grounded { truncated: scan.truncated, ..Grounded::default() };
    scan.roots.iter().for_each(|root| collect(root, &mut found));
    report_unread(text, &mut found);
    if found.items.is_empty() && found.problems.is_empty() {
        scan.roots.iter().for_each(|root| collect_bare(root, &mut found.items));
    }
    found
}

/// As [`parse_grounding`], for an answer about `images` pictures: items about others become problems.
pub fn parse_grounding_of(text: &str, images: usize) -> Grounded {
    let mut found = parse_grounding(text);
    found.check_images(images);
    found
}

fn collect(node: &Node, found: &mut Grounded) {
    match &node.tree {
        Tree::List(items) => items.iter().for_each(|item| collect(item, found)),
        Tree::Object(members) if members.iter().any(|(key, _)| is_shape(key, node)) => {
            collect_object(node, found);
        }
        Tree::Object(members) => members.iter().for_each(|(_, value)| collect(value, found)),
        _ => {}
    }
}

/// Whether `key` of the object `node` holds coordinates. The short names mean many things, so they must hold numbers.
fn is_shape(key: &str, node: &Node) -> bool {
    let holds_numbers = |(name, value): &(String, Node)| {
        let Tree::List(items) = &value.tree else { return false };
        let first = items.first().map(|item| &item.tree);
        name == key && matches!(first, Some(Tree::Number(_) | Tree::List(_)))
    };
    Kind::of(key).is_some() && (key.contains('_') || node.members().iter().any(holds_numbers))
}

fn collect_object(node: &Node, found: &mut Grounded) {
    collect_shapes(node, found);
    let others = node.members().iter().filter(|(key, _)| !is_shape(key, node));
    others.for_each(|(_, value)| collect(value, found));
}

fn collect_shapes(node: &Node, found: &mut Grounded) {
    let problem = |reason| GroundingProblem { text_range: node.range.clone(), reason };
    if let Some(fault) = node.fault {
        return found.problems.push(problem(fault.into()));
    }
    let item = match item(node) {
        Ok(item) => item,
        Err(reason) => return found.problems.push(problem(reason)),
    };
    for (key, value) in node.members() {
        let Some(kind) = Kind::of(key).filter(|_| is_shape(key, node)) else {
            continue;
        };
        for shape in shapes(key, kind, value) {
            match shape {
                Ok(shape) => found.items.push(Grounding { shape, ..item.clone() }),
                Err(reason) => found.problems.push(problem(reason)),
            }
        }
    }
}

impl From<Fault> for GroundingReason {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Cut => Self::Truncated,
            Fault::Syntax { at, expected } => Self::Malformed { at, expected },
        }
    }
}

/// Everything of an object but its coordinates.
fn item(node: &Node) -> Result<Grounding, GroundingReason> {
    let mut item = Grounding {
        shape: Shape::Point { x: 0.0, y: 0.0 },
        label: None,
        sub_label: None,
        attributes: Map::new(),
        image: None,
        bare: false,
        text_range: node.range.clone(),
    };
    for (key, value) in node.members() {
        match (key.as_str(), value.to_json()) {
            (key, _) if is_shape(key, node) => {}
            ("label", Value::String(text)) => item.label = Some(text),
            ("sub_label", Value::String(text)) => item.sub_label = Some(text),
            (key, value) => {
                item.image = image_index(key, &value)?.or(item.image);
                item.attributes.insert(key.to_owned(), value);
            }
        }
    }
    Ok(item)
}

/// The picture that a member names, see [`Grounding::image`]; `None` for members about something else.
fn image_index(key: &str, value: &Value) -> Result<Option<usize>, GroundingReason> {
    let first = match key {
        "image_index" => 0,
        "image" | "image_id" | "picture" => 1,
        _ => return Ok(None),
    };
    let number = match value {
        Value::String(text) => match picture_number(text) {
            Some(digits) => digits.parse().ok(),
            None => return Ok(None),
        },
        Value::Null => return Ok(None),
        other => other.as_u64(),
    };
    let index = number.and_then(|n: u64| usize::try_from(n.checked_sub(first)?).ok());
    index
        .map(Some)
        .ok_or_else(|| GroundingReason::Image { key: key.to_owned(), value: value.to_string() })
}

/// The digits of `Picture 2`, `image 2` or `2`; `None` for file names and other text.
fn picture_number(text: &str) -> Option<&str> {
    let text = text.trim();
    let name = text.trim_end_matches(|c: char| c.is_ascii_digit());
    let known = ["", "picture", "image", "img", "图", "图片", "图像"];
    let digits = &text[name.len()..];
    let name = name.trim_end_matches([' ', '_', '#']).to_lowercase();
    (!digits.is_empty() && known.contains(&name.as_str())).then_some(digits)
}

fn collect_bare(node: &Node, items: &mut Vec<Grounding>) {
    if let Some(shape) = bare_box(node) {
        items.extend(item(node).map(|item| Grounding { shape, bare: true, ..item }));
    } else if let Tree::List(children) = &node.tree {
        children.iter().for_each(|child| collect_bare(child, items));
    }
}

/// Reports the keys that stand in the text but in nothing that was read.
fn report_unread(text: &str, found: &mut Grounded) {
    let items = found.items.iter().map(|item| item.text_range.clone());
    let problems = found.problems.iter().map(|problem| problem.text_range.clone());
    let mut read: Vec<Range<usize>> = items.chain(problems).collect();
    read.sort_by_key(|range| range.start);
    // Items may stand in one another: each range is given the end of the farthest one that started before it.
    for at in 1..read.len() {
        read[at].end = read[at].end.max(read[at - 1].end);
    }
    for key in ["bbox_2d", "point_2d", "bbox_3d"] {
        for (at, _) in text.match_indices(key) {
            let before = read.partition_point(|range| range.start <= at);
            let is_read = before.checked_sub(1).is_some_and(|last| at < read[last].end);
            if !is_read && is_key(&text[at + key.len()..]) {
                found.problems.push(unread(text, at));
            }
        }
    }
    found.problems.sort_by_key(|problem| problem.text_range.start);
}

fn is_key(after: &str) -> bool {
    after.trim_start_matches(['"', '\'']).trim_start().starts_with(':')
}

fn unread(text: &str, at: usize) -> GroundingProblem {
    let end = text[at..].find('\n').map_or(text.len(), |line| at + line);
    let expected = "an object around this key";
    GroundingProblem { text_range: at..end, reason: GroundingReason::Malformed { at, expected } }
}
