//! The eBPF program of round-robin: from the eligible slots to instructions. Pure.

use crate::cluster::steering::cbpf::{HASH_MULTIPLIER, SKF_NET_OFF, V4_SOURCE};
use crate::cluster::steering::ebpf::{EbpfInstruction, instruction};
use crate::cluster::steering::{ProbeRoute, SteeringTarget};

// Parts of `code`, from `linux/bpf_common.h` and `linux/bpf.h`: the class …
const BPF_LD: u8 = 0x00;
const BPF_LDX: u8 = 0x01;
const BPF_ST: u8 = 0x02;
const BPF_STX: u8 = 0x03;
const BPF_ALU: u8 = 0x04;
const BPF_JMP: u8 = 0x05;
const BPF_ALU64: u8 = 0x07;
// … size and mode of loads and stores …
const BPF_W: u8 = 0x00;
const BPF_B: u8 = 0x10;
const BPF_DW: u8 = 0x18;
const BPF_IMM: u8 = 0x00;
const BPF_ABS: u8 = 0x20;
const BPF_MEM: u8 = 0x60;
const BPF_ATOMIC: u8 = 0xc0;
// … operations …
const BPF_ADD: u8 = 0x00;
const BPF_MUL: u8 = 0x20;
const BPF_DIV: u8 = 0x30;
const BPF_RSH: u8 = 0x70;
const BPF_MOD: u8 = 0x90;
const BPF_MOV: u8 = 0xb0;
// … jumps …
const BPF_JEQ: u8 = 0x10;
const BPF_JGT: u8 = 0x20;
const BPF_JGE: u8 = 0x30;
const BPF_JNE: u8 = 0x50;
const BPF_CALL: u8 = 0x80;
const BPF_EXIT: u8 = 0x90;
// … and whether the second operand is `imm` or a register.
const BPF_K: u8 = 0x00;
const BPF_X: u8 = 0x08;

/// `src_reg` of a 64-bit load whose `imm` is the descriptor of a map.
const BPF_PSEUDO_MAP_FD: u8 = 1;

/// Functions of the kernel that a program may call.
const BPF_FUNC_MAP_LOOKUP_ELEM: i32 = 1;
const BPF_FUNC_KTIME_GET_NS: i32 = 5;
const BPF_FUNC_GET_PRANDOM_U32: i32 = 7;

/// Result of a call and of the program; loads of the packet write it, too.
const R0: u8 = 0;
/// Arguments of a call, lost by it. The context is in `R1` at the start.
const R1: u8 = 1;
const R2: u8 = 2;
/// Preserved by calls. Loads of the packet need the context in `R6`.
const R6: u8 = 6;
/// Frame pointer.
const FP: u8 = 10;

/// The number of the turn, then of its slot.
const SLOT: u8 = R6;
/// Where the round starts.
const START: u8 = 7;
const ROUND: u8 = 8;
/// A value of the map.
const VALUE: u8 = 9;

/// Keys of the map: the number of turns, until when turns are skipped (monotonic, ns), and from the last one on the
/// skip probability of each slot in units of 2^-32.
pub(super) const KEY_COUNTER: u32 = 0;
pub(super) const KEY_SKIP_UNTIL: u32 = 1;
pub(super) const KEY_SKIP_BASE: u32 = 2;

/// Where the key of a lookup is, from the frame pointer.
const KEY_OFFSET: i16 = -4;

/// A connection is passed on to another slot this many times at most.
const MAX_SKIPS: usize = 3;

/// 64-bit operation with a constant.
const fn alu64_imm(operation: u8, dst: u8, imm: i32) -> EbpfInstruction {
    instruction(BPF_ALU64 | operation | BPF_K, dst, 0, 0, imm)
}

/// 64-bit operation with a register.
const fn alu64_reg(operation: u8, dst: u8, src: u8) -> EbpfInstruction {
    instruction(BPF_ALU64 | operation | BPF_X, dst, src, 0, 0)
}

/// 32-bit operation with a constant; clears the upper half.
const fn alu32_imm(operation: u8, dst: u8, imm: i32) -> EbpfInstruction {
    instruction(BPF_ALU | operation | BPF_K, dst, 0, 0, imm)
}

/// Clears the upper half of a register.
const fn truncate_to_32_bits(register: u8) -> EbpfInstruction {
    instruction(BPF_ALU | BPF_MOV | BPF_X, register, register, 0, 0)
}

/// `R0` = part of the packet. Needs the context in `R6`; loses `R1` to `R5`.
const fn load_packet(size: u8, offset: u32) -> EbpfInstruction {
    instruction(BPF_LD | BPF_ABS | size, 0, 0, 0, offset.cast_signed())
}

/// `dst` = the value that `R0` points to.
const fn load_value(dst: u8) -> EbpfInstruction {
    instruction(BPF_LDX | BPF_MEM | BPF_DW, dst, R0, 0, 0)
}

/// Puts a constant key on the stack.
const fn store_key(key: u32) -> EbpfInstruction {
    instruction(BPF_ST | BPF_MEM | BPF_W, FP, 0, KEY_OFFSET, key.cast_signed())
}

const fn call(function: i32) -> EbpfInstruction {
    instruction(BPF_JMP | BPF_CALL, 0, 0, 0, function)
}

/// Skips instructions unless the register has this value.
fn skip_unless_equal(register: u8, value: usize, skip: usize) -> EbpfInstruction {
    instruction(BPF_JMP | BPF_JNE | BPF_K, register, 0, skip as i16, value as i32)
}

const EXIT: EbpfInstruction = instruction(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);

/// Sets the result to an index of no member: the kernel chooses.
const SET_KERNEL_CHOICE: EbpfInstruction = alu32_imm(BPF_MOV, R0, -1);

fn return_index(index: u32) -> [EbpfInstruction; 2] {
    [alu64_imm(BPF_MOV, R0, index.cast_signed()), EXIT]
}

/// The program that serves the targets in turn, with the descriptor of its map.
pub(super) fn program(targets: &[&SteeringTarget], routes: &[ProbeRoute], map: i32) -> Vec<EbpfInstruction> {
    let slots = targets.len() as i32;
    let mut body = vec![
        // Read and increment the counter. Two packets at once may read the same number, which does no harm.
        alu64_imm(BPF_MOV, R1, 1),
        load_value(SLOT),
        instruction(BPF_STX | BPF_ATOMIC | BPF_DW, R0, R1, 0, i32::from(BPF_ADD)),
        // The number of the round, and by its hash the slot at which the round starts.
        alu64_reg(BPF_MOV, START, SLOT),
        alu64_imm(BPF_DIV, START, slots),
        alu64_reg(BPF_MOV, ROUND, START),
        alu32_imm(BPF_MUL, START, HASH_MULTIPLIER.cast_signed()),
        alu32_imm(BPF_RSH, START, 16),
        alu64_reg(BPF_ADD, SLOT, START),
        alu64_imm(BPF_MOD, SLOT, slots),
    ];
    if slots > 1 {
        body.extend(skip_by_probability(map, slots));
    }
    for (slot, target) in targets.iter().enumerate() {
        let choice = select_socket(&target.members);
        body.push(skip_unless_equal(SLOT, slot, choice.len()));
        body.extend(choice);
    }
    let mut program = match_probe_routes(routes);
    program.push(store_key(KEY_COUNTER));
    program.extend(map_lookup(map, body.len()));
    program.extend(body);
    program.extend([SET_KERNEL_CHOICE, EXIT]);
    program
}

/// Returns the member whose probe route is the source address of the packet; continues if there is none.
fn match_probe_routes(routes: &[ProbeRoute]) -> Vec<EbpfInstruction> {
    if routes.is_empty() {
        return Vec::new();
    }
    let pairs = routes.iter().flat_map(|route| {
        let source = u32::from(route.source) as usize;
        [skip_unless_equal(R0, source, 2)].into_iter().chain(return_index(route.index))
    });
    let pairs: Vec<EbpfInstruction> = pairs.collect();
    let mut program = vec![
        alu64_reg(BPF_MOV, R6, R1),
        load_packet(BPF_B, SKF_NET_OFF),
        alu32_imm(BPF_RSH, R0, 4),
        skip_unless_equal(R0, 4, pairs.len() + 1),
        load_packet(BPF_W, V4_SOURCE),
    ];
    program.extend(pairs);
    program
}

/// `R0` = address of the value whose key is on the stack; skips instructions if there is none.
fn map_lookup(map: i32, skip: usize) -> [EbpfInstruction; 6] {
    [
        instruction(BPF_LD | BPF_IMM | BPF_DW, R1, BPF_PSEUDO_MAP_FD, 0, map),
        instruction(0, 0, 0, 0, 0), // upper half of the 64-bit constant
        alu64_reg(BPF_MOV, R2, FP),
        alu64_imm(BPF_ADD, R2, KEY_OFFSET as i32),
        call(BPF_FUNC_MAP_LOOKUP_ELEM),
        instruction(BPF_JMP | BPF_JEQ | BPF_K, R0, 0, skip as i16, 0),
    ]
}

/// Replaces the slot by a random one with the skip probability of the slot, until the deadline.
fn skip_by_probability(map: i32, slots: i32) -> Vec<EbpfInstruction> {
    let mut program = Vec::new();
    for _ in 0..MAX_SKIPS {
        // Built from the end: each part can skip all that follow.
        let choose_other = [
            call(BPF_FUNC_GET_PRANDOM_U32),
            truncate_to_32_bits(R0),
            alu64_imm(BPF_MOD, R0, slots),
            alu64_reg(BPF_MOV, SLOT, R0),
        ];
        let draw = [
            load_value(VALUE),
            call(BPF_FUNC_GET_PRANDOM_U32),
            truncate_to_32_bits(R0),
            instruction(BPF_JMP | BPF_JGE | BPF_X, R0, VALUE, (choose_other.len() + program.len()) as i16, 0),
        ];
        let rest = draw.len() + choose_other.len() + program.len();
        let store_slot_key = [
            alu64_reg(BPF_MOV, VALUE, SLOT),
            alu64_imm(BPF_ADD, VALUE, KEY_SKIP_BASE.cast_signed()),
            instruction(BPF_STX | BPF_MEM | BPF_W, FP, VALUE, KEY_OFFSET, 0),
        ];
        let parts = store_slot_key.into_iter().chain(map_lookup(map, rest)).chain(draw).chain(choose_other);
        program = parts.chain(program).collect();
    }
    let check_deadline = [
        load_value(VALUE),
        call(BPF_FUNC_KTIME_GET_NS),
        instruction(BPF_JMP | BPF_JGT | BPF_X, R0, VALUE, program.len() as i16, 0),
    ];
    let lookup = map_lookup(map, check_deadline.len() + program.len());
    let parts = [store_key(KEY_SKIP_UNTIL)].into_iter().chain(lookup);
    parts.chain(check_deadline).chain(program).collect()
}

/// Returns one of a slot's members: another one in each round.
fn select_socket(members: &[u32]) -> Vec<EbpfInstruction> {
    if let [only] = members {
        return return_index(*only).to_vec();
    }
    let mut choice = vec![alu64_imm(BPF_MOD, ROUND, members.len() as i32)];
    for (number, index) in members.iter().enumerate() {
        choice.push(skip_unless_equal(ROUND, number, 2));
        choice.extend(return_index(*index));
    }
    choice.extend([SET_KERNEL_CHOICE, EXIT]);
    choice
}
