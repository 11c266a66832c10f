//! `qwen3-vl inspect`: what a checkpoint is, from its headers alone.

use std::collections::BTreeMap;

use clap::Args;
use qwen3_vl::model::Qwen3VlConfig;
use qwen3_vl::model::config::{Method, Quantisation};
use qwen3_vl::model::sample::GenerationDefaults;
use qwen3_vl::weights::load::{Part, check_checkpoint, held_counts};
use qwen3_vl::weights::{Checkpoint, LoadReport, ModelSource};
use serde_json::{Value, json};

use super::args::ModelArgs;
use super::size::{bytes, grouped, table};
use super::{Outcome, print};

/// Arguments of `inspect`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  qwen3-vl inspect ./model\n  qwen3-vl inspect ./model --json")]
pub struct InspectArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Everything that is shown.
struct Inspection {
    source: ModelSource,
    checkpoint: Checkpoint,
    report: LoadReport,
    defaults: GenerationDefaults,
    counts: BTreeMap<Part, u64>,
}

/// Runs the verb.
pub fn run(args: &InspectArgs) -> anyhow::Result<Outcome> {
    let source = args.model.source(args.json)?;
    let checkpoint = source.open()?;
    let inspection = Inspection {
        report: check_checkpoint(&checkpoint)?,
        defaults: source.generation_defaults()?,
        counts: held_counts(checkpoint.config(), source.sees()),
        checkpoint,
        source,
    };
    match args.json {
        true => print::line(&serde_json::to_string_pretty(&inspection.json())?)?,
        false => print::out(&inspection.text())?,
    }
    Ok(if inspection.report.is_complete() { Outcome::Done } else { Outcome::Failed })
}

impl Inspection {
    fn config(&self) -> &Qwen3VlConfig {
        self.checkpoint.config()
    }

    fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Bytes of the file by dtype.
    fn stored(&self) -> BTreeMap<String, u64> {
        let mut stored = BTreeMap::new();
        for entry in self.checkpoint.tensors().values() {
            *stored.entry(entry.storage.to_string()).or_default() += entry.bytes();
        }
        stored
    }

    fn architecture(&self) -> Vec<(&'static str, String)> {
        let (config, text, vision) = (self.config(), &self.config().text, &self.config().vision);
        let mut rows = vec![
            ("model type", config.model_type().to_owned()),
            ("text layers", text.layers.to_string()),
            ("text hidden size", text.hidden_size.to_string()),
            ("attention heads", format!("{} (key/value {})", text.heads, text.kv_heads)),
            ("head dim", text.head_dim.to_string()),
            ("vocabulary", grouped(text.vocab_size as u64)),
            ("context", grouped(text.max_position_embeddings as u64)),
            ("rope", rope(config)),
            ("tied embeddings", config.tie_word_embeddings.to_string()),
        ];
        if self.source.sees() {
            rows.extend([
                ("vision layers", vision.layers.to_string()),
                ("vision hidden size", format!("{} ({} heads)", vision.hidden_size, vision.heads)),
                (
                    "patch",
                    format!("{0}x{0} pixels, merged {1}x{1}", vision.patch_size, vision.merge_size),
                ),
                ("DeepStack taps", format!("{:?}", vision.deepstack_indexes)),
            ]);
        }
        match config.quantisation {
            None => {}
            Some(Quantisation { method: Method::Own, scheme, .. }) => {
                rows.push(("linear weights", format!("rounded to {scheme}")));
            }
            Some(Quantisation { method, scheme, .. }) => {
                rows.push(("linear weights", format!("{}, most become {scheme}", method.name())));
            }
        }
        if let ModelSource::Gguf { mmproj: Some(mmproj), .. } = &self.source {
            rows.push(("vision tower in", mmproj.display().to_string()));
        }
        if let Some(moe) = &text.moe {
            let layers = (0..text.layers).filter(|i| text.is_moe_layer(*i)).count();
            let (experts, used) = (moe.experts, moe.experts_per_token);
            let value = format!("{experts}, {used} per token, in {layers} layers");
            rows.push(("experts", value));
        }
        rows
    }

    /// What a user would want to know before blaming the model.
    fn oddities(&self) -> Vec<String> {
        let mut odd = Vec::new();
        if self.stored().len() > 1 && self.config().quantisation.is_none() {
            odd.push(format!(
                "mixed dtypes: {}",
                self.stored().into_keys().collect::<Vec<_>>().join(", ")
            ));
        }
        if self.report.ignored_head {
            odd.push(
                "holds an lm_head.weight although the embeddings are tied; it is ignored".into(),
            );
        }
        if self.defaults.eos_token_ids.is_empty() {
            odd.push(
                "generation_config.json names no eos_token_id: answers end at --max-tokens".into(),
            );
        }
        odd.extend(
            self.defaults.unsupported.iter().map(|field| {
                format!("generation_config.json sets {field}, which has no effect here")
            }),
        );
        if let ModelSource::Folder(folder) = &self.source {
            for name in ["tokenizer.json", "preprocessor_config.json"] {
                if !folder.join(name).exists() {
                    odd.push(format!("has no {name}"));
                }
            }
        }
        if !self.source.sees() {
            odd.push("has no vision tower: give its mmproj file by --mmproj".into());
        }
        if !self.report.is_complete() || !self.report.unexpected.is_empty() {
            odd.push(self.report.to_string());
        }
        odd
    }

    fn text(&self) -> String {
        let rows = |pairs: Vec<(String, String)>| {
            table(&pairs.into_iter().map(|(a, b)| vec![format!("  {a}"), b]).collect::<Vec<_>>())
        };
        let owned = |(a, b): (&str, String)| (a.to_owned(), b);
        let config = self.config();
        let mut counts: Vec<_> =
            self.counts.iter().map(|(part, n)| (part.name().to_owned(), grouped(*n))).collect();
        counts.push(("all".into(), grouped(self.total())));
        let memory = [("f32", 4), ("bf16 or f16", 2)]
            .map(|(name, size)| (name.to_owned(), bytes(self.total().saturating_mul(size))));
        let mut out = format!("{}\n", self.checkpoint.folder().display());
        out += &rows(self.architecture().into_iter().map(owned).collect());
        out += "parameters\n";
        out += &rows(counts);
        out += "memory of the weights\n";
        out += &rows(memory.to_vec());
        out += "in the file\n";
        out += &rows(self.stored().into_iter().map(|(dtype, n)| (dtype, bytes(n))).collect());
        out += "token ids\n";
        out += &rows(vec![
            ("image".into(), config.image_token_id.to_string()),
            ("video".into(), config.video_token_id.to_string()),
            (
                "vision start, end".into(),
                format!("{}, {}", config.vision_start_token_id, config.vision_end_token_id),
            ),
            ("end of answer".into(), format!("{:?}", self.defaults.eos_token_ids)),
        ]);
        let odd = self.oddities();
        out += if odd.is_empty() { "nothing odd\n" } else { "odd\n" };
        out += &odd
            .iter()
            .map(|line| format!("  {}\n", line.replace('\n', "\n  ")))
            .collect::<String>();
        out
    }

    fn json(&self) -> Value {
        let config = self.config();
        let counts: BTreeMap<_, _> = self.counts.iter().map(|(p, n)| (p.name(), n)).collect();
        json!({
            "model_type": config.model_type(),
            "architecture": self.architecture().into_iter().collect::<BTreeMap<_, _>>(),
            "parameters": counts,
            "total_parameters": self.total(),
            "stored_bytes": self.stored(),
            "token_ids": {
                "image": config.image_token_id,
                "video": config.video_token_id,
                "vision_start": config.vision_start_token_id,
                "vision_end": config.vision_end_token_id,
                "eos": self.defaults.eos_token_ids,
            },
            "complete": self.report.is_complete(),
            "odd": self.oddities(),
        })
    }
}

fn rope(config: &Qwen3VlConfig) -> String {
    let rope = &config.text.rope;
    let base = format!("theta {}, sections {:?}", rope.theta, rope.sections);
    match &rope.yarn {
        None => base,
        Some(yarn) => format!(
            "{base}, YaRN factor {} over {}",
            yarn.factor, yarn.original_max_position_embeddings
        ),
    }
}
