//! `quantization_config`: how the weights of a checkpoint are rounded.

use qwen3_vl_backends::quant::{QuantError, QuantScheme};
use serde::Deserialize;
use serde_json::{Value, json};

use super::ConfigError;

/// What `qwen3-vl quantize` writes into `config.json`. Linear weights that are rounded hold their codes under their own
/// names, and their scales under `NAME_scale`; which they are follows from their dtypes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantisation {
    pub scheme: QuantScheme,
}

/// Absent keys stay `None`.
#[derive(Deserialize)]
struct Raw {
    quant_method: Option<String>,
    version: Option<u64>,
    bits: Option<u64>,
    group_size: Option<u64>,
}

impl Quantisation {
    /// The name under `quant_method`.
    pub const METHOD: &'static str = "qwen3-vl";
    /// The version of the format, which grows when older programs can no longer read it.
    pub const VERSION: u64 = 1;
    /// What is added to the name of a weight for that of its scales.
    pub const SCALE: &'static str = "_scale";

    /// The value of `quantization_config`.
    pub fn to_json(self) -> Value {
        json!({
            "quant_method": Self::METHOD,
            "version": Self::VERSION,
            "bits": self.scheme.bits(),
            "group_size": self.scheme.group(),
        })
    }

    pub(super) fn from_raw(value: Option<&Value>) -> Result<Option<Self>, ConfigError> {
        let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(None) };
        let raw = Raw::deserialize(value)?;
        if raw.quant_method.as_deref() != Some(Self::METHOD) {
            return Err(ConfigError::Invalid {
                field: "quantization_config",
                value: value.get("quant_method").unwrap_or(value).to_string(),
                rule: "only what `qwen3-vl quantize` wrote can be read; give it the bf16 original"
                    .into(),
            });
        }
        let needed = |field, value: Option<u64>| value.ok_or(ConfigError::Missing { field });
        let version = needed("quantization_config.version", raw.version)?;
        if version != Self::VERSION {
            let rule = format!(
                "this program reads version {}; a newer program wrote the checkpoint",
                Self::VERSION
            );
            return Err(ConfigError::invalid("quantization_config.version", version, rule));
        }
        let bits = needed("quantization_config.bits", raw.bits)?;
        let group = needed("quantization_config.group_size", raw.group_size)?;
        match QuantScheme::new(bits, group) {
            Ok(scheme) => Ok(Some(Self { scheme })),
            Err(error @ QuantError::Bits { .. }) => {
                Err(ConfigError::invalid("quantization_config.bits", bits, error.to_string()))
            }
            Err(error) => Err(ConfigError::invalid(
                "quantization_config.group_size",
                group,
                error.to_string(),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_everything_else_is_named() {
        let written = Quantisation { scheme: "int4-g64".parse().unwrap() };
        assert_eq!(Quantisation::from_raw(Some(&written.to_json())).unwrap(), Some(written));
        assert_eq!(Quantisation::from_raw(None).unwrap(), None);
        assert_eq!(Quantisation::from_raw(Some(&Value::Null)).unwrap(), None);
        let with = |key: &str, value: Value| {
            let mut json = written.to_json();
            json[key] = value;
            Quantisation::from_raw(Some(&json)).unwrap_err().to_string()
        };
        for (key, value, expected) in [
            ("version", json!(2), "newer"),
            ("version", Value::Null, "quantization_config.version"),
            ("group_size", json!(48), "32, 64 and 128"),
            ("bits", json!(3), "quantization_config.bits"),
            ("bits", json!("four"), "four"),
            ("quant_method", json!("awq"), "awq"),
            ("quant_method", Value::Null, "bf16 original"),
        ] {
            let error = with(key, value);
            assert!(error.contains(expected), "{key}: {error}");
        }
    }
}
