//! The user an app runs as. It is looked up once, so that a later change of the user database does not change it.

use std::ffi::CString;

use nix::unistd::{Gid, Group, Uid, User, getegid, geteuid, getgrouplist};

use crate::config::diagnostics::{Diagnostics, Located};
use crate::config::keys::AppSettings;
use crate::config::values::UserOrGroup;
use crate::spec::Account;

/// The configured account; `None` if none is configured, or if it is that of the current user.
pub(super) fn resolve_account(settings: &AppSettings, diagnostics: &mut Diagnostics<'_>) -> Option<Account> {
    let source = &settings.uid.as_ref().or(settings.gid.as_ref())?.source;
    let group = settings.gid.as_ref().map(|group| resolve_group(group, diagnostics));
    let gid = group.flatten();
    let account = match &settings.uid {
        Some(user) => resolve_user(user, gid, diagnostics)?,
        None => from_passwd(&User::from_uid(geteuid()).ok()??, gid),
    };
    if group == Some(None) {
        return None;
    }
    let uid = geteuid().as_raw();
    let is_current = account.uid == uid && account.gid == getegid().as_raw();
    if uid != 0 && !is_current {
        let message = format!("only root can run apps as {}", account.user);
        diagnostics.error(source, message, "run rsm as root, or remove `uid` and `gid`");
    }
    (!is_current).then_some(account)
}

fn resolve_group(group: &Located<UserOrGroup>, diagnostics: &mut Diagnostics<'_>) -> Option<u32> {
    match &group.value {
        UserOrGroup::Id(id) => Some(*id),
        UserOrGroup::Name(name) => {
            let gid = Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw());
            if gid.is_none() {
                let help = "create it with groupadd, or use a numeric gid";
                diagnostics.error(&group.source, format!("group {name:?} not found"), help);
            }
            gid
        }
    }
}

fn resolve_user(
    user: &Located<UserOrGroup>,
    gid: Option<u32>,
    diagnostics: &mut Diagnostics<'_>,
) -> Option<Account> {
    let (found, shown) = match &user.value {
        UserOrGroup::Id(id) => (User::from_uid(Uid::from_raw(*id)), id.to_string()),
        UserOrGroup::Name(name) => (User::from_name(name), name.clone()),
    };
    match (found.ok().flatten(), &user.value, gid) {
        (Some(entry), _, gid) => Some(from_passwd(&entry, gid)),
        // Containers often run as a number that is not in the user database.
        (None, UserOrGroup::Id(uid), Some(gid)) => {
            Some(Account { user: shown, uid: *uid, gid, groups: vec![gid], home: "/".into() })
        }
        (None, _, _) => {
            let help = "create it with useradd, or use a numeric uid and gid";
            diagnostics.error(&user.source, format!("user {shown:?} not found"), help);
            None
        }
    }
}

fn from_passwd(user: &User, gid: Option<u32>) -> Account {
    let gid = gid.unwrap_or_else(|| user.gid.as_raw());
    let groups =
        CString::new(user.name.as_str()).ok().and_then(|name| getgrouplist(&name, Gid::from_raw(gid)).ok());
    Account {
        user: user.name.clone(),
        uid: user.uid.as_raw(),
        gid,
        groups: groups
            .map_or_else(|| vec![gid], |groups| groups.iter().map(|group| group.as_raw()).collect()),
        home: user.dir.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::diagnostics::SourceRef;

    fn given(value: UserOrGroup) -> Option<Located<UserOrGroup>> {
        Some(Located { value, source: SourceRef::Flag("--uid") })
    }

    fn resolve(uid: Option<UserOrGroup>, gid: Option<UserOrGroup>) -> Result<Option<Account>, String> {
        let settings =
            AppSettings { uid: uid.and_then(given), gid: gid.and_then(given), ..AppSettings::default() };
        let mut diagnostics = Diagnostics::of_command_line();
        let account = resolve_account(&settings, &mut diagnostics);
        diagnostics.finish(account).map(|(account, _)| account).map_err(|errors| errors.to_string())
    }

    #[test]
    fn rejects_unknown_users_and_groups() {
        assert!(
            resolve(Some(UserOrGroup::Name("nobody-of-this-name".into())), None)
                .unwrap_err()
                .contains("not found")
        );
        assert!(
            resolve(None, Some(UserOrGroup::Name("no-such-group".into())))
                .unwrap_err()
                .contains("group \"no-such-group\" not found")
        );
        assert!(
            resolve(Some(UserOrGroup::Id(4_000_000_001)), None).unwrap_err().contains("numeric uid and gid")
        );
    }

    #[test]
    fn other_user_requires_root() {
        let other = resolve(Some(UserOrGroup::Id(4_000_000_001)), Some(UserOrGroup::Id(4_000_000_002)));
        if geteuid().is_root() {
            let account = other.unwrap().unwrap();
            assert_eq!(
                (account.uid, account.gid, account.groups),
                (4_000_000_001, 4_000_000_002, vec![4_000_000_002])
            );
        } else {
            assert!(other.unwrap_err().contains("only root"));
        }
    }

    #[test]
    fn current_user_needs_no_account() {
        let me =
            resolve(Some(UserOrGroup::Id(geteuid().as_raw())), Some(UserOrGroup::Id(getegid().as_raw())));
        assert_eq!(me, Ok(None));
        assert_eq!(resolve(None, None), Ok(None));
    }
}
