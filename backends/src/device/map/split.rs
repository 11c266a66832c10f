//! Whose layer is it: by name, or by a share of what is left.

use super::{MapError, MapPart, OpenMap, PartSizes, SelectedDevice, layer_range};

/// Free memory of a device in bytes, where it is known.
type Free<'f> = &'f dyn Fn(&SelectedDevice) -> Option<u64>;

/// The entry that owns each layer.
pub(super) fn owners(
    map: &OpenMap,
    sizes: &PartSizes,
    free: Free<'_>,
) -> Result<Vec<usize>, MapError> {
    let named = named(map, sizes.layers.len())?;
    let open: Vec<usize> = (0..named.len()).filter(|layer| named[*layer].is_none()).collect();
    let mut listed: Vec<usize> =
        entries(map).filter(|(_, part)| part.is_none()).map(|(i, _)| i).collect();
    if map.auto {
        listed.truncate(open.len());
    }
    if listed.len() > open.len() {
        return Err(MapError::TooMany { listed: listed.len(), layers: open.len() });
    }
    let load = Load::new(map, sizes, &open);
    let shares = match (listed.is_empty(), open.first()) {
        (true, Some(first)) => return Err(MapError::Homeless { range: homeless(&open, *first) }),
        _ => shares(map, &listed, (sizes, load.total()), free),
    };
    let mut given = load.divide(&shares).into_iter();
    let mut owner = |named: Option<usize>| {
        named.unwrap_or_else(|| listed[given.next().expect("every open layer is given")])
    };
    Ok(named.into_iter().map(&mut owner).collect())
}

fn entries(map: &OpenMap) -> impl Iterator<Item = (usize, Option<MapPart>)> {
    map.entries.iter().enumerate().map(|(index, (entry, _))| (index, entry.part))
}

/// The layers without a device from `first` on, as far as they are neighbours.
fn homeless(open: &[usize], first: usize) -> String {
    let run = open.iter().zip(first..).take_while(|(layer, expected)| *layer == expected).count();
    layer_range(first, first + run - 1)
}

/// The entry that names each layer.
fn named(map: &OpenMap, layers: usize) -> Result<Vec<Option<usize>>, MapError> {
    let mut owners: Vec<Option<usize>> = vec![None; layers];
    for (index, part) in entries(map) {
        let Some(MapPart::Layers { first, last }) = part else { continue };
        let last = last.unwrap_or(layers - 1);
        if first >= layers || last >= layers {
            let range = part.map_or_else(String::new, |part| part.to_string());
            return Err(MapError::PastLast { range, layers });
        }
        for (layer, owner) in owners.iter_mut().enumerate().take(last + 1).skip(first) {
            if let Some(other) = owner.replace(index) {
                let entry = |index: usize| map.entries[index].0.to_string();
                let (first, second) = (entry(other), entry(index));
                return Err(MapError::LayerTwice { layer, first, second });
            }
        }
    }
    Ok(owners)
}

/// Of a card's free memory, what is left for keys, values and activations where it is filled with layers.
const KEPT: f64 = 0.1;

/// What each of the devices `listed` should hold of the `total` bytes that are divided, as shares of 1: by the memory that is free on
/// all of them when the parts are there that the map names. Beside cards, processors get what these have no room for.
fn shares(
    map: &OpenMap,
    listed: &[usize],
    (sizes, total): (&PartSizes, f64),
    free: Free<'_>,
) -> Vec<f64> {
    let left = |entry: &usize| {
        let device = &map.entries[*entry].1;
        let named = map.entries.iter().filter(|(_, other)| other.name == device.name);
        let named = named.filter_map(|(entry, _)| entry.part).map(|part| bytes_of(part, sizes));
        Some(free(device)?.saturating_sub(named.fold(0, u64::saturating_add)).max(1))
    };
    let known: Option<Vec<u64>> = listed.iter().map(left).collect();
    let mut weights: Vec<f64> = match known {
        Some(known) => known.into_iter().map(|bytes| bytes as f64).collect(),
        None => return vec![1.0 / listed.len() as f64; listed.len()],
    };
    let is_cpu: Vec<bool> =
        listed.iter().map(|entry| map.entries[*entry].1.kind.is_cpu()).collect();
    let sum = |weights: &[f64], cpu: bool| -> f64 {
        weights.iter().zip(&is_cpu).filter(|(_, is)| **is == cpu).map(|(bytes, _)| bytes).sum()
    };
    let (cards, host) = (sum(&weights, false) * (1.0 - KEPT), sum(&weights, true));
    if cards > 0.0 && host > 0.0 {
        let rest = (total - cards).max(0.0);
        for (bytes, is_cpu) in weights.iter_mut().zip(&is_cpu) {
            *bytes *= if *is_cpu { rest / host } else { 1.0 - KEPT };
        }
    }
    let all: f64 = weights.iter().sum();
    weights.into_iter().map(|bytes| bytes / all).collect()
}

/// What all layers may take, when devices with so much free memory have so many of them.
pub(super) fn least_room(
    shares: impl Iterator<Item = (Option<u64>, usize)> + Clone,
) -> Option<u64> {
    let all: usize = shares.clone().map(|(_, layers)| layers).sum();
    let room = |(free, layers): (Option<u64>, usize)| {
        Some((u128::from(free?) * all as u128 / layers.max(1) as u128) as u64)
    };
    shares.map(room).collect::<Option<Vec<_>>>()?.into_iter().min()
}

fn bytes_of(part: MapPart, sizes: &PartSizes) -> u64 {
    match part {
        MapPart::Vision => sizes.vision,
        MapPart::Embed => sizes.embed,
        // Of a tied model it is the embedding.
        MapPart::Head => {
            if sizes.tied {
                0
            } else {
                sizes.head
            }
        }
        MapPart::Layers { first, last } => {
            let end = last.map_or(sizes.layers.len(), |last| last + 1);
            sizes.layers.get(first..end).unwrap_or_default().iter().sum()
        }
    }
}

/// The bytes that are divided.
struct Load {
    /// Of what lies with the first layer, before it.
    before: u64,
    layers: Vec<u64>,
    /// Of what lies with the last layer, behind it.
    behind: u64,
}

impl Load {
    fn new(map: &OpenMap, sizes: &PartSizes, open: &[usize]) -> Self {
        let is_named = |part| entries(map).any(|(_, named)| named == Some(part));
        let unnamed = |part, bytes| if is_named(part) { 0 } else { bytes };
        let head = if sizes.tied { 0 } else { unnamed(MapPart::Head, sizes.head) };
        let before = unnamed(MapPart::Vision, sizes.vision)
            .saturating_add(unnamed(MapPart::Embed, sizes.embed));
        Self {
            before: if open.first() == Some(&0) { before } else { 0 },
            layers: open.iter().map(|layer| sizes.layers[*layer]).collect(),
            behind: if open.last() == Some(&(sizes.layers.len() - 1)) { head } else { 0 },
        }
    }

    fn total(&self) -> f64 {
        let layers: f64 = self.layers.iter().map(|bytes| *bytes as f64).sum();
        self.before as f64 + layers + self.behind as f64
    }

    /// The place of each layer's device in the list: that in whose share the middle of the layer lies, but so that
    /// devices follow one another and none is left out.
    fn divide(&self, shares: &[f64]) -> Vec<usize> {
        let (count, devices) = (self.layers.len(), shares.len());
        let total = self.total();
        let (mut at, mut places) = (self.before as f64, Vec::with_capacity(count));
        for (index, bytes) in self.layers.iter().enumerate() {
            let middle = at + *bytes as f64 / 2.0;
            at += *bytes as f64;
            let mut end = 0.0;
            let ends = shares.iter().take_while(|share| {
                end += **share * total;
                end <= middle
            });
            let next: usize = places.last().map_or(0, |last| last + 1);
            let least = next.saturating_sub(1).max(devices.saturating_sub(count - index));
            places.push(ends.count().clamp(least, next.min(devices - 1).max(least)));
        }
        places
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Entry, Placement};
    use super::*;
    use crate::device::{BackendKind, best};

    /// A map over the one device that every build has, by whatever name.
    fn open(map: &str) -> OpenMap {
        let device = best().unwrap();
        let entries = map.split(',').map(|entry| {
            let entry: Entry = entry.parse().unwrap();
            // Those with capital letters are cards.
            let is_card = entry.device.starts_with(|letter: char| letter.is_uppercase());
            let kind = if is_card { BackendKind::Cuda } else { BackendKind::Flex };
            let device = SelectedDevice { kind, name: entry.device.clone(), ..device.clone() };
            (entry, device)
        });
        OpenMap { entries: entries.collect(), auto: false }
    }

    fn sizes(layers: usize) -> PartSizes {
        PartSizes { layers: vec![10; layers], ..PartSizes::default() }
    }

    fn split(map: &str, sizes: &PartSizes, free: &[Option<u64>]) -> Vec<usize> {
        let letter = |name: &str| usize::from(name.to_ascii_lowercase().as_bytes()[0] - b'a');
        let free = |device: &SelectedDevice| free[letter(&device.name)];
        owners(&open(map), sizes, &free).unwrap()
    }

    fn error(map: &str, sizes: &PartSizes) -> String {
        open(map).place(sizes).unwrap_err().to_string()
    }

    #[test]
    fn layers_are_divided_by_free_memory_where_it_is_known_of_all() {
        let unknown = [None, None];
        assert_eq!(split("a,b", &sizes(4), &unknown), [0, 0, 1, 1]);
        assert_eq!(split("a,b", &sizes(4), &[Some(3), Some(1)]), [0, 0, 0, 1]);
        assert_eq!(split("a,b", &sizes(4), &[Some(3), None]), [0, 0, 1, 1]);
        // Whoever has almost nothing still gets a layer, and so does the last one.
        assert_eq!(split("a,b", &sizes(3), &[Some(1), Some(1000)]), [0, 1, 1]);
        assert_eq!(split("a,b", &sizes(3), &[Some(1000), Some(1)]), [0, 0, 1]);
        assert_eq!(split("a,b,c", &sizes(3), &[Some(1000), Some(1), Some(1)]), [0, 1, 2]);
        assert_eq!(split("a", &sizes(2), &[None]), [0, 0]);
    }

    #[test]
    fn the_fullest_device_limits_what_all_layers_hold() {
        let room = |shares: &[(Option<u64>, usize)]| least_room(shares.iter().copied());
        assert_eq!(room(&[(Some(100), 28)]), Some(100));
        assert_eq!(room(&[(Some(100), 10), (Some(50), 10)]), Some(100));
        assert_eq!(room(&[(Some(100), 1), (Some(300), 3)]), Some(400));
        assert_eq!(room(&[(Some(100), 1), (None, 3)]), None);
    }

    #[test]
    fn cards_are_filled_before_processors() {
        let free = |bytes: [u64; 3]| bytes.map(Some);
        // Nine tenths of 20 bytes reach the middle of the second layer.
        assert_eq!(split("A,b", &sizes(4), &free([20, 1000, 0])), [0, 0, 1, 1]);
        assert_eq!(split("A,b", &sizes(6), &free([45, 1000, 0])), [0, 0, 0, 0, 1, 1]);
        // What is listed has a layer all the same.
        assert_eq!(split("A,b", &sizes(4), &free([1000, 1000, 0])), [0, 0, 0, 1]);
        assert_eq!(split("a,B", &sizes(4), &free([1000, 22, 0])), [0, 0, 1, 1]);
        assert_eq!(split("A,B,c", &sizes(6), &free([22, 22, 1000])), [0, 0, 1, 1, 2, 2]);
    }

    #[test]
    fn what_lies_at_the_ends_counts() {
        let heavy = PartSizes { vision: 20, ..sizes(4) };
        assert_eq!(split("a,b", &heavy, &[None, None]), [0, 1, 1, 1]);
        assert_eq!(split("a,b,vision=b", &heavy, &[None, None]), [0, 0, 1, 1]);
        // Named parts take of what is free on their device: 60 - 20 bytes are left beside 40.
        assert_eq!(split("a,b,vision=b", &heavy, &[Some(40), Some(60)]), [0, 0, 1, 1]);
        assert_eq!(split("a,b,vision=b", &heavy, &[Some(40), Some(34)]), [0, 0, 0, 1]);
        assert_eq!(split("0=b,a,b", &sizes(5), &[Some(40), Some(20)]), [0, 1, 1, 1, 2]);
        let head = PartSizes { head: 20, ..sizes(4) };
        assert_eq!(split("a,b", &head, &[None, None]), [0, 0, 0, 1]);
        assert_eq!(split("a,b", &PartSizes { tied: true, ..head }, &[None, None]), [0, 0, 1, 1]);
    }

    #[test]
    fn named_layers_are_left_out_of_the_division() {
        assert_eq!(split("a,1-2=b", &sizes(4), &[None, None]), [0, 1, 1, 0]);
        assert_eq!(split("0=c,a,b", &sizes(5), &[None; 3]), [0, 1, 1, 2, 2]);
    }

    fn described(placement: &Placement) -> (String, Vec<(usize, usize, String)>) {
        let ends = [&placement.vision, &placement.embed, &placement.head].map(|d| d.name.clone());
        let stage = |s: &super::super::Stage| (s.layers.start, s.layers.end, s.device.name.clone());
        (ends.join(" "), placement.stages.iter().map(stage).collect())
    }

    #[test]
    fn unnamed_ends_lie_with_their_layers() {
        let (a, b) = ("a".to_owned(), "b".to_owned());
        let place = |map: &str, sizes: &PartSizes| described(&open(map).place(sizes).unwrap());
        let stages = vec![(0, 2, a), (2, 4, b)];
        assert_eq!(place("0-1=a,2-=b", &sizes(4)), ("a a b".to_owned(), stages.clone()));
        let tied = PartSizes { tied: true, ..sizes(4) };
        assert_eq!(place("0-1=a,2-3=b", &tied), ("a a a".to_owned(), stages.clone()));
        let pinned = place("vision=c,embed=b,a,b,head=a", &sizes(4));
        assert_eq!(pinned, ("c b a".to_owned(), stages));
        let twice = open("a,a").place(&sizes(2)).unwrap();
        assert_eq!((twice.stages.len(), twice.is_whole(), twice.label()), (2, false, "a".into()));
        assert!(open("a").place(&sizes(2)).unwrap().is_whole());
        assert_eq!(twice.layer(1).name, "a");
    }

    #[test]
    fn layers_that_cannot_be_placed_are_told() {
        let tied = PartSizes { tied: true, ..sizes(4) };
        for (map, sizes, words) in [
            ("0-1=a", sizes(4), ["layers 2-3", "`2-3=DEVICE`"]),
            ("0=a,2-3=a", sizes(4), ["layer 1", "`1=DEVICE`"]),
            ("vision=a,head=b", sizes(4), ["layers 0-3", "without a part"]),
            ("0-2=a,2-3=b", sizes(4), ["layer 2 twice", "`0-2=a` and in `2-3=b`"]),
            ("0-4=a", sizes(4), ["`0-4`", "from 0 to 3"]),
            ("0-3=a,4-=b", sizes(4), ["`4-`", "from 0 to 3"]),
            ("a,b,c", sizes(2), ["lists 3 devices", "2 layers"]),
            ("0-3=a,b", sizes(4), ["lists 1 devices", "0 layers"]),
            ("0-3=a,head=b", tied, ["`head=b`", "head=a"]),
        ] {
            let message = error(map, &sizes);
            assert!(words.iter().all(|word| message.contains(word)), "{map}: {message}");
        }
    }
}
