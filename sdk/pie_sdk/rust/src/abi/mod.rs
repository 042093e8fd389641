//! The canonical ABI of the component model: how values cross to the host and back.
//!
//! Parameters are *flattened* into at most sixteen core values, or stored in memory when there are more. A result of one
//! core value is returned as it is, any other is written to memory that the caller provides.

mod lists;
#[macro_use]
mod named;
mod plain;
mod sums;

use std::alloc::{self, Layout as Block};

/// How a type lies in memory, and into how many core values it flattens.
pub trait Layout {
    const SIZE: usize;
    const ALIGN: usize;
    const FLAT: usize;
    /// Whether an array of it is laid out as Rust does it, every bit pattern being valid.
    const PLAIN: bool = false;
}

/// A value that can be passed to the host.
pub trait Lower: Layout {
    fn flatten(&self, flat: &mut Flat, arena: &mut Arena);
    /// Writes it to `at`, which has room and is aligned.
    unsafe fn store(&self, at: *mut u8, arena: &mut Arena);
}

/// A value that the host can return.
pub trait Lift: Layout + Sized {
    /// Reads it from `at` and takes over the memory that it points to.
    unsafe fn load(at: *const u8) -> Self;
}

pub const MAX_FLAT: usize = 16;

/// Core values, each in the low bits of a word.
pub struct Flat {
    words: [u64; MAX_FLAT],
    length: usize,
}

impl Flat {
    pub fn of<T: Lower>(value: &T, arena: &mut Arena) -> Flat {
        let mut flat = Flat { words: [0; MAX_FLAT], length: 0 };
        value.flatten(&mut flat, arena);
        flat
    }

    pub fn push(&mut self, word: u64) {
        self.words[self.length] = word;
        self.length += 1;
    }

    /// Where the next value goes.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Zeros up to that length: what the absent cases of a variant would have filled.
    pub fn pad(&mut self, length: usize) {
        self.length = length;
    }

    pub fn i32(&self, index: usize) -> i32 {
        self.words[index] as u32 as i32
    }

    pub fn i64(&self, index: usize) -> i64 {
        self.words[index] as i64
    }

    pub fn f32(&self, index: usize) -> f32 {
        f32::from_bits(self.words[index] as u32)
    }

    pub fn f64(&self, index: usize) -> f64 {
        f64::from_bits(self.words[index])
    }
}

/// Memory that a call's parameters point to; freed after the call.
#[derive(Default)]
pub struct Arena {
    blocks: Vec<(*mut u8, Block)>,
}

impl Arena {
    pub fn allocate(&mut self, size: usize, align: usize) -> *mut u8 {
        if size == 0 {
            return align as *mut u8;
        }
        let block = Block::from_size_align(size, align).expect("a value is larger than memory");
        let at = unsafe { alloc::alloc(block) };
        if at.is_null() {
            alloc::handle_alloc_error(block);
        }
        self.blocks.push((at, block));
        at
    }

    /// A copy of the value in memory: how parameters travel that flatten into too many core values.
    pub fn store<T: Lower>(&mut self, value: &T) -> *mut u8 {
        let at = self.allocate(T::SIZE, T::ALIGN);
        unsafe { value.store(at, self) };
        at
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        for (at, block) in self.blocks.drain(..) {
            unsafe { alloc::dealloc(at, block) };
        }
    }
}

/// What a single core value is as bits: little-endian memory of the value it stands for.
pub trait Core {
    fn word(self) -> [u64; 1];
}

impl Core for i32 {
    fn word(self) -> [u64; 1] {
        [self as u32 as u64]
    }
}

impl Core for i64 {
    fn word(self) -> [u64; 1] {
        [self as u64]
    }
}

impl Core for f32 {
    fn word(self) -> [u64; 1] {
        [self.to_bits() as u64]
    }
}

impl Core for f64 {
    fn word(self) -> [u64; 1] {
        [self.to_bits()]
    }
}

/// The value that a call returned as one core value.
pub unsafe fn from_core<T: Lift>(core: impl Core) -> T {
    T::load(core.word().as_ptr().cast())
}

/// How many words hold a value of this size.
pub const fn words(size: usize) -> usize {
    (size + 7) / 8
}

pub const fn align_up(offset: usize, align: usize) -> usize {
    (offset + align - 1) / align * align
}

pub const fn larger(a: usize, b: usize) -> usize {
    if a > b {
        a
    } else {
        b
    }
}

/// Where the host puts what it passes in.
#[export_name = "cabi_realloc"]
unsafe extern "C" fn cabi_realloc(old: *mut u8, old_size: usize, align: usize, size: usize) -> *mut u8 {
    if size == 0 {
        return align as *mut u8;
    }
    let block = Block::from_size_align_unchecked(size, align);
    let at = if old_size == 0 {
        alloc::alloc(block)
    } else {
        alloc::realloc(old, Block::from_size_align_unchecked(old_size, align), size)
    };
    if at.is_null() {
        alloc::handle_alloc_error(block);
    }
    at
}
