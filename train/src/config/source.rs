//! Where the samples of a run come from.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::one;
use crate::data::{ColumnMap, Think, TrainOn};
use crate::synth::{Bounds, Channel, Mixture, Questions, SynthOptions, TypefaceError, Typefaces};

/// Where samples come from: a data file, or scenes drawn as they are needed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// JSON list or JSONL. A path that ends in `%50` takes half of the rows.
    pub path: Option<PathBuf>,
    /// Draws rows instead of reading a file.
    pub synth: Option<Drawing>,
    /// Folder of media; by default that of the file.
    pub root: Option<PathBuf>,
    pub channel: Option<String>,
    /// Share of the rows that each pass takes.
    #[serde(default = "one")]
    pub sample: f64,
    /// How often each row of it is taken, beside other sources.
    #[serde(default = "one")]
    pub weight: f64,
    /// A pass takes all rows of the sources of a lower stage first: easy ones before hard ones (Bengio et al. 2009, curriculum
    /// learning).
    #[serde(default)]
    pub stage: u32,
    pub columns: Option<ColumnMap>,
    #[serde(default)]
    pub train_on: TrainOn,
    #[serde(default = "keep")]
    pub think: Think,
    /// Refuses answers whose `bbox_2d` or `point_2d` cannot be meant; `false` is for answers that use these names otherwise.
    #[serde(default = "yes")]
    pub check_boxes: bool,
}

/// Rows that are drawn as they are needed, see [`crate::synth`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drawing {
    /// Different rows.
    pub rows: u64,
    /// Rows of different seeds have nothing in common.
    pub seed: u64,
    #[serde(default)]
    pub mixture: DrawingMixture,
    /// Questions of one channel per row, of these channels in turn; where none is named, conversations on subjects of the mixture.
    #[serde(default)]
    pub channels: Vec<Channel>,
    /// Questions per row of `channels`, by default 1.
    pub questions: Option<usize>,
    /// Asks `channels` on small pictures with up to `objects` rows and columns of objects.
    #[serde(default)]
    pub crowded: bool,
    /// Most objects of a scene; by default 4.
    pub objects: Option<usize>,
    /// Longest side of scenes and strings in pixels; by default 320.
    pub side: Option<u32>,
    /// Most characters of a printed string; by default 8.
    pub letters: Option<usize>,
    /// Half of the characters of strings are those that are taken for each other, such as `O` and `0`.
    #[serde(default)]
    pub alike: bool,
    /// Objects of films go left or right or stay, and neither up nor down.
    #[serde(default)]
    pub sideways: bool,
    /// Font files (.ttf, .otf) and folders of them, in which two thirds of all strings are written; the others, and without
    /// this all, are in typefaces that are built in.
    #[serde(default)]
    pub typefaces: Vec<PathBuf>,
}

impl Drawing {
    /// Bounds that are not given are those of the full task.
    fn bounds(&self) -> Bounds {
        let whole = Bounds::default();
        Bounds {
            objects: self.objects.unwrap_or(whole.objects),
            side: self.side.unwrap_or(whole.side),
            letters: self.letters.unwrap_or(whole.letters),
            crowded: self.crowded,
            alike: self.alike,
            sideways: self.sideways,
            typefaces: Typefaces::default(),
        }
    }

    /// The field that is out of range, its value, and what it must be.
    fn refused(&self) -> Option<(&'static str, String, &'static str)> {
        let Bounds { objects, side, letters, .. } = self.bounds();
        if let Some(each) = self.questions
            && (self.channels.is_empty() || !(1..=20).contains(&each))
        {
            let expected = "it is 1 to 20, beside `channels`";
            return Some(("questions", each.to_string(), expected));
        }
        if let Some((name, value)) = self.mixture.refused() {
            return Some((
                name,
                value.to_string(),
                "a share of a mixture is 0 or a number above 0",
            ));
        }
        if !(1..=4).contains(&objects) {
            return Some(("objects", objects.to_string(), "a scene has 1 to 4 objects"));
        }
        if !(1..=8).contains(&letters) {
            return Some(("letters", letters.to_string(), "a string has 1 to 8 characters"));
        }
        let expected = "pictures are 100 to 320 pixels long";
        (!(100..=320).contains(&side)).then(|| ("side", side.to_string(), expected))
    }
}

impl TryFrom<&Drawing> for SynthOptions {
    type Error = TypefaceError;

    /// Reads the typefaces.
    fn try_from(drawing: &Drawing) -> Result<Self, TypefaceError> {
        let Drawing { rows, seed, mixture, channels, questions, .. } = drawing;
        let questions = match channels.is_empty() {
            true => Questions::Conversations,
            false => Questions::Of { channels: channels.clone(), each: questions.unwrap_or(1) },
        };
        let typefaces = Typefaces::of(&drawing.typefaces)?;
        let bounds = Bounds { typefaces, ..drawing.bounds() };
        let mixture = Mixture { bounds, ..(*mixture).into() };
        Ok(Self { rows: *rows, seed: *seed, mixture, questions })
    }
}

/// How often each kind of subject is drawn, relative to the others (see [`Mixture`]).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DrawingMixture {
    pub scenes: f64,
    pub strings: f64,
    pub pairs: f64,
    pub films: f64,
    pub boards: f64,
    pub pages: f64,
    pub boxes: f64,
}

impl Default for DrawingMixture {
    fn default() -> Self {
        let Mixture { scenes, strings, pairs, films, boards, pages, boxes, bounds: _ } =
            Mixture::default();
        Self { scenes, strings, pairs, films, boards, pages, boxes }
    }
}

impl DrawingMixture {
    /// The share that is no share.
    fn refused(&self) -> Option<(&'static str, f64)> {
        let Self { scenes, strings, pairs, films, boards, pages, boxes } = *self;
        let shares = [
            ("mixture.scenes", scenes),
            ("mixture.strings", strings),
            ("mixture.pairs", pairs),
            ("mixture.films", films),
            ("mixture.boards", boards),
            ("mixture.pages", pages),
            ("mixture.boxes", boxes),
        ];
        shares.into_iter().find(|(_, share)| !(*share >= 0.0 && share.is_finite()))
    }
}

impl From<DrawingMixture> for Mixture {
    fn from(table: DrawingMixture) -> Self {
        let DrawingMixture { scenes, strings, pairs, films, boards, pages, boxes } = table;
        Self { scenes, strings, pairs, films, boards, pages, boxes, bounds: Bounds::default() }
    }
}

impl Source {
    /// The field that is out of range, its value, and what it must be.
    pub(super) fn refused(&self) -> Option<(String, String, &'static str)> {
        if let Some((name, value, expected)) = self.synth.as_ref().and_then(Drawing::refused) {
            return Some((format!(".synth.{name}"), value, expected));
        }
        if self.path.is_some() == self.synth.is_some() {
            return Some((String::new(), "ambiguous".into(), "give either `path` or `synth`"));
        }
        let path = self.path.as_ref().map(|path| path.to_string_lossy().into_owned());
        if let Some((_, share)) = path.as_deref().and_then(share_of)
            && !(share > 0.0 && share <= 100.0)
        {
            let expected =
                "the share after % lies above 0 and goes up to 100, such as `data.jsonl%50`";
            return Some((".path".into(), format!("{:?}", path.unwrap_or_default()), expected));
        }
        if !(self.sample > 0.0 && self.sample <= 1.0) {
            let expected = "a share lies above 0 and goes up to 1";
            return Some((".sample".into(), self.sample.to_string(), expected));
        }
        let weight = !(self.weight > 0.0 && self.weight.is_finite());
        weight.then(|| (".weight".into(), self.weight.to_string(), super::check::POSITIVE))
    }

    /// Splits `%50` off the path, and makes paths relative to `folder`.
    pub(super) fn resolve(&mut self, folder: &Path) {
        if let Some(path) = &self.path {
            let text = path.to_string_lossy().into_owned();
            let path = match share_of(&text) {
                Some((path, share)) => {
                    self.sample *= share / 100.0;
                    PathBuf::from(path)
                }
                None => path.clone(),
            };
            self.path = Some(folder.join(path));
        }
        self.root = self.root.as_ref().map(|root| folder.join(root));
        for path in self.synth.iter_mut().flat_map(|drawing| &mut drawing.typefaces) {
            *path = folder.join(&path);
        }
    }
}

/// The path before `%` and the number behind it, of a path that ends in such a share.
fn share_of(text: &str) -> Option<(&str, f64)> {
    let (path, share) = text.rsplit_once('%')?;
    Some((path, share.parse().ok()?))
}

fn keep() -> Think {
    Think::Keep
}

fn yes() -> bool {
    true
}
