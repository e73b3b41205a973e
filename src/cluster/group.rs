//! The order of a group's sockets as the kernel has it: steering programs name members by index.
//!
//! A socket joins at the end when it listens (a UDP one when it is bound). When one leaves, the last
//! member moves into the hole. While any duplicate of it is open a socket stays where it is.

use serde::{Deserialize, Serialize};

use crate::cluster::steering::KERNEL_CHOICE;

/// The members of a group, by our numbers for sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupOrder(Vec<u64>);

impl GroupOrder {
    /// A socket listens now. One that did already stays where it is.
    pub fn join(&mut self, socket: u64) {
        if !self.0.contains(&socket) {
            self.0.push(socket);
        }
    }

    /// A socket has left.
    pub fn leave(&mut self, socket: u64) {
        if let Some(index) = self.0.iter().position(|member| *member == socket) {
            self.0.swap_remove(index);
        }
    }

    /// Where a socket is.
    pub fn index(&self, socket: u64) -> Option<u32> {
        self.0.iter().position(|member| *member == socket).and_then(|index| u32::try_from(index).ok())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, in order.
    pub fn members(&self) -> &[u64] {
        &self.0
    }

    /// Those whose index is the same before and after `socket` leaves. Steering to these alone is right at
    /// any moment of its going.
    pub fn unmoved_when_leaves(&self, socket: u64) -> impl Iterator<Item = u64> {
        let last = self.0.last().copied();
        self.0.iter().copied().filter(move |member| *member != socket && Some(*member) != last)
    }

    /// An index that is right before and after `socket` leaves although nothing else is: the last
    /// member's. Afterwards it is beyond the end, and the kernel chooses among all that are left.
    pub fn last_index(&self) -> u32 {
        u32::try_from(self.0.len())
            .map_or(KERNEL_CHOICE, |length| length.checked_sub(1).unwrap_or(KERNEL_CHOICE))
    }
}

#[cfg(test)]
mod tests {
    use crate::cluster::group::*;

    fn order(members: &[u64]) -> GroupOrder {
        GroupOrder(members.to_vec())
    }

    #[test]
    fn the_last_moves_into_the_hole() {
        let mut group = GroupOrder::default();
        for socket in [1, 2, 3, 4, 2] {
            group.join(socket);
        }
        assert_eq!(group, order(&[1, 2, 3, 4]));
        group.leave(2);
        assert_eq!(group, order(&[1, 4, 3]));
        group.leave(3);
        assert_eq!(group, order(&[1, 4]));
        group.leave(7);
        assert_eq!((group.index(4), group.index(7), group.is_empty()), (Some(1), None, false));
    }

    #[test]
    fn those_that_stay_in_place_are_known_beforehand() {
        for leaving in 1..=4 {
            let before = order(&[1, 2, 3, 4]);
            let mut after = before.clone();
            after.leave(leaving);
            for member in before.unmoved_when_leaves(leaving) {
                assert_eq!(before.index(member), after.index(member));
            }
        }
        assert_eq!(order(&[1, 2]).unmoved_when_leaves(1).count(), 0);
        assert_eq!((order(&[1, 2]).last_index(), order(&[]).last_index()), (1, KERNEL_CHOICE));
    }
}
