//! How long a script may run before it gives the thread back.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use mlua::{HookTriggers, Lua, VmState};

/// Instructions between two looks at the budget. One of them may be a call into a library that takes
/// milliseconds, so there are not many.
const STEP: u32 = 256;

/// What one script may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of one state with all that it holds, in bytes.
    pub memory: usize,
    /// From one wait to the next.
    pub instructions: u64,
    /// From one wait to the next: for calls into libraries, each of which is one instruction, and ends before it is
    /// looked at.
    pub time: Duration,
}

/// What is left until the script has to wait or end.
#[derive(Debug)]
pub(crate) struct Budget {
    limits: Limits,
    left: Cell<u64>,
    end: Cell<Instant>,
    spent: Cell<bool>,
}

impl Budget {
    /// Counts from now on whatever runs in `lua`.
    pub(crate) fn new(lua: &Lua, limits: Limits) -> mlua::Result<Rc<Self>> {
        let budget = Rc::new(Self {
            limits,
            left: Cell::new(limits.instructions),
            end: Cell::new(Instant::now() + limits.time),
            spent: Cell::new(false),
        });
        budget.watch(lua, STEP)?;
        Ok(budget)
    }

    pub(crate) fn begin(self: &Rc<Self>, lua: &Lua) -> mlua::Result<()> {
        self.left.set(self.limits.instructions);
        self.end.set(Instant::now() + self.limits.time);
        match self.spent.replace(false) {
            true => self.watch(lua, STEP),
            false => Ok(()),
        }
    }

    pub(crate) fn is_spent(&self) -> bool {
        self.spent.get()
    }

    fn watch(self: &Rc<Self>, lua: &Lua, step: u32) -> mlua::Result<()> {
        let budget = Rc::clone(self);
        let triggers = HookTriggers::new().every_nth_instruction(step);
        lua.set_global_hook(triggers, move |lua, _| budget.look(lua))
    }

    fn look(self: &Rc<Self>, lua: &Lua) -> mlua::Result<VmState> {
        if !self.spent.get() {
            let left = self.left.get().saturating_sub(STEP.into());
            self.left.set(left);
            if left > 0 && Instant::now() < self.end.get() {
                return Ok(VmState::Continue);
            }
            self.spent.set(true);
            // Who catches the error gets no further: the next instruction has it again.
            self.watch(lua, 1)?;
        }
        Err(mlua::Error::runtime("the script ran for too long"))
    }
}
