//! The order in which packages are unpacked and configured.
//!
//! [`configure_order`] sorts packages so that what a package depends on comes before it. Cycles
//! are cut where the walk meets them; a package without a script may stand anywhere in its cycle.
//!
//! Spec: Debian Policy 7.2 and 6.5.

use std::collections::HashMap;

use knarr_deb::relation::parse_relations;

use crate::BootstrapError;
use crate::package::Control;

/// For each package the packages (by position) that the relations in its `fields` lead to.
pub fn dependency_edges(packages: &[&Control], fields: &[&str]) -> Result<Vec<Vec<usize>>, BootstrapError> {
    let names = NameTable::new(packages)?;
    packages.iter().map(|package| edges_of(package, &names, fields)).collect()
}

/// Positions of `packages`, dependencies first; among equals by name, `base-passwd` before all.
pub fn configure_order(packages: &[&Control], edges: &[Vec<usize>]) -> Vec<usize> {
    let mut roots: Vec<usize> = (0..packages.len()).collect();
    // base-passwd makes the users and groups that every other script takes for granted.
    roots.sort_by_key(|&i| {
        (packages[i].name() != "base-passwd", packages[i].name(), packages[i].architecture())
    });
    let mut walk =
        Walk { edges, visited: vec![false; packages.len()], order: Vec::with_capacity(packages.len()) };
    for root in roots {
        walk.visit(root);
    }
    walk.order
}

/// Everything reachable from `start` along `edges`, `start` included.
pub fn closure(start: impl IntoIterator<Item = usize>, edges: &[Vec<usize>]) -> Vec<bool> {
    let mut reached = vec![false; edges.len()];
    let mut queue: Vec<usize> = start.into_iter().collect();
    while let Some(next) = queue.pop() {
        if !std::mem::replace(&mut reached[next], true) {
            queue.extend(&edges[next]);
        }
    }
    reached
}

struct Walk<'a> {
    edges: &'a [Vec<usize>],
    visited: Vec<bool>,
    order: Vec<usize>,
}

impl Walk<'_> {
    /// Iterative, because an attacker's dependency chain may be longer than the stack.
    fn visit(&mut self, root: usize) {
        let mut stack = vec![(root, 0)];
        if std::mem::replace(&mut self.visited[root], true) {
            return;
        }
        while let Some((node, next)) = stack.pop() {
            match self.edges[node].get(next) {
                None => self.order.push(node),
                Some(&child) => {
                    stack.push((node, next + 1));
                    if !std::mem::replace(&mut self.visited[child], true) {
                        stack.push((child, 0));
                    }
                }
            }
        }
    }
}

struct NameTable<'a> {
    real: HashMap<&'a str, Vec<usize>>,
    provided: HashMap<&'a str, Vec<usize>>,
}

impl<'a> NameTable<'a> {
    fn new(packages: &[&'a Control]) -> Result<Self, BootstrapError> {
        let mut table = Self { real: HashMap::new(), provided: HashMap::new() };
        for (position, package) in packages.iter().enumerate() {
            table.real.entry(package.name()).or_default().push(position);
            for relation in parse_relations(package.field("Provides"))?.into_iter().flatten() {
                table.provided.entry(relation.name).or_default().push(position);
            }
        }
        Ok(table)
    }

    fn find(&self, name: &str) -> impl Iterator<Item = usize> {
        let real = self.real.get(name).into_iter().flatten();
        real.chain(self.provided.get(name).into_iter().flatten()).copied()
    }
}

fn edges_of(package: &Control, names: &NameTable<'_>, fields: &[&str]) -> Result<Vec<usize>, BootstrapError> {
    let mut edges = Vec::new();
    for field in fields {
        for relation in parse_relations(package.field(field))?.into_iter().flatten() {
            edges.extend(names.find(relation.name));
        }
    }
    Ok(edges)
}
