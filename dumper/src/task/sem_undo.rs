//! What the kernel would do to System V semaphores when a task ends (`SEM_UNDO`).
//!
//! Nothing shows these numbers. But an operation with `SEM_UNDO` fails with `ERANGE` when the
//! number would leave its range, and all operations of one `semop` happen or none: so each task is
//! asked to do operations of which the last one fails in any case. How it fails tells whether the
//! number is beyond a bound; nobody ever sees a value change, and a few such questions find it.

use crate::Error;
use crate::ns::{Cx, ipc};
use images::checkpoint::NsKind;
use images::proto::AmberSemUndoEntry;
use parasite::{Answers, Call, Infected, Script};

/// `SEMVMX`: the largest value, and the largest number to be undone.
const MAX: i32 = 32767;
/// Operations for one semaphore, at most.
const EACH: usize = 4;
/// `SEMOPM` unless somebody changed it; there may be more.
const OPERATIONS: usize = 500;
/// How often other tasks may get between the values and the question.
const TRIES: usize = 5;
const NO_WAIT: i16 = libc::IPC_NOWAIT as i16;
const UNDO: i16 = libc::SEM_UNDO as i16 | NO_WAIT;

/// A set of semaphores with its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Set {
    pub(crate) id: i32,
    pub(crate) values: Vec<u16>,
}

/// Sets that tasks of the tree may have operated on.
#[derive(Debug, Default)]
pub(crate) struct Sets {
    sets: Vec<Set>,
    /// They are part of the dump, and nobody else operates on them.
    own: bool,
    per_call: usize,
}

/// On which side of a bound a number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    /// Over it (0 or more).
    Over(i32),
    /// Under its negative.
    Under(i32),
}

/// `struct sembuf`.
fn operation(to: &mut Vec<u8>, semaphore: usize, by: i32, flags: i16) {
    if by == 0 {
        return;
    }
    to.extend_from_slice(&(semaphore as u16).to_ne_bytes());
    to.extend_from_slice(&(by as i16).to_ne_bytes());
    to.extend_from_slice(&flags.to_ne_bytes());
}

/// Operations that are out of range if the number is beyond `bound`; the value that would be left.
fn question(to: &mut Vec<u8>, semaphore: usize, value: u16, bound: Bound) -> i32 {
    let value = i32::from(value);
    match bound {
        Bound::Over(bound) => {
            let taken = MAX - bound;
            operation(to, semaphore, (taken - value).max(0), NO_WAIT);
            operation(to, semaphore, -taken, UNDO);
            (value - taken).max(0)
        }
        Bound::Under(bound) => {
            let mut given = MAX + 1 - bound;
            operation(to, semaphore, -value, NO_WAIT);
            if given > MAX {
                operation(to, semaphore, MAX, UNDO);
                operation(to, semaphore, -MAX, NO_WAIT);
                given -= MAX;
            }
            operation(to, semaphore, given, UNDO);
            given
        }
    }
}

/// One call about some semaphores of a set.
fn ask(script: &mut Script, set: &Set, which: std::ops::Range<usize>, bound: Bound) -> Call {
    let mut operations = Vec::new();
    let mut left = 0;
    let last = which.end - 1;
    for semaphore in which {
        left = question(&mut operations, semaphore, set.values[semaphore], bound);
    }
    // Takes more than there is.
    operation(&mut operations, last, -left - 1, NO_WAIT);
    let count = operations.len() / 6;
    let data = script.input(&operations);
    let args = [(set.id as u64).into(), data.into(), (count as u64).into()];
    script.call(libc::SYS_semop, &args)
}

fn is_beyond(answers: &Answers, call: Call) -> bool {
    answers.result(call) == -i64::from(libc::ERANGE)
}

/// The calls of one round, and what each is about.
type Asked = Vec<(Call, usize, std::ops::Range<usize>)>;

impl Sets {
    /// Looks at the IPC namespace of the tree.
    pub(crate) fn collect(cx: &Cx<'_>) -> Result<Self, Error> {
        let own = cx.all.root(NsKind::Ipc);
        let look = || ipc::semaphore_sets();
        let sets = match own {
            Some(ns) => ns.inside(look)?,
            None => look()?,
        };
        let sets = sets.into_iter().filter(|s| !s.values.is_empty()).collect();
        Ok(Self { sets, own: own.is_some(), per_call: (OPERATIONS - 1) / EACH })
    }

    /// Asks about all of them, whether there is anything to undo.
    pub(crate) fn script(&self) -> Script {
        self.first().0
    }

    fn first(&self) -> (Script, Asked) {
        let mut script = Script::default();
        let mut asked = Vec::new();
        for (at, set) in self.sets.iter().enumerate() {
            for from in (0..set.values.len()).step_by(self.per_call) {
                let which = from..set.values.len().min(from + self.per_call);
                for bound in [Bound::Over(0), Bound::Under(0)] {
                    asked.push((ask(&mut script, set, which.clone(), bound), at, which.clone()));
                }
            }
        }
        (script, asked)
    }

    /// What `task` would undo.
    pub(crate) fn of(
        &self,
        task: &mut Infected<'_>,
        pid: i32,
    ) -> Result<Vec<AmberSemUndoEntry>, Error> {
        let (script, asked) = self.first();
        if asked.is_empty() {
            return Ok(Vec::new());
        }
        let answers = task.run(&script)?;
        let mut found = Vec::new();
        for (call, at, which) in asked {
            if !is_beyond(&answers, call) {
                continue;
            }
            let set = &self.sets[at];
            for semaphore in which {
                if found.iter().any(|f: &AmberSemUndoEntry| {
                    (f.semid, f.num) == (set.id as u32, semaphore as u32)
                }) {
                    continue;
                }
                let undo = self.exactly(task, set, semaphore)?;
                if undo != 0 {
                    found.push(AmberSemUndoEntry {
                        semid: set.id as u32,
                        num: semaphore as u32,
                        undo,
                        value: set.values[semaphore].into(),
                    });
                }
            }
        }
        match found.first() {
            Some(f) if !self.own => Err(Error::Refused(format!(
                "task {pid} has operations on System V semaphore {} of set {} to be undone at its \
                 end (SEM_UNDO), and the set is not in an IPC namespace of the tree's own; run the \
                 tree in its own",
                f.num, f.semid
            ))),
            _ => Ok(found),
        }
    }

    /// The number of one semaphore.
    fn exactly(&self, task: &mut Infected<'_>, set: &Set, semaphore: usize) -> Result<i32, Error> {
        let mut set = set.clone();
        let mut beyond = |bound| -> Result<bool, Error> {
            for _ in 0..TRIES {
                let mut script = Script::default();
                let call = ask(&mut script, &set, semaphore..semaphore + 1, bound);
                if !is_beyond(&task.run(&script)?, call) {
                    return Ok(false);
                }
                if self.own {
                    return Ok(true);
                }
                // It may be out of range because somebody changed the value.
                let now = sys::ipc::semaphores(set.id, set.values.len())?;
                if std::mem::replace(&mut set.values, now.clone()) == now {
                    return Ok(true);
                }
            }
            Ok(true)
        };
        let (sign, bound): (i32, fn(i32) -> Bound) = if beyond(Bound::Over(0))? {
            (1, Bound::Over)
        } else if beyond(Bound::Under(0))? {
            (-1, Bound::Under)
        } else {
            return Ok(0);
        };
        // Beyond `low`, not beyond `high`; most are 1.
        let (mut low, mut high) = (0, 1);
        while high < MAX && beyond(bound(high))? {
            (low, high) = (high, (high * 2).min(MAX));
        }
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if beyond(bound(middle))? {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(sign * high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel does: `None` out of range, else whether all of it succeeded.
    fn semop(operations: &[u8], mut value: i32, mut undo: i32) -> Option<bool> {
        for op in operations.chunks_exact(6) {
            let by = i32::from(i16::from_ne_bytes([op[2], op[3]]));
            let flags = i16::from_ne_bytes([op[4], op[5]]);
            value += by;
            if value < 0 {
                return Some(false);
            }
            assert!(value <= MAX, "the value itself is out of range");
            if flags & libc::SEM_UNDO as i16 != 0 {
                undo -= by;
                if !(-MAX - 1..=MAX).contains(&undo) {
                    return None;
                }
            }
        }
        Some(true)
    }

    #[test]
    fn a_question_tells_the_side_and_never_succeeds() {
        for value in [0u16, 1, 5, 250, 32766, 32767] {
            for undo in [-32768, -32767, -3, -2, -1, 0, 1, 2, 3, 20_000, 32767] {
                for bound in [0, 1, 2, 3, 16_384, 32766] {
                    for (b, beyond) in
                        [(Bound::Over(bound), undo > bound), (Bound::Under(bound), undo < -bound)]
                    {
                        let mut ops = Vec::new();
                        let left = question(&mut ops, 0, value, b);
                        operation(&mut ops, 0, -left - 1, NO_WAIT);
                        let got = semop(&ops, value.into(), undo);
                        let want = if beyond { None } else { Some(false) };
                        assert_eq!(got, want, "{value} {undo} {b:?}");
                    }
                }
            }
        }
    }
}
