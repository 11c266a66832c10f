//! Keys and values where a cache holds them.

use burn::backend::Flex;
use burn::backend::flex::{FlexTensor, Layout};
use burn::tensor::{DType, Shape, bf16, f16};
use rayon::prelude::*;

use super::super::super::{KvRows, Parts};
use super::super::matmul::Matrix;
use super::super::rows_of;
use super::super::widen::{Widen, widen_all};
use super::{Sizes, attention};
use crate::cpu::Level;

/// Fewest rows that are rounded on a core.
const ROWS_PER_TASK: usize = 64;

/// Bytes of a word.
const WORD: usize = size_of::<i32>();

/// Keys or values of all heads, each head a run of rows.
#[derive(Clone, Copy)]
struct Heads<'a, W> {
    values: &'a [W],
    /// From one batch entry, and from one head, to the next.
    strides: [usize; 2],
    /// From one row to the next.
    width: usize,
    /// Of bytes, what each row is multiplied by, and the strides of these.
    scales: Option<(&'a [f32], [usize; 2])>,
}

/// Keys and values of consecutive positions, in memory of their own.
#[derive(Clone, Copy)]
pub struct Part<'a, W> {
    keys: Heads<'a, W>,
    values: Heads<'a, W>,
    pub rows: usize,
}

/// Rows of one head.
#[derive(Clone, Copy)]
pub struct Head<'a, W> {
    pub values: &'a [W],
    pub rows: usize,
    /// Values of a row, and from one row to the next.
    pub d: usize,
    stride: usize,
    /// What each row is multiplied by.
    pub scales: Option<&'a [f32]>,
}

impl<'a, W: Widen> Part<'a, W> {
    /// The first `rows` keys and values of one head, `d` wide.
    pub fn heads(
        &self,
        batch: usize,
        head: usize,
        rows: usize,
        d: usize,
    ) -> (Head<'a, W>, Head<'a, W>) {
        let of = |heads: &Heads<'a, W>| {
            let place = |strides: [usize; 2]| batch * strides[0] + head * strides[1];
            let first = place(heads.strides);
            let scales = heads.scales.map(|(all, strides)| &all[place(strides)..][..rows]);
            let values = &heads.values[first..][..rows * heads.width];
            Head { values, rows, d, stride: heads.width, scales }
        };
        (of(&self.keys), of(&self.values))
    }

    /// Values from one row to the next, the same in keys and values.
    pub fn width(&self) -> usize {
        self.keys.width
    }
}

impl<'a> Head<'a, f32> {
    /// Rows of a matrix whose columns lie one after the other.
    pub fn of(matrix: Matrix<'a>) -> Self {
        let Matrix { values, rows, columns, row_stride, .. } = matrix;
        Self { values, rows, d: columns, stride: row_stride, scales: None }
    }
}

impl<'a, W: Widen> Head<'a, W> {
    /// Some of the rows.
    pub fn part(self, start: usize, rows: usize) -> Self {
        let scales = self.scales.map(|scales| &scales[start..][..rows]);
        Self { values: &self.values[start * self.stride..], rows, scales, ..self }
    }

    /// The rows as they lie, where they are f32.
    pub fn plain(self) -> Option<Matrix<'a>> {
        let (rows, columns) = (self.rows, self.d);
        let values = W::as_f32(self.values).filter(|_| self.scales.is_none())?;
        Some(Matrix { values, rows, columns, row_stride: self.stride, column_stride: 1 })
    }

    /// Appends the rows in f32.
    pub fn append_to(self, out: &mut Vec<f32>) {
        let first = out.len();
        out.resize(first + self.rows * self.d, 0.0);
        let rows = self.values.chunks(self.stride).zip(out[first..].chunks_mut(self.d));
        for (row, (from, to)) in rows.enumerate() {
            widen_all(&from[..self.d], to);
            if let Some(scales) = self.scales {
                to.iter_mut().for_each(|value| *value *= scales[row]);
            }
        }
    }
}

/// [`crate::ops::ModelOps::attention_over_parts`]; nothing where keys or values are not all of one dtype that has a kernel.
pub fn over_parts(q: &FlexTensor, parts: &Parts<Flex>, causal: bool) -> Option<Vec<f32>> {
    over_parts_at(q, parts, causal, Level::chosen())
}

/// [`over_parts`] with the instructions of a level that the processor has.
pub(super) fn over_parts_at(
    q: &FlexTensor,
    parts: &Parts<Flex>,
    causal: bool,
    level: Level,
) -> Option<Vec<f32>> {
    let [_, heads, s, d] = q.layout().shape().dims();
    let keys: Vec<_> = parts.keys.iter().map(Held::of).collect::<Option<_>>()?;
    let values: Vec<_> = parts.values.iter().map(Held::of).collect::<Option<_>>()?;
    let (dtype, width) = keys.first().map(|held| (held.values.dtype(), held.width()))?;
    let fits = width == if dtype == DType::I8 { d.next_multiple_of(WORD) } else { d };
    let mut all = keys.iter().chain(&values);
    let alike = all.all(|held| held.values.dtype() == dtype && held.width() == width);
    if !fits || !alike || q.layout().shape().num_elements() == 0 {
        return None;
    }
    let t = keys.iter().map(Held::rows).sum();
    let groups = keys[0].values.layout().shape()[1];
    let sizes = Sizes { heads, groups, s, t, d, causal };
    let (q, held) = (q.to_contiguous(), (&keys[..], &values[..]));
    match dtype {
        DType::F32 => Some(over::<f32>(&q, held, sizes, level)),
        DType::BF16 => Some(over::<bf16>(&q, held, sizes, level)),
        DType::F16 => Some(over::<f16>(&q, held, sizes, level)),
        DType::I8 => Some(over::<i8>(&q, held, sizes, level)),
        _ => None,
    }
}

fn over<W: Stored>(
    q: &FlexTensor,
    (keys, values): (&[Held], &[Held]),
    sizes: Sizes,
    level: Level,
) -> Vec<f32> {
    let parts = keys.iter().zip(values).map(|(keys, values)| Part {
        keys: keys.heads::<W>(),
        values: values.heads::<W>(),
        rows: keys.rows(),
    });
    let parts: Vec<_> = parts.collect();
    attention(rows_of(q), &parts, sizes, level)
}

/// Words and scales of rows of `d` values, see [`KvRows::Int8`].
pub fn in_bytes(rows: &[f32], d: usize) -> (Vec<i32>, Vec<f32>) {
    let (width, count) = (d.div_ceil(WORD), rows.len() / d);
    let (mut words, mut scales) = (vec![0; count * width], vec![0.0; count]);
    let each = rows.par_chunks(d).zip(words.par_chunks_mut(width)).zip(&mut scales);
    each.with_min_len(ROWS_PER_TASK).for_each(|((row, words), scale)| {
        // What is no number makes the scale none, so that it shows.
        let top = row.iter().fold(0f32, |top, x| if top >= x.abs() { top } else { x.abs() });
        *scale = if row.iter().any(|x| x.is_nan()) { f32::NAN } else { top / 127.0 };
        let step = scale.max(f32::MIN_POSITIVE);
        for (word, four) in words.iter_mut().zip(row.chunks(WORD)) {
            let mut bytes = [0; WORD];
            for (byte, x) in bytes.iter_mut().zip(four) {
                *byte = (x / step).round_ties_even() as i8 as u8;
            }
            *word = i32::from_le_bytes(bytes);
        }
    });
    (words, scales)
}

/// What tensors hold.
trait Stored: Widen {
    /// All that the memory of a tensor of this dtype holds.
    fn of(tensor: &FlexTensor) -> &[Self];
}

macro_rules! stored {
    ($($dtype:ty),*) => {$(
        impl Stored for $dtype {
            fn of(tensor: &FlexTensor) -> &[Self] {
                tensor.storage::<Self>()
            }
        }
    )*};
}

stored!(f32, bf16, f16, i8);

/// Tensors of which the rows of each head lie one after the other.
struct Held {
    values: FlexTensor,
    scales: Option<FlexTensor>,
}

impl Held {
    fn of(rows: &KvRows<Flex>) -> Option<Self> {
        match rows {
            KvRows::Float(rows) => Some(Self { values: by_rows(rows.clone()), scales: None }),
            KvRows::Int8 { words, scales } => {
                let values = bytes_of_words(by_rows(words.clone()))?;
                let usable = scales.dtype() == DType::F32;
                usable.then(|| Self { values, scales: Some(by_rows(scales.clone())) })
            }
        }
    }

    fn rows(&self) -> usize {
        self.values.layout().shape()[2]
    }

    fn width(&self) -> usize {
        self.values.layout().shape()[3]
    }

    fn heads<W: Stored>(&self) -> Heads<'_, W> {
        let strides = |x: &FlexTensor| {
            let strides = x.layout().strides();
            [strides[0] as usize, strides[1] as usize]
        };
        let scales = self.scales.as_ref();
        let scales = scales.map(|x| (&x.storage::<f32>()[x.layout().start_offset()..], strides(x)));
        let values = &W::of(&self.values)[self.values.layout().start_offset()..];
        Heads { values, strides: strides(&self.values), width: self.width(), scales }
    }
}

/// The tensor itself where the rows of each head lie one after the other (as in a view of a cache), else a copy.
fn by_rows(x: FlexTensor) -> FlexTensor {
    let width = x.layout().shape()[3] as isize;
    let strides = x.layout().strides();
    let plain = strides[3] == 1 && strides[2] == width && strides[..2].iter().all(|s| *s >= 0);
    if plain { x } else { x.to_contiguous() }
}

/// The bytes of words of 32 bits, in the order in which [`KvRows`] has them, where the processor has the same.
fn bytes_of_words(words: FlexTensor) -> Option<FlexTensor> {
    let layout = words.layout();
    let [batch, heads, rows, width] = layout.shape().dims();
    let shape = Shape::new([batch, heads, rows, width * WORD]);
    let mut strides: Vec<isize> =
        layout.strides().iter().map(|stride| stride * WORD as isize).collect();
    strides[3] = 1;
    let layout = Layout::new(shape, strides, layout.start_offset() * WORD);
    let usable = words.dtype() == DType::I32 && cfg!(target_endian = "little");
    usable.then(|| FlexTensor::from_arc(words.data_arc(), layout, DType::I8))
}
