//! What inferlets are written with in Rust.
//!
//! ```ignore
//! use inferlet::{json::Value, session, Result};
//!
//! inferlet::main!(main);
//!
//! async fn main(input: Value) -> Result<Value> {
//!     session::send("hello", session::OnFull::Wait)?;
//!     Ok(input)
//! }
//! ```
//!
//! The modules named after interfaces (`session`, `context`, `forward`, ...) are generated from the WIT world: each
//! function is a call to the host. [`wait::Waitable`] makes their futures awaitable; [`json`] is for input and result.

// Which parts are used depends on the types of the WIT.
#[allow(dead_code, unused_macros)]
#[macro_use]
mod abi;
pub mod base64;
mod bindings;
mod defaults;
mod entry;
mod errors;
pub mod json;
pub mod output;
pub mod wait;

pub use bindings::*;
pub use types::Error;
pub use wait::{block_on, join_all, sleep, Waitable};

#[doc(hidden)]
pub use entry::run;

/// Of `main` and whatever it calls: any error ends the program and is shown to the client.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Makes an async function the program: `inferlet::main!(main);`.
///
/// It takes the launch input as a [`json::Value`] and returns a [`Result`] of anything that converts into one.
#[macro_export]
macro_rules! main {
    ($main:path) => {
        #[doc(hidden)]
        #[export_name = "run"]
        pub unsafe extern "C" fn __pie_run(at: *mut u8, length: usize) -> *mut u8 {
            $crate::run(at, length, $main)
        }
    };
}
