//! What the program prints: `inferlet::println!` and `inferlet::eprintln!`, since a component has no files.

/// Like `std::println!`, as an event of the process.
#[macro_export]
macro_rules! println {
    () => { $crate::log::stdout("\n") };
    ($($part:tt)*) => { $crate::log::stdout(&(format!($($part)*) + "\n")) };
}

/// Like `std::eprintln!`, as an event of the process.
#[macro_export]
macro_rules! eprintln {
    () => { $crate::log::stderr("\n") };
    ($($part:tt)*) => { $crate::log::stderr(&(format!($($part)*) + "\n")) };
}
