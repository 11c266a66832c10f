//! `quantization_config`: how the weights of a checkpoint are rounded.

use qwen3_vl_backends::quant::{QuantError, QuantScheme};
use serde::Deserialize;
use serde_json::{Value, json};

use super::ConfigError;

/// Who rounded the weights of a checkpoint, which says how they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `qwen3-vl quantize`. Linear weights that are rounded hold their codes under their own names, and their scales under
    /// `NAME_scale`; which they are follows from their dtypes.
    Own,
    /// AutoAWQ, four bits with zero points.
    Awq,
    /// compressed-tensors: `pack-quantized` of four bits, or `float-quantized`.
    CompressedTensors,
    /// FP8 weights with scales for blocks, as Qwen publishes them.
    Fp8,
    /// A GGUF file, whose tensors say themselves how they are stored.
    Gguf,
}

impl Method {
    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Own => "qwen3-vl",
            Self::Awq => "AWQ",
            Self::CompressedTensors => "compressed-tensors",
            Self::Fp8 => "FP8",
            Self::Gguf => "GGUF",
        }
    }
}

/// How linear weights are rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantisation {
    pub method: Method,
    /// The scheme of all weights of [`Method::Own`]; of other methods that of most.
    pub scheme: QuantScheme,
    /// Whether weights differ in that: then what lies beside each tells its own.
    pub mixed: bool,
}

/// Absent keys stay `None`.
#[derive(Deserialize)]
struct Raw {
    quant_method: Option<String>,
    version: Option<Value>,
    bits: Option<u64>,
    group_size: Option<i64>,
    format: Option<String>,
    fmt: Option<String>,
    weight_block_size: Option<Vec<usize>>,
    config_groups: Option<serde_json::Map<String, Value>>,
    transform_config: Option<Value>,
}

/// `weights` of a group of compressed-tensors.
#[derive(Deserialize)]
struct RawWeights {
    num_bits: Option<u64>,
    group_size: Option<i64>,
    strategy: Option<String>,
    symmetric: Option<bool>,
    actorder: Option<Value>,
}

impl Quantisation {
    /// The name under `quant_method`.
    pub const METHOD: &'static str = "qwen3-vl";
    /// The version of the format, which grows when older programs can no longer read it.
    pub const VERSION: u64 = 1;
    /// What is added to the name of a weight for that of its scales.
    pub const SCALE: &'static str = "_scale";

    /// What `qwen3-vl quantize` writes.
    pub fn own(scheme: QuantScheme) -> Self {
        Self { method: Method::Own, scheme, mixed: false }
    }

    /// The value of `quantization_config` for [`Method::Own`].
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
        let ((scheme, mixed), method) = match raw.quant_method.as_deref() {
            Some(Self::METHOD) => ((raw.own()?, false), Method::Own),
            Some("awq") => ((raw.awq()?, false), Method::Awq),
            Some("compressed-tensors") => (raw.compressed()?, Method::CompressedTensors),
            Some("fp8") => ((raw.fp8()?, false), Method::Fp8),
            _ => {
                return Err(ConfigError::Invalid {
                    field: "quantization_config",
                    value: value.get("quant_method").unwrap_or(value).to_string(),
                    rule: "only `qwen3-vl`, `awq`, `compressed-tensors` and `fp8` can be read; give it the bf16 original"
                        .into(),
                });
            }
        };
        Ok(Some(Self { method, scheme, mixed }))
    }
}

impl Raw {
    fn own(&self) -> Result<QuantScheme, ConfigError> {
        let version = self.version.as_ref().filter(|version| !version.is_null());
        let version = needed("quantization_config.version", version)?;
        if version.as_u64() != Some(Quantisation::VERSION) {
            let newer = version.as_u64().is_some_and(|found| found > Quantisation::VERSION);
            let who = if newer { "; a newer program wrote the checkpoint" } else { "" };
            let rule = format!("this program reads version {}{who}", Quantisation::VERSION);
            let (field, value) = ("quantization_config.version", version.to_string());
            return Err(ConfigError::Invalid { field, value, rule });
        }
        let bits = needed("quantization_config.bits", self.bits)?;
        checked(QuantScheme::new(bits, self.group()?), bits, self.group_size)
    }

    fn awq(&self) -> Result<QuantScheme, ConfigError> {
        let version = self.version.as_ref().and_then(Value::as_str).unwrap_or("gemm");
        if !version.eq_ignore_ascii_case("gemm") {
            let rule = "only weights in the order of version `gemm` can be read";
            return Err(ConfigError::invalid("quantization_config.version", version, rule));
        }
        let bits = needed("quantization_config.bits", self.bits)?;
        four_only(bits)?;
        checked(QuantScheme::with_minimums(bits, self.group()?), bits, self.group_size)
    }

    /// The scheme of the first group that has weights, and whether that of another one differs.
    fn compressed(&self) -> Result<(QuantScheme, bool), ConfigError> {
        let groups =
            self.config_groups.iter().flatten().filter_map(|(_, group)| group.get("weights"));
        // Of activations alone there are groups too.
        let groups = groups.filter(|weights| !weights.is_null()).map(RawWeights::deserialize);
        let groups = groups.collect::<Result<Vec<_>, _>>()?;
        let format = needed("quantization_config.format", self.format.as_deref())?;
        let turned = |transform: &&Value| {
            let groups = transform.get("config_groups").and_then(Value::as_object);
            groups.is_some_and(|groups| !groups.is_empty())
        };
        if let Some(transform) = self.transform_config.as_ref().filter(turned) {
            let rule = "weights that were turned by Hadamard or other matrices cannot be read; take a checkpoint without transforms";
            let (field, value) = ("quantization_config.transform_config", transform.to_string());
            return Err(ConfigError::Invalid { field, value, rule: rule.into() });
        }
        if format == "float-quantized" {
            return Ok((QuantScheme::FLOAT8, false));
        }
        if format != "pack-quantized" {
            let rule = "only `pack-quantized` and `float-quantized` can be read";
            return Err(ConfigError::invalid("quantization_config.format", format, rule));
        }
        let schemes = groups.iter().map(RawWeights::scheme).collect::<Result<Vec<_>, _>>()?;
        let first = needed("quantization_config.config_groups", schemes.first())?;
        Ok((*first, schemes.iter().any(|scheme| scheme != first)))
    }

    fn fp8(&self) -> Result<QuantScheme, ConfigError> {
        if let Some(format) = self.fmt.as_deref().filter(|format| *format != "e4m3") {
            let rule = "only `e4m3` can be read";
            return Err(ConfigError::invalid("quantization_config.fmt", format, rule));
        }
        match &self.weight_block_size {
            Some(sizes) if sizes[..] != [128, 128] => {
                let rule = "only blocks of 128 by 128 can be read";
                Err(ConfigError::invalid("quantization_config.weight_block_size", sizes, rule))
            }
            _ => Ok(QuantScheme::FLOAT8),
        }
    }

    /// A size that is no number of weights becomes 0, which is none either.
    fn group(&self) -> Result<u64, ConfigError> {
        let size = needed("quantization_config.group_size", self.group_size)?;
        Ok(u64::try_from(size).unwrap_or(0))
    }
}

impl RawWeights {
    /// Of weights that are packed.
    fn scheme(&self) -> Result<QuantScheme, ConfigError> {
        // With `weight`, which newer programs call `static`, groups lie in the order of columns; only their codes were found in
        // another one.
        let ordered = |order: &&Value| {
            !order.is_null() && !matches!(order.as_str(), Some("weight" | "static"))
        };
        if let Some(order) = self.actorder.as_ref().filter(ordered) {
            let rule = "only weights whose groups lie in the order of columns can be read";
            let (field, value) = ("quantization_config.actorder", order.to_string());
            return Err(ConfigError::Invalid { field, value, rule: rule.into() });
        }
        let bits = needed("quantization_config.num_bits", self.num_bits)?;
        four_only(bits)?;
        // One scale for a whole row is repeated for groups of 128.
        let whole = self.strategy.as_deref() == Some("channel");
        let size = if whole { Some(128) } else { self.group_size };
        let group = u64::try_from(needed("quantization_config.group_size", size)?).unwrap_or(0);
        let scheme = match self.symmetric {
            Some(false) => QuantScheme::with_minimums(bits, group),
            _ => QuantScheme::new(bits, group),
        };
        checked(scheme, bits, size)
    }
}

fn needed<T>(field: &'static str, value: Option<T>) -> Result<T, ConfigError> {
    value.ok_or(ConfigError::Missing { field })
}

fn four_only(bits: u64) -> Result<(), ConfigError> {
    match bits {
        4 => Ok(()),
        _ => Err(ConfigError::invalid(
            "quantization_config.bits",
            bits,
            "of this method only weights of 4 bits can be read",
        )),
    }
}

fn checked(
    scheme: Result<QuantScheme, QuantError>,
    bits: u64,
    group: Option<i64>,
) -> Result<QuantScheme, ConfigError> {
    scheme.map_err(|error| match error {
        QuantError::Bits { .. } => {
            ConfigError::invalid("quantization_config.bits", bits, error.to_string())
        }
        _ => ConfigError::invalid(
            "quantization_config.group_size",
            group.unwrap_or_default(),
            error.to_string(),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_everything_else_is_named() {
        let written = Quantisation::own("int4-g64".parse().unwrap());
        assert_eq!(Quantisation::from_raw(Some(&written.to_json())).unwrap(), Some(written));
        assert_eq!(Quantisation::from_raw(None).unwrap(), None);
        assert_eq!(Quantisation::from_raw(Some(&Value::Null)).unwrap(), None);
        let with = |key: &str, value: Value| {
            let mut json = written.to_json();
            json[key] = value;
            Quantisation::from_raw(Some(&json)).unwrap_err().to_string()
        };
        for (key, value, expected) in [
            (
                "version",
                json!(2),
                "version` is 2, but this program reads version 1; a newer program",
            ),
            ("version", Value::Null, "quantization_config.version"),
            ("group_size", json!(48), "32, 64 and 128"),
            ("bits", json!(3), "quantization_config.bits"),
            ("bits", json!("four"), "four"),
            ("quant_method", json!("gptq"), "gptq"),
            ("quant_method", Value::Null, "bf16 original"),
        ] {
            let error = with(key, value);
            assert!(error.contains(expected), "{key}: {error}");
        }
    }

    #[test]
    fn a_version_that_is_none_is_not_called_newer() {
        for (version, shown) in [(json!(0), "0"), (json!(-1), "-1"), (json!("2"), "\"2\"")] {
            let mut json = Quantisation::own("int8".parse().unwrap()).to_json();
            json["version"] = version;
            let error = Quantisation::from_raw(Some(&json)).unwrap_err().to_string();
            assert!(error.contains(shown) && error.contains("reads version 1"), "{error}");
            assert!(!error.contains("newer") && !error.contains("Number"), "{error}");
        }
    }

    #[test]
    fn other_methods_are_read_where_their_layout_is_known() {
        let read = |json: Value| Quantisation::from_raw(Some(&json)).map(Option::unwrap);
        let scheme = |json: Value| read(json).unwrap().scheme.to_string();
        let error = |json: Value| read(json).unwrap_err().to_string();
        let awq = |bits: u64, group: i64, version: &str| json!({"quant_method": "awq", "bits": bits, "group_size": group, "version": version, "zero_point": true});
        assert_eq!(scheme(awq(4, 128, "gemm")), "int4-g128 with minimums");
        assert!(error(awq(8, 128, "gemm")).contains("only weights of 4 bits"));
        assert!(error(awq(4, -1, "gemm")).contains("32, 64 and 128"));
        assert!(error(awq(4, 128, "gemv")).contains("gemv"));
        let packed = |weights: Value| {
            json!({"quant_method": "compressed-tensors", "format": "pack-quantized",
                   "config_groups": {"group_0": {"weights": weights}}})
        };
        let weights =
            json!({"num_bits": 4, "group_size": 32, "symmetric": true, "strategy": "group"});
        assert_eq!(scheme(packed(weights)), "int4-g32");
        let weights = json!({"num_bits": 4, "group_size": 64, "symmetric": false});
        assert_eq!(scheme(packed(weights)), "int4-g64 with minimums");
        let weights = json!({"num_bits": 4, "strategy": "channel", "symmetric": true});
        assert_eq!(scheme(packed(weights)), "int4-g128");
        assert!(error(packed(json!({"num_bits": 4, "group_size": 48}))).contains("48"));
        for (order, read) in [
            (Value::Null, true),
            (json!("weight"), true),
            (json!("static"), true),
            (json!("group"), false),
            (json!("dynamic"), false),
        ] {
            let json = packed(json!({"num_bits": 4, "group_size": 32, "actorder": order}));
            match (read, Quantisation::from_raw(Some(&json))) {
                (true, found) => assert_eq!(found.unwrap().unwrap().scheme.to_string(), "int4-g32"),
                (false, found) => {
                    let error = found.unwrap_err().to_string();
                    assert!(error.contains("actorder") && error.contains(&order.to_string()));
                }
            }
        }
        let mut turned = packed(json!({"num_bits": 4, "group_size": 32}));
        turned["transform_config"] = json!({"config_groups": {}});
        assert_eq!(scheme(turned.clone()), "int4-g32");
        turned["transform_config"] = json!({"config_groups": {"R1": {"type": "hadamard"}}});
        assert!(error(turned).contains("transform_config"));
        let fp8 = |block: Value| json!({"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": block});
        assert_eq!(scheme(fp8(json!([128, 128]))), "fp8-g128");
        assert_eq!(scheme(fp8(Value::Null)), "fp8-g128");
        assert!(error(fp8(json!([64, 64]))).contains("128 by 128"));
    }
}
