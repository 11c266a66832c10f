//! Attention of many query rows on tensor cores: the same tiles as [`super::super::tiles`], with the products by planes.

mod kernel;

use super::super::heads::vector_size;
use super::super::tiles::Tiles;
use super::product::{ALIGNMENT, EDGE, PLANE, QUAD, SCRATCH, pitch};
pub(in super::super) use kernel::cores_kernel;

/// Planes of a cube and keys of a block, the preferred first: more rows share the keys, and more keys the sums.
const SIZES: [[usize; 2]; 5] = [[4, 64], [4, 32], [2, 32], [2, 16], [1, 16]];

/// What is compiled into a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in super::super) struct Form {
    /// Values of a head.
    pub d: usize,
    /// Planes of a cube, each with 16 query rows.
    planes: usize,
    /// Keys of a block.
    keys: usize,
    /// Whether tensor cores multiply.
    cores: bool,
}

impl Form {
    /// Query rows of a cube.
    pub fn rows(&self) -> usize {
        self.planes * EDGE
    }

    pub fn units(&self) -> usize {
        self.planes * PLANE
    }

    /// Values between rows of queries, keys and values in shared memory: heads of 72 take 88.
    fn pitch(&self) -> usize {
        pitch(self.d)
    }

    /// Values between rows of weights.
    fn weights_pitch(&self) -> usize {
        pitch(self.keys)
    }

    /// Bytes of shared memory, of values of `size` bytes.
    fn bytes(&self, size: usize) -> usize {
        let halves =
            (self.rows() + 2 * self.keys) * self.pitch() + self.rows() * self.weights_pitch();
        let singles = self.planes * SCRATCH * QUAD + 2 * self.rows() + 1;
        size * halves + 4 * singles + 6 * ALIGNMENT
    }
}

/// How tiles are to be launched.
pub(in super::super) struct Plan {
    pub form: Form,
    /// Values of queries, keys and values that are loaded at once.
    pub vector: usize,
}

impl Plan {
    /// Nothing where the device has no tensor cores for these tensors.
    pub fn of(tiles: &Tiles<'_>) -> Option<Self> {
        let (tensor, d) = (&tiles.q.tensor, tiles.d);
        let cores = super::of(&tensor.client, tensor.dtype)?;
        let vector = vector_size(d, [tiles.q, tiles.k, tiles.v].into_iter())?;
        // Rows in shared memory begin at multiples of 8 values.
        (d.is_multiple_of(2 * QUAD) && vector <= 2 * QUAD).then_some(())?;
        let forms = SIZES.map(|[planes, keys]| Form { d, planes, keys, cores });
        let size = tensor.dtype.size();
        let hardware = &tensor.client.properties().hardware;
        let fits = |form: &&Form| {
            form.bytes(size) <= super::room(&tensor.client, forms[2].bytes(size))
                && form.units() as u32 <= hardware.max_units_per_cube
        };
        let form = *forms.iter().find(fits)?;
        Some(Self { form, vector })
    }
}
