//! The tensors that other programs store beside a weight, looked for and checked.

use qwen3_vl_backends::quant::QuantScheme;
use safetensors::Dtype;

use super::Foreign;
use crate::checkpoint::{Checkpoint, TensorEntry};
use crate::error::LoadError;

/// The tensors beside a weight.
#[derive(Clone, Copy)]
pub(super) struct Side<'c, 'n> {
    pub checkpoint: &'c Checkpoint,
    pub name: &'n str,
    pub rows: usize,
    pub inputs: usize,
    pub scheme: QuantScheme,
}

impl<'c> Side<'c, '_> {
    fn named(&self, end: &str) -> (String, Option<&'c TensorEntry>) {
        let name = format!("{}.{end}", self.name.strip_suffix(".weight").unwrap_or(self.name));
        let entry = self.checkpoint.tensors().get(&name);
        (name, entry)
    }

    /// A tensor that must be there, with one of `dtypes` and `shape`.
    fn needed(
        &self,
        beside: (&str, &TensorEntry),
        end: &str,
        dtypes: &[Dtype],
        shape: [usize; 2],
    ) -> Result<&'c TensorEntry, LoadError> {
        let (side, entry) = self.named(end);
        let entry = entry.ok_or_else(|| lacks(self.checkpoint, beside, side.clone()))?;
        self.check((&side, entry), dtypes, &[&shape])?;
        Ok(entry)
    }

    fn check(
        &self,
        (name, entry): (&str, &TensorEntry),
        dtypes: &[Dtype],
        shapes: &[&[usize]],
    ) -> Result<(), LoadError> {
        let typed = entry.dtype().is_some_and(|dtype| dtypes.contains(&dtype));
        if typed && shapes.contains(&&entry.shape[..]) {
            return Ok(());
        }
        let kinds: Vec<String> = dtypes.iter().map(|dtype| format!("{dtype:?}")).collect();
        let Self { rows, inputs, scheme, .. } = self;
        let (kinds, shape) = (kinds.join(" or "), shapes[0]);
        Err(LoadError::Layout {
            path: self.checkpoint.file(entry).path.clone(),
            tensor: name.to_owned(),
            found: format!("{} {:?}", entry.storage, entry.shape),
            expected: format!(
                "the weight of {rows} by {inputs} values in {scheme} needs {kinds} {shape:?}"
            ),
        })
    }

    pub fn float8(&self) -> Result<Foreign<'c>, LoadError> {
        let entry = &self.checkpoint.tensors()[self.name];
        self.check((self.name, entry), &[Dtype::F8_E4M3], &[&[self.rows, self.inputs]])?;
        let (inverse, named) = (self.named("weight_scale_inv"), self.named("weight_scale"));
        let (name, scales) = if inverse.1.is_some() { inverse } else { named };
        let lacking = || format!("{}_scale_inv", self.name);
        let scales = scales.ok_or_else(|| lacks(self.checkpoint, (self.name, entry), lacking()))?;
        let blocks = [self.rows.div_ceil(128), self.inputs.div_ceil(128)];
        let shapes: [&[usize]; 5] = [&blocks, &[self.rows, 1], &[self.rows], &[1], &[]];
        self.check((&name, scales), &FLOATS, &shapes)?;
        Ok(Foreign::Float8 { scales })
    }

    /// Of all experts of a layer, whose scales are called `NAME_scale_inv` too.
    pub fn float8_stack(&self, experts: usize) -> Result<Foreign<'c>, LoadError> {
        let (name, [rows, inputs]) = (self.name, [self.rows, self.inputs]);
        let tensors = self.checkpoint.tensors();
        let entry = &tensors[name];
        let (straight, turned) = ([experts, rows, inputs], [experts, inputs, rows]);
        self.check((name, entry), &[Dtype::F8_E4M3], &[&straight, &turned])?;
        let transposed = entry.shape != straight;
        let ends = ["_scale_inv", ".weight_scale_inv", "_scale", ".weight_scale"];
        let names = ends.map(|end| format!("{name}{end}"));
        let scales = names.iter().find_map(|name| Some((name, tensors.get(name)?)));
        let (scales_name, scales) =
            scales.ok_or_else(|| lacks(self.checkpoint, (name, entry), names[0].clone()))?;
        let blocks = [rows.div_ceil(128), inputs.div_ceil(128)];
        let way = |[a, b]: [usize; 2]| if transposed { [experts, b, a] } else { [experts, a, b] };
        self.check((scales_name, scales), &FLOATS, &[&way(blocks), &way([rows, 1])])?;
        Ok(Foreign::Float8Stack { scales, transposed })
    }

    pub fn awq(&self) -> Result<Option<(&'c TensorEntry, Foreign<'c>)>, LoadError> {
        let (name, Some(codes)) = self.named("qweight") else { return Ok(None) };
        let (scheme, columns) = (self.scheme, self.rows.div_ceil(8));
        self.check((&name, codes), &[Dtype::I32], &[&[self.inputs, columns]])?;
        let (groups, beside) = (scheme.groups(self.inputs), (&name[..], codes));
        let zeros = self.needed(beside, "qzeros", &[Dtype::I32], [groups, columns])?;
        let halves = [Dtype::F16, Dtype::BF16];
        let scales = self.needed(beside, "scales", &halves, [groups, self.rows])?;
        Ok(Some((codes, Foreign::Awq { zeros, scales, scheme })))
    }

    /// The scheme that the shape of the scales tells, and whether there are zero points; that of the configuration where it tells
    /// none.
    fn own_scheme(&self) -> QuantScheme {
        let (_, Some(scales)) = self.named("weight_scale") else { return self.scheme };
        let whole = scales.shape == [self.rows, 1];
        let alike = |group: &usize| {
            scales.shape == [self.rows, self.inputs.div_ceil(*group)]
                || whole && *group == QuantScheme::GROUPS[2]
        };
        let known = [self.scheme.group()].into_iter().chain(QuantScheme::GROUPS);
        let Some(group) = known.into_iter().find(alike) else { return self.scheme };
        let scheme = match self.named("weight_zero_point").1 {
            Some(_) => QuantScheme::with_minimums(4, group as u64),
            None => QuantScheme::new(4, group as u64),
        };
        scheme.unwrap_or(self.scheme)
    }

    /// compressed-tensors. Where `mixed`, weights have schemes of their own.
    pub fn packed(&self, mixed: bool) -> Result<Option<(&'c TensorEntry, Foreign<'c>)>, LoadError> {
        let (name, Some(codes)) = self.named("weight_packed") else { return Ok(None) };
        let scheme = if mixed { self.own_scheme() } else { self.scheme };
        let side = Self { scheme, ..*self };
        side.packed_in(scheme, (name, codes)).map(Some)
    }

    fn packed_in(
        &self,
        scheme: QuantScheme,
        (name, codes): (String, &'c TensorEntry),
    ) -> Result<(&'c TensorEntry, Foreign<'c>), LoadError> {
        self.check((&name, codes), &[Dtype::I32], &[&[self.rows, self.inputs.div_ceil(8)]])?;
        let (groups, beside) = (scheme.groups(self.inputs), (&name[..], codes));
        let (side, scales) = self.named("weight_scale");
        let whole = [self.rows, 1];
        let scales = match scales.filter(|scales| scales.shape == whole && scheme.group() == 128) {
            Some(scales) => {
                self.check((&side, scales), &FLOATS, &[&whole])?;
                scales
            }
            None => self.needed(beside, "weight_scale", &FLOATS, [self.rows, groups])?,
        };
        let zeros = match scheme.has_minimums() {
            false => None,
            true => {
                // Older files have a byte for each.
                let (side, zeros) = self.named("weight_zero_point");
                match zeros.filter(|zeros| zeros.dtype() == Some(Dtype::I8)) {
                    Some(zeros) => {
                        self.check((&side, zeros), &[Dtype::I8], &[&scales.shape])?;
                        Some(zeros)
                    }
                    None => {
                        let shape = [self.rows.div_ceil(8), scales.shape[1]];
                        Some(self.needed(beside, "weight_zero_point", &[Dtype::I32], shape)?)
                    }
                }
            }
        };
        Ok((codes, Foreign::Packed { zeros, scales, scheme }))
    }
}

const FLOATS: [Dtype; 3] = [Dtype::BF16, Dtype::F16, Dtype::F32];

/// That the tensor called so has nothing called `side` beside it.
pub(super) fn lacks(
    checkpoint: &Checkpoint,
    (tensor, entry): (&str, &TensorEntry),
    side: String,
) -> LoadError {
    let path = checkpoint.file(entry).path.clone();
    LoadError::Side { path, tensor: tensor.to_owned(), side }
}
