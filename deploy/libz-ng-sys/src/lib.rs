//! pingora-core turns on flate2's `zlib-ng` backend, whose `libz-ng-sys` is built with cmake: a fresh machine would have to
//! install it before `cargo run`. zlib-rs offers the same C interface in Rust, so it stands in (see `[patch]` in Cargo.toml).
//!
//! flate2 expects `zalloc` and `zfree` to be plain function pointers, so the stream type is declared again here that way;
//! `Option<fn>` and `fn` have one layout, and the functions flate2 calls are passed through with the pointer cast.
#![no_std]
#![allow(non_camel_case_types, non_snake_case, reason = "names of the C interface")]
#![allow(clippy::missing_safety_doc, reason = "the contract of each function is zlib's own")]

use core::ffi::{c_char, c_int, c_void};

pub use libz_rs_sys::*;

/// zlib's stream, with allocators that are always there.
#[repr(C)]
pub struct z_stream {
    pub next_in: *const Bytef,
    pub avail_in: uInt,
    pub total_in: uLong,
    pub next_out: *mut Bytef,
    pub avail_out: uInt,
    pub total_out: uLong,
    pub msg: *mut c_char,
    pub state: *mut internal_state,
    pub zalloc: extern "C" fn(*mut c_void, uInt, uInt) -> *mut c_void,
    pub zfree: extern "C" fn(*mut c_void, *mut c_void),
    pub opaque: voidpf,
    pub data_type: c_int,
    pub adler: uLong,
    pub reserved: uLong,
}

const _: () = assert!(size_of::<z_stream>() == size_of::<libz_rs_sys::z_stream>());
const _: () = assert!(core::mem::offset_of!(z_stream, zfree) == core::mem::offset_of!(libz_rs_sys::z_stream, zfree));
const _: () = assert!(core::mem::offset_of!(z_stream, reserved) == core::mem::offset_of!(libz_rs_sys::z_stream, reserved));

macro_rules! pass_through {
    ($($name:ident($($arg:ident: $type:ty),*);)*) => {$(
        pub unsafe extern "C" fn $name(stream: *mut z_stream $(, $arg: $type)*) -> c_int {
            // SAFETY: both stream types have one layout (checked above); the rest is the caller's contract with zlib.
            unsafe { libz_rs_sys::$name(stream.cast() $(, $arg)*) }
        }
    )*};
}

pass_through! {
    deflate(flush: c_int);
    deflateEnd();
    deflateInit2_(level: c_int, method: c_int, bits: c_int, memory: c_int, strategy: c_int, version: *const c_char, size: c_int);
    deflateParams(level: c_int, strategy: c_int);
    deflateReset();
    deflateSetDictionary(dictionary: *const Bytef, length: uInt);
    inflate(flush: c_int);
    inflateEnd();
    inflateInit2_(bits: c_int, version: *const c_char, size: c_int);
    inflateReset2(bits: c_int);
    inflateSetDictionary(dictionary: *const Bytef, length: uInt);
}
