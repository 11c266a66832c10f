//! How exactly matrices are multiplied, for the whole process.

use std::sync::atomic::{AtomicU8, Ordering};

use burn::tensor::DType;

use crate::cpu;
use crate::{DtypeRequest, Precision};

/// How Flex multiplies matrices of many rows, those inside attention among them. Products of few rows and everything else
/// stay in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Products {
    /// In f32.
    #[default]
    Exact,
    /// Where processors multiply bf16 in tiles (AMX), a value of f32 is taken as the sum of two numbers of bf16: exact but for
    /// 2⁻¹⁷ of it. Matrices that are both held in f32 are multiplied exactly outside attention, and everything is elsewhere.
    Split,
    /// Operands are rounded to bf16 and summed in f32, as tensor cores and torch's autocast do.
    Rounded,
}

impl Products {
    const ALL: [Self; 3] = [Self::Exact, Self::Split, Self::Rounded];

    /// How a model in `precision` is computed: exactly where its weights are f32; rounded where bf16 was asked for by name and
    /// the processor is fast at it; else split.
    pub fn of(request: DtypeRequest, precision: Precision) -> Self {
        match (request, precision.weights) {
            (_, DType::F32) => Self::Exact,
            (DtypeRequest::Exact(DType::BF16), _) if cpu::rounding_pays() => Self::Rounded,
            _ => Self::Split,
        }
    }
}

static PRODUCTS: AtomicU8 = AtomicU8::new(Products::Exact as u8);

/// Chooses how Flex multiplies, for the whole process.
pub fn set_products(products: Products) {
    PRODUCTS.store(products as u8, Ordering::Relaxed);
}

/// What [`set_products`] chose.
pub fn products() -> Products {
    let chosen = PRODUCTS.load(Ordering::Relaxed);
    Products::ALL.into_iter().find(|products| *products as u8 == chosen).unwrap_or_default()
}
