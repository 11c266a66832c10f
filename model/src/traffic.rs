//! What a step reads.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Int, Tensor};
use qwen3_vl_backends::Precision;

use crate::cache::KvCache;
use crate::experts::Streamed;
use crate::model::Qwen3VlModel;

impl Qwen3VlModel {
    /// Bytes of weights that the step of one new token reads: all text layers, of experts the share that a token goes to,
    /// and the head. Its row of the embedding and the cache (see [`Self::cache_bytes_per_token`]) come on top. Nothing is
    /// allocated.
    pub fn bytes_per_token(&self) -> u64 {
        let precision = self.precision();
        let mut traffic =
            Traffic { precision, path: Vec::new(), layers: 0, experts: 0, tables: [0; 2] };
        self.visit(&mut traffic);
        let [embedding, head] = traffic.tables;
        let moe = self.config().text.moe.as_ref();
        traffic.experts += self.streamed().map(Streamed::bytes).sum::<u64>();
        let share = moe.map_or(0, |moe| {
            traffic.experts * moe.experts_per_token as u64 / moe.experts.max(1) as u64
        });
        traffic.layers + share + if self.lm_head.is_some() { head } else { embedding }
    }

    /// Bytes of a cache that such a step reads for every token before it: keys and values of all layers, as they are stored.
    pub fn cache_bytes_per_token(&self) -> u64 {
        KvCache::bytes_per_token(&self.config().text, self.precision().compute, self.cache_dtype())
    }
}

/// Bytes by place.
struct Traffic {
    precision: Precision,
    path: Vec<String>,
    layers: u64,
    experts: u64,
    tables: [u64; 2],
}

impl Traffic {
    fn add(&mut self, bytes: usize) {
        let path = self.path.join(".");
        let place = match path.as_str() {
            path if path.contains(".experts.") => &mut self.experts,
            path if path.starts_with("language_model.embed_tokens") => &mut self.tables[0],
            path if path.starts_with("language_model.") => &mut self.layers,
            path if path.starts_with("lm_head") => &mut self.tables[1],
            _ => return,
        };
        *place += bytes as u64;
    }
}

impl ModuleVisitor for Traffic {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        // A parameter that nobody has asked for yet is not made for this.
        let dtype = match param.is_initialized() {
            true => param.val().dtype(),
            false => self.precision.of_rank(D),
        };
        self.add(param.lazy_shape().num_elements() * dtype.size());
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.add(param.lazy_shape().num_elements() * param.val().dtype().size());
    }

    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Qwen3VlConfig;
    use crate::init::Init;
    use burn::tensor::DType;
    use qwen3_vl_backends::device;

    /// Qwen3-VL-2B in bf16, counted by hand. Nothing of it is allocated.
    #[test]
    fn a_step_of_the_2b_model_reads_3_44_gigabytes() {
        let config = Qwen3VlConfig::from_json(
            r#"{"model_type":"qwen3_vl","tie_word_embeddings":true,
              "text_config":{"hidden_size":2048,"num_attention_heads":16,"num_key_value_heads":8,
                "num_hidden_layers":28,"intermediate_size":6144},
              "vision_config":{"out_hidden_size":2048,"deepstack_visual_indexes":[5,11,17]}}"#,
        );
        let device = device::select(None).unwrap().device;
        let precision = Precision { weights: DType::BF16, compute: DType::F32 };
        let model = Qwen3VlModel::new(&config.unwrap(), &Init::new(&device, precision));
        let attention = 2 * 2048 * 2048 + 2 * 2048 * 1024;
        let linear = 28 * (attention + 3 * 2048 * 6144);
        let norms = 28 * (2 * 2048 + 2 * 128) + 2048;
        let head = 151_936 * 2048;
        assert_eq!(model.bytes_per_token(), 2 * linear + 4 * norms + 2 * head);
        assert_eq!(model.bytes_per_token(), 3_441_397_760);
        // Keys and values of 8 heads of 128 values in f32, in each layer.
        assert_eq!(model.cache_bytes_per_token(), 28 * 2 * 8 * 128 * 4);
    }
}
