//! The figures for people and for spreadsheets.

use serde_json::Value;

use super::super::size::{bytes, grouped};

/// A table in Markdown, between a line that says what was measured and one that says what the machine reached.
pub fn markdown(report: &Value) -> String {
    let parts = [head(), load(report), picture(report), prompts(report), answers(report)];
    let rows = [parts.concat(), speculative(report)].concat();
    // What was left out has no time.
    let rows: Vec<Row> = rows.into_iter().filter(|row| !row[1].starts_with('-')).collect();
    let widths: Vec<usize> = (0..4)
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let line = |row: &[String; 4]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!(" {cell:<width$} "));
        format!("|{}|\n", cells.collect::<Vec<_>>().join("|"))
    };
    let rule = widths.iter().map(|width| "-".repeat(width + 2)).collect::<Vec<_>>().join("|");
    let mut lines: Vec<String> = rows.iter().map(line).collect();
    lines.insert(1, format!("|{rule}|\n"));
    format!("{}\n{}\n{}{}", title(report), lines.concat(), machine(report), experts(report))
}

/// `path,value` for every figure; names are paths in the JSON object, absent figures are empty.
pub fn csv(report: &Value) -> String {
    let mut out = "name,value\n".to_owned();
    flatten(report, "", &mut out);
    out
}

fn flatten(value: &Value, path: &str, out: &mut String) {
    let text = match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let dot = if path.is_empty() { "" } else { "." };
                flatten(value, &format!("{path}{dot}{key}"), out);
            }
            return;
        }
        Value::Null => String::new(),
        Value::String(text) if text.contains(['"', ',', '\n']) => {
            format!("\"{}\"", text.replace('"', "\"\""))
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    *out += &format!("{path},{text}\n");
}

type Row = [String; 4];

fn head() -> Vec<Row> {
    vec![["measure", "time", "rate", "of the machine"].map(str::to_owned)]
}

fn title(report: &Value) -> String {
    let at = |path: &str| text_at(report, path);
    let weights = if report["model"]["random"] == true { "random" } else { "stored" };
    format!(
        "qwen3-vl {}: shape {}, {weights} {} weights, on {} ({}); medians of {}; load {} to {}\n",
        at("/version"),
        at("/model/shape"),
        at("/model/weights"),
        at("/machine/device"),
        at("/machine/hardware"),
        at("/settings/repetitions"),
        fixed(report.pointer("/machine/load_average_start"), 2),
        fixed(report.pointer("/machine/load_average_end"), 2),
    )
}

fn load(report: &Value) -> Vec<Row> {
    let part = &report["load"];
    let verb = if report["model"]["random"] == true { "make" } else { "load" };
    let first = format!("{verb}, and first token of a short text");
    vec![
        row(format!("{verb} the weights"), seconds(&part["s"]), String::new(), String::new()),
        row(first, seconds(&part["first_text_token_s"]), String::new(), String::new()),
    ]
}

fn picture(report: &Value) -> Vec<Row> {
    let (settings, part, vision) = (&report["settings"], &report["preprocess"], &report["vision"]);
    let size = format!("{}x{}", settings["image_width"], settings["image_height"]);
    let decoded = part["decode_ms"].as_f64().map(|ms| {
        let name = format!("decode {size}");
        row(name, format!("{ms:.1} ms"), String::new(), String::new())
    });
    let rate = format!("{} ms/megapixel", fixed(part.get("ms_per_megapixel"), 2));
    let name = format!("preprocess {size}");
    let patches = grouped(vision["patches"].as_u64().unwrap_or(0));
    let tower = row(
        format!("vision tower, {patches} patches"),
        milliseconds(&vision["ms"]),
        format!("{} patches/s", fixed(vision.get("patches_per_s"), 0)),
        of_matmul(vision),
    );
    let cut = row(name, milliseconds(&part["ms"]), rate, String::new());
    decoded.into_iter().chain([cut, tower]).collect()
}

fn prompts(report: &Value) -> Vec<Row> {
    let prompt = |name: &str, part: &Value| {
        let tokens = grouped(part["tokens"].as_u64().unwrap_or(0));
        let rate = format!("{} tokens/s", fixed(part.get("tokens_per_s"), 1));
        row(format!("{name}, {tokens} tokens"), milliseconds(&part["ms"]), rate, of_matmul(part))
    };
    let question = &report["question"];
    let first = milliseconds(&question["first_token_ms"]);
    vec![
        prompt("text prompt", &report["prefill"]),
        prompt("picture and question", question),
        row("from pixels to their first token".to_owned(), first, String::new(), String::new()),
    ]
}

fn answers(report: &Value) -> Vec<Row> {
    let (one, many) = (&report["decode"], &report["batch_decode"]);
    let rate = format!("{} tokens/s", fixed(one.get("tokens_per_s"), 2));
    let ratio = fixed(many.get("ratio"), 2);
    let all = format!("{} tokens/s, {ratio} of one", fixed(many.get("tokens_per_s"), 2));
    let name = format!("answer, {} streams", many["streams"]);
    let both = format!("{}, {}", of_memory(many), giga(&many["flop_per_s"], "FLOP/s"));
    vec![
        row("answer, a token".to_owned(), milliseconds(&one["ms_per_token"]), rate, of_memory(one)),
        row(name, milliseconds(&many["ms_per_step"]), all, both),
    ]
}

/// What guesses change; nothing where they were not asked for.
fn speculative(report: &Value) -> Vec<Row> {
    let part = &report["speculative"];
    if part["guesses"].is_null() {
        return Vec::new();
    }
    let line = |name: &str, key: &str, more: String| {
        let rate = part[key].as_f64();
        let time = rate.map_or("-".to_owned(), |rate| format!("{:.2} ms", 1e3 / rate));
        let rate = format!("{} tokens/s{more}", fixed(part.get(key), 2));
        row(name.to_owned(), time, rate, String::new())
    };
    let (ratio, right) = (fixed(part.get("ratio"), 2), &part["accepted_tokens"]);
    let more = format!(", {ratio} of that; {right} of {} guesses right", part["drafted_tokens"]);
    vec![
        line("greedy answer, a token", "plain_tokens_per_s", String::new()),
        line("the same, tokens guessed", "tokens_per_s", more),
    ]
}

fn machine(report: &Value) -> String {
    let (memory, machine) = (&report["memory"], &report["machine"]);
    let size = |key: &str| memory[key].as_u64().map_or("-".to_owned(), bytes);
    format!(
        "memory: weights {}, cache {}, peak {}; with {} streams cache {}, peak {}\n\
         machine: reads {}, multiplies {} ({}, {} square)\n",
        size("weight_bytes"),
        size("cache_bytes"),
        size("peak_bytes"),
        report["batch_decode"]["streams"],
        size("streams_cache_bytes"),
        size("streams_peak_bytes"),
        giga(&machine["read_bytes_per_s"], "B/s"),
        giga(&machine["matmul_flop_per_s"], "FLOP/s"),
        text_at(report, "/machine/matmul_kernel"),
        machine["matmul_side"],
    )
}

/// What became of experts that stay on the host; nothing where all are on the device.
fn experts(report: &Value) -> String {
    let experts = &report["experts"];
    let Some(budget) = experts["budget_bytes"].as_u64() else { return String::new() };
    let size = |key: &str| experts[key].as_f64().map_or("-".to_owned(), |x| bytes(x as u64));
    let figure = |key: &str, digits| fixed(experts.get(key), digits);
    let all = format!(
        "experts: {} of {} on the device, {} hits, {} misses that uploaded {} in {} s, {}; waited {} s for them\n",
        size("held_bytes"),
        bytes(budget),
        experts["hits"],
        experts["misses"],
        size("uploaded_bytes"),
        figure("upload_s", 2),
        giga(&experts["upload_bytes_per_s"], "B/s"),
        figure("wait_s", 2),
    );
    let answer = format!(
        "experts of a token of the answer: {} hits, {} misses that uploaded {} in {} ms; waited {} ms\n",
        figure("answer_hits", 1),
        figure("answer_misses", 1),
        size("answer_uploaded_bytes"),
        figure("answer_upload_ms", 2),
        figure("answer_wait_ms", 2),
    );
    let shared = "experts: random, those of one layer for all layers\n";
    let shared = if report["model"]["random"] == true { shared } else { "" };
    let answer = if experts["answer_hits"].is_null() { String::new() } else { answer };
    all + &answer + shared
}

fn row(name: String, time: String, rate: String, share: String) -> Row {
    [name, time, rate, share]
}

/// A string without its quotes; anything else as JSON writes it.
fn text_at(report: &Value, path: &str) -> String {
    match report.pointer(path) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "-".to_owned(),
        Some(other) => other.to_string(),
    }
}

fn fixed(value: Option<&Value>, digits: usize) -> String {
    value.and_then(Value::as_f64).map_or("-".to_owned(), |value| format!("{value:.digits$}"))
}

fn seconds(value: &Value) -> String {
    format!("{} s", fixed(Some(value), 2))
}

fn milliseconds(value: &Value) -> String {
    let digits = if value.as_f64().is_some_and(|ms| ms < 100.0) { 2 } else { 0 };
    format!("{} ms", fixed(Some(value), digits))
}

/// In units of 10⁹.
fn giga(value: &Value, unit: &str) -> String {
    value.as_f64().map_or("-".to_owned(), |value| format!("{:.1} G{unit}", value / 1e9))
}

fn of_memory(part: &Value) -> String {
    let share = part["memory_share"].as_f64();
    let share = share.map_or(String::new(), |share| format!(", {:.0} % of memory", 100.0 * share));
    giga(&part["bytes_per_s"], "B/s") + &share
}

fn of_matmul(part: &Value) -> String {
    let share = part["matmul_share"].as_f64();
    let share = share.map_or(String::new(), |share| format!(", {:.0} % of matmul", 100.0 * share));
    giga(&part["flop_per_s"], "FLOP/s") + &share
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn figures_become_lines_of_path_and_value() {
        let report = json!({ "a": { "b": 1.5, "c": null }, "d": "x, \"y\"", "e": true });
        assert_eq!(csv(&report), "name,value\na.b,1.5\na.c,\nd,\"x, \"\"y\"\"\"\ne,true\n");
    }
}
