//! Order of the members of a group as the kernel has it: steering programs name members by index.
//!
//! A socket joins at the end when it listens (UDP: when it is bound). When a member leaves, the last one takes its
//! index. A socket keeps its index while any duplicate of it is open.

use serde::{Deserialize, Serialize};

use crate::cluster::steering::KERNEL_CHOICE;

/// Members of a group by socket id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupOrder(Vec<u64>);

impl GroupOrder {
    /// Adds a member at the end; a member keeps its index.
    pub fn join(&mut self, socket: u64) {
        if !self.0.contains(&socket) {
            self.0.push(socket);
        }
    }

    /// Removes a member: the last one takes its index.
    pub fn leave(&mut self, socket: u64) {
        if let Some(index) = self.0.iter().position(|member| *member == socket) {
            self.0.swap_remove(index);
        }
    }

    pub fn index(&self, socket: u64) -> Option<u32> {
        self.0.iter().position(|member| *member == socket).and_then(|index| u32::try_from(index).ok())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All members, in order.
    pub fn members(&self) -> &[u64] {
        &self.0
    }

    /// Members that have the same index before and after `socket` leaves: a program that names only these is valid
    /// at any moment.
    pub fn unmoved_when_leaves(&self, socket: u64) -> impl Iterator<Item = u64> {
        let last = self.0.last().copied();
        self.0.iter().copied().filter(move |member| *member != socket && Some(*member) != last)
    }

    /// The index of the last member. It is valid while any member leaves: afterwards it is beyond the end, and the
    /// kernel chooses among the remaining members.
    pub fn last_index(&self) -> u32 {
        u32::try_from(self.0.len())
            .map_or(KERNEL_CHOICE, |length| length.checked_sub(1).unwrap_or(KERNEL_CHOICE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(members: &[u64]) -> GroupOrder {
        GroupOrder(members.to_vec())
    }

    #[test]
    fn last_member_fills_gap() {
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
    fn unmoved_members_keep_index() {
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
