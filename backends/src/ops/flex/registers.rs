//! The registers of tiles of Intel's AMX, through inline assembly: the intrinsics are not stable.
//!
//! Kernels of AMX keep four tiles of sums in registers 0 to 3, two left tiles in 4 and 5 and two right ones in 6 and 7.

use std::arch::asm;
use std::cell::Cell;
use std::marker::PhantomData;

use super::tiles::LINES;
use crate::cpu::Level;

thread_local! {
    /// How many [`Registers`] of this thread there are.
    static USERS: Cell<usize> = const { Cell::new(0) };
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
    /// Eight registers of sixteen rows of as many words.
    fn whole() -> Self {
        let mut config = Self {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            bytes_per_row: [0; 16],
            rows: [0; 16],
        };
        config.bytes_per_row[..8].copy_from_slice(&[size_of::<u32>() as u16 * LINES as u16; 8]);
        config.rows[..8].copy_from_slice(&[LINES as u8; 8]);
        config
    }
}

impl Registers {
    /// # Panics
    /// Where the processor has no AMX, or the system does not permit it.
    pub fn new() -> Self {
        assert!(Level::Amx.is_present(), "no AMX");
        let users = USERS.get();
        if users == 0 {
            let config = Config::whole();
            // SAFETY: the processor has tiles and the system permits them, as was just asserted; the configuration is
            // a valid one of palette 1, and no register that the compiler uses changes.
            unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, preserves_flags)) }
        }
        USERS.set(users + 1);
        Self(PhantomData)
    }
}

impl Drop for Registers {
    fn drop(&mut self) {
        let users = USERS.get();
        USERS.set(users - 1);
        if users == 1 {
            // SAFETY: the processor has tiles; nobody uses those of this thread any more.
            unsafe { asm!("tilerelease", options(nostack, preserves_flags)) }
        }
    }
}
