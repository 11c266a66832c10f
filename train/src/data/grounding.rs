//! Boxes: `objects` of ms-swift, written into the texts in thousandths, and those that answers hold themselves.

use qwen3_vl_model::grounding::{
    Grounding, GroundingProblem, GroundingReason, Shape, parse_grounding,
};
use qwen3_vl_model::processor::image::{DecodeLimits, image_size};
use qwen3_vl_model::processor::message::{MediaKind, MediaRef, MediaSource, Message, media};
use qwen3_vl_weights::fetch::{FetchLimits, read_source};
use qwen3_vl_weights::media::MediaError;
use serde::Deserialize;
use serde_json::Value as Json;

use super::draft::Turn;
use super::error::{RowProblem, type_error};
use super::keys;
use super::sample::SampleBox;

const REF: &str = "<ref-object>";
const BOX: &str = "<bbox>";
const KEYS: [&str; 4] = ["ref", "bbox", "bbox_type", "image_id"];
/// Pixels that a box may reach beyond its picture; it is cut there, with a note.
const OVERSHOOT: f64 = 1.0;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) boxes: Vec<SampleBox>,
    pub(super) notes: Vec<String>,
}

/// What the numbers of a box are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum BoxType {
    /// Pixels of the original picture.
    #[default]
    Real,
    /// From 0 to 1.
    Norm1,
    /// From 0 to 1000, as the model writes them.
    Qwen,
}

struct Objects {
    refs: Vec<String>,
    boxes: Vec<Vec<f64>>,
    kind: BoxType,
    images: Option<Vec<usize>>,
}

/// Writes `objects` into the texts in the place of `<ref-object>` and `<bbox>`, in order.
pub(super) fn write(
    objects: &Json,
    turns: &mut [Turn],
    messages: &[Message],
) -> Result<Found, RowProblem> {
    let objects = Objects::read(objects)?;
    for (placeholder, key, held, what) in [
        (REF, "objects.ref", objects.refs.len(), "name(s)"),
        (BOX, "objects.bbox", objects.boxes.len(), "box(es)"),
    ] {
        let found =
            turns.iter().flat_map(Turn::texts).map(|t| t.matches(placeholder).count()).sum();
        if found != held {
            let sought = format!("`{placeholder}` stand in the text");
            return Err(RowProblem::Placeholders { found, sought, key, held, what, hint: "" });
        }
    }
    let mut found = Found::default();
    let pictures = Pictures::new(messages);
    let mut texts = Vec::with_capacity(objects.boxes.len());
    for index in 0..objects.boxes.len() {
        let scaled = objects.scaled(index, &pictures, &mut found)?;
        let numbers: Vec<String> = scaled.iter().map(f64::to_string).collect();
        texts.push(format!("[{}]", numbers.join(", ")));
    }
    let mut values = [objects.refs.into_iter(), texts.into_iter()];
    turns.iter_mut().for_each(|turn| replace(turn, &mut values));
    Ok(found)
}

fn replace(turn: &mut Turn, values: &mut [std::vec::IntoIter<String>; 2]) {
    match turn.json.get_mut("content") {
        Some(Json::String(text)) => *text = replaced(text, values),
        Some(Json::Array(parts)) => {
            for part in parts {
                if let Some(Json::String(text)) = part.get_mut("text") {
                    *text = replaced(text, values);
                }
            }
        }
        _ => {}
    }
}

fn replaced(text: &str, values: &mut [std::vec::IntoIter<String>; 2]) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    let find = |text: &str| {
        let found =
            [REF, BOX].into_iter().enumerate().filter_map(|(k, p)| Some((text.find(p)?, k)));
        found.min()
    };
    while let Some((at, kind)) = find(rest) {
        out.push_str(&rest[..at]);
        out.push_str(&values[kind].next().unwrap_or_default());
        rest = &rest[at + [REF, BOX][kind].len()..];
    }
    out + rest
}

impl Objects {
    fn read(json: &Json) -> Result<Self, RowProblem> {
        let Json::Object(map) = json else {
            return Err(type_error("objects", "an object with `ref` and `bbox`", json));
        };
        keys::check(map, "objects", &[&KEYS])?;
        let objects = Self {
            refs: field(map, "ref", "a list of texts")?.unwrap_or_default(),
            boxes: field(map, "bbox", "a list of lists of numbers")?.unwrap_or_default(),
            kind: field(map, "bbox_type", "\"real\", \"norm1\" or \"qwen\"")?.unwrap_or_default(),
            images: field(map, "image_id", "a list of numbers of pictures, counted from 0")?,
        };
        match &objects.images {
            Some(images) if images.len() != objects.boxes.len() => Err(RowProblem::Value {
                at: "objects.image_id".into(),
                value: format!("a list of {} number(s)", images.len()),
                must: format!("have one number for each of {} box(es)", objects.boxes.len()),
            }),
            _ => Ok(objects),
        }
    }

    /// The numbers of box `index` in thousandths.
    fn scaled(
        &self,
        index: usize,
        pictures: &Pictures<'_>,
        found: &mut Found,
    ) -> Result<Vec<f64>, RowProblem> {
        let (numbers, at) = (&self.boxes[index], format!("objects.bbox[{index}]"));
        let picture = self.picture(index, pictures)?;
        let size = match self.kind {
            BoxType::Real => pictures.size(picture)?,
            BoxType::Norm1 => (1.0, 1.0),
            BoxType::Qwen => (1000.0, 1000.0),
        };
        check_corners(numbers, &at)?;
        if self.kind != BoxType::Norm1 && are_shares(numbers) {
            let hint = "say bbox_type \"norm1\", if that is meant".to_owned();
            return Err(RowProblem::Box {
                at,
                found: format!("{numbers:?} looks like 0 to 1"),
                hint,
            });
        }
        let scale = |(k, value): (usize, &f64)| {
            let side = if k % 2 == 0 { size.0 } else { size.1 };
            self.coordinate(*value, side, &at, &mut found.notes)
        };
        let scaled: Vec<f64> = numbers.iter().enumerate().map(scale).collect::<Result<_, _>>()?;
        let corners = match scaled[..] {
            [x1, y1, x2, y2] => [x1, y1, x2, y2],
            _ => [scaled[0], scaled[1], scaled[0], scaled[1]],
        };
        let label =
            if self.refs.len() == self.boxes.len() { self.refs.get(index).cloned() } else { None };
        found.boxes.push(SampleBox { media: pictures.media(picture), corners, label });
        Ok(scaled)
    }

    /// The picture that box `index` belongs to.
    fn picture(&self, index: usize, pictures: &Pictures<'_>) -> Result<usize, RowProblem> {
        let count = pictures.images.len();
        match (&self.images, count) {
            (_, 0) => Err(RowProblem::Box {
                at: format!("objects.bbox[{index}]"),
                found: "the row has no picture".into(),
                hint: "a box belongs to one".into(),
            }),
            (Some(images), _) if images[index] < count => Ok(images[index]),
            (Some(images), _) => Err(RowProblem::Value {
                at: format!("objects.image_id[{index}]"),
                value: images[index].to_string(),
                must: format!("be below {count}, the number of pictures; they count from 0"),
            }),
            (None, 1) => Ok(0),
            (None, _) => Err(RowProblem::Missing {
                at: "objects.image_id".into(),
                wanted: "the picture of each box, counted from 0, because there are several",
            }),
        }
    }

    /// `round(value / side * 1000)`, halves to even as in Python.
    fn coordinate(
        &self,
        value: f64,
        side: f64,
        at: &str,
        notes: &mut Vec<String>,
    ) -> Result<f64, RowProblem> {
        let slack = if self.kind == BoxType::Real { OVERSHOOT } else { 0.0 };
        if !(-slack..=side + slack).contains(&value) {
            let hint = match self.kind {
                BoxType::Real => {
                    "bbox_type \"real\" means pixels of the original picture; say \"norm1\" for 0 to 1 or \"qwen\" for 0 to 1000, if that is meant"
                }
                BoxType::Norm1 => {
                    "this looks like pixels or thousandths; say bbox_type \"real\" or \"qwen\", if that is meant"
                }
                BoxType::Qwen => "this looks like pixels; say bbox_type \"real\", if that is meant",
            };
            let found = format!("{value} lies outside of 0 to {side}");
            return Err(RowProblem::Box { at: at.to_owned(), found, hint: hint.to_owned() });
        }
        if !(0.0..=side).contains(&value) {
            notes.push(format!("{at}: {value} was cut to the edge of the picture, 0 to {side}."));
        }
        Ok((value.clamp(0.0, side) / side * 1000.0).round_ties_even())
    }
}

fn field<T: serde::de::DeserializeOwned>(
    map: &serde_json::Map<String, Json>,
    key: &str,
    expected: &'static str,
) -> Result<Option<T>, RowProblem> {
    let Some(value) = keys::given(map, key) else { return Ok(None) };
    let wrong = |_| type_error(&format!("objects.{key}"), expected, value);
    serde_json::from_value(value.clone()).map(Some).map_err(wrong)
}

fn check_corners(numbers: &[f64], at: &str) -> Result<(), RowProblem> {
    match *numbers {
        [_, _] => Ok(()),
        [x1, y1, x2, y2] if x1 <= x2 && y1 <= y2 => Ok(()),
        [_, _, _, _] => Err(RowProblem::Box {
            at: at.to_owned(),
            found: format!("{numbers:?} does not begin with the upper left corner"),
            hint: "write [x1, y1, x2, y2]; width and height are not corners".into(),
        }),
        _ => Err(RowProblem::Value {
            at: at.to_owned(),
            value: format!("a list of {} number(s)", numbers.len()),
            must: "have four numbers (a box) or two (a point)".into(),
        }),
    }
}

/// Whether all numbers are at most 1 and one is a fraction: shares of width and height, and no pixels or thousandths.
fn are_shares(numbers: &[f64]) -> bool {
    numbers.iter().all(|value| (0.0..=1.0).contains(value))
        && numbers.iter().any(|value| value.fract() != 0.0)
}

/// The pictures of a conversation and their places among all media.
struct Pictures<'m> {
    images: Vec<(usize, &'m MediaRef)>,
}

impl<'m> Pictures<'m> {
    fn new(messages: &'m [Message]) -> Self {
        let all = media(messages).into_iter().enumerate();
        Self { images: all.filter(|(_, medium)| medium.kind() == MediaKind::Image).collect() }
    }

    fn media(&self, picture: usize) -> usize {
        self.images[picture].0
    }

    /// Width and height of the original picture, upright.
    fn size(&self, picture: usize) -> Result<(f64, f64), RowProblem> {
        let Some(MediaSource::Location(location)) = self.images[picture].1.source() else {
            let at = "objects".to_owned();
            return Err(RowProblem::Missing { at, wanted: "beside pictures that are files" });
        };
        let bytes = read_source(location, &FetchLimits::default()).map_err(MediaError::from)?;
        let size = image_size(&bytes, location, &DecodeLimits::default());
        let (width, height) = size.map_err(MediaError::from)?;
        Ok((f64::from(width), f64::from(height)))
    }
}

/// Boxes that learned answers hold; with `check`, those that cannot be read or cannot be thousandths are refused.
pub(super) fn answers(
    messages: &[Message],
    trained: &[bool],
    check: bool,
    found: &mut Found,
) -> Result<(), RowProblem> {
    let pictures = Pictures::new(messages);
    let known = !found.boxes.is_empty();
    if pictures.images.is_empty() {
        return Ok(());
    }
    for (index, message) in messages.iter().enumerate().filter(|(index, _)| trained[*index]) {
        let (text, at) = (message.all_text(), format!("The answer in message {}", index + 1));
        let mut grounded = parse_grounding(&text);
        grounded.check_images(pictures.images.len());
        for problem in grounded.problems.iter().filter(|_| check) {
            found.notes.extend(judge(&at, &text, problem)?);
        }
        for item in grounded.items.iter().filter(|_| check) {
            refuse_shares(&at, item)?;
        }
        for item in grounded.items.iter().filter(|_| !known) {
            let media = pictures.media(item.image_index());
            let corners = corners(&item.shape);
            found.boxes.push(SampleBox { media, corners, label: item.caption() });
        }
    }
    Ok(())
}

fn corners(shape: &Shape) -> [f64; 4] {
    match *shape {
        Shape::Box { x1, y1, x2, y2 } => [x1, y1, x2, y2],
        Shape::Point { x, y } => [x, y, x, y],
    }
}

/// Lists without a key may be anything, so that those are left alone.
fn refuse_shares(at: &str, item: &Grounding) -> Result<(), RowProblem> {
    let numbers = corners(&item.shape);
    if item.bare || !are_shares(&numbers) {
        return Ok(());
    }
    let numbers = match item.shape {
        Shape::Box { .. } => &numbers[..],
        Shape::Point { .. } => &numbers[..2],
    };
    let hint =
        "multiply by 1000, because Qwen3-VL writes thousandths of width and height".to_owned();
    Err(RowProblem::Box {
        at: at.to_owned(),
        found: format!("{numbers:?} looks like 0 to 1"),
        hint,
    })
}

/// Refuses what is named as Qwen3-VL names it and cannot be meant; anything else that cannot be read is a note.
fn judge(at: &str, text: &str, problem: &GroundingProblem) -> Result<Option<String>, RowProblem> {
    let named = text
        .get(problem.text_range.clone())
        .is_some_and(|part| part.contains("bbox_2d") || part.contains("point_2d"));
    let found = problem.reason.to_string().trim_end_matches('.').to_owned();
    let hint = match &problem.reason {
        GroundingReason::ThreeDimensional => return Ok(None),
        GroundingReason::OutOfRange { value, .. } if *value > 1000.0 => {
            "this looks like pixels; divide by width and height of the original picture, or give the boxes as `objects` with bbox_type \"real\""
        }
        GroundingReason::OutOfRange { .. } => "Qwen3-VL writes thousandths of width and height",
        GroundingReason::Reversed { .. } => {
            "write [x1, y1, x2, y2]; width and height are not corners"
        }
        GroundingReason::NoSuchImage { .. } => "pictures are counted from 1 in answers",
        GroundingReason::WrongCount { .. }
        | GroundingReason::NotNumbers { .. }
        | GroundingReason::NotFinite { .. }
            if named =>
        {
            "a box is [x1, y1, x2, y2] and a point [x, y], in thousandths of width and height"
        }
        GroundingReason::Malformed { .. } | GroundingReason::Truncated if named => {
            "write JSON such as [{\"bbox_2d\": [x1, y1, x2, y2], \"label\": \"cat\"}], or set `check_boxes = false` in the source if no box is meant"
        }
        _ => return Ok(Some(format!("{at}: {found}."))),
    };
    Err(RowProblem::Box { at: at.to_owned(), found, hint: hint.to_owned() })
}
