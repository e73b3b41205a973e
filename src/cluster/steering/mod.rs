//! The programs that choose, for each new connection, the member of a group that gets it.
//!
//! The kernel runs them; no process of ours is on the way. Pure: from the state of the slots to
//! instructions. A result beyond the group's end makes the kernel choose by its own hash, so that
//! a program that is wrong loses nothing.

pub(super) mod rebalance;
pub(super) mod round_robin;

use std::net::Ipv4Addr;

use crate::process::bpf::{
    Instruction, MAX_INSTRUCTIONS, jump, jump_eq, load_byte, load_mem, load_mem_index, load_word, mul, rem,
    ret, shift_right, store_mem, xor_index,
};
use crate::spec::Balance;

/// No member's index: the kernel chooses.
pub const KERNEL_CHOICE: u32 = u32::MAX;

/// Where the packet's network header starts (`SKF_NET_OFF`).
pub(super) const SKF_NET_OFF: u32 = 0xfff0_0000;
/// A random number (`SKF_AD_OFF + SKF_AD_RANDOM`).
const SKF_AD_RANDOM: u32 = 0xffff_f000 + 56;
pub(super) const V4_SOURCE: u32 = SKF_NET_OFF + 12;
const V6_SOURCE: u32 = SKF_NET_OFF + 8;

/// Knuth's multiplicative hash: 2^32 divided by the golden ratio. Its high bits are good ones.
const HASH_MULTIPLIER: u32 = 0x9E37_79B1;

/// Memory words: the hash, and the number that members of one slot are chosen by.
const MEM_HASH: u32 = 0;
const MEM_SCRATCH: u32 = 1;

/// Members of one slot beyond this many get nothing: a jump cannot cross more.
const MAX_MEMBERS: usize = 100;

/// A slot as steering sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SteeringTarget {
    /// It may get connections.
    pub accepting: bool,
    /// Indices of its sockets in the group.
    pub members: Vec<u32>,
}

/// A way to one socket of a group and no other, for our own checks: the local source address that leads
/// there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeRoute {
    /// Where a connection comes from.
    pub source: Ipv4Addr,
    /// Index of the socket in the group.
    pub index: u32,
}

impl ProbeRoute {
    /// The source address for the socket of this number in the book: in 127.82.0.0/16, which clients have no
    /// reason to use. Two sockets of one group would have to be 65,536 sockets apart to have the same.
    pub fn address(socket: u64) -> Ipv4Addr {
        let [.., high, low] = socket.to_be_bytes();
        Ipv4Addr::new(127, 82, high, low)
    }
}

/// The program that spreads connections over the open ones of `targets`, which are all slots in their
/// order: with [`Balance::IpHash`] a slot that is closed keeps its clients for later.
pub fn program(balance: Balance, targets: &[SteeringTarget], doors: &[ProbeRoute]) -> Vec<Instruction> {
    let open: Vec<&SteeringTarget> = targets.iter().filter(|target| target.is_eligible()).collect();
    let mut program = match_probe_routes(doors);
    if !open.is_empty() {
        match balance {
            Balance::Random | Balance::Shared => random_target(&mut program, &open),
            Balance::IpHash => ip_hash_target(&mut program, targets, &open),
        }
    }
    program.push(ret(KERNEL_CHOICE));
    // Some thousand slots: the kernel's own choice is as even.
    if program.len() > MAX_INSTRUCTIONS { vec![ret(KERNEL_CHOICE)] } else { program }
}

impl SteeringTarget {
    /// It may get connections, and has where to.
    pub fn is_eligible(&self) -> bool {
        self.accepting && !self.members.is_empty()
    }

    /// Ends with one of its members. `number` loads what to choose by into the accumulator.
    fn select_socket(&self, number: &[Instruction]) -> Vec<Instruction> {
        let members = &self.members[..self.members.len().min(MAX_MEMBERS)];
        if let [only] = members {
            return vec![ret(*only)];
        }
        let mut choice = number.to_vec();
        choice.push(rem(members.len() as u32));
        for (place, index) in members.iter().enumerate() {
            choice.extend([jump_eq(place as u32, 0, 1), ret(*index)]);
        }
        choice.push(ret(KERNEL_CHOICE));
        choice
    }
}

/// With the accumulator a number below `targets.len()`: ends in that one, unless it is closed.
fn select_among<'a>(
    program: &mut Vec<Instruction>,
    targets: impl Iterator<Item = &'a SteeringTarget>,
    number: &[Instruction],
) {
    for (place, target) in targets.enumerate().filter(|(_, target)| target.is_eligible()) {
        let choice = target.select_socket(number);
        program.push(jump_eq(place as u32, 0, choice.len() as u8));
        program.extend(choice);
    }
}

/// Ends in the socket whose door the connection comes through, if it does.
fn match_probe_routes(doors: &[ProbeRoute]) -> Vec<Instruction> {
    if doors.is_empty() {
        return Vec::new();
    }
    let pairs = doors.iter().flat_map(|door| [jump_eq(door.source.into(), 0, 1), ret(door.index)]);
    let pairs: Vec<Instruction> = pairs.collect();
    let mut program =
        vec![load_byte(SKF_NET_OFF), shift_right(4), jump_eq(4, 1, 0), jump(pairs.len() as u32 + 1)];
    program.push(load_word(V4_SOURCE));
    program.extend(pairs);
    program
}

fn random_target(program: &mut Vec<Instruction>, open: &[&SteeringTarget]) {
    program.extend([load_word(SKF_AD_RANDOM), rem(open.len() as u32)]);
    select_among(program, open.iter().copied(), &[load_word(SKF_AD_RANDOM)]);
}

fn ip_hash_target(program: &mut Vec<Instruction>, targets: &[SteeringTarget], open: &[&SteeringTarget]) {
    hash_client_address(program);
    // Bits that choose neither slot nor substitute, or each slot would always use the same member.
    let member = [load_mem(MEM_HASH), shift_right(4)];
    program.push(rem(targets.len() as u32));
    select_among(program, targets.iter(), &member);
    // Its slot is closed: another one, chosen by other bits so that its clients spread over all.
    program.extend([load_mem(MEM_HASH), shift_right(7), rem(open.len() as u32)]);
    select_among(program, open.iter().copied(), &member);
}

/// Leaves a hash of the client's address, 17 bits, in the accumulator and in memory.
fn hash_client_address(program: &mut Vec<Instruction>) {
    let mut v6 = vec![load_word(V6_SOURCE)];
    for word in 1..4 {
        v6.extend([
            store_mem(MEM_SCRATCH),
            load_word(V6_SOURCE + 4 * word),
            load_mem_index(MEM_SCRATCH),
            xor_index(),
        ]);
    }
    program.extend([load_byte(SKF_NET_OFF), shift_right(4)]);
    // On an IPv6 socket that takes both, IPv4 packets have their own header.
    program.push(jump_eq(6, 2, 0));
    program.extend([load_word(V4_SOURCE), jump(v6.len() as u32)]);
    program.extend(v6);
    program.extend([mul(HASH_MULTIPLIER), shift_right(15), store_mem(MEM_HASH)]);
}

#[cfg(test)]
mod tests {
    use crate::cluster::steering::*;

    fn program(balance: Balance, targets: &[SteeringTarget]) -> Vec<Instruction> {
        crate::cluster::steering::program(balance, targets, &[])
    }
    use crate::process::bpf::interpreter;

    fn target(open: bool, members: &[u32]) -> SteeringTarget {
        SteeringTarget { accepting: open, members: members.to_vec() }
    }

    /// Slots of one member each.
    fn slots(open: &[bool]) -> Vec<SteeringTarget> {
        open.iter().enumerate().map(|(index, open)| target(*open, &[index as u32])).collect()
    }

    fn of_v4(program: &[Instruction], client: u32) -> u32 {
        interpreter::interpret(program, &|offset, size| match (offset, size) {
            (SKF_NET_OFF, 1) => 0x45,
            (V4_SOURCE, 4) => client,
            other => panic!("{other:?} is read"),
        })
    }

    fn of_v6(program: &[Instruction], client: [u32; 4]) -> u32 {
        interpreter::interpret(program, &|offset, size| match (offset, size) {
            (SKF_NET_OFF, 1) => 0x60,
            (offset, 4) => client[((offset - V6_SOURCE) / 4) as usize],
            other => panic!("{other:?} is read"),
        })
    }

    #[test]
    fn chance_is_spread_over_the_open_ones() {
        let program = program(Balance::Random, &slots(&[true, false, true, true]));
        let mut counts = [0; 4];
        for number in 0..3000u32 {
            counts[interpreter::interpret(&program, &|offset, _| {
                assert_eq!(offset, SKF_AD_RANDOM);
                number
            }) as usize] += 1;
        }
        assert_eq!(counts, [1000, 0, 1000, 1000]);
    }

    #[test]
    fn a_slot_of_many_sockets_gets_no_more_than_another() {
        let targets = [target(true, &[3]), target(true, &[0, 1, 2])];
        let program = program(Balance::Random, &targets);
        let random = std::cell::RefCell::new(fastrand::Rng::with_seed(7));
        let mut counts = [0; 4];
        for _ in 0..6000 {
            counts[interpreter::interpret(&program, &|_, _| random.borrow_mut().u32(..)) as usize] += 1;
        }
        assert!((2800..3200).contains(&counts[3]), "{counts:?}");
        assert!(counts[..3].iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_client_stays_while_its_slot_is_up_and_comes_back() {
        let all = program(Balance::IpHash, &slots(&[true; 4]));
        let three = program(Balance::IpHash, &slots(&[true, true, false, true]));
        let mut counts = [0; 4];
        let mut substitutes = [0; 4];
        for client in 0..4000u32 {
            let client = 0x7f00_0001 + client * 7;
            let slot = of_v4(&all, client);
            counts[slot as usize] += 1;
            match (slot, of_v4(&three, client)) {
                (2, other) => substitutes[other as usize] += 1,
                (slot, same) => assert_eq!(slot, same, "a client of a slot that is up has moved"),
            }
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
        assert!([0, 1, 3].iter().all(|slot| substitutes[*slot] > 200), "{substitutes:?}");
    }

    #[test]
    fn clients_of_both_families_are_told_apart_by_their_whole_address() {
        let program = program(Balance::IpHash, &slots(&[true; 4]));
        for word in 0..4 {
            let mut seen = std::collections::HashSet::new();
            for number in 0..64 {
                let mut client = [0x2001_0db8, 1, 2, 3];
                client[word] ^= number;
                seen.insert(of_v6(&program, client));
            }
            assert_eq!(seen.len(), 4, "word {word} does not count");
        }
        let seen: std::collections::HashSet<u32> = (0..64).map(|client| of_v4(&program, client)).collect();
        assert_eq!(seen.len(), 4);
    }

    #[test]
    fn a_client_stays_with_one_socket_of_its_slot() {
        let targets = [target(true, &[0, 1]), target(true, &[2, 3])];
        let program = program(Balance::IpHash, &targets);
        let seen: std::collections::HashSet<u32> =
            (0..200).map(|client| of_v4(&program, client * 3)).collect();
        assert_eq!(seen.len(), 4);
    }

    #[test]
    fn who_comes_through_a_door_gets_to_its_socket_and_no_other_client_does() {
        let doors = [3, 9].map(|id| ProbeRoute {
            source: ProbeRoute::address(id),
            index: (id % 2) as u32 * (id / 3) as u32,
        });
        for balance in [Balance::Random, Balance::IpHash] {
            // Also to one that gets no connections otherwise.
            let program = crate::cluster::steering::program(
                balance,
                &[target(true, &[0]), target(false, &[1])],
                &doors,
            );
            assert_eq!(of_v4_or_random(&program, u32::from(doors[0].source)), 1);
            assert_eq!(of_v4_or_random(&program, u32::from(doors[1].source)), 3);
            assert_eq!(of_v4_or_random(&program, u32::from(Ipv4Addr::new(127, 0, 0, 3))), 0);
            assert_eq!(
                interpreter::interpret(&program, &|offset, size| match (offset, size) {
                    (SKF_NET_OFF, 1) => 0x60,
                    _ => u32::from(doors[1].source),
                }),
                0,
                "no IPv4"
            );
        }
    }

    fn of_v4_or_random(program: &[Instruction], client: u32) -> u32 {
        interpreter::interpret(program, &|offset, size| match (offset, size) {
            (SKF_NET_OFF, 1) => 0x45,
            (V4_SOURCE, 4) => client,
            _ => 5,
        })
    }

    #[test]
    fn where_nothing_is_open_the_kernel_chooses() {
        let nothing = vec![ret(KERNEL_CHOICE)];
        assert_eq!(program(Balance::Random, &[]), nothing);
        assert_eq!(program(Balance::IpHash, &slots(&[false, false])), nothing);
        assert_eq!(program(Balance::Random, &[target(true, &[])]), nothing);
        assert_eq!(program(Balance::Random, &slots(&[true; 3000])), nothing);
    }

    #[test]
    fn no_program_is_too_long_for_its_jumps() {
        let many: Vec<u32> = (0..500).collect();
        let targets = [target(true, &many), target(true, &[500])];
        for balance in [Balance::Random, Balance::IpHash] {
            assert_ne!(of_seed(&program(balance, &targets), 1), KERNEL_CHOICE);
        }
    }

    fn of_seed(program: &[Instruction], seed: u32) -> u32 {
        interpreter::interpret(program, &|_, size| if size == 1 { 0x45 } else { seed })
    }
}
