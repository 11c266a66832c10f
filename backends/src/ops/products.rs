//! How exactly matrices are multiplied.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU8, Ordering};

use burn::tensor::DType;

use crate::cpu::Tiles;
use crate::{DtypeRequest, Precision};

/// How Flex multiplies matrices of many rows, those inside attention among them. Products of few rows and everything else
/// stay in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Products {
    /// In f32.
    #[default]
    Exact,
    /// Where processors multiply tiles of bf16 (AMX, AVX-512 BF16 on AMD's), a value of f32 is taken as the sum of two numbers
    /// of bf16: exact but for 2⁻¹⁷ of it; with AMX, weights of four bits, and everywhere of eight with a point, are rounded to
    /// one. Matrices that are both held in f32, and experts that lie the other way round, are multiplied exactly, and
    /// everything is elsewhere.
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
            (DtypeRequest::Exact(DType::BF16), _) if Tiles::chosen().is_some() => Self::Rounded,
            _ => Self::Split,
        }
    }
}

/// What threads take that have chosen nothing themselves.
static PRODUCTS: AtomicU8 = AtomicU8::new(Products::Exact as u8);

thread_local! {
    static HERE: Cell<Option<Products>> = const { Cell::new(None) };
}

/// Chooses how Flex multiplies for all threads of the process on which [`choose_products`] has chosen nothing else.
pub fn set_products(products: Products) {
    PRODUCTS.store(products as u8, Ordering::Relaxed);
}

/// How operations that are called on this thread multiply.
pub fn products() -> Products {
    let all = || {
        let chosen = PRODUCTS.load(Ordering::Relaxed);
        Products::ALL.into_iter().find(|products| *products as u8 == chosen).unwrap_or_default()
    };
    HERE.get().unwrap_or_else(all)
}

/// Chooses how operations that are called on this thread multiply, until the result is dropped; `None` leaves that as it is.
/// Of several, the last is dropped first.
pub fn choose_products(products: Option<Products>) -> ChosenProducts {
    let before = HERE.get();
    HERE.set(products.or(before));
    ChosenProducts { before, thread: PhantomData }
}

/// A choice of [`choose_products`].
#[must_use = "the choice ends when this is dropped"]
#[derive(Debug)]
pub struct ChosenProducts {
    before: Option<Products>,
    thread: PhantomData<*const ()>,
}

impl Drop for ChosenProducts {
    fn drop(&mut self) {
        HERE.set(self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_of_its_thread_and_ends() {
        assert_eq!(products(), Products::Exact);
        let outer = choose_products(Some(Products::Split));
        {
            let _inner = choose_products(Some(Products::Rounded));
            let _same = choose_products(None);
            assert_eq!(products(), Products::Rounded);
            assert_eq!(std::thread::spawn(products).join().unwrap(), Products::Exact);
        }
        assert_eq!(products(), Products::Split);
        drop(outer);
        assert_eq!(products(), Products::Exact);
    }
}
