//! Users and groups of an image.
//!
//! [`Accounts`] is `/etc/passwd` and `/etc/group` as values, read from a root and written back. Where a root has
//! Debian's shadow files, they get their lines too.
//!
//! Spec: passwd(5), group(5), shadow(5); Debian Policy 9.2 for numbers that are fixed.

use knarr_recipe::recipe::{Group, User};
use knarr_tree::root::Root;

use crate::FactoryError;

/// A line of `/etc/passwd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserLine {
    /// Its name.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// Its group's number.
    pub gid: u32,
    /// Its full name.
    pub comment: String,
    /// Its home.
    pub home: String,
    /// Its shell.
    pub shell: String,
}

/// A line of `/etc/group`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupLine {
    /// Its name.
    pub name: String,
    /// Its number.
    pub gid: u32,
    /// Who belongs to it.
    pub members: Vec<String>,
}

/// Users and groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    /// In the file's order.
    pub users: Vec<UserLine>,
    /// In the file's order.
    pub groups: Vec<GroupLine>,
}

/// Debian's fixed users: name, number, group, home. All without a shell.
const FIXED: [(&str, u32, u32, &str); 18] = [
    ("root", 0, 0, "/root"),
    ("daemon", 1, 1, "/usr/sbin"),
    ("bin", 2, 2, "/bin"),
    ("sys", 3, 3, "/dev"),
    ("sync", 4, 65534, "/bin"),
    ("games", 5, 60, "/usr/games"),
    ("man", 6, 12, "/var/cache/man"),
    ("lp", 7, 7, "/var/spool/lpd"),
    ("mail", 8, 8, "/var/mail"),
    ("news", 9, 9, "/var/spool/news"),
    ("uucp", 10, 10, "/var/spool/uucp"),
    ("proxy", 13, 13, "/bin"),
    ("www-data", 33, 33, "/var/www"),
    ("backup", 34, 34, "/var/backups"),
    ("list", 38, 38, "/var/list"),
    ("irc", 39, 39, "/run/ircd"),
    ("_apt", 42, 65534, "/nonexistent"),
    ("nobody", 65534, 65534, "/nonexistent"),
];

/// Debian's fixed groups without a user of their name.
const FIXED_GROUPS: [(&str, u32); 23] = [
    ("adm", 4),
    ("tty", 5),
    ("disk", 6),
    ("man", 12),
    ("kmem", 15),
    ("dialout", 20),
    ("fax", 21),
    ("voice", 22),
    ("cdrom", 24),
    ("floppy", 25),
    ("tape", 26),
    ("sudo", 27),
    ("audio", 29),
    ("dip", 30),
    ("operator", 37),
    ("src", 40),
    ("shadow", 42),
    ("utmp", 43),
    ("video", 44),
    ("sasl", 45),
    ("plugdev", 46),
    ("staff", 50),
    ("games", 60),
];

const NOLOGIN: &str = "/usr/sbin/nologin";
/// The user that production images run as when they name none.
pub const NONROOT: u32 = 65532;

impl Accounts {
    /// What production images begin with: root, nobody and nonroot.
    #[must_use]
    pub fn minimal() -> Self {
        let mut accounts = Self::default();
        for name in ["root", "nobody"] {
            accounts.add_fixed(name);
        }
        accounts.users.push(UserLine {
            name: "nonroot".to_owned(),
            uid: NONROOT,
            gid: NONROOT,
            comment: "nonroot".to_owned(),
            home: "/home/nonroot".to_owned(),
            shell: NOLOGIN.to_owned(),
        });
        accounts.groups.push(GroupLine { name: "nonroot".to_owned(), gid: NONROOT, members: Vec::new() });
        accounts.add_fixed_group("tty");
        accounts.add_fixed_group("staff");
        accounts
    }

    /// Reads what a root has.
    pub fn read(root: &Root) -> Result<Self, FactoryError> {
        let text = |path: &str| -> Result<String, FactoryError> {
            let bytes = if root.exists(path)? { root.read(path)? } else { Vec::new() };
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let users = text("etc/passwd")?.lines().filter_map(parse_user).collect();
        let groups = text("etc/group")?.lines().filter_map(parse_group).collect();
        Ok(Self { users, groups })
    }

    /// Adds one of Debian's fixed users and its group; says whether there is one of this name.
    pub fn add_fixed(&mut self, name: &str) -> bool {
        let Some(&(_, uid, gid, home)) = FIXED.iter().find(|(known, ..)| *known == name) else {
            return false;
        };
        if self.user(name).is_none() {
            let (comment, shell) = (name.to_owned(), NOLOGIN.to_owned());
            self.users.push(UserLine {
                name: name.to_owned(),
                uid,
                gid,
                comment,
                home: home.to_owned(),
                shell,
            });
        }
        // Debian calls the group of nobody nogroup.
        let group = FIXED.iter().find(|(_, id, ..)| *id == gid).map_or(name, |(known, ..)| *known);
        let group = if group == "nobody" { "nogroup" } else { group };
        if self.groups.iter().all(|known| known.gid != gid) {
            self.groups.push(GroupLine { name: group.to_owned(), gid, members: Vec::new() });
        }
        true
    }

    /// Adds one of Debian's fixed groups; says whether there is one of this name.
    pub fn add_fixed_group(&mut self, name: &str) -> bool {
        let of_user = FIXED.iter().find(|(known, uid, gid, _)| *known == name && uid == gid);
        let gid = FIXED_GROUPS.iter().find(|(known, _)| *known == name).map(|(_, gid)| *gid);
        let Some(gid) = gid.or_else(|| of_user.map(|(_, _, gid, _)| *gid)) else { return false };
        if self.group(name).is_none() {
            self.groups.push(GroupLine { name: name.to_owned(), gid, members: Vec::new() });
        }
        true
    }

    /// A user by name.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<&UserLine> {
        self.users.iter().find(|user| user.name == name)
    }

    /// A group by name.
    #[must_use]
    pub fn group(&self, name: &str) -> Option<&GroupLine> {
        self.groups.iter().find(|group| group.name == name)
    }

    /// Adds a group of the recipe. One that is there already gets the members.
    pub fn add_group(&mut self, group: &Group) -> Result<(), FactoryError> {
        if self.group(&group.name).is_none() && (group.gid.is_some() || !self.add_fixed_group(&group.name)) {
            let gid = group.gid.unwrap_or_else(|| self.free_number(1000));
            if let Some(other) = self.groups.iter().find(|known| known.gid == gid) {
                return Err(taken("group", &group.name, gid, &other.name));
            }
            self.groups.push(GroupLine { name: group.name.clone(), gid, members: Vec::new() });
        }
        group.members.iter().for_each(|member| self.join(member, &group.name));
        Ok(())
    }

    /// Adds a user of the recipe, with a group of its own unless one is named.
    pub fn add_user(&mut self, user: &User) -> Result<(), FactoryError> {
        if self.user(&user.name).is_some() {
            return Err(FactoryError::BadAccount {
                what: "user",
                name: user.name.clone(),
                reason: "there is one of this name already".to_owned(),
            });
        }
        let uid = user.uid.unwrap_or_else(|| self.free_number(1000));
        if let Some(other) = self.users.iter().find(|known| known.uid == uid) {
            return Err(taken("user", &user.name, uid, &other.name));
        }
        let gid = user.gid.unwrap_or(uid);
        if self.groups.iter().all(|known| known.gid != gid) {
            self.add_group(&Group { name: user.name.clone(), gid: Some(gid), members: Vec::new() })?;
        }
        self.users.push(UserLine {
            name: user.name.clone(),
            uid,
            gid,
            comment: user.comment.clone().unwrap_or_default(),
            home: user.home.clone().unwrap_or_else(|| format!("/home/{}", user.name)),
            shell: user.shell.clone().unwrap_or_else(|| NOLOGIN.to_owned()),
        });
        for group in &user.groups {
            if self.group(group).is_none() && !self.add_fixed_group(group) {
                return Err(FactoryError::NoAccount { what: "group", name: group.clone() });
            }
            self.join(&user.name, group);
        }
        Ok(())
    }

    fn join(&mut self, member: &str, group: &str) {
        if let Some(group) = self.groups.iter_mut().find(|known| known.name == group)
            && !group.members.iter().any(|known| known == member)
        {
            group.members.push(member.to_owned());
        }
    }

    fn free_number(&self, from: u32) -> u32 {
        let taken = |id: &u32| {
            self.users.iter().any(|user| user.uid == *id) || self.groups.iter().any(|group| group.gid == *id)
        };
        (from..NONROOT).find(|id| !taken(id)).unwrap_or(from)
    }

    /// The numbers of `user[:group]`, names or numbers. Debian's fixed names are added when they are asked for.
    pub fn owner(&mut self, text: &str) -> Result<(u32, u32), FactoryError> {
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let (uid, own_group) = match user.parse::<u32>() {
            Ok(uid) => (uid, self.users.iter().find(|known| known.uid == uid).map_or(0, |known| known.gid)),
            Err(_) => {
                if self.user(user).is_none() {
                    self.add_fixed(user);
                }
                let known = self.user(user);
                let known =
                    known.ok_or_else(|| FactoryError::NoAccount { what: "user", name: user.to_owned() })?;
                (known.uid, known.gid)
            }
        };
        let Some(group) = group else { return Ok((uid, own_group)) };
        if let Ok(gid) = group.parse::<u32>() {
            return Ok((uid, gid));
        }
        if self.group(group).is_none() {
            self.add_fixed_group(group);
        }
        let known = self.group(group);
        let known = known.ok_or_else(|| FactoryError::NoAccount { what: "group", name: group.to_owned() })?;
        Ok((uid, known.gid))
    }

    /// All groups that a user belongs to beside its own, by number.
    #[must_use]
    pub fn groups_of(&self, name: &str) -> Vec<u32> {
        let groups = self.groups.iter().filter(|group| group.members.iter().any(|member| member == name));
        groups.map(|group| group.gid).collect()
    }

    /// Writes the files back; of shadow files only what is missing.
    pub fn write(&self, root: &Root) -> Result<(), FactoryError> {
        let line = |user: &UserLine| {
            let UserLine { name, uid, gid, comment, home, shell } = user;
            format!("{name}:x:{uid}:{gid}:{comment}:{home}:{shell}\n")
        };
        let users: String = self.users.iter().map(line).collect();
        let line =
            |group: &GroupLine| format!("{}:x:{}:{}\n", group.name, group.gid, group.members.join(","));
        let groups: String = self.groups.iter().map(line).collect();
        replace(root, "etc/passwd", &users)?;
        replace(root, "etc/group", &groups)?;
        let names = self.users.iter().map(|user| (user.name.as_str(), format!("{}:!:::::::\n", user.name)));
        add_missing(root, "etc/shadow", &names.collect::<Vec<_>>())?;
        let line = |group: &GroupLine| format!("{}:!::{}\n", group.name, group.members.join(","));
        let names = self.groups.iter().map(|group| (group.name.as_str(), line(group)));
        add_missing(root, "etc/gshadow", &names.collect::<Vec<_>>())
    }
}

fn replace(root: &Root, path: &str, text: &str) -> Result<(), FactoryError> {
    let same = root.exists(path)? && root.read(path)? == text.as_bytes();
    if same { Ok(()) } else { Ok(root.write(path, text.as_bytes(), 0o644)?) }
}

/// Adds lines to a shadow file, if the root has one, for names that it lacks.
fn add_missing(root: &Root, path: &str, lines: &[(&str, String)]) -> Result<(), FactoryError> {
    if !root.exists(path)? {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&root.read(path)?).into_owned();
    let has = |name: &str| text.lines().any(|line| line.split(':').next() == Some(name));
    let new: String = lines.iter().filter(|(name, _)| !has(name)).map(|(_, line)| line.as_str()).collect();
    if new.is_empty() { Ok(()) } else { Ok(root.append(path, new.as_bytes(), 0o640)?) }
}

fn taken(what: &'static str, name: &str, id: u32, other: &str) -> FactoryError {
    let reason = format!("its number {id} is that of {other}");
    FactoryError::BadAccount { what, name: name.to_owned(), reason }
}

fn parse_user(line: &str) -> Option<UserLine> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, comment, home, shell] = fields[..] else { return None };
    let [name, comment, home, shell] = [name, comment, home, shell].map(str::to_owned);
    Some(UserLine { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, comment, home, shell })
}

fn parse_group(line: &str) -> Option<GroupLine> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, gid, members] = fields[..] else { return None };
    let members = members.split(',').filter(|member| !member.is_empty()).map(str::to_owned).collect();
    Some(GroupLine { name: name.to_owned(), gid: gid.parse().ok()?, members })
}

#[cfg(test)]
mod tests {
    use knarr_recipe::recipe::{Group, User};

    use super::{Accounts, NONROOT};

    fn user(name: &str, uid: Option<u32>) -> User {
        User { name: name.to_owned(), uid, ..User::default() }
    }

    #[test]
    fn owners_are_found_by_name_number_and_custom() {
        let mut accounts = Accounts::minimal();
        assert_eq!(accounts.owner("root").unwrap(), (0, 0));
        assert_eq!(accounts.owner("nonroot:root").unwrap(), (NONROOT, 0));
        assert_eq!(accounts.owner("7:9").unwrap(), (7, 9));
        assert_eq!(accounts.owner("www-data").unwrap(), (33, 33));
        assert_eq!(accounts.owner("root:adm").unwrap(), (0, 4));
        assert!(accounts.owner("stranger").unwrap_err().to_string().contains("[[user]]"));
        assert!(accounts.user("www-data").is_some() && accounts.group("www-data").is_some());
    }

    #[test]
    fn numbers_are_given_once() {
        let mut accounts = Accounts::minimal();
        accounts.add_user(&user("a", None)).unwrap();
        accounts.add_user(&user("b", None)).unwrap();
        assert_eq!((accounts.user("a").unwrap().uid, accounts.user("b").unwrap().uid), (1000, 1001));
        assert!(accounts.add_user(&user("c", Some(1000))).unwrap_err().to_string().contains("is that of a"));
        assert!(accounts.add_user(&user("a", None)).unwrap_err().to_string().contains("already"));
        let group = Group { name: "g".to_owned(), gid: Some(1000), members: Vec::new() };
        assert!(accounts.add_group(&group).is_err());
    }
}
