//! Floating-point operations of a pass, from the configuration alone.
//!
//! A product of `[m, k]` and `[k, n]` counts `2·m·k·n`. Attention counts its scores and its weighted sum, `4·d` per head for each
//! pair of a query and a key that it sees. Norms, rotation, softmax, activations, the embedding and DeepStack's additions are not
//! counted; they are below one in a hundred. The counts are `f64`, which is exact for every published size.

use crate::config::{MoeConfig, TextConfig, VisionConfig};

impl TextConfig {
    /// Weights that one token is multiplied by in all layers: of experts those that it goes to, and the router.
    fn weights_per_token(&self) -> f64 {
        let (hidden, layers) = (self.hidden_size as f64, self.layers);
        let query = (self.heads * self.head_dim) as f64;
        let key = (self.kv_heads * self.head_dim) as f64;
        let attention = 2.0 * hidden * (query + key);
        let dense = 3.0 * hidden * self.intermediate_size as f64;
        let of_experts = |moe: &MoeConfig| {
            let inner = (moe.experts_per_token * moe.intermediate_size) as f64;
            hidden * (moe.experts as f64 + 3.0 * inner)
        };
        let sparse = self.moe.as_ref().map_or(0.0, of_experts);
        let feed_forward = |layer| if self.is_moe_layer(layer) { sparse } else { dense };
        layers as f64 * attention + (0..layers).map(feed_forward).sum::<f64>()
    }

    /// Of the attention of all layers to `pairs` pairs of a query and a key.
    fn attention(&self, pairs: f64) -> f64 {
        4.0 * (self.layers * self.heads * self.head_dim) as f64 * pairs
    }

    /// Of the head on one row.
    fn head(&self) -> f64 {
        2.0 * self.hidden_size as f64 * self.vocab_size as f64
    }

    /// Operations of `tokens` tokens of a prompt behind `past` others and of the head on the last one.
    pub fn prefill_flops(&self, past: usize, tokens: usize) -> f64 {
        let (past, tokens) = (past as f64, tokens as f64);
        let pairs = tokens * past + tokens * (tokens + 1.0) / 2.0;
        2.0 * self.weights_per_token() * tokens + self.attention(pairs) + self.head()
    }

    /// Operations of one new token behind `past` tokens, head included.
    pub fn decode_flops(&self, past: f64) -> f64 {
        2.0 * self.weights_per_token() + self.attention(past + 1.0) + self.head()
    }
}

impl VisionConfig {
    /// Operations of the tower and its mergers on frames of so many patches each.
    pub fn flops(&self, frames: &[usize]) -> f64 {
        let (hidden, inner) = (self.hidden_size as f64, self.intermediate_size as f64);
        let patches = frames.iter().sum::<usize>() as f64;
        let pairs = frames.iter().map(|patches| (*patches as f64).powi(2)).sum::<f64>();
        let layers = self.layers as f64;
        let block = 4.0 * hidden * hidden + 2.0 * hidden * inner;
        let blocks = layers * (2.0 * patches * block + 4.0 * hidden * pairs);
        let wide = hidden * self.merge_area() as f64;
        let merger = 2.0 * wide * (wide + self.out_hidden_size as f64);
        let mergers = (1 + self.deepstack_indexes.len()) as f64;
        let tokens = patches / self.merge_area() as f64;
        2.0 * patches * self.patch_len() as f64 * hidden + blocks + mergers * tokens * merger
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Qwen3VlConfig;

    fn config(json: &str) -> Qwen3VlConfig {
        Qwen3VlConfig::from_json(json).unwrap()
    }

    fn two_billion() -> Qwen3VlConfig {
        config(
            r#"{"model_type":"qwen3_vl","tie_word_embeddings":true,
              "text_config":{"hidden_size":2048,"num_attention_heads":16,"num_key_value_heads":8,
                "num_hidden_layers":28,"intermediate_size":6144},
              "vision_config":{"depth":24,"hidden_size":1024,"intermediate_size":4096,"num_heads":16,
                "out_hidden_size":2048,"deepstack_visual_indexes":[5,11,17]}}"#,
        )
    }

    /// Qwen3-VL-2B: 50,331,648 weights in each of 28 layers, 16 heads of 128 values.
    #[test]
    fn text_counts_are_those_of_a_hand() {
        let text = two_billion().text;
        let layer = 2 * 2048 * 2048 + 2 * 2048 * 1024 + 3 * 2048 * 6144;
        assert_eq!(layer, 50_331_648);
        let (linear, head) = (2 * 28 * layer as u64, 2 * 2048 * 151_936);
        let attention = 4 * 28 * 16 * 128;
        assert_eq!(text.prefill_flops(0, 1), (linear + attention + head) as f64);
        let pairs = 512 * 513 / 2;
        assert_eq!(text.prefill_flops(0, 512), (512 * linear + pairs * attention + head) as f64);
        assert_eq!(text.prefill_flops(0, 512), 1_473_854_832_640.0);
        assert_eq!(text.decode_flops(100.0), (linear + 101 * attention + head) as f64);
        // In two parts there is one head more.
        let parts = text.prefill_flops(0, 200) + text.prefill_flops(200, 312);
        assert_eq!(parts - text.head(), text.prefill_flops(0, 512));
        assert_eq!(text.decode_flops(0.0), text.prefill_flops(0, 1));
    }

    /// 1280 x 960 pixels are 4,800 patches of 1,536 values and 1,200 tokens; four mergers.
    #[test]
    fn vision_counts_are_those_of_a_hand() {
        let vision = two_billion().vision;
        let (patches, tokens) = (4800u64, 1200u64);
        let block = 4 * 1024 * 1024 + 2 * 1024 * 4096;
        let linear = 2 * patches * (1536 * 1024 + 24 * block);
        let attention = 24 * 4 * 1024 * patches * patches;
        let mergers = 4 * tokens * 2 * (4096 * 4096 + 4096 * 2048);
        let hand = (linear + attention + mergers) as f64;
        assert_eq!(vision.flops(&[4800]), hand);
        assert!((5.2e12..5.6e12).contains(&hand), "{hand}");
        // Frames attend to themselves alone.
        assert_eq!(vision.flops(&[2400, 2400]), hand - (attention / 2) as f64);
    }

    /// Of 128 experts eight count, and the router's 128 rows.
    #[test]
    fn experts_count_where_a_token_goes() {
        let text = config(
            r#"{"model_type":"qwen3_vl_moe","text_config":{"hidden_size":2048,"num_attention_heads":32,
                "num_key_value_heads":4,"head_dim":128,"num_hidden_layers":48,"num_experts":128,
                "num_experts_per_tok":8,"moe_intermediate_size":768},
              "vision_config":{"out_hidden_size":2048}}"#,
        )
        .text;
        let layer = 2 * 2048 * (4096 + 512) + 2048 * 128 + 3 * 8 * 2048 * 768;
        let hand = 2 * 48 * layer as u64 + 4 * 48 * 32 * 128 + 2 * 2048 * 151_936;
        // In two parts there is one head more.
        let parts = text.prefill_flops(0, 200) + text.prefill_flops(200, 312);
        assert_eq!(parts - text.head(), text.prefill_flops(0, 512));
        assert_eq!(text.decode_flops(0.0), hand as f64);
    }
}
