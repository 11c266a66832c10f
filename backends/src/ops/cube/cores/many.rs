//! Products of many rows on tensor cores: with rounded weights, and with those of experts, all in one launch.

mod codes;
mod dense;
mod tiles;

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::tensor::CubeTensor;

use super::super::launch::{CUBES, empty, table, vector_size};
use super::super::rows::FEW_ROWS;
use super::product::{ALIGNMENT, EDGE, PLANE, QUAD, SCRATCH, pitch};
use crate::ops::Share;
pub(in super::super) use dense::{in_shares, is_plain, product, takes};

/// Planes of a cube, and its units.
const PLANES: usize = 4;
const UNITS: usize = PLANES * PLANE;

/// Outputs of a cube, and tiles of them.
const OUTPUTS: usize = 64;
const COLUMNS: usize = OUTPUTS / EDGE;

/// Tiles of rows of a plane and depth of a step, the preferred first: weights are loaded once for all rows of a cube.
const SIZES: [[usize; 2]; 4] = [[2, 64], [2, 32], [1, 64], [1, 32]];

/// Numbers that describe rows of a share: the first, the end of the share, and the number of its matrix.
pub(in super::super) const WORDS: usize = 3;

/// What is compiled into a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in super::super) struct Form {
    /// Tiles of rows of a plane.
    tiles: usize,
    /// Inputs that are in shared memory at one time.
    depth: usize,
    /// Whether tensor cores multiply.
    cores: bool,
    /// Whether shares of the rows have matrices of their own.
    shares: bool,
}

impl Form {
    /// Rows of a cube.
    pub(in super::super) fn rows(&self) -> usize {
        PLANES * self.tiles * EDGE
    }

    /// Values between rows of activations and weights in shared memory.
    fn pitch(&self) -> usize {
        pitch(self.depth)
    }

    /// Bytes of shared memory, of values of `size` bytes.
    fn bytes(&self, size: usize) -> usize {
        let halves = (self.rows() + OUTPUTS) * self.pitch();
        size * halves + 4 * PLANES * SCRATCH * QUAD + 3 * ALIGNMENT
    }

    /// For matrices that `count` rows are multiplied with; nothing where the device has no tensor cores for them.
    pub(in super::super) fn of(x: &CubeTensor, count: usize, shares: bool) -> Option<Self> {
        let cores = super::of(&x.client, x.dtype)?;
        let size = x.dtype.size();
        let forms = SIZES.map(|[tiles, depth]| Self { tiles, depth, cores, shares });
        let room = super::room(&x.client, forms[3].bytes(size));
        let units = x.client.properties().hardware.max_units_per_cube as usize;
        // Two tiles of rows for each plane would be idle where there is one.
        let busy = |form: &&Self| form.tiles == 1 || count > PLANES * EDGE;
        let found = forms.iter().filter(busy).find(|form| form.bytes(size) <= room);
        found.filter(|_| units >= UNITS).copied()
    }
}

/// What the cubes of a launch multiply.
#[derive(Clone)]
pub(in super::super) struct Work {
    form: Form,
    /// [`WORDS`] numbers for each. Where a cube's rows end at the first, it has nothing to do.
    shares: CubeTensor,
    /// How many there are for the rows.
    tiles: usize,
}

impl Work {
    /// All rows with one matrix.
    fn whole(x: &CubeTensor) -> Option<Self> {
        let count = x.shape()[0];
        let form = Form::of(x, count, false)?;
        let shares = empty(x, Shape::new([WORDS]), DType::U32);
        Some(Self { form, shares, tiles: count.div_ceil(form.rows()) })
    }

    /// Shares of the rows, each with one of `experts` matrices; nothing where rows are few.
    fn shared(x: &CubeTensor, experts: usize, shares: &[Share]) -> Option<Self> {
        let count = x.shape()[0];
        let whole = shares.iter().map(|share| share.rows).sum::<usize>() == count
            && shares.iter().all(|share| share.expert < experts);
        (whole && count > FEW_ROWS).then_some(())?;
        let form = Form::of(x, count / shares.len(), true)?;
        let (mut words, mut first) = (Vec::new(), 0);
        for share in shares {
            let end = first + share.rows;
            for row in (first..end).step_by(form.rows()) {
                words.extend([row, end, share.expert].map(|word| word as u32));
            }
            first = end;
        }
        Some(Self { form, shares: table(x, &words), tiles: words.len() / WORDS })
    }

    /// Rows that the device has sorted, as its table says, which has room for `tiles` tiles of the rows of a form.
    pub(in super::super) fn sorted(form: Form, table: &CubeTensor, tiles: usize) -> Self {
        Self { form, shares: table.clone(), tiles }
    }

    /// Cubes along both axes of a launch with `n` outputs; nothing where there are more than may be.
    fn cubes(&self, n: usize) -> Option<[u32; 2]> {
        let cubes = [self.tiles, n.div_ceil(OUTPUTS)];
        cubes.iter().all(|count| *count <= CUBES).then(|| cubes.map(|count| count as u32))
    }
}

/// Values that a unit loads at once from rows of `inputs` values: eight where tensors and rows allow it, else four.
fn vector(tensors: &[&CubeTensor], inputs: usize) -> usize {
    if vector_size(tensors, &[inputs]) == 2 * QUAD { 2 * QUAD } else { QUAD }
}

/// Values of `n` neighbouring outputs that are written at once.
fn written(n: usize) -> usize {
    if n.is_multiple_of(QUAD) { QUAD } else { 1 }
}
