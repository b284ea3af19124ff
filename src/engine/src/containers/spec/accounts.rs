//! Who a process is: names of users and groups become numbers, by the container's own files.
//!
//! Spec: passwd(5), group(5); docker's `user[:group]`.

use std::path::{Path, PathBuf};

use knarr_tree::root::Root;
use serde_json::{Value, json};

use crate::EngineError;

/// `/etc/passwd` and `/etc/group`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Accounts {
    passwd: String,
    group: String,
}

/// Who a process is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    groups: Vec<u32>,
    pub(crate) home: String,
}

impl User {
    pub(crate) fn to_value(&self) -> Value {
        json!({ "uid": self.uid, "gid": self.gid, "additionalGids": self.groups })
    }
}

impl Accounts {
    /// Of a container that does not run: what it has written lies over its layers.
    pub(crate) fn of_layers(upper: &Path, layers: &[PathBuf]) -> Self {
        let read = |name: &str| {
            let places = std::iter::once(upper).chain(layers.iter().rev().map(PathBuf::as_path));
            places.into_iter().find_map(|place| file(place, name)).unwrap_or_default()
        };
        Self { passwd: read("etc/passwd"), group: read("etc/group") }
    }

    /// Of what both files say.
    pub(crate) const fn of_texts(passwd: String, group: String) -> Self {
        Self { passwd, group }
    }

    /// Of one that runs.
    pub(crate) fn of_process(pid: i32) -> Self {
        let root = PathBuf::from(format!("/proc/{pid}/root"));
        Self {
            passwd: file(&root, "etc/passwd").unwrap_or_default(),
            group: file(&root, "etc/group").unwrap_or_default(),
        }
    }

    /// Finds `user[:group]`, each by name or number, and the groups that the user is in.
    pub(crate) fn find(&self, asked: &str, more: &[String]) -> Result<User, EngineError> {
        let (user, group) = asked.split_once(':').unwrap_or((asked, ""));
        let entry = |name: &str| {
            self.passwd
                .lines()
                .map(fields)
                .find(|entry| entry.len() >= 4 && (entry[0] == name || (is_number(name) && entry[2] == name)))
        };
        let number = |text: &str| {
            text.parse::<u32>().ok().filter(|number| *number < u32::MAX).ok_or_else(|| {
                EngineError::invalid(format!("uids and gids must be in range 0-2147483647: {text}"))
            })
        };
        let user = if user.is_empty() { "0" } else { user };
        let mut found = match entry(user) {
            Some(entry) => User {
                uid: number(entry[2])?,
                gid: number(entry[3])?,
                groups: Vec::new(),
                home: entry.get(5).filter(|home| !home.is_empty()).map_or("/", |home| home).to_owned(),
            },
            None if is_number(user) => User {
                uid: number(user)?,
                home: if user == "0" { "/root" } else { "/" }.to_owned(),
                ..User::default()
            },
            None => {
                return Err(EngineError::invalid(format!(
                    "unable to find user {user}: no matching entries in passwd file"
                )));
            }
        };
        if group.is_empty() {
            if let Some(entry) = entry(user) {
                found.groups = self.groups_of(entry[0], found.gid);
            }
        } else {
            found.gid = self.group(group)?;
        }
        for name in more {
            let gid = self.group(name)?;
            if !found.groups.contains(&gid) {
                found.groups.push(gid);
            }
        }
        Ok(found)
    }

    fn group(&self, name: &str) -> Result<u32, EngineError> {
        let entry = self.group.lines().map(fields).find(|entry| entry.len() >= 3 && entry[0] == name);
        match (entry, name.parse()) {
            (Some(entry), _) if entry[2].parse::<u32>().is_ok() => Ok(entry[2].parse().unwrap_or_default()),
            (_, Ok(number)) => Ok(number),
            _ => Err(EngineError::invalid(format!(
                "unable to find group {name}: no matching entries in group file"
            ))),
        }
    }

    fn groups_of(&self, user: &str, own: u32) -> Vec<u32> {
        let entries = self.group.lines().map(fields);
        let of_user =
            entries.filter(|entry| entry.len() >= 4 && entry[3].split(',').any(|name| name == user));
        of_user.filter_map(|entry| entry[2].parse().ok()).filter(|gid| *gid != own).collect()
    }
}

fn fields(line: &str) -> Vec<&str> {
    line.trim().split(':').collect()
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A file of a tree, by a path that cannot leave it; of accounts nobody needs more than a megabyte.
fn file(place: &Path, name: &str) -> Option<String> {
    use std::io::Read;
    let root = Root::open(place).ok()?;
    let mut text = Vec::new();
    root.open_file(name).ok()?.take(1 << 20).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::{Accounts, User};

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\nwww:x:33:33::/var/www:\n".to_owned(),
            group: "root:x:0:\nwww:x:33:\ntape:x:26:www,root\n".to_owned(),
        }
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        let www = User { uid: 33, gid: 33, groups: vec![26], home: "/var/www".to_owned() };
        assert_eq!(accounts().find("www", &[]).unwrap(), www);
        assert_eq!(accounts().find("33", &[]).unwrap(), www);
        let own = accounts().find("www:tape", &["5".to_owned()]).unwrap();
        assert_eq!((own.gid, own.groups), (26, vec![5]));
        assert_eq!(accounts().find("1000", &[]).unwrap().home, "/");
        assert_eq!(Accounts::default().find("", &[]).unwrap().home, "/root");
    }

    #[test]
    fn unknown_names_are_told() {
        let told = |asked: &str| accounts().find(asked, &[]).unwrap_err().to_string();
        assert_eq!(told("nobody"), "unable to find user nobody: no matching entries in passwd file");
        assert_eq!(told("www:none"), "unable to find group none: no matching entries in group file");
    }
}
