//! The VMs and coroutines of a runtime thread: a VM for each script it has run lately, coroutines used again and again.
//!
//! A VM never leaves its thread. What a task holds between polls is a [`Place`], an index with a generation, so tasks stay `Send`.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::{
        Arc, Weak,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

use mlua::{Function, Lua, Thread, chunk::ChunkMode};

use super::{
    Script,
    budget::{Gate, Seat},
    host,
    sandbox::Sandbox,
    script::ScriptKey,
};
use crate::turnstile::Turnstile;

/// VMs a thread keeps for later turns, of some 600 KB each. More can live at a time only while turns run in them.
const MAX_VMS: usize = 128;
/// Coroutines a VM keeps for later turns.
const MAX_POOLED: usize = 64;

/// Memory of a VM, in bytes, from which on its garbage is collected at the end of a turn, if it may be half of it: a collection takes as
/// long as there is memory in use, other turns' as well, and nobody is charged for it.
const COLLECT_ABOVE: usize = 8 << 20;

/// VMs of all threads.
static ALIVE: AtomicI64 = AtomicI64::new(0);

/// How many VMs are alive in this process.
pub fn vms() -> i64 {
    ALIVE.load(Ordering::Relaxed)
}

/// A script, loaded, in a sandbox of its own.
pub(super) struct Vm {
    pub(super) sandbox: Sandbox,
    pub(super) gate: Gate,
    /// Its thread's.
    pub(super) seat: Arc<Seat>,
    /// Through which its tenant's scripts go, one at a time, once they have computed for long; whichever of them they are.
    pub(super) turnstile: Arc<Turnstile>,
    chunk: Function,
    pool: RefCell<Vec<Thread>>,
    script: RefCell<Weak<Script>>,
    /// By how many bytes turns grew it that have ended since the last collection.
    garbage: Cell<usize>,
    /// Memory in use after the last collection.
    kept: Cell<usize>,
    /// When it was last given a turn, counted in turns of this thread.
    used: Cell<u64>,
}

impl Vm {
    pub(super) fn new(script: &Arc<Script>, seat: Arc<Seat>, turnstile: Arc<Turnstile>) -> mlua::Result<Self> {
        let sandbox = Sandbox::new()?;
        let watched = seat.clone();
        let gate = Gate::install(&sandbox.lua, move |lua, switch| host::interrupted(lua, switch, watched.charge()));
        let chunk = sandbox.lua.load(script.bytecode()).set_mode(ChunkMode::Binary).set_name(format!("={}", script.name()));
        let chunk = chunk.into_function()?;
        let script = RefCell::new(Arc::downgrade(script));
        ALIVE.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            sandbox,
            gate,
            seat,
            turnstile,
            chunk,
            pool: RefCell::default(),
            script,
            garbage: Cell::new(0),
            kept: Cell::new(0),
            used: Cell::new(0),
        })
    }

    pub(super) fn lua(&self) -> &Lua {
        &self.sandbox.lua
    }

    /// A coroutine ready to be resumed with a chunk.
    pub(super) fn coroutine(self: Rc<Self>) -> mlua::Result<Coroutine> {
        let pooled = self.pool.borrow_mut().pop();
        let thread = pooled.map_or_else(|| self.lua().create_thread(self.sandbox.drive.clone()), Ok)?;
        Ok(Coroutine { vm: self, thread })
    }

    /// The script's chunk with fresh globals.
    pub(super) fn instance(&self) -> mlua::Result<Function> {
        self.sandbox.instance(&self.chunk)
    }

    /// Takes a coroutine back, in whatever state it is, whose turn grew the VM by so many bytes.
    fn recycle(&self, thread: Thread, grown: usize) {
        let mut pool = self.pool.borrow_mut();
        if pool.len() < MAX_POOLED && thread.reset(self.sandbox.drive.clone()).is_ok() {
            pool.push(thread);
        }
        // Luau collects in step with what is allocated, so the garbage of one large turn would stay for thousands of small ones.
        let (used, garbage) = (self.lua().used_memory(), self.garbage.get().saturating_add(grown));
        self.garbage.set(garbage);
        if used > COLLECT_ABOVE && garbage.max(used.saturating_sub(self.kept.get())) > used / 2 {
            if self.lua().gc_collect().is_err() {
                log::error!("a flow's garbage could not be collected");
            }
            self.garbage.set(0);
            self.kept.set(self.lua().used_memory());
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        ALIVE.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A turn's coroutine and the VM it lives in.
pub(super) struct Coroutine {
    pub(super) vm: Rc<Vm>,
    pub(super) thread: Thread,
}

/// Where a turn's coroutine waits between polls.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    thread: u64,
    index: usize,
    generation: u64,
}

/// All VMs and coroutines of one thread.
pub(super) struct Local {
    id: u64,
    seat: Arc<Seat>,
    vms: RefCell<HashMap<ScriptKey, Rc<Vm>>>,
    waiting: RefCell<Vec<Slot>>,
    free: RefCell<Vec<usize>>,
    turns: Cell<u64>,
}

struct Slot {
    generation: u64,
    coroutine: Option<Coroutine>,
}

thread_local! {
    static LOCAL: Local = Local::new();
}

/// This thread's VMs; `None` while the thread ends.
pub(super) fn local<R>(f: impl FnOnce(&Local) -> R) -> Option<R> {
    LOCAL.try_with(f).ok()
}

impl Local {
    fn new() -> Self {
        static THREADS: AtomicU64 = AtomicU64::new(0);
        Self {
            id: THREADS.fetch_add(1, Ordering::Relaxed),
            seat: Seat::take(),
            vms: RefCell::default(),
            waiting: RefCell::default(),
            free: RefCell::default(),
            turns: Cell::new(0),
        }
    }

    /// The VM of a script; made if need be, which takes a third of a millisecond.
    pub(super) fn vm(&self, script: &Arc<Script>) -> mlua::Result<Rc<Vm>> {
        self.turns.set(self.turns.get() + 1);
        let mut vms = self.vms.borrow_mut();
        if let Some(vm) = vms.get(script.key()) {
            vm.used.set(self.turns.get());
            if vm.script.borrow().as_ptr() != Arc::as_ptr(script) {
                *vm.script.borrow_mut() = Arc::downgrade(script); // the same source, loaded again
            }
            return Ok(vm.clone());
        }
        vms.retain(|_, vm| vm.script.borrow().strong_count() > 0);
        if vms.len() >= MAX_VMS
            && let Some(oldest) = vms.iter().min_by_key(|(_, vm)| vm.used.get()).map(|(key, _)| key.clone())
        {
            vms.remove(&oldest);
        }
        let vm = Rc::new(Vm::new(script, self.seat.clone(), Turnstile::of(Some(script.tenant())))?);
        vm.used.set(self.turns.get());
        vms.insert(script.key().clone(), vm.clone());
        Ok(vm)
    }

    /// Keeps a coroutine until its next poll.
    pub(super) fn put(&self, coroutine: Coroutine) -> Place {
        let mut waiting = self.waiting.borrow_mut();
        let index = self.free.borrow_mut().pop().unwrap_or_else(|| {
            waiting.push(Slot { generation: 0, coroutine: None });
            waiting.len() - 1
        });
        let slot = &mut waiting[index];
        slot.coroutine = Some(coroutine);
        Place { thread: self.id, index, generation: slot.generation }
    }

    /// Takes a coroutine out for a poll. `None` if it is not this thread's.
    pub(super) fn take(&self, place: Place) -> Option<Coroutine> {
        let mut waiting = self.waiting.borrow_mut();
        let slot = waiting.get_mut(place.index).filter(|slot| place.thread == self.id && slot.generation == place.generation)?;
        slot.generation += 1;
        self.free.borrow_mut().push(place.index);
        slot.coroutine.take()
    }

    /// Ends a coroutine whose turn grew its VM by so many bytes. The VM is dropped with it if it is no longer kept.
    pub(super) fn end(&self, coroutine: Coroutine, grown: usize) {
        let Coroutine { vm, thread } = coroutine;
        vm.recycle(thread, grown);
        let replaced = vm.script.borrow().strong_count() == 0;
        if replaced {
            self.vms.borrow_mut().retain(|_, kept| !Rc::ptr_eq(kept, &vm));
        }
    }

    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.vms.borrow().len()
    }

    #[cfg(test)]
    pub(super) fn coroutines(&self) -> usize {
        self.waiting.borrow().iter().filter(|slot| slot.coroutine.is_some()).count()
    }
}
