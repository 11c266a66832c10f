//! Products of tiles of 16 by 16 in shared memory, a row of units at each.

use burn_cubecl::cubecl;
use cubecl::cmma::{self, Matrix, MatrixIdent, MatrixLayout};
use cubecl::prelude::*;

/// Rows, columns and depth of a tile.
pub(in super::super) const EDGE: usize = 16;

/// Units that multiply tiles together.
pub(in super::super) const PLANE: usize = 32;

/// Values of a vector in f32.
pub(in super::super) const QUAD: usize = 4;

/// Vectors of a row of a tile that a unit takes.
pub(in super::super) const PARTS: usize = 2;

/// Most neighbouring tiles that are in a plane's scratch at one time.
pub(in super::super) const STRIP: usize = 2;

/// Vectors between rows of scratch, so that neighbouring rows lie in different banks.
const SCRATCH_PITCH: usize = STRIP * EDGE / QUAD + 2;

/// Vectors of a plane's scratch.
pub(in super::super) const SCRATCH: usize = EDGE * SCRATCH_PITCH;

/// Where tiles begin, in bytes.
pub(in super::super) const ALIGNMENT: usize = 32;

/// Values between rows of `width` values in shared memory: whole tiles, and 16 bytes more, so that neighbouring rows lie in
/// different banks.
pub(in super::super) fn pitch(width: usize) -> usize {
    width.next_multiple_of(EDGE) + EDGE / 2
}

/// How many tiles a plane multiplies, and how their factors lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in super::super) struct Layout {
    pub rows: usize,
    pub columns: usize,
    /// Values between rows of the left and the right factor.
    pub left: usize,
    pub right: usize,
    /// Whether rows of the right factor are columns of the product, else they are its depth.
    pub turned: bool,
}

/// Sums of a plane's tiles.
#[derive(CubeType)]
pub(in super::super) struct Sums {
    tiles: Sequence<Matrix<f32>>,
    /// The plain body's: of each tile, this unit's two vectors.
    plain: Array<Vector<f32, Const<4>>>,
    #[cube(comptime)]
    cores: bool,
}

/// The plane of this unit.
#[cube]
pub(in super::super) fn plane() -> usize {
    UNIT_POS as usize / PLANE
}

/// The row of a tile that this unit shares with a neighbour.
#[cube]
pub(in super::super) fn row() -> usize {
    UNIT_POS as usize % PLANE / 2
}

/// Which of both it is; it takes vectors `half` and `half + 2` of the row.
#[cube]
pub(in super::super) fn half() -> usize {
    UNIT_POS as usize % 2
}

/// Sums of which nothing is summed yet.
#[cube]
pub(in super::super) fn nothing(#[comptime] count: usize, #[comptime] cores: bool) -> Sums {
    let mut tiles = Sequence::<Matrix<f32>>::new();
    let vectors = comptime!(if cores { 1 } else { count * PARTS });
    let mut plain = Array::<Vector<f32, Const<4>>>::new(vectors);
    if comptime!(cores) {
        #[unroll]
        for _ in 0..count {
            tiles.push(Matrix::<f32>::from_value(
                MatrixIdent::Accumulator,
                EDGE,
                EDGE,
                EDGE,
                MatrixLayout::Undefined,
                0.0f32,
            ));
        }
    } else {
        #[unroll]
        for i in 0..vectors {
            plain[i] = Vector::new(0.0f32);
        }
    }
    Sums { tiles, plain, cores }
}

/// Adds products of depth 16; the first tile of the left factor begins at `left_at`, that of the right one at `right_at`.
#[cube]
pub(in super::super) fn add<F: Float, A: Size, B: Size>(
    sums: &mut Sums,
    left: &Shared<[Vector<F, A>]>,
    left_at: usize,
    right: &Shared<[Vector<F, B>]>,
    right_at: usize,
    #[comptime] layout: Layout,
) {
    if comptime!(sums.cores) {
        add_by_cores::<F, A, B>(&sums.tiles, left, left_at, right, right_at, layout);
    } else {
        add_plainly::<F, A, B>(&mut sums.plain, left, left_at, right, right_at, layout);
    }
}

#[cube]
fn add_by_cores<F: Float, A: Size, B: Size>(
    tiles: &Sequence<Matrix<f32>>,
    left: &Shared<[Vector<F, A>]>,
    left_at: usize,
    right: &Shared<[Vector<F, B>]>,
    right_at: usize,
    #[comptime] layout: Layout,
) {
    let left_size = A::value().comptime();
    let right_size = B::value().comptime();
    let mut columns = Sequence::<Matrix<Vector<F, B>>>::new();
    #[unroll]
    for column in 0..layout.columns {
        let step = comptime!(if layout.turned { EDGE * layout.right } else { EDGE });
        let at = (right_at + comptime!(column * step)) / right_size;
        columns.push(Matrix::<Vector<F, B>>::from_slice(
            MatrixIdent::B,
            EDGE,
            EDGE,
            EDGE,
            comptime!(if layout.turned { MatrixLayout::ColMajor } else { MatrixLayout::RowMajor }),
            &right[at..right.len()],
            comptime!(layout.right as u32),
        ));
    }
    #[unroll]
    for row in 0..layout.rows {
        let at = (left_at + comptime!(row * EDGE * layout.left)) / left_size;
        let rows = Matrix::<Vector<F, A>>::from_slice(
            MatrixIdent::A,
            EDGE,
            EDGE,
            EDGE,
            MatrixLayout::RowMajor,
            &left[at..left.len()],
            comptime!(layout.left as u32),
        );
        #[unroll]
        for column in 0..layout.columns {
            let sum = &tiles[comptime!(row * layout.columns + column)];
            cmma::execute(&rows, &columns[column], sum, sum);
        }
    }
}

/// For tests: a unit sums two vectors of each tile.
#[cube]
fn add_plainly<F: Float, A: Size, B: Size>(
    sums: &mut Array<Vector<f32, Const<4>>>,
    left: &Shared<[Vector<F, A>]>,
    left_at: usize,
    right: &Shared<[Vector<F, B>]>,
    right_at: usize,
    #[comptime] layout: Layout,
) {
    #[unroll]
    for i in 0..comptime!(layout.rows * layout.columns * PARTS) {
        let tile = comptime!(i / PARTS);
        let first_row = comptime!(tile / layout.columns * EDGE);
        let first_column = comptime!(tile % layout.columns * EDGE + i % PARTS * 2 * QUAD);
        for depth in 0..EDGE {
            let at = left_at + (first_row + row()) * layout.left + depth;
            let factor = value::<F, A>(left, at);
            let mut others = Vector::<f32, Const<4>>::new(0.0f32);
            #[unroll]
            for j in 0..QUAD {
                let column = first_column + half() * QUAD + j;
                let mut at = right_at + depth * layout.right + column;
                if comptime!(layout.turned) {
                    at = right_at + column * layout.right + depth;
                }
                others.insert(j, value::<F, B>(right, at));
            }
            sums[i] += others * Vector::new(factor);
        }
    }
}

#[cube]
fn value<F: Float, N: Size>(from: &Shared<[Vector<F, N>]>, at: usize) -> f32 {
    let size = N::value().comptime();
    f32::cast_from(from[at / size].extract_dynamic(at % size))
}

/// Puts `count` neighbouring tiles into the plane's scratch, from which [`taken`] takes them.
#[cube]
pub(in super::super) fn put(
    sums: &Sums,
    scratch: &mut Shared<[Vector<f32, Const<4>>]>,
    #[comptime] first: usize,
    #[comptime] count: usize,
) {
    // What was there before has been taken by all.
    sync_plane();
    #[unroll]
    for tile in 0..count {
        let at = plane() * SCRATCH + comptime!(tile * EDGE / QUAD);
        if comptime!(sums.cores) {
            let end = scratch.len();
            cmma::store(
                &mut scratch[at..end],
                &sums.tiles[comptime!(first + tile)],
                comptime!((SCRATCH_PITCH * QUAD) as u32),
                MatrixLayout::RowMajor,
            );
        } else {
            #[unroll]
            for part in 0..PARTS {
                let place = at + row() * SCRATCH_PITCH + half() + comptime!(part * 2);
                scratch[place] = sums.plain[comptime!((first + tile) * PARTS + part)];
            }
        }
    }
    sync_plane();
}

/// One of this unit's two vectors of a tile in scratch.
#[cube]
pub(in super::super) fn taken(
    scratch: &Shared<[Vector<f32, Const<4>>]>,
    #[comptime] tile: usize,
    #[comptime] part: usize,
) -> Vector<f32, Const<4>> {
    let at = plane() * SCRATCH + row() * SCRATCH_PITCH + half();
    scratch[at + comptime!(tile * EDGE / QUAD + part * 2)]
}
