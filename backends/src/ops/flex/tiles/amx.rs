//! Products of tiles in AMX's registers, through inline assembly: the intrinsics are not stable.

use std::arch::asm;

use super::kernel::{Terms, Tile};
use crate::ops::flex::registers::Registers;

/// As [`Kernel::multiply`](super::kernel::Kernel::multiply).
///
/// # Safety
/// The lines must hold equally many tiles, at least one, of as many terms as are said.
pub unsafe fn multiply(
    _: &Registers,
    sums: &mut [Tile; 4],
    left: [&[Tile]; 2],
    right: [&[Tile]; 2],
    terms: Terms,
    fresh: bool,
    ahead: &[Tile],
) {
    let depth = left[0].len() / terms.left;
    // Sums are in registers 0 to 3, left tiles in 4 and 5, right ones in 6 and 7.
    // `first` and `last` stand before and behind the loop.
    macro_rules! run {
        (
            first: [$($first:expr),* $(,)?],
            step: [$($step:expr),* $(,)?],
            last: [$($last:expr),* $(,)?] $(,)?
        ) => {
            asm!(
                "test {fresh:e}, {fresh:e}",
                "jz 2f",
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                "jmp 3f",
                "2:",
                "tileloadd tmm0, [{sums} + {row}]",
                "tileloadd tmm1, [{sums} + {row} + 1024]",
                "tileloadd tmm2, [{sums} + {row} + 2048]",
                "tileloadd tmm3, [{sums} + {row} + 3072]",
                "3:",
                $($first,)*
                "4:",
                $($step,)*
                "dec {depth}",
                "jnz 4b",
                "5:",
                $($last,)*
                "tilestored [{sums} + {row}], tmm0",
                "tilestored [{sums} + {row} + 1024], tmm1",
                "tilestored [{sums} + {row} + 2048], tmm2",
                "tilestored [{sums} + {row} + 3072], tmm3",
                sums = in(reg) sums.as_mut_ptr(),
                a = inout(reg) left[0].as_ptr() => _,
                aa = inout(reg) left[1].as_ptr() => _,
                b = inout(reg) right[0].as_ptr() => _,
                bb = inout(reg) right[1].as_ptr() => _,
                depth = inout(reg) depth => _,
                next = inout(reg) ahead.as_ptr() => _,
                row = in(reg) 64usize,
                fresh = in(reg) u32::from(fresh),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            )
        };
    }
    /// Four lines of the cache of what comes next.
    macro_rules! fetch {
        ($at:literal) => {
            concat!(
                "prefetcht1 [{next} + ",
                $at,
                "]\n",
                "prefetcht1 [{next} + ",
                $at,
                " + 64]\n",
                "prefetcht1 [{next} + ",
                $at,
                " + 128]\n",
                "prefetcht1 [{next} + ",
                $at,
                " + 192]",
            )
        };
    }
    /// The first left terms by the second right ones and, but for the last two tiles, by the first.
    macro_rules! both_right {
        () => {
            concat!(
                "tileloadd tmm4, [{a} + {row}]\n",
                "tileloadd tmm6, [{b} + {row} + 1024]\n",
                "tileloadd tmm7, [{bb} + {row} + 1024]\n",
                "tdpbf16ps tmm0, tmm4, tmm6\n",
                "tileloadd tmm5, [{aa} + {row}]\n",
                "tdpbf16ps tmm1, tmm4, tmm7\n",
                "tdpbf16ps tmm2, tmm5, tmm6\n",
                "tileloadd tmm6, [{b} + {row}]\n",
                "tdpbf16ps tmm3, tmm5, tmm7\n",
                "tileloadd tmm7, [{bb} + {row}]\n",
                "tdpbf16ps tmm0, tmm4, tmm6\n",
                "tdpbf16ps tmm1, tmm4, tmm7",
            )
        };
    }
    /// Bytes of a tile's terms of each operand, and of what is fetched meanwhile.
    macro_rules! advance {
        ($left:literal, $right:literal, $next:literal) => {
            concat!(
                "add {a}, ",
                $left,
                "\nadd {aa}, ",
                $left,
                "\n",
                "add {b}, ",
                $right,
                "\nadd {bb}, ",
                $right,
                "\n",
                "add {next}, ",
                $next,
            )
        };
    }
    // SAFETY: the four sums lie behind one another, and a loop of `depth` steps reads the terms of one tile of each line in
    // a step; the caller vouches for the lines, and the registers are configured as
    // tiles, as their owner shows.
    unsafe {
        match (terms.left, terms.right) {
            // The tiles of a step are loaded during that before, so that products do not wait for them. Left ones, which are used
            // once while the right ones stay, take no room in the nearest cache.
            (1, 1) => run!(
                first: [
                    "tileloaddt1 tmm4, [{a} + {row}]",
                    "tileloadd tmm6, [{b} + {row}]",
                    "tileloaddt1 tmm5, [{aa} + {row}]",
                    "tileloadd tmm7, [{bb} + {row}]",
                    "dec {depth}",
                    "jz 5f",
                ],
                step: [
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tileloaddt1 tmm4, [{a} + {row} + 1024]",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tileloadd tmm6, [{b} + {row} + 1024]",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "tileloaddt1 tmm5, [{aa} + {row} + 1024]",
                    "tileloadd tmm7, [{bb} + {row} + 1024]",
                    fetch!(0),
                    advance!(1024, 1024, 256),
                ],
                last: [
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                ],
            ),
            (1, 2) => run!(
                first: [],
                step: [
                    both_right!(),
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    fetch!(0),
                    fetch!(256),
                    advance!(1024, 2048, 512),
                ],
                last: [],
            ),
            (2, 2) => run!(
                first: [],
                step: [
                    both_right!(),
                    "tileloadd tmm4, [{a} + {row} + 1024]",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "tileloadd tmm5, [{aa} + {row} + 1024]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    fetch!(0),
                    fetch!(256),
                    advance!(2048, 2048, 512),
                ],
                last: [],
            ),
            _ => unreachable!("no kernel for {terms:?}"),
        }
    }
}
