//! Boxes, points and times of an answer as JSON.

use qwen3_vl_model::grounding::{
    Grounding, PixelShape, Shape, TimeSpan, parse_grounding_of, parse_spans,
};
use serde_json::{Value, json};

use crate::Response;

/// Boxes and points in pixels of the upright original pictures, and spans of time in seconds.
pub fn grounding_json(response: &Response) -> Value {
    let sizes: Vec<(u32, u32)> = response.picture_sizes();
    let grounded = parse_grounding_of(&response.text, sizes.len());
    let spans = parse_spans(&response.text);
    let problems = grounded.problems.iter().map(|problem| problem.reason.to_string());
    let problems = problems.chain(spans.problems.iter().map(|problem| problem.reason.to_string()));
    let item = |item: &Grounding| item_json(item, sizes[item.image_index()]);
    let span =
        |span: &TimeSpan| json!({ "start": span.start, "end": span.end, "label": span.label });
    json!({
        "items": grounded.items.iter().map(item).collect::<Vec<_>>(),
        "spans": spans.spans.iter().map(span).collect::<Vec<_>>(),
        "problems": problems.collect::<Vec<_>>(),
        "truncated": grounded.truncated || spans.truncated,
    })
}

fn item_json(item: &Grounding, (width, height): (u32, u32)) -> Value {
    let mut object = json!({ "image": item.image_index(), "label": item.label });
    match item.shape {
        Shape::Box { x1, y1, x2, y2 } => object["bbox_2d"] = json!([x1, y1, x2, y2]),
        Shape::Point { x, y } => object["point_2d"] = json!([x, y]),
    }
    match item.shape.to_pixels(width, height) {
        PixelShape::Box(b) => object["pixels"] = json!([b.x1, b.y1, b.x2, b.y2]),
        PixelShape::Point(p) => object["pixels"] = json!([p.x, p.y]),
    }
    if let Some(sub_label) = &item.sub_label {
        object["sub_label"] = json!(sub_label);
    }
    if !item.attributes.is_empty() {
        object["attributes"] = json!(item.attributes);
    }
    object
}
