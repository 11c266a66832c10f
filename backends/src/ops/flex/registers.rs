//! The registers of tiles of Intel's AMX, through inline assembly: the intrinsics are not stable.
//!
//! Kernels of AMX keep four tiles of sums in registers 0 to 3, two left tiles in 4 and 5 and two right ones in 6 and 7. A left
//! tile has sixteen rows, a right one sixteen columns, each with as many words as are summed.

use std::arch::asm;
use std::cell::Cell;
use std::marker::PhantomData;

use super::tiles::LINES;
use crate::cpu::Level;

thread_local! {
    /// How many [`Registers`] of this thread there are, and how many words they sum.
    static USERS: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// The calling thread's tile registers, configured until the last of these is dropped.
pub struct Registers(PhantomData<*const ()>);

/// Operand of `LDTILECFG`, palette 1.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_per_row: [u16; 16],
    rows: [u8; 16],
}

impl Config {
    /// For sums over so many words of four bytes.
    fn of(words: usize) -> Self {
        let line = 4 * LINES as u16;
        let mut config = Self {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            bytes_per_row: [0; 16],
            rows: [0; 16],
        };
        config.bytes_per_row[..8].copy_from_slice(&[line; 8]);
        config.rows[..8].copy_from_slice(&[LINES as u8; 8]);
        config.bytes_per_row[4..6].copy_from_slice(&[4 * words as u16; 2]);
        config.rows[6..8].copy_from_slice(&[words as u8; 2]);
        config
    }
}

impl Registers {
    /// For sums over `words` words.
    ///
    /// # Panics
    /// Where the processor has no AMX, or the system does not permit it; where a tile has not so many words, or others of this
    /// thread sum another number of them.
    pub fn new(words: usize) -> Self {
        assert!(Level::Amx.is_present(), "no AMX");
        assert!((1..=LINES).contains(&words), "{words} words in a tile");
        let (users, before) = USERS.get();
        if users == 0 {
            let config = Config::of(words);
            // SAFETY: the processor has tiles and the system permits them, as was just asserted; the configuration is
            // a valid one of palette 1, and no register that the compiler uses changes.
            unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, preserves_flags)) }
        } else {
            assert_eq!(words, before, "words of tiles in use");
        }
        USERS.set((users + 1, words));
        Self(PhantomData)
    }
}

impl Drop for Registers {
    fn drop(&mut self) {
        let (users, words) = USERS.get();
        USERS.set((users - 1, words));
        if users == 1 {
            // SAFETY: the processor has tiles; nobody uses those of this thread any more.
            unsafe { asm!("tilerelease", options(nostack, preserves_flags)) }
        }
    }
}
