//! How exactly matrices are multiplied.
//!
//! Besides [`Products`], kernels for few rows and for many round activations differently beside rounded weights. An answer must
//! not depend on what else is computed with it, so the caller says where rows come from, see [`choose_steps`].

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
    /// of bf16: exact but for 2⁻¹⁷ of it; rounded weights, with AMX all and elsewhere those of eight bits with a point, are rounded
    /// to one. Matrices that are both held in f32, and experts that lie the other way round, are multiplied exactly, and
    /// everything is elsewhere.
    Split,
    /// Operands are rounded to bf16 and summed in f32, as tensor cores and torch's autocast do.
    Rounded,
}

impl Products {
    pub(crate) const ALL: [Self; 3] = [Self::Exact, Self::Split, Self::Rounded];

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

/// What is chosen on a thread.
#[derive(Debug, Clone, Copy)]
struct Choices {
    products: Option<Products>,
    steps: Option<usize>,
}

thread_local! {
    static HERE: Cell<Choices> = const { Cell::new(Choices { products: None, steps: None }) };
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
    HERE.get().products.unwrap_or_else(all)
}

/// Chooses how operations that are called on this thread multiply, until the result is dropped; `None` leaves that as it is.
/// Of several choices, the last is dropped first.
pub fn choose_products(products: Option<Products>) -> Chosen {
    let before = HERE.get();
    Chosen::replacing(before, Choices { products: products.or(before.products), ..before })
}

/// Rows of products on this thread, the first ones, that are steps of answers, see [`choose_steps`].
pub fn steps() -> Option<usize> {
    HERE.get().steps
}

/// Says that of the rows of every product on this thread the first `steps` are tokens of answers, which are computed as one alone
/// would be, and that the others are of prompts and pictures, which are computed as many would be; until the result is dropped.
/// A row then gets the same whatever it is computed with, as far as Flex rounds it. With `None` the number of rows decides,
/// which is the fastest. Of several choices, the last is dropped first.
pub fn choose_steps(steps: Option<usize>) -> Chosen {
    let before = HERE.get();
    Chosen::replacing(before, Choices { steps, ..before })
}

/// A choice of [`choose_products`] or [`choose_steps`].
#[must_use = "the choice ends when this is dropped"]
#[derive(Debug)]
pub struct Chosen {
    before: Choices,
    thread: PhantomData<*const ()>,
}

impl Chosen {
    fn replacing(before: Choices, choices: Choices) -> Self {
        HERE.set(choices);
        Self { before, thread: PhantomData }
    }
}

impl Drop for Chosen {
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
            let _steps = choose_steps(Some(3));
            assert_eq!((products(), steps()), (Products::Rounded, Some(3)));
            let others = std::thread::spawn(|| (products(), steps())).join().unwrap();
            assert_eq!(others, (Products::Exact, None));
        }
        assert_eq!(steps(), None);
        assert_eq!(products(), Products::Split);
        drop(outer);
        assert_eq!(products(), Products::Exact);
    }
}
