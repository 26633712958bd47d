//! The plan as text: for debugging, and for tests that compare whole plans.

use crate::plan::tree::{Role, Tree};
use std::fmt;

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.line(f, 0, 0, "")
    }
}

impl Tree {
    fn line(
        &self,
        f: &mut fmt::Formatter<'_>,
        index: usize,
        depth: usize,
        when: &str,
    ) -> fmt::Result {
        let p = &self.processes[index];
        let role = match p.role {
            Role::Live(_) => "task",
            Role::Zombie(_) => "zombie",
            Role::Helper => "helper",
        };
        write!(f, "{:1$}{when}{role} {2}", "", 2 * depth, p.pid)?;
        if p.setsid {
            write!(f, " setsid")?;
        }
        if p.pgid != 0 {
            write!(f, " pgid {}", p.pgid)?;
        }
        if p.share_files {
            write!(f, " shares files")?;
        }
        if p.adopts {
            write!(f, " adopts")?;
        }
        writeln!(f)?;
        for c in &p.early {
            self.line(f, *c, depth + 1, "early ")?;
        }
        for c in &p.late {
            self.line(f, *c, depth + 1, "")?;
        }
        Ok(())
    }
}
