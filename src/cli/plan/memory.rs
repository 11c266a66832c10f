//! What each device would hold.

use qwen3_vl::backends::device::{host_memory, layer_range};
use qwen3_vl::backends::{PartSizes, Placement, Precision, SelectedDevice, Stage};
use qwen3_vl::model::Qwen3VlConfig;
use qwen3_vl::model::model::VISION_CHUNK;
use qwen3_vl::model::processor::PlannedChat;
use qwen3_vl::model::session::PREFILL_CHUNK;
use serde_json::{Value, json};

use super::super::size::{bytes, table};

/// Estimated bytes, device by device.
pub struct Memory {
    /// Of every device that holds something.
    holdings: Vec<Holding>,
    /// Free memory of the host, where it is known.
    host: Option<u64>,
    /// Whether there are several devices, or several stages of one.
    is_split: bool,
}

/// What one device holds.
struct Holding {
    device: String,
    /// Whether its memory is the host's, which all such devices share.
    on_host: bool,
    /// Free memory of a card that tells it.
    own: Option<u64>,
    /// As in a device map: `vision`, `embed`, `0-13`, `head`.
    parts: Vec<String>,
    bytes: Bytes,
}

impl Holding {
    /// Whether the card has room for it, where that is known.
    fn fits(&self) -> bool {
        self.own.is_none_or(|free| self.bytes.total() <= free)
    }
}

/// Estimated bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bytes {
    pub weights: u64,
    pub cache: u64,
    /// Keys and values of steps that are recorded, beside those of the cache.
    pub recorded: u64,
    pub activations: u64,
}

/// What a request needs wherever it runs, in bytes.
pub struct Needs {
    pub sizes: PartSizes,
    /// Keys and values of all layers.
    pub cache: u64,
    /// The same, of recorded steps.
    pub recorded: u64,
    pub activations: Activations,
}

/// Bytes that are alive at the widest point of a part of the computation.
#[derive(Debug, Clone, Copy)]
pub struct Activations {
    /// What the vision tower has made for the language model.
    features: u64,
    vision: u64,
    text: u64,
}

impl Bytes {
    pub fn total(&self) -> u64 {
        let all = [self.weights, self.cache, self.recorded, self.activations];
        all.into_iter().fold(0, u64::saturating_add)
    }

    fn plus(self, other: Self) -> Self {
        Self {
            weights: self.weights.saturating_add(other.weights),
            cache: self.cache.saturating_add(other.cache),
            recorded: self.recorded.saturating_add(other.recorded),
            activations: self.activations.saturating_add(other.activations),
        }
    }
}

impl Activations {
    /// For the prompt of `chat`.
    pub fn of(config: &Qwen3VlConfig, chat: &PlannedChat, precision: Precision) -> Self {
        let frames = chat.media.iter().map(|medium| {
            let grid = medium.grid();
            (grid.t, grid.h * grid.w)
        });
        let (mut patches, mut largest) = (0, 0);
        for (count, frame) in frames {
            patches += count * frame;
            largest = largest.max(frame);
        }
        // The tower runs a bounded number of patches at a time, and the language model a bounded number of tokens.
        let at_once = patches.min(largest.max(VISION_CHUNK));
        let vision = &config.vision;
        let levels = vision.deepstack_indexes.len() + 1;
        let rows = chat.tokens().min(PREFILL_CHUNK);
        let features = (rows + at_once / vision.merge_area()) * vision.out_hidden_size * levels;
        let widest = 3 * vision.hidden_size + 2 * vision.intermediate_size;
        let vision = at_once * (widest.max(vision.patch_len()) + 3 * vision.hidden_size);
        let text = &config.text;
        let attention = (text.heads + 2 * text.kv_heads) * text.head_dim;
        let text = rows * (4 * text.hidden_size + (3 * text.intermediate_size).max(2 * attention));
        let bytes = |values: usize| (values * precision.compute.size()) as u64;
        let features = bytes(features * usize::from(patches > 0));
        Self { features, vision: bytes(vision), text: bytes(text) }
    }

    /// On a device that holds these parts: features wait beside the wider of the two towers.
    fn on(&self, vision: bool, embed: bool, layers: bool) -> u64 {
        let if_here = |here: bool, bytes: u64| if here { bytes } else { 0 };
        let widest = if_here(vision, self.vision).max(if_here(layers, self.text));
        if_here(vision || embed, self.features).saturating_add(widest)
    }
}

impl Holding {
    fn new(device: &SelectedDevice, placement: &Placement, needs: &Needs) -> Self {
        let sizes = &needs.sizes;
        let is_here = |other: &SelectedDevice| other.name == device.name;
        let end = |name: &str, holder: &SelectedDevice, bytes: u64| {
            is_here(holder).then(|| (name.to_owned(), bytes))
        };
        let stage = |stage: &Stage| {
            let layers = stage.layers.clone();
            let bytes = sizes.layers[layers.clone()].iter().sum();
            end(&layer_range(layers.start, layers.end - 1), &stage.device, bytes)
        };
        let held = [
            end("vision", &placement.vision, sizes.vision),
            end("embed", &placement.embed, sizes.embed),
        ];
        let held = held.into_iter().chain(placement.stages.iter().map(stage));
        let held = held.chain([end("head", &placement.head, sizes.head)]);
        let (parts, weights): (Vec<String>, Vec<u64>) = held.flatten().unzip();
        let here = placement.stages.iter().filter(|stage| is_here(&stage.device));
        let layers: usize = here.map(|stage| stage.layers.len()).sum();
        let [vision, embed] = [&placement.vision, &placement.embed].map(is_here);
        let bytes = Bytes {
            weights: weights.into_iter().fold(0, u64::saturating_add),
            cache: needs.cache / sizes.layers.len() as u64 * layers as u64,
            // Only where one device holds everything.
            recorded: needs.recorded,
            activations: needs.activations.on(vision, embed, layers > 0),
        };
        let on_host = device.kind.is_cpu();
        let own = (!on_host).then(|| device.memory()).flatten().map(|memory| memory.available);
        Self { device: device.name.clone(), on_host, own, parts, bytes }
    }
}

impl Memory {
    /// What each device of `placement` holds of `needs`.
    pub fn of(placement: &Placement, needs: &Needs) -> Self {
        let holding = |device: &&SelectedDevice| Holding::new(device, placement, needs);
        let holdings = placement.devices().iter().map(holding).collect();
        let host = host_memory().map(|memory| memory.available);
        Self { holdings, host, is_split: !placement.is_whole() }
    }

    /// On all devices together.
    pub fn all(&self) -> Bytes {
        self.holdings.iter().fold(Bytes::default(), |sum, held| sum.plus(held.bytes))
    }

    /// Free memory, where everything lies in the host's or on one card.
    pub fn available(&self) -> Option<u64> {
        if let [only] = &self.holdings[..] {
            return self.free(only);
        }
        self.host.filter(|_| self.holdings.iter().all(|held| held.on_host))
    }

    /// Whether what lies in the memory of the host fits it, and so on the cards that tell theirs.
    pub fn fits(&self) -> bool {
        self.fits_host() && self.crowded().is_none()
    }

    /// A card that has no room for what it would hold.
    fn crowded(&self) -> Option<&Holding> {
        self.holdings.iter().find(|held| !held.fits())
    }

    fn fits_host(&self) -> bool {
        let held = self.holdings.iter().filter(|held| held.on_host);
        let needed = held.fold(0, |sum: u64, held| sum.saturating_add(held.bytes.total()));
        self.host.is_none_or(|free| needed <= free)
    }

    fn free(&self, holding: &Holding) -> Option<u64> {
        if holding.on_host { self.host } else { holding.own }
    }

    /// Who holds what, a table.
    pub fn text(&self) -> String {
        let all = self.all();
        if !self.is_split {
            let lines = [
                ("weights", all.weights),
                ("cache", all.cache),
                ("recorded steps", all.recorded),
                ("activations, about", all.activations),
                ("in all", all.total()),
            ];
            let shown = lines.into_iter().filter(|(name, n)| *n > 0 || *name != "recorded steps");
            let rows: Vec<_> = shown.map(|(name, n)| vec![format!("  {name}"), bytes(n)]).collect();
            return table(&rows);
        }
        let head =
            ["  DEVICE", "HOLDS", "WEIGHTS", "CACHE", "ACTIVATIONS, ABOUT", "IN ALL", "FREE"];
        let row = |device: &str, parts: &str, held: Bytes, free: Option<u64>| {
            let sizes = [held.weights, held.cache, held.activations, held.total()].map(bytes);
            let ends = [format!("  {device}"), parts.to_owned()];
            let free = free.map_or("not known".to_owned(), bytes);
            ends.into_iter().chain(sizes).chain([free]).collect::<Vec<_>>()
        };
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for held in &self.holdings {
            let parts: Vec<String> = held.parts.iter().map(|part| in_words(part)).collect();
            rows.push(row(&held.device, &parts.join(", "), held.bytes, self.free(held)));
        }
        rows.push(row("in all", "", all, self.available()));
        table(&rows)
    }

    /// Whether it fits, a sentence.
    pub fn verdict(&self) -> String {
        let (host, cards): (Vec<&Holding>, Vec<_>) =
            self.holdings.iter().partition(|held| held.on_host);
        let free_on = |held: &Holding| {
            let free = held.own.map(bytes)?;
            Some(format!("{free} are free on {}", held.device))
        };
        if let Some(told) = self.crowded().and_then(free_on) {
            return format!("does not fit: only {told}\n");
        }
        let told: Vec<_> = cards.iter().filter_map(|held| free_on(held)).collect();
        let cards: Vec<_> = cards.into_iter().filter(|held| held.own.is_none()).collect();
        let names = |held: &[&Holding]| {
            held.iter().map(|held| held.device.as_str()).collect::<Vec<_>>().join(" and ")
        };
        let shared = match host.len() {
            0 | 1 => String::new(),
            _ => format!(", which {} share", names(&host)),
        };
        match (self.host.map(bytes).filter(|_| !host.is_empty()), self.fits_host()) {
            (None, _) if cards.is_empty() && host.is_empty() => {
                format!("fits: {}\n", told.join(", "))
            }
            (Some(free), false) => format!("does not fit: only {free} are free{shared}\n"),
            (Some(free), true) if cards.is_empty() => format!("fits: {free} are free{shared}\n"),
            _ => {
                let unknown = if cards.is_empty() { host } else { cards };
                format!("fits the context; the memory of {} is not known\n", names(&unknown))
            }
        }
    }

    /// Who holds what, for programs.
    pub fn devices(&self) -> Vec<Value> {
        let device = |held: &Holding| {
            json!({
                "device": held.device,
                "parts": held.parts,
                "weight_bytes": held.bytes.weights,
                "kv_cache_bytes": held.bytes.cache,
                "recorded_step_bytes": held.bytes.recorded,
                "activation_bytes": held.bytes.activations,
                "total_bytes": held.bytes.total(),
                "available_bytes": self.free(held),
                "fits": self.free(held).map(|_| match held.on_host {
                    true => self.fits_host(),
                    false => held.fits(),
                }),
            })
        };
        self.holdings.iter().map(device).collect()
    }
}

/// A part as a device map names it, for people.
fn in_words(part: &str) -> String {
    match (part.starts_with(|c: char| c.is_ascii_digit()), part.contains('-')) {
        (true, true) => format!("layers {part}"),
        (true, false) => format!("layer {part}"),
        (false, _) => part.to_owned(),
    }
}
