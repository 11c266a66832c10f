//! The model that is measured: a published shape with random weights, or a checkpoint.

use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use burn::tensor::DType;
use qwen3_vl::LoadOptions;
use qwen3_vl::backends::Precision;
use qwen3_vl::backends::device::{OpenMap, Placement, host_memory};
use qwen3_vl::backends::ops::Products;
use qwen3_vl::model::cache::KvCache;
use qwen3_vl::model::processor::image::{ImageProcessor, ImageProcessorConfig, PatchLayout};
use qwen3_vl::model::{Qwen3VlConfig, Qwen3VlModel};
use qwen3_vl::nano;
use qwen3_vl::weights::hub::HubOptions;
use qwen3_vl::weights::load::{check_expert_memory, checkpoint_sizes, part_sizes};
use qwen3_vl::weights::{Checkpoint, LoadError, ModelSource, Rounding, load_placed, random_model};
use serde_json::{Map, Value};

use super::super::progress::LoadBar;
use super::super::size::bytes;
use super::measure::{MeasureArgs, Stage};
use super::picture::Opened;
use super::scope::{Outline, Scope};

/// What the published configurations say of their shapes, by name; `benches/compare/inference.py` reads it too.
const SHAPES: &str = include_str!("shapes.json");

/// A model on its devices.
#[derive(Debug)]
pub struct Subject {
    pub model: Qwen3VlModel,
    pub placement: Placement,
    pub images: ImageProcessor,
    pub rounding: Option<Rounding>,
    /// What the weights take, as they are held.
    pub weight_bytes: u64,
    /// Whether the weights were made here.
    pub random: bool,
    /// What is measured of it.
    pub scope: Scope,
    /// Of loading or making it.
    pub seconds: f64,
}

/// Where and in which precision, and what will be measured.
struct Place<'a> {
    args: &'a MeasureArgs,
    picture: &'a Opened,
    options: LoadOptions,
    devices: OpenMap,
}

impl Subject {
    /// Makes or loads what `--shape` names.
    ///
    /// # Errors
    /// When it names nothing, does not fit into the memory, or cannot be loaded, and as [`Scope::new`], before there are weights.
    pub fn open(args: &MeasureArgs, picture: &Opened) -> anyhow::Result<Self> {
        let options = LoadOptions { kv_cache_dtype: args.kv_cache_dtype, ..args.device.options()? };
        let place = Place { args, picture, devices: options.open_devices()?, options };
        let shape = args.shape();
        if let Some(config) = shapes().remove(shape) {
            if args.mmproj.is_some() {
                return Err(LoadError::NeedlessMmproj { path: shape.into() }.into());
            }
            let config = Qwen3VlConfig::from_json(&config.to_string())?;
            return place.random(&config, ImageProcessorConfig::qwen3_vl());
        }
        let known = || shapes().keys().cloned().collect::<Vec<_>>().join(", ");
        let path = nano::resolve(shape, &HubOptions::from_env());
        let path = path.with_context(|| format!("`{shape}` is none of {}", known()))?;
        let source = ModelSource::find(&path, args.mmproj.as_deref())?;
        let config = source.config()?;
        let images = match &source {
            ModelSource::Folder(folder) => image_settings(folder, &config)?,
            ModelSource::Gguf { .. } => source.processor(&config)?.images().config.clone(),
        };
        match source.weights()? {
            None => place.random(&config, images),
            Some(checkpoint) => place.stored(&checkpoint, images),
        }
    }
}

impl Place<'_> {
    /// The model, computing and keeping its past as the options say.
    fn as_chosen(&self, model: Qwen3VlModel, precision: Precision) -> Qwen3VlModel {
        model
            .with_products(Products::of(self.options.dtype, precision))
            .with_cache_dtype(self.options.cache_dtype(precision))
    }

    /// Refuses what the memory has no room for, before it is filled.
    fn check_room(
        &self,
        placement: &Placement,
        weights: u64,
        config: &Qwen3VlConfig,
        precision: Precision,
        scope: &Scope,
    ) -> anyhow::Result<()> {
        let Some(memory) = host_memory().filter(|_| placement.is_cpu()) else {
            return Ok(());
        };
        let (stages, storage) = (scope.stages(), self.options.cache_dtype(precision));
        let cache = |n| KvCache::bytes(&config.text, n, precision.compute, storage);
        let of = |stage, bytes: u64| if stages.contains(&stage) { bytes } else { 0 };
        let one = of(Stage::Text, cache(scope.prompt + scope.tokens));
        let own = cache(scope.tokens + 1).saturating_mul(scope.streams as u64);
        let parts = [weights, one.saturating_add(of(Stage::Streams, own)), self.args.read];
        let needed = parts.into_iter().fold(0, u64::saturating_add);
        anyhow::ensure!(
            needed <= memory.available,
            "weights take {}, keys and values {} and --read {}, but {} are free; choose a smaller --shape, -p, -n, --batch or \
             --read, or round linear weights by --quant int4",
            bytes(parts[0]),
            bytes(parts[1]),
            bytes(parts[2]),
            bytes(memory.available)
        );
        Ok(())
    }

    fn random(
        &self,
        config: &Qwen3VlConfig,
        images: ImageProcessorConfig,
    ) -> anyhow::Result<Subject> {
        let start = Instant::now();
        let (placement, precision) = self.options.place(&self.devices, config, DType::BF16)?;
        // What another program would have made of them is measured by the weights of ours that are most alike.
        let alike = |rounding: Rounding| Rounding { scheme: rounding.scheme.plain(), ..rounding };
        let rounding = self.options.rounding(config).map(alike);
        let how = self.options.how(precision, rounding.as_ref());
        check_expert_memory(config, &placement, how)?;
        let images = ImageProcessor::new(images);
        let outline = Outline { config, images: &images, placement: &placement, sees: true };
        let scope = Scope::new(self.args, self.picture, outline)?;
        let weight_bytes = part_sizes(config, how).total();
        let layer = how.expert_memory.map_or(0, |_| layer_bytes(config));
        self.check_room(&placement, weight_bytes + layer, config, precision, &scope)?;
        let mut bar = LoadBar::of("making", false);
        let model = random_model(config, &placement, how, &mut bar)?;
        bar.clear();
        Ok(Subject {
            model: self.as_chosen(model, precision),
            placement,
            images,
            rounding,
            weight_bytes,
            random: true,
            scope,
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    fn stored(
        &self,
        checkpoint: &Checkpoint,
        images: ImageProcessorConfig,
    ) -> anyhow::Result<Subject> {
        let start = Instant::now();
        let (config, stored) = (checkpoint.config(), checkpoint.main_dtype());
        let (placement, precision) = self.options.place(&self.devices, config, stored)?;
        let (images, sees) = (ImageProcessor::new(images), checkpoint.sees());
        let outline = Outline { config, images: &images, placement: &placement, sees };
        let scope = Scope::new(self.args, self.picture, outline)?;
        // Its weights are looked at where they lie, as far as there is room.
        self.check_room(&placement, 0, config, precision, &scope)?;
        let mut bar = LoadBar::new(false);
        let how = self.options.how(precision, self.options.quant.as_ref());
        let (model, _) = load_placed(checkpoint, &placement, how, &mut bar)?;
        bar.clear();
        let sizes = match &self.options.quant {
            None => checkpoint_sizes(checkpoint, how)?,
            Some(_) => part_sizes(config, how),
        };
        Ok(Subject {
            model: self.as_chosen(model, precision),
            placement,
            weight_bytes: sizes.total(),
            images,
            rounding: self.options.rounding(config),
            random: false,
            scope,
            seconds: start.elapsed().as_secs_f64(),
        })
    }
}

/// Bytes of the experts of one layer in bf16, which all layers copy theirs from where experts stay on the host.
fn layer_bytes(config: &Qwen3VlConfig) -> u64 {
    let hidden = config.text.hidden_size;
    let experts = config.text.moe.as_ref();
    experts.map_or(0, |moe| 6 * (moe.experts * moe.intermediate_size * hidden) as u64)
}

fn shapes() -> Map<String, Value> {
    serde_json::from_str(SHAPES).expect("the table of shapes is JSON, which a test checks")
}

/// As the folder says, else as published; cut as the vision tower needs it.
fn image_settings(folder: &Path, config: &Qwen3VlConfig) -> anyhow::Result<ImageProcessorConfig> {
    let path = folder.join("preprocessor_config.json");
    let name = path.display().to_string();
    let mut images = match path.is_file() {
        false => ImageProcessorConfig::qwen3_vl(),
        true => {
            let text =
                std::fs::read_to_string(&path).with_context(|| format!("cannot read {name}"))?;
            ImageProcessorConfig::from_json(&text).context(name)?
        }
    };
    images.layout = PatchLayout::of(&config.vision);
    Ok(images)
}

#[cfg(test)]
mod tests {
    use super::*;
    use qwen3_vl::weights::load::parameter_counts;

    #[test]
    fn shapes_have_the_published_numbers_of_parameters() {
        let published = [
            ("2b", 2_127_532_032),
            ("4b", 4_437_815_808),
            ("8b", 8_767_123_696),
            ("30b-a3b", 31_070_754_032),
        ];
        assert_eq!(shapes().len(), published.len());
        for (name, expected) in published {
            let config = Qwen3VlConfig::from_json(&shapes()[name].to_string()).unwrap();
            let counts = parameter_counts(&config);
            assert_eq!(counts.values().sum::<u64>(), expected, "{name}: {counts:?}");
            assert_eq!(PatchLayout::of(&config.vision), ImageProcessorConfig::qwen3_vl().layout);
        }
    }
}
