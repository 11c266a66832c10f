//! The figures as one JSON object, whose fields are always all there; what was not measured is null.

use qwen3_vl::backends::{dtype, threads};
use qwen3_vl::model::experts::ExpertUsage;
use qwen3_vl::model::replay::recorded_bytes;
use qwen3_vl::weights::load::held_counts;
use serde_json::{Value, json};

use super::measure::{MeasureArgs, Measured};
use super::rounds::{Guessed, Round, Task};
use super::streams::Streams;
use super::subject::Subject;

/// Grows when a field changes its meaning or goes away.
const SCHEMA: u32 = 1;

/// What was measured, and on what.
pub struct Report<'a> {
    pub args: &'a MeasureArgs,
    pub subject: &'a Subject,
    pub task: &'a Task<'a>,
    pub measured: &'a Measured,
}

impl Report<'_> {
    /// Times are in the units that names end in, `_s` or `_ms`; sizes are in bytes; `share`s are between 0 and 1.
    pub fn json(&self) -> Value {
        json!({
            "schema": SCHEMA,
            "version": env!("CARGO_PKG_VERSION"),
            "model": self.model(),
            "machine": self.machine(),
            "settings": self.settings(),
            "load": self.load(),
            "preprocess": self.preprocess(),
            "vision": self.vision(),
            "prefill": self.prefill(),
            "question": self.question(),
            "decode": self.decode(),
            "batch_decode": self.streams(),
            "speculative": self.speculative(),
            "memory": self.memory(),
            "experts": self.experts(),
        })
    }

    fn model(&self) -> Value {
        let model = &self.subject.model;
        json!({
            "shape": self.args.shape(),
            "random": self.subject.random,
            "parameters": held_counts(model.config(), self.subject.scope.sees).values().sum::<u64>(),
            "weights": match &self.subject.rounding {
                Some(rounding) => rounding.to_string(),
                None => dtype::name(model.precision().weights).to_owned(),
            },
        })
    }

    fn machine(&self) -> Value {
        let machine = &self.measured.machine;
        let product = machine.product.as_ref();
        let devices = self.subject.placement.devices();
        let hardware: Vec<String> = devices.iter().map(|device| device.info().hardware).collect();
        json!({
            "device": self.subject.placement.label(),
            "hardware": hardware.join(" + "),
            "threads": threads::threads(),
            "load_average_start": self.measured.load[0],
            "load_average_end": self.measured.load[1],
            "read_bytes_per_s": machine.read,
            "matmul_flop_per_s": product.map(|product| product.flops),
            "matmul_kernel": product.map(|product| &product.kernel),
            "matmul_side": product.map(|product| product.side),
        })
    }

    fn settings(&self) -> Value {
        let image = &self.task.picture.rgb;
        json!({
            "repetitions": self.args.repetitions,
            "depth": self.task.scope.depth,
            "prompt_tokens": self.task.scope.prompt - self.task.scope.depth,
            "new_tokens": self.task.scope.tokens,
            "streams": self.task.scope.streams,
            "image_width": image.width,
            "image_height": image.height,
            "resized_width": self.task.scope.planned.resized_width,
            "resized_height": self.task.scope.planned.resized_height,
            "kv_cache_dtype": self.args.kv_cache_dtype.to_string(),
        })
    }

    fn load(&self) -> Value {
        json!({
            "s": self.subject.seconds,
            "first_text_token_s": self.subject.seconds + self.measured.first_text,
        })
    }

    fn preprocess(&self) -> Value {
        let picture = self.task.picture;
        let megapixels = f64::from(picture.rgb.width) * f64::from(picture.rgb.height) / 1e6;
        let ms = self.median(|round| round.preprocess).map(|seconds| 1e3 * seconds);
        json!({
            "ms": ms,
            "ms_per_megapixel": ms.map(|ms| ms / megapixels),
            "decode_ms": picture.decode.map(|seconds| 1e3 * seconds),
        })
    }

    fn vision(&self) -> Value {
        let (planned, config) = (&self.task.scope.planned, self.subject.model.config());
        let patches = planned.grid.patches();
        let flops = config.vision.flops(&vec![patches / planned.grid.t; planned.grid.t]);
        let seconds = self.median(|round| round.vision);
        let object = json!({
            "patches": patches,
            "patches_per_s": seconds.map(|seconds| patches as f64 / seconds),
        });
        with(object, self.pass(planned.tokens, flops, seconds))
    }

    fn prefill(&self) -> Value {
        let (depth, tokens) =
            (self.task.scope.depth, self.task.scope.prompt - self.task.scope.depth);
        let flops = self.subject.model.config().text.prefill_flops(depth, tokens);
        self.pass(tokens, flops, self.median(|round| round.prefill))
    }

    fn question(&self) -> Value {
        let seconds = self.median(|round| round.question);
        let first = self.median(|round| round.first_token);
        let tokens = self.task.scope.question_tokens();
        let flops = self.subject.model.config().text.prefill_flops(0, tokens);
        let prompt = self.pass(tokens, flops, seconds);
        with(prompt, json!({ "first_token_ms": first.map(|seconds| 1e3 * seconds) }))
    }

    /// A pass of many tokens.
    fn pass(&self, tokens: usize, flops: f64, seconds: Option<f64>) -> Value {
        let rate = seconds.map(|seconds| flops / seconds);
        let product = self.measured.machine.product.as_ref();
        json!({
            "tokens": tokens,
            "ms": seconds.map(|seconds| 1e3 * seconds),
            "tokens_per_s": seconds.map(|seconds| tokens as f64 / seconds),
            "flop": flops,
            "flop_per_s": rate,
            "matmul_share": rate.zip(product).map(|(rate, product)| rate / product.flops),
        })
    }

    fn decode(&self) -> Value {
        let model = &self.subject.model;
        let seconds = self.median(|round| round.decode);
        let past = self.past();
        let cache = (model.cache_bytes_per_token() as f64 * (past + 1.0)).round() as u64;
        let bytes = (model.bytes_per_token() + cache) as f64;
        let reached = seconds.map(|seconds| bytes / seconds);
        let flops = model.config().text.decode_flops(past);
        json!({
            "ms_per_token": seconds.map(|seconds| 1e3 * seconds),
            "tokens_per_s": seconds.map(f64::recip),
            "past_tokens": past,
            "weight_bytes_per_token": model.bytes_per_token(),
            "cache_bytes_per_token": cache,
            "bytes_per_s": reached,
            "memory_share": reached.map(|is| is / self.measured.machine.read),
            "flop_per_s": seconds.map(|seconds| flops / seconds),
        })
    }

    /// Weights are read once for all streams, and so are the keys and values of the prompt, which the streams share; but in replayed
    /// steps each has them for itself.
    fn streams(&self) -> Value {
        let (streams, model) = (self.task.scope.streams as f64, &self.subject.model);
        let seconds = self.median(|round| round.streams.map(|of| of.seconds));
        let (before, replayed) = self.written();
        let behind = before + self.past() - self.task.scope.prompt as f64;
        let shared_by = if replayed > 0.0 { streams } else { 1.0 };
        let tokens = shared_by * self.task.scope.prompt as f64 + streams * (behind + 1.0);
        let cache = (model.cache_bytes_per_token() as f64 * tokens).round() as u64;
        let bytes = (model.bytes_per_token() + cache) as f64;
        let reached = seconds.map(|seconds| bytes / seconds);
        let flops = streams * self.subject.model.config().text.decode_flops(self.past() + before);
        let ratio = |round: &Round| {
            round.decode.zip(round.streams).map(|(one, all)| streams * one / all.seconds)
        };
        json!({
            "streams": self.task.scope.streams,
            "replayed_steps": self.median(|round| round.streams.map(|of| of.replayed as f64)),
            "ms_per_step": seconds.map(|seconds| 1e3 * seconds),
            "tokens_per_s": seconds.map(|seconds| streams / seconds),
            "ratio": self.median(ratio),
            "weight_bytes_per_step": model.bytes_per_token(),
            "cache_bytes_per_step": cache,
            "bytes_per_s": reached,
            "memory_share": reached.map(|is| is / self.measured.machine.read),
            "flop_per_s": seconds.map(|seconds| flops / seconds),
        })
    }

    /// Tokens that a stream had before those that were timed, and how many of these were replayed.
    fn written(&self) -> (f64, f64) {
        let of = |value: fn(Streams) -> usize| {
            self.median(|round| round.streams.map(|streams| value(streams) as f64))
        };
        (of(|streams| streams.before).unwrap_or(1.0), of(|streams| streams.replayed).unwrap_or(0.0))
    }

    /// What guesses change of a greedy answer; random weights repeat themselves more than others, or less.
    fn speculative(&self) -> Value {
        let [plain, ahead] = [|g: Guessed| g.plain, |g: Guessed| g.ahead]
            .map(|of| self.median(|round| round.guessed.map(of)));
        let ratio = |guessed: Guessed| guessed.plain / guessed.ahead;
        // Greedy, so that every round writes and guesses the same.
        let last = self.measured.rounds.iter().filter_map(|round| round.guessed).next_back();
        json!({
            "guesses": self.task.scope.lookup.map(|lookup| lookup.tokens),
            "tokens_per_s": ahead.map(f64::recip),
            "plain_tokens_per_s": plain.map(f64::recip),
            "ratio": self.median(|round| round.guessed.map(ratio)),
            "drafted_tokens": last.map(|guessed| guessed.drafted),
            "accepted_tokens": last.map(|guessed| guessed.accepted),
        })
    }

    fn memory(&self) -> Value {
        let model = &self.subject.model;
        let cache = model.cache_bytes(self.task.scope.prompt + self.task.scope.tokens);
        let (before, replayed) = self.written();
        let each = before as usize + self.task.scope.tokens;
        let streams = model.cache_bytes(each) * self.task.scope.streams as u64;
        let fixed = if replayed > 0.0 { self.fixed_bytes() } else { 0 };
        json!({
            "weight_bytes": self.subject.weight_bytes,
            "cache_bytes": cache,
            "peak_bytes": self.measured.rounds.first().and_then(|round| round.peak),
            "streams_cache_bytes": model.cache_bytes(self.task.scope.prompt) + streams + fixed,
            "streams_peak_bytes": self.measured.peak,
        })
    }

    /// Keys and values of replayed streams, which they have besides.
    fn fixed_bytes(&self) -> u64 {
        let (model, storage) = (&self.subject.model, self.args.kv_cache_dtype);
        let lengths = [self.task.scope.prompt, self.task.stream_tokens()];
        let dtypes = (model.precision().compute, storage);
        let one = recorded_bytes(&model.config().text, &self.subject.placement, dtypes, lengths);
        one * self.task.scope.streams.next_power_of_two() as u64
    }

    /// What became of experts that stay on the host, since the model was made; `answer` of what was written behind the text
    /// prompt, per token.
    fn experts(&self) -> Value {
        let usage = self.subject.model.expert_usage();
        let tokens = self.task.scope.tokens as f64;
        let answer = |of: fn(ExpertUsage) -> f64| {
            self.median(|round| round.experts.map(|usage| of(usage) / tokens))
        };
        let seconds = usage.map(|usage| usage.uploading.as_secs_f64());
        let rate = usage.zip(seconds).map(|(usage, seconds)| usage.uploaded as f64 / seconds);
        json!({
            "budget_bytes": usage.map(|usage| usage.budget),
            "held_bytes": usage.map(|usage| usage.held),
            "hits": usage.map(|usage| usage.hits),
            "misses": usage.map(|usage| usage.misses),
            "hit_share": usage.and_then(hit_share),
            "uploaded_bytes": usage.map(|usage| usage.uploaded),
            "upload_s": seconds,
            "upload_bytes_per_s": rate.filter(|rate| rate.is_finite()),
            "wait_s": usage.map(|usage| usage.waited.as_secs_f64()),
            "answer_hits": answer(|usage| usage.hits as f64),
            "answer_misses": answer(|usage| usage.misses as f64),
            "answer_hit_share": self.median(|round| round.experts.and_then(hit_share)),
            "answer_uploaded_bytes": answer(|usage| usage.uploaded as f64),
            "answer_upload_ms": answer(|usage| 1e3 * usage.uploading.as_secs_f64()),
            "answer_wait_ms": answer(|usage| 1e3 * usage.waited.as_secs_f64()),
        })
    }

    /// Tokens before a new one, on average.
    fn past(&self) -> f64 {
        self.task.scope.prompt as f64 + (self.task.scope.tokens as f64 - 1.0) / 2.0
    }

    fn median(&self, of: impl Fn(&Round) -> Option<f64>) -> Option<f64> {
        median(self.measured.rounds.iter().filter_map(of).collect())
    }
}

/// Matrices that were there, of all that tokens went to.
fn hit_share(usage: ExpertUsage) -> Option<f64> {
    let share = usage.hits as f64 / (usage.hits + usage.misses) as f64;
    Some(share).filter(|share| share.is_finite())
}

/// The fields of both objects.
fn with(object: Value, more: Value) -> Value {
    match (object, more) {
        (Value::Object(fields), Value::Object(more)) => fields.into_iter().chain(more).collect(),
        (object, _) => object,
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2)?;
    let lower = values.get(values.len().saturating_sub(1) / 2)?;
    Some((lower + upper) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
    }
}
