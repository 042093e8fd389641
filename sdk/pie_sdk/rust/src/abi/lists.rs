//! Strings and lists: a pointer and a length.

use std::alloc::{self, Layout as Block};

use super::{Arena, Flat, Layout, Lift, Lower};

macro_rules! pointer {
    ($([$($generic:tt)*] $type:ty;)*) => { $(
        impl<$($generic)*> Layout for $type {
            const SIZE: usize = 8;
            const ALIGN: usize = 4;
            const FLAT: usize = 2;
        }
    )* };
}

pointer! {
    ['a] &'a str;
    [] String;
    ['a, T: Layout] &'a [T];
    [T: Layout] Vec<T>;
}

unsafe fn put(at: *mut u8, pointer: *const u8, length: usize) {
    *at.cast::<u32>() = pointer as usize as u32;
    *at.cast::<u32>().add(1) = length as u32;
}

unsafe fn get(at: *const u8) -> (*mut u8, usize) {
    (*at.cast::<u32>() as usize as *mut u8, *at.cast::<u32>().add(1) as usize)
}

impl<'a> Lower for &'a str {
    fn flatten(&self, flat: &mut Flat, _: &mut Arena) {
        flat.push(self.as_ptr() as usize as u64);
        flat.push(self.len() as u64);
    }
    unsafe fn store(&self, at: *mut u8, _: &mut Arena) {
        put(at, self.as_ptr(), self.len());
    }
}

impl Lower for String {
    fn flatten(&self, flat: &mut Flat, arena: &mut Arena) {
        self.as_str().flatten(flat, arena);
    }
    unsafe fn store(&self, at: *mut u8, arena: &mut Arena) {
        self.as_str().store(at, arena);
    }
}

impl Lift for String {
    unsafe fn load(at: *const u8) -> Self {
        match get(at) {
            (_, 0) => String::new(),
            // The host checks that strings are UTF-8 before they cross.
            (pointer, length) => String::from_raw_parts(pointer, length, length),
        }
    }
}

/// The elements in memory as the host reads them; in place where Rust's layout is the same.
fn elements<T: Lower>(list: &[T], arena: &mut Arena) -> *const u8 {
    if T::PLAIN {
        return list.as_ptr().cast();
    }
    let at = arena.allocate(T::SIZE * list.len(), T::ALIGN);
    for (index, element) in list.iter().enumerate() {
        unsafe { element.store(at.add(index * T::SIZE), arena) };
    }
    at
}

impl<'a, T: Lower> Lower for &'a [T] {
    fn flatten(&self, flat: &mut Flat, arena: &mut Arena) {
        flat.push(elements(self, arena) as usize as u64);
        flat.push(self.len() as u64);
    }
    unsafe fn store(&self, at: *mut u8, arena: &mut Arena) {
        put(at, elements(self, arena), self.len());
    }
}

impl<T: Lower> Lower for Vec<T> {
    fn flatten(&self, flat: &mut Flat, arena: &mut Arena) {
        self.as_slice().flatten(flat, arena);
    }
    unsafe fn store(&self, at: *mut u8, arena: &mut Arena) {
        self.as_slice().store(at, arena);
    }
}

impl<T: Lift> Lift for Vec<T> {
    unsafe fn load(at: *const u8) -> Self {
        let (first, length) = get(at);
        if length == 0 {
            return Vec::new();
        }
        if T::PLAIN {
            return Vec::from_raw_parts(first.cast(), length, length);
        }
        let list = (0..length).map(|index| T::load(first.add(index * T::SIZE))).collect();
        alloc::dealloc(first, Block::from_size_align_unchecked(length * T::SIZE, T::ALIGN));
        list
    }
}
