//! The program of turns: from the open slots to instructions of eBPF. Pure.

use crate::cluster::steering::{ProbeRoute, SKF_NET_OFF, SteeringTarget, V4_SOURCE};

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(in crate::cluster) struct EbpfInstruction {
    code: u8,
    /// Destination in the low half, source in the high one.
    registers: u8,
    offset: i16,
    value: i32,
}

const fn instruction(code: u8, to: u8, from: u8, offset: i16, value: i32) -> EbpfInstruction {
    EbpfInstruction { code, registers: from << 4 | to, offset, value }
}

/// What a program may call: look into a map, the time since boot, a random number.
const HELPER_MAP_LOOKUP: i32 = 1;
const HELPER_KTIME: i32 = 5;
const HELPER_PRANDOM: i32 = 7;

/// The map's numbers: how many turns there were, until when turns are passed on, and for each slot the chance
/// of that, in parts of 2^32.
pub(in crate::cluster) const KEY_COUNTER: u32 = 0;
pub(in crate::cluster) const KEY_SKIP_UNTIL: u32 = 1;
pub(in crate::cluster) const KEY_SKIP_BASE: u32 = 2;

/// So often a turn is passed on at most.
const MAX_SKIPS: usize = 3;

/// Registers: result, arguments, the count, the round, a number of the map, the frame.
const RESULT: u8 = 0;
const FIRST: u8 = 1;
const SECOND: u8 = 2;
const COUNT: u8 = 6;
const BEGIN: u8 = 7;
const ROUND: u8 = 8;
const NUMBER: u8 = 9;
const FRAME: u8 = 10;

const EXIT: EbpfInstruction = instruction(0x95, 0, 0, 0, 0);
/// No member's index: the kernel chooses.
const KERNEL_CHOICE: EbpfInstruction = instruction(0xb4, RESULT, 0, 0, -1);

fn return_index(index: u32) -> [EbpfInstruction; 2] {
    [instruction(0xb7, RESULT, 0, 0, index.cast_signed()), EXIT]
}

/// Skips so many instructions unless the register has this value.
fn skip_unless_equal(register: u8, value: usize, skip: usize) -> EbpfInstruction {
    instruction(0x55, register, 0, skip as i16, value as i32)
}

/// Ends in the socket whose door the connection comes through, if it does. Reading a packet wants the
/// context in register 6, and leaves nothing in 0 to 5.
fn match_probe_routes(doors: &[ProbeRoute]) -> Vec<EbpfInstruction> {
    if doors.is_empty() {
        return Vec::new();
    }
    let pairs = doors.iter().flat_map(|door| {
        let from = u32::from(door.source) as usize;
        [skip_unless_equal(RESULT, from, 2)].into_iter().chain(return_index(door.index))
    });
    let pairs: Vec<EbpfInstruction> = pairs.collect();
    let mut program = vec![
        instruction(0xbf, COUNT, FIRST, 0, 0),
        instruction(0x30, 0, 0, 0, SKF_NET_OFF.cast_signed()),
        instruction(0x74, RESULT, 0, 0, 4),
        skip_unless_equal(RESULT, 4, pairs.len() + 1),
        instruction(0x20, 0, 0, 0, V4_SOURCE.cast_signed()),
    ];
    program.extend(pairs);
    program
}

/// Looks up the number of the map whose place was put on the stack; skips `skip` instructions behind this if
/// there is none.
fn map_lookup(map: i32, skip: usize) -> [EbpfInstruction; 6] {
    [
        instruction(0x18, FIRST, 1, 0, map),
        instruction(0, 0, 0, 0, 0), // the map's second half
        instruction(0xbf, SECOND, FRAME, 0, 0),
        instruction(0x07, SECOND, 0, 0, -4),
        instruction(0x85, 0, 0, 0, HELPER_MAP_LOOKUP),
        instruction(0x15, RESULT, 0, skip as i16, 0),
    ]
}

/// With the count a slot: makes it another one if that one is to pass this turn on.
fn skip_by_probability(map: i32, slots: i32) -> Vec<EbpfInstruction> {
    let mut program = Vec::new();
    for _ in 0..MAX_SKIPS {
        // Built from its end: each part skips all that follow.
        let another = [
            instruction(0x85, 0, 0, 0, HELPER_PRANDOM),
            instruction(0xbc, RESULT, RESULT, 0, 0),
            instruction(0x97, RESULT, 0, 0, slots),
            instruction(0xbf, COUNT, RESULT, 0, 0),
        ];
        let drawn = [
            instruction(0x79, NUMBER, RESULT, 0, 0),
            instruction(0x85, 0, 0, 0, HELPER_PRANDOM),
            instruction(0xbc, RESULT, RESULT, 0, 0),
            instruction(0x3d, RESULT, NUMBER, (another.len() + program.len()) as i16, 0),
        ];
        let rest = drawn.len() + another.len() + program.len();
        let place = [
            instruction(0xbf, NUMBER, COUNT, 0, 0),
            instruction(0x07, NUMBER, 0, 0, KEY_SKIP_BASE.cast_signed()),
            instruction(0x63, FRAME, NUMBER, -4, 0),
        ];
        let parts = place.into_iter().chain(map_lookup(map, rest)).chain(drawn).chain(another);
        program = parts.chain(program).collect();
    }
    let in_time = [
        instruction(0x79, NUMBER, RESULT, 0, 0),
        instruction(0x85, 0, 0, 0, HELPER_KTIME),
        instruction(0x2d, RESULT, NUMBER, program.len() as i16, 0),
    ];
    let until = [instruction(0x62, FRAME, 0, -4, KEY_SKIP_UNTIL.cast_signed())];
    let parts = until.into_iter().chain(map_lookup(map, in_time.len() + program.len()));
    parts.chain(in_time).chain(program).collect()
}

/// The program. `map` has its numbers.
pub(in crate::cluster) fn program(
    targets: &[&SteeringTarget],
    doors: &[ProbeRoute],
    map: i32,
) -> Vec<EbpfInstruction> {
    let slots = targets.len() as i32;
    let mut body = vec![
        // The count, and one more for whoever is next. Two at once may get the same: no harm.
        instruction(0xb7, FIRST, 0, 0, 1),
        instruction(0x79, COUNT, RESULT, 0, 0),
        instruction(0xdb, RESULT, FIRST, 0, 0),
        // Which round, and, by a hash of that, the slot that it begins with.
        instruction(0xbf, BEGIN, COUNT, 0, 0),
        instruction(0x37, BEGIN, 0, 0, slots),
        instruction(0xbf, ROUND, BEGIN, 0, 0),
        instruction(0x24, BEGIN, 0, 0, 0x9E37_79B1_u32.cast_signed()),
        instruction(0x74, BEGIN, 0, 0, 16),
        instruction(0x0f, COUNT, BEGIN, 0, 0),
        instruction(0x97, COUNT, 0, 0, slots),
    ];
    if slots > 1 {
        body.extend(skip_by_probability(map, slots));
    }
    for (place, target) in targets.iter().enumerate() {
        let choice = select_socket(&target.members);
        body.push(skip_unless_equal(COUNT, place, choice.len()));
        body.extend(choice);
    }
    let mut program = match_probe_routes(doors);
    program.push(instruction(0x62, FRAME, 0, -4, KEY_COUNTER.cast_signed()));
    program.extend(map_lookup(map, body.len()));
    program.extend(body);
    program.extend([KERNEL_CHOICE, EXIT]);
    program
}

/// Ends with one of a slot's sockets: another one each round.
fn select_socket(members: &[u32]) -> Vec<EbpfInstruction> {
    if let [only] = members {
        return return_index(*only).to_vec();
    }
    let mut choice = vec![instruction(0x97, ROUND, 0, 0, members.len() as i32)];
    for (place, index) in members.iter().enumerate() {
        choice.push(skip_unless_equal(ROUND, place, 2));
        choice.extend(return_index(*index));
    }
    choice.extend([KERNEL_CHOICE, EXIT]);
    choice
}
