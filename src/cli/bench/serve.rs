//! `qwen3-vl bench serve`: load on a running server.

use std::io::Cursor;
use std::time::{Duration, Instant};

use clap::Args;
use image::{ImageFormat, RgbImage};
use indicatif::{ProgressBar, ProgressDrawTarget};
use serde_json::{Value, json};

use super::super::{Outcome, print, size};
use super::load::{self, Measured, Target};
use super::results::{File, Setting};

/// Arguments of `bench serve`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    qwen3-vl bench serve --url http://127.0.0.1:8000 --concurrency 8\n  \
    qwen3-vl bench serve --url http://127.0.0.1:8000 --concurrency 4 --image-size 640x480 -n 64 -o results.md\n\n\
    Use it on a server of your own. Every prompt and picture is another one, so that caches do not flatter, unless --same \
    asks for it. Beside the times to first tokens stands what of them the server spent between the batch and the token; the \
    rest is reading the request, waiting, and the way. Exit code 1 when a request failed.")]
pub struct ServeBenchArgs {
    /// Where the server is
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8000")]
    url: String,
    /// Clients that ask at the same time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: u16,
    /// Requests in all
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    num_requests: u32,
    /// Words of each prompt
    #[arg(short, long, value_name = "N", default_value_t = 64)]
    prompt_words: usize,
    /// Tokens of each answer
    #[arg(short = 'n', long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// A picture of this size in each request, such as 640x480
    #[arg(long, value_name = "WxH", value_parser = size::dimensions)]
    image_size: Option<(u32, u32)>,
    /// Ask the same every time
    #[arg(long)]
    same: bool,
    /// Key of the server
    #[arg(long, value_name = "KEY", env = "QWEN3_VL_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// Seconds after which a request has failed
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
    /// Write the results to this file too, with date, machine, load average, server and command: FILE.json is replaced,
    /// FILE.md gets another section
    #[arg(short, long, value_name = "FILE", value_parser = str::parse::<File>)]
    out: Option<File>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
pub fn run(args: &ServeBenchArgs) -> anyhow::Result<Outcome> {
    let target = Target {
        url: args.url.trim_end_matches('/').to_owned(),
        key: args.api_key.clone(),
        timeout: Duration::from_secs(args.timeout),
    };
    let bodies = (0..args.num_requests).map(|index| body(args, index));
    let bodies = bodies.collect::<anyhow::Result<Vec<_>>>()?;
    let bar =
        ProgressBar::with_draw_target(Some(bodies.len() as u64), ProgressDrawTarget::stderr());
    let setting = Setting::of(&target);
    let begun = Instant::now();
    let results = load::run(&target, &bodies, args.concurrency.into(), &|| bar.inc(1));
    let seconds = begun.elapsed().as_secs_f64();
    bar.finish_and_clear();
    let mut report = report(args, &results, seconds);
    setting.describe(&target, &mut report);
    let table = table(&report);
    if let Some(file) = &args.out {
        file.write(&report, &table)?;
    }
    match args.json {
        true => print::line(&report.to_string())?,
        false => print::out(&table)?,
    }
    let failed: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    if let Some(first) = failed.first() {
        print::error_line(&format!("{} requests failed, the first with {first}", failed.len()));
        return Ok(Outcome::Failed);
    }
    Ok(Outcome::Done)
}

fn body(args: &ServeBenchArgs, index: u32) -> anyhow::Result<Value> {
    const WORDS: [&str; 8] = ["river", "stone", "cloud", "lamp", "green", "seven", "walk", "north"];
    let seed = if args.same { 0 } else { index as usize };
    let word = |n: usize| WORDS[(n * 7 + n * n * (seed + 3) + seed) % WORDS.len()];
    let words: Vec<&str> = (0..args.prompt_words).map(word).collect();
    // The number comes first, so that no two prompts begin alike.
    let mut parts = vec![json!({ "type": "text", "text": format!("{seed}: {}", words.join(" ")) })];
    if let Some((width, height)) = args.image_size {
        let url = picture(width, height, seed as u32)?;
        parts.push(json!({ "type": "image_url", "image_url": { "url": url } }));
    }
    Ok(json!({
        "messages": [{ "role": "user", "content": parts }],
        "max_tokens": args.max_tokens,
        "temperature": 0,
        "ignore_eos": true,
        "stream": true,
        "stream_options": { "include_usage": true },
    }))
}

fn picture(width: u32, height: u32, seed: u32) -> anyhow::Result<String> {
    let pixel = |x: u32, y: u32| {
        let value = x.wrapping_mul(31) ^ y.wrapping_mul(17) ^ seed.wrapping_mul(97);
        image::Rgb([(value / 3) as u8, (x / 2) as u8, (y / 2) as u8])
    };
    let mut bytes = Cursor::new(Vec::new());
    RgbImage::from_fn(width, height, pixel).write_to(&mut bytes, ImageFormat::Png)?;
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(bytes.into_inner());
    Ok(format!("data:image/png;base64,{text}"))
}

fn report(args: &ServeBenchArgs, results: &[Result<Measured, String>], seconds: f64) -> Value {
    let good: Vec<&Measured> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
    let sum = |of: fn(&Measured) -> u64| good.iter().map(|measured| of(measured)).sum::<u64>();
    let (prompt, written) = (sum(|m| m.prompt_tokens), sum(|m| m.completion_tokens));
    let between = good.iter().flat_map(|measured| measured.between.clone()).collect();
    json!({
        "url": args.url,
        "concurrency": args.concurrency,
        "requests": results.len(),
        "failed": results.len() - good.len(),
        "prompt_words": args.prompt_words,
        "max_tokens": args.max_tokens,
        "image_size": args.image_size.map(|(w, h)| format!("{w}x{h}")),
        "seconds": seconds,
        "prompt_tokens": prompt,
        "cached_tokens": sum(|m| m.cached_tokens),
        "completion_tokens": written,
        "requests_per_s": good.len() as f64 / seconds,
        "completion_tokens_per_s": written as f64 / seconds,
        "time_to_first_token_ms": percentiles(good.iter().filter_map(|m| m.first).collect()),
        "inter_token_ms": percentiles(between),
        "answer_ms": percentiles(good.iter().map(|m| m.whole).collect()),
    })
}

/// Mean, median, p90, p99 and largest, in milliseconds; null without values.
fn percentiles(mut all: Vec<Duration>) -> Value {
    if all.is_empty() {
        return Value::Null;
    }
    all.sort_unstable();
    let ms = |value: Duration| value.as_secs_f64() * 1000.0;
    let at = |share: f64| ms(all[((all.len() - 1) as f64 * share).round() as usize]);
    let mean = all.iter().copied().map(ms).sum::<f64>() / all.len() as f64;
    json!({ "mean": mean, "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "max": at(1.0) })
}

fn table(report: &Value) -> String {
    let number = |value: &Value| value.as_f64().map_or("-".to_owned(), |x| format!("{x:.1}"));
    let mut rows = vec![["", "mean", "p50", "p90", "p99", "max"].map(str::to_owned).to_vec()];
    for (name, key) in [
        ("first token, ms", "time_to_first_token_ms"),
        ("of it in the batch", "engine_first_token_ms"),
        ("token to token, ms", "inter_token_ms"),
        ("whole answer, ms", "answer_ms"),
    ] {
        let values = ["mean", "p50", "p90", "p99", "max"].map(|part| number(&report[key][part]));
        rows.push([vec![name.to_owned()], values.to_vec()].concat());
    }
    format!(
        "{} requests from {} clients in {} s, {} failed\n{} requests/s, {} tokens written per s\n\n{}",
        report["requests"],
        report["concurrency"],
        number(&report["seconds"]),
        report["failed"],
        number(&report["requests_per_s"]),
        number(&report["completion_tokens_per_s"]),
        size::table(&rows)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_values() {
        let all = (1..=100).rev().map(Duration::from_millis).collect();
        let told = percentiles(all);
        assert_eq!((told["p50"].as_f64(), told["p99"].as_f64()), (Some(51.0), Some(99.0)));
        assert_eq!((told["mean"].as_f64(), told["max"].as_f64()), (Some(50.5), Some(100.0)));
        assert_eq!(percentiles(Vec::new()), Value::Null);
    }
}
