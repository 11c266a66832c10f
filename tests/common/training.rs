//! Runs of training on a few mixed samples.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Tensor};
use qwen3_vl::backends::device;
use qwen3_vl::model::Qwen3VlModel;
use qwen3_vl::train::checkpoint;
use qwen3_vl::train::config::TrainConfig;
use qwen3_vl::train::groups::parameters;
use qwen3_vl::train::pass::Batch;
use qwen3_vl::train::run::{Observer, StepReport, Trainer};
use safetensors::SafeTensors;

/// Eight samples: one picture, two pictures, a video, boxes, text.
pub const ROWS: &str = r#"{"image":"p0.png","conversations":[{"from":"human","value":"<image>\nWhat colour?"},{"from":"gpt","value":"The square is red."}]}
{"image":["p1.png","p2.png"],"conversations":[{"from":"human","value":"<image>\n<image>\nDifference?"},{"from":"gpt","value":"One is green, one is blue."}]}
{"messages":[{"role":"user","content":"Say hi"},{"role":"assistant","content":"Hi there."}]}
{"messages":[{"role":"user","content":[{"type":"image","image":"p3.png"},{"type":"text","text":"box?"}]},{"role":"assistant","content":"[{\"bbox_2d\": [312, 125, 812, 625], \"label\": \"square\"}]"}]}
{"messages":[{"role":"user","content":[{"type":"video","video":["p0.png","p1.png","p2.png","p3.png"],"sample_fps":2.0},{"type":"text","text":"Which way?"}]},{"role":"assistant","content":"It moves right."}]}
{"image":"p2.png","conversations":[{"from":"human","value":"<image>\nWhat colour?"},{"from":"gpt","value":"The square is blue."}]}
{"image":"p1.png","conversations":[{"from":"human","value":"<image>\nWhat colour?"},{"from":"gpt","value":"The square is green."}]}
{"conversations":[{"from":"human","value":"1+1?"},{"from":"gpt","value":"2"}]}
"#;

/// A folder with data, pictures and a place for runs.
pub struct Folder {
    pub folder: tempfile::TempDir,
}

impl Folder {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("data.jsonl"), ROWS).unwrap();
        let colours = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]];
        for (index, colour) in colours.into_iter().enumerate() {
            let left = 8 + 4 * index as u32;
            let square = |x: u32, y: u32| {
                let inside = (left..left + 32).contains(&x) && (8..40).contains(&y);
                image::Rgb(if inside { colour } else { [255; 3] })
            };
            let path = folder.path().join(format!("p{index}.png"));
            image::RgbImage::from_fn(64, 64, square).save(path).unwrap();
        }
        Self { folder }
    }

    /// A configuration with `more` lines, whose output folder is `name`.
    pub fn config(&self, model: &str, name: &str, more: &str) -> TrainConfig {
        let model = super::fixtures().join(model);
        let text = format!(
            "model = {model:?}\noutput = \"{name}\"\ndata = [{{ path = \"data.jsonl\" }}]\n{more}"
        );
        let path = self.folder.path().join(format!("{name}.toml"));
        std::fs::write(&path, text).unwrap();
        TrainConfig::open(&path).unwrap()
    }

    /// The output folder of a run.
    pub fn output(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// A configuration with `more` lines, of files that are not there.
pub fn parsed(more: &str) -> TrainConfig {
    let file = tempfile::NamedTempFile::new().unwrap();
    let head = "model = \"m\"\nlr = { base = 1e-3 }\ndata = [{ path = \"d\" }]\n";
    std::fs::write(file.path(), format!("{head}{more}\n")).unwrap();
    TrainConfig::open(file.path()).unwrap()
}

/// Collects reports, and stops after some.
#[derive(Default)]
pub struct Steps {
    pub reports: Vec<StepReport>,
    pub stop_after: Option<u64>,
}

impl Observer for Steps {
    fn step(&mut self, report: &StepReport) -> ControlFlow<()> {
        self.reports.push(report.clone());
        match self.stop_after {
            Some(last) if report.step >= last => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }

    fn saved(&mut self, _folder: &Path) {}
}

/// Trains to the end, or so many steps.
pub fn train(config: TrainConfig, stop_after: Option<u64>) -> Vec<StepReport> {
    let device = device::select(Some("flex")).unwrap();
    let mut steps = Steps { stop_after, ..Steps::default() };
    Trainer::new(config, &device).unwrap().run(&mut steps).unwrap();
    steps.reports
}

/// Trained weights of the newest checkpoint, by module path.
pub fn weights(output: &Path) -> BTreeMap<String, Vec<f32>> {
    let folder = checkpoint::newest(output).expect("a checkpoint");
    let bytes = std::fs::read(folder.join("weights.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let values = |bytes: &[u8]| {
        bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<_>>()
    };
    tensors.iter().map(|(name, view)| (name.to_owned(), values(view.data()))).collect()
}

/// All parameters of a model, by module path.
pub fn all_values(model: &Qwen3VlModel) -> BTreeMap<String, Vec<f32>> {
    struct Values(Vec<Vec<f32>>);
    impl ModuleVisitor for Values {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let values = param.val().inner().into_data().convert_dtype(DType::F32);
            self.0.push(values.try_to_vec().unwrap());
        }
    }
    let mut values = Values(Vec::new());
    model.visit(&mut values);
    parameters(model).into_iter().map(|p| p.path).zip(values.0).collect()
}

/// The request with two pictures of the fixture `name`; its last six tokens are the targets.
pub fn two_images(model: &Qwen3VlModel, name: &str) -> Batch {
    let inputs = super::two_images(model, name);
    let length = inputs.ids.len();
    let trained: Vec<bool> = (0..length).map(|at| at + 6 >= length).collect();
    Batch::new(model.pack([&inputs]).unwrap(), &trained)
}
