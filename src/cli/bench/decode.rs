//! `qwen3-vl bench decode`: how fast tokens come, beside how fast memory is read.

use std::time::Instant;

use clap::Args;
use qwen3_vl::Qwen3Vl;
use qwen3_vl::backends::bandwidth::read_bandwidth;
use qwen3_vl::model::Qwen3VlModel;
use qwen3_vl::model::inputs::{ModelInputs, PlaceholderIds};
use qwen3_vl::model::probe::Probe;
use serde_json::json;

use super::super::args::{DeviceArgs, ModelArgs, load};
use super::super::size::{parse, table};
use super::super::{Outcome, print};

/// Arguments of `bench decode`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    qwen3-vl bench decode ./model\n  \
    qwen3-vl bench decode ./model --quant int4 -n 64 -r 5 --json\n\n\
    One sequence, token by token, on the CPU. The bound is the speed at which all cores read a large array in the same \
    run; GB are 10^9 bytes. RAYON_NUM_THREADS sets the number of threads.")]
pub struct DecodeArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Tokens of the prompt
    #[arg(short, long, value_name = "N", default_value_t = 16,
          value_parser = clap::value_parser!(u32).range(1..=4096))]
    prompt_tokens: u32,
    /// Tokens of an answer
    #[arg(short = 'n', long, value_name = "N", default_value_t = 32,
          value_parser = clap::value_parser!(u32).range(1..=4096))]
    tokens: u32,
    /// Answers; the median counts
    #[arg(short, long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    repetitions: u32,
    /// Memory that is read to measure the bound; several times the caches
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = parse)]
    read: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
pub fn run(args: &DecodeArgs) -> anyhow::Result<Outcome> {
    let loaded = load(&args.model, args.device.options()?, args.json)?;
    anyhow::ensure!(
        loaded.placement().is_cpu(),
        "`bench decode` measures the memory of the CPU, and {} has its own; use --device cpu",
        loaded.placement().label()
    );
    let model = loaded.model();
    let seconds = (0..args.repetitions).map(|_| answer(model, args)).collect::<Result<_, _>>()?;
    let bandwidth = read_bandwidth(args.read as usize, 3);
    show(args, &loaded, Figures { seconds: median(seconds), bandwidth })?;
    Ok(Outcome::Done)
}

/// Seconds per token of one answer.
fn answer(model: &Qwen3VlModel, args: &DecodeArgs) -> anyhow::Result<f64> {
    let config = model.config();
    let tokens = PlaceholderIds {
        image: config.image_token_id,
        video: config.video_token_id,
        merge_size: config.vision.merge_size,
    };
    let text =
        (0..config.text.vocab_size as u32).filter(|id| ![tokens.image, tokens.video].contains(id));
    let mut text = text.cycle();
    let ids = text.by_ref().take(args.prompt_tokens as usize).collect();
    let inputs = ModelInputs::from_ids(ids, Default::default(), Default::default(), tokens)?;
    let (mut cache, mut probe) = (model.new_cache(), Probe::off());
    let mut prompt = model.prepare(&inputs, &mut probe)?;
    let rows = 0..inputs.ids.len();
    let hidden = model.prefill(&mut prompt, rows, &mut cache, &mut probe);
    // Reading waits for the device.
    let _ = hidden.into_data();
    let start = Instant::now();
    for (step, id) in (0..args.tokens).zip(text) {
        let logits = model.decode(&[(id, args.prompt_tokens + step)], &mut [&mut cache]);
        let _ = logits.into_data();
    }
    Ok(start.elapsed().as_secs_f64() / f64::from(args.tokens))
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    let middle = seconds.len() / 2;
    match seconds.len() % 2 {
        1 => seconds[middle],
        _ => (seconds[middle - 1] + seconds[middle]) / 2.0,
    }
}

struct Figures {
    /// Per token.
    seconds: f64,
    /// Bytes per second.
    bandwidth: f64,
}

fn show(args: &DecodeArgs, loaded: &Qwen3Vl, figures: Figures) -> anyhow::Result<()> {
    let bytes = loaded.model().bytes_per_token();
    let reached = bytes as f64 / figures.seconds;
    let share = reached / figures.bandwidth;
    let weights = match loaded.scheme() {
        Some(scheme) => scheme.to_string(),
        None => qwen3_vl::backends::dtype::name(loaded.model().precision().weights).to_owned(),
    };
    if args.json {
        let object = json!({
            "weights": weights,
            "device": loaded.placement().label(),
            "tokens_per_second": figures.seconds.recip(),
            "bytes_per_token": bytes,
            "bytes_per_second": reached,
            "read_bandwidth": figures.bandwidth,
            "share": share,
        });
        return print::line(&object.to_string());
    }
    let head = ["WEIGHTS", "TOKENS/S", "GB/TOKEN", "GB/S", "MEMORY GB/S", "SHARE"];
    let row = [
        weights,
        format!("{:.2}", figures.seconds.recip()),
        format!("{:.3}", bytes as f64 / 1e9),
        format!("{:.1}", reached / 1e9),
        format!("{:.1}", figures.bandwidth / 1e9),
        format!("{:.0} %", 100.0 * share),
    ];
    print::out(&table(&[head.map(str::to_owned).to_vec(), row.to_vec()]))
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
