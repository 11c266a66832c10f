//! How each part of the model is trained.

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{InitFrom, TrainConfig};
use crate::groups::{Group, Parameter};

/// How the trained layers change.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Method {
    /// In place.
    #[default]
    Full,
    /// By low-rank side paths in the groups whose training is `"lora"`.
    Lora(LoraTable),
}

/// LoRA (Hu et al. 2021) as peft has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraTable {
    pub rank: usize,
    /// Without it, twice the rank.
    pub alpha: Option<f64>,
    /// Parts of groups (`llm.attention`) and endings of module names (`q_proj`); empty for every linear layer.
    pub targets: Vec<String>,
    pub scaling: Scaling,
    /// Of the inputs of `A`. Only 0 is there; the key is known so that peft's settings can be copied.
    pub dropout: f64,
}

impl Default for LoraTable {
    fn default() -> Self {
        let targets = Vec::new();
        Self { rank: 16, alpha: None, targets, scaling: Scaling::Plain, dropout: 0.0 }
    }
}

/// What `B·A` is multiplied by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scaling {
    /// `alpha / rank`.
    #[default]
    Plain,
    /// `alpha / √rank` (rsLoRA, Kalajdzievski 2023).
    Rs,
}

impl LoraTable {
    /// Alpha, or its default.
    pub fn alpha(&self) -> f64 {
        self.alpha.unwrap_or(2.0 * self.rank as f64)
    }

    /// What `B·A` is multiplied by.
    pub fn scale(&self) -> f64 {
        match self.scaling {
            Scaling::Plain => self.alpha() / self.rank as f64,
            Scaling::Rs => self.alpha() / (self.rank as f64).sqrt(),
        }
    }

    /// The first value that is out of range: key, value, and what is expected.
    pub(super) fn refused(&self) -> Option<(&'static str, String, &'static str)> {
        if self.rank == 0 {
            return Some(("method.rank", "0".into(), "a rank is at least 1"));
        }
        let alpha = self.alpha();
        if !(alpha > 0.0 && alpha.is_finite()) {
            return Some(("method.alpha", alpha.to_string(), "it must be a number above 0"));
        }
        let expected = "it must be 0, because dropout under LoRA is not supported";
        (self.dropout != 0.0).then(|| ("method.dropout", self.dropout.to_string(), expected))
    }
}

/// How a group is trained: `true`, `false` or `"lora"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Training {
    Frozen,
    Full,
    /// Its linear layers get side paths, and everything else in it is frozen.
    Lora,
}

impl From<bool> for Training {
    fn from(trained: bool) -> Self {
        if trained { Self::Full } else { Self::Frozen }
    }
}

impl Serialize for Training {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Lora => serializer.serialize_str("lora"),
            _ => serializer.serialize_bool(*self == Self::Full),
        }
    }
}

impl<'de> Deserialize<'de> for Training {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Word;
        impl Visitor<'_> for Word {
            type Value = Training;

            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("true, false or \"lora\"")
            }

            fn visit_bool<E: Error>(self, trained: bool) -> Result<Training, E> {
                Ok(trained.into())
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Training, E> {
                match text {
                    "lora" => Ok(Training::Lora),
                    _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_any(Word)
    }
}

/// How each group is trained.
///
/// A group that is not named is frozen where another has `"lora"`; without LoRA the vision tower is frozen and the
/// rest trained, as the official recipe has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Named")]
pub struct TrainGroups {
    pub vision: Training,
    /// The merger and the DeepStack mergers.
    pub merger: Training,
    pub llm: Training,
    pub embed: Training,
    pub head: Training,
}

/// The groups that a file names.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Named {
    vision: Option<Training>,
    merger: Option<Training>,
    llm: Option<Training>,
    embed: Option<Training>,
    head: Option<Training>,
}

impl From<Named> for TrainGroups {
    fn from(named: Named) -> Self {
        let Named { vision, merger, llm, embed, head } = named;
        let lora = [vision, merger, llm, embed, head].contains(&Some(Training::Lora));
        let rest = Training::from(!lora);
        Self {
            vision: vision.unwrap_or(Training::Frozen),
            merger: merger.unwrap_or(rest),
            llm: llm.unwrap_or(rest),
            embed: embed.unwrap_or(rest),
            head: head.unwrap_or(rest),
        }
    }
}

impl Default for TrainGroups {
    fn default() -> Self {
        Named::default().into()
    }
}

impl TrainGroups {
    /// How `group` is trained.
    pub fn of(&self, group: Group) -> Training {
        match group {
            Group::Vision => self.vision,
            Group::Merger => self.merger,
            Group::Llm => self.llm,
            Group::Embed => self.embed,
            Group::Head => self.head,
        }
    }

    /// The groups that are trained in this way.
    pub fn with(&self, training: Training) -> impl Iterator<Item = Group> {
        Group::ALL.into_iter().filter(move |group| self.of(*group) == training)
    }

    /// Whether `parameter` is trained: in a group with LoRA, its side paths and nothing else.
    pub fn trains(&self, parameter: &Parameter) -> bool {
        match self.of(parameter.group) {
            Training::Frozen => false,
            Training::Full => true,
            Training::Lora => parameter.is_lora(),
        }
    }
}

impl TrainConfig {
    /// What does not fit between `method`, `train` and the rest: key, value, and what is expected.
    pub(super) fn refused_method(&self) -> Option<(&'static str, String, &'static str)> {
        let lora: Vec<Group> = self.train.with(Training::Lora).collect();
        let Method::Lora(table) = &self.method else {
            let expected = "it needs LoRA, such as `method = { kind = \"lora\", rank = 16 }`";
            return match (lora.first(), self.lr.b_ratio) {
                (Some(group), _) => Some((group.field(), "\"lora\"".into(), expected)),
                (_, Some(ratio)) => Some(("lr.b_ratio", ratio.to_string(), expected)),
                _ if self.train.with(Training::Full).next().is_none() => {
                    Some(("train", "all false".into(), "train at least one group"))
                }
                _ => None,
            };
        };
        let whole = lora.iter().find(|group| matches!(group, Group::Embed | Group::Head));
        if let Some(group) = whole {
            let expected = "it must be true or false, because LoRA is for the linear layers of vision, merger and llm";
            return Some((group.field(), "\"lora\"".into(), expected));
        }
        if lora.is_empty() {
            let expected = "LoRA needs a group, such as `train = { llm = \"lora\" }`";
            return Some(("train", "without \"lora\"".into(), expected));
        }
        if self.init == InitFrom::Random {
            let expected =
                "it must be \"checkpoint\" under LoRA, which changes a trained model a little";
            return Some(("init", "\"random\"".into(), expected));
        }
        let ratio = self.lr.b_ratio.filter(|ratio| !(*ratio > 0.0 && ratio.is_finite()));
        let positive = "it must be a number above 0";
        let ratio = ratio.map(|ratio| ("lr.b_ratio", ratio.to_string(), positive));
        table.refused().or(ratio)
    }

    /// The settings of LoRA, where the run has it.
    pub fn lora(&self) -> Option<&LoraTable> {
        match &self.method {
            Method::Lora(table) => Some(table),
            Method::Full => None,
        }
    }
}
