//! What a run begins with: its weights, and what of them is trained.

use qwen3_vl_backends::{Placement, Precision, SelectedDevice};
use qwen3_vl_model::Qwen3VlModel;
use qwen3_vl_model::config::{Quantisation, Qwen3VlConfig};
use qwen3_vl_model::init::Init;
use qwen3_vl_weights::checkpoint::read_config;
use qwen3_vl_weights::{Checkpoint, LoadError, LoadHow, load_placed};

use crate::config::{InitFrom, TrainConfig, Training};
use crate::groups::Group;
use crate::lora::Plan;
use crate::run::TrainError;

/// Whether the run can begin, without reading a weight: the weights are there, where `init` does not say that they are random,
/// targets of LoRA are layers, and something is trained. Returns what is to be said of a head that is the embedding table.
///
/// # Errors
/// When it cannot begin.
pub fn check_start(config: &TrainConfig) -> Result<Option<&'static str>, TrainError> {
    let shape = read_config(&config.model)?;
    Plan::new(config, &shape)?;
    stored(config, &shape)?;
    check_head(config, &shape)
}

/// What `train.head` means where the head is the embedding table: nothing, which is said, or refused where it is all.
pub(crate) fn check_head(
    config: &TrainConfig,
    shape: &Qwen3VlConfig,
) -> Result<Option<&'static str>, TrainError> {
    use Training::{Frozen, Full};
    let train = &config.train;
    let mut others = Group::ALL.into_iter().filter(|group| *group != Group::Head);
    let alone = others.all(|group| train.of(group) == Frozen);
    match (shape.tie_word_embeddings, train.embed, train.head) {
        (true, Frozen, Full) if alone => Err(TrainError::TiedHead),
        (true, Frozen, Full) => Ok(Some(
            "the head of this model is its embedding table, which is frozen, so that `train.head = true` changes nothing; \
             `embed = true` trains both",
        )),
        (true, Full, Frozen) => Ok(Some(
            "the head of this model is its embedding table, which is trained, so that `train.head = false` changes nothing; \
             `embed = false` freezes both",
        )),
        _ => Ok(None),
    }
}

/// The stored weights; `None` where they are random.
fn stored(config: &TrainConfig, shape: &Qwen3VlConfig) -> Result<Option<Checkpoint>, TrainError> {
    if config.init == InitFrom::Random {
        return Ok(None);
    }
    let checkpoint = Checkpoint::open(&config.model)?;
    if let Some(Quantisation { scheme, .. }) = shape.quantisation {
        let folder = config.model.clone();
        return Err(LoadError::QuantTraining { folder, scheme }.into());
    }
    Ok(Some(checkpoint))
}

/// The model that a run begins with, with its side paths. It is in f32; under LoRA, weights keep the dtype of the file
/// where the device has it.
pub(crate) fn load(
    config: &TrainConfig,
    device: &SelectedDevice,
) -> Result<Qwen3VlModel, TrainError> {
    let shape = read_config(&config.model)?;
    let plan = Plan::new(config, &shape)?;
    let model = match stored(config, &shape)? {
        Some(checkpoint) => {
            let stored = checkpoint.main_dtype();
            let weights = Some(stored).filter(|dtype| plan.is_some() && device.holds(*dtype));
            let weights = weights.unwrap_or(Precision::F32.weights);
            let precision = Precision { weights, ..Precision::F32 };
            // Gradients are of whole parameters: one that a device has no buffer for is refused.
            let how = LoadHow { whole: true, ..LoadHow::new(precision, None) };
            let placement = Placement::whole(device, shape.text.layers);
            load_placed(&checkpoint, &placement, how, &mut ())?.0
        }
        None => {
            device.device.seed(config.seed);
            Qwen3VlModel::new(&shape, &Init::new(&device.device, Precision::F32))
        }
    };
    Ok(match plan {
        Some(plan) => plan.attach(model),
        None => model,
    })
}
