//! Option and result.

use super::{align_up, larger, Arena, Flat, Layout, Lift, Lower};

impl<T: Layout> Layout for Option<T> {
    const ALIGN: usize = T::ALIGN;
    const SIZE: usize = align_up(align_up(1, T::ALIGN) + T::SIZE, T::ALIGN);
    const FLAT: usize = 1 + T::FLAT;
}

impl<T: Lower> Lower for Option<T> {
    fn flatten(&self, flat: &mut Flat, arena: &mut Arena) {
        let end = flat.length() + Self::FLAT;
        flat.push(self.is_some() as u64);
        if let Some(value) = self {
            value.flatten(flat, arena);
        }
        flat.pad(end);
    }
    unsafe fn store(&self, at: *mut u8, arena: &mut Arena) {
        *at = self.is_some() as u8;
        if let Some(value) = self {
            value.store(at.add(align_up(1, T::ALIGN)), arena);
        }
    }
}

impl<T: Lift> Lift for Option<T> {
    unsafe fn load(at: *const u8) -> Self {
        match *at {
            0 => None,
            _ => Some(T::load(at.add(align_up(1, T::ALIGN)))),
        }
    }
}

impl<T: Layout, E: Layout> Layout for Result<T, E> {
    const ALIGN: usize = larger(T::ALIGN, E::ALIGN);
    const SIZE: usize = align_up(align_up(1, Self::ALIGN) + larger(T::SIZE, E::SIZE), Self::ALIGN);
    const FLAT: usize = 1 + larger(T::FLAT, E::FLAT);
}

impl<T: Lower, E: Lower> Lower for Result<T, E> {
    fn flatten(&self, flat: &mut Flat, arena: &mut Arena) {
        let end = flat.length() + Self::FLAT;
        flat.push(self.is_err() as u64);
        match self {
            Ok(value) => value.flatten(flat, arena),
            Err(error) => error.flatten(flat, arena),
        }
        flat.pad(end);
    }
    unsafe fn store(&self, at: *mut u8, arena: &mut Arena) {
        *at = self.is_err() as u8;
        let payload = at.add(align_up(1, Self::ALIGN));
        match self {
            Ok(value) => value.store(payload, arena),
            Err(error) => error.store(payload, arena),
        }
    }
}

impl<T: Lift, E: Lift> Lift for Result<T, E> {
    unsafe fn load(at: *const u8) -> Self {
        let payload = at.add(align_up(1, Self::ALIGN));
        match *at {
            0 => Ok(T::load(payload)),
            _ => Err(E::load(payload)),
        }
    }
}
