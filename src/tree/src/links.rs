//! Symbolic links, followed in a list of paths instead of a file system.
//!
//! Spec: path_resolution(7).

/// So many links are followed on the way to a path, as the kernel does.
const MAX_LINKS: usize = 40;

/// Where a path really lies: every link on the way is followed, the last one only with `whole`. `link_of` tells what a
/// path without leading `/` links to. There is no answer when links lead in a circle.
pub fn follow<'a>(path: &str, whole: bool, link_of: impl Fn(&str) -> Option<&'a str>) -> Option<String> {
    let mut rest: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
    let mut done: Vec<String> = Vec::new();
    let mut links = 0;
    while let Some(part) = rest.pop() {
        match part.as_str() {
            "" | "." => continue,
            ".." => {
                done.pop();
                continue;
            }
            _ => done.push(part),
        }
        let is_last = rest.iter().all(String::is_empty);
        let Some(link) = link_of(&done.join("/")).filter(|_| whole || !is_last) else { continue };
        links += 1;
        if links > MAX_LINKS {
            return None;
        }
        done.pop();
        if link.starts_with('/') {
            done.clear();
        }
        rest.extend(link.split('/').rev().map(str::to_owned));
    }
    Some(done.join("/"))
}
