//! CPU budgets that cost a running script nothing until they fire.
//!
//! Luau calls an interrupt function at loop back edges, calls and pattern steps, if one is set. A set one costs some 30 ns each time, so
//! none is set: a watchdog thread looks every [`TICK`] at each runtime thread's [`Seat`], and where the same poll has been running since
//! its last look it sets the VM's interrupt. The interrupt, on the VM's own thread, charges the turn, and makes the script give way or
//! stops it. So a poll reads no clock unless a look falls into it. The watchdog sleeps while nothing runs.
//!
//! A turn that has been charged before runs `measured`: it computes for long, as far as is known, so it gives way every [`SLICE`], and
//! others on its thread hardly notice it.
//!
//! A look knows when it was, but not how much of the time since went to other threads, so what a turn is charged first is capped. From
//! then on the turn is measured by its thread's CPU clock, so that long calls of the host count in full.

use std::{
    ffi::c_void,
    ptr::{self, NonNull},
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicPtr, Ordering},
    },
    thread::Thread,
    time::{Duration, Instant},
};

use mlua::{Lua, VmState, ffi};

use crate::turnstile::cpu_time;

/// How often the watchdog looks, and so how exact budgets are.
pub(super) const TICK: Duration = Duration::from_millis(1);
/// How long a script that computes for long holds its thread at a time; the watchdog looks as often while there is one.
const SLICE: Duration = Duration::from_micros(250);
/// How many slices without such a script until the watchdog looks every [`TICK`] again.
const CALM_SLICES: u32 = 40;
/// The most that the stretch since a look is charged. One that is longer may have been spent waiting for a core, rather than on one.
const LONGEST: Duration = Duration::from_millis(5);
/// How many ticks without a poll until the watchdog sleeps.
const IDLE_TICKS: u32 = 200;

/// The field of one VM that holds its interrupt function, if any. Not to be used after the VM is gone.
#[derive(Clone, Copy)]
pub(super) struct Switch(NonNull<AtomicPtr<c_void>>);

impl Switch {
    fn of(lua: &Lua) -> Self {
        // SAFETY: `lua_callbacks` returns a pointer into the VM's global state, valid and unmoved as long as the VM.
        let field = unsafe { &raw mut (*ffi::lua_callbacks(lua.current_thread().state())).interrupt };
        // The field is an `Option` of a function pointer: it has the size, alignment and null of an `AtomicPtr`.
        Self(NonNull::new(field.cast()).expect("the address of a field is not null"))
    }

    /// Stores the function, or null, and returns what was there.
    fn set(self, interrupt: *mut c_void) -> *mut c_void {
        // SAFETY: the VM is alive, see `Switch`, `Gate` and `Seat::enter`. Luau's header states that this one field may be set from any
        // thread while the VM runs; the VM reads it anew at each safepoint.
        unsafe { self.0.as_ref() }.swap(interrupt, Ordering::Relaxed)
    }

    /// Switches the interrupt off until the watchdog finds the poll still running.
    pub(super) fn off(self) {
        self.set(ptr::null_mut());
    }
}

/// A VM's switch and the function that it switches on.
#[derive(Clone, Copy)]
pub(super) struct Gate {
    switch: Switch,
    interrupt: *mut c_void,
}

// SAFETY: another thread only stores one of the pointers through the other, into an atomic, and only while a poll borrows the VM.
unsafe impl Send for Gate {}

impl Gate {
    /// Gives a VM its interrupt function, switched off.
    pub(super) fn install(lua: &Lua, interrupt: impl Fn(&Lua, Switch) -> mlua::Result<VmState> + 'static) -> Self {
        let switch = Switch::of(lua);
        lua.set_interrupt(move |lua| interrupt(lua, switch));
        Self { switch, interrupt: switch.set(ptr::null_mut()) }
    }
}

/// A runtime thread's place under the watchdog's eyes: which VM it is running now, if any.
#[derive(Default)]
pub(super) struct Seat(Mutex<Watched>);

#[derive(Default)]
struct Watched {
    running: Option<Gate>,
    /// Something ran since the watchdog's last look.
    active: bool,
    /// What ran was measured.
    long: bool,
    /// When the watchdog first saw this poll running, or first after it was last charged.
    seen: Option<Instant>,
    /// The thread's CPU time at the last charge, or when a measured poll began.
    charged: Option<Duration>,
}

impl Seat {
    /// Takes a seat for this thread; it is given up by dropping it.
    pub(super) fn take() -> Arc<Self> {
        let seat = Arc::new(Self::default());
        lock(&WATCHDOG.seats).push(Arc::downgrade(&seat));
        seat
    }

    /// Says that a poll of this VM begins. It ends, and the interrupt is off for certain, when the guard is dropped.
    ///
    /// A `measured` poll is charged its CPU time from here on, and ends with its slice; it is for turns that
    /// are known or expected to be long, since it costs two system calls. The guard borrows the VM, so a VM is alive while the watchdog can reach it.
    pub(super) fn enter<'a>(&'a self, gate: Gate, _vm: &'a Lua, measured: bool) -> Running<'a> {
        let charged = measured.then(cpu_time);
        *lock(&self.0) = Watched { running: Some(gate), active: true, long: measured, seen: None, charged };
        // The watchdog goes to sleep by setting `asleep` and then looking at every seat: either it sees this poll, or we see the flag.
        if WATCHDOG.asleep.load(Ordering::Acquire) {
            WATCHDOG.wake();
        }
        Running { seat: self, gate }
    }

    /// The CPU time of the poll since it was last charged or, if it is measured, began. Before that it is the time since a look, if one
    /// fell into the poll: one shorter than a tick is charged a tick rarely and nothing often, which is right on average.
    pub(super) fn charge(&self) -> Duration {
        let mut poll = lock(&self.0);
        let seen = poll.seen.take();
        if poll.charged.is_none() && seen.is_none() {
            return Duration::ZERO;
        }
        let now = cpu_time();
        match (poll.charged.replace(now), seen) {
            (Some(before), _) => now.saturating_sub(before),
            (None, seen) => seen.map_or(Duration::ZERO, |seen| (seen.elapsed() + TICK).min(LONGEST)),
        }
    }
}

/// A poll in progress.
pub(super) struct Running<'a> {
    seat: &'a Seat,
    gate: Gate,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        lock(&self.seat.0).running = None;
        self.gate.switch.off();
    }
}

struct Watchdog {
    asleep: AtomicBool,
    seats: Mutex<Vec<Weak<Seat>>>,
    thread: Thread,
}

static WATCHDOG: LazyLock<Watchdog> = LazyLock::new(|| {
    // It waits for the `LazyLock` it is part of, which is there once this closure has returned.
    let handle = std::thread::Builder::new().name("flow-watchdog".into()).spawn(|| {
        hurry();
        WATCHDOG.watch();
    });
    let thread = handle.expect("the system can start one more thread").thread().clone();
    Watchdog { asleep: AtomicBool::new(false), seats: Mutex::default(), thread }
});

/// Asks the scheduler to let this thread run as soon as it wants to, for a moment at a time. Without that it waits behind the very
/// script that it is to interrupt until the next tick, up to 4 ms. A shorter slice than others have is enough for that and needs no
/// privilege (Linux 6.12 and later: `sched_setattr(2)`, "sched_runtime"); an older kernel refuses it or takes no notice.
fn hurry() {
    #[repr(C)]
    #[derive(Default)]
    struct Attributes {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    let size = u32::try_from(size_of::<Attributes>()).expect("48 bytes");
    let attributes = Attributes { size, runtime: 100_000, ..Attributes::default() };
    // SAFETY: the kernel reads `size` bytes from the pointer, which are there and initialised, and writes nothing; 0 is this thread.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
}

/// What the watchdog saw since it looked before.
#[derive(Default)]
struct Look {
    /// Something ran.
    active: bool,
    /// A measured poll was among it.
    long: bool,
}

impl Watchdog {
    fn watch(&self) {
        let (mut idle, mut calm, mut last) = (0, CALM_SLICES, Instant::now());
        loop {
            std::thread::park_timeout(if calm < CALM_SLICES { SLICE } else { TICK });
            let tick = last.elapsed() >= TICK;
            if tick {
                last = Instant::now();
            }
            let Look { active, long } = self.look(tick);
            calm = if long { 0 } else { calm.saturating_add(1) };
            idle = if active { 0 } else { idle + u32::from(tick) };
            if idle > IDLE_TICKS {
                self.asleep.store(true, Ordering::Release);
                if self.look(true).active {
                    self.asleep.store(false, Ordering::Release);
                }
                while self.asleep.load(Ordering::Acquire) {
                    std::thread::park();
                }
                idle = 0;
            }
        }
    }

    /// Arms measured polls and, each [`TICK`], all others that have been running since the last.
    fn look(&self, tick: bool) -> Look {
        let mut look = Look::default();
        lock(&self.seats).retain(|seat| {
            let Some(seat) = seat.upgrade() else { return false };
            let mut seat = lock(&seat.0);
            look.long |= std::mem::take(&mut seat.long) || (seat.running.is_some() && seat.charged.is_some());
            look.active |= std::mem::take(&mut seat.active) || seat.running.is_some();
            match (seat.running, seat.seen) {
                (Some(gate), _) if seat.charged.is_some() => drop(gate.switch.set(gate.interrupt)),
                (Some(gate), Some(_)) if tick => drop(gate.switch.set(gate.interrupt)),
                (Some(_), None) if tick => seat.seen = Some(Instant::now()),
                _ => {}
            }
            true
        });
        look
    }

    #[cold]
    fn wake(&self) {
        self.asleep.store(false, Ordering::Release);
        self.thread.unpark();
    }
}

/// Nothing here can be left half done by a panic, so a poisoned lock is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_sleeps_when_nothing_runs_and_wakes_up_for_a_poll() {
        let lua = Lua::new();
        let seat = Seat::take();
        let fired = std::rc::Rc::new(std::cell::Cell::new(0));
        let (counter, charged) = (fired.clone(), seat.clone());
        let gate = Gate::install(&lua, move |_, switch| {
            counter.set(counter.get() + 1);
            switch.off();
            let charge = charged.charge();
            assert!(if counter.get() == 1 { (TICK..=LONGEST).contains(&charge) } else { charge > Duration::ZERO });
            if counter.get() == 3 { Err(mlua::Error::runtime("enough")) } else { Ok(VmState::Continue) }
        });
        // Other tests may keep it awake for a while.
        while !WATCHDOG.asleep.load(Ordering::Acquire) {
            std::thread::park_timeout(TICK);
        }
        let running = seat.enter(gate, &lua, false);
        assert!(lua.load("while true do end").exec().is_err());
        drop(running);
        assert_eq!(fired.get(), 3);
        lua.load("for i = 1, 1000 do end").exec().unwrap();
        assert_eq!(fired.get(), 3, "off between polls");
    }
}
