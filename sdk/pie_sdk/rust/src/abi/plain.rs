//! Numbers, bool, char and tuples.

use super::{align_up, larger, Arena, Flat, Layout, Lift, Lower};

macro_rules! number {
    ($($type:ty, $size:literal, |$value:ident| $word:expr;)*) => { $(
        impl Layout for $type {
            const SIZE: usize = $size;
            const ALIGN: usize = $size;
            const FLAT: usize = 1;
            const PLAIN: bool = true;
        }
        impl Lower for $type {
            #[inline]
            fn flatten(&self, flat: &mut Flat, _: &mut Arena) {
                let $value = *self;
                flat.push($word);
            }
            #[inline]
            unsafe fn store(&self, at: *mut u8, _: &mut Arena) {
                *at.cast::<$type>() = *self;
            }
        }
        impl Lift for $type {
            #[inline]
            unsafe fn load(at: *const u8) -> Self {
                *at.cast::<$type>()
            }
        }
    )* };
}

number! {
    u8, 1, |value| value as u64;
    i8, 1, |value| value as i32 as u32 as u64;
    u16, 2, |value| value as u64;
    i16, 2, |value| value as i32 as u32 as u64;
    u32, 4, |value| value as u64;
    i32, 4, |value| value as u32 as u64;
    u64, 8, |value| value;
    i64, 8, |value| value as u64;
    f32, 4, |value| value.to_bits() as u64;
    f64, 8, |value| value.to_bits();
}

impl Layout for bool {
    const SIZE: usize = 1;
    const ALIGN: usize = 1;
    const FLAT: usize = 1;
}

impl Lower for bool {
    fn flatten(&self, flat: &mut Flat, _: &mut Arena) {
        flat.push(*self as u64);
    }
    unsafe fn store(&self, at: *mut u8, _: &mut Arena) {
        *at = *self as u8;
    }
}

impl Lift for bool {
    unsafe fn load(at: *const u8) -> Self {
        *at != 0
    }
}

impl Layout for char {
    const SIZE: usize = 4;
    const ALIGN: usize = 4;
    const FLAT: usize = 1;
}

impl Lower for char {
    fn flatten(&self, flat: &mut Flat, _: &mut Arena) {
        flat.push(*self as u64);
    }
    unsafe fn store(&self, at: *mut u8, _: &mut Arena) {
        *at.cast::<u32>() = *self as u32;
    }
}

impl Lift for char {
    unsafe fn load(at: *const u8) -> Self {
        char::from_u32(*at.cast::<u32>()).expect("the host passed a number that is no character")
    }
}

/// The payload of a result's case without one.
impl Layout for () {
    const SIZE: usize = 0;
    const ALIGN: usize = 1;
    const FLAT: usize = 0;
}

impl Lower for () {
    fn flatten(&self, _: &mut Flat, _: &mut Arena) {}
    unsafe fn store(&self, _: *mut u8, _: &mut Arena) {}
}

impl Lift for () {
    unsafe fn load(_: *const u8) -> Self {}
}

macro_rules! tuple {
    ($($type:ident $index:tt),*) => {
        impl<$($type: Layout),*> Layout for ($($type,)*) {
            const ALIGN: usize = {
                let align = 1;
                $(let align = larger(align, $type::ALIGN);)*
                align
            };
            const SIZE: usize = {
                let end = 0;
                $(let end = align_up(end, $type::ALIGN) + $type::SIZE;)*
                align_up(end, Self::ALIGN)
            };
            const FLAT: usize = 0 $(+ $type::FLAT)*;
        }
        impl<$($type: Lower),*> Lower for ($($type,)*) {
            #[inline]
            fn flatten(&self, flat: &mut Flat, arena: &mut Arena) {
                $(self.$index.flatten(flat, arena);)*
            }
            #[inline]
            unsafe fn store(&self, at: *mut u8, arena: &mut Arena) {
                let offset = 0;
                $(
                    let offset = align_up(offset, $type::ALIGN);
                    self.$index.store(at.add(offset), arena);
                    let offset = offset + $type::SIZE;
                )*
                let _ = offset;
            }
        }
        impl<$($type: Lift),*> Lift for ($($type,)*) {
            unsafe fn load(at: *const u8) -> Self {
                let mut end = 0;
                let value = ($({
                    let offset = align_up(end, $type::ALIGN);
                    end = offset + $type::SIZE;
                    $type::load(at.add(offset))
                },)*);
                let _ = end;
                value
            }
        }
    };
}

tuple!(A 0);
tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);
tuple!(A 0, B 1, C 2, D 3);
tuple!(A 0, B 1, C 2, D 3, E 4);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11, M 12);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11, M 12, N 13);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11, M 12, N 13, O 14);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11, M 12, N 13, O 14, P 15);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11, M 12, N 13, O 14, P 15, Q 16);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11, M 12, N 13, O 14, P 15, Q 16, R 17);
