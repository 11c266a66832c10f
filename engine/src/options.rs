//! Where and how a checkpoint is loaded.

use std::path::PathBuf;

use burn::tensor::DType;
use qwen3_vl_backends::ops::Products;
use qwen3_vl_backends::{
    DeviceError, DeviceMap, DtypeRequest, MapError, OpenMap, Placement, Precision, device,
};
use qwen3_vl_model::Qwen3VlConfig;
use qwen3_vl_model::cache::KvDtype;
use qwen3_vl_model::config::ConfigError;
use qwen3_vl_model::processor::VideoRules;
use qwen3_vl_weights::hub::HubOptions;
use qwen3_vl_weights::load::part_sizes;
use qwen3_vl_weights::{LoadHow, MediaLimits, Rounding};

/// Where and how to load a checkpoint.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// As `--device`; without it `QWEN3_VL_DEVICE`, else the best device present.
    pub device: Option<String>,
    /// Spreads the model over several devices, in place of `device`.
    pub device_map: Option<DeviceMap>,
    pub dtype: DtypeRequest,
    /// Bounds on the area of images after resizing, in pixels.
    pub min_pixels: Option<usize>,
    pub max_pixels: Option<usize>,
    /// How videos are sampled, sized and written into the prompt.
    pub video: VideoRules,
    pub context: ContextOptions,
    /// How keys and values are stored, see [`LoadOptions::cache_dtype`].
    pub kv_cache_dtype: KvDtype,
    /// How hub ids are downloaded; without it as the environment says.
    pub hub: Option<HubOptions>,
    pub media: MediaLimits,
    /// Rounds weights as they are read, by default the linear ones and the experts of the language model. For checkpoints that
    /// are not rounded yet; experts not on devices of other machines.
    pub quant: Option<Rounding>,
    /// Leaves the experts of a mixture in the memory of the host, with as many bytes of them on the devices: those that tokens
    /// went to last.
    pub expert_memory: Option<u64>,
    /// Most bytes of one buffer, where that is less than what a device has; tables and linear weights that are larger lie in
    /// several, some rows in each.
    pub max_buffer: Option<u64>,
    /// The GGUF file of the vision tower, for a model that is a GGUF file; without it, the file beside the model whose name
    /// begins with `mmproj`.
    pub mmproj: Option<PathBuf>,
    /// Folder of a LoRA adapter as peft writes it, whose side paths are computed beside the weights.
    pub adapter: Option<PathBuf>,
}

impl LoadOptions {
    /// Finds the devices, before it is known what they are to hold.
    ///
    /// # Errors
    /// When one is not there, or a device and a map are both given.
    pub fn open_devices(&self) -> Result<OpenMap, DeviceError> {
        match (&self.device, &self.device_map) {
            (Some(_), Some(_)) => Err(MapError::Both.into()),
            (_, Some(map)) => map.open(),
            (device, None) => device::select(device.as_deref()).map(OpenMap::of),
        }
    }

    /// Which device holds which part of a checkpoint of `config` whose weights are stored as `stored`, and in which dtypes.
    ///
    /// # Errors
    /// When a device does not hold the dtype, or the map is none for this model.
    pub fn place(
        &self,
        devices: &OpenMap,
        config: &Qwen3VlConfig,
        stored: DType,
    ) -> Result<(Placement, Precision), DeviceError> {
        let precision = Precision::resolve_all(devices.devices(), self.dtype, stored)?;
        let rounding = self.rounding(config);
        let how = self.how(precision, rounding.as_ref());
        Ok((devices.place(&part_sizes(config, how))?, precision))
    }

    /// In which form weights are held in `precision`, with those rounded that `rounding` chooses.
    pub fn how<'r>(&self, precision: Precision, rounding: Option<&'r Rounding>) -> LoadHow<'r> {
        let Self { expert_memory, max_buffer, .. } = *self;
        LoadHow { expert_memory, max_buffer, ..LoadHow::new(precision, rounding) }
    }

    /// How keys and values are stored by a model in `precision`: as `kv_cache_dtype` says, and where that leaves it open, in bf16
    /// where a processor rounds the operands of products to it (`dtype` bf16), as transformers then does.
    pub fn cache_dtype(&self, precision: Precision) -> KvDtype {
        let rounded = Products::of(self.dtype, precision) == Products::Rounded;
        match self.kv_cache_dtype {
            KvDtype::Auto if rounded && precision.compute == DType::F32 => {
                KvDtype::Float(DType::BF16)
            }
            other => other,
        }
    }

    /// Which weights are rounded, and how: as they are read, or in the checkpoint as far as its configuration says.
    pub fn rounding(&self, config: &Qwen3VlConfig) -> Option<Rounding> {
        let stored = config.quantisation.as_ref().map(|stored| Rounding::new(stored.scheme));
        self.quant.clone().or(stored)
    }
}

/// How long a prompt may be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContextOptions {
    /// Most tokens of prompt and answer, no more than the checkpoint allows (vLLM `max_model_len`).
    pub max_model_len: Option<usize>,
    /// A JSON object that scales the rotary embedding, see [`Qwen3VlConfig::with_rope_scaling`].
    pub rope_scaling: Option<String>,
}

impl ContextOptions {
    /// The configuration as these options change it.
    ///
    /// # Errors
    /// When the object is malformed or the length is out of range.
    pub fn apply(&self, mut config: Qwen3VlConfig) -> Result<Qwen3VlConfig, ConfigError> {
        if let Some(json) = &self.rope_scaling {
            config = config.with_rope_scaling(json)?;
        }
        match self.max_model_len {
            Some(tokens) => config.with_max_model_len(tokens),
            None => Ok(config),
        }
    }
}
