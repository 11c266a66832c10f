//! Finds the JSON in an answer: fenced, in prose, several pieces, the last one cut.

use std::ops::Range;

use super::json::{Fault, Node, Reader, Tree};

/// Bytes that may be read again for each byte of text before the search gives up (each bracket in prose is tried).
const REREAD: usize = 64;

/// The JSON values of an answer, in its order.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub roots: Vec<Node>,
    /// The text ends inside JSON.
    pub truncated: bool,
}

/// Finds every JSON object and list of `text`.
pub(super) fn scan(text: &str) -> Scan {
    let mut scan = Scan::default();
    let mut budget = text.len().saturating_mul(REREAD).saturating_add(4096);
    for (index, part) in parts(text).into_iter().enumerate() {
        let cut = scan_part(&text[part.clone()], part.start, &mut budget, &mut scan.roots);
        let is_last = part.end == text.len();
        let is_fenced = index % 2 == 1;
        scan.truncated |= is_last && (cut == Cut::Object || is_fenced && cut == Cut::List);
    }
    scan
}

/// The pieces between and inside code fences: a value never goes beyond its fence.
fn parts(text: &str) -> Vec<Range<usize>> {
    let mut start = 0;
    let mut parts = Vec::new();
    for (fence, mark) in text.match_indices("```") {
        parts.push(start..fence);
        start = fence + mark.len();
    }
    parts.push(start..text.len());
    parts
}

/// What is open at the end of a part. A lone list may be a bracket in prose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Cut {
    Nothing,
    List,
    Object,
}

/// Reads the values of one part.
fn scan_part(part: &str, base: usize, budget: &mut usize, roots: &mut Vec<Node>) -> Cut {
    let mut cut = Cut::Nothing;
    let mut at = 0;
    while let Some(start) = part[at..].find(['{', '[']).map(|found| at + found) {
        let mut reader = Reader::new(part, base, start);
        let node = reader.value();
        if node.fault == Some(Fault::Cut) {
            cut = cut.max(if node.has_object() { Cut::Object } else { Cut::List });
        }
        at = start + 1;
        if is_worth_keeping(&node) {
            at = at.max(reader.pos());
            roots.push(node);
        } else {
            let spent = reader.pos() - start;
            match budget.checked_sub(spent) {
                Some(left) => *budget = left,
                None => break,
            }
        }
    }
    cut
}

/// Whole values, and broken ones of which an object's member was read; anything else is a bracket in prose.
fn is_worth_keeping(node: &Node) -> bool {
    node.fault.is_none() || has_member(node)
}

fn has_member(node: &Node) -> bool {
    match &node.tree {
        Tree::Object(members) => !members.is_empty(),
        Tree::List(items) => items.iter().any(has_member),
        _ => false,
    }
}
