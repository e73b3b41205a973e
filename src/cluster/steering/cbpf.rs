//! Classic BPF programs that choose by random number or by a hash of the client's address. Pure.
//!
//! Every daemon may attach these; [`round_robin`](super::round_robin) needs privileges.

use crate::cluster::steering::{KERNEL_CHOICE, ProbeRoute, SteeringTarget};
use crate::process::bpf::{
    Instruction, MAX_INSTRUCTIONS, jump, jump_eq, load_byte, load_imm, load_mem, load_mem_index, load_word,
    mul, rem, ret, shift_right, skip_unless_greater, store_mem, xor, xor_index,
};
use crate::spec::Balance;

/// Offset of the packet's network header (`linux/filter.h`).
pub(super) const SKF_NET_OFF: u32 = 0xfff0_0000;
/// Offset that loads a random number: `SKF_AD_OFF + SKF_AD_RANDOM` of the same header.
const SKF_AD_RANDOM: u32 = 0xffff_f000 + 56;
/// Offsets of the source address in packets of each family.
pub(super) const V4_SOURCE: u32 = SKF_NET_OFF + 12;
const V6_SOURCE: u32 = SKF_NET_OFF + 8;

/// Multiplicative hash by Knuth: 2^32 divided by the golden ratio. Its high bits are well distributed.
pub(super) const HASH_MULTIPLIER: u32 = 0x9E37_79B1;

/// Other odd numbers with well distributed bits, for slots and for mixing (from MurmurHash3).
const SLOT_MULTIPLIER: u32 = 0x85EB_CA6B;
const MIX_MULTIPLIER: u32 = 0xC2B2_AE35;

/// Memory word of the hash.
const MEM_HASH: u32 = 0;
/// Memory word of intermediate results.
const MEM_SCRATCH: u32 = 1;
/// Memory words of the highest hash so far, and of the number of its slot.
const MEM_HIGHEST: u32 = 2;
const MEM_CHOICE: u32 = 3;

/// Members of one slot beyond this number get nothing: a jump cannot cross more instructions.
const MAX_MEMBERS: usize = 100;

/// The program that distributes connections over the eligible slots.
pub(crate) fn program(
    balance: Balance,
    targets: &[SteeringTarget],
    routes: &[ProbeRoute],
) -> Vec<Instruction> {
    let eligible: Vec<&SteeringTarget> = targets.iter().filter(|target| target.is_eligible()).collect();
    let mut program = match_probe_routes(routes);
    if !eligible.is_empty() {
        match balance {
            Balance::Random | Balance::Shared => random_target(&mut program, &eligible),
            Balance::IpHash => ip_hash_target(&mut program, &eligible),
        }
    }
    program.push(ret(KERNEL_CHOICE));
    // With thousands of slots the choice of the kernel is as even.
    if program.len() > MAX_INSTRUCTIONS { vec![ret(KERNEL_CHOICE)] } else { program }
}

/// Returns one of the members. `load_number` loads the number to choose by into the accumulator.
fn select_socket(target: &SteeringTarget, load_number: &[Instruction]) -> Vec<Instruction> {
    let members = &target.members[..target.members.len().min(MAX_MEMBERS)];
    if let [only] = members {
        return vec![ret(*only)];
    }
    let mut choice = load_number.to_vec();
    choice.push(rem(members.len() as u32));
    for (number, index) in members.iter().enumerate() {
        choice.extend([jump_eq(number as u32, 0, 1), ret(*index)]);
    }
    choice.push(ret(KERNEL_CHOICE));
    choice
}

/// Returns a member of the target whose number is in the accumulator; continues if that target is not eligible.
fn select_among<'a>(
    program: &mut Vec<Instruction>,
    targets: impl Iterator<Item = &'a SteeringTarget>,
    load_number: &[Instruction],
) {
    for (number, target) in targets.enumerate().filter(|(_, target)| target.is_eligible()) {
        let choice = select_socket(target, load_number);
        program.push(jump_eq(number as u32, 0, choice.len() as u8));
        program.extend(choice);
    }
}

/// Returns the member whose probe route is the source address of the packet; continues if there is none.
fn match_probe_routes(routes: &[ProbeRoute]) -> Vec<Instruction> {
    if routes.is_empty() {
        return Vec::new();
    }
    let pairs = routes.iter().flat_map(|route| [jump_eq(route.source.into(), 0, 1), ret(route.index)]);
    let pairs: Vec<Instruction> = pairs.collect();
    let mut program =
        vec![load_byte(SKF_NET_OFF), shift_right(4), jump_eq(4, 1, 0), jump(pairs.len() as u32 + 1)];
    program.push(load_word(V4_SOURCE));
    program.extend(pairs);
    program
}

fn random_target(program: &mut Vec<Instruction>, eligible: &[&SteeringTarget]) {
    program.extend([load_word(SKF_AD_RANDOM), rem(eligible.len() as u32)]);
    select_among(program, eligible.iter().copied(), &[load_word(SKF_AD_RANDOM)]);
}

/// Chooses the slot with the highest hash of client and slot (rendezvous hashing): a client changes its slot only if its
/// slot goes away, or if a new one has a higher hash.
fn ip_hash_target(program: &mut Vec<Instruction>, eligible: &[&SteeringTarget]) {
    hash_client_address(program);
    program.extend([load_imm(0), store_mem(MEM_HIGHEST), store_mem(MEM_CHOICE)]);
    for (number, target) in (0u32..).zip(eligible) {
        program.extend([load_mem(MEM_HASH), xor(target.key.wrapping_add(1).wrapping_mul(SLOT_MULTIPLIER))]);
        mix(program);
        program.extend([load_mem_index(MEM_HIGHEST), skip_unless_greater(3)]);
        program.extend([store_mem(MEM_HIGHEST), load_imm(number), store_mem(MEM_CHOICE)]);
    }
    program.push(load_mem(MEM_CHOICE));
    // Other bits than those that chose the slot, or each slot would always use the same member.
    select_among(program, eligible.iter().copied(), &[load_mem(MEM_HASH), shift_right(4)]);
}

/// Mixes the bits of the accumulator.
fn mix(program: &mut Vec<Instruction>) {
    for multiplier in [HASH_MULTIPLIER, MIX_MULTIPLIER] {
        program.extend([mul(multiplier), store_mem(MEM_SCRATCH), shift_right(15)]);
        program.extend([load_mem_index(MEM_SCRATCH), xor_index()]);
    }
}

/// Leaves a hash of the client's address in memory.
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
    // On an IPv6 socket that accepts both families, IPv4 packets have an IPv4 header.
    program.push(jump_eq(6, 2, 0));
    program.extend([load_word(V4_SOURCE), jump(v6.len() as u32)]);
    program.extend(v6);
    mix(program);
    program.push(store_mem(MEM_HASH));
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::process::bpf::interpreter;

    fn program(balance: Balance, targets: &[SteeringTarget]) -> Vec<Instruction> {
        super::program(balance, targets, &[])
    }

    fn target(accepting: bool, members: &[u32]) -> SteeringTarget {
        SteeringTarget { accepting, members: members.to_vec(), key: members.first().copied().unwrap_or(0) }
    }

    /// Slots of one member each.
    fn slots(accepting: &[bool]) -> Vec<SteeringTarget> {
        accepting.iter().enumerate().map(|(index, accepting)| target(*accepting, &[index as u32])).collect()
    }

    fn member_of_v4(program: &[Instruction], client: u32) -> u32 {
        interpreter::interpret(program, &|offset, size| match (offset, size) {
            (SKF_NET_OFF, 1) => 0x45,
            (V4_SOURCE, 4) => client,
            other => panic!("unexpected load of {other:?}"),
        })
    }

    fn member_of_v6(program: &[Instruction], client: [u32; 4]) -> u32 {
        interpreter::interpret(program, &|offset, size| match (offset, size) {
            (SKF_NET_OFF, 1) => 0x60,
            (offset, 4) => client[((offset - V6_SOURCE) / 4) as usize],
            other => panic!("unexpected load of {other:?}"),
        })
    }

    #[test]
    fn random_balance_uses_eligible_slots_equally() {
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
    fn slots_get_equal_share_despite_socket_count() {
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
    fn ip_hash_keeps_clients_of_eligible_slots() {
        let all = program(Balance::IpHash, &slots(&[true; 4]));
        let three = program(Balance::IpHash, &slots(&[true, true, false, true]));
        let mut counts = [0; 4];
        let mut substitutes = [0; 4];
        for client in 0..4000u32 {
            let client = 0x7f00_0001 + client * 7;
            let slot = member_of_v4(&all, client);
            counts[slot as usize] += 1;
            match (slot, member_of_v4(&three, client)) {
                (2, other) => substitutes[other as usize] += 1,
                (slot, same) => assert_eq!(slot, same, "a client of a slot that is up has moved"),
            }
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
        // A fifth slot takes a fifth of the clients, and no client moves between the others.
        let five = program(Balance::IpHash, &slots(&[true; 5]));
        let mut moved = 0;
        for client in 0..4000u32 {
            let client = 0x7f00_0001 + client * 7;
            match member_of_v4(&five, client) {
                4 => moved += 1,
                same => assert_eq!(member_of_v4(&all, client), same),
            }
        }
        assert!((650..950).contains(&moved), "{moved}");
        assert!([0, 1, 3].iter().all(|slot| substitutes[*slot] > 200), "{substitutes:?}");
    }

    #[test]
    fn ip_hash_uses_whole_address_of_both_families() {
        let program = program(Balance::IpHash, &slots(&[true; 4]));
        for word in 0..4 {
            let mut seen = std::collections::HashSet::new();
            for number in 0..64 {
                let mut client = [0x2001_0db8, 1, 2, 3];
                client[word] ^= number;
                seen.insert(member_of_v6(&program, client));
            }
            assert_eq!(seen.len(), 4, "word {word} does not count");
        }
        let seen: std::collections::HashSet<u32> =
            (0..64).map(|client| member_of_v4(&program, client)).collect();
        assert_eq!(seen.len(), 4);
    }

    #[test]
    fn ip_hash_uses_all_sockets_of_slot() {
        let targets = [target(true, &[0, 1]), target(true, &[2, 3])];
        let program = program(Balance::IpHash, &targets);
        let seen: std::collections::HashSet<u32> =
            (0..200).map(|client| member_of_v4(&program, client * 3)).collect();
        assert_eq!(seen.len(), 4);
    }

    #[test]
    fn probe_route_reaches_its_member_only() {
        let routes = [3, 9].map(|id| ProbeRoute {
            source: ProbeRoute::address(id),
            index: (id % 2) as u32 * (id / 3) as u32,
        });
        for balance in [Balance::Random, Balance::IpHash] {
            // One of them reaches a member that gets no other connections.
            let program = super::program(balance, &[target(true, &[0]), target(false, &[1])], &routes);
            assert_eq!(member_of_probe(&program, u32::from(routes[0].source)), 1);
            assert_eq!(member_of_probe(&program, u32::from(routes[1].source)), 3);
            assert_eq!(member_of_probe(&program, u32::from(Ipv4Addr::new(127, 0, 0, 3))), 0);
            assert_eq!(
                interpreter::interpret(&program, &|offset, size| match (offset, size) {
                    (SKF_NET_OFF, 1) => 0x60,
                    _ => u32::from(routes[1].source),
                }),
                0,
                "not IPv4"
            );
        }
    }

    fn member_of_probe(program: &[Instruction], client: u32) -> u32 {
        interpreter::interpret(program, &|offset, size| match (offset, size) {
            (SKF_NET_OFF, 1) => 0x45,
            (V4_SOURCE, 4) => client,
            _ => 5,
        })
    }

    #[test]
    fn kernel_chooses_without_eligible_slot() {
        let kernel_choice = vec![ret(KERNEL_CHOICE)];
        assert_eq!(program(Balance::Random, &[]), kernel_choice);
        assert_eq!(program(Balance::IpHash, &slots(&[false, false])), kernel_choice);
        assert_eq!(program(Balance::Random, &[target(true, &[])]), kernel_choice);
        assert_eq!(program(Balance::Random, &slots(&[true; 3000])), kernel_choice);
    }

    #[test]
    fn jumps_fit_with_many_members() {
        let many: Vec<u32> = (0..500).collect();
        let targets = [target(true, &many), target(true, &[500])];
        for balance in [Balance::Random, Balance::IpHash] {
            assert_ne!(member_of_seed(&program(balance, &targets), 1), KERNEL_CHOICE);
        }
    }

    fn member_of_seed(program: &[Instruction], seed: u32) -> u32 {
        interpreter::interpret(program, &|_, size| if size == 1 { 0x45 } else { seed })
    }
}
