//! Classic BPF: the instructions that the seccomp filter and the steering programs are made of.
//!
//! One accumulator, one index register, sixteen words of memory, jumps forward only. Programs are
//! lists of [`Instruction`]; the kernel refuses one that is wrong as a whole, never in part.

/// The kernel takes no longer program.
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

const fn statement(code: u16, value: u32) -> Instruction {
    Instruction { code, jump_true: 0, jump_false: 0, value }
}

/// Accumulator = the word at `offset` of the packet or call.
pub const fn load_word(offset: u32) -> Instruction {
    statement(0x20, offset)
}

/// Accumulator = the byte at `offset`.
pub const fn load_byte(offset: u32) -> Instruction {
    statement(0x30, offset)
}

/// Accumulator = memory word `place`.
pub const fn load_mem(place: u32) -> Instruction {
    statement(0x60, place)
}

/// Memory word `place` = accumulator.
pub const fn store_mem(place: u32) -> Instruction {
    statement(0x02, place)
}

/// Index register = memory word `place`.
pub const fn load_mem_index(place: u32) -> Instruction {
    statement(0x61, place)
}

/// Accumulator = accumulator xor index register.
pub const fn xor_index() -> Instruction {
    statement(0xac, 0)
}

/// Accumulator = accumulator and `mask`.
pub const fn and(mask: u32) -> Instruction {
    statement(0x54, mask)
}

/// Accumulator = accumulator times `by`, the low 32 bits.
pub const fn mul(by: u32) -> Instruction {
    statement(0x24, by)
}

/// Accumulator = accumulator divided by two to the power of `by`.
pub const fn shift_right(by: u32) -> Instruction {
    statement(0x74, by)
}

/// Accumulator = accumulator modulo `by`, which must not be 0.
pub const fn rem(by: u32) -> Instruction {
    statement(0x94, by)
}

/// Goes on `jump_true` instructions further if the accumulator is `value`, else `jump_false`.
pub const fn jump_eq(value: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction { code: 0x15, jump_true, jump_false, value }
}

/// Goes on `further` instructions further.
pub const fn jump(further: u32) -> Instruction {
    statement(0x05, further)
}

/// Ends with this result.
pub const fn ret(result: u32) -> Instruction {
    statement(0x06, result)
}

#[cfg(test)]
pub(crate) mod interpreter {
    //! Runs programs as the kernel does, so that they can be tested without it.

    use super::Instruction;

    /// The result of `program`. `load` gives what lies at an offset: so many bytes.
    pub(crate) fn interpret(program: &[Instruction], load: &dyn Fn(u32, u32) -> u32) -> u32 {
        let (mut at, mut accumulator, mut index, mut memory) = (0, 0u32, 0u32, [0u32; 16]);
        loop {
            let Instruction { code, jump_true, jump_false, value } = program[at];
            at += 1;
            match code {
                0x20 => accumulator = load(value, 4),
                0x30 => accumulator = load(value, 1),
                0x60 => accumulator = memory[value as usize],
                0x61 => index = memory[value as usize],
                0x02 => memory[value as usize] = accumulator,
                0xac => accumulator ^= index,
                0x54 => accumulator &= value,
                0x24 => accumulator = accumulator.wrapping_mul(value),
                0x74 => accumulator >>= value,
                0x94 => accumulator %= value,
                0x15 => at += usize::from(if accumulator == value { jump_true } else { jump_false }),
                0x05 => at += value as usize,
                0x06 => return value,
                _ => panic!("unknown instruction {code:#x}"),
            }
        }
    }
}
