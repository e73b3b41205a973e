//! Classic BPF: the instructions of the seccomp filter and of the steering programs.
//!
//! The machine has an accumulator, an index register, sixteen words of memory, and forward jumps only. A
//! program is a list of [`Instruction`]s; the kernel verifies it when it is attached.

use libc::{
    BPF_ABS, BPF_ALU, BPF_B, BPF_IMM, BPF_JA, BPF_JEQ, BPF_JGT, BPF_JMP, BPF_K, BPF_LD, BPF_LDX, BPF_MEM,
    BPF_MOD, BPF_MUL, BPF_RET, BPF_RSH, BPF_ST, BPF_W, BPF_X, BPF_XOR,
};

/// Maximum length of a program (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;

/// `struct sock_filter`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    code: u16,
    jump_true: u8,
    jump_false: u8,
    value: u32,
}

const fn statement(code: u32, value: u32) -> Instruction {
    Instruction { code: code as u16, jump_true: 0, jump_false: 0, value }
}

/// Accumulator = the word at `offset` of the packet or call.
pub const fn load_word(offset: u32) -> Instruction {
    statement(BPF_LD | BPF_W | BPF_ABS, offset)
}

/// Accumulator = the byte at `offset`.
pub const fn load_byte(offset: u32) -> Instruction {
    statement(BPF_LD | BPF_B | BPF_ABS, offset)
}

/// Accumulator = memory word `slot`.
pub const fn load_mem(slot: u32) -> Instruction {
    statement(BPF_LD | BPF_MEM, slot)
}

/// Memory word `slot` = accumulator.
pub const fn store_mem(slot: u32) -> Instruction {
    statement(BPF_ST, slot)
}

/// Index register = memory word `slot`.
pub const fn load_mem_index(slot: u32) -> Instruction {
    statement(BPF_LDX | BPF_MEM, slot)
}

/// Accumulator = `value`.
pub const fn load_imm(value: u32) -> Instruction {
    statement(BPF_LD | BPF_IMM, value)
}

/// Accumulator = accumulator xor `value`.
pub const fn xor(value: u32) -> Instruction {
    statement(BPF_ALU | BPF_XOR | BPF_K, value)
}

/// Accumulator = accumulator xor index register.
pub const fn xor_index() -> Instruction {
    statement(BPF_ALU | BPF_XOR | BPF_X, 0)
}

/// Accumulator = low 32 bits of accumulator × `factor`.
pub const fn mul(factor: u32) -> Instruction {
    statement(BPF_ALU | BPF_MUL | BPF_K, factor)
}

/// Accumulator = accumulator >> `bits`.
pub const fn shift_right(bits: u32) -> Instruction {
    statement(BPF_ALU | BPF_RSH | BPF_K, bits)
}

/// Accumulator = accumulator modulo `divisor`, which must not be 0.
pub const fn rem(divisor: u32) -> Instruction {
    statement(BPF_ALU | BPF_MOD | BPF_K, divisor)
}

/// Skips `jump_true` instructions if the accumulator is `value`, else `jump_false`.
pub const fn jump_eq(value: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction { code: (BPF_JMP | BPF_JEQ | BPF_K) as u16, jump_true, jump_false, value }
}

/// Skips `count` instructions unless the accumulator is greater than the index register.
pub const fn skip_unless_greater(count: u8) -> Instruction {
    let code = (BPF_JMP | BPF_JGT | BPF_X) as u16;
    Instruction { code, jump_true: 0, jump_false: count, value: 0 }
}

/// Skips `count` instructions.
pub const fn jump(count: u32) -> Instruction {
    statement(BPF_JMP | BPF_JA, count)
}

/// Returns `result`.
pub const fn ret(result: u32) -> Instruction {
    statement(BPF_RET | BPF_K, result)
}

#[cfg(test)]
pub(crate) mod interpreter {
    //! Executes programs as the kernel does, for tests.

    use super::Instruction;

    /// The result of `program`. `load` returns the value at an offset, of a size in bytes.
    pub(crate) fn interpret(program: &[Instruction], load: &dyn Fn(u32, u32) -> u32) -> u32 {
        let (mut next, mut accumulator, mut index, mut memory) = (0, 0u32, 0u32, [0u32; 16]);
        loop {
            let Instruction { code, jump_true, jump_false, value } = program[next];
            next += 1;
            match code {
                0x20 => accumulator = load(value, 4),
                0x30 => accumulator = load(value, 1),
                0x60 => accumulator = memory[value as usize],
                0x61 => index = memory[value as usize],
                0x02 => memory[value as usize] = accumulator,
                0x00 => accumulator = value,
                0xa4 => accumulator ^= value,
                0x2d => next += usize::from(if accumulator > index { jump_true } else { jump_false }),
                0xac => accumulator ^= index,
                0x24 => accumulator = accumulator.wrapping_mul(value),
                0x74 => accumulator >>= value,
                0x94 => accumulator %= value,
                0x15 => next += usize::from(if accumulator == value { jump_true } else { jump_false }),
                0x05 => next += value as usize,
                0x06 => return value,
                _ => panic!("unknown instruction {code:#x}"),
            }
        }
    }
}
