//! Which device holds which part of a model: `--device-map`.

mod split;

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use super::{DeviceError, SelectedDevice, is_card, open, present};

/// What a map says by itself, when it stands for every device of the best kind.
const AUTO: &str = "auto";

/// What is wrong with a device map. Every message names the entry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    #[error(
        "the device map has an empty entry; give auto, devices such as `flex,ndarray`, or parts such as `vision=flex,0-13=cuda:0,14-27=cuda:1`"
    )]
    Empty,
    #[error("the device map is `auto` beside other entries; give it alone, or name the devices")]
    Auto,
    #[error(
        "the device map names the part `{part}`, which no model has; parts are vision, embed, head, and layers such as 5, 0-13 or 14-"
    )]
    Part { part: String },
    #[error(
        "the device map gives `{part}` no device; write `{part}=DEVICE`, such as `{part}=flex`"
    )]
    NoDevice { part: String },
    #[error(
        "the device map names the layers `{first}-{last}`, whose last comes before the first; write `{last}-{first}`"
    )]
    Reversed { first: usize, last: usize },
    #[error("the device map names `{part}` twice; give it one device")]
    Twice { part: &'static str },
    #[error(
        "the device map names layer {layer} twice, in `{first}` and in `{second}`; leave it to one of them"
    )]
    LayerTwice { layer: usize, first: String, second: String },
    #[error(
        "the device map names the layers `{range}`, but the model has {layers} layers, from 0 to {}", .layers - 1
    )]
    PastLast { range: String, layers: usize },
    #[error(
        "the device map leaves {} without a device; add `{range}=DEVICE`, or a device without a part, which takes what is not named",
        layers_named(.range)
    )]
    Homeless { range: String },
    #[error(
        "the device map lists {listed} devices for the {layers} layers that it does not name; a device without a part takes a share of those, so list no more than them"
    )]
    TooMany { listed: usize, layers: usize },
    #[error(
        "the head of this checkpoint is its embedding table, which the device map puts on {embed}; leave `{entry}` out, or write `head={embed}`"
    )]
    TiedHead { entry: String, embed: String },
    #[error("the device map says `{entry}`: {source}")]
    Device { entry: String, source: Box<DeviceError> },
    #[error("a device and a device map are both given; give one of them")]
    Both,
}

fn layers_named(range: &str) -> String {
    let many = range.contains('-');
    format!("{} {range}", if many { "layers" } else { "layer" })
}

/// A device map as it was written: `auto`, devices that divide the layers, or parts with their devices, and both mixed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceMap {
    /// None for `auto`.
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// Without one, the device takes a share of the layers that nothing names.
    part: Option<MapPart>,
    device: String,
}

/// A part of a model that a map can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MapPart {
    /// Vision tower and mergers.
    Vision,
    Embed,
    /// To the last layer of the model where `last` is absent.
    Layers {
        first: usize,
        last: Option<usize>,
    },
    /// Final norm and head.
    Head,
}

impl Display for MapPart {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vision => f.write_str("vision"),
            Self::Embed => f.write_str("embed"),
            Self::Head => f.write_str("head"),
            Self::Layers { first, last: None } => write!(f, "{first}-"),
            Self::Layers { first, last: Some(last) } => f.write_str(&layer_range(*first, *last)),
        }
    }
}

/// The layers from `first` to `last` as a map names them: `5` or `0-13`.
pub fn layer_range(first: usize, last: usize) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

impl Display for Entry {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.part {
            Some(part) => write!(f, "{part}={}", self.device),
            None => f.write_str(&self.device),
        }
    }
}

impl FromStr for MapPart {
    type Err = MapError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |digits: &str| {
            digits.trim().parse().map_err(|_| MapError::Part { part: text.to_owned() })
        };
        let (first, last) = match text {
            "vision" => return Ok(Self::Vision),
            "embed" => return Ok(Self::Embed),
            "head" => return Ok(Self::Head),
            _ => match text.split_once('-') {
                None => (number(text)?, Some(number(text)?)),
                Some((first, "")) => (number(first)?, None),
                Some((first, last)) => (number(first)?, Some(number(last)?)),
            },
        };
        match last {
            Some(last) if last < first => Err(MapError::Reversed { first, last }),
            _ => Ok(Self::Layers { first, last }),
        }
    }
}

impl FromStr for Entry {
    type Err = MapError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (part, device) = match text.split_once('=') {
            None => (None, text.trim()),
            Some((part, device)) => (Some(part.trim()), device.trim()),
        };
        match part {
            Some(part) if device.is_empty() => Err(MapError::NoDevice { part: part.to_owned() }),
            None if device.is_empty() => Err(MapError::Empty),
            None if device == AUTO => Err(MapError::Auto),
            _ => Ok(Self { part: part.map(str::parse).transpose()?, device: device.to_owned() }),
        }
    }
}

impl FromStr for DeviceMap {
    type Err = MapError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim() == AUTO {
            return Ok(Self { entries: Vec::new() });
        }
        let entries: Vec<Entry> = text.split(',').map(str::parse).collect::<Result<_, _>>()?;
        for (part, name) in
            [(MapPart::Vision, "vision"), (MapPart::Embed, "embed"), (MapPart::Head, "head")]
        {
            if entries.iter().filter(|entry| entry.part == Some(part)).count() > 1 {
                return Err(MapError::Twice { part: name });
            }
        }
        Ok(Self { entries })
    }
}

impl Display for DeviceMap {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.entries.is_empty() {
            true => f.write_str(AUTO),
            false => {
                let entries: Vec<String> = self.entries.iter().map(Entry::to_string).collect();
                f.write_str(&entries.join(","))
            }
        }
    }
}

/// A map whose devices were found, one for each of its entries.
#[derive(Debug, Clone)]
pub struct OpenMap {
    entries: Vec<(Entry, SelectedDevice)>,
    /// Whether it was `auto`, which may have more devices than layers.
    auto: bool,
}

impl DeviceMap {
    /// Finds the devices.
    ///
    /// # Errors
    /// When one is not known, not compiled in or not there; the message has its entry.
    pub fn open(&self) -> Result<OpenMap, DeviceError> {
        if self.entries.is_empty() {
            let listed = |device: SelectedDevice| {
                (Entry { part: None, device: device.name.clone() }, device)
            };
            return Ok(OpenMap { entries: best()?.into_iter().map(listed).collect(), auto: true });
        }
        let opened = |entry: &Entry| match open(&entry.device) {
            Ok(device) => Ok((entry.clone(), device)),
            Err(source) => {
                let (entry, source) = (entry.to_string(), Box::new(source));
                Err(MapError::Device { entry, source }.into())
            }
        };
        let entries = self.entries.iter().map(opened).collect::<Result<_, DeviceError>>()?;
        Ok(OpenMap { entries, auto: false })
    }
}

/// All devices of the kind that is chosen when none is asked for.
fn best() -> Result<Vec<SelectedDevice>, DeviceError> {
    let first = super::best()?;
    let alike = |device: &SelectedDevice| {
        device.kind == first.kind
            && (first.kind.is_cpu() || is_card(&device.device) == is_card(&first.device))
    };
    Ok(present().into_iter().filter(alike).collect())
}

impl OpenMap {
    /// The map that puts everything on one device.
    pub fn of(device: SelectedDevice) -> Self {
        let entry = Entry { part: None, device: device.name.clone() };
        Self { entries: vec![(entry, device)], auto: false }
    }

    /// The devices, as often as they are named.
    pub fn devices(&self) -> impl Iterator<Item = &SelectedDevice> {
        self.entries.iter().map(|(_, device)| device)
    }

    /// Places the parts of a model of these sizes.
    ///
    /// Devices without a part divide the layers that nothing names, so that each holds as many bytes as it has free memory
    /// beside the others where that is known of all of them, else all as many, and at least one layer. Vision tower and
    /// embedding lie with the first layer and final norm and head with the last one, unless they are named; a head that
    /// is the embedding table lies with it.
    ///
    /// # Errors
    /// When a layer has no device or two, a range ends behind the last layer, or a tied head is torn from its table.
    pub fn place(&self, sizes: &PartSizes) -> Result<Placement, MapError> {
        let free = |device: &SelectedDevice| device.memory().map(|memory| memory.available);
        let owners = split::owners(self, sizes, &free)?;
        let device = |entry: usize| self.entries[entry].1.clone();
        let named = |part| self.entries.iter().find(|(entry, _)| entry.part == Some(part));
        let (first, last) = (owners[0], owners[owners.len() - 1]);
        let or =
            |part, owner| named(part).map_or_else(|| device(owner), |(_, found)| found.clone());
        let embed = or(MapPart::Embed, first);
        let head = match named(MapPart::Head) {
            Some((entry, head)) if sizes.tied && head.name != embed.name => {
                return Err(MapError::TiedHead { entry: entry.to_string(), embed: embed.name });
            }
            None if sizes.tied => embed.clone(),
            _ => or(MapPart::Head, last),
        };
        let stages = stages(&owners, device);
        Ok(Placement { vision: or(MapPart::Vision, first), embed, stages, head })
    }
}

/// Runs of neighbouring layers of one entry.
fn stages(owners: &[usize], device: impl Fn(usize) -> SelectedDevice) -> Vec<Stage> {
    let mut stages: Vec<Stage> = Vec::new();
    for run in owners.chunk_by(|a, b| a == b) {
        let first = stages.last().map_or(0, |stage| stage.layers.end);
        stages.push(Stage { layers: first..first + run.len(), device: device(run[0]) });
    }
    stages
}

/// Bytes of the parts of a model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartSizes {
    /// Vision tower and mergers.
    pub vision: u64,
    pub embed: u64,
    /// Of every layer of the language model, one at least.
    pub layers: Vec<u64>,
    /// Final norm and head.
    pub head: u64,
    /// Whether the head is the embedding table.
    pub tied: bool,
}

impl PartSizes {
    /// Bytes in all.
    pub fn total(&self) -> u64 {
        let ends = [self.vision, self.embed, self.head].into_iter();
        ends.chain(self.layers.iter().copied()).fold(0, u64::saturating_add)
    }
}

/// Which device holds which part of a model.
#[derive(Debug, Clone)]
pub struct Placement {
    /// Vision tower and mergers.
    pub vision: SelectedDevice,
    pub embed: SelectedDevice,
    /// All layers of the language model, in order.
    pub stages: Vec<Stage>,
    /// Final norm and head.
    pub head: SelectedDevice,
}

/// Neighbouring layers that run one after the other on one device.
#[derive(Debug, Clone)]
pub struct Stage {
    pub layers: std::ops::Range<usize>,
    pub device: SelectedDevice,
}

impl Placement {
    /// A model of `layers` layers on one device.
    pub fn whole(device: &SelectedDevice, layers: usize) -> Self {
        let [vision, embed, stage, head] = std::array::from_fn(|_| device.clone());
        Self { vision, embed, stages: vec![Stage { layers: 0..layers, device: stage }], head }
    }

    /// Whether everything runs on one device as one stage, so that nothing is ever moved.
    pub fn is_whole(&self) -> bool {
        self.stages.len() == 1 && self.devices().len() == 1
    }

    /// The devices that hold something, each once.
    pub fn devices(&self) -> Vec<&SelectedDevice> {
        let stages = self.stages.iter().map(|stage| &stage.device);
        let all = [&self.vision, &self.embed].into_iter().chain(stages).chain([&self.head]);
        let mut found: Vec<&SelectedDevice> = Vec::new();
        for device in all {
            if found.iter().all(|known| known.name != device.name) {
                found.push(device);
            }
        }
        found
    }

    /// The device of a layer.
    ///
    /// # Panics
    /// When the model has no such layer.
    pub fn layer(&self, index: usize) -> &SelectedDevice {
        let stage = self.stages.iter().find(|stage| stage.layers.contains(&index));
        &stage.expect("the stages cover all layers").device
    }

    /// `flex`, or `flex + cuda:0`.
    pub fn label(&self) -> String {
        let names: Vec<&str> = self.devices().iter().map(|device| device.name.as_str()).collect();
        names.join(" + ")
    }

    /// Whether every device is a kind of the processor.
    pub fn is_cpu(&self) -> bool {
        self.devices().iter().all(|device| device.kind.is_cpu())
    }

    /// Bytes that what all layers hold alike, such as keys and values, may take: of every device that has layers what is free there, by
    /// its share of them. All kinds of the processor share the host's memory. Nothing where it is not known of one of them.
    pub fn free_memory(&self) -> Option<u64> {
        let mut shares: Vec<(&SelectedDevice, usize)> = Vec::new();
        for Stage { layers, device } in &self.stages {
            let alike = |other: &SelectedDevice| {
                other.name == device.name || other.kind.is_cpu() && device.kind.is_cpu()
            };
            match shares.iter_mut().find(|(other, _)| alike(other)) {
                Some((_, count)) => *count += layers.len(),
                None => shares.push((device, layers.len())),
            }
        }
        let free = |device: &SelectedDevice| device.memory().map(|memory| memory.available);
        split::least_room(shares.into_iter().map(|(device, layers)| (free(device), layers)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(map: &str) -> String {
        map.parse::<DeviceMap>().unwrap_err().to_string()
    }

    #[test]
    fn maps_are_read_and_written_alike() {
        for map in
            ["auto", "flex", "flex,ndarray", "vision=flex,0-13=cuda:0,14-=cuda:1,head=cuda:1"]
        {
            assert_eq!(map.parse::<DeviceMap>().unwrap().to_string(), map);
        }
        let spaced: DeviceMap = " vision = flex , 3 = ndarray ".parse().unwrap();
        assert_eq!(spaced.to_string(), "vision=flex,3=ndarray");
        assert_eq!("0-0=flex".parse::<DeviceMap>().unwrap().to_string(), "0=flex");
    }

    #[test]
    fn what_is_no_map_is_told_by_its_entry() {
        for (map, word) in [
            ("", "empty entry"),
            ("flex,,ndarray", "empty entry"),
            ("flex,auto", "`auto` beside"),
            ("tower=flex", "`tower`"),
            ("a-3=flex", "`a-3`"),
            ("-3=flex", "`-3`"),
            ("99999999999999999999=flex", "`99999999999999999999`"),
            ("head=", "`head=DEVICE`"),
            ("=flex", "parts are vision"),
            ("5-2=flex", "write `2-5`"),
            ("vision=flex,vision=ndarray", "`vision` twice"),
        ] {
            assert!(error(map).contains(word), "{map}: {}", error(map));
        }
    }

    #[test]
    fn a_device_that_is_not_there_is_told_with_its_entry() {
        let map: DeviceMap = "0-3=tpu".parse().unwrap();
        let message = map.open().unwrap_err().to_string();
        assert!(message.contains("`0-3=tpu`") && message.contains("unknown device"), "{message}");
    }
}
