//! What a step reads.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Int, Tensor};

use crate::model::Qwen3VlModel;

impl Qwen3VlModel {
    /// Bytes of weights that the step of one new token reads: all text layers, of experts the share that a token goes to,
    /// and the head. Its row of the embedding and the cache come on top.
    pub fn bytes_per_token(&self) -> u64 {
        let mut traffic = Traffic { path: Vec::new(), layers: 0, experts: 0, tables: [0; 2] };
        self.visit(&mut traffic);
        let [embedding, head] = traffic.tables;
        let moe = self.config().text.moe.as_ref();
        let share = moe.map_or(0, |moe| {
            traffic.experts * moe.experts_per_token as u64 / moe.experts.max(1) as u64
        });
        traffic.layers + share + if self.lm_head.is_some() { head } else { embedding }
    }
}

/// Bytes by place.
struct Traffic {
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
        self.add(param.lazy_shape().num_elements() * param.val().dtype().size());
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
