//! Coordinates under the keys that Qwen3-VL writes.

use super::boxes::GroundingReason;
use super::json::{Node, Tree};

/// Coordinates run from 0 to this, whatever the size of the picture.
pub const SCALE: f64 = 1000.0;

/// Where something is, in thousandths of the picture's width (`x`, to the right) and height (`y`, down).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shape {
    /// `bbox_2d`: two corners, `x1 <= x2` and `y1 <= y2`.
    Box { x1: f64, y1: f64, x2: f64, y2: f64 },
    /// `point_2d`.
    Point { x: f64, y: f64 },
}

/// What a key of an object means for grounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Box,
    Point,
    /// `bbox_3d`, which is not read.
    Box3d,
}

impl Kind {
    pub(super) fn of(key: &str) -> Option<Self> {
        match key {
            "bbox_2d" | "bbox" => Some(Self::Box),
            "point_2d" | "point" => Some(Self::Point),
            "bbox_3d" => Some(Self::Box3d),
            _ => None,
        }
    }
}

/// The shapes of one value: usually one, several for a list of lists.
pub(super) fn shapes(key: &str, kind: Kind, node: &Node) -> Vec<Result<Shape, GroundingReason>> {
    match &node.tree {
        Tree::List(items) if items.iter().any(|item| matches!(item.tree, Tree::List(_))) => {
            items.iter().map(|item| shape(key, kind, item)).collect()
        }
        _ => vec![shape(key, kind, node)],
    }
}

fn shape(key: &str, kind: Kind, node: &Node) -> Result<Shape, GroundingReason> {
    let numbers = numbers(node).ok_or(GroundingReason::NotNumbers { key: key.to_owned() })?;
    if kind == Kind::Box3d {
        return Err(GroundingReason::ThreeDimensional);
    }
    let expected = if kind == Kind::Box { 4 } else { 2 };
    if numbers.len() != expected {
        return Err(GroundingReason::WrongCount {
            key: key.to_owned(),
            expected,
            found: numbers.len(),
        });
    }
    check_range(key, &numbers)?;
    match numbers[..] {
        [x1, y1, x2, y2] if x1 > x2 || y1 > y2 => {
            Err(GroundingReason::Reversed { key: key.to_owned(), x1, y1, x2, y2 })
        }
        [x1, y1, x2, y2] => Ok(Shape::Box { x1, y1, x2, y2 }),
        [x, y] => Ok(Shape::Point { x, y }),
        _ => Err(GroundingReason::NotNumbers { key: key.to_owned() }),
    }
}

fn check_range(key: &str, numbers: &[f64]) -> Result<(), GroundingReason> {
    match numbers.iter().find(|value| !(0.0..=SCALE).contains(*value)) {
        None => Ok(()),
        Some(value) if value.is_finite() => {
            Err(GroundingReason::OutOfRange { key: key.to_owned(), value: *value })
        }
        Some(_) => Err(GroundingReason::NotFinite { key: key.to_owned() }),
    }
}

/// The numbers of a list that holds nothing else.
fn numbers(node: &Node) -> Option<Vec<f64>> {
    let Tree::List(items) = &node.tree else {
        return None;
    };
    let number = |item: &Node| match item.tree {
        Tree::Number(value) => Some(value),
        _ => None,
    };
    items.iter().map(number).collect()
}

/// `[x1, y1, x2, y2]` without a key: four numbers that make a box of some area.
pub(super) fn bare_box(node: &Node) -> Option<Shape> {
    if node.fault.is_some() {
        return None;
    }
    match shape("", Kind::Box, node) {
        Ok(Shape::Box { x1, y1, x2, y2 }) if x1 < x2 && y1 < y2 => {
            Some(Shape::Box { x1, y1, x2, y2 })
        }
        _ => None,
    }
}
