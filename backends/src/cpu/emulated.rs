//! AMX in software, for tests on processors without it: the system reports each of its instructions as illegal, and the handler
//! of that signal does what Intel's manual (volume 2, chapter on AMX) says of it, on tiles of the calling thread. The bytes that
//! run are those that a processor with AMX would execute; what cannot be seen here is time.

use std::cell::UnsafeCell;
use std::sync::OnceLock;

use burn::tensor::bf16;

/// Asks for it by a value that is not empty.
pub const VARIABLE: &str = "QWEN3_VL_EMULATED_AMX";

/// Whether it was asked for; then the handler is there.
pub fn is_on() -> bool {
    static ON: OnceLock<bool> = OnceLock::new();
    *ON.get_or_init(|| {
        let asked = std::env::var_os(VARIABLE).is_some_and(|value| !value.is_empty());
        if asked {
            install();
        }
        asked
    })
}

fn install() {
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = illegal;
    // SAFETY: zeros are a valid `sigaction`, whose fields are then set; the handler has the signature that `SA_SIGINFO` asks for.
    let done = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGILL, &action, std::ptr::null_mut())
    };
    assert_eq!(done, 0, "no handler for illegal instructions");
}

/// A register of tiles.
#[derive(Clone, Copy)]
struct Register {
    rows: usize,
    /// Bytes of a row.
    bytes: usize,
    values: [[u8; 64]; 16],
}

impl Register {
    const EMPTY: Self = Self { rows: 0, bytes: 0, values: [[0; 64]; 16] };

    fn word(&self, row: usize, column: usize) -> [u8; 4] {
        self.values[row].as_chunks::<4>().0[column]
    }

    fn set(&mut self, row: usize, column: usize, word: [u8; 4]) {
        self.values[row].as_chunks_mut::<4>().0[column] = word;
    }
}

thread_local! {
    static REGISTERS: UnsafeCell<[Register; 8]> = const { UnsafeCell::new([Register::EMPTY; 8]) };
}

/// # Panics
/// On an instruction that is none of AMX's or breaks its rules, which ends the program.
extern "C" fn illegal(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the system hands the handler the registers of the interrupted code, which nobody else uses meanwhile.
    let general = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let place = general[libc::REG_RIP as usize];
    REGISTERS.with(|registers| {
        // SAFETY: each thread has its own, and the code below raises no signal that would come here again.
        let registers = unsafe { &mut *registers.get() };
        let code = Code { at: place as *const u8, general };
        let length = execute(&code, registers);
        general[libc::REG_RIP as usize] = place + length as i64;
    });
}

/// An instruction in the memory of the program, and the registers that its addresses are made of.
struct Code<'g> {
    at: *const u8,
    general: &'g [libc::greg_t; 23],
}

impl Code<'_> {
    fn byte(&self, index: usize) -> u8 {
        // SAFETY: the processor has read this instruction there.
        unsafe { self.at.add(index).read() }
    }

    fn register(&self, number: u8) -> i64 {
        const ORDER: [libc::c_int; 16] = [
            libc::REG_RAX,
            libc::REG_RCX,
            libc::REG_RDX,
            libc::REG_RBX,
            libc::REG_RSP,
            libc::REG_RBP,
            libc::REG_RSI,
            libc::REG_RDI,
            libc::REG_R8,
            libc::REG_R9,
            libc::REG_R10,
            libc::REG_R11,
            libc::REG_R12,
            libc::REG_R13,
            libc::REG_R14,
            libc::REG_R15,
        ];
        self.general[ORDER[usize::from(number)] as usize]
    }

    /// Where the operand in memory begins, the distance of its rows (the index), and the length of the instruction, whose
    /// addressing begins at byte 4.
    fn operand(&self, extended: [u8; 2]) -> (i64, i64, usize) {
        let [base_bit, index_bit] = extended.map(|bit| bit << 3);
        let (mode, low) = (self.byte(4) >> 6, self.byte(4) & 7);
        assert!(mode != 3, "an operand in memory was expected");
        let (base, index, mut next) = match low {
            4 => {
                let sib = self.byte(5);
                let (scale, index) = (sib >> 6, sib >> 3 & 7 | index_bit);
                assert!(mode != 0 || sib & 7 != 5, "an address without a base");
                let distance = if index == 4 { 0 } else { self.register(index) << scale };
                (self.register(sib & 7 | base_bit), distance, 6)
            }
            _ => {
                assert!(mode != 0 || low != 5, "an address relative to the instruction");
                (self.register(low | base_bit), 0, 5)
            }
        };
        let displacement = match mode {
            0 => 0,
            1 => i64::from(self.byte(next) as i8),
            _ => i64::from(i32::from_le_bytes(std::array::from_fn(|byte| self.byte(next + byte)))),
        };
        next += [0, 1, 4][usize::from(mode)];
        (base + displacement, index, next)
    }
}

/// Does what the instruction says, and gives its length.
fn execute(code: &Code<'_>, registers: &mut [Register; 8]) -> usize {
    let (first, second, opcode, operand) = (code.byte(1), code.byte(2), code.byte(3), code.byte(4));
    let amx = code.byte(0) == 0xc4 && first & 0x1f == 2 && second & 0x84 == 0;
    assert!(amx, "an illegal instruction that is none of AMX's");
    let (prefix, in_memory) = (second & 3, operand >> 6 != 3);
    let to = usize::from(operand >> 3 & 7);
    // The bits of VEX are stored inverted.
    let extended = [first >> 5 & 1 ^ 1, first >> 6 & 1 ^ 1];
    match (opcode, prefix, in_memory) {
        (0x49, 0, true) => {
            let (place, _, length) = code.operand(extended);
            // SAFETY: the operand has 64 bytes.
            configure(unsafe { &*(place as *const [u8; 64]) }, registers);
            length
        }
        (0x49, 0, false) => {
            *registers = [Register::EMPTY; 8];
            5
        }
        (0x49, 3, false) => {
            registers[to].values = [[0; 64]; 16];
            5
        }
        // `TILELOADD`, and with 1 `TILELOADDT1`, which differs in what caches keep.
        (0x4b, 1 | 3, true) => {
            let (place, distance, length) = code.operand(extended);
            let Register { rows, bytes, .. } = registers[to];
            assert!(rows > 0, "a register that was not configured");
            registers[to].values = [[0; 64]; 16];
            for (row, values) in registers[to].values.iter_mut().enumerate().take(rows) {
                let from = (place + row as i64 * distance) as *const u8;
                // SAFETY: the program asks for these bytes to be read; as many are part of a row.
                unsafe { from.copy_to_nonoverlapping(values.as_mut_ptr(), bytes) }
            }
            length
        }
        (0x4b, 2, true) => {
            let (place, distance, length) = code.operand(extended);
            let Register { rows, bytes, values } = &registers[to];
            assert!(*rows > 0, "a register that was not configured");
            for (row, values) in values.iter().enumerate().take(*rows) {
                let into = (place + row as i64 * distance) as *mut u8;
                // SAFETY: the program asks for these bytes to be written.
                unsafe { values.as_ptr().copy_to_nonoverlapping(into, *bytes) }
            }
            length
        }
        (0x5c, 2, false) => {
            let (left, right) = (usize::from(operand & 7), usize::from(!(second >> 3) & 7));
            assert!(to != left && to != right && left != right, "three registers were expected");
            let (left, right) = (registers[left], registers[right]);
            multiply(&mut registers[to], &left, &right);
            5
        }
        _ => panic!("an instruction that is not emulated: {opcode:x} with prefix {prefix}"),
    }
}

/// Palette 1: eight registers of up to 16 rows of 64 bytes.
fn configure(operand: &[u8; 64], registers: &mut [Register; 8]) {
    assert_eq!(operand[..2], [1, 0], "palette and first row");
    assert!(operand[2..16].iter().all(|byte| *byte == 0), "reserved bytes");
    for (index, register) in registers.iter_mut().enumerate() {
        let bytes = u16::from_le_bytes([operand[16 + 2 * index], operand[17 + 2 * index]]);
        let (rows, bytes) = (usize::from(operand[48 + index]), usize::from(bytes));
        assert!(rows <= 16 && bytes <= 64 && (rows == 0) == (bytes == 0), "a register's size");
        *register = Register { rows, bytes, ..Register::EMPTY };
    }
}

/// Adds products of pairs of bf16.
fn multiply(to: &mut Register, left: &Register, right: &Register) {
    let words = right.rows;
    assert!(to.rows == left.rows && to.bytes == right.bytes, "sizes of the result");
    assert!(left.bytes == 4 * words && right.bytes.is_multiple_of(4), "the summed size");
    let of = |word: [u8; 4], half: usize| {
        bf16::from_le_bytes([word[2 * half], word[2 * half + 1]]).to_f32()
    };
    for row in 0..to.rows {
        for column in 0..to.bytes / 4 {
            let sum = |half: usize| {
                (0..words).fold(0.0f32, |sum, word| {
                    let (a, b) = (left.word(row, word), right.word(word, column));
                    of(a, half).mul_add(of(b, half), sum)
                })
            };
            let before = f32::from_le_bytes(to.word(row, column));
            to.set(row, column, (before + (sum(0) + sum(1))).to_le_bytes());
        }
    }
}

/// The handler against a result that was worked out by hand.
#[test]
fn words_are_multiplied_as_the_manual_says() {
    let register = |rows, bytes, word: [u8; 4]| {
        let mut register = Register { rows, bytes, ..Register::EMPTY };
        for row in 0..rows {
            (0..bytes / 4).for_each(|column| register.set(row, column, word));
        }
        register
    };
    let pair = |values: [f32; 2]| {
        let [a, b] = values.map(|value| bf16::from_f32(value).to_le_bytes());
        [a[0], a[1], b[0], b[1]]
    };
    let mut to = register(16, 64, 0.5f32.to_le_bytes());
    let (left, right) = (register(16, 8, pair([2.0, -3.0])), register(2, 64, pair([0.25, 4.0])));
    multiply(&mut to, &left, &right);
    assert_eq!(f32::from_le_bytes(to.word(15, 15)), 0.5 + 2.0 * (0.5 - 12.0));
}
