//! The macros that the generated bindings are made of: records, variants, enums, flags and resources.

/// `record!(Name { field: Type, ... })` implements the ABI of a struct, by value and by reference.
macro_rules! record {
    ($name:ident { $($field:ident: $type:ty),* }) => {
        impl abi::Layout for $name {
            const ALIGN: usize = {
                let align = 1;
                $(let align = abi::larger(align, <$type as abi::Layout>::ALIGN);)*
                align
            };
            const SIZE: usize = {
                let end = 0;
                $(let end = abi::align_up(end, <$type as abi::Layout>::ALIGN) + <$type as abi::Layout>::SIZE;)*
                abi::align_up(end, <$name as abi::Layout>::ALIGN)
            };
            const FLAT: usize = 0 $(+ <$type as abi::Layout>::FLAT)*;
        }
        impl abi::Lower for $name {
            fn flatten(&self, flat: &mut abi::Flat, arena: &mut abi::Arena) {
                $(abi::Lower::flatten(&self.$field, flat, arena);)*
            }
            unsafe fn store(&self, at: *mut u8, arena: &mut abi::Arena) {
                let offset = 0;
                $(
                    let offset = abi::align_up(offset, <$type as abi::Layout>::ALIGN);
                    abi::Lower::store(&self.$field, at.add(offset), arena);
                    let offset = offset + <$type as abi::Layout>::SIZE;
                )*
                let _ = offset;
            }
        }
        impl abi::Lift for $name {
            unsafe fn load(at: *const u8) -> Self {
                let offset = 0;
                $(
                    let offset = abi::align_up(offset, <$type as abi::Layout>::ALIGN);
                    let $field = <$type as abi::Lift>::load(at.add(offset));
                    let offset = offset + <$type as abi::Layout>::SIZE;
                )*
                let _ = offset;
                $name { $($field),* }
            }
        }
        by_reference!($name);
    };
}

/// `variant!(Name, DiscriminantType, { 0 => Case(Type), 1 => Other, ... })` implements the ABI of an enum with payloads.
macro_rules! variant {
    ($name:ident, $tag:ty, { $($index:literal => $case:ident $(($type:ty))?),* }) => {
        impl $name {
            const PAYLOAD: usize = abi::align_up(<$tag as abi::Layout>::SIZE, <$name as abi::Layout>::ALIGN);
        }
        impl abi::Layout for $name {
            const ALIGN: usize = {
                let align = <$tag as abi::Layout>::ALIGN;
                $($(let align = abi::larger(align, <$type as abi::Layout>::ALIGN);)?)*
                align
            };
            const SIZE: usize = {
                let size = 0;
                $($(let size = abi::larger(size, <$type as abi::Layout>::SIZE);)?)*
                abi::align_up($name::PAYLOAD + size, <$name as abi::Layout>::ALIGN)
            };
            const FLAT: usize = {
                let flat = 0;
                $($(let flat = abi::larger(flat, <$type as abi::Layout>::FLAT);)?)*
                1 + flat
            };
        }
        impl abi::Lower for $name {
            fn flatten(&self, flat: &mut abi::Flat, arena: &mut abi::Arena) {
                let end = flat.length() + <$name as abi::Layout>::FLAT;
                let _ = &arena;
                match self {
                    $(case!($name, $case, value $(, $type)?) => {
                        flat.push($index);
                        $(<$type as abi::Lower>::flatten(value, flat, arena);)?
                    })*
                }
                flat.pad(end);
            }
            unsafe fn store(&self, at: *mut u8, arena: &mut abi::Arena) {
                let _ = &arena;
                match self {
                    $(case!($name, $case, value $(, $type)?) => {
                        *at.cast::<$tag>() = $index;
                        $(<$type as abi::Lower>::store(value, at.add($name::PAYLOAD), arena);)?
                    })*
                }
            }
        }
        impl abi::Lift for $name {
            unsafe fn load(at: *const u8) -> Self {
                match *at.cast::<$tag>() {
                    $($index => $name::$case $((<$type as abi::Lift>::load(at.add($name::PAYLOAD))))?,)*
                    _ => unreachable!("the host passed a case that does not exist"),
                }
            }
        }
        by_reference!($name);
    };
}

/// The pattern of a variant's case.
macro_rules! case {
    ($name:ident, $case:ident, $value:ident, $type:ty) => { $name::$case($value) };
    ($name:ident, $case:ident, $value:ident) => { $name::$case };
}

/// `enumeration!(Name, DiscriminantType, { 0 => Case, ... })` implements the ABI of an enum without payloads.
macro_rules! enumeration {
    ($name:ident, $tag:ty, { $($index:literal => $case:ident),* }) => {
        impl abi::Layout for $name {
            const SIZE: usize = <$tag as abi::Layout>::SIZE;
            const ALIGN: usize = <$tag as abi::Layout>::ALIGN;
            const FLAT: usize = 1;
        }
        impl abi::Lower for $name {
            fn flatten(&self, flat: &mut abi::Flat, _: &mut abi::Arena) {
                flat.push(*self as u64);
            }
            unsafe fn store(&self, at: *mut u8, _: &mut abi::Arena) {
                *at.cast::<$tag>() = *self as $tag;
            }
        }
        impl abi::Lift for $name {
            unsafe fn load(at: *const u8) -> Self {
                match *at.cast::<$tag>() {
                    $($index => $name::$case,)*
                    _ => unreachable!("the host passed a case that does not exist"),
                }
            }
        }
    };
}

/// `flags!(Name, Type, { 1 => FLAG, ... })` implements a set of flags in an integer, and its ABI.
macro_rules! flags {
    ($name:ident, $bits:ty, { $($index:literal => $flag:ident),* }) => {
        impl $name {
            $(pub const $flag: $name = $name(1 << $index);)*

            pub fn contains(self, other: $name) -> bool {
                self.0 & other.0 == other.0
            }
        }
        impl std::ops::BitOr for $name {
            type Output = $name;
            fn bitor(self, other: $name) -> $name {
                $name(self.0 | other.0)
            }
        }
        impl abi::Layout for $name {
            const SIZE: usize = <$bits as abi::Layout>::SIZE;
            const ALIGN: usize = <$bits as abi::Layout>::ALIGN;
            const FLAT: usize = 1;
        }
        impl abi::Lower for $name {
            fn flatten(&self, flat: &mut abi::Flat, _: &mut abi::Arena) {
                flat.push(self.0 as u64);
            }
            unsafe fn store(&self, at: *mut u8, _: &mut abi::Arena) {
                *at.cast::<$bits>() = self.0;
            }
        }
        impl abi::Lift for $name {
            unsafe fn load(at: *const u8) -> Self {
                $name(*at.cast::<$bits>())
            }
        }
    };
}

/// `resource!(Name, "module", "[resource-drop]name")` implements a struct with the field `handle: Cell<u32>`: the value
/// owns what the host's handle stands for, a reference borrows it. The handle is 0 once the host has taken it.
macro_rules! resource {
    ($name:ident, $module:literal, $drop:literal) => {
        impl Drop for $name {
            fn drop(&mut self) {
                #[link(wasm_import_module = $module)]
                extern "C" {
                    #[link_name = $drop]
                    fn import(handle: i32);
                }
                match self.handle.get() {
                    0 => (),
                    handle => unsafe { import(handle as i32) },
                }
            }
        }
        impl abi::Layout for $name {
            const SIZE: usize = 4;
            const ALIGN: usize = 4;
            const FLAT: usize = 1;
        }
        impl abi::Lower for $name {
            fn flatten(&self, flat: &mut abi::Flat, _: &mut abi::Arena) {
                flat.push(self.handle.replace(0) as u64);
            }
            unsafe fn store(&self, at: *mut u8, _: &mut abi::Arena) {
                *at.cast::<u32>() = self.handle.replace(0);
            }
        }
        impl abi::Lift for $name {
            unsafe fn load(at: *const u8) -> Self {
                $name { handle: std::cell::Cell::new(*at.cast::<u32>()) }
            }
        }
        impl<'a> abi::Layout for &'a $name {
            const SIZE: usize = 4;
            const ALIGN: usize = 4;
            const FLAT: usize = 1;
        }
        impl<'a> abi::Lower for &'a $name {
            fn flatten(&self, flat: &mut abi::Flat, _: &mut abi::Arena) {
                flat.push(self.handle.get() as u64);
            }
            unsafe fn store(&self, at: *mut u8, _: &mut abi::Arena) {
                *at.cast::<u32>() = self.handle.get();
            }
        }
    };
}

/// `returned!(Type, |memory| call)` gives a call memory for its result, and reads it.
macro_rules! returned {
    ($type:ty, |$memory:ident| $call:expr) => {{
        let mut words = [0u64; abi::words(<$type as abi::Layout>::SIZE)];
        let $memory = words.as_mut_ptr().cast::<u8>();
        $call;
        <$type as abi::Lift>::load(words.as_ptr().cast())
    }};
}

/// A reference is passed as what it refers to.
macro_rules! by_reference {
    ($name:ident) => {
        impl<'a> abi::Layout for &'a $name {
            const SIZE: usize = <$name as abi::Layout>::SIZE;
            const ALIGN: usize = <$name as abi::Layout>::ALIGN;
            const FLAT: usize = <$name as abi::Layout>::FLAT;
        }
        impl<'a> abi::Lower for &'a $name {
            fn flatten(&self, flat: &mut abi::Flat, arena: &mut abi::Arena) {
                abi::Lower::flatten(*self, flat, arena);
            }
            unsafe fn store(&self, at: *mut u8, arena: &mut abi::Arena) {
                abi::Lower::store(*self, at, arena);
            }
        }
    };
}
